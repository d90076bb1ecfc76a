//! Rules decide, and the timeline and `bugler trace` show what they decided.

use bugler_loadtest::twins::TwinSet;
use serde_json::Value;

use super::{EVENT, World, attempts};
use crate::support::gateway::{Failure, run};
use crate::support::world::{add_device, add_hook, apns_token, rule};

fn everything(directory: &mut Value, twins: &TwinSet) {
    add_device(directory, 101, "apns", &apns_token(1));
    add_device(directory, 101, "fcm", "phone-1");
    let url = format!("{}/hooks/rules", twins.webhook_url());
    add_hook(directory, "webhook", &url, &[EVENT]);
}

/// Pushes go to APNs only, everything else everywhere.
fn routing() -> String {
    rule(
        "event-routing",
        "config = { \"route.notification\" = \"apns\", \"route.*\" = \"apns,fcm,webhook\" }",
    )
}

async fn trace(world: &World, arguments: &[&str]) -> Failure {
    trace_as(world, &world.gateway.url(), &world.token, arguments).await
}

async fn trace_as(world: &World, url: &str, token: &str, arguments: &[&str]) -> Failure {
    let mut command = world.home.command();
    command.args(["trace", "--url", url, "--token", token]).args(arguments);
    run(command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rules_decision_holds_and_is_shown_with_its_name_and_version() {
    let world = World::with_rules(everything, &[], &routing()).await;
    let id = world.send_to_user(101).await;
    let timeline = world.done(&id).await;
    assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
    assert_eq!(timeline["deliveries"]["suppressed"], 1, "{timeline:#}");
    let sent = attempts(&timeline);
    assert_eq!(sent.len(), 1);
    assert!(sent[0]["target"].as_str().is_some_and(|target| target.starts_with("apns:")));
    let events = timeline["timeline"].as_array().expect("a timeline");
    let ruled = events.iter().find(|event| event["type"] == "ruled").expect("a decision");
    assert_eq!(ruled["recipient"], "user:101");
    let decision = &ruled["decisions"][0];
    assert_eq!(
        (&decision["rule"], &decision["version"]),
        (&"event-routing".into(), &"1.2.3".into())
    );
    assert_eq!(decision["decision"], "deliver");
    assert!(decision["fuel"].as_u64() > Some(0), "{decision}");

    let text = trace(&world, &[&id]).await;
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    for part in [id.as_str(), "done", "event-routing@1.2.3", "attempt 1", "apns:", "delivered"] {
        assert!(text.stdout.contains(part), "{part} is not in {}", text.stdout);
    }
    let json = trace(&world, &[&id, "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(shown, timeline);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_can_hold_and_the_hold_is_shown() {
    // It is night where the recipient lives, since an hour ago and for another hour.
    let here = jiff::Timestamp::now().in_tz("Europe/Kyiv").expect("a zone");
    let hour = |hours: i64| {
        let then = here.checked_add(jiff::SignedDuration::from_hours(hours)).expect("this century");
        then.strftime("%H:%M").to_string()
    };
    let (from, to) = (hour(-1), hour(1));
    let quiet = rule("quiet-hours", &format!("config = {{ from = \"{from}\", to = \"{to}\" }}"));
    let world = World::with_rules(everything, &[], &quiet).await;
    let id = world.send_to_user(101).await;
    let held = crate::support::eventually("the rule holds the notification", async || {
        let timeline = world.gateway.timeline(&world.token, &id).await;
        let events = timeline["timeline"].as_array().cloned().unwrap_or_default();
        events.into_iter().find(|event| event["type"] == "held")
    })
    .await;
    assert_eq!(held["recipient"], "user:101", "{held:#}");
    assert!(held["until"].is_string(), "{held:#}");
    assert_eq!(world.twins.receipts().len(), 0, "nothing is sent meanwhile");
    let text = trace(&world, &[&id]).await;
    assert!(text.stdout.contains("held"), "{}", text.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trace_says_what_is_wrong() {
    let world = World::new(everything, &[]).await;
    let id = world.send_to_user(101).await;
    world.done(&id).await;
    let unknown = trace(&world, &["00000000-0000-7000-8000-000000000000"]).await;
    assert_eq!(unknown.code, Some(6), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("BGL-1404"), "{}", unknown.stderr);
    let rival = world.home.token(201).await;
    let url = world.gateway.url();
    let foreign = trace_as(&world, &url, &rival, &[&id]).await;
    assert_eq!(foreign.code, Some(6), "a foreign notification is as if it were not there");
    assert_eq!(foreign.stderr, unknown.stderr);
    assert_eq!(trace_as(&world, &url, "x", &[&id]).await.code, Some(5));
    assert_eq!(trace_as(&world, "http://127.0.0.1:9", "x", &[&id]).await.code, Some(4));
}
