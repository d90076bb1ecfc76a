//! What every journal backend must do. A backend's tests call `run` with a way to make one.

use super::{
    Append, Claim, DeadLetter, Entry, EntryKind, IdempotencyRecord, Journal, JournalError,
    Remembered, Resolution, Settlement, Unlimited,
};
use crate::BoxFuture;
use crate::model::{DeliveryId, FinalState, Millis, NotificationId, OrganizationId, ShardId};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

mod cancel;
mod fair;
mod model;

const SHARD: ShardId = ShardId(0);
const ORG: OrganizationId = OrganizationId(101);

/// A backend under test: how to make it, move its time and restart it.
pub trait Fixture: Send + Sync {
    /// The journal in its present life.
    fn journal(&self) -> Arc<dyn Journal>;
    /// The backend's idea of now.
    fn now(&self) -> Millis;
    /// Lets this much time pass.
    fn advance(&self, by: Duration) -> BoxFuture<'_, ()>;
    /// Stops without ceremony and opens again on the same data.
    fn crash(&mut self) -> BoxFuture<'_, ()>;
    /// The lease the backend was configured with.
    fn lease(&self) -> Duration;
}

/// Runs every case, each on a fresh backend.
pub async fn run<F: Fixture>(make: impl AsyncFn() -> F) {
    claims_come_in_order_and_once(make().await).await;
    a_done_entry_never_comes_back(make().await).await;
    an_expired_lease_passes_on_and_fences(make().await).await;
    a_renewed_lease_stays(make().await).await;
    partial_progress_is_handed_to_the_next_claim(make().await).await;
    an_entry_due_later_waits(make().await).await;
    follow_ups_commit_with_their_settlement(make().await).await;
    a_timeline_belongs_to_its_organization(make().await).await;
    keys_are_remembered_for_their_time(make().await).await;
    dead_letters_keep_their_copy(make().await).await;
    shards_are_independent(make().await).await;
    a_crash_keeps_what_was_answered(make().await).await;
    a_long_backlog_is_claimed_exactly_once(make().await).await;
    listed_roots_are_found_newest_first(make().await).await;
    a_taken_timer_is_never_sent(make().await).await;
    what_has_begun_cannot_be_taken(make().await).await;
    a_taken_timer_whose_lease_lapses_waits_again(make().await).await;
    cancel::run(&make).await;
    fair::run(&make).await;
    model::run(&make).await;
}

