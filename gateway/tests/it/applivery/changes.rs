//! Changes of subscriptions: durable, limited in number, and never half of one another.

use serde_json::{Value, json};

use super::{ALL, World, path};
use crate::support::client::{Ask, Protocol};

const URL: &str = "https://hooks.example.com/x";

fn webhook() -> String {
    json!({ "type": "webhook", "events": { "buildCreated": true, "buildProcessed": false },
            "setup": { "webhook": { "url": URL } } })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_is_shown_changed_and_deleted_across_restarts() {
    let world = World::new(&[]).await;
    let made =
        world.subscribe(URL, &json!({ "buildCreated": true, "buildProcessed": false })).await;
    let world = world.restart().await;
    assert_eq!(world.ask(Ask::get(path(&made))).await.json()["data"], made);

    let body = json!({ "description": "d", "events": { "buildProcessed": true } }).to_string();
    let reply = world.ask(Ask::new("PUT", path(&made)).json(body)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let changed = reply.json()["data"].clone();
    let mut expected = made.clone();
    expected["events"] = json!({ "buildProcessed": true });
    expected["description"] = "d".into();
    expected["updatedAt"] = changed["updatedAt"].clone();
    assert_eq!(changed, expected);
    assert!(changed["updatedAt"].as_str() > made["updatedAt"].as_str());
    let world = world.restart().await;
    assert_eq!(world.ask(Ask::get(path(&made))).await.json()["data"], changed);

    let deleted = world.ask(Ask::new("DELETE", format!("{}/", path(&made)))).await;
    assert_eq!((deleted.status, deleted.text().as_str()), (200, r#"{"status":true}"#));
    for method in ["GET", "DELETE"] {
        assert_eq!(world.ask(Ask::new(method, path(&made))).await.status, 404);
    }
    let world = world.restart().await;
    assert_eq!(world.ask(Ask::get(path(&made))).await.status, 404);
    let audit = world.ask(Ask::get("/bugler/v1/organizations/acme/audit")).await.json();
    let id = made["id"].as_str().expect("an id");
    let lines: Vec<_> = audit["records"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|line| line["object"] == format!("subscription:{id}"))
        .map(|line| line["action"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(lines, ["subscription.create", "subscription.update", "subscription.delete"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_create_makes_one_and_answers_the_same() {
    let world = World::new(&[]).await;
    let ask = || Ask::post(ALL).key("k").json(webhook());
    let first = world.ask(ask()).await;
    let again = ask().bearer(&world.token).send(Protocol::Http2, world.gateway.api).await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = Ask::post(ALL).key("k").json(webhook().replace("/x", "/y"));
    let reused = world.ask(other).await;
    assert_eq!((reused.status, &reused.json()["error"]["code"]), (422, &json!(3002)));
    let all = world.ask(Ask::get(ALL)).await.json();
    assert_eq!(all["data"]["totalDocs"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_has_a_hundred_at_most_and_the_last_place_is_taken_once() {
    let world = World::new(&[]).await;
    for _ in 0..99 {
        world.subscribe(URL, &json!({})).await;
    }
    let asks = (0..20).map(|_| world.ask(Ask::post(ALL).json(webhook())));
    let replies = futures_util::future::join_all(asks).await;
    let made = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(made, 1);
    let full = json!({ "status": false, "error": { "code": 5001, "message":
        "Invalid parameters: organization has 100 notifications; delete one first" } });
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!((reply.status, reply.json()), (400, full.clone()));
    }
    let all = world.ask(Ask::get(format!("{ALL}?limit=500"))).await.json();
    assert_eq!(all["data"]["totalDocs"], 100);
    let one = &all["data"]["items"][7];
    assert_eq!(world.ask(Ask::new("DELETE", path(one))).await.status, 200);
    world.subscribe(URL, &json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_never_brings_back_what_was_deleted() {
    let world = World::new(&[]).await;
    for _ in 0..20 {
        let made = world.subscribe(URL, &json!({})).await;
        let put = |flag: bool| {
            let body = json!({ "events": { "buildCreated": flag } }).to_string();
            world.ask(Ask::new("PUT", path(&made)).json(body))
        };
        let delete = || world.ask(Ask::new("DELETE", path(&made)));
        let (a, b, c, d, e) = tokio::join!(put(true), delete(), put(false), delete(), put(true));
        let statuses = [a.status, c.status, e.status];
        assert!(statuses.iter().all(|status| matches!(status, 200 | 404)), "{statuses:?}");
        let mut deleted = [b.status, d.status];
        deleted.sort_unstable();
        assert_eq!(deleted, [200, 404], "one of them deleted it");
        assert_eq!(world.ask(Ask::get(path(&made))).await.status, 404);
    }
    let all: Value = world.ask(Ask::get(ALL)).await.json();
    assert_eq!(all["data"]["totalDocs"], 0);
}
