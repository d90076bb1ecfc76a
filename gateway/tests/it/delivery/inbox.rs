//! Jigx seen whole: what deliveries make of inboxes and of the sender's list.

use bugler_loadtest::twins::{TwinName, TwinSet};
use serde_json::{Value, json};

use super::World;
use crate::support::client::{Ask, Reply};
use crate::support::world::{add_device, apns_token};
use crate::support::{eventually, now_ms};

const ORG: &str = "/v2.0/tool/organizations/101";

fn one_phone(directory: &mut Value, _: &TwinSet) {
    add_device(directory, 101, "fcm", "phone-1");
}

impl World {
    async fn jigx(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let mut ask = Ask::new(method, format!("{ORG}{path}")).bearer(&self.token);
        if let Some(body) = body {
            ask = ask.json(body.to_string());
        }
        self.gateway.ask(&ask).await
    }

    async fn read(&self, path: &str) -> Value {
        let reply = self.jigx("GET", path, None).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    }

    /// Creates a notification for some addresses; answers its id.
    async fn notify(&self, emails: &[&str], more: Value) -> String {
        let mut body = json!({ "content": { "text": "t" }, "scope": "USR", "emails": emails });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        let reply = self.jigx("POST", "/notifications", Some(body)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()["notificationId"].as_str().expect("an id").to_owned()
    }

    async fn until_state(&self, path: &str, state: &str) {
        eventually(&format!("{path} is {state}"), async || {
            let reply = self.jigx("GET", path, None).await;
            (reply.status == 200 && reply.json()["state"] == state).then_some(())
        })
        .await;
    }

    /// Waits for the state of the notification and of the entry in 101's inbox.
    async fn both(&self, id: &str, state: &str) {
        self.until_state(&format!("/members/101/notifications/{id}"), state).await;
        self.until_state(&format!("/notifications/{id}"), state).await;
    }

    async fn mark(&self, id: &str, state: &str) -> u16 {
        let path = format!("/members/101/notifications/{id}");
        self.jigx("PATCH", &path, Some(json!({ "state": state }))).await.status
    }
}

const ME: &[&str] = &["username@jigx.com"];

fn ids(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    let id = |item: &Value| item["notificationId"].as_str().expect("an id").to_owned();
    items.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivered_notification_is_sent_for_its_sender_and_its_reader() {
    let change = |directory: &mut Value, _: &TwinSet| {
        add_device(directory, 101, "apns", &apns_token(1));
        // One of two devices is enough.
        add_device(directory, 101, "fcm", "mismatch-1");
    };
    let world = World::new(change, &[]).await;
    let id = world.notify(ME, json!({})).await;
    world.both(&id, "SENT").await;
    assert_eq!(world.mark(&id, "READ").await, 200);
    assert_eq!(world.mark(&id, "SENT").await, 400);
    assert_eq!(world.mark(&id, "DISMISSED").await, 200);
    assert_eq!(world.mark(&id, "READ").await, 400);
    let world = world.restart().await;
    world.until_state(&format!("/members/101/notifications/{id}"), "DISMISSED").await;
    world.until_state(&format!("/notifications/{id}"), "SENT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_tried_again_is_in_retry_until_it_is_sent() {
    let world = World::new(one_phone, &["dispatch.retry.push.attempts_max=100"]).await;
    world.faults("fcm:status=503");
    let id = world.notify(ME, json!({})).await;
    world.both(&id, "RETRY").await;
    assert_eq!(world.mark(&id, "READ").await, 400, "nothing was sent yet");
    let queued = world.read("/notifications?filterMode=queued").await;
    assert_eq!(ids(&queued), [id.clone()]);
    world.faults("");
    world.both(&id, "SENT").await;
    let queued = world.read("/notifications?filterMode=queued").await;
    assert_eq!(queued["count"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_arrives_has_failed() {
    let world = World::new(one_phone, &["dispatch.retry.push.attempts_max=2"]).await;
    world.faults("fcm:status=500");
    let dead = world.notify(ME, json!({})).await;
    world.both(&dead, "FAILED").await;
    assert_eq!(world.mark(&dead, "READ").await, 400);
    // The same for one of two: the notification reached somebody, this inbox was not told.
    let half = world.notify(&["username@jigx.com", "driver@example.com"], json!({})).await;
    world.until_state(&format!("/members/101/notifications/{half}"), "FAILED").await;
    world.until_state(&format!("/members/102/notifications/{half}"), "SENT").await;
    world.until_state(&format!("/notifications/{half}"), "SENT").await;
    let failed = world.read("/notifications?filterMode=failed").await;
    assert_eq!(ids(&failed), [dead]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canceled_notification_reaches_nobody_and_stays_gone() {
    let world = World::new(one_phone, &[]).await;
    let at = json!({ "startAt": now_ms() + 2_000 });
    let canceled = world.notify(ME, at.clone()).await;
    let kept = world.notify(ME, at).await;
    assert_eq!(ids(&world.read("/notifications").await), [kept.clone(), canceled.clone()]);
    let path = format!("/notifications/{canceled}");
    assert_eq!(world.jigx("DELETE", &path, None).await.status, 204);
    assert_eq!(world.jigx("DELETE", &path, None).await.status, 404);
    world.both(&kept, "SENT").await;
    let world = world.restart().await;
    world.gateway.drained().await;
    assert_eq!(world.jigx("GET", &path, None).await.status, 404);
    assert_eq!(ids(&world.read("/notifications").await), [kept.clone()]);
    assert_eq!(ids(&world.read("/members/101/notifications").await), [kept]);
    assert_eq!(world.twins.receipts_since(Some(TwinName::Fcm), 0).len(), 1);
    // The native timeline keeps what happened.
    let timeline = world.gateway.timeline(&world.token, &canceled).await;
    assert_eq!(timeline["timeline"][0]["state"], "canceled", "{timeline:#}");
    assert_eq!(
        (&timeline["state"], &timeline["deliveries"]["canceled"]),
        (&json!("done"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_is_paged_and_synced_without_missing_a_change() {
    let world = World::new(|_, _| {}, &[]).await;
    let list = "/members/101/notifications";
    let mut sent = Vec::new();
    for _ in 0..3 {
        let id = world.notify(ME, json!({})).await;
        world.both(&id, "SENT").await;
        sent.insert(0, id);
    }
    let first = world.read(&format!("{list}?limit=2")).await;
    assert_eq!(ids(&first), sent[..2]);
    assert!(first.get("watermark").is_none(), "{first:#}");
    // A change behind the reader's back, between two pages.
    assert_eq!(world.mark(&sent[0], "READ").await, 200);
    let next = first["continuationToken"].as_str().expect("a next page");
    let last = world.read(&format!("{list}?limit=2&continuationToken={next}")).await;
    assert_eq!(ids(&last), sent[2..]);
    assert!(last.get("continuationToken").is_none(), "{last:#}");
    let mark = last["watermark"].as_str().expect("a watermark").to_owned();

    let changed = world.read(&format!("{list}?syncToken={mark}")).await;
    assert_eq!(ids(&changed), sent[..1]);
    assert_eq!(changed["items"][0]["state"], "READ");
    let mark = changed["watermark"].as_str().expect("a watermark").to_owned();
    let none = world.read(&format!("{list}?syncToken={mark}")).await;
    assert_eq!((&none["count"], none["watermark"].as_str()), (&json!(0), Some(mark.as_str())));

    let path = format!("{list}/{}", sent[1]);
    assert_eq!(world.jigx("DELETE", &path, None).await.status, 204);
    assert_eq!(world.mark(&sent[2], "READ").await, 200);
    let world = world.restart().await;
    let first = world.read(&format!("{list}?limit=1&syncToken={mark}")).await;
    assert_eq!(ids(&first), sent[1..2], "in the order of the changes");
    assert!(first["items"][0]["deletedAt"].is_string(), "{first:#}");
    assert_eq!(first["items"][0]["content"], json!({ "text": "", "inputs": {} }));
    let next = first["continuationToken"].as_str().expect("a next page");
    let rest = world.read(&format!("{list}?limit=1&continuationToken={next}")).await;
    assert_eq!(ids(&rest), sent[2..]);
    assert!(rest["watermark"].is_string() && rest["items"][0].get("deletedAt").is_none());
    assert_eq!(ids(&world.read(list).await), [sent[0].clone(), sent[2].clone()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_fill_the_inboxes_of_exactly_their_members() {
    let world = World::new(one_phone, &[]).await;
    let solution = crate::support::world::SOLUTION;
    let send = async |more: Value| {
        let mut body = json!({ "content": { "text": "t" } });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        let reply = world.jigx("POST", "/notifications", Some(body)).await;
        reply.json()["notificationId"].as_str().expect("an id").to_owned()
    };
    let org = send(json!({ "scope": "ORG" })).await;
    let group =
        send(json!({ "scope": "SLN_GRP", "solutionId": solution, "groups": ["drivers"] })).await;
    let nobody =
        send(json!({ "scope": "SLN_GRP", "solutionId": solution, "groups": ["pilots"] })).await;
    world.until_state(&format!("/notifications/{org}"), "SENT").await;
    world.until_state(&format!("/notifications/{group}"), "SENT").await;
    world.until_state(&format!("/notifications/{nobody}"), "FAILED").await;
    assert_eq!(ids(&world.read("/members/101/notifications").await), [org.clone()]);
    assert_eq!(ids(&world.read("/members/102/notifications").await), [group, org]);
    let branch = "/v2.0/tool/organizations/102/members/121/notifications";
    let foreign = world.gateway.ask(&Ask::get(branch).bearer(&world.token)).await.json();
    assert_eq!(foreign["count"], 0, "another organization's users are not everybody");
}
