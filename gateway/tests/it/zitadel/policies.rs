//! The states of a policy and of texts: what each call does to the next, alone and at once.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{NUMBER, POLICY, World};
use crate::support::client::{Ask, Protocol, Reply};

const TEXT: &str = "/management/v1/text/message/password_change/de";

impl World {
    fn ask(&self, method: &str, path: &str, body: &str) -> Ask {
        Ask::new(method, path).bearer(&self.token).json(body.to_owned())
    }

    async fn rest(&self, protocol: Protocol, method: &str, path: &str, body: &str) -> Reply {
        self.ask(method, path, body).send(protocol, self.gateway.api).await
    }

    async fn policy(&self) -> Value {
        self.rest(Protocol::Http1, "GET", POLICY, "").await.json()["policy"].take()
    }
}

/// The counter of a change that was made.
fn changed(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let details = &reply.json()["details"];
    assert_eq!(details["resourceOwner"], NUMBER);
    for date in ["creationDate", "changeDate"] {
        let date: Result<jiff::Timestamp, _> = details[date].as_str().unwrap_or_default().parse();
        assert!(date.is_ok(), "{details}");
    }
    details["sequence"].as_str().and_then(|text| text.parse().ok()).expect("a string of digits")
}

fn refused(reply: &Reply, status: u16, code: u16, id: &str) {
    let body = reply.json();
    assert_eq!((reply.status, &body["code"]), (status, &json!(code)), "{body}");
    assert_eq!(body["details"][0]["id"], id, "{body}");
}

