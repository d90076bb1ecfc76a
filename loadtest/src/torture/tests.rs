//! Tests of the books: the judge must see each kind of damage, or it proves nothing.

use std::path::{Path, PathBuf};

use serde_json::json;
use uuid::Uuid;

use super::books::{Gap, Ledgers, State, audit};
use super::findings::Findings;
use super::world::{Size, World};

const SIZE: Size = Size { organizations: 4, users: 4, hooks: 1, slack: false, strict: false };

/// Ledgers in which notifications 0, 1 and 2 of organization 0 went well.
struct Run {
    _dir: tempfile::TempDir,
    client: PathBuf,
    receipts: PathBuf,
    states: PathBuf,
    world: World,
    lines: [Vec<serde_json::Value>; 3],
    gaps: Vec<Gap>,
}

fn seq(index: u64) -> u64 {
    World::first_seq(0) + index
}

fn id(index: u64) -> Uuid {
    Uuid::from_u128(u128::from(index) + 1)
}

impl Run {
    fn good() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        let (client, receipts, states) = (at("client"), at("receipts"), at("states"));
        let world = World::new(SIZE);
        let (lines, gaps) = Default::default();
        let mut run = Self { _dir: dir, client, receipts, states, world, lines, gaps };
        for index in 0..3 {
            let (intent, answer) = (1_000 + index * 10, 1_005 + index * 10);
            run.lines[0]
                .push(json!({"intent": {"first": seq(index), "count": 1, "at_ms": intent}}));
            run.lines[0].push(json!({"outcome": {"seq": seq(index),
                "outcome": {"accepted": id(index)}, "at_ms": answer}}));
            let receipt = run.receipt(index, answer + 1);
            run.lines[1].push(receipt);
            run.lines[2].push(json!(State {
                seq: seq(index),
                id: id(index),
                total: 1,
                delivered: 1,
                ..State::default()
            }));
        }
        run
    }

    fn receipt(&self, index: u64, at_ms: u64) -> serde_json::Value {
        let user = self.world.user(0, seq(index));
        json!({
            "seq": index, "twin": "apns", "at_ms": at_ms, "key": format!("d-{index}"),
            "target": World::token(0, user), "notification": id(index), "marker": seq(index),
            "intact": true, "body_sha256": "0".repeat(64), "status": 200, "reason": null,
            "refused": null, "attempt": 1,
        })
    }

    fn change(&mut self, ledger: usize, line: usize, name: &str, value: serde_json::Value) {
        self.lines[ledger][line][name] = value;
    }

    fn findings(&self) -> Findings {
        let write = |path: &Path, lines: &[serde_json::Value]| {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(path, text).expect("a ledger is written");
        };
        for (path, lines) in [&self.client, &self.receipts, &self.states].iter().zip(&self.lines) {
            write(path, lines);
        }
        let ledgers =
            Ledgers { client: &self.client, receipts: &self.receipts, states: &self.states };
        audit(&self.world, ledgers, 3, &self.gaps, |_| {}).expect("the ledgers can be read")
    }
}

/// Found: lost, phantom, duplicate, corrupt, cross-tenant, order, pending, books.
fn found(run: &Run) -> [u64; 8] {
    let findings = run.findings();
    [
        &findings.lost,
        &findings.phantom,
        &findings.duplicated,
        &findings.corrupt,
        &findings.foreign,
        &findings.inverted,
        &findings.pending,
        &findings.books,
    ]
    .map(|count| count.found)
}

#[test]
fn books_of_a_good_run_balance() {
    let run = Run::good();
    assert_eq!(found(&run), [0; 8]);
    let findings = run.findings();
    assert_eq!((findings.accepted, findings.delivered), (3, 3));
}

#[test]
fn a_delivery_that_nobody_received_is_lost_even_if_the_gateway_calls_it_delivered() {
    let mut run = Run::good();
    run.lines[1].remove(1);
    assert_eq!(found(&run), [1, 0, 0, 0, 0, 0, 0, 1]);
    run.change(2, 1, "delivered", 0.into());
    run.change(2, 1, "otherwise", 1.into());
    assert_eq!(found(&run), [0; 8], "it ended otherwise");
}

