//! The life of the process: SIGTERM under load, readiness, and what it says about itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bugler_gateway::telemetry::catalog::CATALOG;
use bugler_loadtest::ledger::{ClientLedger, Expectation, check};
use bugler_loadtest::load::{Dialect, Load, LoadPlan, Mode, Recipients, Stop};
use bugler_loadtest::twins::{FaultPlan, TwinSet};
use serde_json::{Value, json};

use crate::support::client::{Ask, Raw};
use crate::support::gateway::{Gateway, Home};
use crate::support::world::{add_device, add_hook, apns_token, rule};
use crate::support::{eventually, world};

const NATIVE: &str = "/bugler/v1/notifications";

async fn start(change: impl FnOnce(&mut Value, &TwinSet)) -> (TwinSet, Home, Gateway, String) {
    let twins = world::twins().await;
    let mut directory = world::directory();
    change(&mut directory, &twins);
    let home = world::home(&twins, directory);
    let gateway = home.start().await;
    let token = home.token(101).await;
    (twins, home, gateway, token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_ends_with_0_and_loses_and_repeats_nothing() {
    let change = |directory: &mut Value, _: &TwinSet| {
        add_device(directory, 101, "apns", &apns_token(1));
        add_device(directory, 102, "fcm", "phone-2");
    };
    let (twins, home, mut gateway, token) = start(change).await;
    let mut client = Vec::new();
    for _ in 0..2 {
        let first_seq =
            client.last().map_or(1, |entry: &bugler_loadtest::ledger::ClientEntry| entry.seq + 1);
        let ledger = Arc::new(ClientLedger::open(first_seq, None).expect("it is in memory"));
        let plan = LoadPlan {
            url: gateway.url(),
            token: token.clone(),
            mode: Mode::Single(Dialect::Native),
            stop: Stop::After(Duration::from_secs(60)),
            recipients: Recipients { first: 101, last: 102, ..Recipients::default() },
            first_seq,
            ..LoadPlan::default()
        };
        let load = Load::start(plan, Arc::clone(&ledger)).expect("a right plan");
        eventually("the gateway is under load", async || {
            (load.progress().accepted.load(Ordering::Relaxed) > 1_000).then_some(())
        })
        .await;
        gateway.signal("TERM");
        let status = gateway.ended().await;
        load.stop();
        load.finish().await;
        assert_eq!(status.code(), Some(0), "{:#?}", gateway.log());
        client.extend(ledger.entries());
        gateway = home.start().await;
    }
    gateway.drained().await;
    let expected = Expectation {
        targets_per_notification: 1,
        duplicates_max: 0,
        ended_otherwise: HashMap::new(),
    };
    let verdict = check(&client, &twins.receipts(), &expected);
    assert!(verdict.holds(), "{verdict}");
    assert!(verdict.accepted > 2_000, "{verdict}");
}

#[tokio::test]
async fn a_request_under_way_is_answered_while_readiness_is_off() {
    let home = Home::new(world::directory());
    let mut gateway = home.start().await;
    let token = home.token(101).await;
    assert_eq!(gateway.admin("/readyz").await.status, 200);
    let body = r#"{"to":{"users":[101]},"title":"slow"}"#;
    let mut raw = Raw::connect(gateway.api).await;
    let head = format!(
        "POST {NATIVE} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    raw.write(head.as_bytes()).await;
    // The gateway waits for the body: the request is under way.
    raw.read_until("100 Continue\r\n\r\n").await;
    gateway.signal("TERM");
    let ready = eventually("readiness is off", async || {
        let reply = gateway.admin("/readyz").await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!(ready.status, 503);
    let said = ready.json();
    assert_eq!(
        (&said["ready"], &said["reasons"][0]["condition"]),
        (&false.into(), &"shutdown".into())
    );
    assert_eq!(gateway.admin("/healthz").await.status, 200, "draining is living");
    eventually("new connections are refused", async || {
        tokio::net::TcpStream::connect(gateway.api).await.is_err().then_some(())
    })
    .await;
    raw.write(body.as_bytes()).await;
    let answer = raw.read_to_end().await;
    assert!(answer.contains("HTTP/1.1 201 "), "{answer}");
    assert_eq!(gateway.ended().await.code(), Some(0));
    // What was answered during the drain is there afterwards.
    let id = answer.split("bugler-notification-id: ").nth(1).and_then(|rest| rest.get(..36));
    let gateway = home.start().await;
    gateway.done(&token, id.expect("the answer names the notification")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_under_way_are_finished_before_the_end() {
    let change = |directory: &mut Value, _: &TwinSet| {
        add_device(directory, 101, "apns", &apns_token(1));
    };
    let (twins, home, mut gateway, token) = start(change).await;
    twins.set_faults(FaultPlan::parse("apns:delay=1s").expect("a plan"));
    let ask = Ask::post(NATIVE).bearer(&token).json(r#"{"to":{"users":[101]},"title":"t"}"#);
    let id = gateway.ask(&ask).await.id();
    eventually("the attempt is under way", async || {
        let metrics = gateway.metrics().await;
        (metrics.count("bugler_provider_inflight_requests") == 1).then_some(())
    })
    .await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(twins.receipts().len(), 1);
    let gateway = home.start().await;
    let timeline = gateway.done(&token, &id).await;
    assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
    assert_eq!(twins.receipts().len(), 1, "its result was recorded, so it is not repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once_and_nothing_is_lost() {
    let change = |directory: &mut Value, _: &TwinSet| {
        add_device(directory, 101, "apns", &apns_token(1));
    };
    let (twins, home, mut gateway, token) = start(change).await;
    twins.set_faults(FaultPlan::parse("apns:freeze:x1").expect("a plan"));
    let ask = Ask::post(NATIVE).bearer(&token).json(r#"{"to":{"users":[101]},"title":"t"}"#);
    let id = gateway.ask(&ask).await.id();
    eventually("the attempt is under way", async || (twins.receipts().len() == 1).then_some(()))
        .await;
    gateway.signal("TERM");
    eventually("the gateway drains", async || {
        gateway.log().iter().any(|line| line.contains("Draining")).then_some(())
    })
    .await;
    gateway.signal("TERM");
    gateway.ended().await;
    let gateway = home.start().await;
    let timeline = gateway.done(&token, &id).await;
    assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_some_traffic_every_metric_of_the_catalogue_is_there() {
    let twins = world::twins().await;
    let mut directory = world::directory();
    add_device(&mut directory, 101, "apns", &apns_token(1));
    add_device(&mut directory, 101, "fcm", "flaky-1");
    let url = format!("{}/hooks/metrics", twins.webhook_url());
    add_hook(&mut directory, "webhook", &url, &["notification"]);
    let routing = rule("event-routing", "config = { \"route.*\" = \"apns,fcm,webhook\" }");
    let home = world::home(&twins, directory).with(&routing);
    let gateway = home.start().await;
    let token = home.token(101).await;
    let body = json!({ "to": { "users": [101] }, "title": "t" }).to_string();
    for ask in [
        Ask::post(NATIVE).bearer(&token).json(body.clone()).key("k"),
        Ask::post(NATIVE).bearer(&token).json(body.clone()).key("k"),
        Ask::post(NATIVE).bearer(&token).json("{"),
        Ask::new("BREW", "/"),
        Ask::post("/bugler/v1/notifications:batch").bearer(&token).lines(body),
    ] {
        let reply = gateway.ask(&ask).await;
        if !reply.id().is_empty() {
            gateway.done(&token, &reply.id()).await;
        }
    }
    // Those of Redis, and of an outbox before it, come with Redis; those of shadows and stages with a
    // deploy.
    let elsewhere = ["bugler_redis_", "bugler_outbox_", "bugler_rule_shadow_", "bugler_rule_info"];
    let is_elsewhere = |name: &&str| elsewhere.iter().any(|of| name.starts_with(of));
    let wanted = CATALOG.iter().map(|series| series.name);
    let wanted: BTreeSet<_> = wanted.filter(|name| !is_elsewhere(name)).collect();
    let missing = |families: &BTreeSet<&str>| {
        wanted.difference(families).copied().collect::<Vec<_>>().join(" ")
    };
    let mut last = String::new();
    let mut tries = 0;
    eventually("the gauges are published", async || {
        tries += 1;
        last = missing(&gateway.metrics().await.families());
        (last.is_empty() || tries > 100).then_some(())
    })
    .await;
    assert_eq!(last, "", "families without a series");
    // Nothing is emitted that the catalogue does not know.
    let metrics = gateway.metrics().await;
    let parts = ["_bucket", "_sum", "_count"];
    let unknown: Vec<_> = metrics
        .families()
        .into_iter()
        .filter(|name| name.starts_with("bugler_") && !wanted.contains(name))
        .filter(|name| {
            !parts.iter().filter_map(|part| name.strip_suffix(part)).any(|n| wanted.contains(n))
        })
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
