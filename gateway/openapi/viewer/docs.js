// Shows the OpenAPI document this listener serves. Builds elements and texts, never markup, so
// nothing in the document can run.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const NESTED_MAX = 6;
const PATTERN_SHOWN_MAX = 120;
let whole = {};

/** An element with its attributes and children; texts become text nodes. */
function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** What `$ref` points to, with what stands beside it. */
function resolve(value) {
  if (!value || typeof value.$ref !== "string") return value;
  let found = whole;
  for (const part of value.$ref.slice(2).split("/")) {
    found = found?.[part.replaceAll("~1", "/").replaceAll("~0", "~")];
  }
  const { $ref, ...beside } = value;
  return { ...resolve(found), ...beside };
}

/** Text with its `code` parts and paragraphs. */
function prose(text, name = "p") {
  return (text ?? "").split("\n\n").filter(Boolean).map((paragraph) => {
    const parts = paragraph.split("`");
    return make(name, {}, parts.map((part, at) => (at % 2 ? make("code", {}, part) : part)));
  });
}

function typeOf(schema) {
  if (schema === false) return "not allowed";
  if (schema === true || schema === undefined) return "anything";
  if ("const" in schema) return JSON.stringify(schema.const);
  const types = [schema.type ?? []].flat();
  let text = types.join(" or ");
  if (types.includes("array") && schema.items) text = text.replace("array", `array of ${typeOf(resolve(schema.items))}`);
  if (schema.format) text += ` (${schema.format})`;
  if (!text && schema.anyOf) text = schema.anyOf.map((one) => typeOf(resolve(one))).join(" or ");
  return text || "anything";
}

/** The limits of a schema, as short texts. */
function limits(schema) {
  if (typeof schema !== "object") return [];
  const found = [];
  const say = (key, text) => {
    if (schema[key] !== undefined) found.push(`${text} ${schema[key]}`);
  };
  say("minLength", "at least characters:");
  say("maxLength", "at most characters:");
  say("minimum", "≥");
  say("maximum", "≤");
  say("minItems", "at least items:");
  say("maxItems", "at most items:");
  if (schema.default !== undefined) found.push(`default ${JSON.stringify(schema.default)}`);
  if (schema.enum) {
    const shown = schema.enum.slice(0, 30).map((value) => JSON.stringify(value)).join(", ");
    found.push(schema.enum.length > 30 ? `one of ${schema.enum.length}: ${shown}, …` : `one of ${shown}`);
  }
  if (schema.pattern && schema.pattern.length <= PATTERN_SHOWN_MAX) found.push(`pattern ${schema.pattern}`);
  if (schema.additionalProperties === false) found.push("no other members");
  return found;
}

/** The members of a schema, as a table; `depth` guards against schemas that hold themselves. */
function members(schema, depth = 0) {
  schema = resolve(schema);
  if (typeof schema !== "object" || depth > NESTED_MAX) return null;
  const inner = schema.properties ? schema : resolve(schema.items);
  if (!inner?.properties) return null;
  const rows = Object.entries(inner.properties).map(([name, member]) => {
    const at = resolve(member);
    const must = inner.required?.includes(name);
    const notes = limits(at);
    return make("tr", {},
      make("td", {}, make("code", {}, name), must ? make("span", { class: "must" }, " required") : null),
      make("td", {}, typeOf(at)),
      make("td", {}, prose(at.description, "div"),
        notes.length ? make("div", { class: "soft" }, notes.join("; ")) : null,
        nested(at, depth + 1)));
  });
  return make("table", {},
    make("thead", {}, make("tr", {}, ["Member", "Type", "Meaning and limits"].map((title) => make("th", { scope: "col" }, title)))),
    make("tbody", {}, rows));
}

function nested(schema, depth) {
  const table = members(schema, depth);
  return table && make("details", { class: "nested" }, make("summary", {}, "members"), table);
}

