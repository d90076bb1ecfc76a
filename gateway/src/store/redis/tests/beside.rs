//! Changes and the blocks of the journal beside them: both or neither, whoever else writes.

use super::*;
use crate::journal::redis::{RedisJournal, RedisJournalOptions};
use crate::journal::{Append, Entry, EntryKind, IdempotencyRecord, Journal, Remembered};
use crate::model::{Millis, NotificationId};
use crate::store::conformance::samples::{ACME, GLOBEX, two_organizations, user};
use crate::store::{Accounts, Expectation, LogError};
use bytes::Bytes;
use uuid::Uuid;

async fn journal(place: &Prefix) -> Arc<RedisJournal> {
    let redis = Redis::open(&place.options).await.expect("redis answers");
    let options = RedisJournalOptions { shards: place.shards, ..RedisJournalOptions::default() };
    let journal = RedisJournal::open(redis, options, Arc::new(SystemClock)).await;
    Arc::new(journal.expect("the journal opens"))
}

/// Notification `number` of ACME, which says under which version it was logged.
fn notify(journal: &Arc<RedisJournal>, number: u128) -> AppendStep {
    let journal = Arc::clone(journal);
    Box::new(move |version| {
        let entry = Entry {
            notification: NotificationId(Uuid::from_u128(number)),
            org: ACME,
            kind: EntryKind::Root,
            due: Millis(0),
            payload: Bytes::from(version.0.to_string()),
        };
        let key = IdempotencyRecord {
            key: number.to_be_bytes(),
            body: [0; 16],
            created: SystemClock.now(),
            answer: Bytes::from_static(b"answer"),
        };
        let append = Append { entries: vec![entry], idempotency: vec![key] };
        journal.program(append).map_err(|_| LogError::Failed)
    })
}

/// The version under which a notification was logged.
async fn logged(journal: &RedisJournal, number: u128) -> Option<Version> {
    let id = NotificationId(Uuid::from_u128(number));
    let root = journal.root(ACME, id).await.unwrap()?;
    Some(Version(std::str::from_utf8(&root).unwrap().parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_and_what_it_triggers_are_there_together_or_not_at_all() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let (store, journal) = (place.store().await, journal(&place).await);
    store.apply(two_organizations(1)).await.unwrap();
    let shard = ShardId::of(ACME, place.shards);
    let add = |id| vec![Change::PutUser(user(ACME, id))];
    let version = store.apply_appending(add(2), shard, notify(&journal, 2)).await.unwrap();
    assert_eq!(logged(&journal, 2).await, Some(version));
    let now = SystemClock.now();
    let remembered = journal.remembered(2u128.to_be_bytes(), now).await.unwrap();
    assert!(matches!(remembered, Remembered::Yes { .. }));

    let taken = User { email: user(ACME, 1).email, ..user(ACME, 3) };
    let refused = vec![Change::PutUser(taken)];
    store.apply_appending(refused, shard, notify(&journal, 3)).await.unwrap_err();
    let full: AppendStep = Box::new(|_| Err(LogError::Full));
    store.apply_appending(add(4), shard, full).await.unwrap_err();
    assert_eq!((logged(&journal, 3).await, store.count_users(ACME).await.unwrap()), (None, 2));
    // Nothing but what it triggers.
    let seats = vec![Change::Expect(Expectation::Seats(ACME, 9))];
    store.apply_appending(seats, shard, notify(&journal, 5)).await.unwrap();
    assert!(logged(&journal, 5).await.is_some());
    let reopened = self::journal(&place).await;
    assert_eq!(reopened.books().accepted, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_race_log_each_change_once_and_under_its_version() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let journal = journal(&place).await;
    let (first, second) = (place.store().await, place.store().await);
    first.apply(two_organizations(0)).await.unwrap();
    let shard = ShardId::of(ACME, place.shards);
    let make = |store: &RedisStore, id: i64| {
        let records = Arc::clone(&store.records);
        let step = notify(&journal, u128::from(id.unsigned_abs()));
        let changes = vec![Change::PutUser(user(ACME, id))];
        tokio::spawn(async move {
            let store = RedisStore { records, vault: Vault::fixed() };
            (id, store.apply_appending(changes, shard, step).await.unwrap())
        })
    };
    let made: Vec<_> =
        (1..=40).map(|id| make(if id % 2 == 0 { &first } else { &second }, id)).collect();
    for made in made {
        let (id, version) = made.await.unwrap();
        assert_eq!(logged(&journal, u128::from(id.unsigned_abs())).await, Some(version));
    }
    assert_eq!(first.count_users(ACME).await.unwrap(), 40);
    let sums = self::journal(&place).await;
    assert_eq!(sums.books().accepted, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_crashed_told_nobody_unless_it_is_made() {
    let (_server, options) = server();
    let mut seen = Vec::new();
    for steps in 0.. {
        let place = Prefix::new(&options, 8);
        let (store, journal) = (place.store().await, journal(&place).await);
        store.apply(two_organizations(1)).await.unwrap();
        store.records.wire.steps_left.store(steps, Ordering::SeqCst);
        let moved = vec![Change::PutUser(user(GLOBEX, 1))];
        let shard = ShardId::of(ACME, place.shards);
        let answer = store.apply_appending(moved, shard, notify(&journal, 1)).await;
        let other = place.impatient().await;
        let found = other.user(UserRef::Id(UserId(1))).await.unwrap().unwrap();
        let is_told = logged(&journal, 1).await.is_some();
        assert_eq!(is_told, found.org == GLOBEX, "after {steps} steps");
        assert_eq!(is_told, answer.is_ok());
        seen.push(is_told);
        if store.records.wire.steps_left.load(Ordering::SeqCst) > 0 {
            break;
        }
    }
    assert!(seen.contains(&true) && seen.contains(&false), "{seen:?}");
}
