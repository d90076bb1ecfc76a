//! The embedded journal against the conformance suite, torn tails, flipped bits and two owners.

use super::*;
use crate::clock::TestClock;
use crate::journal::conformance::{self, Fixture};
use crate::journal::{Entry, EntryKind, Unlimited, record};
use bytes::Bytes;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

struct OnDisk {
    dir: tempfile::TempDir,
    lives: u32,
    clock: TestClock,
    journal: Option<Arc<DiskJournal>>,
}

fn options() -> DiskOptions {
    // Small segments and few places, so that every case also rolls and overflows.
    DiskOptions { shards: 2, segment_bytes: 256 << 10, places: 64, ..DiskOptions::default() }
}

fn open(dir: &Path, clock: &TestClock) -> Result<DiskJournal, OpenError> {
    DiskJournal::open(dir, options(), Arc::new(clock.clone()))
}

impl OnDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let clock = TestClock::at(Millis(1_700_000_000_000));
        let journal = open(&dir.path().join("0"), &clock).expect("opens");
        Self { dir, lives: 0, clock, journal: Some(Arc::new(journal)) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(self.lives.to_string())
    }
}

/// What kill -9 leaves: the files as they are at one instant, copied while the owner still runs.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("target directory");
    let mut names: Vec<_> =
        std::fs::read_dir(from).expect("listing").map(|e| e.expect("entry").file_name()).collect();
    // The index first: a log newer than its index is what a crash can leave, not the reverse.
    names.sort_by_key(|name| name.to_string_lossy().ends_with(".log"));
    for name in names {
        std::fs::copy(from.join(&name), to.join(&name)).expect("copied");
    }
}

