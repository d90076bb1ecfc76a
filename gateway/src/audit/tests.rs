//! An audit must be able to fail: directories changed by hand, each told exactly.

use super::*;
use crate::clock::TestClock;
use crate::journal::disk::{DeadCounts, DiskJournal, DiskOptions};
use crate::journal::{Amendment, Append, Claim, Journal, Resolution, Settlement, Unlimited};
use crate::model::{
    Audience, Content, DeliveryId, FinalState, Millis, Notification, NotificationId,
    OrganizationId, Part, Priority, ProviderName, ShardId, Source, TargetRef, TimelineEvent,
    UserId,
};
use crate::work::{Overrides, Work, encode_event};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

const HEADER: usize = 64;

fn notification() -> Notification {
    Notification {
        id: NotificationId(Uuid::now_v7()),
        org: OrganizationId(101),
        source: Source::Native,
        event: String::from("e"),
        audience: Audience::Subscriptions,
        content: Content::default(),
        priority: Priority::Normal,
        collapse_key: None,
        created_at: Millis(1),
        created_by: String::from("test"),
        start_at: Millis(0),
        expires_at: None,
        dialect_fields: String::new(),
        mail: None,
        inbox: false,
    }
}

fn ids(notification: NotificationId) -> [DeliveryId; 2] {
    ["webhook:a", "webhook:b"].map(|key| DeliveryId::derive(notification, key))
}

/// One end delivered, one dead, of an expansion that announced two.
fn settlement(claim: &Claim) -> Settlement {
    let [first, second] = ids(claim.notification);
    let at = Millis(2);
    let (part, cause, target) = (Part::Root, String::from("c"), String::from("webhook:a"));
    let expanded = TimelineEvent::Expanded {
        at,
        part,
        deliveries: 2,
        unknown_recipients: 0,
        no_device: 0,
        more: false,
    };
    let settled = |delivery, state| {
        let (target, cause) = (target.clone(), cause.clone());
        encode_event(&TimelineEvent::Settled { at, delivery, target, state, cause })
    };
    Settlement {
        claim: claim.id,
        notification: claim.notification,
        org: claim.org,
        resolved: vec![
            (first, Resolution::Final(FinalState::Delivered)),
            (second, Resolution::Final(FinalState::Dead)),
        ],
        events: vec![
            encode_event(&expanded),
            settled(first, FinalState::Delivered),
            settled(second, FinalState::Dead),
        ],
        follow_ups: Vec::new(),
        dead: vec![(second, Bytes::from_static(b"copy"))],
        done: true,
    }
}

fn open(dir: &Path) -> DiskJournal {
    let options = DiskOptions { shards: 1, segment_bytes: 256 << 10, ..DiskOptions::default() };
    let clock = TestClock::at(Millis(1_700_000_000_000));
    DiskJournal::open(dir, options, Arc::new(clock)).expect("opens")
}

/// Three notifications settled, one at a time, and one that nobody has begun; closed.
async fn directory() -> (tempfile::TempDir, Vec<NotificationId>) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = open(dir.path());
    let mut sent = Vec::new();
    for number in 0..4 {
        let root = Work::root(notification());
        sent.push(root.notification);
        let append = Append { entries: vec![root], idempotency: Vec::new() };
        journal.append(ShardId(0), append).expect("accepted").await.expect("durable");
        if number < 3 {
            let claims = journal.claim(ShardId(0), 1, &Unlimited).await.expect("claims");
            let settled = claims.iter().map(settlement).collect();
            journal.settle(ShardId(0), settled).expect("accepted").await.expect("durable");
        }
    }
    journal.close().await;
    (dir, sent)
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join(format!("{:016x}.log", 0))
}

/// Where the blocks of the only segment begin, with their payloads' lengths.
fn blocks(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), HEADER);
    while bytes[at..].starts_with(b"BGLb") {
        let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four")) as usize;
        found.push((at, length));
        at += HEADER + length.div_ceil(8) * 8;
    }
    found
}

/// Gives a block that was changed a checksum that is right.
fn sign(bytes: &mut [u8], (at, length): (usize, usize)) {
    bytes[at + 56..at + 60].fill(0);
    let crc = crc32c::crc32c(&bytes[at..at + HEADER + length]);
    bytes[at + 56..at + 60].copy_from_slice(&crc.to_le_bytes());
}

fn report(dir: &Path) -> Report {
    audit(&LogView::open(dir).expect("nobody uses it")).expect("readable")
}

