//! `Idempotency-Key`: the first answer again, exactly one notification, across crashes.

use std::net::SocketAddr;

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::client::{Ask, Protocol, Reply};
use crate::support::gateway::{Gateway, Home};
use crate::support::{soon, world};

const JIGX: &str = "/v2.0/tool/organizations/101/notifications";
const BLYNK: &str = "/api/v1/organization/users/send-push-notification";
const NATIVE: &str = "/bugler/v1/notifications";
const BATCH: &str = "/bugler/v1/notifications:batch";

const JIGX_BODY: &str = r#"{"content":{"text":"once"},"scope":"ORG"}"#;
const BLYNK_BODY: &str = r#"{"userId":101,"title":"once"}"#;
const NATIVE_BODY: &str = r#"{"to":{"users":[101]},"title":"once"}"#;

struct World {
    home: Home,
    gateway: Gateway,
    token: String,
}

async fn world() -> World {
    let home = Home::new(world::directory()).set("store.segment=4MiB");
    let gateway = home.start().await;
    let token = home.token(101).await;
    World { home, gateway, token }
}

impl World {
    fn ask(&self, path: &str, body: &str, key: &str) -> Ask {
        Ask::post(path).bearer(&self.token).json(body.to_owned()).key(key)
    }

    async fn send(&self, path: &str, body: &str, key: &str) -> Reply {
        self.gateway.ask(&self.ask(path, body, key)).await
    }
}

fn is_replay(reply: &Reply) -> bool {
    reply.header("idempotent-replayed") == Some("true")
}

#[tokio::test]
async fn the_same_request_gets_the_first_answer_again() {
    let world = world().await;
    for (path, body) in [(JIGX, JIGX_BODY), (BLYNK, BLYNK_BODY), (NATIVE, NATIVE_BODY)] {
        let first = world.send(path, body, "key-1").await;
        assert!(first.status < 300, "{path}: {}", first.text());
        assert_eq!(first.header("idempotent-replayed"), None, "{path}");
        for protocol in Protocol::ALL {
            let again = world.ask(path, body, "key-1").send(protocol, world.gateway.api).await;
            assert_eq!(again.status, first.status, "{path}");
            assert_eq!(again.body, first.body, "{path}");
            assert_eq!(again.id(), first.id(), "{path}");
            assert!(is_replay(&again), "{path}");
        }
    }
    let metrics = world.gateway.metrics().await;
    assert_eq!(metrics.count("bugler_notifications_accepted_total"), 3);
    assert_eq!(metrics.count("bugler_idempotent_replays_total"), 6);
}

