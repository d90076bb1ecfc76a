//! Whole segments go, and with them what led to them; what is left of the books still adds up.

use super::index::Projection;
use super::*;
use crate::clock::TestClock;
use crate::journal::record::SettleRecord;
use crate::journal::shard::AmendMark;
use crate::journal::{Entry, EntryKind, Resolution, SettledQuery, Settlement, Unlimited};
use crate::model::FinalState;
use std::time::Duration;
use uuid::Uuid;

const ORG: OrganizationId = OrganizationId(7);

async fn send_and_settle(journal: &DiskJournal, bytes: usize) {
    let entry = Entry {
        notification: NotificationId(Uuid::now_v7()),
        org: ORG,
        kind: EntryKind::Root,
        due: Millis(0),
        payload: Bytes::from(vec![1; bytes]),
    };
    let append = Append { entries: vec![entry], idempotency: Vec::new() };
    journal.append(ShardId(0), append).expect("accepted").await.expect("durable");
    let claims = journal.claim(ShardId(0), 1, &Unlimited).await.expect("claims");
    let settled = claims.iter().map(|claim| Settlement {
        resolved: vec![(
            DeliveryId::derive(claim.notification, "t"),
            Resolution::Final(FinalState::Dead),
        )],
        events: vec![Bytes::from_static(b"event")],
        dead: vec![(DeliveryId::derive(claim.notification, "t"), Bytes::from_static(b"copy"))],
        ..done(claim)
    });
    let settled = settled.collect();
    journal.settle(ShardId(0), settled).expect("accepted").await.expect("durable");
}

fn done(claim: &Claim) -> Settlement {
    Settlement {
        claim: claim.id,
        notification: claim.notification,
        org: ORG,
        resolved: Vec::new(),
        events: Vec::new(),
        follow_ups: Vec::new(),
        dead: Vec::new(),
        done: true,
    }
}

fn all() -> SettledQuery {
    let (from, to) = (Millis(0), Millis(u64::MAX));
    SettledQuery { org: ORG, from, to, states: 0b11_1111, before: None }
}

