//! Tests of the ledgers: the checker must see each kind of damage, or it proves nothing.

use uuid::Uuid;

use super::*;
use crate::twins::{BodyHash, Receipt, TwinName};

fn accepted(seq: u64) -> ClientEntry {
    ClientEntry { seq, outcome: Outcome::Accepted(Some(id(seq))) }
}

fn id(seq: u64) -> Uuid {
    Uuid::from_u128(u128::from(seq) + 1)
}

fn receipt(seq: u64, target: &str) -> Receipt {
    Receipt {
        seq: 0,
        twin: TwinName::Apns,
        at_ms: 0,
        key: format!("delivery-{seq}-{target}"),
        target: target.to_owned(),
        notification: Some(id(seq).to_string()),
        marker: Some(seq),
        intact: Some(true),
        body_sha256: BodyHash([0; 32]),
        status: 200,
        reason: None,
        refused: None,
        attempt: 1,
        mail: None,
    }
}

fn one_target() -> Expectation {
    Expectation { targets_per_notification: 1, ..Expectation::default() }
}

/// Found per invariant: lost, phantom, duplicated, corrupt.
fn found(client: &[ClientEntry], receipts: &[Receipt], expected: &Expectation) -> [u64; 4] {
    check(client, receipts, expected).invariants().map(|invariant| invariant.found)
}

#[test]
fn a_run_where_everything_arrived_once_holds() {
    let client = [accepted(1), accepted(2)];
    let receipts = [receipt(1, "a"), receipt(2, "b")];
    let verdict = check(&client, &receipts, &one_target());
    assert!(verdict.holds());
    assert_eq!((verdict.accepted, verdict.delivered), (2, 2));
    assert_eq!(verdict.to_string().matches("holds").count(), 4);
}

#[test]
fn an_accepted_notification_that_never_arrives_is_lost() {
    let client = [accepted(1), accepted(2)];
    assert_eq!(found(&client, &[receipt(1, "a")], &one_target()), [1, 0, 0, 0]);
    let failed = Receipt { status: 503, ..receipt(2, "b") };
    let verdict = check(&client, &[receipt(1, "a"), failed], &one_target());
    assert!(!verdict.holds());
    assert!(verdict.to_string().contains("I1 lost"), "{verdict}");
    assert!(verdict.to_string().contains("BROKEN"), "{verdict}");
}

#[test]
fn each_missing_target_counts() {
    let two = Expectation { targets_per_notification: 2, ..Expectation::default() };
    assert_eq!(found(&[accepted(1)], &[receipt(1, "a")], &two), [1, 0, 0, 0]);
    assert_eq!(found(&[accepted(1)], &[receipt(1, "a"), receipt(1, "b")], &two), [0; 4]);
}

#[test]
fn a_final_refusal_of_the_provider_or_another_end_is_no_loss() {
    let gone = Receipt { status: 410, ..receipt(1, "a") };
    assert_eq!(found(&[accepted(1)], &[gone], &one_target()), [0; 4]);
    let expired = Expectation { ended_otherwise: [(id(1), 1)].into(), ..one_target() };
    assert_eq!(found(&[accepted(1)], &[], &expired), [0; 4]);
}

#[test]
fn what_was_refused_or_never_sent_is_a_phantom() {
    let refused = ClientEntry { seq: 1, outcome: Outcome::Refused(503) };
    assert_eq!(found(&[refused], &[receipt(1, "a"), receipt(1, "a")], &one_target()), [0, 1, 0, 0]);
    assert_eq!(found(&[], &[receipt(9, "a")], &one_target()), [0, 1, 0, 0]);
    let unmarked = Receipt { marker: None, notification: None, ..receipt(1, "a") };
    assert_eq!(found(&[accepted(1)], &[receipt(1, "a"), unmarked], &one_target()), [0, 1, 0, 0]);
    let elsewhere = [receipt(1, "a"), receipt(1, "b")];
    assert_eq!(found(&[accepted(1)], &elsewhere, &one_target()), [0, 1, 0, 0]);
}

