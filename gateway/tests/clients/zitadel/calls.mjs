// Every call of ZITADEL's own client, over gRPC and gRPC-web, against a running gateway.
//
// BUGLER_URL      where it listens, http://127.0.0.1:…
// BUGLER_TOKEN    a token of organization 101, the first one of the directory beside this file
// BUGLER_FOREIGN  a token of organization 201
import assert from "node:assert/strict";
import { createAdminServiceClient, createManagementServiceClient } from "@zitadel/client/v1";
import { createServerTransport } from "@zitadel/client/node";
import { createClientTransport } from "@zitadel/client/web";
import { createGrpcWebTransport } from "@connectrpc/connect-node";
import { ErrorDetailSchema } from "@zitadel/proto/zitadel/message_pb.js";
import { OrgState } from "@zitadel/proto/zitadel/org_pb.js";

const { BUGLER_URL: baseUrl, BUGLER_TOKEN: token, BUGLER_FOREIGN: foreign } = process.env;
assert.ok(baseUrl && token && foreign, "BUGLER_URL, BUGLER_TOKEN and BUGLER_FOREIGN must be set");

const NUMBER = "69629023906488334";
const CHILD = "69629023906488335";
const FOREIGN = "69629023906488336";
const ABSENT = "69629023906488337";
const USER = "101";

const bearer = (next) => (request) => {
  request.header.set("authorization", `Bearer ${token}`);
  return next(request);
};
const transports = {
  "gRPC": (token) => createServerTransport(token, { baseUrl }),
  "gRPC-web by fetch": (token) => createClientTransport(token, { baseUrl }),
  "gRPC-web over HTTP/1.1": (token) =>
    createGrpcWebTransport({
      baseUrl,
      httpVersion: "1.1",
      interceptors: [(next) => (request) => {
        request.header.set("authorization", `Bearer ${token}`);
        return next(request);
      }],
    }),
  "gRPC-web over HTTP/2": () =>
    createGrpcWebTransport({ baseUrl, httpVersion: "2", interceptors: [bearer] }),
};

/// The call must fail with this code and, if one is given, with this id in message and detail.
async function refused(call, code, id) {
  const error = await call.then(
    (answer) => assert.fail(`answered ${JSON.stringify(answer, (_, v) => typeof v === "bigint" ? `${v}` : v)}`),
    (error) => error,
  );
  assert.equal(error.code, code, `${error}`);
  const details = error.findDetails(ErrorDetailSchema);
  assert.deepEqual(details.map((detail) => detail.id), id ? [id] : []);
  if (id) {
    assert.equal(error.rawMessage, `${details[0].message} (${id})`);
  }
}

function changed(answer, owner = NUMBER) {
  const { sequence, creationDate, changeDate, resourceOwner } = answer.details;
  assert.equal(resourceOwner, owner);
  assert.ok(creationDate.seconds > 1_700_000_000n && changeDate.seconds >= creationDate.seconds);
  return sequence;
}

async function policies(management) {
  const inChild = { headers: { "x-zitadel-orgid": CHILD } };
  const { policy: before } = await management.getNotificationPolicy({});
  assert.deepEqual([before.isDefault, before.passwordChange], [true, true]);
  await refused(management.updateCustomNotificationPolicy({ passwordChange: true }), 5, "ORG-x029n3");
  await refused(management.resetNotificationPolicyToDefault({}), 5, "ORG-x029n1s");

  const added = changed(await management.addCustomNotificationPolicy({ passwordChange: true }));
  await refused(management.addCustomNotificationPolicy({}), 6, "Org-xa08n2");
  await refused(management.updateCustomNotificationPolicy({ passwordChange: true }), 9, "Org-ioqnxz");
  const updated = changed(await management.updateCustomNotificationPolicy({}));
  assert.equal(updated, added + 1n);
  const { policy } = await management.getNotificationPolicy({});
  assert.deepEqual([policy.isDefault, policy.passwordChange], [false, false]);
  assert.equal(changed(policy), updated);
  const { policy: child } = await management.getNotificationPolicy({}, inChild);
  assert.equal(child.isDefault, true, "a policy is of one organization");
  changed(await management.addCustomNotificationPolicy({ passwordChange: true }, inChild), CHILD);
  changed(await management.resetNotificationPolicyToDefault({}, inChild), CHILD);
  assert.equal(changed(await management.resetNotificationPolicyToDefault({})), updated + 1n);
  assert.equal((await management.getNotificationPolicy({})).policy.isDefault, true);
  assert.equal((await management.getDefaultNotificationPolicy({})).policy.passwordChange, true);
}