async fn outcomes(journal: &DiskJournal) -> usize {
    let page = journal.settled(all(), 1_000).await.expect("readable");
    page.blocks.iter().flat_map(|b| &b.settled).map(|s| s.finals.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_and_books_stay_right_across_segments_that_go() {
    const EACH: usize = 12;
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let options = DiskOptions { shards: 1, segment_bytes: 256 << 10, ..DiskOptions::default() };
    let journal = DiskJournal::open(dir.path(), options.clone(), Arc::new(clock.clone()));
    let journal = journal.expect("opens");
    for _ in 0..EACH {
        send_and_settle(&journal, 64 << 10).await;
    }
    clock.advance(options.retention + Duration::from_secs(1));
    for _ in 0..EACH {
        send_and_settle(&journal, 64 << 10).await;
    }
    let books = journal.books();
    journal.close().await;
    drop(journal);

    let journal = DiskJournal::open(dir.path(), options.clone(), Arc::new(clock.clone()));
    let journal = journal.expect("opens again");
    assert_eq!(outcomes(&journal).await, 2 * EACH);
    let before = journal.core.segments.all().len();
    projector::retain(&journal.core).expect("retention runs");
    let left = journal.core.segments.all().len();
    assert!(left < before && left > 0, "{before} segments, then {left}");

    // What is listed is what is there, and what is gone is in the sums.
    let view = journal.view().expect("a snapshot");
    let facts = view.facts().expect("readable").expect("an index");
    let carried = facts.carried[&ORG];
    let mut there = 0u64;
    let damages = view.scan(&mut |block| {
        for record in block.records {
            if let Logged::Settlement(settlement) = record {
                there += settlement.resolved.len() as u64;
            }
        }
    });
    assert_eq!(damages.expect("readable"), []);
    assert_eq!(outcomes(&journal).await as u64, there);
    let gone = carried.books().expect("whole numbers");
    assert!(gone.accepted > 0 && gone.finals[5] > 0, "{gone:?}");
    assert_eq!(gone.finals[5] + there, books.finals[5]);

    // Dead letters are kept longer than the log, each for its own time and to its last moment.
    let page = journal.dead_of(ORG, None, 1_000).await.expect("readable");
    assert_eq!(page.rows.len(), 2 * EACH);
    assert_eq!(journal.dead_kept().await, Ok(2 * EACH as u64));
    let each = EACH as u64;
    let steps =
        [(options.dead_letter_retention, (each, each)), (Duration::from_millis(1), (0, 2 * each))];
    for (step, counts) in steps {
        clock.advance(step);
        projector::retain(&journal.core).expect("retention runs");
        let view = journal.view().expect("a snapshot");
        let facts = view.facts().expect("readable").expect("an index");
        assert_eq!((facts.dead.kept, facts.dead.dropped), counts, "after {step:?} more");
    }
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_kept_for_a_timer_goes_after_it_though_its_successor_is_long_gone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let options = DiskOptions { shards: 1, segment_bytes: 256 << 10, ..DiskOptions::default() };
    let open = || {
        let journal = DiskJournal::open(dir.path(), options.clone(), Arc::new(clock.clone()));
        journal.expect("opens")
    };
    let bases = |journal: &DiskJournal| {
        let segments = journal.core.segments.all();
        segments.iter().map(|segment| segment.base).collect::<Vec<_>>()
    };
    let journal = open();
    let timer = Entry {
        notification: NotificationId(Uuid::now_v7()),
        org: ORG,
        kind: EntryKind::Root,
        due: clock.now().plus(30 * 86_400_000),
        payload: Bytes::from_static(b"later"),
    };
    let append = Append { entries: vec![timer], idempotency: Vec::new() };
    journal.append(ShardId(0), append).expect("accepted").await.expect("durable");
    for _ in 0..16 {
        send_and_settle(&journal, 64 << 10).await;
    }
    let before = bases(&journal);
    journal.close().await;
    drop(journal);
    let journal = open();
    clock.advance(options.retention + Duration::from_secs(1));
    projector::retain(&journal.core).expect("retention runs");
    let (first, last) = (before[0], before[before.len() - 1]);
    assert_eq!(bases(&journal), [first, last], "all between are gone");
    clock.advance(Duration::from_hours(24 * 30));
    let claims = journal.claim(ShardId(0), 1, &Unlimited).await.expect("claims");
    journal.settle(ShardId(0), vec![done(&claims[0])]).expect("held").await.expect("settled");
    journal.close().await;
    drop(journal);
    let journal = open();
    projector::retain(&journal.core).expect("retention runs");
    assert_eq!(bases(&journal), [last]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_of_a_damaged_segment_miss_no_more_than_what_is_damaged() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let options = DiskOptions { shards: 1, segment_bytes: 256 << 10, ..DiskOptions::default() };
    let open = || {
        let journal = DiskJournal::open(dir.path(), options.clone(), Arc::new(clock.clone()));
        journal.expect("opens")
    };
    let journal = open();
    for _ in 0..16 {
        send_and_settle(&journal, 16 << 10).await;
    }
    journal.close().await;
    drop(journal);
    let path = dir.path().join(format!("{:016x}.log", 0));
    let mut bytes = std::fs::read(&path).expect("segment");
    bytes[crate::journal::record::HEADER_BYTES * 2 + 100] ^= 1;
    std::fs::write(&path, bytes).expect("damaged");

    clock.advance(options.retention + Duration::from_secs(1));
    let journal = open();
    projector::retain(&journal.core).expect("retention runs");
    let view = journal.view().expect("a snapshot");
    let gone = view.facts().expect("readable").expect("an index").carried[&ORG];
    let (mut accepted, mut ended) = (gone.accepted, gone.finals[5]);
    let damages = view.scan(&mut |block| {
        for record in block.records {
            accepted += u64::from(matches!(record, Logged::Entry(..)));
            ended += i64::from(matches!(record, Logged::Settlement(_)));
        }
    });
    assert_eq!(damages.expect("readable"), [], "the damaged segment is gone");
    assert_eq!((accepted, ended), (15, 16), "one block is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_at_a_time_amends_a_delivery() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let options = DiskOptions { shards: 1, ..DiskOptions::default() };
    let journal = DiskJournal::open(dir.path(), options, Arc::new(clock)).expect("opens");
    let delivery = DeliveryId::derive(NotificationId(Uuid::now_v7()), "t");
    let held = journal.reserve(delivery).expect("nobody has it");
    assert!(journal.reserve(delivery).is_none());
    drop(held);
    assert!(journal.reserve(delivery).is_some());
    journal.close().await;
}

/// Sends a dead delivery again.
fn amendment(journal: &DiskJournal, id: NotificationId) -> Amendment {
    let delivery = DeliveryId::derive(id, "t");
    Amendment {
        delivery,
        notification: id,
        org: ORG,
        from: FinalState::Dead,
        last: None,
        carrier: Some(Entry {
            notification: id,
            org: ORG,
            kind: EntryKind::FollowUp,
            due: Millis(0),
            payload: Bytes::from_static(b"work"),
        }),
        event: Bytes::from_static(b"event"),
        held: journal.reserve(delivery).expect("nobody has it"),
    }
}

fn dead(journal: &DiskJournal) -> DeadCounts {
    let view = journal.view().expect("a snapshot");
    view.facts().expect("readable").expect("an index").dead
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_add_up_when_retention_was_first_and_blocks_are_applied_twice() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let options = DiskOptions { shards: 1, ..DiskOptions::default() };
    let journal = DiskJournal::open(dir.path(), options, Arc::new(clock.clone()));
    let journal = journal.expect("opens");
    send_and_settle(&journal, 10).await;
    while dead(&journal).kept < 1 {
        tokio::task::yield_now().await;
    }
    let letters = journal.dead_letters(1).await.expect("readable");
    assert_eq!(journal.core.index.drop_dead(clock.now().plus(1)).expect("dropped"), 1);
    let dropped = letters[0].notification;
    let made = NotificationId(Uuid::now_v7());
    let delivery = DeliveryId::derive(made, "t");
    // As after a crash before the next checkpoint: the letter is made again, and taken again.
    for _ in 0..2 {
        let settle = SettleRecord {
            position: 0,
            index: 0,
            due: Millis(0),
            done: true,
            notification: made,
            org: ORG,
            resolved: vec![(delivery, Resolution::Final(FinalState::Dead))],
            events: Vec::new(),
            dead: vec![(delivery, Bytes::from_static(b"copy"))],
        };
        let settled = BlockMarks { settles: vec![settle], ..BlockMarks::default() };
        let amends = [dropped, made].map(|id| AmendMark::of(amendment(&journal, id)));
        let amended = BlockMarks { amends: amends.into(), ..BlockMarks::default() };
        let blocks = [(1 << 40, settled), (1 << 41, amended)];
        let blocks = blocks.map(|(position, marks)| {
            Projection::of(position, ShardId(0), clock.now(), marks).expect("changes")
        });
        journal.core.index.write(&blocks, &[], None).expect("written");
        assert_eq!(dead(&journal), DeadCounts { kept: 0, dropped: 1, taken: 1, given_up: 0 });
    }
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_canceled_long_ago_is_forgotten_in_memory_too() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let options = DiskOptions { shards: 1, ..DiskOptions::default() };
    let journal = DiskJournal::open(dir.path(), options, Arc::new(clock.clone())).expect("opens");
    let id = |at: Millis| NotificationId(Uuid::from_u128((u128::from(at.0) << 80) | (7 << 76)));
    let old = id(clock.now());
    clock.advance(Duration::from_hours(300 * 24));
    let young = id(clock.now());
    for notification in [old, young] {
        let cancellation = Cancellation { notification, org: ORG, event: Bytes::new() };
        journal.cancel(ShardId(0), cancellation).expect("accepted").await.expect("durable");
    }
    projector::retain(&journal.core).expect("retention runs");
    assert!(journal.is_canceled(old) && journal.is_canceled(young));
    clock.advance(Duration::from_hours(150 * 24));
    projector::retain(&journal.core).expect("retention runs");
    assert!(!journal.is_canceled(old) && journal.is_canceled(young));
    journal.close().await;
}
