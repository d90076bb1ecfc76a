//! Several nodes on one Redis: who appends is not who claims, and owners come and go.

use super::*;
use crate::journal::{Entry, EntryKind, Resolution, Unlimited};
use crate::model::FinalState;
use crate::redis::RedisOptions;
use crate::redis::owners::{OwnerOptions, Owners};
use tokio::task::JoinSet;
use uuid::Uuid;

pub(super) const SHARD: ShardId = ShardId(0);
pub(super) const ORG: OrganizationId = OrganizationId(101);

pub(super) struct World {
    pub(super) server: Server,
    pub(super) redis: Redis,
    pub(super) clock: TestClock,
}

impl World {
    pub(super) async fn new(options: RedisOptions) -> Self {
        Self::on(server(), options).await
    }

    pub(super) async fn on(server: Server, options: RedisOptions) -> Self {
        let options = RedisOptions { urls: vec![server.url()], ..options };
        let redis = Redis::open(&options).await.expect("redis answers");
        Self { server, redis, clock: TestClock::at(Millis(1_700_000_000_000)) }
    }

    pub(super) async fn node(&self, options: RedisJournalOptions) -> RedisJournal {
        open(&self.redis, &self.clock, options).await
    }

    pub(super) async fn owner(&self) -> RedisJournal {
        let journal = self.node(small_options()).await;
        own(&self.redis, &journal).await;
        journal
    }
}

/// A world in which Redis has 100 ms for each answer, and an owner who tries again for `patience`.
pub(super) async fn hasty(patience: Duration) -> (World, RedisJournal) {
    let options = RedisOptions { timeout: Duration::from_millis(100), ..RedisOptions::default() };
    let world = World::new(options).await;
    let owner = world.node(RedisJournalOptions { patience, ..small_options() }).await;
    own(&world.redis, &owner).await;
    (world, owner)
}

pub(super) fn entry(text: &str, due: Millis) -> Entry {
    Entry {
        notification: NotificationId(Uuid::now_v7()),
        org: ORG,
        kind: EntryKind::Listed,
        due,
        payload: Bytes::copy_from_slice(text.as_bytes()),
    }
}

pub(super) async fn put(journal: &RedisJournal, entries: Vec<Entry>) {
    let append = Append { entries, idempotency: Vec::new() };
    journal.append(SHARD, append).expect("accepted").await.expect("committed");
}

pub(super) async fn claim(journal: &RedisJournal) -> Vec<Claim> {
    let claims = journal.claim(SHARD, 100, &Unlimited);
    let claims = tokio::time::timeout(Duration::from_secs(20), claims).await;
    claims.expect("something to claim").expect("claim answered")
}

pub(super) async fn nothing_to_claim(journal: &RedisJournal) {
    nothing_to_claim_in(journal, SHARD).await;
}

async fn nothing_to_claim_in(journal: &RedisJournal, shard: ShardId) {
    let quiet = journal.claim(shard, 1, &Unlimited);
    let quiet = tokio::time::timeout(Duration::from_millis(100), quiet).await;
    assert!(quiet.is_err(), "claimed {quiet:?}");
}

pub(super) fn done(claim: &Claim) -> Settlement {
    Settlement {
        claim: claim.id,
        notification: claim.notification,
        org: claim.org,
        resolved: vec![(delivery(claim), Resolution::Final(FinalState::Delivered))],
        events: vec![Bytes::from_static(b"ended")],
        follow_ups: Vec::new(),
        dead: Vec::new(),
        done: true,
    }
}

pub(super) fn delivery(claim: &Claim) -> DeliveryId {
    DeliveryId(claim.notification.0)
}

pub(super) async fn settle(
    journal: &RedisJournal,
    settlement: Settlement,
) -> Result<(), JournalError> {
    journal.settle(SHARD, vec![settlement])?.await
}