impl Fixture for OnDisk {
    fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(self.journal.as_ref().expect("running")) as Arc<dyn Journal>
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(by);
        Box::pin(std::future::ready(()))
    }

    fn crash(&mut self) -> BoxFuture<'_, ()> {
        let (from, to) = (self.path(), self.dir.path().join((self.lives + 1).to_string()));
        // The index file is only consistent between its own writes, as it would be after a
        // crash thanks to its own recovery; a plain copy in the middle of a write is not that.
        // So stop, then drop every checkpoint but the first by rebuilding from the log.
        let keep_index = self.lives.is_multiple_of(2);
        self.journal = None;
        copy(&from, &to);
        if !keep_index {
            std::fs::remove_file(to.join("index.redb")).expect("index removed");
        }
        self.lives += 1;
        self.journal = Some(Arc::new(open(&to, &self.clock).expect("opens after a crash")));
        Box::pin(std::future::ready(()))
    }

    fn lease(&self) -> Duration {
        options().lease
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_journal_conforms() {
    conformance::run(async || OnDisk::new()).await;
}

fn small_entry(n: u32) -> Entry {
    Entry {
        notification: NotificationId(Uuid::now_v7()),
        org: OrganizationId(1),
        kind: EntryKind::Root,
        due: Millis(0),
        payload: Bytes::from(format!("entry {n}")),
    }
}

async fn fill(dir: &Path, clock: &TestClock, entries: u32) {
    let journal = open(dir, clock).expect("opens");
    for n in 0..entries {
        let append = Append { entries: vec![small_entry(n)], idempotency: Vec::new() };
        journal.append(ShardId(0), append).expect("accepted").await.expect("committed");
    }
    journal.close().await;
}

async fn all_texts(journal: &DiskJournal) -> Vec<String> {
    let mut texts = Vec::new();
    while journal.backlog(ShardId(0)).pending > texts.len() as u64 {
        for claim in journal.claim(ShardId(0), 100, &Unlimited).await.expect("claims") {
            texts.push(String::from_utf8_lossy(&claim.payload).into_owned());
        }
    }
    texts
}

/// Where the written part of the only segment ends, and its path.
fn log_file(dir: &Path) -> (PathBuf, usize) {
    let path = dir.join(format!("{:016x}.log", 0));
    let bytes = std::fs::read(&path).expect("segment");
    (path, bytes.iter().rposition(|b| *b != 0).expect("not empty") + 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_torn_at_any_byte_is_cut_at_the_last_whole_commit() {
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let home = tempfile::tempdir().expect("temporary directory");
    fill(home.path(), &clock, 3).await;
    // Without the index nothing but the log says what was acknowledged.
    std::fs::remove_file(home.path().join("index.redb")).expect("index removed");
    let (path, end) = log_file(home.path());
    let whole = std::fs::read(&path).expect("segment");
    for cut in (end - 90)..end {
        let mut torn = whole.clone();
        torn[cut..end].fill(if cut % 2 == 0 { 0 } else { 0xa5 });
        if torn == whole {
            continue;
        }
        std::fs::write(&path, &torn).expect("torn");
        let journal = open(home.path(), &clock).expect("a torn tail is no damage");
        assert_eq!(all_texts(&journal).await, ["entry 0", "entry 1"], "cut at {cut}");
        let append = Append { entries: vec![small_entry(9)], idempotency: Vec::new() };
        journal.append(ShardId(0), append).expect("accepted").await.expect("committed");
        drop(journal);
        std::fs::remove_file(home.path().join("index.redb")).expect("index removed");
        let again = open(home.path(), &clock).expect("opens");
        assert_eq!(all_texts(&again).await, ["entry 0", "entry 1", "entry 9"], "cut at {cut}");
        drop(again);
        std::fs::remove_file(home.path().join("index.redb")).expect("index removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_acknowledged_blocks_is_named_and_never_served() {
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let home = tempfile::tempdir().expect("temporary directory");
    fill(home.path(), &clock, 4).await;
    let (path, end) = log_file(home.path());
    let whole = std::fs::read(&path).expect("segment");
    let with_index = std::fs::read(home.path().join("index.redb")).expect("index");
    let mut refused = 0;
    for flip in record::HEADER_BYTES..end {
        let mut damaged = whole.clone();
        damaged[flip] ^= 0x10;
        std::fs::write(&path, &damaged).expect("damaged");
        std::fs::write(home.path().join("index.redb"), &with_index).expect("index");
        match open(home.path(), &clock) {
            // Padding carries nothing: whoever flips it changes nothing.
            Ok(journal) => {
                let all = ["entry 0", "entry 1", "entry 2", "entry 3"];
                assert_eq!(all_texts(&journal).await, all, "{flip}");
            }
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(
                    text.contains(".log") && text.contains("damaged at byte"),
                    "{flip}: {text}"
                );
            }
        }
    }
    assert!(refused * 10 > (end - record::HEADER_BYTES) * 9, "{refused} of {end}");
}

#[test]
fn a_second_owner_is_told_who_holds_the_directory() {
    let clock = TestClock::at(Millis(1));
    let home = tempfile::tempdir().expect("temporary directory");
    let first = open(home.path(), &clock).expect("opens");
    let error = open(home.path(), &clock).expect_err("locked");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(first);
    open(home.path(), &clock).expect("free again");
}

#[test]
fn another_shard_count_is_refused_with_the_right_one() {
    let clock = TestClock::at(Millis(1));
    let home = tempfile::tempdir().expect("temporary directory");
    drop(open(home.path(), &clock).expect("opens"));
    let more = DiskOptions { shards: 3, ..options() };
    let error = DiskJournal::open(home.path(), more, Arc::new(clock)).expect_err("refused");
    assert!(error.to_string().contains("store.shards = 2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_work_and_loses_nothing() {
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let home = tempfile::tempdir().expect("temporary directory");
    let small = DiskOptions { disk_bytes_max: 512 << 10, ..options() };
    let journal = DiskJournal::open(home.path(), small, Arc::new(clock.clone())).expect("opens");
    let mut accepted = 0u64;
    let refusal = loop {
        let mut entry = small_entry(0);
        entry.payload = Bytes::from(vec![b'x'; 16 << 10]);
        let append = Append { entries: vec![entry], idempotency: Vec::new() };
        let committed = match journal.append(ShardId(0), append) {
            Ok(commit) => commit.await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal, JournalError::Full);
    assert!(journal.is_healthy(), "a full disk is no broken disk");
    assert!(accepted > 0);
    drop(journal);
    let journal = open(home.path(), &clock).expect("opens");
    assert_eq!(all_texts(&journal).await.len() as u64, accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn settled_segments_past_retention_are_dropped_whole() {
    let clock = TestClock::at(Millis(1_700_000_000_000));
    let home = tempfile::tempdir().expect("temporary directory");
    let journal = open(home.path(), &clock).expect("opens");
    let segments = || {
        let files = std::fs::read_dir(home.path()).expect("listing");
        files
            .filter(|f| f.as_ref().is_ok_and(|f| f.path().extension().is_some_and(|e| e == "log")))
            .count()
    };
    for n in 0..40 {
        let mut entry = small_entry(n);
        entry.payload = Bytes::from(vec![b'x'; 32 << 10]);
        let append = Append { entries: vec![entry], idempotency: Vec::new() };
        journal.append(ShardId(0), append).expect("accepted").await.expect("committed");
    }
    clock.advance(Duration::from_hours(24 * 8));
    projector::retain(&journal.core).expect("retention runs");
    let before = segments();
    assert!(before > 4, "nothing unsettled is dropped: {before}");
    let mut left = 40;
    while left > 0 {
        for claim in journal.claim(ShardId(0), 100, &Unlimited).await.expect("claims") {
            left -= 1;
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
            journal.settle(ShardId(0), vec![settlement]).expect("held").await.expect("settled");
        }
    }
    // Only what a checkpoint covers may go.
    drop(journal);
    let journal = open(home.path(), &clock).expect("opens");
    projector::retain(&journal.core).expect("retention runs");
    assert!(segments() < before, "settled segments are dropped");
    drop(journal);
    let journal = open(home.path(), &clock).expect("opens without the dropped segments");
    assert_eq!(journal.backlog(ShardId(0)).pending, 0);
}
