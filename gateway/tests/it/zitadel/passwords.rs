//! A new password tells its user, exactly when the policy says so and once, over every channel.

use bugler_loadtest::twins::{Receipt, TwinName, TwinSet};
use serde_json::{Value, json};

use super::POLICY;
use crate::support::client::{Ask, Reply};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Home};
use crate::support::world::{self, add_device, add_hook, apns_token};

const SET: &str = "/management/v1/users/102/password";
const DEFAULT: &str = "/admin/v1/policies/notification";
const EVENT: &str = "user.password_changed";

/// User 102 with a device, and organization 101 with a webhook that wants the event.
struct World {
    twins: TwinSet,
    home: Home,
    gateway: Gateway,
    token: String,
}

impl World {
    async fn new() -> Self {
        let change = |directory: &mut Value, twins: &TwinSet| {
            add_device(directory, 102, "apns", &apns_token(1));
            let url = format!("{}/hooks/passwords", twins.webhook_url());
            add_hook(directory, "webhook", &url, &[EVENT]);
            twins.register_secret("/hooks/passwords", world::SECRET).expect("a right secret");
        };
        let (twins, home, gateway, token) = world::start(change, &[], "").await;
        Self { twins, home, gateway, token }
    }

    async fn rest(&self, method: &str, path: &str, body: &Value) -> Reply {
        let ask = Ask::new(method, path).bearer(&self.token).json(body.to_string());
        let reply = self.gateway.ask(&ask).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply
    }

    /// Sets a password; the notification it caused, if it caused one.
    async fn set(&self, number: u32) -> Option<String> {
        let body = json!({ "password": format!("correct horse {number} battery") });
        let id = self.rest("POST", SET, &body).await.id();
        (!id.is_empty()).then_some(id)
    }

    async fn done(&self, id: &str) -> Value {
        self.gateway.done(&self.token, id).await
    }

    fn receipts(&self, twin: TwinName) -> Vec<Receipt> {
        self.twins.receipts_since(Some(twin), 0)
    }
}

fn targets(timeline: &Value) -> Vec<String> {
    let events = timeline["timeline"].as_array().expect("events");
    let attempts = events.iter().filter(|event| event["type"] == "attempted");
    let kind = |event: &Value| {
        let target = event["target"].as_str().unwrap_or_default();
        target.split(':').next().unwrap_or_default().to_owned()
    };
    let mut kinds: Vec<_> = attempts.map(kind).collect();
    kinds.sort();
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_is_told_once_over_every_channel() {
    let world = World::new().await;
    let id = world.set(1).await.expect("users are told by default");
    let timeline = world.done(&id).await;
    assert_eq!(
        timeline["deliveries"]["delivered"], timeline["deliveries"]["total"],
        "{timeline:#}"
    );
    let targets = targets(&timeline);
    for channel in ["apns", "email", "webhook"] {
        let count = targets.iter().filter(|target| *target == channel).count();
        assert_eq!(count, 1, "{channel} in {targets:?}");
    }
    let inbox = format!("/v2.0/tool/organizations/101/members/102/notifications/{id}");
    let ask = Ask::get(inbox).bearer(&world.token);
    let entry = eventually("the entry in the inbox", async || {
        let reply = world.gateway.ask(&ask).await;
        (reply.status == 200).then(|| reply.json())
    });
    assert!(entry.await.to_string().contains("Your password was changed"));
    world.gateway.drained().await;
    for twin in [TwinName::Apns, TwinName::Smtp, TwinName::Webhook] {
        assert_eq!(world.receipts(twin).len(), 1, "{twin}");
    }
    assert_eq!(world.gateway.accepted().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_effective_policy_decides_each_time() {
    let world = World::new().await;
    let off = json!({ "passwordChange": false });
    let on = json!({ "passwordChange": true });
    world.rest("POST", POLICY, &off).await;
    assert_eq!(world.set(1).await, None, "the organization does not want it");
    world.rest("PUT", POLICY, &on).await;
    assert!(world.set(2).await.is_some(), "now it does");
    world.rest("PUT", DEFAULT, &off).await;
    assert!(world.set(3).await.is_some(), "its own policy goes before the server's");
    world.rest("DELETE", POLICY, &json!({})).await;
    assert_eq!(world.set(4).await, None, "without one the server's counts");
    world.rest("PUT", DEFAULT, &on).await;
    assert!(world.set(5).await.is_some());
    assert_eq!(world.gateway.accepted().await, 3);
    world.gateway.drained().await;
    assert_eq!(world.receipts(TwinName::Smtp).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_words_are_the_organizations_where_it_has_some() {
    let world = World::new().await;
    let words = json!({ "title": "Neues Passwort", "greeting": "Guten Tag {{.DisplayName}}," });
    world.rest("PUT", "/management/v1/text/message/password_change/en", &words).await;
    let id = world.set(1).await.expect("told");
    world.done(&id).await;
    let receipts = world.receipts(TwinName::Smtp);
    let mail = receipts[0].mail.as_ref().expect("receipts of mail hold it");
    assert_eq!(mail.header("Subject"), Some("Your password was changed"), "no word of its own");
    let text = mail.text.as_ref().expect("a text part");
    assert!(text.contains("Guten Tag User 102,"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_sets_and_tells_once() {
    let world = World::new().await;
    let body = r#"{"password":"correct horse battery staple"}"#;
    let ask = Ask::post(SET).bearer(&world.token).json(body).key("once");
    let first = world.gateway.ask(&ask).await;
    let again = world.gateway.ask(&ask).await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!((first.id(), &first.body), (again.id(), &again.body));
    assert_eq!(world.gateway.accepted().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loses_neither_the_password_nor_its_notice() {
    let world = World::new().await;
    let id = world.set(1).await.expect("told");
    let World { twins, home, gateway, token } = world;
    gateway.kill();
    let gateway = home.start().await;
    let world = World { twins, home, gateway, token };
    let timeline = world.done(&id).await;
    assert_eq!(
        timeline["deliveries"]["delivered"], timeline["deliveries"]["total"],
        "{timeline:#}"
    );
    let get = Ask::get("/management/v1/orgs/me").bearer(&world.token);
    let org = world.gateway.ask(&get).await.json();
    assert_eq!(org["org"]["details"]["sequence"], "1", "the change is there");
    world.gateway.drained().await;
    for twin in [TwinName::Apns, TwinName::Smtp, TwinName::Webhook] {
        let receipts = world.receipts(twin);
        assert!(receipts.iter().any(Receipt::succeeded), "{twin}: {receipts:#?}");
        let is_same = |receipt: &Receipt| receipt.key == receipts[0].key;
        assert!(receipts.iter().all(is_same), "{twin}: a repeat carries the same id");
    }
    drop(world.home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_of_a_change_that_was_refused() {
    let world = World::new().await;
    for (path, body, status) in [
        (SET, json!({ "password": "short" }), 400),
        (SET, json!({ "password": "driver@example.com" }), 400),
        ("/management/v1/users/201/password", json!({ "password": "correct horse" }), 404),
        ("/management/v1/users/102/password", json!({}), 400),
    ] {
        let ask = Ask::post(path).bearer(&world.token).json(body.to_string());
        assert_eq!(world.gateway.ask(&ask).await.status, status, "{body}");
    }
    assert_eq!(world.gateway.accepted().await, 0);
}
