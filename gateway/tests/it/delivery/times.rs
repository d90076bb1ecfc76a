//! When a delivery leaves: at its time, after what the provider asked for, never past its end.

use bugler_loadtest::twins::TwinName;
use serde_json::{Value, json};

use super::{World, attempts, millis};
use crate::support::client::Ask;
use crate::support::world::{add_device, apns_token};
use crate::support::{eventually, now_ms};

fn phones(directory: &mut Value) {
    add_device(directory, 101, "apns", &apns_token(1));
    add_device(directory, 101, "fcm", "phone-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_notification_comes_at_its_time_and_not_before() {
    let world = World::new(|directory, _| phones(directory), &[]).await;
    let at = now_ms() + 1_500;
    let native =
        world.send(&json!({ "to": { "users": [101] }, "title": "t", "startAt": at })).await;
    let time = jiff::Timestamp::from_millisecond(i64::try_from(at).expect("this century"));
    let time = time.expect("this century").to_string();
    let body = json!({ "content": { "text": "t" }, "scope": "USR", "emails": "username@jigx.com",
        "startAt": time });
    let ask = Ask::post("/v2.0/tool/organizations/101/notifications");
    let reply = world.gateway.ask(&ask.bearer(&world.token).json(body.to_string())).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(millis(&reply.json()["startAt"]), at);
    for id in [native, reply.id()] {
        let queued = world.gateway.timeline(&world.token, &id).await;
        assert_eq!(millis(&queued["startAt"]), at);
        let timeline = world.done(&id).await;
        assert_eq!(timeline["deliveries"]["delivered"], 2, "{timeline:#}");
        for twin in [TwinName::Apns, TwinName::Fcm] {
            for receipt in world.receipts(twin, &timeline) {
                assert!(receipt.at_ms >= at, "{} ms early", at - receipt.at_ms);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_notification_says_that_it_waits() {
    let world = World::new(|directory, _| phones(directory), &[]).await;
    let at = now_ms() + 3_600_000;
    let id = world.send(&json!({ "to": { "users": [101] }, "title": "t", "startAt": at })).await;
    eventually("the timer is counted", async || {
        (world.gateway.metrics().await.count("bugler_log_timers") == 1).then_some(())
    })
    .await;
    let timeline = world.gateway.timeline(&world.token, &id).await;
    assert_eq!(timeline["state"], "queued", "{timeline:#}");
    assert_eq!(timeline["deliveries"]["total"], 0);
    assert_eq!(world.twins.receipts().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_providers_retry_after_is_waited_for() {
    let world = World::new(|directory, _| phones(directory), &[]).await;
    world.faults("apns:status=429:x1&retry-after=2;fcm:status=503:x1&retry-after=2");
    let id = world.send_to_user(101).await;
    let timeline = world.done(&id).await;
    assert_eq!(timeline["deliveries"]["delivered"], 2, "{timeline:#}");
    for twin in [TwinName::Apns, TwinName::Fcm] {
        let receipts = world.receipts(twin, &timeline);
        let times: Vec<_> = receipts.iter().map(|receipt| receipt.at_ms).collect();
        assert_eq!(times.len(), 2, "{twin}: {timeline:#}");
        // Without Retry-After the configured wait is 50 ms.
        assert!(times[1] - times[0] >= 2_000, "{twin} came back after {times:?}");
    }
    let announced: Vec<_> = attempts(&timeline)
        .into_iter()
        .filter(|event| event["outcome"] == "retry")
        .map(|event| millis(&event["retryAt"]) - millis(&event["at"]))
        .collect();
    assert!(announced.iter().all(|wait| *wait >= 2_000), "{announced:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_past_its_end_expires() {
    let world = World::new(|directory, _| phones(directory), &[]).await;
    world.faults("apns:status=503&retry-after=5;fcm:status=503&retry-after=5");
    let body = json!({ "to": { "users": [101] }, "title": "t", "ttl": 2 });
    let id = world.send(&body).await;
    let timeline = world.done(&id).await;
    assert_eq!(timeline["deliveries"]["expired"], 2, "{timeline:#}");
    assert_eq!(attempts(&timeline).len(), 2, "asked once, and not again after its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_survive_a_restart() {
    let world = World::new(|directory, _| phones(directory), &[]).await;
    world.faults("apns:status=503&retry-after=1;fcm:status=503&retry-after=1");
    let id = world.send_to_user(101).await;
    eventually("both were tried and wait", async || {
        let timeline = world.gateway.timeline(&world.token, &id).await;
        (attempts(&timeline).len() >= 2).then_some(())
    })
    .await;
    let world = world.restart().await;
    world.faults("");
    let timeline = world.done(&id).await;
    assert_eq!(timeline["deliveries"]["delivered"], 2, "{timeline:#}");
    let delivered: Vec<_> =
        attempts(&timeline).into_iter().filter(|event| event["outcome"] == "delivered").collect();
    assert!(delivered.iter().all(|event| event["attempt"].as_u64() >= Some(2)), "{timeline:#}");
}
