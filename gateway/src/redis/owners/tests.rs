//! Nodes of one process share shards on a real server: joining, leaving, dying and being fenced.

use super::*;
use crate::redis::RedisOptions;
use bugler_loadtest::redis::{Cluster, Persistence, Server, ServerOptions};

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

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_shared_while_redis_is_out_of_memory() {
    let server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let redis = connect(&server).await;
    let first = start(&redis, "first");
    settle_until(&[&first], || held(&first).len() == 12).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]).expect("it is set");
    let second = start(&redis, "second");
    let both = [&first, &second];
    settle_until(&both, || both.iter().all(|owners| held(owners).len() == 6)).await;
    first.stop().await.expect("it hands over");
    settle_until(&[&second], || held(&second).len() == 12).await;
    // Beats went on for longer than a lease: the second one heard that the first is gone.
    settle_until(&[&second], || second.live() == 1).await;
    assert!(second.is_fresh());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_away_keeps_only_its_own_shards_from_being_taken() {
    let lines = vec![String::from("cluster-require-full-coverage no")];
    let persistence = Persistence::None;
    let options = ServerOptions { persistence, lines, ..ServerOptions::default() };
    let mut cluster = Cluster::start(&options).expect("a cluster starts");
    let connect = async || {
        let options = RedisOptions {
            timeout: Duration::from_millis(500),
            ..RedisOptions::cluster(cluster.urls())
        };
        Redis::open(&options).await.expect("the cluster answers")
    };
    let (redis, other) = (connect().await, connect().await);
    let home = cluster.primary_of("bugler:{nodes}:beats").expect("somebody has it");
    let lost = (0..3).find(|place| *place != home).expect("there are three primaries");
    let of = |shard| {
        let key = Owners::key(&redis, ShardId(shard));
        cluster.primary_of(&String::from_utf8_lossy(&key)).expect("somebody has it")
    };
    let there: Vec<_> = (0..SHARDS).filter(|shard| of(*shard) != lost).collect();
    assert!((1..usize::from(SHARDS)).contains(&there.len()), "{there:?}");
    let first = start(&redis, "first");
    settle_until(&[&first], || held(&first).len() == 12).await;
    // Frozen, not gone: whoever asks them waits.
    for place in [lost, lost + 3] {
        cluster.nodes()[place].freeze();
    }
    let heir = start(&other, "heir");
    first.shared.is_stopped.store(true, Ordering::Release);
    first.shared.stopped.notify_one();
    settle_until(&[&heir], || there.iter().all(|shard| heir.hold(ShardId(*shard)).may_claim()))
        .await;
    for place in [lost, lost + 3] {
        cluster.nodes()[place].thaw();
    }
    settle_until(&[&heir], || held(&heir).len() == 12).await;
    cluster.nodes_mut().iter_mut().for_each(Server::kill);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stood_still_begins_nothing_before_it_knows_what_it_lost() {
    let server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let url = server.url();
    let (started, zombie) = std::sync::mpsc::channel();
    let (freeze, frozen) = tokio::sync::oneshot::channel::<()>();
    let (thaw, thawed) = std::sync::mpsc::channel::<()>();
    // One thread for all of it, so that it stands still as a whole.
    let process = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let redis = Redis::open(&RedisOptions::single(url)).await.expect("redis answers");
            let owners = start(&redis, "zombie");
            started.send(owners.clone()).expect("somebody listens");
            frozen.await.expect("somebody freezes it");
            thawed.recv().expect("somebody thaws it");
            settle_until(&[&owners], || held(&owners).len() < 12).await;
            owners.stop().await.expect("redis answers");
        });
    });
    let zombie = zombie.recv().expect("it starts");
    settle_until(&[], || held(&zombie).len() == 12).await;
    let redis = connect(&server).await;
    freeze.send(()).expect("it listens");
    let heir = start(&redis, "heir");
    settle_until(&[&heir], || held(&heir).len() == 12).await;
    let watching = zombie.clone();
    let watch = std::thread::spawn(move || {
        loop {
            // In this order: what it lost is known by the time it is fresh.
            let is_fresh = watching.is_fresh();
            match held(&watching).len() {
                12 if is_fresh => return false,
                0 => return true,
                _ => {}
            }
        }
    });
    thaw.send(()).expect("it listens");
    assert!(watch.join().expect("it watches"), "it was fresh with shards of another node");
    heir.stop().await.expect("redis answers");
    process.join().expect("it ends");
}