#[test]
fn unknown_ones_may_arrive_or_not_but_never_half() {
    let unknown = ClientEntry { seq: 1, outcome: Outcome::Unknown };
    let two = Expectation { targets_per_notification: 2, ..Expectation::default() };
    assert_eq!(found(&[unknown], &[], &two), [0; 4]);
    let whole = [receipt(1, "a"), receipt(1, "b")];
    assert_eq!(check(&[unknown], &whole, &two).recovered, 1);
    assert_eq!(found(&[unknown], &whole, &two), [0; 4]);
    assert_eq!(found(&[unknown], &whole[..1], &two), [1, 0, 0, 0]);
}

#[test]
fn a_second_success_is_a_duplicate_within_its_bound() {
    let repeat = [receipt(1, "a"), receipt(1, "a"), receipt(1, "a")];
    assert_eq!(found(&[accepted(1)], &repeat, &one_target()), [0, 0, 2, 0]);
    let retried = [Receipt { status: 503, ..receipt(1, "a") }, receipt(1, "a")];
    assert_eq!(found(&[accepted(1)], &retried, &one_target()), [0; 4]);
    let bounded = Expectation { duplicates_max: 2, ..one_target() };
    assert!(check(&[accepted(1)], &repeat, &bounded).holds());
    assert!(!check(&[accepted(1)], &repeat, &Expectation { duplicates_max: 1, ..bounded }).holds());
}

#[test]
fn a_repeat_under_another_id_is_told_apart() {
    let other = Receipt { key: "new".into(), ..receipt(1, "a") };
    let verdict = check(&[accepted(1)], &[receipt(1, "a"), other], &one_target());
    assert_eq!((verdict.duplicated.found, verdict.repeats_with_other_id), (1, 1));
}

#[test]
fn changed_text_a_wrong_signature_and_a_foreign_id_are_corrupt() {
    let client = [accepted(1), accepted(2)];
    for damaged in [
        Receipt { intact: Some(false), ..receipt(1, "a") },
        Receipt { refused: Some("webhook-signature is wrong".into()), ..receipt(1, "a") },
        Receipt { notification: Some(id(2).to_string()), ..receipt(1, "a") },
    ] {
        assert_eq!(found(&client, &[damaged, receipt(2, "b")], &one_target()), [0, 0, 0, 1]);
    }
}

#[test]
fn a_notification_is_found_by_its_id_when_the_marker_is_cut_away() {
    let unmarked = Receipt { marker: None, intact: None, ..receipt(1, "a") };
    assert_eq!(found(&[accepted(1)], &[unmarked], &one_target()), [0; 4]);
}

#[test]
fn mail_and_tokens_are_not_deliveries() {
    let mail = Receipt { twin: TwinName::Smtp, ..receipt(5, "a") };
    let token = Receipt { twin: TwinName::FcmToken, marker: None, ..receipt(6, "/token") };
    assert_eq!(found(&[], &[mail, token], &one_target()), [0; 4]);
}

#[test]
fn the_client_ledger_reads_back_what_it_wrote() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("client.jsonl");
    let ledger = ClientLedger::open(10, Some(&path)).expect("the file opens");
    ledger.intend(10, 2);
    ledger.intend(12, 2);
    let refused = ClientEntry { seq: 11, outcome: Outcome::Refused(429) };
    let without_id = ClientEntry { seq: 12, outcome: Outcome::Accepted(None) };
    ledger.settle(&[accepted(10), refused]);
    ledger.settle(&[without_id]);
    ledger.sync().expect("the file syncs");
    let unknown = ClientEntry { seq: 13, outcome: Outcome::Unknown };
    let expected = [accepted(10), refused, without_id, unknown];
    assert_eq!(ledger.entries(), expected);
    assert_eq!(ClientLedger::read(&path).expect("the file reads"), expected);
}