#[tokio::test]
async fn a_policy_goes_through_its_states_over_both_protocols() {
    let world = World::new().await;
    let mut last = 0;
    for protocol in Protocol::ALL {
        let rest = |method, body| world.rest(protocol, method, POLICY, body);
        let added = rest("POST", r#"{"passwordChange":true,"details":{"sequence":"9"}}"#).await;
        assert_eq!(changed(&added), last + 1);
        assert_eq!(added.header("bugler-durability"), Some("D2"));
        assert_eq!(world.policy().await["passwordChange"], true);
        refused(&rest("POST", r#"{"passwordChange":true}"#).await, 409, 6, "Org-xa08n2");
        refused(&rest("PUT", r#"{"password_change":true}"#).await, 400, 9, "Org-ioqnxz");
        assert_eq!(changed(&rest("PUT", r#"{"passwordChange":null}"#).await), last + 2);
        let policy = world.policy().await;
        let members: Vec<_> = policy.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["details"], "false and custom are left out");
        assert_eq!(policy["details"]["sequence"], (last + 2).to_string());
        refused(&rest("PUT", "{}").await, 400, 9, "Org-ioqnxz");
        assert_eq!(changed(&rest("DELETE", "").await), last + 3);
        refused(&rest("DELETE", "").await, 404, 5, "ORG-x029n1s");
        refused(&rest("PUT", "{}").await, 404, 5, "ORG-x029n3");
        assert_eq!(world.policy().await["isDefault"], true);
        // An empty body is a message without fields, with and without a media type.
        assert_eq!(changed(&rest("POST", "").await), last + 4);
        assert_eq!(changed(&rest("DELETE", "").await), last + 5);
        let bare = Ask::post(POLICY).bearer(&world.token).send(protocol, world.gateway.api).await;
        assert_eq!(changed(&bare), last + 6);
        assert_eq!(changed(&rest("DELETE", "").await), last + 7);
        last += 7;
    }
    assert_eq!(world.gateway.accepted().await, 0, "a policy is no notification");
}

#[tokio::test]
async fn of_many_at_once_one_adds_and_every_update_counts() {
    let world = World::new().await;
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        let ask = world.ask("POST", POLICY, r#"{"passwordChange":true}"#);
        let api = world.gateway.api;
        calls.spawn(async move { ask.send(Protocol::Http1, api).await });
    }
    let replies = calls.join_all().await;
    let (good, bad): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!(good.len(), 1);
    assert_eq!(changed(good[0]), 1);
    for reply in bad {
        refused(reply, 409, 6, "Org-xa08n2");
    }
}

#[tokio::test]
async fn a_repeated_key_gets_the_first_answer_in_every_form() {
    let world = World::new().await;
    let add = world.ask("POST", POLICY, r#"{"passwordChange":true}"#).key("once");
    let first = world.gateway.ask(&add).await;
    assert_eq!(changed(&first), 1);
    let again = world.gateway.ask(&add).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = world.ask("POST", POLICY, "{}").key("once");
    assert_eq!(world.gateway.ask(&other).await.status, 422);

    let path = format!("{}ResetNotificationPolicyToDefault", super::MANAGEMENT);
    let key = [("idempotency-key", "twice")];
    let first = world.raw(&path, &super::frame(&[]), &key).await;
    let again = world.raw(&path, &super::frame(&[]), &key).await;
    assert_eq!(first.message(), again.message());
    assert_eq!(again.get("idempotent-replayed"), Some("true"));
    assert_eq!(world.call("ResetNotificationPolicyToDefault", &[]).await.code(), 5);
}

#[tokio::test]
async fn changes_survive_the_process_and_are_in_the_audit_trail() {
    let world = World::new().await;
    let rest = |method, path, body| world.rest(Protocol::Http1, method, path, body);
    changed(&rest("POST", POLICY, "{}").await);
    changed(&rest("PUT", TEXT, r#"{"title":"Neu"}"#).await);
    let World { home, gateway, token } = world;
    gateway.kill();
    let gateway = home.start().await;
    let world = World { home, gateway, token };
    assert_eq!(world.policy().await["details"]["sequence"], "1");
    let text = world.rest(Protocol::Http1, "GET", TEXT, "").await.json();
    assert_eq!(text["customText"]["title"], "Neu");
    assert_eq!(text["customText"]["details"]["sequence"], "2");
    let audit = Ask::get("/bugler/v1/organizations/101/audit").bearer(&world.token);
    let audit = world.gateway.ask(&audit).await;
    assert_eq!(audit.status, 200, "{}", audit.text());
    for action in ["policy.add", "text.set"] {
        assert!(audit.text().contains(action), "{action}: {}", audit.text());
    }
}

#[tokio::test]
async fn texts_are_an_organizations_own_in_each_language() {
    let world = World::new().await;
    let rest = |method, body| world.rest(Protocol::Http1, method, TEXT, body);
    assert_eq!(rest("GET", "").await.json()["customText"]["isDefault"], true);
    let words = r#"{"language":"fr","title":"Titel","pre_header":"Vor","footerText":"Fuß"}"#;
    assert_eq!(changed(&rest("PUT", words).await), 1);
    assert_eq!(changed(&rest("PUT", words).await), 1, "the same words are no change");
    let text = rest("GET", "").await.json();
    let members: Vec<_> = text["customText"].as_object().expect("an object").keys().collect();
    assert_eq!(members, ["details", "title", "preHeader", "footerText"]);
    let french = TEXT.replace("/de", "/fr");
    let french = world.rest(Protocol::Http1, "GET", &french, "").await.json();
    assert_eq!(french["customText"]["isDefault"], true, "the path names the language");
    assert_eq!(changed(&rest("PUT", "{}").await), 2, "no words at all are a reset");
    refused(&rest("DELETE", "").await, 404, 5, "Org-3b8Jf");
    assert_eq!(changed(&rest("PUT", words).await), 3);
    assert_eq!(changed(&rest("DELETE", "").await), 4);
    assert_eq!(rest("GET", "").await.json()["customText"]["isDefault"], true);
}

#[tokio::test]
async fn what_is_of_one_organization_is_of_no_other() {
    let world = World::new().await;
    let policy = world.rest(Protocol::Http1, "POST", POLICY, "{}").await;
    assert_eq!(changed(&policy), 1);
    for org in [102, 201] {
        let token = world.home.token(org).await;
        let ask = Ask::get(POLICY).bearer(&token);
        let reply = world.gateway.ask(&ask).await.json();
        assert_eq!(reply["policy"]["isDefault"], true, "{org}: {reply}");
    }
}