async function texts(management) {
  const language = "de";
  const { customText: built } = await management.getDefaultPasswordChangeMessageText({ language });
  assert.ok(built.isDefault && built.greeting.includes("{{.DisplayName}}"));
  await refused(
    management.resetCustomPasswordChangeMessageTextToDefault({ language }), 5, "Org-3b8Jf");
  const words = { title: "Titel", preHeader: "Vorspann", subject: "Betreff", greeting: "Hallo",
    text: "Text", buttonText: "Knopf", footerText: "Fuß" };
  const set = changed(
    await management.setCustomPasswordChangeMessageCustomText({ language, ...words }));
  const { customText } = await management.getCustomPasswordChangeMessageText({ language });
  for (const [name, text] of Object.entries(words)) assert.equal(customText[name], text);
  assert.equal(customText.isDefault, false);
  assert.equal(changed(customText), set);
  changed(await management.resetCustomPasswordChangeMessageTextToDefault({ language }));
  const { customText: unknown } =
    await management.getCustomPasswordChangeMessageText({ language: "tlh" });
  assert.equal(unknown.isDefault, true);
  await refused(
    management.setCustomPasswordChangeMessageCustomText({ language: "tlh", text: "x" }), 3, "LANG-lg4DP");
  await refused(management.getCustomPasswordChangeMessageText({ language: "" }), 3);
}

async function administration(admin, management) {
  await admin.healthz({});
  const { policy: before } = await admin.getNotificationPolicy({});
  assert.deepEqual([before.isDefault, before.passwordChange], [true, true]);
  // Only the first of these calls on a server adds a policy; afterwards there is one.
  await admin.addNotificationPolicy({ passwordChange: true }).catch((error) => {
    assert.equal(error.code, 6, `${error}`);
  });
  await refused(admin.addNotificationPolicy({}), 6, "INSTANCE-xpo1bj");
  await refused(admin.updateNotificationPolicy({ passwordChange: true }), 9, "INSTANCE-29x02n");
  changed(await admin.updateNotificationPolicy({}));
  assert.equal((await management.getNotificationPolicy({})).policy.passwordChange, false);
  changed(await admin.updateNotificationPolicy({ passwordChange: true }));
}

async function passwords(management) {
  const password = `correct horse ${Math.random()} battery`;
  changed(await management.setHumanPassword({ userId: USER, password }));
  await refused(management.setHumanPassword({ userId: USER, password: "short" }), 3, "DOMAIN-HuJf6");
  for (const userId of ["201", "999", "nobody"]) {
    await refused(management.setHumanPassword({ userId, password }), 5, "COMMAND-G8dh3");
  }
}

async function callers(transport) {
  const other = createManagementServiceClient(transport(foreign));
  const own = createManagementServiceClient(transport(token));
  for (const number of [FOREIGN, ABSENT, "acme", "101"]) {
    const headers = { "x-zitadel-orgid": number };
    await refused(own.getNotificationPolicy({}, { headers }), 7, "AUTH-Bs7Ds");
  }
  const inOurs = { headers: { "x-zitadel-orgid": NUMBER } };
  await refused(other.getNotificationPolicy({}, inOurs), 7, "AUTH-Bs7Ds");
  await refused(createAdminServiceClient(transport(foreign)).getNotificationPolicy({}), 7, "AUTH-5mWD2");
  await refused(
    createManagementServiceClient(transport("not-a-token")).getNotificationPolicy({}), 16, "AUTH-7fs1e");
  // A call of the descriptors that is not served.
  await refused(own.getIAM({}), 12);
}

for (const [name, transport] of Object.entries(transports)) {
  const management = createManagementServiceClient(transport(token));
  await management.healthz({});
  const { org } = await management.getMyOrg({});
  assert.deepEqual([org.id, org.name, org.state], [NUMBER, "Acme Corp", OrgState.ACTIVE]);
  await policies(management);
  await texts(management);
  await administration(createAdminServiceClient(transport(token)), management);
  await passwords(management);
  if (name !== "gRPC-web over HTTP/2") await callers(transport);
  console.log(`${name}: every call answered as it should`);
}
// Open HTTP/2 sessions would keep the process.
process.exit(0);
