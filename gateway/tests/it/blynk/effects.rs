//! What changes of users cause: events, mail, devices that move, lines in the audit trail.

use std::collections::BTreeMap;

use bugler_loadtest::twins::{Receipt, ReceivedMail, TwinName};
use serde_json::{Value, json};

use super::{PASSWORD, World};
use crate::support::client::Ask;
use crate::support::eventually;
use crate::support::world::add_hook;

impl World {
    /// The mail for `address`, once the relay took it.
    async fn mail(&self, address: &str) -> ReceivedMail {
        let is_for = |receipt: &Receipt| {
            let mail = receipt.mail.as_ref();
            receipt.succeeded() && mail.and_then(|mail| mail.header("To")) == Some(address)
        };
        let taken = eventually("the relay has the mail", async || {
            self.twins.receipts_since(Some(TwinName::Smtp), 0).into_iter().find(is_for)
        });
        taken.await.mail.expect("receipts of mail hold it")
    }

    async fn accept(&self, token: &str) -> u16 {
        let body = json!({ "token": token, "password": PASSWORD }).to_string();
        let ask = Ask::post("/bugler/v1/invitations/accept").json(body);
        self.gateway.ask(&ask).await.status
    }

    async fn status_of(&self, user: &Value) -> Value {
        self.get(&format!("/user?userId={}", user["id"])).await.json()["status"].clone()
    }
}

