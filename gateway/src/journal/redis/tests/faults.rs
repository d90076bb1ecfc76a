//! What may happen to Redis under a journal: silence, a restart, a group that is gone, old blocks.

use super::nodes::{
    ORG, SHARD, World, claim, done, entry, hasty, nothing_to_claim, put, settle, texts,
};
use super::*;
use crate::redis::RedisOptions;
use bugler_loadtest::redis::Reply;

#[tokio::test(flavor = "multi_thread")]
async fn what_timed_out_is_added_once() {
    let (world, owner) = hasty(Duration::from_secs(20)).await;
    put(&owner, vec![entry("before", world.clock.now())]).await;
    let held = claim(&owner).await;
    world.server.freeze();
    let append = |text| {
        let entries = vec![entry(text, world.clock.now())];
        owner.append(SHARD, Append { entries, idempotency: Vec::new() }).expect("accepted")
    };
    let (one, two) = (append("one"), append("two"));
    let settled = owner.settle(SHARD, vec![done(&held[0])]).expect("held");
    until("writing fails", async || owner.core.cells[0].failing.lock().is_some()).await;
    // What timed out lies in the server's sockets, and will be executed.
    world.server.thaw();
    let all = tokio::join!(one, two, settled);
    assert_eq!(all, (Ok(()), Ok(()), Ok(())));
    assert_eq!(texts(&claim(&owner).await), ["one", "two"]);
    nothing_to_claim(&owner).await;
    let books = owner.books();
    assert_eq!((books.accepted, books.finals), (3, [1, 0, 0, 0, 0, 0]));
    drop(owner);
    let next = world.owner().await;
    assert_eq!(next.books(), books);
    assert_eq!(texts(&claim(&next).await), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_write_without_an_answer_is_refused_in_time() {
    let (world, owner) = hasty(Duration::from_millis(300)).await;
    world.server.freeze();
    let append = |text| {
        let entries = vec![entry(text, world.clock.now())];
        owner.append(SHARD, Append { entries, idempotency: Vec::new() }).expect("accepted")
    };
    let first = append("one");
    until("writing fails", async || owner.core.cells[0].failing.lock().is_some()).await;
    let second = append("two");
    assert_eq!(tokio::join!(first, second), (Err(JournalError::Unknown), Err(JournalError::Full)));
    world.server.thaw();
    assert_eq!(texts(&claim(&owner).await), ["one"]);
    nothing_to_claim(&owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_the_books_does_not_wait_until_redis_is_back() {
    let options = RedisOptions { timeout: Duration::from_millis(100), ..RedisOptions::default() };
    let mut world = World::new(options).await;
    let owner = world.owner().await;
    put(&owner, vec![entry("before", world.clock.now())]).await;
    let held = claim(&owner).await;
    world.server.kill();
    // Tried until it gets through: nobody may wait behind it.
    let settled = owner.settle(SHARD, vec![done(&held[0])]).expect("held");
    until("writing fails", async || owner.core.cells[0].failing.lock().is_some()).await;
    let asked = tokio::time::timeout(Duration::from_secs(30), owner.dead_kept()).await;
    assert!(asked.expect("an answer").is_err());
    drop(settled);
}

#[test]
fn a_block_in_the_place_of_another_is_not_the_one_that_was_read_there() {
    let cell = Cell::new(SHARD, 8);
    let mut state = cell.state.lock();
    state.note_mark(7, &Bytes::from_static(b"a 1"));
    state.note_mark(8, &Bytes::from_static(b"b 1"));
    assert!(state.has_taken_in(7, &Bytes::from_static(b"a 1")));
    assert!(!state.has_taken_in(7, &Bytes::from_static(b"a 2")));
    assert!(!state.has_taken_in(9, &Bytes::from_static(b"a 1")));
    state.note_mark(7, &Bytes::from_static(b"a 2"));
    assert!(state.has_taken_in(7, &Bytes::from_static(b"a 2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_redis_forbids_for_a_while_is_written_later() {
    let world = World::new(RedisOptions::default()).await;
    let owner = world.owner().await;
    put(&owner, vec![entry("sent", world.clock.now())]).await;
    let held = claim(&owner).await;
    world.server.ask(&["ACL", "SETUSER", "default", "-evalsha", "-eval"]).expect("taken away");
    let settled = owner.settle(SHARD, vec![done(&held[0])]).expect("held");
    until("writing fails", async || owner.core.cells[0].failing.lock().is_some()).await;
    world.server.ask(&["ACL", "SETUSER", "default", "+@all"]).expect("given back");
    assert_eq!(settled.await, Ok(()));
    nothing_to_claim(&owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_told_that_redis_is_away_and_it_recovers_by_itself() {
    let options = RedisOptions { timeout: Duration::from_millis(100), ..RedisOptions::default() };
    // Synced before each answer.
    let server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let mut world = World::on(server, options).await;
    let patience = Duration::from_millis(300);
    let owner = world.node(RedisJournalOptions { patience, ..small_options() }).await;
    own(&world.redis, &owner).await;
    put(&owner, vec![entry("before", world.clock.now())]).await;
    world.server.kill();
    let entries = vec![entry("refused", world.clock.now())];
    let append = Append { entries, idempotency: Vec::new() };
    let refused = owner.append(SHARD, append).expect("queued").await;
    assert!(matches!(refused, Err(JournalError::Full | JournalError::Unknown)), "{refused:?}");
    assert!(owner.timeline(ORG, NotificationId(uuid::Uuid::nil())).await.is_err());
    until("it is unhealthy", async || !owner.is_healthy()).await;
    world.server.restart().expect("it starts again");
    // Refused until the link has found it again, as a caller is who asks again.
    until("it takes additions again", async || {
        let entries = vec![entry("after", world.clock.now())];
        let append = Append { entries, idempotency: Vec::new() };
        owner.append(SHARD, append).expect("queued").await.is_ok()
    })
    .await;
    let claims = claim(&owner).await;
    let found = texts(&claims);
    assert_eq!(found.first().map(String::as_str), Some("before"), "{found:?}");
    until("it is healthy", async || owner.is_healthy()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_gone_is_made_again_with_what_was_pending() {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    let now = world.clock.now();
    put(&owner, (0..40).map(|n| entry(&n.to_string(), now)).collect()).await;
    put(&owner, (40..90).map(|n| entry(&n.to_string(), now)).collect()).await;
    let key = String::from_utf8(world.redis.key(SHARD, "q")).expect("text");
    world.server.ask(&["XGROUP", "DESTROY", &key, "dispatch"]).expect("destroyed");
    put(&other, (90..100).map(|n| entry(&n.to_string(), now)).collect()).await;
    until("all are claimed", async || {
        let claims = owner.claim(SHARD, 100, &crate::journal::Unlimited);
        tokio::time::timeout(Duration::from_millis(300), claims).await.ok();
        owner.backlog(SHARD).claimed == 100
    })
    .await;
    assert_eq!(owner.backlog(SHARD).pending, 100);
    let pending = world.server.ask(&["XPENDING", &key, "dispatch"]).expect("there again");
    assert!(!format!("{pending:?}").contains("NOGROUP"));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_drops_finished_blocks_and_no_others() {
    let world = World::new(RedisOptions::default()).await;
    let owner = world.owner().await;
    let now = world.clock.now();
    let (first, second) = (entry("first", now), entry("second", now));
    let (one, two) = (first.notification, second.notification);
    put(&owner, vec![first]).await;
    put(&owner, vec![second]).await;
    let claims = claim(&owner).await;
    settle(&owner, done(&claims[0])).await.expect("settled");
    let key = String::from_utf8(world.redis.key(SHARD, "q")).expect("text");
    let length = async || world.server.ask(&["XLEN", &key]).expect("answers").number();
    assert_eq!(length().await, 3, "two blocks and what was settled");
    world.clock.advance(small_options().retention + Duration::from_secs(1));
    until("finished blocks go", async || length().await == 1).await;
    assert_eq!(owner.root(ORG, one).await, Ok(None));
    assert_eq!(owner.root(ORG, two).await, Ok(Some(Bytes::from_static(b"second"))));
    let listed = owner.listed(ORG, None, 10).await.expect("readable");
    assert_eq!(listed.iter().map(|root| root.notification).collect::<Vec<_>>(), [two]);
    let again = claim(&owner).await;
    assert_eq!(texts(&again), ["second"], "its lease ran out");
    settle(&owner, done(&again[0])).await.expect("settled");
    until("the old block goes with its last entry", async || length().await <= 1).await;
    assert_eq!(owner.books().finals, [2, 0, 0, 0, 0, 0]);
}

/// Copies every key to one that begins with `to` instead of `from`.
fn copy(world: &World, from: &str, to: &str) {
    let Reply::List(keys) = world.server.ask(&["KEYS", &format!("{from}*")]).expect("keys") else {
        panic!("no list of keys");
    };
    for key in keys.iter().map(Reply::text) {
        let copy = key.replacen(from, to, 1);
        world.server.ask(&["COPY", &key, &copy, "REPLACE"]).expect("copied");
    }
}

/// Two nodes, of which the first owns the shard and has claimed "kept", and then "lost", which what is
/// under `copy:` lacks, as a replica that lags behind.
async fn lagging() -> (World, RedisJournal, RedisJournal, Vec<Claim>) {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    put(&other, vec![entry("kept", world.clock.now())]).await;
    assert_eq!(texts(&claim(&owner).await), ["kept"]);
    copy(&world, "bugler:", "copy:");
    put(&other, vec![entry("lost", world.clock.now())]).await;
    let held = claim(&owner).await;
    assert_eq!(texts(&held), ["lost"]);
    (world, owner, other, held)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_notices_that_a_failover_lost_what_it_had_taken_in() {
    let (world, owner, other, _) = lagging().await;
    // What a replica that lagged behind has; then somebody writes where the lost block was.
    copy(&world, "copy:", "bugler:");
    put(&other, vec![entry("new", world.clock.now())]).await;
    let mut found = Vec::new();
    while found.len() < 2 {
        found.extend(texts(&claim(&owner).await));
    }
    found.sort();
    assert_eq!(found, ["kept", "new"], "all that is pending is claimed again");
    assert_eq!(owner.backlog(SHARD).pending, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_after_a_failover_is_not_what_others_wrote_in_its_place() {
    let (world, owner, other, held) = lagging().await;
    // Nothing of the log is taken in; the lane has taken the settlement, and waits behind us.
    let cell = &owner.core.cells[0];
    let log = cell.log.lock().await;
    let settled = owner.settle(SHARD, vec![done(&held[0])]).expect("held");
    until("the lane has it", async || cell.waiting.lock().settles.is_empty()).await;
    copy(&world, "copy:", "bugler:");
    put(&other, vec![entry("new", world.clock.now())]).await;
    put(&other, vec![entry("newer", world.clock.now())]).await;
    drop(log);
    assert_eq!(settled.await, Err(JournalError::Fenced));
    let mut found = Vec::new();
    while found.len() < 3 {
        found.extend(texts(&claim(&owner).await));
    }
    found.sort();
    assert_eq!(found, ["kept", "new", "newer"], "none of them was ended");
}
