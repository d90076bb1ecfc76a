//! What is done about deliveries that ended: asked for, sent again, given up, taken back, audited.

use bugler_loadtest::twins::{FaultPlan, TwinName, TwinSet};
use serde_json::{Value, json};

use super::{EVENT, World, attempts};
use crate::support::client::Ask;
use crate::support::eventually;
use crate::support::gateway::run;
use crate::support::world::{add_device, add_hook};

const QUICK: [&str; 1] = ["dispatch.retry.push.attempts_max=2"];

fn hook(directory: &mut Value, twins: &TwinSet) {
    let url = format!("{}/hooks/again", twins.webhook_url());
    add_hook(directory, "webhook", &url, &[EVENT]);
    add_device(directory, 101, "fcm", "phone-1");
}

impl World {
    async fn get(&self, path: &str) -> Value {
        let reply = self.gateway.ask(&Ask::get(path).bearer(&self.token)).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let ask = Ask::post(path).bearer(&self.token).json(body.to_string());
        let reply = self.gateway.ask(&ask).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    }

    /// Outcomes, once there are `count` of them.
    async fn outcomes(&self, query: &str, count: usize) -> Vec<Value> {
        eventually("the outcomes are there", async || {
            let page = self.get(&format!("/bugler/v1/outcomes?{query}")).await;
            let found = page["outcomes"].as_array().expect("a list").clone();
            (found.len() == count).then_some(found)
        })
        .await
    }

    /// What the operator's port proves: everything holds.
    async fn audited(&self) -> Value {
        let reply = self.gateway.admin("/audit").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let report = reply.json();
        assert_eq!(report["good"], true, "{report:#}");
        report
    }

