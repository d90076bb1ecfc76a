//! Steps of commits that arrive late or twice, and what is left of commits that are over.

use super::*;
use crate::store::conformance::samples::{GLOBEX, two_organizations, user};
use crate::store::redis::commit::Ended;
use crate::store::redis::plan::{Part, Plan};

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

/// Writes `value` in each of these shards, behind the lock `x`.
fn plan(shards: &[ShardId], value: &str) -> Plan {
    let op = ["S", "table", "field", value].map(|part| part.as_bytes().to_vec());
    let part =
        |_| Part { locks: [b"x".to_vec()].into(), checks: Vec::new(), ops: vec![op.clone()] };
    let mut plan = Plan::default();
    plan.parts.extend(shards.iter().map(|shard| (*shard, part(shard))));
    plan
}

async fn wire(place: &Prefix) -> Wire {
    Wire::new(Redis::open(&place.options).await.expect("redis answers"), place.shards)
}

async fn stored(wire: &Wire, shard: ShardId) -> Option<String> {
    let key = [wire.base(shard), b"table".to_vec()].concat();
    let mut get = redis::cmd("HGET");
    get.arg(&key).arg("field");
    let value = wire.redis.query(&key, get).await.expect("redis answers");
    wire::bytes(&value).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// Leaves `x` locked in `HERE`, by a commit that nobody goes on with.
async fn crash_in(place: &Prefix) -> Wire {
    let crashed = wire(place).await;
    crashed.steps_left.store(1, Ordering::SeqCst);
    let ended = crashed.commit(&plan(&[HERE, THERE], "crashed"), THERE, &Vec::new()).await;
    assert!(ended.is_err(), "{ended:?}");
    crashed
}

async fn sweep(place: &Prefix) {
    place.impatient().await.records.wire.sweep().await.expect("redis answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_given_up_does_not_happen_when_its_request_arrives() {
    let (_server, options) = server();
    for shards in [&[HERE, THERE][..], &[HERE]] {
        let place = Prefix::new(&options, 8);
        crash_in(&place).await;
        let wire = wire(&place).await;
        // The first question to the deciding shard: the second one finds the lock.
        wire.late.after(i64::from(shards.len() > 1));
        let ended = wire.commit(&plan(shards, "late"), HERE, &Vec::new()).await;
        assert!(matches!(ended, Ok(Ended::Changed)), "{ended:?}");
        sweep(&place).await;
        let arrived = wire.late.arrive(&wire.redis).await;
        assert!(arrived.iter().all(Result::is_ok), "{arrived:?}");
        assert_eq!((stored(&wire, HERE).await, stored(&wire, THERE).await), (None, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_not_made_says_so_whatever_became_of_a_lock() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    crash_in(&place).await;
    let wire = wire(&place).await;
    // The question how the commit ended that holds the lock.
    wire.late.after(1);
    let ended = wire.commit(&plan(&[HERE], "mine"), HERE, &Vec::new()).await;
    let error = ended.expect_err("the lock could not be looked into");
    assert!(error.is_temporary() && !error.is_unknown(), "{error}");
    assert_eq!(stored(&wire, HERE).await, None);
}

/// How much the server was told to keep so far.
fn written(server: &Server) -> i64 {
    let text = server.ask(&["INFO", "persistence"]).expect("it answers").text();
    let lines = text.lines().filter_map(|line| line.split_once("changes_since_last_save:"));
    let count = lines.map(|(_, count)| count.trim().parse().expect("a number")).next();
    count.expect("the server counts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_asked_for_twice_is_written_twice_so_that_its_copies_are_proved() {
    let (server, options) = server();
    // A decision whose answer was lost, and a preparation whose answer was.
    for (shards, steps) in [(&[HERE][..], i64::MAX), (&[HERE, THERE], 1)] {
        let place = Prefix::new(&options, 8);
        let wire = wire(&place).await;
        wire.steps_left.store(steps, Ordering::SeqCst);
        wire.late.after(0);
        let decider = *shards.last().expect("shards");
        let ended = wire.commit(&plan(shards, "once"), decider, &Vec::new()).await;
        assert_eq!(ended.is_ok(), steps > 1, "{ended:?}");
        let before = written(&server);
        let arrived = wire.late.arrive(&wire.redis).await;
        assert!(arrived.iter().all(Result::is_ok), "{arrived:?}");
        assert!(written(&server) > before, "nothing to wait for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_commit_ended_is_forgotten_once_every_shard_has_it() {
    let (server, options) = server();
    let forever = "local count = 0
        for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
          if redis.call('PTTL', key) == -1 then count = count + 1 end
        end
        return count";
    let mut had = 0;
    for steps in 0.. {
        let place = Prefix::new(&options, 8);
        let store = place.store().await;
        store.apply(two_organizations(1)).await.unwrap();
        let left = &store.records.wire.steps_left;
        left.store(steps, Ordering::SeqCst);
        let answer = store.apply(vec![Change::PutUser(user(GLOBEX, 1))]).await;
        let kept = |name: &str| {
            let keys = format!("{}*:r:{name}", place.options.prefix);
            server.ask(&["EVAL", forever, "0", &keys]).expect("it answers").number()
        };
        had += kept("m:*");
        sweep(&place).await;
        assert_eq!((kept("m:*"), kept("open"), kept("t:*")), (0, 0, 0), "after {steps} steps");
        if answer.is_ok() && left.load(Ordering::SeqCst) > 0 {
            break;
        }
    }
    assert!(had > 0, "no step left anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_from_the_future_is_nobodys() {
    let (_server, options) = server();
    let place = Prefix::new(&options, 8);
    let wire = crash_in(&place).await;
    wire.steps_left.store(i64::MAX, Ordering::SeqCst);
    let key = [wire.base(HERE), b"locks".to_vec()].concat();
    let mut get = redis::cmd("HGET");
    get.arg(&key).arg("x");
    let held = wire.redis.query(&key, get).await.expect("redis answers");
    let mut held = wire::bytes(&held).expect("a lock").to_vec();
    // The clock of the server was ahead when it was set.
    held.truncate(18);
    held.extend_from_slice(b"99999999999999");
    let mut set = redis::cmd("HSET");
    set.arg(&key).arg("x").arg(held);
    wire.redis.query(&key, set).await.expect("redis answers");
    let first = wire.commit(&plan(&[HERE], "mine"), HERE, &Vec::new()).await;
    assert!(matches!(first, Ok(Ended::Changed)), "{first:?}");
    let second = wire.commit(&plan(&[HERE], "mine"), HERE, &Vec::new()).await;
    assert!(matches!(second, Ok(Ended::Made)), "{second:?}");
}