/// The token behind the `#` of a mail's link.
fn token_in(mail: &ReceivedMail) -> String {
    let text = mail.text.as_deref().expect("a text part");
    let (_, rest) = text.split_once("https://id.acme.example/welcome#token=").expect("the link");
    rest.split_whitespace().next().expect("a token").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_invited_chooses_a_password_by_the_mails_link() {
    let world = World::new(&["accounts.public_url=https://id.acme.example/welcome"]).await;
    let body = json!({ "email": "new@example.com", "name": "evil.example", "roleId": 3 });
    let invited = world.post("/users/invite", &body).await;
    assert_eq!(invited.status, 201);
    let mail = world.mail("new@example.com").await;
    assert_eq!(mail.header("Subject"), Some("You are invited to Acme Corp"));
    let text = mail.text.clone().expect("a text part");
    assert!(!text.contains("evil.example"), "no link of a caller's: {text}");
    let token = token_in(&mail);
    assert_eq!(invited.header("bugler-invitation-token"), Some(token.as_str()));
    let user = invited.json();
    assert_eq!(world.status_of(&user).await, "Pending");
    assert_eq!(world.accept(&token).await, 200);
    assert_eq!(world.status_of(&user).await, "Active");
    assert_eq!(world.accept(&token).await, 404, "once");
    let log = world.gateway.log().join("\n");
    assert!(!log.contains(&token) && !log.contains("new@example.com"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_registered_gets_an_organization_and_a_link() {
    let world = World::new(&["accounts.public_url=https://id.acme.example/welcome"]).await;
    let body = json!({ "email": "new@example.com", "locale": "de_DE" });
    let registered = world.post("/users/register", &body).await;
    assert_eq!(registered.status, 201);
    let mail = world.mail("new@example.com").await;
    assert_eq!(world.accept(&token_in(&mail)).await, 200);
    let user = registered.json();
    assert_eq!(world.status_of(&user).await, "Active");
    let org = world.get(&format!("?orgId={}", user["orgId"])).await.json();
    assert_eq!(org["name"], "new's organization");
    assert_eq!(org["type"], "PERSONAL");
    // It is the Admin there, and sees nothing above.
    let org = org["id"].as_i64().and_then(|id| i32::try_from(id).ok()).expect("an int32");
    let token = world.home.user_token(org, user["id"].as_i64().expect("an id")).await;
    let get = async |path: &str| {
        let ask = Ask::get(format!("/api/v1/organization{path}")).bearer(&token);
        world.gateway.ask(&ask).await
    };
    assert_eq!(get("/users").await.json()["totalElements"], 1);
    assert_eq!(get("/user?userId=101").await.status, 404);
    assert_eq!(get("?orgId=101").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_told_to_the_organizations_subscriptions_once() {
    let change = |directory: &mut Value, twins: &bugler_loadtest::twins::TwinSet| {
        let url = format!("{}/hooks/accounts", twins.webhook_url());
        let events = ["created", "invited", "registered", "role_changed", "transferred"];
        let events = events.map(|event| format!("user.{event}"));
        let events: Vec<_> = events.iter().map(String::as_str).collect();
        add_hook(directory, "webhook", &url, &events);
    };
    let world = World::with(change, &[]).await;
    let person = json!({ "email": "a@example.com", "password": PASSWORD });
    let mut in_org = json!({ "email": "b@example.com", "password": PASSWORD });
    in_org["orgId"] = 101.into();
    in_org["roleId"] = 3.into();
    let invited = json!({ "email": "c@example.com", "name": "John", "roleId": 3 });
    let moved = json!({ "userId": 103, "targetOrgId": 102, "roleId": 3 });
    for (path, body, status) in [
        ("/users/create", &person, 201),
        ("/users/create", &person, 200),
        ("/users/create-in-org", &in_org, 201),
        ("/users/create-in-org", &in_org, 400),
        ("/users/invite", &invited, 201),
        ("/users/register", &json!({ "email": "d@example.com" }), 201),
        ("/users/transfer", &moved, 200),
        ("/users/transfer", &moved, 400),
    ] {
        assert_eq!(world.post(path, body).await.status, status, "{path}");
    }
    assert_eq!(world.role(102, 2).await.status, 200);
    assert_eq!(world.role(102, 2).await.status, 200, "no change, no event");
    world.gateway.drained().await;
    let receipts = world.twins.receipts_since(Some(TwinName::Webhook), 0);
    let mut events = BTreeMap::new();
    for receipt in receipts {
        let id = receipt.notification.expect("a notification's id");
        let timeline = world.gateway.timeline(&world.token, &id).await;
        let event = timeline["event"].as_str().expect("an event").to_owned();
        *events.entry(event).or_insert(0) += 1;
        assert!(!timeline.to_string().contains("@example.com"), "{timeline:#}");
    }
    let expected = [
        ("user.created", 2),
        ("user.invited", 1),
        ("user.registered", 1),
        ("user.role_changed", 1),
        ("user.transferred", 1),
    ];
    assert_eq!(events, expected.map(|(event, count)| (event.to_owned(), count)).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_belongs_to_who_registered_it_last() {
    let world = World::new(&[]).await;
    let push = async |user: i64| {
        let body = json!({ "userId": user, "title": "t" });
        let reply = world.post("/users/send-push-notification", &body).await;
        assert_eq!(reply.status, 204);
        let timeline = world.gateway.done(&world.token, &reply.id()).await;
        timeline["deliveries"]["delivered"].as_u64().unwrap_or(0)
    };
    let register = async |user: i64, token: &str, platform: &str| {
        let body = json!({ "userId": user, "token": token, "platform": platform });
        world.post("/users/fcm-token/register", &body).await.status
    };
    let hex = crate::support::world::apns_token(7);
    for (token, platform) in [("phone:one", "android"), (hex.as_str(), "ios")] {
        assert_eq!(register(102, token, platform).await, 204);
    }
    assert_eq!(register(102, "phone:one", "android").await, 204, "the same again");
    assert_eq!(push(102).await, 2);
    for (token, platform) in [("phone:one", "android"), (hex.as_str(), "ios")] {
        assert_eq!(register(103, token, platform).await, 204);
    }
    assert_eq!(push(103).await, 2);
    assert_eq!(push(102).await, 0, "the tokens moved");
    let fcm = world.twins.receipts_since(Some(TwinName::Fcm), 0);
    assert_eq!(fcm.iter().filter(|receipt| receipt.target.contains("phone:one")).count(), 2);
}

#[tokio::test]
async fn every_change_leaves_a_line_without_secrets() {
    let world = World::new(&[]).await;
    let person = json!({ "email": "a@example.com", "password": PASSWORD });
    assert_eq!(world.post("/users/create", &person).await.status, 201);
    let invited = json!({ "email": "c@example.com", "name": "John", "roleId": 3 });
    assert_eq!(world.post("/users/invite", &invited).await.status, 201);
    assert_eq!(world.role(102, 2).await.status, 200);
    let device = json!({ "userId": 102, "token": "phone" });
    assert_eq!(world.post("/users/fcm-token/register", &device).await.status, 204);
    let branch = json!({ "name": "Acme Field", "type": "BRANCH" });
    assert_eq!(world.post("/create", &branch).await.status, 201);
    let ask = Ask::get("/bugler/v1/organizations/101/audit").bearer(&world.token);
    let trail = world.gateway.ask(&ask).await;
    assert_eq!(trail.status, 200);
    let text = trail.text();
    for action in
        ["user.create", "user.invite", "user.role", "device.register", "organization.create"]
    {
        assert!(text.contains(action), "{action} is not in {text}");
    }
    for secret in [PASSWORD, "@example.com", "phone\"", "John"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}
