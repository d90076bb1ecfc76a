//! Disks that fail for a moment, become unreadable or fill up: nothing is lost, and all goes on.

use super::failing::FailingDisk;
use super::*;
use crate::clock::TestClock;
use crate::journal::{Entry, EntryKind, Settlement, Unlimited};
use std::path::PathBuf;
use uuid::Uuid;

const SHARD: ShardId = ShardId(0);
const START: Millis = Millis(1_700_000_000_000);
const ENTRIES: usize = 120;

fn options() -> DiskOptions {
    DiskOptions { shards: 1, segment_bytes: 256 << 10, places: 64, ..DiskOptions::default() }
}

fn open(dir: &Path, clock: &TestClock) -> Result<DiskJournal, OpenError> {
    DiskJournal::open(dir, options(), Arc::new(clock.clone()))
}

fn entry(text: &str, due: Millis) -> Entry {
    Entry {
        notification: NotificationId(Uuid::now_v7()),
        org: OrganizationId(1),
        kind: EntryKind::Root,
        due,
        // Some dozens fill a segment.
        payload: Bytes::from(format!("{text} {}", "x".repeat(8 << 10))),
    }
}

async fn put(journal: &DiskJournal, text: &str, due: Millis) {
    let append = Append { entries: vec![entry(text, due)], idempotency: Vec::new() };
    journal.append(SHARD, append).expect("accepted").await.expect("committed");
}

async fn put_all(journal: &DiskJournal) {
    for n in 0..ENTRIES {
        put(journal, &format!("entry {n:03}"), Millis(0)).await;
    }
    assert!(journal.core.segments.all().len() > 3, "there is more than one segment");
}

/// Claims and settles `count` entries; answers what they say.
async fn drain(journal: &DiskJournal, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let claims = journal.claim(SHARD, 8, &Unlimited);
        let claims = tokio::time::timeout(Duration::from_secs(20), claims).await;
        for claim in claims.expect("there is more").expect("claims") {
            texts.push(String::from_utf8_lossy(&claim.payload[..9]).into_owned());
            let settlement = Settlement {
                claim: claim.id,
                notification: claim.notification,
                org: claim.org,
                resolved: Vec::new(),
                events: Vec::new(),
                follow_ups: Vec::new(),
                dead: Vec::new(),
                done: true,
            };
            journal.settle(SHARD, vec![settlement]).expect("held").await.expect("settled");
        }
    }
    texts
}

