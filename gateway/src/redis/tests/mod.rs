//! The link against servers of our own: scripts, redirections, failures and blocking reads.

mod cluster;
mod fake;
mod faults;
mod settings;

use super::*;
use ::redis::Value;
use bugler_loadtest::redis::{Persistence, Server, ServerOptions};
use std::time::Duration;

static ADD: Script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
static READ: Script = Script::reading("return redis.call('GET', KEYS[1])");

/// A server with more lines of configuration.
fn server(persistence: Persistence, lines: &[&str]) -> Server {
    let lines = lines.iter().map(|line| (*line).to_owned()).collect();
    Server::start(ServerOptions { persistence, lines, ..ServerOptions::default() })
        .expect("redis-server starts")
}

/// Waits until `is_so`; a test that waits in vain is ended by its runner.
async fn until(is_so: impl AsyncFn() -> bool) {
    while !is_so().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn single() -> (Server, Redis) {
    let server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let redis = Redis::open(&RedisOptions::single(server.url())).await.expect("it answers");
    (server, redis)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_by_hash_and_again_after_redis_forgot_it() {
    let (server, redis) = single().await;
    let key = redis.key(ShardId(7), "n");
    assert_eq!(key, b"bugler:{s007}:n");
    for expected in 1..=2 {
        assert_eq!(redis.run(&ADD, &[&key], &[b"1"]).await, Ok(Value::Int(expected)));
    }
    server.ask(&["SCRIPT", "FLUSH"]).expect("scripts are forgotten");
    assert_eq!(redis.run(&ADD, &[&key], &[b"1"]).await, Ok(Value::Int(3)));
    assert_eq!(redis.run(&READ, &[&key], &[]).await, Ok(Value::BulkString(b"3".to_vec())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_read_holds_nobody_up() {
    let (_server, redis) = single().await;
    let key = redis.key(ShardId(0), "list");
    let mut blocking = redis.blocking(&key).await.expect("it connects");
    let mut pop = ::redis::cmd("BLPOP");
    pop.arg(&key).arg(20);
    let read = blocking.call(&pop, Duration::from_secs(20));
    let write = async {
        let mut push = ::redis::cmd("RPUSH");
        push.arg(&key).arg("x");
        redis.query(&key, push).await
    };
    let (read, write) = tokio::join!(read, write);
    assert_eq!(write, Ok(Value::Int(1)));
    let popped = Value::Array(vec![Value::BulkString(key), Value::BulkString(b"x".to_vec())]);
    assert_eq!(read, Ok(popped));
}
