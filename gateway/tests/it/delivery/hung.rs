//! A target that does not answer costs itself time, and nobody else.

use bugler_loadtest::twins::{TwinName, TwinSet};
use serde_json::{Value, json};

use super::{EVENT, World};
use crate::support::client::Ask;
use crate::support::eventually;
use crate::support::world::{add_device, add_hook, apns_token};

const HUNG: &str = "/hooks/hung";

fn targets(directory: &mut Value, twins: &TwinSet) {
    add_device(directory, 101, "apns", &apns_token(1));
    for path in [HUNG, "/hooks/well"] {
        let url = format!("{}{path}", twins.webhook_url());
        add_hook(directory, "webhook", &url, &[EVENT]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hung_webhook_does_not_stop_the_others() {
    let world = World::new(targets, &["dispatch.lease=60s"]).await;
    world.faults("webhook:freeze&match=/hooks/hung");
    // More than a lane holds and has in flight.
    let count = 400;
    let line = json!({ "to": { "subscriptions": true }, "event": EVENT, "title": "t" });
    let lines: Vec<_> = (0..count).map(|_| line.to_string()).collect();
    let batch = Ask::post("/bugler/v1/notifications:batch").bearer(&world.token);
    let reply = world.gateway.ask(&batch.lines(lines.join("\n"))).await;
    assert_eq!(reply.lines().last().expect("a summary")["accepted"], count);
    // The well one gets all of them, long before the hung one's first timeout of 15 s.
    eventually("the other webhook has everything", async || {
        let receipts = world.twins.receipts_since(Some(TwinName::Webhook), 0);
        let well = receipts.iter().filter(|receipt| receipt.target == "/hooks/well");
        (well.count() == count).then_some(())
    })
    .await;
    // And so does another provider, for the same organization.
    let id = world.send_to_user(101).await;
    let timeline = world.done(&id).await;
    assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
    let hung = world.twins.receipts_since(Some(TwinName::Webhook), 0);
    let hung: Vec<_> = hung.iter().filter(|receipt| receipt.target == HUNG).collect();
    assert!(!hung.is_empty(), "the hung one was tried");
    assert!(hung.iter().all(|receipt| receipt.attempt == 1), "none has been given up yet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_recorded_as_unknown_and_tried_again() {
    let world = World::new(targets, &["providers.webhook.timeout=300ms"]).await;
    world.faults("webhook:freeze:x1&match=/hooks/hung");
    let id = world.send_to_hooks().await;
    let timeline = world.done(&id).await;
    assert_eq!(timeline["deliveries"]["delivered"], 2, "{timeline:#}");
    let events = timeline["timeline"].as_array().expect("a timeline");
    assert!(events.iter().any(|event| event["outcome"] == "unknown"), "{timeline:#}");
    let receipts = world.receipts(TwinName::Webhook, &timeline);
    let hung: Vec<_> = receipts.iter().filter(|receipt| receipt.target == HUNG).collect();
    assert_eq!(hung.len(), 2);
    assert_eq!(hung[0].key, hung[1].key, "the repeat can be folded by its id");
}