fn entry(text: &str, due: Millis) -> Entry {
    Entry {
        notification: NotificationId(Uuid::now_v7()),
        org: ORG,
        kind: EntryKind::Root,
        due,
        payload: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn append(entries: Vec<Entry>) -> Append {
    Append { entries, idempotency: Vec::new() }
}

async fn put(fixture: &impl Fixture, shard: ShardId, entries: Vec<Entry>) {
    let commit = fixture.journal().append(shard, append(entries)).expect("append accepted");
    commit.await.expect("append committed");
}

async fn claim(fixture: &impl Fixture, shard: ShardId, max: usize) -> Vec<Claim> {
    let journal = fixture.journal();
    tokio::time::timeout(Duration::from_secs(20), journal.claim(shard, max, &Unlimited))
        .await
        .expect("something to claim")
        .expect("claim answered")
}

async fn nothing_to_claim(fixture: &impl Fixture, shard: ShardId) {
    let journal = fixture.journal();
    let claim = journal.claim(shard, 1, &Unlimited);
    let quiet = tokio::time::timeout(Duration::from_millis(60), claim).await;
    assert!(quiet.is_err(), "claimed {quiet:?}");
}

fn texts(claims: &[Claim]) -> Vec<String> {
    claims.iter().map(|c| String::from_utf8_lossy(&c.payload).into_owned()).collect()
}

fn settlement(claim: &Claim) -> Settlement {
    Settlement {
        claim: claim.id,
        notification: claim.notification,
        org: claim.org,
        resolved: Vec::new(),
        events: Vec::new(),
        follow_ups: Vec::new(),
        dead: Vec::new(),
        done: true,
    }
}

async fn settle(fixture: &impl Fixture, settlement: Settlement) -> Result<(), JournalError> {
    fixture.journal().settle(SHARD, vec![settlement])?.await
}

fn delivery(n: u128) -> DeliveryId {
    DeliveryId(Uuid::from_u128(n))
}

/// Asks until `probe` is true; the index may lag behind the log for a moment.
async fn eventually(what: &str, probe: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if probe().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic_with(what);
}

#[expect(clippy::panic, reason = "a conformance failure is a failed test")]
fn panic_with(what: &str) {
    panic!("never happened: {what}");
}

async fn claims_come_in_order_and_once(f: impl Fixture) {
    let now = f.now();
    put(&f, SHARD, vec![entry("a", now), entry("b", now)]).await;
    put(&f, SHARD, vec![entry("c", now)]).await;
    let mut claims = claim(&f, SHARD, 2).await;
    claims.extend(claim(&f, SHARD, 2).await);
    assert_eq!(texts(&claims), ["a", "b", "c"]);
    nothing_to_claim(&f, SHARD).await;
}

async fn a_done_entry_never_comes_back(f: impl Fixture) {
    put(&f, SHARD, vec![entry("a", f.now())]).await;
    assert_eq!(f.journal().backlog(SHARD).pending, 1);
    let claims = claim(&f, SHARD, 1).await;
    let mut done = settlement(&claims[0]);
    done.resolved = vec![(delivery(1), Resolution::Final(FinalState::Delivered))];
    settle(&f, done.clone()).await.expect("settled");
    assert_eq!(settle(&f, done).await, Err(JournalError::Fenced), "a second settlement");
    f.advance(f.lease() * 2).await;
    nothing_to_claim(&f, SHARD).await;
    let backlog = f.journal().backlog(SHARD);
    assert_eq!((backlog.pending, backlog.claimed, backlog.bytes), (0, 0, 0));
    let books = f.journal().books();
    assert_eq!((books.accepted, books.finals), (1, [1, 0, 0, 0, 0, 0]));
}

async fn an_expired_lease_passes_on_and_fences(f: impl Fixture) {
    put(&f, SHARD, vec![entry("a", f.now())]).await;
    let first = claim(&f, SHARD, 1).await;
    f.advance(f.lease() + Duration::from_secs(1)).await;
    let second = claim(&f, SHARD, 1).await;
    assert_eq!(first[0].notification, second[0].notification);
    assert_eq!(settle(&f, settlement(&first[0])).await, Err(JournalError::Fenced));
    settle(&f, settlement(&second[0])).await.expect("the present holder settles");
}

async fn a_renewed_lease_stays(f: impl Fixture) {
    put(&f, SHARD, vec![entry("a", f.now())]).await;
    let held = claim(&f, SHARD, 1).await;
    f.advance(f.lease() / 2).await;
    f.journal().renew(SHARD, &[held[0].id]);
    f.advance(f.lease() * 3 / 4).await;
    nothing_to_claim(&f, SHARD).await;
    settle(&f, settlement(&held[0])).await.expect("still the holder");
}

async fn partial_progress_is_handed_to_the_next_claim(mut f: impl Fixture) {
    put(&f, SHARD, vec![entry("a", f.now())]).await;
    let first = claim(&f, SHARD, 1).await;
    let mut part = settlement(&first[0]);
    part.done = false;
    part.resolved = vec![(delivery(7), Resolution::Final(FinalState::Delivered))];
    settle(&f, part).await.expect("progress recorded");
    f.crash().await;
    let second = claim(&f, SHARD, 1).await;
    assert_eq!(second[0].settled, [delivery(7)]);
    assert_eq!(f.journal().books().finals, [1, 0, 0, 0, 0, 0]);
}

async fn an_entry_due_later_waits(mut f: impl Fixture) {
    let due = f.now().plus(3_600_000);
    put(&f, SHARD, vec![entry("later", due), entry("now", f.now())]).await;
    let now = claim(&f, SHARD, 10).await;
    assert_eq!(texts(&now), ["now"]);
    assert_eq!(f.journal().backlog(SHARD).timers, 1);
    settle(&f, settlement(&now[0])).await.expect("settled");
    nothing_to_claim(&f, SHARD).await;
    f.crash().await;
    nothing_to_claim(&f, SHARD).await;
    f.advance(Duration::from_millis(3_600_001)).await;
    let later = claim(&f, SHARD, 10).await;
    assert_eq!(texts(&later), ["later"]);
    settle(&f, settlement(&later[0])).await.expect("settled");
    f.crash().await;
    nothing_to_claim(&f, SHARD).await;
    assert_eq!(f.journal().backlog(SHARD).pending, 0);
}

async fn follow_ups_commit_with_their_settlement(mut f: impl Fixture) {
    put(&f, SHARD, vec![entry("root", f.now())]).await;
    let root = claim(&f, SHARD, 1).await;
    let mut done = settlement(&root[0]);
    let follow_up = |text, due| Entry {
        notification: root[0].notification,
        kind: EntryKind::FollowUp,
        ..entry(text, due)
    };
    done.follow_ups = vec![follow_up("chunk", f.now()), follow_up("retry", f.now().plus(50_000))];
    done.resolved = vec![(delivery(1), Resolution::Moved)];
    settle(&f, done).await.expect("settled");
    f.crash().await;
    let chunk = claim(&f, SHARD, 10).await;
    assert_eq!(texts(&chunk), ["chunk"]);
    assert_eq!(chunk[0].kind, EntryKind::FollowUp);
    f.advance(Duration::from_millis(50_001)).await;
    let retry = claim(&f, SHARD, 10).await;
    assert!(texts(&retry).contains(&String::from("retry")), "{retry:?}");
    let books = f.journal().books();
    assert_eq!((books.accepted, books.finals), (1, [0; 6]), "a move is no final state");
}

async fn a_timeline_belongs_to_its_organization(mut f: impl Fixture) {
    let root = entry("root", f.now());
    let id = root.notification;
    put(&f, SHARD, vec![root]).await;
    let found = f.journal().timeline(ORG, id).await.expect("readable").expect("known at once");
    assert_eq!(found.root.as_deref(), Some(b"root".as_slice()));
    let claims = claim(&f, SHARD, 1).await;
    let mut part = settlement(&claims[0]);
    part.done = false;
    part.events = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
    settle(&f, part).await.expect("settled");
    let mut done = settlement(&claims[0]);
    done.events = vec![Bytes::from_static(b"three")];
    settle(&f, done).await.expect("settled");
    for _ in 0..2 {
        let journal = f.journal();
        eventually("three events", async || {
            let timeline = journal.timeline(ORG, id).await.expect("readable").expect("known");
            timeline.root.is_some() && timeline.events == ["one", "two", "three"]
        })
        .await;
        let places = async |after, limit| {
            let events = f.journal().events_after(ORG, id, after, limit).await.expect("readable");
            events.into_iter().unzip::<_, _, Vec<_>, Vec<_>>()
        };
        let (first, events) = places(None, 2).await;
        assert_eq!(events, ["one", "two"]);
        assert_eq!(places(first.last().copied(), 9).await.1, ["three"]);
        let other = OrganizationId(102);
        let foreign = f.journal().events_after(other, id, None, 9).await.expect("readable");
        assert!(foreign.is_empty());
        assert!(f.journal().timeline(other, id).await.expect("readable").is_none());
        drop(journal);
        f.crash().await;
    }
    let unknown = NotificationId(Uuid::now_v7());
    assert!(f.journal().timeline(ORG, unknown).await.expect("readable").is_none());
}

async fn keys_are_remembered_for_their_time(mut f: impl Fixture) {
    let record = IdempotencyRecord {
        key: [7; 16],
        body: [9; 16],
        created: f.now(),
        answer: Bytes::from_static(b"201"),
    };
    let with_key = Append { entries: vec![entry("a", f.now())], idempotency: vec![record.clone()] };
    f.journal().append(SHARD, with_key).expect("accepted").await.expect("committed");
    let answer = Remembered::Yes { body: [9; 16], answer: record.answer };
    let now = f.now();
    assert_eq!(f.journal().remembered([7; 16], now).await, Ok(answer.clone()));
    f.crash().await;
    assert_eq!(f.journal().remembered([7; 16], now).await, Ok(answer));
    assert_eq!(f.journal().remembered([8; 16], now).await, Ok(Remembered::No));
    let late = now.plus(25 * 3_600_000);
    assert_eq!(f.journal().remembered([7; 16], late).await, Ok(Remembered::No));
}

async fn dead_letters_keep_their_copy(mut f: impl Fixture) {
    put(&f, SHARD, vec![entry("a", f.now())]).await;
    let claims = claim(&f, SHARD, 1).await;
    let mut done = settlement(&claims[0]);
    done.resolved = vec![(delivery(3), Resolution::Final(FinalState::Dead))];
    done.dead = vec![(delivery(3), Bytes::from_static(b"copy"))];
    settle(&f, done).await.expect("settled");
    f.crash().await;
    let dead = f.journal().dead_letters(10).await.expect("readable");
    let copy = Bytes::from_static(b"copy");
    let notification = claims[0].notification;
    assert_eq!(dead, [DeadLetter { delivery: delivery(3), notification, copy }]);
    assert_eq!(f.journal().books().dead_letters, 1);
}

async fn shards_are_independent(f: impl Fixture) {
    let other = ShardId(1);
    put(&f, other, vec![entry("other", f.now())]).await;
    nothing_to_claim(&f, SHARD).await;
    assert_eq!(texts(&claim(&f, other, 1).await), ["other"]);
}

async fn a_crash_keeps_what_was_answered(mut f: impl Fixture) {
    for round in 0..20 {
        put(&f, SHARD, vec![entry(&format!("{round}"), f.now())]).await;
    }
    let claims = claim(&f, SHARD, 10).await;
    assert_eq!(claims.len(), 10);
    for claimed in &claims[..5] {
        settle(&f, settlement(claimed)).await.expect("settled");
    }
    f.crash().await;
    let mut left = Vec::new();
    while left.len() < 15 {
        left.extend(claim(&f, SHARD, 100).await);
    }
    let expected: Vec<_> = (5..20).map(|n| n.to_string()).collect();
    assert_eq!(texts(&left), expected);
    assert_eq!(f.journal().books().accepted, 20);
    nothing_to_claim(&f, SHARD).await;
}

async fn a_long_backlog_is_claimed_exactly_once(mut f: impl Fixture) {
    // More blocks than a backend may want to remember one by one.
    const BLOCKS: usize = 3_000;
    let mut commits = Vec::new();
    for n in 0..BLOCKS {
        let append = append(vec![entry(&format!("{n}"), f.now())]);
        commits.push(f.journal().append(SHARD, append).expect("accepted"));
        if n % 2 == 0 {
            // Every other one waits for its commit, so that blocks stay small and many.
            commits.pop().expect("just pushed").await.expect("committed");
        }
    }
    for commit in commits {
        commit.await.expect("committed");
    }
    let mut seen = Vec::new();
    while seen.len() < BLOCKS / 2 {
        for claimed in claim(&f, SHARD, 100).await {
            settle(&f, settlement(&claimed)).await.expect("settled");
            seen.push(String::from_utf8_lossy(&claimed.payload).into_owned());
        }
    }
    f.crash().await;
    while seen.len() < BLOCKS {
        let claims = claim(&f, SHARD, 100).await;
        seen.extend(texts(&claims));
    }
    nothing_to_claim(&f, SHARD).await;
    let expected: Vec<_> = (0..BLOCKS).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
}

fn listed(text: &str, due: Millis) -> Entry {
    Entry { kind: EntryKind::Listed, ..entry(text, due) }
}

async fn listing(f: &impl Fixture, before: Option<NotificationId>, limit: usize) -> Vec<String> {
    let roots = f.journal().listed(ORG, before, limit).await.expect("readable");
    roots.iter().map(|root| String::from_utf8_lossy(&root.payload).into_owned()).collect()
}

async fn listed_roots_are_found_newest_first(mut f: impl Fixture) {
    let (now, later) = (f.now(), f.now().plus(3_600_000));
    let foreign = Entry { org: OrganizationId(102), ..listed("foreign", now) };
    let entries = vec![listed("a", now), entry("plain", now), foreign, listed("b", later)];
    let second = entries[3].notification;
    put(&f, SHARD, entries).await;
    put(&f, SHARD, vec![listed("c", now)]).await;
    for _ in 0..2 {
        assert_eq!(listing(&f, None, 10).await, ["c", "b", "a"], "at once, and after a restart");
        assert_eq!(listing(&f, None, 2).await, ["c", "b"]);
        assert_eq!(listing(&f, Some(second), 10).await, ["a"]);
        let found = f.journal().timeline(ORG, second).await.expect("readable").expect("a root");
        assert_eq!(found.root.as_deref(), Some(b"b".as_slice()));
        f.crash().await;
    }
    assert_eq!(f.journal().books().accepted, 5);
    let claims = claim(&f, SHARD, 10).await;
    let mut claimed = texts(&claims);
    claimed.sort();
    assert_eq!(claimed, ["a", "c", "foreign", "plain"]);
    for claimed in &claims {
        settle(&f, settlement(claimed)).await.expect("settled");
    }
    assert_eq!(listing(&f, None, 10).await, ["c", "b", "a"], "done ones stay listed");
}

async fn a_taken_timer_is_never_sent(mut f: impl Fixture) {
    for restart in [false, true] {
        let root = listed("later", f.now().plus(3_600_000));
        let id = root.notification;
        put(&f, SHARD, vec![root]).await;
        if restart {
            f.crash().await;
        }
        let other = OrganizationId(102);
        let foreign = f.journal().take(SHARD, other, id).await.expect("readable");
        assert!(foreign.is_none(), "taken by another organization");
        let taken = f.journal().take(SHARD, ORG, id).await.expect("readable").expect("waiting");
        assert_eq!((taken.notification, taken.kind), (id, EntryKind::Listed));
        let again = f.journal().take(SHARD, ORG, id).await.expect("readable");
        assert!(again.is_none(), "taken twice");
        let mut canceled = settlement(&taken);
        canceled.resolved = vec![(delivery(1), Resolution::Final(FinalState::Canceled))];
        settle(&f, canceled).await.expect("settled");
        let again = f.journal().take(SHARD, ORG, id).await.expect("readable");
        assert!(again.is_none(), "taken after its end");
    }
    assert_eq!(f.journal().books().finals, [0, 0, 0, 0, 2, 0]);
    f.advance(Duration::from_millis(3_600_001)).await;
    nothing_to_claim(&f, SHARD).await;
    f.crash().await;
    nothing_to_claim(&f, SHARD).await;
    let backlog = f.journal().backlog(SHARD);
    assert_eq!((backlog.pending, backlog.timers), (0, 0));
    assert_eq!(listing(&f, None, 10).await.len(), 2);
}

async fn what_has_begun_cannot_be_taken(f: impl Fixture) {
    let (now, soon) = (listed("now", f.now()), listed("soon", f.now().plus(60_000)));
    let ids = [now.notification, soon.notification];
    put(&f, SHARD, vec![now, soon]).await;
    let none = f.journal().take(SHARD, ORG, ids[0]).await.expect("readable");
    assert!(none.is_none(), "an entry that is due at once is on its way");
    let first = claim(&f, SHARD, 10).await;
    assert_eq!(texts(&first), ["now"]);
    f.advance(Duration::from_millis(60_001)).await;
    let second = claim(&f, SHARD, 1).await;
    assert_eq!(second.len(), 1);
    let claimed = second[0].notification;
    let none = f.journal().take(SHARD, ORG, claimed).await.expect("readable");
    assert!(none.is_none(), "claimed work stays with its claimer");
}

async fn a_taken_timer_whose_lease_lapses_waits_again(mut f: impl Fixture) {
    let root = listed("later", f.now().plus(3_600_000));
    let id = root.notification;
    put(&f, SHARD, vec![root]).await;
    for crashes in [false, true] {
        let taken = f.journal().take(SHARD, ORG, id).await.expect("readable").expect("waiting");
        f.advance(f.lease() + Duration::from_secs(1)).await;
        nothing_to_claim(&f, SHARD).await;
        assert_eq!(settle(&f, settlement(&taken)).await, Err(JournalError::Fenced));
        if crashes {
            f.crash().await;
        }
    }
    f.advance(Duration::from_hours(1)).await;
    let due = claim(&f, SHARD, 10).await;
    assert_eq!(texts(&due), ["later"], "sent at its time, not when a lease lapsed");
    settle(&f, settlement(&due[0])).await.expect("settled");
    f.advance(f.lease() * 2).await;
    nothing_to_claim(&f, SHARD).await;
}
