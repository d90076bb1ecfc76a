//! What each provider's answer leads to: delivered, tried again, given up, target removed.

use bugler_loadtest::twins::{TwinName, TwinSet};
use serde_json::Value;

use super::{EVENT, World, attempts};
use crate::support::world::{add_device, add_hook, apns_token};

/// User 101 with the devices `tokens`.
fn devices(tokens: &'static [(&str, &str)]) -> impl FnOnce(&mut Value, &TwinSet) {
    move |directory, _| {
        for (platform, token) in tokens {
            add_device(directory, 101, platform, token);
        }
    }
}

/// A webhook and a Slack hook of organization 101, at these last parts of their paths.
fn hooks(webhook: &'static str, slack: &'static str) -> impl FnOnce(&mut Value, &TwinSet) {
    move |directory, twins| {
        let url = format!("{}/hooks/{webhook}", twins.webhook_url());
        add_hook(directory, "webhook", &url, &[EVENT]);
        let url = format!("{}/services/T0/B0/{slack}", twins.slack_url());
        add_hook(directory, "slack", &url, &[EVENT]);
    }
}

/// Two devices of user 101, and both kinds of hooks at `name`.
fn everywhere(name: &'static str) -> impl FnOnce(&mut Value, &TwinSet) {
    move |directory, twins| {
        add_device(directory, 101, "apns", &apns_token(1));
        add_device(directory, 101, "fcm", "phone-1");
        hooks(name, name)(directory, twins);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_provider_takes_what_the_gateway_sends_and_the_timeline_says_so() {
    let world = World::new(everywhere("all"), &[]).await;
    let secret = crate::support::world::SECRET;
    world.twins.register_secret("/hooks/all", secret).expect("a right secret");
    let to_user = world.send_to_user(101).await;
    let to_hooks = world.send_to_hooks().await;
    for (id, twins) in [
        (&to_user, [TwinName::Apns, TwinName::Fcm]),
        (&to_hooks, [TwinName::Webhook, TwinName::Slack]),
    ] {
        let timeline = world.done(id).await;
        assert_eq!(timeline["deliveries"]["delivered"], 2, "{timeline:#}");
        assert_eq!(timeline["deliveries"]["total"], 2);
        assert_eq!(timeline["timeline"][0]["type"], "expanded");
        assert_eq!(attempts(&timeline).len(), 2);
        for twin in twins {
            let receipts = world.receipts(twin, &timeline);
            assert_eq!(receipts.len(), 1, "{twin}: {receipts:#?}");
            assert_eq!((receipts[0].status, &receipts[0].refused), (200, &None), "{twin}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_their_provider_calls_gone_are_removed_for_good() {
    // Targets the twins answer with 410, 404 UNREGISTERED; beside each a good one.
    const DEAD: &str = "dead000000000000000000000000000000000000000000000000000000000001";
    const GOOD: &str = "ab00000000000000000000000000000000000000000000000000000000000001";
    let tokens = &[("apns", DEAD), ("apns", GOOD), ("fcm", "unregistered-1"), ("fcm", "phone-1")];
    let world = World::new(devices(tokens), &[]).await;
    let id = world.send_to_user(101).await;
    let timeline = world.done(&id).await;
    assert_eq!(timeline["deliveries"]["delivered"], 2, "{timeline:#}");
    assert_eq!(timeline["deliveries"]["rejected"], 2);
    let gone: Vec<_> =
        attempts(&timeline).into_iter().filter(|event| event["outcome"] == "gone").collect();
    assert_eq!(gone.len(), 2, "{timeline:#}");
    assert!(gone.iter().any(|event| event["reason"] == "Unregistered"), "{gone:#?}");
    assert!(gone.iter().any(|event| event["reason"] == "UNREGISTERED"), "{gone:#?}");

    // They stay away, also from the next process.
    let id = world.send_to_user(101).await;
    assert_eq!(world.done(&id).await["deliveries"]["total"], 2);
    let world = world.restart().await;
    let id = world.send_to_user(101).await;
    assert_eq!(world.done(&id).await["deliveries"]["total"], 2);
    let dead = |token: &str| {
        let receipts = world.twins.receipts();
        receipts.iter().filter(|receipt| receipt.target == token).count()
    };
    assert_eq!((dead(DEAD), dead("unregistered-1")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_that_are_gone_are_disabled() {
    let world = World::new(hooks("gone", "archived"), &[]).await;
    let id = world.send_to_hooks().await;
    let timeline = world.done(&id).await;
    assert_eq!(timeline["deliveries"]["rejected"], 2, "{timeline:#}");
    assert!(attempts(&timeline).iter().all(|event| event["outcome"] == "gone"), "{timeline:#}");
    let id = world.send_to_hooks().await;
    assert_eq!(world.done(&id).await["deliveries"]["total"], 0);
    assert_eq!(world.twins.receipts().len(), 2, "nobody is asked again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_token_that_is_wrong_is_rejected_at_once() {
    const BAD: &str = "badd000000000000000000000000000000000000000000000000000000000001";
    let world = World::new(devices(&[("apns", BAD), ("fcm", "mismatch-1")]), &[]).await;
    let id = world.send_to_user(101).await;
    let timeline = world.done(&id).await;
    assert_eq!(timeline["deliveries"]["rejected"], 2, "{timeline:#}");
    assert_eq!(attempts(&timeline).len(), 2, "one try each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_failure_is_tried_again_with_the_same_id() {
    let world = World::new(everywhere("again"), &[]).await;
    world.faults("apns:status=429:x2;fcm:status=503:x2;slack:status=500:x2;webhook:status=503:x2");
    let to_user = world.send_to_user(101).await;
    let to_hooks = world.send_to_hooks().await;
    for (id, twins) in [
        (&to_user, [TwinName::Apns, TwinName::Fcm]),
        (&to_hooks, [TwinName::Webhook, TwinName::Slack]),
    ] {
        let timeline = world.done(id).await;
        assert_eq!(timeline["deliveries"]["delivered"], 2, "{timeline:#}");
        let numbers = |is_delivered: bool| {
            let mut numbers: Vec<_> = attempts(&timeline)
                .into_iter()
                .filter(|event| (event["outcome"] == "delivered") == is_delivered)
                .filter_map(|event| event["attempt"].as_u64())
                .collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(numbers(false), [1, 1, 2, 2], "{timeline:#}");
        assert_eq!(numbers(true), [3, 3], "{timeline:#}");
        for twin in twins {
            let receipts = world.receipts(twin, &timeline);
            let statuses: Vec<_> = receipts.iter().map(|receipt| receipt.status == 200).collect();
            assert_eq!(statuses, [false, false, true], "{twin}");
            assert!(receipts.iter().all(|receipt| receipt.key == receipts[0].key), "{twin}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_to_the_end_is_dead_and_kept() {
    let change = |directory: &mut Value, twins: &TwinSet| {
        add_device(directory, 101, "fcm", "phone-1");
        hooks("never", "never")(directory, twins);
    };
    let world = World::new(change, &["dispatch.retry.push.attempts_max=3"]).await;
    world.faults("fcm:status=500;slack:status=500;webhook:status=500");
    let to_user = world.send_to_user(101).await;
    let to_hooks = world.send_to_hooks().await;
    let timeline = world.done(&to_user).await;
    assert_eq!(timeline["deliveries"]["dead"], 1, "{timeline:#}");
    assert_eq!(attempts(&timeline).len(), 3);
    let timeline = world.done(&to_hooks).await;
    assert_eq!(timeline["deliveries"]["dead"], 2, "{timeline:#}");
    // Three for Slack; the webhook's schedule has three waits, so four.
    assert_eq!(attempts(&timeline).len(), 7);
    crate::support::eventually("the dead letters are counted", async || {
        let metrics = world.gateway.metrics().await;
        (metrics.count("bugler_dlq_entries") == 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_cost_a_repeat_at_most() {
    let world = World::new(everywhere("broken"), &[]).await;
    world.faults(
        "apns:goaway:x1&reset:x1&refuse:x1;fcm:reset:x1&rst-stream:x1;\
         slack:cut:x1&reset:x1;webhook:reset:x1&cut:x1",
    );
    let to_user = world.send_to_user(101).await;
    let to_hooks = world.send_to_hooks().await;
    for (id, twins) in [
        (&to_user, [TwinName::Apns, TwinName::Fcm]),
        (&to_hooks, [TwinName::Webhook, TwinName::Slack]),
    ] {
        let timeline = world.done(id).await;
        assert_eq!(timeline["deliveries"]["delivered"], 2, "{timeline:#}");
        assert!(attempts(&timeline).len() > 2, "nothing broke: {timeline:#}");
        for twin in twins {
            let receipts = world.receipts(twin, &timeline);
            let taken = receipts.iter().filter(|receipt| receipt.succeeded()).count();
            assert!((1..=2).contains(&taken), "{twin}: {receipts:#?}");
            assert!(receipts.iter().all(|receipt| receipt.key == receipts[0].key), "{twin}");
        }
    }
}