#[tokio::test]
async fn another_body_under_the_same_key_is_422_in_the_dialects_form() {
    let world = world().await;
    let others = [
        (JIGX, JIGX_BODY, r#"{"content":{"text":"twice"},"scope":"ORG"}"#, "/message"),
        (BLYNK, BLYNK_BODY, r#"{"userId":101,"title":"twice"}"#, "/error/message"),
        (NATIVE, NATIVE_BODY, r#"{"to":{"users":[102]},"title":"once"}"#, "/detail"),
    ];
    for (path, body, other, place) in others {
        let first = world.send(path, body, "key-1").await;
        let refused = world.send(path, other, "key-1").await;
        assert_eq!(refused.status, 422, "{path}: {}", refused.text());
        assert_eq!(refused.header("bugler-error"), Some("BGL-1409"), "{path}");
        let answer = refused.json();
        let said = answer.pointer(place).and_then(|text| text.as_str()).unwrap_or_default();
        assert!(said.contains("Idempotency-Key"), "{path}: {said}");
        // The key still stands for the first body.
        let again = world.send(path, body, "key-1").await;
        assert_eq!((again.id(), is_replay(&again)), (first.id(), true), "{path}");
    }
    assert_eq!(world.gateway.accepted().await, 3);
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_free() {
    let world = world().await;
    assert_eq!(world.send(JIGX, "{}", "key-1").await.status, 400);
    let accepted = world.send(JIGX, JIGX_BODY, "key-1").await;
    assert_eq!((accepted.status, is_replay(&accepted)), (201, false));
}

#[tokio::test]
async fn other_paths_organizations_and_keys_are_apart() {
    let world = world().await;
    let rival = world.home.token(201).await;
    let native = |token: &str, key: &str| {
        Ask::post(NATIVE).bearer(token).json(r#"{"to":{"organization":true},"title":"t"}"#).key(key)
    };
    let mut ids = Vec::new();
    for ask in [
        world.ask(JIGX, JIGX_BODY, "key"),
        world.ask("/tool/organizations/101/notifications", JIGX_BODY, "key"),
        world.ask("/v2.0/tool/organizations/102/notifications", JIGX_BODY, "key"),
        world.ask(JIGX, JIGX_BODY, "Key"),
        native(&world.token, "key"),
        native(&rival, "key"),
    ] {
        let reply = world.gateway.ask(&ask).await;
        assert_eq!((reply.status, is_replay(&reply)), (201, false), "{}", ask.path);
        ids.push(reply.id());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6);
}

#[tokio::test]
async fn a_key_is_1_to_255_visible_characters_and_there_once() {
    let world = world().await;
    let long = "k".repeat(256);
    for bad in ["", " ", "a b", "é", "\u{7f}", "a\tb", &long] {
        for (path, body) in [(JIGX, JIGX_BODY), (BLYNK, BLYNK_BODY), (NATIVE, NATIVE_BODY)] {
            if bad == "\u{7f}" {
                // No HTTP client can send it, so the server need not judge it.
                continue;
            }
            let refused = world.send(path, body, bad).await;
            assert_eq!(refused.status, 400, "{path} {bad:?}: {}", refused.text());
        }
        if bad != "\u{7f}" {
            let batch = Ask::post(BATCH).bearer(&world.token).lines(NATIVE_BODY).key(bad);
            assert_eq!(world.gateway.ask(&batch).await.status, 400, "batch {bad:?}");
        }
    }
    for path in [NATIVE, BATCH] {
        let twice = world.ask(path, NATIVE_BODY, "a").key("b");
        assert_eq!(world.gateway.ask(&twice).await.status, 400, "{path}");
    }
    assert_eq!(world.gateway.accepted().await, 0);
    for good in ["k", "!~\"{}", &"k".repeat(255)] {
        assert_eq!(world.send(NATIVE, NATIVE_BODY, good).await.status, 201, "{good:?}");
    }
}

/// Asks again as long as the key is busy.
async fn answered(ask: Ask, api: SocketAddr) -> Reply {
    loop {
        let reply = ask.send(Protocol::Http1, api).await;
        if reply.status != 409 {
            return reply;
        }
        assert!(reply.header("retry-after").is_some(), "a busy key says when to come back");
        tokio::task::yield_now().await;
    }
}

/// Sends `count` equal requests at once, each again while its key is busy.
async fn at_once(world: &World, ask: &Ask, count: usize) -> Vec<Reply> {
    let mut sending = JoinSet::new();
    for _ in 0..count {
        let (ask, api) = (ask.clone(), world.gateway.api);
        sending.spawn(soon("the key is free", answered(ask, api)));
    }
    sending.join_all().await
}

#[tokio::test]
async fn a_hundred_at_once_make_one_notification() {
    let world = world().await;
    for (path, body) in [(JIGX, JIGX_BODY), (BLYNK, BLYNK_BODY), (NATIVE, NATIVE_BODY)] {
        let before = world.gateway.accepted().await;
        let replies = at_once(&world, &world.ask(path, body, "one"), 100).await;
        let first = replies.first().expect("a hundred replies");
        for reply in &replies {
            assert_eq!((reply.status, reply.id()), (first.status, first.id()), "{path}");
            assert_eq!(reply.body, first.body, "{path}");
        }
        assert_eq!(replies.iter().filter(|reply| !is_replay(reply)).count(), 1, "{path}");
        assert_eq!(world.gateway.accepted().await - before, 1, "{path}");
    }
}

#[tokio::test]
async fn equal_batches_at_once_make_each_line_once() {
    let world = world().await;
    let lines: Vec<_> = (0..50)
        .map(|line| json!({ "to": { "users": [101] }, "title": format!("t{line}") }).to_string())
        .collect();
    let batch = Ask::post(BATCH).bearer(&world.token).lines(lines.join("\n")).key("batch");
    let mut sending = JoinSet::new();
    for _ in 0..20 {
        let (ask, api) = (batch.clone(), world.gateway.api);
        sending.spawn(async move { ask.send(Protocol::Http1, api).await });
    }
    sending.join_all().await;
    // Whatever lines were busy are answered now, all from memory.
    let last = world.gateway.ask(&batch).await.lines();
    assert!(last.iter().take(50).all(|line| line["replayed"] == true), "{last:#?}");
    assert_eq!(world.gateway.accepted().await, 50);
}

#[tokio::test]
async fn keys_survive_kill_9() {
    let World { home, gateway, token } = world().await;
    let asks: Vec<_> = (0..20)
        .map(|number| {
            let key = format!("key-{number}");
            Ask::post(JIGX).bearer(&token).json(JIGX_BODY).key(&key)
        })
        .collect();
    let mut first = Vec::new();
    for ask in &asks {
        first.push(gateway.ask(ask).await);
    }
    let lines = format!("{NATIVE_BODY}\n{NATIVE_BODY}\n");
    let batch = Ask::post(BATCH).bearer(&token).lines(lines).key("batch");
    let first_lines = gateway.ask(&batch).await.lines();
    gateway.kill();

    let gateway = home.start().await;
    for (ask, first) in asks.iter().zip(&first) {
        let again = gateway.ask(ask).await;
        assert!(is_replay(&again), "{}", again.text());
        assert_eq!((again.status, &again.body), (first.status, &first.body));
    }
    let other = Ask::post(JIGX).bearer(&token).json(r#"{"content":{"text":"x"},"scope":"ORG"}"#);
    assert_eq!(gateway.ask(&other.key("key-7")).await.status, 422);
    let again = gateway.ask(&batch).await.lines();
    for index in [0, 1] {
        assert_eq!(again[index]["id"], first_lines[index]["id"]);
        assert_eq!(again[index]["replayed"], true);
    }
    assert_eq!(gateway.accepted().await, 0, "nothing was accepted again");
}
