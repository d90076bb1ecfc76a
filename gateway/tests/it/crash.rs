//! `kill -9` at full speed, again and again: nothing acknowledged is lost, little is repeated.
//!
//! The judges are the client's ledger and the twins' receipts, which no crash touches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bugler_loadtest::ledger::{ClientEntry, ClientLedger, Expectation, Outcome, Verdict, check};
use bugler_loadtest::load::{Dialect, Load, LoadPlan, Mode, Recipients, Stop};
use bugler_loadtest::marker;
use bugler_loadtest::twins::TwinSet;
use serde_json::Value;
use uuid::Uuid;

use crate::support::client::Ask;
use crate::support::gateway::{Gateway, Home};
use crate::support::{eventually, now_ms, world};

/// `dispatch.max_in_flight`: what one crash may repeat.
const IN_FLIGHT_MAX: u64 = 1024;

const USERS: u32 = 200;

/// Users with one device each, half of them of every platform: a device gets one try at a time.
fn directory() -> Value {
    let users: Vec<_> = (1..=USERS).map(user).collect();
    serde_json::json!({
        "organizations": [{ "id": 101, "name": "Acme Corp", "slug": "acme" }],
        "users": users,
    })
}

fn user(id: u32) -> Value {
    let (platform, token) = match id % 2 {
        0 => ("apns", world::apns_token(id)),
        _ => ("fcm", format!("phone-of-user-{id}")),
    };
    serde_json::json!({
        "id": id, "organization": 101, "role": 1, "status": "active",
        "email": format!("user{id}@example.com"), "name": format!("User {id}"),
        "devices": [{ "platform": platform, "app": "main", "token": token }],
    })
}

struct Run {
    home: Home,
    twins: TwinSet,
    token: String,
    client: Vec<ClientEntry>,
}

impl Run {
    async fn new() -> Self {
        let twins = world::twins().await;
        // A project's pace begins low after each start; here thousands are waited for.
        let home = world::home(&twins, directory())
            .set("limits.blynk_requests=0")
            .set("providers.fcm.main.messages_per_second=0");
        // Minted before the gateway starts: both make the key file if there is none.
        let token = home.token(101).await;
        Self { home, twins, token, client: Vec::new() }
    }

    /// Loads a gateway until it has accepted `enough` more, and kills it while all go on sending.
    async fn life(&mut self, mode: Mode, enough: u64) {
        let gateway = self.home.start().await;
        let first_seq = self.client.last().map_or(1, |entry| entry.seq + 1);
        let ledger = Arc::new(ClientLedger::open(first_seq, None).expect("it is in memory"));
        let plan = LoadPlan {
            url: gateway.url(),
            token: self.token.clone(),
            mode,
            connections: 16,
            stop: Stop::After(Duration::from_secs(60)),
            recipients: Recipients { first: 1, last: u64::from(USERS), ..Recipients::default() },
            first_seq,
            ..LoadPlan::default()
        };
        let load = Load::start(plan, Arc::clone(&ledger)).expect("a right plan");
        eventually("enough notifications are accepted", async || {
            (load.progress().accepted.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
        gateway.kill();
        load.stop();
        let report = load.finish().await;
        assert_eq!(report.refused, 0, "{report}");
        self.client.extend(ledger.entries());
    }

    fn verdict(&self, kills: u64) -> Verdict {
        let expected = Expectation {
            targets_per_notification: 1,
            duplicates_max: IN_FLIGHT_MAX * kills,
            ended_otherwise: HashMap::new(),
        };
        let mut receipts = self.twins.receipts();
        // A request torn in half by the kill says nothing; it is sent again whole.
        receipts.retain(|receipt| receipt.reason.as_deref() != Some("broken off by the sender"));
        check(&self.client, &receipts, &expected)
    }

    /// Waits until everything that was promised has arrived and nothing more comes.
    async fn judge(&self, gateway: &Gateway, kills: u64) -> Verdict {
        let mut missing = u64::MAX;
        eventually("nothing acknowledged is missing", async || {
            let found = self.verdict(kills).lost.found;
            assert!(found <= missing, "what has arrived stays");
            missing = found;
            (missing == 0).then_some(())
        })
        .await;
        gateway.drained().await;
        let verdict = self.verdict(kills);
        assert!(verdict.holds(), "{verdict}");
        assert_eq!(verdict.repeats_with_other_id, 0, "{verdict}");
        assert_eq!(verdict.rejected, 0, "{verdict}");
        verdict
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9_under_single_requests() {
    let mut run = Run::new().await;
    for enough in [300, 2_000, 50, 1_500] {
        run.life(Mode::Single(Dialect::Native), enough).await;
    }
    let gateway = run.home.start().await;
    let verdict = run.judge(&gateway, 4).await;
    assert!(verdict.accepted >= 3_850, "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9_under_bulk_requests() {
    let mut run = Run::new().await;
    for enough in [2_000, 6_000, 500] {
        run.life(Mode::Bulk { lines_per_request: 100 }, enough).await;
    }
    let gateway = run.home.start().await;
    run.judge(&gateway, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_dialect_keeps_its_promise_through_kill_9() {
    let mut run = Run::new().await;
    run.life(Mode::Single(Dialect::Jigx { organization: String::from("101") }), 500).await;
    run.life(Mode::Single(Dialect::Blynk), 500).await;
    let gateway = run.home.start().await;
    run.judge(&gateway, 2).await;
}

/// Notifications `first..first + count` that are due at `at`, accepted in one request.
async fn schedule(run: &mut Run, gateway: &Gateway, first: u64, count: u64, at: u64) {
    let mut body = Vec::new();
    for seq in first..first + count {
        body.extend_from_slice(b"{\"title\":\"");
        marker::write_title(&mut body, seq);
        body.extend_from_slice(b"\",\"body\":\"");
        marker::write_text(&mut body, seq, 60);
        let user = seq % u64::from(USERS) + 1;
        let rest = format!("\",\"to\":{{\"users\":[{user}]}},\"startAt\":{at}}}\n");
        body.extend_from_slice(rest.as_bytes());
    }
    let ask = Ask::post("/bugler/v1/notifications:batch").bearer(&run.token).lines(body);
    let reply = gateway.ask(&ask).await;
    let id = |line: &Value| line["id"].as_str().and_then(|id| Uuid::try_parse(id).ok());
    let ids: Vec<_> = reply.lines().iter().filter_map(id).collect();
    assert_eq!(ids.len() as u64, count, "{}", reply.text());
    let entries = (first..).zip(ids);
    run.client.extend(entries.map(|(seq, id)| {
        let outcome = Outcome::Accepted(Some(id));
        ClientEntry { seq, outcome }
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scheduled_survives_kill_9_and_comes_at_its_time() {
    let mut run = Run::new().await;
    let gateway = run.home.start().await;
    // One part is due while no gateway runs, one after the next has started.
    let (early, late) = (now_ms() + 300, now_ms() + 3_000);
    schedule(&mut run, &gateway, 1, 200, early).await;
    schedule(&mut run, &gateway, 201, 200, late).await;
    gateway.kill();
    run.home.start().await.kill();
    let gateway = run.home.start().await;
    run.judge(&gateway, 2).await;
    for receipt in run.twins.receipts().iter().filter(|receipt| receipt.marker.is_some()) {
        let due = if receipt.marker < Some(201) { early } else { late };
        assert!(receipt.at_ms >= due, "{receipt:?} came before {due}");
    }
}
