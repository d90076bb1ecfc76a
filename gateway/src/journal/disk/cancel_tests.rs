//! Bringing waiting entries forward against everything that may happen to them meanwhile.

use super::*;
use crate::clock::TestClock;
use crate::journal::{Entry, EntryKind, Settlement, Unlimited};
use uuid::Uuid;

const SHARD: ShardId = ShardId(0);
const ORG: OrganizationId = OrganizationId(1);
const START: Millis = Millis(1_700_000_000_000);
const LATER: Millis = Millis(START.0 + 3_600_000);

fn options() -> DiskOptions {
    // Room for 16 due timers.
    DiskOptions { shards: 1, places: 64, ..DiskOptions::default() }
}

fn open(dir: &Path, clock: &TestClock) -> DiskJournal {
    DiskJournal::open(dir, options(), Arc::new(clock.clone())).expect("opens")
}

async fn put(journal: &DiskJournal, id: NotificationId, kinds: &[EntryKind]) {
    let entry = |kind: &EntryKind| Entry {
        notification: id,
        org: ORG,
        kind: *kind,
        due: LATER,
        payload: Bytes::from_static(b"later"),
    };
    let entries = kinds.iter().map(entry).collect();
    let append = Append { entries, idempotency: Vec::new() };
    journal.append(SHARD, append).expect("accepted").await.expect("committed");
    journal_shows(journal, kinds.len()).await;
}

/// Waits until the index shows so many timers.
async fn journal_shows(journal: &DiskJournal, timers: usize) {
    for _ in 0..2_000 {
        let mut shown = 0;
        journal.core.index.timer_positions(|_| shown += 1).expect("readable");
        if shown == timers {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the index never shows {timers} timers");
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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_while_it_is_looked_for_stays_settled() {
    let home = tempfile::tempdir().expect("temporary directory");
    let journal = Arc::new(open(home.path(), &TestClock::at(START)));
    for _ in 0..20 {
        let id = NotificationId(Uuid::now_v7());
        put(&journal, id, &[EntryKind::Listed]).await;
        let taken = journal.take(SHARD, ORG, id).await.expect("readable").expect("waiting");
        // Whoever hurries comes as far as it gets without the shard, and waits there.
        let gate = Arc::clone(&journal.core);
        let (locked, is_locked) = std::sync::mpsc::channel();
        let (open, is_open) = std::sync::mpsc::channel::<()>();
        let keeper = std::thread::spawn(move || {
            let _gate = gate.shards[0].gate.lock();
            locked.send(()).expect("somebody listens");
            is_open.recv().expect("somebody opens");
        });
        is_locked.recv().expect("locked");
        let hurried = tokio::spawn({
            let journal = Arc::clone(&journal);
            async move { journal.hurry(SHARD, ORG, id).await }
        });
        tokio::task::yield_now().await;
        journal.settle(SHARD, vec![done(&taken)]).expect("held").await.expect("settled");
        journal_shows(&journal, 0).await;
        loop {
            let state = journal.core.shards[0].state.lock();
            if state.timers_loaded.is_empty() {
                break;
            }
            drop(state);
            std::thread::yield_now();
        }
        open.send(()).expect("it waits");
        keeper.join().expect("it ends");
        assert_eq!(hurried.await.expect("it ends"), Ok(0));
        assert!(journal.core.try_claim(SHARD, 10, &Unlimited).is_empty(), "sent after its end");
        assert_eq!(journal.backlog(SHARD), Backlog::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_brought_forward_than_there_is_room_for() {
    let home = tempfile::tempdir().expect("temporary directory");
    let journal = open(home.path(), &TestClock::at(START));
    let id = NotificationId(Uuid::now_v7());
    put(&journal, id, &[EntryKind::Root; 40]).await;
    assert_eq!(journal.hurry(SHARD, ORG, id).await, Ok(16));
    assert_eq!(journal.hurry(SHARD, ORG, id).await, Ok(0), "there is no room");
    let mut left = 40;
    while left > 0 {
        let claims = journal.core.try_claim(SHARD, 100, &Unlimited);
        assert_eq!(claims.len(), left.min(16));
        left -= claims.len();
        let settled = claims.iter().map(done).collect();
        journal.settle(SHARD, settled).expect("held").await.expect("settled");
        assert_eq!(journal.hurry(SHARD, ORG, id).await, Ok(left.min(16)));
    }
    assert_eq!(journal.backlog(SHARD), Backlog::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_is_kept_as_long_as_anything_may_wait() {
    let home = tempfile::tempdir().expect("temporary directory");
    let clock = TestClock::at(START);
    let journal = open(home.path(), &clock);
    let id = NotificationId(Uuid::from_u64_pair(START.0 << 16 | 0x7000, 1 << 63));
    let wish = Cancellation { notification: id, org: ORG, event: Bytes::new() };
    journal.cancel(SHARD, wish).expect("accepted").await.expect("durable");
    journal.close().await;
    drop(journal);
    let journal = open(home.path(), &clock);
    for (days, is_kept) in [(399, true), (2, false)] {
        clock.advance(Duration::from_hours(24 * days));
        projector::retain(&journal.core).expect("retention runs");
        assert_eq!(journal.is_canceled(id), is_kept);
        assert_eq!(journal.core.index.canceled().expect("readable").contains(&id), is_kept);
    }
}
