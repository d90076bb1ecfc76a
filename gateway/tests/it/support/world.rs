//! Directories and provider sections: who exists, and where the providers are.

use bugler_loadtest::twins::{TwinOptions, TwinSet};
use serde_json::{Value, json};

use super::client::Ask;
use super::gateway::{Gateway, Home};
use super::rules;

pub(crate) const ACME: &str = "09e431b3-1e59-4c2d-9a35-6a3f4d1b7c55";
pub(crate) const BRANCH: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";
pub(crate) const RIVAL: &str = "9b2f1c80-6f0e-4f39-9a3e-5f2f8d3c7a11";
/// Applivery's form of organization 101.
pub(crate) const ACME_OBJECT: &str = "5f1d7a3b9c4e2d0017a4c900";
pub(crate) const SOLUTION: &str = "0f3f2f0a-6c0e-4d0f-9d51-0b8f4f3c2a10";
pub(crate) const SECRET: &str = "whsec_ZGVtby1zZWNyZXQtZGVtby1zZWNyZXQtMTIzNDU2Nzg=";
/// Every client's secret.
pub(crate) const CLIENT_SECRET: &str = "bgs_5bX0hT3kq8eJw1Zc6nVy2mRd9uGf4sLa7pQo0iEt1xY";
/// Every user's password, and its hash.
pub(crate) const PASSWORD: &str = "wombat-74-teapot";
const PASSWORD_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$O5/foTcqpHLx05sB0JOO4Q$\
                             kjQHtbMrSr1IDJ7m3i0xCb2u2qn3RDSRgfBQDAwigAk";

/// Organizations 101 with 102 below it, and 201 apart; users named after their organization.
pub(crate) fn directory() -> Value {
    json!({
        "organizations": [
            { "id": 101, "name": "Acme Corp", "slug": "acme", "uuid": ACME,
              "objectId": ACME_OBJECT,
              "numeric": "69629023906488334", "tz": "Europe/Kyiv" },
            { "id": 102, "name": "Acme Branch", "parent": 101, "uuid": BRANCH },
            { "id": 201, "name": "Rival", "slug": "rival", "uuid": RIVAL },
        ],
        "users": [
            user(101, 101, 1, "username@jigx.com"),
            user(102, 101, 3, "driver@example.com"),
            user(103, 101, 2, "staff@example.com"),
            { "id": 104, "organization": 101, "role": 1, "status": "suspended",
              "email": "gone@example.com", "name": "Suspended Admin",
              "passwordHash": PASSWORD_HASH },
            { "id": 105, "organization": 101, "role": 3, "status": "pending",
              "email": "invited@example.com", "name": "Invited", "passwordHash": PASSWORD_HASH },
            user(121, 102, 1, "branch@example.com"),
            user(201, 201, 1, "rival@example.com"),
        ],
        "subscriptions": [],
        "clients": [
            client(101, "oa2-client-id_acme", None),
            client(101, "oa2-client-id_viewer", Some(&["ORG_VIEW_USERS", "TRANSFER_USER"])),
            client(102, "oa2-client-id_branch", None),
            client(201, "oa2-client-id_rival", None),
        ],
    })
}

fn user(id: i64, organization: i32, role: i32, email: &str) -> Value {
    let groups: &[&str] = if role == 3 { &["drivers"] } else { &[] };
    json!({
        "id": id, "organization": organization, "role": role, "status": "active",
        "email": email, "name": format!("User {id}"), "passwordHash": PASSWORD_HASH,
        "memberships": [{ "solution": SOLUTION, "groups": groups }],
    })
}

fn client(organization: i32, id: &str, permissions: Option<&[&str]>) -> Value {
    let mut client = json!({
        "organization": organization, "id": id, "name": "backend", "secret": CLIENT_SECRET,
    });
    if let Some(permissions) = permissions {
        client["permissions"] = json!(permissions);
    }
    client
}

/// Gives user `id` of a directory a device.
pub(crate) fn add_device(directory: &mut Value, id: i64, platform: &str, token: &str) {
    let device = json!({ "platform": platform, "app": "main", "token": token });
    let users = directory["users"].as_array_mut().expect("a directory has users");
    let user = users.iter_mut().find(|user| user["id"] == id).expect("the user is there");
    if user["devices"].is_null() {
        user["devices"] = json!([]);
    }
    user["devices"].as_array_mut().expect("an array").push(device);
}

/// Gives organization 101 an outgoing webhook or Slack hook.
pub(crate) fn add_hook(directory: &mut Value, kind: &str, url: &str, events: &[&str]) {
    let mut hook = json!({ "organization": 101, "type": kind, "url": url, "events": events });
    if kind == "webhook" {
        hook["secret"] = SECRET.into();
    }
    directory["subscriptions"].as_array_mut().expect("an array").push(hook);
}