    /// `bugler audit` on the directory of a gateway that was killed.
    async fn stopped_audit(self) -> (Option<i32>, String) {
        let Self { home, gateway, twins, .. } = self;
        gateway.kill();
        let mut command = home.command();
        command.args(["audit", "--data"]).arg(home.store());
        let ended = run(command).await;
        drop(twins);
        (ended.code, format!("{}{}", ended.stdout, ended.stderr))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_replayed_under_its_own_id_and_the_books_say_so() {
    let world = World::new(hook, &QUICK).await;
    world.faults("fcm:status=500;webhook:status=500");
    let to_user = world.send_to_user(101).await;
    let to_hook = world.send_to_hooks().await;
    world.done(&to_user).await;
    world.done(&to_hook).await;
    let dead = world.outcomes("state=dead", 2).await;
    assert!(dead.iter().all(|one| one["event"].is_string() && one["at"].is_string()), "{dead:#?}");
    assert_eq!(world.outcomes("state=delivered,rejected", 0).await, Vec::<Value>::new());
    let hooks = world.get("/bugler/v1/dead-letters?target=webhook").await;
    let letter = hooks["deadLetters"][0].clone();
    assert_eq!(hooks["deadLetters"].as_array().map(Vec::len), Some(1), "{hooks:#}");
    assert_eq!((&letter["event"], &letter["replayable"]), (&json!(EVENT), &json!(true)));
    let path = format!("/bugler/v1/dead-letters/{}", letter["delivery"].as_str().expect("an id"));
    assert_eq!(world.get(&path).await["notification"], *to_hook);

    // A rehearsal changes nothing.
    let all = json!({ "filter": {}, "dryRun": true });
    let would = world.post("/bugler/v1/dead-letters/replay", all).await;
    assert_eq!(would["replayed"].as_array().map(Vec::len), Some(2), "{would:#}");
    assert!(world.get("/bugler/v1/dead-letters").await["deadLetters"][1].is_object());

    world.twins.set_faults(FaultPlan::default());
    let body = json!({ "filter": { "target": "webhook" }, "rate": 50 });
    let done = world.post("/bugler/v1/dead-letters/replay", body.clone()).await;
    assert_eq!(done["replayed"], json!([letter["delivery"]]), "{done:#}");
    let again = world.post("/bugler/v1/dead-letters/replay", body).await;
    assert_eq!(again["replayed"], json!([]), "sent again only once: {again:#}");
    let delivered = world.outcomes("state=delivered", 1).await;
    assert_eq!(delivered[0]["delivery"], letter["delivery"]);
    assert_eq!(delivered[0]["attempts"], 1, "tries are counted anew");
    world.outcomes("state=dead", 1).await;
    let timeline = world.done(&to_hook).await;
    assert_eq!(timeline["deliveries"], json!({ "total": 1, "pending": 0, "delivered": 1 }));
    let events = timeline["timeline"].as_array().expect("events");
    assert!(events.iter().any(|event| event["type"] == "replayed"), "{timeline:#}");
    let receipts = world.receipts(TwinName::Webhook, &timeline);
    assert!(receipts.iter().all(|one| one.key == receipts[0].key), "{receipts:#?}");

    // The other one is given up: it stays dead and leaves the list.
    let given_up = world.post("/bugler/v1/dead-letters/discard", json!({ "filter": {} })).await;
    assert_eq!(given_up["discarded"].as_array().map(Vec::len), Some(1), "{given_up:#}");
    assert_eq!(world.get("/bugler/v1/dead-letters").await["deadLetters"], json!([]));
    world.outcomes("state=dead", 1).await;

    // A running journal is audited as far as its index has come.
    let report = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        loop {
            let report = world.audited().await;
            if report["total"]["discarded"] == 1 {
                break report;
            }
        }
    });
    let report = report.await.expect("the audit sees what was discarded");
    let total = &report["total"];
    assert_eq!(total["expanded"], 2, "{report:#}");
    assert_eq!((&total["ended"]["dead"], &total["ended"]["delivered"]), (&json!(1), &json!(1)));
    assert_eq!((&total["replayed"], &total["discarded"]), (&json!(1), &json!(1)));
    // Ended is ended: a replayed delivery ended twice, and the counters say both.
    let metrics = world.gateway.metrics().await;
    assert_eq!(metrics.count("bugler_deliveries_total"), 3);
    assert_eq!(metrics.count_where("bugler_deliveries_total", "outcome=\"dead\""), 2);
    let (code, text) = world.stopped_audit().await;
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_sent_again_by_its_notification() {
    let world = World::new(hook, &QUICK).await;
    world.faults("fcm:status=400");
    let id = world.send_to_user(101).await;
    let first = world.done(&id).await;
    assert_eq!(first["deliveries"]["delivered"], Value::Null, "{first:#}");
    world.twins.set_faults(FaultPlan::default());
    let path = format!("/bugler/v1/notifications/{id}/resend");
    let would = world.post(&path, json!({ "dryRun": true })).await;
    let sent = world.post(&path, json!({})).await;
    assert_eq!(would["resent"], sent["resent"]);
    assert_eq!(sent["resent"].as_array().map(Vec::len), Some(1), "{sent:#}");
    let done = eventually("it is delivered", async || {
        let timeline = world.done(&id).await;
        (timeline["deliveries"]["delivered"] == 1).then_some(timeline)
    })
    .await;
    let tries = attempts(&done);
    assert_eq!(tries.last().expect("tries")["attempt"], 1);
    let nothing = world.post(&path, json!({})).await;
    assert_eq!(nothing["resent"], json!([]), "nothing failed any more");
    let target = tries[0]["target"].clone();
    let named = world.post(&path, json!({ "targets": [target] })).await;
    assert_eq!(named["resent"], sent["resent"], "a delivered one, because it was named");
    world.audited().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_taken_back_at_once_and_ends_suppressed() {
    let world = World::new(hook, &["dispatch.retry.webhook.schedule=[\"1h\"]"]).await;
    let later = crate::support::now_ms() + 3_600_000;
    let body = json!({ "to": { "users": [101] }, "title": "t", "startAt": later });
    let waiting = world.send(&body).await;
    world.faults("webhook:status=503");
    let retrying = world.send_to_hooks().await;
    eventually("the first try failed", async || {
        let timeline = world.gateway.timeline(&world.token, &retrying).await;
        (attempts(&timeline).len() == 1).then_some(())
    })
    .await;
    for id in [&waiting, &retrying] {
        let path = format!("/bugler/v1/notifications/{id}/cancel");
        world.post(&path, json!({})).await;
        let timeline = world.done(id).await;
        assert_eq!(timeline["deliveries"]["suppressed"], 1, "{timeline:#}");
        let ended = world.outcomes(&format!("notification={id}"), 1).await;
        assert_eq!(
            (&ended[0]["state"], &ended[0]["cause"]),
            (&json!("suppressed"), &json!("canceled"))
        );
        // Once more is no mistake.
        world.post(&path, json!({})).await;
    }
    world.audited().await;
    let (code, text) = world.stopped_audit().await;
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_outcomes_are_whole_and_in_order() {
    let world = World::new(hook, &[]).await;
    let mut ids = Vec::new();
    for _ in 0..25 {
        ids.push(world.send_to_user(101).await);
    }
    world.outcomes("limit=200", 25).await;
    let (mut seen, mut after, mut last) = (Vec::new(), String::new(), u64::MAX);
    loop {
        let page = world.get(&format!("/bugler/v1/outcomes?limit=4{after}")).await;
        for one in page["outcomes"].as_array().expect("a list") {
            seen.push(one["notification"].as_str().expect("an id").to_owned());
            let at = super::millis(&one["at"]);
            assert!(at <= last.saturating_add(1_000), "newest first");
            last = at;
        }
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids, "each once");
    let none = world.get("/bugler/v1/outcomes?to=2020-01-01T00:00:00Z").await;
    assert_eq!(none["outcomes"], json!([]));
    let other = world.home.token(102).await;
    let reply = world.gateway.ask(&Ask::get("/bugler/v1/outcomes").bearer(&other)).await;
    assert_eq!(reply.json()["outcomes"], json!([]), "not those of another organization");
}
