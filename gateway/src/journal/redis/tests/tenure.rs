//! A shard that is lost, or read again, while something of it is under way.

use super::nodes::{SHARD, World, claim, done, entry, nothing_to_claim, put, settle, texts};
use super::*;
use crate::redis::RedisOptions;
use bugler_loadtest::redis::Reply;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_loses_a_shard_while_it_reads_its_log_lets_go_of_it() {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    for n in 0..3 {
        put(&other, vec![entry(&n.to_string(), world.clock.now())]).await;
    }
    owner.disown(SHARD);
    let cell = &owner.core.cells[0];
    {
        let _log = cell.log.lock().await;
        let read = tokio::time::timeout(Duration::from_secs(20), owner.core.catch_up(cell, 4));
        read.await.expect("it ends").expect("readable");
    }
    own(&world.redis, &owner).await;
    assert_eq!(texts(&claim(&owner).await), ["0", "1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_claimed_before_a_shard_was_lost_is_not_settled_after_it_came_back() {
    let world = World::new(RedisOptions::default()).await;
    let (first, second) = (world.owner().await, world.node(small_options()).await);
    let now = world.clock.now();
    put(&first, vec![entry("a", now), entry("b", now)]).await;
    let claims = claim(&first).await;
    assert_eq!(texts(&claims), ["a", "b"]);
    let cell = Arc::clone(&first.core.cells[0]);
    let log = cell.log.lock().await;
    let late = first.settle(SHARD, vec![done(&claims[0])]).expect("held");
    first.disown(SHARD);
    own(&world.redis, &second).await;
    let again = claim(&second).await;
    assert_eq!(texts(&again), ["a", "b"]);
    settle(&second, done(&again[0])).await.expect("settled");
    take_over(&world.redis, &first).await;
    drop(log);
    assert_eq!(late.await, Err(JournalError::Fenced));
    let left = claim(&first).await;
    assert_eq!(texts(&left), ["b"]);
    settle(&first, done(&left[0])).await.expect("settled");
    assert_eq!(first.backlog(SHARD), Backlog::default());
    assert_eq!(first.books().finals, [2, 0, 0, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_claimed_before_a_shard_was_read_again_is_not_settled_after_it() {
    let world = World::new(RedisOptions::default()).await;
    let owner = world.owner().await;
    let now = world.clock.now();
    put(&owner, vec![entry("a", now), entry("b", now)]).await;
    let claims = claim(&owner).await;
    let cell = Arc::clone(&owner.core.cells[0]);
    let generation = cell.state.lock().generation;
    let log = cell.log.lock().await;
    cell.unload("a test wants it");
    // Claims nothing meanwhile, and does not know yet that it is read again.
    let late = owner.settle(SHARD, vec![done(&claims[0])]).expect("held");
    drop(log);
    let answer = late.await;
    until("it was read", async || cell.state.lock().generation > generation).await;
    let again = claim(&owner).await;
    // Whichever came first: what is settled stays so, what is not comes again.
    match answer {
        Ok(()) => assert_eq!(texts(&again), ["b"]),
        Err(error) => {
            assert_eq!(
                (error, texts(&again)),
                (JournalError::Fenced, vec!["a".into(), "b".into()])
            );
        }
    }
    for claim in &again {
        settle(&owner, done(claim)).await.expect("settled");
    }
    nothing_to_claim(&owner).await;
    assert_eq!(owner.books().finals, [2, 0, 0, 0, 0, 0]);
    assert_eq!(owner.backlog(SHARD), Backlog::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_lists_blocks_with_open_entries_and_no_others() {
    let world = World::new(RedisOptions::default()).await;
    let (owner, other) = (world.owner().await, world.node(small_options()).await);
    let now = world.clock.now();
    let key = String::from_utf8(world.redis.key(SHARD, "q")).expect("text");
    let listed = || match world.server.ask(&["XPENDING", &key, "dispatch"]).expect("a group") {
        Reply::List(parts) => parts.first().map_or(0, Reply::number),
        other => panic!("{other:?}"),
    };
    put(&other, vec![entry("later", now.plus(60_000))]).await;
    put(&other, vec![entry("theirs", now)]).await;
    put(&owner, vec![entry("own", now)]).await;
    until("the owner counts them", async || owner.backlog(SHARD).pending == 3).await;
    assert_eq!(listed(), 2, "not the timer");
    let mut claims = Vec::new();
    while claims.len() < 2 {
        claims.extend(claim(&owner).await);
    }
    for claim in &claims {
        settle(&owner, done(claim)).await.expect("settled");
    }
    assert_eq!(listed(), 0);
    // As a node of an earlier release may have left it.
    let leaked = ["XCLAIM", &key, "dispatch", "owner", "0", "1-0", "FORCE", "JUSTID"];
    world.server.ask(&leaked).expect("listed");
    put(&other, vec![entry("open", now)]).await;
    assert_eq!(listed(), 2);
    let next = world.owner().await;
    assert_eq!(listed(), 1, "its owner lists what is open");
    assert_eq!(texts(&claim(&next).await), ["open"]);
}
