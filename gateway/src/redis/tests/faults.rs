//! One server that is killed, frozen, full, renamed or busy: each by its name, and back by itself.

use super::*;
use std::sync::Arc;

static ECHO: Script = Script::reading("return ARGV[1]");
static FREE: Script = Script::freeing("return redis.call('DEL', KEYS[1])");
static STORE: Script = Script::new("redis.call('SET', KEYS[1], ARGV[1]) return 1");

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_without_an_answer_is_unknown_and_later_replies_reach_nobody_else() {
    let server = server(Persistence::None, &[]);
    let options = RedisOptions {
        timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(200),
        ..RedisOptions::single(server.url())
    };
    let redis = Redis::open(&options).await.expect("it answers");
    let key = redis.key(ShardId(0), "n");
    assert_eq!(redis.run(&ADD, &[&key], &[b"1"]).await, Ok(Value::Int(1)));
    server.freeze();
    let error = redis.run(&ADD, &[&key], &[b"1"]).await.expect_err("nobody answers");
    assert!(error.is_unknown(), "{error}");
    until(async || redis.trouble().is_some()).await;
    server.thaw();
    until(async || redis.run(&ECHO, &[&key], &[b"a"]).await.is_ok()).await;
    until(async || redis.trouble().is_none()).await;
    // The unknown one happened after all, or did not: both are within its meaning.
    let Ok(Value::BulkString(count)) = redis.run(&READ, &[&key], &[]).await else {
        panic!("the counter is read");
    };
    assert!(count == b"1" || count == b"2", "{count:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reply_reaches_another_request_while_connections_are_cut() {
    let (server, redis) = single().await;
    let server = Arc::new(server);
    let cutter = {
        let server = Arc::clone(&server);
        tokio::task::spawn_blocking(move || {
            for _ in 0..40 {
                server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).ok();
            }
        })
    };
    let ask = async |worker: u32| {
        let (mut answered, mut unanswered) = (0_u32, 0_u32);
        let mut rounds = 0_u32..;
        // However slowly connections come back: some are cut in the middle, and some answer.
        while (rounds.start < 400 || answered == 0)
            && let Some(round) = rounds.next()
        {
            let said = format!("{worker}/{round}");
            let call = || Call::new(&ECHO).key(&b"{a}"[..]).arg(said.clone());
            for reply in redis.run_all(vec![call(), call()]).await {
                match reply {
                    Ok(Value::BulkString(heard)) => {
                        assert_eq!(heard, said.as_bytes());
                        answered += 1;
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => unanswered += 1,
                }
            }
            tokio::task::yield_now().await;
        }
        (answered, unanswered)
    };
    let all = futures_util::future::join_all((0..16).map(ask));
    let all = tokio::time::timeout(Duration::from_secs(60), all).await;
    let all = all.expect("connections come back");
    cutter.await.expect("the cutter ends");
    assert!(all.iter().all(|(answered, _)| *answered > 0), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_unreachable_and_back_without_help() {
    let (mut server, redis) = single().await;
    let key = redis.key(ShardId(0), "n");
    assert_eq!(redis.run(&ADD, &[&key], &[b"1"]).await, Ok(Value::Int(1)));
    server.kill();
    until(async || {
        matches!(redis.run(&ADD, &[&key], &[b"1"]).await, Err(RedisError::Unreachable { .. }))
    })
    .await;
    until(async || redis.trouble().is_some()).await;
    server.restart().expect("redis-server starts again");
    until(async || redis.trouble().is_none()).await;
    // Every one before that certainly did not happen: synced before it was answered.
    assert_eq!(redis.run(&ADD, &[&key], &[b"1"]).await, Ok(Value::Int(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_writes_are_refused_whole_and_room_can_be_made() {
    let server = server(Persistence::None, &["maxmemory 6mb"]);
    let redis = Redis::open(&RedisOptions::single(server.url())).await.expect("it answers");
    let value = vec![b'x'; 1 << 20];
    let keys: Vec<_> = (0..16).map(|n| redis.key(ShardId(0), &format!("big{n}"))).collect();
    let mut stored = 0;
    let refused = loop {
        match redis.run(&STORE, &[&keys[stored]], &[&value]).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, RedisError::Full { what: "OOM" });
    assert!(refused.is_temporary());
    let read = redis.run(&READ, &[&keys[0]], &[]).await;
    assert!(matches!(read, Ok(Value::BulkString(_))), "{read:?}");
    for key in &keys[..stored] {
        assert_eq!(redis.run(&FREE, &[key], &[]).await, Ok(Value::Int(1)));
    }
    assert_eq!(redis.run(&STORE, &[&keys[0]], &[b"y"]).await, Ok(Value::Int(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_server_have_their_names() {
    let (server, redis) = single().await;
    let key = redis.key(ShardId(0), "n");
    let add = async || redis.run(&ADD, &[&key], &[b"1"]).await;
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]).expect("it is set");
    assert_eq!(add().await, Err(RedisError::Full { what: "NOREPLICAS" }));
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]).expect("it is set");
    let mut read = ::redis::cmd("XREADGROUP");
    read.arg("GROUP").arg("dispatch").arg("me").arg("STREAMS").arg(&key).arg(">");
    assert_eq!(redis.query(&key, read.clone()).await, Err(RedisError::NoGroup));
    let mut blocking = redis.blocking(&key).await.expect("it connects");
    assert_eq!(blocking.call(&read, Duration::ZERO).await, Err(RedisError::NoGroup));
    let other = redis.key(ShardId(0), "set");
    let mut wrong = ::redis::cmd("SADD");
    wrong.arg(&other).arg(1);
    redis.query(&other, wrong).await.expect("a set is made");
    let error = redis.run(&ADD, &[&other], &[b"1"]).await.expect_err("a set is no number");
    assert!(matches!(&error, RedisError::Refused { code, .. } if code == "WRONGTYPE"), "{error}");
    assert!(!error.is_temporary() && !error.is_unknown());
    server.ask(&["REPLICAOF", "127.0.0.1", "1"]).expect("it turns into a replica");
    assert_eq!(add().await, Err(RedisError::ReadOnly));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_write_has_no_copies_yet_asks_again() {
    let primary = server(Persistence::Always, &["repl-diskless-sync-delay 0"]);
    let replica = server(Persistence::Always, &[]);
    let port = primary.port().to_string();
    replica.ask(&["REPLICAOF", "127.0.0.1", &port]).expect("it follows");
    until(async || {
        let link = replica.ask(&["INFO", "replication"]).expect("it answers").text();
        link.contains("master_link_status:up")
    })
    .await;
    let options = RedisOptions { replicas: 1, ..RedisOptions::single(primary.url()) };
    let redis = Redis::open(&options).await.expect("it answers");
    replica.freeze();
    let starting = tokio::spawn(async move { redis.settle_layout(8).await });
    // The second time that copies were waited for in vain: it was asked again.
    until(async || {
        let stats = primary.ask(&["INFO", "commandstats"]).expect("it answers").text();
        let waits = stats.lines().find_map(|line| line.strip_prefix("cmdstat_wait:calls="));
        let waits = waits.and_then(|rest| rest.split(',').next()?.parse::<u32>().ok());
        waits.unwrap_or(0) >= 2 || starting.is_finished()
    })
    .await;
    replica.thaw();
    assert_eq!(starting.await.expect("it ends"), Ok(()));
}
