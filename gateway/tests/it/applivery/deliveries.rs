//! What webhooks are sent: every event, signed, once per event, until the target says it is gone.

use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::io::AsyncWriteExt;

use super::{ALL, EVENTS, World, path};
use crate::support::client::{Ask, Reply};
use crate::support::gateway::Home;
use crate::support::receiver::{Receiver, Seen};
use crate::support::world::{self, ACME_OBJECT, SECRET};

/// Every key with its actions, as the contract pairs them.
const ACTIONS: [(&str, &[&str]); 18] = [
    ("buildCreated", &["build_created"]),
    ("buildProcessed", &["build_processed"]),
    ("feedbackCreated", &["feedback_created", "bug_created"]),
    ("certificateWillExpire", &["certificate_will_expire"]),
    ("applePushRenovation", &["apple_push_certification_renovation"]),
    ("emmEnrollmentCreated", &["android_enrollment-token_created"]),
    ("emmDeviceCreated", &["android_device_enrolled"]),
    ("emmDeviceChangedMdmUser", &["android_device_added_mdm_user"]),
    ("admEnrollmentCreated", &["apple_enrollment-token_created"]),
    ("admDeviceCreated", &["apple_device_enrolled"]),
    ("admDeviceChangedMdmUser", &["apple_device_added_mdm_user"]),
    ("winEnrollmentCreated", &["windows_enrollment-token_created"]),
    ("winDeviceCreated", &["windows_device_enrolled"]),
    ("winDeviceChangedMdmUser", &["windows_device_added_mdm_user"]),
    ("inventoryItemRegistered", &["inventory_item_registered"]),
    ("aosEnrollmentCreated", &["aosp_enrollment-token_created"]),
    ("aosDeviceCreated", &["aosp_device_enrolled"]),
    ("aosDeviceChangedMdmUser", &["aosp_device_added_mdm_user"]),
];