#[test]
fn what_a_class_lets_go_of_is_lost_outside_its_gap_only() {
    let mut run = Run::good();
    // Redis knows nothing any more of the last two, and the last one was delivered.
    run.lines[1].remove(1);
    run.lines[2].truncate(1);
    assert_eq!(found(&run), [1, 0, 0, 0, 0, 0, 0, 2]);
    run.gaps = vec![Gap { from_ms: 1_015, to_ms: 1_026, loses: true }];
    assert_eq!(found(&run), [0; 8]);
    assert_eq!((run.findings().let_go.found, run.findings().forgotten), (1, 1));
    run.gaps = vec![Gap { from_ms: 1_015, to_ms: 1_026, loses: false }];
    assert_eq!(found(&run)[0], 1, "an outbox keeps it");
    run.gaps = vec![Gap { from_ms: 1_016, to_ms: 1_024, loses: true }];
    assert_eq!(found(&run)[0], 1, "it was answered before");
}

#[test]
fn what_is_still_pending_is_not_drained_and_unbalances_the_books() {
    let mut run = Run::good();
    run.lines[1].remove(1);
    run.change(2, 1, "delivered", 0.into());
    run.change(2, 1, "pending", 1.into());
    assert_eq!(found(&run), [0, 0, 0, 0, 0, 0, 1, 1]);
}

#[test]
fn what_was_refused_or_never_sent_must_not_arrive() {
    let mut run = Run::good();
    run.change(0, 3, "outcome", json!({"seq": seq(1), "outcome": {"refused": 503}, "at_ms": 1}));
    assert_eq!(found(&run)[1], 1);
    let mut run = Run::good();
    let stray = run.receipt(9, 1_100);
    run.lines[1].push(stray);
    assert_eq!(found(&run)[1], 1);
    let mut run = Run::good();
    run.change(1, 0, "marker", 7.into());
    assert_eq!(found(&run)[1], 1, "a number of nobody");
}

#[test]
fn a_second_success_is_a_duplicate_and_a_new_id_is_told() {
    let mut run = Run::good();
    let mut repeat = run.receipt(1, 1_200);
    repeat["key"] = "other".into();
    run.lines[1].push(repeat);
    assert_eq!(found(&run), [0, 0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(run.findings().other_id.found, 1);
}

#[test]
fn a_key_that_was_answered_twice_must_keep_its_id() {
    let mut run = Run::good();
    let again = |index| json!({"outcome": {"seq": seq(1), "outcome": {"accepted": id(index)}, "at_ms": 1_300}});
    run.lines[0].push(again(1));
    assert_eq!(found(&run), [0; 8]);
    run.lines[0].push(again(8));
    assert!(found(&run)[1] > 0);
}

#[test]
fn changed_text_and_a_wrong_signature_are_corrupt() {
    for (name, value) in
        [("intact", json!(false)), ("refused", json!("webhook-signature is wrong"))]
    {
        let mut run = Run::good();
        run.change(1, 0, name, value);
        assert_eq!(found(&run)[3], 1, "{name}");
    }
}

#[test]
fn a_target_of_another_organization_is_cross_tenant() {
    let mut run = Run::good();
    let stranger = World::token(2, run.world.users(2).0);
    run.change(1, 0, "target", stranger.into());
    assert_eq!(found(&run)[4], 1);
    let mut run = Run::good();
    let hook = run.world.hook_paths(1).remove(0);
    run.change(1, 0, "target", hook.into());
    assert_eq!(found(&run)[4], 1);
}

#[test]
fn a_first_attempt_that_was_overtaken_is_an_inversion() {
    let mut run = Run::good();
    // Numbers 0 and 4 are for the same user.
    run.lines[0].push(json!({"intent": {"first": seq(4), "count": 1, "at_ms": 1_050}}));
    run.lines[0].push(json!({"outcome": {"seq": seq(4),
        "outcome": {"accepted": id(4)}, "at_ms": 1_055}}));
    let receipt = run.receipt(4, 1_060);
    run.lines[1].push(receipt);
    run.lines[2].push(json!(State {
        seq: seq(4),
        id: id(4),
        total: 1,
        delivered: 1,
        ..State::default()
    }));
    assert_eq!(found(&run)[5], 0);
    run.change(1, 0, "at_ms", 1_070.into());
    assert_eq!(found(&run)[5], 1);
}

#[test]
fn an_id_that_the_gateway_does_not_know_is_no_balance() {
    let mut run = Run::good();
    run.change(2, 1, "unknown", true.into());
    assert_eq!(found(&run)[7], 1);
    run.lines[2].remove(1);
    assert_eq!(found(&run)[7], 1, "never exported");
    let mut run = Run::good();
    run.change(2, 1, "twice", 1.into());
    assert_eq!(found(&run)[7], 1, "ended twice");
}