pub(super) fn texts(claims: &[Claim]) -> Vec<String> {
    claims.iter().map(|c| String::from_utf8_lossy(&c.payload).into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_appends_another_claims_in_order() {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    let now = world.clock.now();
    let mut expected = Vec::new();
    for n in 0..60 {
        expected.push(n.to_string());
        let journal = if n % 3 == 0 { &owner } else { &other };
        put(journal, vec![entry(&n.to_string(), now)]).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 60 {
        let claims = claim(&owner).await;
        seen.extend(texts(&claims));
        for claim in &claims {
            settle(&owner, done(claim)).await.expect("settled");
        }
    }
    assert_eq!(seen, expected);
    nothing_to_claim(&owner).await;
    assert_eq!(owner.backlog(SHARD), Backlog::default());
    until("the other node reads the books", async || {
        other.backlog_of(SHARD, ORG) == Backlog::default()
            && other.backlog(SHARD) == Backlog::default()
            && other.books().finals == [60, 0, 0, 0, 0, 0]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_zombie_settles_changes_nothing() {
    let world = World::new(RedisOptions::default()).await;
    let zombie = world.owner().await;
    put(&zombie, vec![entry("a", world.clock.now())]).await;
    let first = claim(&zombie).await;
    let next = world.owner().await;
    let second = claim(&next).await;
    assert_eq!(texts(&second), ["a"], "claimed by the next owner");
    assert_eq!(settle(&zombie, done(&first[0])).await, Err(JournalError::Fenced));
    assert!(!zombie.is_loaded(SHARD), "it works on the shard no more");
    assert_eq!(zombie.lease_left(SHARD, first[0].id), None);
    settle(&next, done(&second[0])).await.expect("settled");
    assert_eq!(next.books().finals, [1, 0, 0, 0, 0, 0]);
    put(&zombie, vec![entry("b", world.clock.now())]).await;
    assert_eq!(texts(&claim(&next).await), ["b"], "appending needs no owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_taken_on_one_node_is_never_sent_by_another() {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    let due = world.clock.now().plus(60_000);
    let (first, second) = (entry("taken", due), entry("sent", due.plus(1)));
    let id = first.notification;
    put(&other, vec![first, second]).await;
    until("the owner counts them", async || owner.backlog(SHARD).timers == 2).await;
    let taken = other.take(SHARD, ORG, id).await.expect("readable").expect("waiting");
    assert!(owner.take(SHARD, ORG, id).await.expect("readable").is_none(), "taken twice");
    world.clock.advance(Duration::from_millis(50_000));
    settle(&other, done(&taken)).await.expect("settled");
    world.clock.advance(Duration::from_millis(50_000));
    let sent = claim(&owner).await;
    assert_eq!(texts(&sent), ["sent"]);
    settle(&owner, done(&sent[0])).await.expect("settled");
    nothing_to_claim(&owner).await;
    until("the owner counts none", async || owner.backlog(SHARD) == Backlog::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_hurries_and_cancels_another_claims_at_once() {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    let later = entry("later", world.clock.now().plus(3_600_000));
    let id = later.notification;
    put(&other, vec![later]).await;
    let event = Bytes::from_static(b"canceled");
    let cancellation = Cancellation { notification: id, org: ORG, event: event.clone() };
    other.cancel(SHARD, cancellation).expect("accepted").await.expect("committed");
    assert_eq!(other.hurry(SHARD, ORG, id).await, Ok(1));
    let claims = claim(&owner).await;
    assert_eq!(texts(&claims), ["later"]);
    assert!(owner.is_canceled(id) && other.is_canceled(id));
    settle(&owner, done(&claims[0])).await.expect("settled");
    assert_eq!(owner.hurry(SHARD, ORG, id).await, Ok(0));
    let timeline = other.timeline(ORG, id).await.expect("readable").expect("known");
    assert_eq!(timeline.events, [event, Bytes::from_static(b"ended")]);
    drop(owner);
    assert!(world.owner().await.is_canceled(id), "the next owner knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_sent_again_by_one_node_alone() {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    put(&owner, vec![entry("a", world.clock.now())]).await;
    let claims = claim(&owner).await;
    let (id, notification) = (delivery(&claims[0]), claims[0].notification);
    let mut dead = done(&claims[0]);
    dead.resolved = vec![(id, Resolution::Final(FinalState::Dead))];
    dead.dead = vec![(id, Bytes::from_static(b"copy"))];
    settle(&owner, dead).await.expect("settled");
    let row = other.dead_letter(ORG, id).await.expect("readable").expect("kept");
    assert_eq!((row.letter.copy, row.events.len()), (Bytes::from_static(b"copy"), 1));
    assert_eq!(other.dead_of(ORG, None, 10).await.expect("readable").rows.len(), 1);
    let amend = |journal: &RedisJournal| {
        let held = journal.reserve(id).expect("free");
        let carrier = Entry { kind: EntryKind::FollowUp, ..entry("again", Millis(0)) };
        let event = Bytes::from_static(b"replayed");
        let (from, carrier) = (FinalState::Dead, Some(carrier));
        let last = None;
        let one =
            Amendment { delivery: id, notification, org: ORG, from, last, carrier, event, held };
        journal.amend(SHARD, vec![one]).expect("accepted")
    };
    let (first, second) = tokio::join!(amend(&owner), amend(&other));
    assert_eq!(usize::from(first.is_ok()) + usize::from(second.is_ok()), 1);
    assert_eq!(texts(&claim(&owner).await), ["again"]);
    nothing_to_claim(&owner).await;
    assert_eq!(owner.dead_kept().await, Ok(0));
    let query = SettledQuery {
        org: ORG,
        from: Millis(0),
        to: world.clock.now(),
        states: u8::MAX,
        before: None,
    };
    let page = other.settled(query, 10).await.expect("readable");
    assert!(page.blocks[0].settled[0].finals.is_empty(), "no longer dead: {page:?}");
    assert_eq!(owner.books().reopened, [0, 0, 0, 0, 0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivered_one_is_sent_again_by_one_node_alone() {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    put(&owner, vec![entry("a", world.clock.now())]).await;
    let claims = claim(&owner).await;
    let (id, notification) = (delivery(&claims[0]), claims[0].notification);
    settle(&owner, done(&claims[0])).await.expect("settled");
    let amend = async |journal: &RedisJournal, last: Option<u64>| {
        let held = journal.reserve(id).expect("free");
        let carrier = Some(Entry { kind: EntryKind::FollowUp, ..entry("again", Millis(0)) });
        let (from, event) = (FinalState::Delivered, Bytes::from_static(b"replayed"));
        let one =
            Amendment { delivery: id, notification, org: ORG, from, last, carrier, event, held };
        journal.amend(SHARD, vec![one]).expect("accepted").await
    };
    let last = async |journal: &RedisJournal| {
        journal.reopened(vec![id]).await.expect("readable").get(&id).copied()
    };
    let (seen, seen_too) = (last(&owner).await, last(&other).await);
    assert_eq!(amend(&owner, seen).await, Ok(()));
    assert_eq!(amend(&other, seen_too).await, Err(JournalError::Fenced));
    assert_eq!(texts(&claim(&owner).await), ["again"]);
    nothing_to_claim(&owner).await;
    assert_eq!(owner.books().reopened, [1, 0, 0, 0, 0, 0]);
    let seen = last(&other).await;
    assert_eq!(amend(&other, seen).await, Ok(()), "what is there now is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_canceled_is_known_before_it_comes_due_early() {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    let now = world.clock.now();
    let (canceled, other_timer) =
        (entry("canceled", now.plus(3_600_000)), entry("timer", now.plus(1_000)));
    let id = canceled.notification;
    put(&other, vec![canceled, other_timer]).await;
    until("the owner counts them", async || owner.backlog(SHARD).timers == 2).await;
    // Its reader is told of nothing more, as if it hung.
    let key = String::from_utf8(world.redis.key(SHARD, "q")).expect("text");
    world.server.ask(&["XGROUP", "SETID", &key, "dispatch", "999999-0"]).expect("moved");
    let event = Bytes::from_static(b"canceled");
    let wish = Cancellation { notification: id, org: ORG, event };
    other.cancel(SHARD, wish).expect("accepted").await.expect("committed");
    assert_eq!(other.hurry(SHARD, ORG, id).await, Ok(1));
    world.clock.advance(Duration::from_secs(1));
    let mut found = Vec::new();
    while found.len() < 2 {
        for claim in claim(&owner).await {
            assert!(claim.notification != id || owner.is_canceled(id), "claimed and not known");
            found.push(claim);
        }
    }
    let third = world.node(small_options()).await;
    assert_eq!(third.was_canceled(SHARD, id).await, Ok(true));
    assert_eq!(third.was_canceled(SHARD, NotificationId(Uuid::nil())).await, Ok(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellations_are_read_by_pages_and_forgotten_with_what_they_cancel() {
    let world = World::new(RedisOptions::default()).await;
    let key = String::from_utf8(world.redis.key(SHARD, "x")).expect("text");
    // More of one instant than a page holds.
    let fill = "for i = 1, 20500 do \
                redis.call('ZADD', KEYS[1], i < 12000 and 5 or i, struct.pack('>I8I8', 7, i)) end";
    world.server.ask(&["EVAL", fill, "1", &key]).expect("filled");
    let owner = world.owner().await;
    assert_eq!(owner.core.canceled.read().len(), 20_500);
    let now = i64::try_from(world.clock.now().0).expect("small");
    let id = NotificationId(Uuid::from_u64_pair(u64::try_from(now).expect("positive") << 16, 7));
    let wish = Cancellation { notification: id, org: ORG, event: Bytes::new() };
    owner.cancel(SHARD, wish).expect("accepted").await.expect("committed");
    owner.core.forget_canceled();
    assert_eq!(owner.core.canceled.read().len(), 1, "the others are older than 400 days");
    world.clock.advance(Duration::from_hours(401 * 24));
    owner.core.forget_canceled();
    assert!(!owner.is_canceled(id));
}

/// A node that takes its share of the shards by itself.
struct Member {
    journal: Arc<RedisJournal>,
    owners: Owners,
    following: JoinSet<()>,
}

impl Member {
    async fn join(redis: &Redis, clock: &TestClock) -> Self {
        Self::join_with(redis, clock, Duration::from_secs(60)).await
    }

    async fn join_with(redis: &Redis, clock: &TestClock, leave_patience: Duration) -> Self {
        let options = RedisJournalOptions { leave_patience, ..small_options() };
        let journal = Arc::new(open(redis, clock, options).await);
        let lease = Duration::from_secs(1);
        let options = OwnerOptions { shards: SHARDS, lease, name: String::from("node") };
        let owners = Owners::start(redis.clone(), options);
        let following = follow(&journal, &owners);
        Self { journal, owners, following }
    }

    fn loaded(&self) -> usize {
        (0..SHARDS).filter(|shard| self.journal.is_loaded(ShardId(*shard))).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_passes_on_when_a_node_joins_leaves_or_dies() {
    let world = World::new(RedisOptions::default()).await;
    let first = Member::join(&world.redis, &world.clock).await;
    until("the first has all", async || first.loaded() == 2).await;
    let second = Member::join(&world.redis, &world.clock).await;
    until("each has its share", async || (first.loaded(), second.loaded()) == (1, 1)).await;
    for shard in (0..SHARDS).map(ShardId) {
        let entries = vec![entry("a", world.clock.now())];
        let append = Append { entries, idempotency: Vec::new() };
        first.journal.append(shard, append).expect("accepted").await.expect("committed");
    }
    let shard = (0..SHARDS).map(ShardId).find(|shard| second.journal.is_loaded(*shard));
    let shard = shard.expect("has one");
    let claims = second.journal.claim(shard, 1, &Unlimited).await.expect("claimed");
    // What is under way is settled before the shard is given up, and nothing more is claimed.
    let Member { journal, owners, following } = second;
    owners.leave();
    nothing_to_claim_in(&journal, shard).await;
    let settled = journal.settle(shard, vec![done(&claims[0])]).expect("held");
    assert_eq!(settled.await, Ok(()));
    until("the first has all again", async || first.loaded() == 2).await;
    assert!(journal.settle(shard, vec![done(&claims[0])]).is_err(), "not its shard any more");
    owners.stop().await.expect("left");
    drop((journal, following));
    nothing_to_claim_in(&first.journal, shard).await;
    // Dies: nobody says goodbye.
    let mut dying = tokio::runtime::Builder::new_multi_thread();
    let dying = dying.worker_threads(1).enable_all().build().expect("a runtime");
    let (options, clock) = (RedisOptions::single(world.server.url()), world.clock.clone());
    let third = dying.spawn(async move {
        let redis = Redis::open(&options).await.expect("redis answers");
        Member::join(&redis, &clock).await
    });
    let third = third.await.expect("it joined");
    until("the third has one", async || third.loaded() == 1).await;
    dying.shutdown_background();
    until("the first has all once more", async || first.loaded() == 2).await;
    drop((first.following, third.owners));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_hangs_does_not_hold_its_shard() {
    let world = World::new(RedisOptions::default()).await;
    let patience = Duration::from_millis(50);
    let first = Member::join_with(&world.redis, &world.clock, patience).await;
    until("the first has all", async || first.loaded() == 2).await;
    put(&first.journal, vec![entry("hangs", world.clock.now())]).await;
    let hung = claim(&first.journal).await;
    let second = Member::join(&world.redis, &world.clock).await;
    // Its lease is a minute, and nobody settles it.
    first.owners.leave();
    until("the second has all", async || second.loaded() == 2).await;
    let again = claim(&second.journal).await;
    assert_eq!(texts(&again), ["hangs"]);
    assert_eq!(first.journal.lease_left(SHARD, hung[0].id), None, "nothing more is begun of it");
    assert_eq!(settle(&first.journal, done(&hung[0])).await, Err(JournalError::Fenced));
    settle(&second.journal, done(&again[0])).await.expect("settled");
    until("the books have it once", async || second.journal.books().finals == [1, 0, 0, 0, 0, 0])
        .await;
    drop((first.following, second.following));
}
