//! Nodes of one process share shards on a real server: joining, leaving, dying and being fenced.

use super::*;
use crate::redis::RedisOptions;
use bugler_loadtest::redis::{Server, ServerOptions};

const SHARDS: u16 = 12;
const LEASE: Duration = Duration::from_secs(1);

async fn connect(server: &Server) -> Redis {
    Redis::open(&RedisOptions::single(server.url())).await.expect("redis answers")
}

fn start(redis: &Redis, name: &str) -> Owners {
    let options = OwnerOptions { shards: SHARDS, lease: LEASE, name: name.to_owned() };
    Owners::start(redis.clone(), options)
}

fn held(owners: &Owners) -> Vec<Fence> {
    let holds = (0..SHARDS).map(|shard| owners.hold(ShardId(shard)));
    holds.filter(Hold::may_claim).filter_map(|hold| hold.fence().cloned()).collect()
}

/// Releases what is to be left, as a journal does that has nothing under way.
async fn settle_until(all: &[&Owners], is_so: impl Fn() -> bool) {
    while !is_so() {
        for owners in all {
            for shard in (0..SHARDS).map(ShardId) {
                if let Hold::Leaving(fence) = owners.hold(shard) {
                    owners.release(&fence).await.expect("redis answers");
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_spread_over_nodes_that_join_and_leave() {
    let server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let redis = connect(&server).await;
    let first = start(&redis, "first");
    settle_until(&[&first], || held(&first).len() == 12).await;
    let second = start(&redis, "second");
    let both = [&first, &second];
    settle_until(&both, || both.iter().all(|owners| held(owners).len() == 6)).await;
    let third = start(&redis, "third");
    let all = [&first, &second, &third];
    settle_until(&all, || all.iter().all(|owners| held(owners).len() == 4)).await;
    let mut shards: Vec<_> =
        all.iter().flat_map(|owners| held(owners)).map(|f| f.shard()).collect();
    shards.sort_unstable();
    assert_eq!(shards, (0..SHARDS).map(ShardId).collect::<Vec<_>>());
    second.stop().await.expect("redis answers");
    assert!(held(&second).is_empty());
    let left = [&first, &third];
    settle_until(&left, || left.iter().all(|owners| held(owners).len() == 6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_keeps_what_is_under_way_and_passes_on_the_rest() {
    let server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let redis = connect(&server).await;
    let (first, second) = (start(&redis, "first"), start(&redis, "second"));
    let both = [&first, &second];
    settle_until(&both, || both.iter().all(|owners| held(owners).len() == 6)).await;
    let busy = held(&first).pop().expect("it holds six");
    first.leave();
    for shard in (0..SHARDS).map(ShardId).filter(|shard| *shard != busy.shard()) {
        if let Hold::Leaving(fence) = first.hold(shard) {
            first.release(&fence).await.expect("redis answers");
        }
    }
    settle_until(&[&second], || held(&second).len() == 11).await;
    assert_eq!(first.hold(busy.shard()), Hold::Leaving(busy.clone()));
    first.release(&busy).await.expect("redis answers");
    settle_until(&[&second], || held(&second).len() == 12).await;
}

static GUARDED: Script = Script::new("return redis.call('INCR', KEYS[2])").after(OWNED);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_beating_loses_its_shards_and_is_fenced() {
    let server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let (frozen, redis) = (connect(&server).await, connect(&server).await);
    let zombie = start(&frozen, "zombie");
    settle_until(&[&zombie], || held(&zombie).len() == 12).await;
    let old = held(&zombie);
    // Its loop ends without a word, as if the process were gone.
    zombie.shared.is_stopped.store(true, Ordering::Release);
    zombie.shared.stopped.notify_one();
    let heir = start(&redis, "heir");
    settle_until(&[&heir], || held(&heir).len() == 12).await;
    for (old, new) in old.iter().zip(held(&heir)) {
        let shard = old.shard();
        let (owner, count) = (Owners::key(&redis, shard), redis.key(shard, "count"));
        let run =
            async |fence: &Fence| redis.run(&GUARDED, &[&owner, &count], &[fence.token()]).await;
        assert_eq!(run(old).await, Err(RedisError::Fenced));
        assert_eq!(run(&new).await, Ok(Value::Int(1)));
        assert!(new.epoch() > old.epoch());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_loses_a_shard_when_redis_was_away_for_longer_than_a_lease() {
    let mut server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let redis = connect(&server).await;
    let (first, second) = (start(&redis, "first"), start(&redis, "second"));
    let both = [&first, &second];
    settle_until(&both, || both.iter().all(|owners| held(owners).len() == 6)).await;
    let before = (held(&first), held(&second));
    server.kill();
    settle_until(&both, || both.iter().all(|owners| held(owners).is_empty())).await;
    let stale = both.iter().flat_map(|owners| (0..SHARDS).map(|s| owners.hold(ShardId(s))));
    assert_eq!(stale.filter(|hold| matches!(hold, Hold::Stale(_))).count(), 12);
    assert!(!first.is_fresh() && !second.is_fresh());
    // The length of the outage: longer than a lease.
    tokio::time::sleep(LEASE).await;
    server.restart().expect("redis-server starts again");
    settle_until(&both, || both.iter().all(|owners| held(owners).len() == 6)).await;
    assert_eq!((held(&first), held(&second)), before);
    assert!(first.is_fresh() && second.is_fresh());
}