function examples(media) {
  const named = Object.entries(media.examples ?? {}).map(([name, example]) => [name, resolve(example).value]);
  if (media.example !== undefined) named.push(["example", media.example]);
  return named;
}

function show(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function shapes(content) {
  return Object.entries(content ?? {}).map(([type, media]) => {
    const schema = resolve(media.schema);
    const notes = limits(schema);
    return make("div", {},
      make("p", { class: "soft" }, type, notes.length ? `; ${notes.join("; ")}` : ""),
      prose(schema?.description),
      members(schema),
      examples(media).map(([name, value]) =>
        make("details", {}, make("summary", {}, `Example: ${name}`), make("pre", { tabindex: "0" }, show(value)))));
  });
}

/** The first example of a parameter, or its name in braces. */
function sample(parameter) {
  const schema = resolve(parameter.schema) ?? {};
  const value = parameter.example ?? schema.examples?.[0] ?? schema.default;
  return value === undefined ? `{${parameter.name}}` : String(value);
}

function quoted(text) {
  return `'${String(text).replaceAll("'", "'\\''")}'`;
}

/** A command line that calls the operation with its first example. */
function curl({ path, method, operation, parameters }) {
  const origin = document.getElementById("origin").value || document.body.dataset.origin;
  let target = path;
  const query = [];
  for (const parameter of parameters) {
    const value = sample(parameter);
    if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(value));
    if (parameter.in === "query" && parameter.required) query.push(`${parameter.name}=${encodeURIComponent(value)}`);
  }
  const lines = [`curl -i -X ${method.toUpperCase()} ${quoted(origin + target + (query.length ? `?${query.join("&")}` : ""))}`];
  const schemes = operation.security?.[0] ?? {};
  if ("bearer" in schemes) lines.push('-H "Authorization: Bearer $TOKEN"');
  if ("client" in schemes) lines.push('-u "$CLIENT_ID:$CLIENT_SECRET"');
  const [type, media] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  if (type) {
    const value = examples(media)[0]?.[1];
    if (type === "application/x-www-form-urlencoded") {
      for (const [name, field] of Object.entries(value ?? {})) lines.push(`--data-urlencode ${quoted(`${name}=${field}`)}`);
    } else {
      lines.push(`-H ${quoted(`Content-Type: ${operation.requestBody["x-bugler-media-type"] ?? type}`)}`);
      lines.push(`--data-binary ${quoted(typeof value === "string" ? value : JSON.stringify(value ?? {}))}`);
    }
  }
  return lines.join(" \\\n  ");
}

function parameterTable(parameters) {
  if (!parameters.length) return null;
  const rows = parameters.map((parameter) => {
    const schema = resolve(parameter.schema);
    const notes = limits(schema);
    return make("tr", {},
      make("td", {}, make("code", {}, parameter.name), parameter.required ? make("span", { class: "must" }, " required") : null),
      make("td", {}, parameter.in),
      make("td", {}, typeOf(schema)),
      make("td", {}, prose(parameter.description, "div"), notes.length ? make("div", { class: "soft" }, notes.join("; ")) : null));
  });
  return [make("h4", {}, "Parameters"), make("table", {},
    make("thead", {}, make("tr", {}, ["Name", "In", "Type", "Meaning and limits"].map((title) => make("th", { scope: "col" }, title)))),
    make("tbody", {}, rows))];
}

function responses(operation) {
  const items = Object.entries(operation.responses ?? {}).map(([status, response]) => {
    const at = resolve(response);
    const headers = Object.entries(at.headers ?? {}).map(([name, header]) =>
      make("li", {}, make("code", {}, name), `: ${resolve(header).description ?? ""}`));
    return make("details", status.startsWith("2") ? { open: "" } : {},
      make("summary", {}, make("strong", {}, status), ` ${at.description ?? ""}`),
      make("div", { class: "nested" }, headers.length ? make("ul", { class: "soft" }, headers) : null, shapes(at.content)));
  });
  return [make("h4", {}, "Answers"), items];
}

