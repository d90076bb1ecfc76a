//! Tests of the receipt log and its file.

use std::fs::OpenOptions;
use std::io::Write;

use super::*;

fn receipt(key: &str, status: u16) -> Receipt {
    Receipt {
        seq: 0,
        twin: TwinName::Apns,
        at_ms: 1,
        key: key.to_owned(),
        target: "abc".to_owned(),
        notification: None,
        marker: Some(3),
        intact: Some(true),
        body_sha256: BodyHash([0xa5; 32]),
        status,
        reason: None,
        refused: None,
        attempt: 0,
        mail: None,
    }
}

#[test]
fn attempts_of_one_delivery_are_numbered_and_counted() {
    let log = ReceiptLog::open(10, None).expect("no file to open");
    log.record(receipt("a", 503));
    log.record(receipt("b", 200));
    log.record(receipt("a", 200));
    let attempts: Vec<_> =
        log.list(None, 0, 10).iter().map(|receipt| (receipt.seq, receipt.attempt)).collect();
    assert_eq!(attempts, [(1, 1), (2, 1), (3, 2)]);
    let counts = &log.counts()[&TwinName::Apns];
    assert_eq!((counts.received, counts.succeeded), (3, 2));
    assert_eq!(counts.by_status, BTreeMap::from([(200, 2), (503, 1)]));
}

#[test]
fn the_ring_forgets_the_oldest_and_their_attempt_numbers() {
    let log = ReceiptLog::open(2, None).expect("no file to open");
    for key in ["a", "b", "c"] {
        log.record(receipt(key, 200));
    }
    let kept: Vec<_> = log.list(None, 0, 10).into_iter().map(|receipt| receipt.key).collect();
    assert_eq!(kept, ["b", "c"]);
    assert_eq!(log.attempts_before(&receipt("a", 200)), 0);
    assert_eq!(log.state.lock().attempts.len(), 2);
    assert_eq!(log.counts()[&TwinName::Apns].received, 3);
}

#[test]
fn listing_starts_after_a_position_and_selects_a_twin() {
    let log = ReceiptLog::open(10, None).expect("no file to open");
    log.record(receipt("a", 200));
    log.record(Receipt { twin: TwinName::Fcm, ..receipt("b", 200) });
    log.record(receipt("c", 200));
    let keys = |twin, since, limit| -> Vec<String> {
        log.list(twin, since, limit).into_iter().map(|receipt| receipt.key).collect()
    };
    assert_eq!(keys(Some(TwinName::Apns), 0, 9), ["a", "c"]);
    assert_eq!(keys(None, 1, 9), ["b", "c"]);
    assert_eq!(keys(None, 0, 1), ["a"]);
    log.clear();
    assert!(keys(None, 0, 9).is_empty());
    log.record(receipt("d", 200));
    assert_eq!(log.list(None, 3, 9).len(), 1, "positions go on after clearing");
}

#[test]
fn the_file_holds_every_receipt_and_survives_a_torn_tail() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("receipts.jsonl");
    let log = ReceiptLog::open(1, Some(&path)).expect("the file opens");
    for _ in 0..100 {
        log.record(receipt("a", 200));
    }
    log.sync().expect("the file syncs");
    let read_back = read(&path).expect("the file is whole");
    assert_eq!(read_back.len(), 100);
    assert_eq!(read_back.last(), log.list(None, 0, 1).first());
    drop(log);

    let mut file = OpenOptions::new().append(true).open(&path).expect("the file opens");
    file.write_all(b"{\"seq\":1").expect("the file takes more");
    assert_eq!(read(&path).expect("only the tail is torn").len(), 100);
    file.write_all(b"\n{}\n").expect("the file takes more");
    assert!(read(&path).is_err(), "damage before the end is an error");
}