fn broken(report: &Report) -> Vec<Invariant> {
    let lines = report.lines().into_iter();
    lines.filter(|line| line.breaches > 0).map(|line| line.invariant).collect()
}

fn has(report: &Report, invariant: Invariant, parts: &[&str]) -> bool {
    let mut breaches = report.breaches();
    breaches.any(|(one, text)| one == invariant && parts.iter().all(|part| text.contains(part)))
}

#[tokio::test(flavor = "multi_thread")]
async fn good_books_are_proved_and_nothing_is_changed() {
    let (dir, _) = directory().await;
    let files = || {
        let names =
            std::fs::read_dir(dir.path()).expect("listed").map(|e| e.expect("entry").path());
        let mut files: Vec<_> =
            names.map(|path| (path.clone(), std::fs::read(path).expect("read"))).collect();
        files.sort();
        files
    };
    let before = files();
    let report = report(dir.path());
    assert_eq!(broken(&report), [], "{:#}", report.to_json());
    assert!(before == files(), "an audit only reads");
    let total = report.total();
    assert_eq!((total.accepted, total.expanded, total.pending), (4, 6, 0));
    assert_eq!(total.finals, [3, 0, 0, 0, 0, 3]);
    assert_eq!(report.entries_pending, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_named_with_its_file_and_block() {
    let (dir, _) = directory().await;
    let path = log_file(dir.path());
    let mut bytes = std::fs::read(&path).expect("read");
    let (at, _) = blocks(&bytes)[1];
    bytes[at + HEADER + 3] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let report = report(dir.path());
    let byte = format!("byte {at}:");
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(has(&report, Invariant::Readable, &[&name, &byte]), "{:#}", report.to_json());
    assert!(broken(&report).contains(&Invariant::Books));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_is_gone_is_missed_by_the_books_and_the_index() {
    let (dir, _) = directory().await;
    let path = log_file(dir.path());
    let mut bytes = std::fs::read(&path).expect("read");
    let block = blocks(&bytes)[3];
    // An idempotency key of the same length in its place.
    let payload = &mut bytes[block.0 + HEADER..block.0 + HEADER + block.1];
    payload.fill(0);
    payload[0] = 3;
    let answer = u32::try_from(block.1 - 45).expect("short");
    payload[41..45].copy_from_slice(&answer.to_le_bytes());
    sign(&mut bytes, block);
    std::fs::write(&path, bytes).expect("written");
    let report = report(dir.path());
    let told = report.to_json();
    assert!(has(&report, Invariant::Books, &["delivered: 2 by the log and 3"]), "{told:#}");
    assert!(has(&report, Invariant::Index, &["6 timeline events in the log and 9"]), "{told:#}");
    assert!(broken(&report).contains(&Invariant::DeadLetters), "{told:#}");
    assert_eq!(report.entries_pending, 2, "what it settled is open again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_state_that_is_there_twice_is_named_and_so_is_the_one_it_replaced() {
    let (dir, sent) = directory().await;
    let path = log_file(dir.path());
    let mut bytes = std::fs::read(&path).expect("read");
    let block = blocks(&bytes)[3];
    let [first, second] = ids(sent[1]);
    let payload = &mut bytes[block.0 + HEADER..block.0 + HEADER + block.1];
    let length = 16;
    let at = payload.windows(length).position(|w| w == second.0.as_bytes()).expect("is there");
    payload[at..at + length].copy_from_slice(first.0.as_bytes());
    sign(&mut bytes, block);
    std::fs::write(&path, bytes).expect("written");
    let report = report(dir.path());
    let told = report.to_json();
    let named = [first.to_string(), sent[1].to_string()];
    assert!(has(&report, Invariant::OneEnd, &[&named[0], &named[1], "second"]), "{told:#}");
    assert!(has(&report, Invariant::Paid, &[&named[1], "1 deliveries"]), "{told:#}");
}

/// Sends a delivery again, or gives its dead letter up.
async fn amend(journal: &DiskJournal, (id, delivery): (NotificationId, DeliveryId), again: bool) {
    let held = loop {
        // Until the index shows what was done to it before.
        match journal.reserve(delivery) {
            Some(held) => break held,
            None => tokio::task::yield_now().await,
        }
    };
    let work = Work::Retry {
        notification: Notification { id, ..notification() },
        target: TargetRef::Mailbox { provider: ProviderName::Email, user: UserId(1) },
        attempts: 0,
        overrides: Overrides::default(),
    };
    assert_eq!(carried(id), delivery);
    let (at, target, by) = (Millis(3), String::from("email:1"), String::from("test"));
    let event = if again {
        let from = FinalState::Dead;
        TimelineEvent::Replayed { at, delivery, target, from, by, due: at }
    } else {
        TimelineEvent::Discarded { at, delivery, target, by }
    };
    let amendment = Amendment {
        delivery,
        notification: id,
        org: OrganizationId(101),
        from: FinalState::Dead,
        last: None,
        carrier: again.then(|| work.follow_up(at)),
        event: encode_event(&event),
        held,
    };
    journal.amend(ShardId(0), vec![amendment]).expect("accepted").await.expect("durable");
}

/// The delivery that amendments here are about.
fn carried(notification: NotificationId) -> DeliveryId {
    DeliveryId::derive(notification, "email:1")
}

/// One more delivery that is dead, with a copy of its work or without.
async fn dead(journal: &DiskJournal, has_copy: bool) -> (NotificationId, DeliveryId) {
    let root = Work::root(notification());
    let id = root.notification;
    let append = Append { entries: vec![root], idempotency: Vec::new() };
    journal.append(ShardId(0), append).expect("accepted").await.expect("durable");
    let claims = journal.claim(ShardId(0), 1, &Unlimited).await.expect("claims");
    let delivery = carried(id);
    let (at, target, cause) = (Millis(2), String::from("email:1"), String::from("c"));
    let state = FinalState::Dead;
    let event = TimelineEvent::Settled { at, delivery, target, state, cause };
    let settled = Settlement {
        resolved: vec![(delivery, Resolution::Final(state))],
        events: vec![encode_event(&event)],
        dead: has_copy.then(|| (delivery, Bytes::from_static(b"copy"))).into_iter().collect(),
        ..settlement(&claims[0])
    };
    journal.settle(ShardId(0), vec![settled]).expect("accepted").await.expect("durable");
    (id, delivery)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_without_a_dead_letter_breaks_no_books() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = open(dir.path());
    let discarded = dead(&journal, true).await;
    let given_up = dead(&journal, false).await;
    let replayed = dead(&journal, true).await;
    dead(&journal, true).await;
    amend(&journal, discarded, false).await;
    for again in [discarded, given_up, replayed] {
        amend(&journal, again, true).await;
    }
    journal.close().await;
    drop(journal);
    let report = report(dir.path());
    assert_eq!(broken(&report), [], "{:#}", report.to_json());
    let total = report.total();
    assert_eq!((total.reopened, total.discarded, total.finals[5]), (3, 1, 1));
    let facts = LogView::open(dir.path()).expect("nobody uses it").facts().expect("readable");
    let counts = DeadCounts { kept: 1, dropped: 0, taken: 1, given_up: 1 };
    assert_eq!(facts.expect("an index").dead, counts);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_passes_as_it_takes_find_the_same() {
    let (dir, sent) = directory().await;
    let path = log_file(dir.path());
    let mut bytes = std::fs::read(&path).expect("read");
    // Every settlement ends its first delivery twice, and its second never.
    for (number, block) in [1, 3, 5].into_iter().enumerate() {
        let block = blocks(&bytes)[block];
        let [first, second] = ids(sent[number]);
        let payload = &mut bytes[block.0 + HEADER..block.0 + HEADER + block.1];
        let at = payload.windows(16).position(|w| w == second.0.as_bytes()).expect("is there");
        payload[at..at + 16].copy_from_slice(first.0.as_bytes());
        sign(&mut bytes, block);
    }
    std::fs::write(&path, bytes).expect("written");
    let in_parts = |parts| audit_in(&LogView::open(dir.path()).expect("unused"), parts);
    let one = in_parts(1).expect("readable");
    assert!(broken(&one).contains(&Invariant::OneEnd), "{:#}", one.to_json());
    for parts in [2, 7] {
        let many = in_parts(parts).expect("readable");
        assert_eq!(many.lines(), one.lines(), "{parts} parts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_left_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = open(dir.path());
    let refused = LogView::open(dir.path()).expect_err("it is in use");
    assert!(refused.to_string().contains("--url"), "{refused}");
    let live = audit(&journal.view().expect("a snapshot")).expect("readable");
    assert!(live.is_good(), "{:#}", live.to_json());
    journal.close().await;
}