function access(operation) {
  const kinds = (operation.security ?? []).map((one) => Object.keys(one).join(" and ") || "nothing");
  const rights = operation["x-bugler-permissions"] ?? [operation["x-bugler-permission"]].filter(Boolean);
  const parts = [kinds.length ? `Credentials: ${kinds.join(" or ")}` : "Public"];
  if (rights.length) parts.push(`permission ${rights.join(", ")}`);
  if (operation["x-bugler-idempotency-key"]) parts.push("takes Idempotency-Key");
  if (operation["x-bugler-grpc"]) parts.push(`gRPC ${operation["x-bugler-grpc"]}`);
  return make("p", { class: "soft" }, parts.join("; "));
}

function section(entry) {
  const { path, method, operation, parameters } = entry;
  const command = make("pre", { tabindex: "0" }, curl(entry));
  const copy = make("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    // Only secure contexts have a clipboard; selecting the text works everywhere.
    try {
      await navigator.clipboard.writeText(command.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command);
    }
  });
  entry.refresh = () => { command.textContent = curl(entry); };
  const aliases = entry.aliases?.length ? make("p", { class: "soft" }, "Also: ", entry.aliases.join(", ")) : null;
  const body = operation.requestBody;
  return make("section", { class: "operation", id: operation.operationId, tabindex: "-1" },
    make("h3", {}, make("span", { class: `method ${method}` }, method.toUpperCase()), make("code", {}, path)),
    make("p", {}, make("strong", {}, operation.summary ?? "")),
    prose(operation.description), aliases, access(operation),
    parameterTable(parameters),
    body ? [make("h4", {}, body.required ? "Body" : "Body (may be left out)"), prose(body.description), shapes(body.content)] : null,
    responses(operation),
    make("h4", {}, "Try it"), command, copy);
}

function entries() {
  const found = [];
  for (const [path, item] of Object.entries(whole.paths)) {
    for (const method of METHODS.filter((method) => item[method])) {
      const operation = item[method];
      const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(resolve);
      found.push({ path, method, operation, parameters, aliases: item["x-bugler-aliases"] });
    }
  }
  return found;
}

function draw() {
  const content = document.getElementById("content");
  const list = document.getElementById("list");
  const known = entries();
  const links = [];
  content.replaceChildren(...prose(whole.info.description));
  for (const tag of whole.tags) {
    const own = known.filter((entry) => entry.operation.tags.includes(tag.name));
    content.append(make("h2", {}, tag.name), ...prose(tag.description), ...own.map(section));
    const items = own.map((entry) => {
      const { method, path, operation } = entry;
      const link = make("a", { href: `#${operation.operationId}`, title: path },
        make("span", { class: `method ${method}` }, method.toUpperCase()), operation.summary ?? path);
      const item = make("li", {}, link);
      links.push({ item, link, text: `${method} ${path} ${operation.operationId} ${operation.summary}`.toLowerCase() });
      return item;
    });
    list.append(make("h2", {}, tag.name), make("ul", {}, items));
  }
  const filter = document.getElementById("filter");
  const narrow = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { item, text } of links) {
      item.hidden = !words.every((word) => text.includes(word));
      count += item.hidden ? 0 : 1;
    }
    document.getElementById("found").textContent = `${count} of ${links.length} operations`;
  };
  filter.addEventListener("input", narrow);
  narrow();
  document.getElementById("origin").addEventListener("input", () => known.forEach((entry) => entry.refresh()));
  const mark = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    for (const { link } of links) {
      if (link.getAttribute("href") === `#${id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    document.getElementById(id)?.focus();
  };
  addEventListener("hashchange", mark);
  if (location.hash) mark();
}

async function start() {
  document.getElementById("origin").value = document.body.dataset.origin;
  try {
    const answer = await fetch("/openapi.json");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    whole = await answer.json();
    document.getElementById("version").textContent = whole.info.version;
    draw();
  } catch (error) {
    document.getElementById("state").textContent = `The document cannot be shown: ${error.message}`;
  }
}

start();