/// The ids of a webhook and a Slack channel of 101 and of a webhook of 201.
pub(crate) const WEBHOOK: &str = "5f1d7a3b9c4e2d0017a4c9b1";
pub(crate) const SLACK: &str = "5f1d7a3b9c4e2d0017a4c9b2";
pub(crate) const RIVAL_WEBHOOK: &str = "5f1d7a3b9c4e2d0017a4c9b3";

/// Adds these three, disabled, so that nothing leaves this machine.
pub(crate) fn add_known_hooks(directory: &mut Value) {
    let url = "https://hooks.example.com/builds";
    let hooks = json!([
        { "organization": 101, "id": WEBHOOK, "type": "webhook", "url": url, "secret": SECRET,
          "description": "Build server", "events": ["order.shipped", "buildCreated"],
          "enabled": false },
        { "organization": 101, "id": SLACK, "type": "slack", "team": "Acme", "channel": "#builds",
          "url": "https://hooks.slack.com/services/T0/B0/hidden", "events": ["*"],
          "enabled": false },
        { "organization": 201, "id": RIVAL_WEBHOOK, "type": "webhook", "url": url,
          "secret": SECRET, "events": ["buildCreated"], "enabled": false },
    ]);
    directory["subscriptions"] = hooks;
}

/// An event of organization 101 with `bytes` of data, at most 65,000.
pub(crate) fn event_of(bytes: usize) -> Ask {
    let filler = "x".repeat(bytes);
    let body = format!(r#"{{"event":"buildCreated","data":{{"f":"{filler}"}}}}"#);
    Ask::post("/bugler/v1/organizations/101/events").json(body)
}

/// An APNs token that is nobody's special case.
pub(crate) fn apns_token(number: u32) -> String {
    format!("ab{number:062x}")
}

/// Twins in this process.
pub(crate) async fn twins() -> TwinSet {
    TwinSet::start(TwinOptions::default()).await.expect("twins start on free ports")
}

/// A home whose providers are `twins`.
pub(crate) fn home(twins: &TwinSet, directory: Value) -> Home {
    let home = Home::new(directory);
    let files = twins.write_credentials(&home.path().join("twins")).expect("they are written");
    let credentials = twins.credentials();
    let ca = files.ca.display();
    let config = format!(
        "[providers.apns.main]\nendpoint = \"{}\"\nteam_id = \"{}\"\nkey_id = \"{}\"\n\
         key_file = \"{}\"\ntopic = \"{}\"\nca_file = \"{ca}\"\n\
         [providers.fcm.main]\nendpoint = \"{}\"\nservice_account_file = \"{}\"\n\
         ca_file = \"{ca}\"\n\
         [providers.slack]\nallow_private = true\nca_file = \"{ca}\"\n\
         [providers.webhook]\nallow_private = true\nca_file = \"{ca}\"\n\
         [providers.email]\nhost = \"127.0.0.1\"\nport = {}\nca_file = \"{ca}\"\n\
         user = \"{}\"\npassword = \"{}\"\nfrom = \"bugler@acme.example\"\n",
        twins.apns_url(),
        credentials.apns_team_id,
        credentials.apns_key_id,
        files.apns_key.display(),
        credentials.apns_topic,
        twins.fcm_url(),
        files.fcm_service_account.display(),
        twins.smtp_address().port(),
        credentials.smtp_user,
        credentials.smtp_password,
    );
    home.with(&config)
        .set("dispatch.retry.push.base=50ms")
        .set("dispatch.retry.push.cap=200ms")
        .set("dispatch.retry.email.schedule=[\"50ms\", \"100ms\", \"100ms\"]")
        .set("dispatch.retry.webhook.schedule=[\"50ms\", \"100ms\", \"100ms\"]")
}

/// A gateway with twins, the changed directory, these settings and more lines of configuration;
/// with it the token of organization 101.
pub(crate) async fn start(
    change: impl FnOnce(&mut Value, &TwinSet),
    settings: &[&str],
    more: &str,
) -> (TwinSet, Home, Gateway, String) {
    let twins = twins().await;
    let mut directory = directory();
    change(&mut directory, &twins);
    let mut home = home(&twins, directory).set("store.segment=4MiB").with(more);
    for setting in settings {
        home = home.set(setting);
    }
    let gateway = home.start().await;
    let token = home.token(101).await;
    (twins, home, gateway, token)
}

/// A `[[rules.chain]]` section with a shipped rule; `rest` is more TOML of it.
pub(crate) fn rule(name: &str, rest: &str) -> String {
    let path = rules::component(name);
    format!(
        "[[rules.chain]]\nname = \"{name}\"\nversion = \"1.2.3\"\npath = \"{}\"\n{rest}\n",
        path.display()
    )
}
