//! What is refused at the start, and what is found out later.

use super::*;

async fn refused(options: RedisOptions) -> String {
    Redis::open(&options).await.expect_err("the server must not be used").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_class_is_read_from_the_server_and_followed() {
    for (persistence, class) in [
        (Persistence::None, Class::D0),
        (Persistence::Never, Class::D0),
        (Persistence::EverySecond, Class::D1),
        (Persistence::Always, Class::D2),
    ] {
        let server = server(persistence, &[]);
        let redis = Redis::open(&RedisOptions::single(server.url())).await.expect("it answers");
        assert_eq!(redis.class(), class);
    }
    let (server, redis) = single().await;
    assert_eq!(redis.class(), Class::D2);
    server.ask(&["CONFIG", "SET", "appendfsync", "everysec"]).expect("it is set");
    until(async || redis.class() == Class::D1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_settings_are_refused_with_the_setting_to_change() {
    let evicting = server(Persistence::Always, &["maxmemory-policy allkeys-lru"]);
    let what = refused(RedisOptions::single(evicting.url())).await;
    assert!(what.contains("maxmemory-policy noeviction"), "{what}");
    let weak = server(Persistence::EverySecond, &[]);
    let require = |class| RedisOptions { require: Some(class), ..RedisOptions::single(weak.url()) };
    let what = refused(require(Class::D2)).await;
    assert!(what.contains("appendfsync always"), "{what}");
    Redis::open(&require(Class::D1)).await.expect("it gives that much");
    let what = refused(RedisOptions::cluster(vec![weak.url()])).await;
    assert!(what.contains("no cluster"), "{what}");
    let prefix = String::from("my{tag}");
    let what = refused(RedisOptions { prefix, ..RedisOptions::single(weak.url()) }).await;
    assert!(what.contains("store.redis.prefix"), "{what}");
    weak.ask(&["REPLICAOF", "127.0.0.1", "1"]).expect("it turns into a replica");
    let what = refused(RedisOptions::single(weak.url())).await;
    assert!(what.contains("is a replica"), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_and_passwords_are_told_apart() {
    let server = server(Persistence::Always, &[]);
    server.ask(&["CONFIG", "SET", "requirepass", "secret"]).expect("it is set");
    let what = refused(RedisOptions::single(server.url())).await;
    assert!(what.contains("NOAUTH"), "{what}");
    let with = |user: &str| {
        let url = format!("redis://{user}@127.0.0.1:{}", server.port());
        RedisOptions::single(url)
    };
    let what = refused(with(":wrong")).await;
    assert!(what.contains("WRONGPASS") || what.contains("password"), "{what}");
    let redis = Redis::open(&with(":secret")).await.expect("the password is right");
    let mut user = ::redis::cmd("ACL");
    user.arg("SETUSER").arg("weak").arg("on").arg(">w").arg("~*").arg("+@all").arg("-xadd");
    redis.query(b"", user).await.expect("the user is made");
    let what = refused(with("weak:w")).await;
    assert!(what.contains("XADD") && !what.contains("XDEL"), "{what}");
    let mut narrow = ::redis::cmd("ACL");
    narrow.arg("SETUSER").arg("weak").arg("resetkeys").arg("~other:*").arg("+xadd");
    redis.query(b"", narrow).await.expect("the user is changed");
    let what = refused(with("weak:w")).await;
    assert!(what.contains("allow"), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_changed_to_what_loses_notifications_is_trouble_until_it_is_put_right() {
    let (server, redis) = single().await;
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).expect("it is set");
    until(async || redis.trouble().is_some_and(|what| what.contains("noeviction"))).await;
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).expect("it is set");
    until(async || redis.trouble().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_shards_is_fixed_by_the_first_process() {
    let (server, redis) = single().await;
    redis.settle_layout(8).await.expect("there is none yet");
    redis.settle_layout(8).await.expect("it is the same");
    let what = redis.settle_layout(16).await.expect_err("it is another").to_string();
    assert!(what.contains("`store.shards = 8`"), "{what}");
    redis.settle_layout(8).await.expect("it is the same");
    server.ask(&["FLUSHALL"]).expect("everything is gone");
    until(async || redis.trouble().is_some_and(|what| what.contains("lost its data"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_with_too_few_copies_is_not_called_done() {
    let (server, redis) = single().await;
    let options = RedisOptions {
        replicas: 1,
        replicas_timeout: Duration::from_millis(20),
        ..RedisOptions::single(server.url())
    };
    let asking = Redis::open(&options).await.expect("it answers");
    let key = redis.key(ShardId(0), "n");
    let error = asking.run(&ADD, &[&key], &[b"1"]).await.expect_err("there is no replica");
    assert_eq!(error, RedisError::TooFewCopies { wanted: 1, got: 0 });
    assert!(error.is_unknown());
    assert_eq!(asking.run(&READ, &[&key], &[]).await, Ok(Value::BulkString(b"1".to_vec())));
    let url = format!("replicaof 127.0.0.1 {}", server.port());
    let _replica = super::server(Persistence::Always, &[&url]);
    until(async || asking.run(&ADD, &[&key], &[b"1"]).await.is_ok()).await;
    assert_eq!(asking.class(), Class::D2);
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]).expect("it is set");
    until(async || asking.class() == Class::D2R).await;
}