async fn eventually(what: &str, probe: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if probe() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_for_a_moment_is_claimed_a_moment_later() {
    let clock = TestClock::at(START);
    let home = tempfile::tempdir().expect("temporary directory");
    let (disk, orders) = FailingDisk::with_orders();
    let journal = DiskJournal::open_on(&disk, home.path(), options(), Arc::new(clock.clone()));
    let journal = journal.expect("opens");
    put_all(&journal).await;
    orders.log_is_unreadable.store(true, Ordering::Release);
    // These are in memory; who follows them is looked for in the log.
    let mut texts = drain(&journal, 8).await;
    eventually("a read fails", || orders.failed.load(Ordering::Acquire) > 2).await;
    orders.log_is_unreadable.store(false, Ordering::Release);
    texts.extend(drain(&journal, ENTRIES - 8).await);
    let all: Vec<_> = (0..ENTRIES).map(|n| format!("entry {n:03}")).collect();
    assert_eq!(texts, all);
    assert_eq!(journal.backlog(SHARD), Backlog::default());
}

/// Flips a bit of the first `text` in the log; answers where, so that it can be flipped back.
fn flip(dir: &Path, text: &str) -> (PathBuf, usize) {
    for found in std::fs::read_dir(dir).expect("listing") {
        let path = found.expect("entry").path();
        let bytes = std::fs::read(&path).expect("readable");
        let is_log = path.extension().is_some_and(|e| e == "log");
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        if let Some(at) = at.filter(|_| is_log) {
            flip_at(&path, at);
            return (path, at);
        }
    }
    panic!("{text} is not in the log");
}

fn flip_at(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("segment");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_passed_over_is_named_by_the_next_start_and_comes_once_it_is_whole() {
    let clock = TestClock::at(START);
    let home = tempfile::tempdir().expect("temporary directory");
    let journal = open(home.path(), &clock).expect("opens");
    put_all(&journal).await;
    put(&journal, "the timer", START.plus(60_000)).await;
    let (path, at) = flip(home.path(), "entry 040");
    let texts = drain(&journal, ENTRIES - 1).await;
    assert!(texts.iter().any(|text| text == "entry 041"), "its neighbour is no worse for it");
    assert_eq!(journal.backlog(SHARD).unreadable, 1);
    journal.close().await;
    drop(journal);

    // The index is whole and knows of nothing before the last segment.
    let error = open(home.path(), &clock).expect_err("named");
    let (text, file) = (error.to_string(), path.file_name().expect("a name").to_string_lossy());
    assert!(text.contains("damaged at byte") && text.contains(file.as_ref()), "{text}");
    flip_at(&path, at);
    let journal = open(home.path(), &clock).expect("opens");
    assert_eq!(journal.books().accepted, ENTRIES as u64 + 1);
    assert_eq!(drain(&journal, 1).await, ["entry 040"]);
    clock.advance(Duration::from_mins(1));
    assert_eq!(drain(&journal, 1).await, ["the timer"]);
    assert_eq!(journal.backlog(SHARD), Backlog::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_index_old_segments_go_and_timers_come() {
    let clock = TestClock::at(START);
    let home = tempfile::tempdir().expect("temporary directory");
    let (disk, orders) = FailingDisk::with_orders();
    let journal = DiskJournal::open_on(&disk, home.path(), options(), Arc::new(clock.clone()));
    let journal = journal.expect("opens");
    put_all(&journal).await;
    drain(&journal, ENTRIES).await;
    journal.close().await;
    drop(journal);
    let journal = DiskJournal::open_on(&disk, home.path(), options(), Arc::new(clock.clone()));
    let journal = journal.expect("opens again");
    clock.advance(options().retention + Duration::from_secs(1));
    put(&journal, "the timer", clock.now().plus(60_000)).await;
    eventually("the timer is in the index", || {
        let mut timers = 0;
        journal.core.index.timer_positions(|_| timers += 1).expect("readable");
        timers == 1
    })
    .await;
    let before = journal.core.segments.all().len();
    orders.index_is_full.store(true, Ordering::Release);
    put(&journal, "the last", Millis(0)).await;
    assert_eq!(drain(&journal, 1).await, ["the last "]);
    eventually("the index waits for room", || journal.shortage().is_some()).await;
    eventually("room is made", || journal.core.segments.all().len() < before).await;
    assert!(journal.shortage().is_some(), "the index still waits");
    clock.advance(Duration::from_mins(1));
    assert_eq!(drain(&journal, 1).await, ["the timer"]);
    orders.index_is_full.store(false, Ordering::Release);
    eventually("there is room", || journal.shortage().is_none()).await;
    // Of what went while the index could not be asked, the sums are there.
    let accepted = |view: &LogView| {
        let facts = view.facts().expect("readable").expect("an index");
        let mut accepted: u64 = facts.carried.values().map(|sums| sums.accepted).sum();
        let damages = view.scan(&mut |block| {
            let roots = block.records.iter().filter(|r| matches!(r, Logged::Entry(..)));
            accepted += roots.count() as u64;
        });
        assert_eq!(damages.expect("readable"), []);
        accepted
    };
    journal.close().await;
    drop(journal);
    let view = LogView::open(home.path()).expect("nobody uses it");
    assert_eq!(accepted(&view), ENTRIES as u64 + 2);
    drop(view);
    let journal = open(home.path(), &clock).expect("opens");
    for _ in 0..2 {
        projector::retain(&journal.core).expect("retention runs");
        assert_eq!(accepted(&journal.view().expect("a snapshot")), ENTRIES as u64 + 2);
    }
}

#[test]
fn retention_with_nothing_to_drop_syncs_no_index() {
    let home = tempfile::tempdir().expect("temporary directory");
    let (disk, orders) = FailingDisk::with_orders();
    let clock = Arc::new(TestClock::at(START));
    let opened = recovery::open(&disk, home.path(), options(), clock).expect("opens");
    let before = orders.index_syncs.load(Ordering::Acquire);
    assert!(before > 0, "opening makes the index");
    projector::retain(&opened.core).expect("retention runs");
    assert_eq!(orders.index_syncs.load(Ordering::Acquire), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_journal_and_copies_of_its_index_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().expect("temporary directory");
    let clock = TestClock::at(START);
    let journal = open(home.path(), &clock).expect("opens");
    put(&journal, "entry 000", Millis(0)).await;
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for found in std::fs::read_dir(home.path()).expect("listing") {
        let path = found.expect("entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let copy = home.path().join("copy");
    view::copy(&home.path().join("index.redb"), &copy).expect("copied");
    assert_eq!(mode(&copy), 0o600);
    let error = view::copy(&home.path().join("index.redb"), &copy).expect_err("it is there");
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
}