fn verify(subscription: &Value, seen: &Seen) {
    let token = subscription["config"]["webhook"]["token"].as_str().expect("a token");
    Webhook::new(token)
        .expect("a secret as Standard Webhooks writes it")
        .verify(&seen.body, &seen.headers)
        .expect("a stock verifier takes it");
    let other = Webhook::new(SECRET).expect("another secret");
    other.verify(&seen.body, &seen.headers).expect_err("and not with another secret");
    let altered = [&seen.body[..], b" "].concat();
    let own = Webhook::new(token).expect("the same secret");
    own.verify(&altered, &seen.headers).expect_err("nor altered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_reaches_whoever_wants_it_with_its_action_and_a_signature() {
    let world = World::new(&[]).await;
    let receiver = Receiver::of_status(204).await;
    let all: Value = ACTIONS.iter().map(|(key, _)| (*key, true)).collect();
    let everything = world.subscribe(&format!("{}/ALL", receiver.url), &all).await;
    for (key, actions) in ACTIONS {
        let only = world.subscribe(&format!("{}/{key}", receiver.url), &json!({ key: true })).await;
        let others: Value = ACTIONS.iter().map(|(other, _)| (*other, *other != key)).collect();
        let rest = world.subscribe(&format!("{}/not", receiver.url), &others).await;
        let mut asked = vec![(json!({ "event": key }), actions[0])];
        asked.extend(actions.iter().map(|action| (json!({ "action": action }), *action)));
        for (mut body, action) in asked {
            body["data"] = json!({ "id": "b-1", "serialNumber": "C02", "nested": { "é": [1.50] } });
            let before = receiver.seen().len();
            let id = world.raise(&body).await;
            let timeline = world.done(&id).await;
            assert_eq!(timeline["deliveries"]["delivered"], 2, "{key}: {timeline:#}");
            assert_eq!(timeline["event"], key);
            let seen = receiver.seen().split_off(before);
            let mut paths: Vec<_> = seen.iter().map(|seen| seen.path.clone()).collect();
            paths.sort_unstable();
            assert_eq!(paths, [String::from("/ALL"), format!("/{key}")]);
            for seen in seen {
                let got: Value = serde_json::from_slice(&seen.body).expect("JSON");
                let at = got["createdAt"].as_str().expect("a time");
                let expected = format!(
                    "{{\"action\":\"{action}\",\"event\":\"{key}\",\"organization\":{{\"id\":\
                     \"{ACME_OBJECT}\",\"slug\":\"acme\"}},\"data\":{},\"createdAt\":\"{at}\"}}",
                    body["data"]
                );
                assert_eq!(seen.text(), expected);
                assert_eq!(seen.headers["content-type"], "application/json");
                verify(if seen.path == "/ALL" { &everything } else { &only }, &seen);
            }
        }
        for one in [&only, &rest] {
            assert_eq!(world.ask(Ask::new("DELETE", path(one))).await.status, 200);
        }
    }
    assert!(receiver.seen().iter().all(|seen| seen.path != "/not"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_is_handed_on_as_it_was_written_up_to_its_limit() {
    let world = World::new(&[]).await;
    let receiver = Receiver::of_status(200).await;
    let url = receiver.url.clone();
    world.subscribe(&url, &json!({ "buildCreated": true })).await;
    let long = format!("{{\"k\":\"{}\"}}", "\u{1f44d}".repeat(16_382));
    assert_eq!(long.len(), 65_536);
    for data in [
        r#"{ "b" : 1.50e3,
  "a":"\u00e9\/<!channel>", "n":null}"#,
        &long,
    ] {
        let before = receiver.seen().len();
        let ask = Ask::post(EVENTS).json(format!("{{\"event\":\"buildCreated\",\"data\":{data}}}"));
        let reply = world.ask(ask).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        assert_eq!(world.done(&reply.id()).await["deliveries"]["delivered"], 1);
        let seen = receiver.seen().split_off(before);
        assert!(seen[0].text().contains(&format!("\"data\":{data},\"createdAt\"")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_decide_about_events_of_any_size() {
    let rule = world::rule("event-routing", "config = { \"route.*\" = \"webhook\" }");
    let world = World::of(Home::new(world::directory()).with(&rule), &[]).await;
    let receiver = Receiver::of_status(200).await;
    world.subscribe(&receiver.url, &json!({ "buildCreated": true })).await;
    let wide: Value = (0..1000).map(|n| (format!("m{n}"), json!("x".repeat(50)))).collect();
    for data in [json!({ "k": "v".repeat(65_528) }), wide, json!({})] {
        let id = world.raise(&json!({ "event": "buildCreated", "data": data })).await;
        let timeline = world.done(&id).await;
        assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
        let body: Value =
            serde_json::from_slice(&receiver.seen().pop().expect("one").body).expect("JSON");
        assert_eq!(body["data"], data);
        assert!(!timeline.to_string().contains("rule_"), "no rule broke: {timeline:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_are_byte_for_byte_the_same_and_signed_anew() {
    let world = World::new(&[]).await;
    let receiver = Receiver::start(|_, before| (if before < 2 { 503 } else { 200 }, "".into()));
    let receiver = receiver.await;
    let made = world.subscribe(&receiver.url, &json!({ "buildCreated": true })).await;
    let id = world.raise(&json!({ "event": "buildCreated", "data": { "b": 1 } })).await;
    assert_eq!(world.done(&id).await["deliveries"]["delivered"], 1);
    let seen = receiver.seen();
    assert_eq!(seen.len(), 3);
    for one in &seen {
        assert_eq!((one.id(), &one.body), (seen[0].id(), &seen[0].body));
        verify(&made, one);
    }
    assert!(seen[0].id().starts_with("msg_") && !seen[0].id().contains('.'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_with_a_dedupe_key_happens_once() {
    let world = World::new(&[]).await;
    let receiver = Receiver::of_status(200).await;
    world.subscribe(&receiver.url, &json!({ "buildCreated": true, "feedbackCreated": true })).await;
    let body =
        |build: u32| json!({ "event": "buildCreated", "data": { "b": build }, "dedupeKey": "b-1" });
    let asks = (0..20).map(|build| Ask::post(EVENTS).json(body(build).to_string()));
    let replies = futures_util::future::join_all(asks.map(|ask| world.ask(ask))).await;
    let taken: Vec<_> = replies.iter().filter(|reply| reply.status == 202).collect();
    assert!(replies.iter().all(|reply| matches!(reply.status, 202 | 409)), "{replies:#?}");
    let fresh = |reply: &&&Reply| reply.header("idempotent-replayed").is_none();
    assert_eq!(taken.iter().filter(fresh).count(), 1, "one is first");
    let id = taken[0].id();
    assert!(taken.iter().all(|reply| reply.id() == id));
    world.done(&id).await;

    // Neither another way to name the organization, nor a restart, makes it another event.
    let world = world.restart().await;
    let ask = Ask::post("/bugler/v1/organizations/101/events").key("k-1");
    let again = world.ask(ask.json(body(99).to_string())).await;
    assert_eq!((again.status, again.id()), (202, id.clone()));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    // The two actions of one key are two events, and another key is another event.
    for (action, key) in
        [("feedback_created", "b-1"), ("bug_created", "b-1"), ("bug_created", "b-2")]
    {
        let other = world.raise(&json!({ "action": action, "dedupeKey": key })).await;
        assert_ne!(other, id);
        assert_eq!(world.done(&other).await["deliveries"]["delivered"], 1);
    }
    assert_eq!(receiver.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_gone_is_left_alone_until_its_owner_changes_it() {
    let world = World::new(&[]).await;
    let receiver =
        Receiver::start(|seen, _| (if seen.path == "/gone" { 410 } else { 200 }, "".into()));
    let receiver = receiver.await;
    let made =
        world.subscribe(&format!("{}/gone", receiver.url), &json!({ "buildCreated": true })).await;
    let event = json!({ "event": "buildCreated" });
    let id = world.raise(&event).await;
    assert_eq!(world.done(&id).await["deliveries"]["rejected"], 1);
    let id = world.raise(&event).await;
    assert_eq!(world.done(&id).await["deliveries"]["total"], 0);
    assert_eq!(receiver.seen().len(), 1);
    let shown = world.ask(Ask::get(path(&made))).await.json();
    assert_eq!(shown["data"], made, "it is still there");

    let body = json!({ "events": { "buildCreated": true },
                       "setup": { "webhook": { "url": format!("{}/new", receiver.url) } } });
    let reply = world.ask(Ask::new("PUT", path(&made)).json(body.to_string())).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let id = world.raise(&event).await;
    assert_eq!(world.done(&id).await["deliveries"]["delivered"], 1);
    let seen = receiver.seen();
    assert_eq!(seen[1].path, "/new");
    verify(&made, &seen[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_says_what_the_target_said_and_nothing_of_the_network() {
    let world = World::new(&["providers.webhook.timeout=500ms"]).await;
    let receiver = Receiver::start(|seen, _| {
        (seen.path.trim_start_matches('/').parse().unwrap_or(200), "secret words".into())
    });
    let receiver = receiver.await;
    for status in [200_u16, 204, 302, 404, 410, 429, 500] {
        let made = world.subscribe(&format!("{}/{status}", receiver.url), &json!({})).await;
        let data = world.test(&made).await;
        let delivered = (200..300).contains(&status);
        assert_eq!(data, json!({ "delivered": delivered, "httpStatus": status }));
        let seen = receiver.seen().pop().expect("a request");
        verify(&made, &seen);
        let body: Value = serde_json::from_slice(&seen.body).expect("JSON");
        assert_eq!((&body["action"], &body["event"]), (&json!("test"), &json!("test")));
        assert_eq!(body["organization"], json!({ "id": ACME_OBJECT, "slug": "acme" }));
    }
    // Nobody listens, somebody listens and is silent, somebody is no web server: one answer.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr()
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let gibberish = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let places = [closed, silent.local_addr(), gibberish.local_addr()];
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = gibberish.accept().await {
            stream.write_all(b"SSH-2.0-x\r\n").await.ok();
        }
    });
    for place in places {
        let place = place.expect("a bound listener");
        let made = world.subscribe(&format!("http://{place}/"), &json!({})).await;
        assert_eq!(world.test(&made).await, json!({ "delivered": false }));
    }

    let made = world.subscribe(&receiver.url, &json!({})).await;
    let ask = || Ask::post(format!("{}/test/", path(&made))).key("once");
    let (before, first) = (receiver.seen().len(), world.ask(ask()).await);
    let second = world.ask(ask()).await;
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(receiver.seen().len(), before + 1, "it was sent once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_never_leaves_for_a_private_network() {
    let mut directory = world::directory();
    world::add_hook(&mut directory, "webhook", "https://10.255.255.1/x", &[]);
    world::add_hook(&mut directory, "slack", "https://192.168.1.1/services/T/B/x", &[]);
    let world = World::of(Home::new(directory), &[]).await;
    let all = world.ask(Ask::get(ALL)).await.json();
    for one in all["data"]["items"].as_array().expect("two") {
        assert_eq!(world.test(one).await, json!({ "delivered": false }));
    }
    assert_eq!(all["data"]["totalDocs"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_the_limit_wait_and_send_nothing() {
    let world = World::new(&["limits.per_org=1/m"]).await;
    let receiver = Receiver::of_status(200).await;
    let made = world.subscribe(&receiver.url, &json!({})).await;
    for ask in [
        Ask::get(ALL),
        Ask::get(path(&made)),
        Ask::new("DELETE", path(&made)),
        Ask::post(format!("{}/test", path(&made))),
        Ask::get("/v1/organizations/nobody/notifications"),
    ] {
        let reply = world.ask(ask.clone()).await;
        assert_eq!(reply.status, 429, "{ask:?}");
        assert_eq!(
            reply.text(),
            r#"{"status":false,"error":{"code":4029,"message":"Too many requests"}}"#
        );
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(receiver.seen().len(), 0);
}
