//! A six-node cluster: routing, slots on the move, and the loss of a primary.

use super::*;
use bugler_loadtest::redis::Cluster;

async fn open(cluster: &Cluster) -> Redis {
    let options = RedisOptions::cluster(cluster.urls());
    Redis::open(&options).await.expect("the cluster answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_for_all_shards_of_a_cluster_are_answered_in_their_order() {
    let cluster = Cluster::start(&ServerOptions::default()).expect("a cluster starts");
    let redis = open(&cluster).await;
    let call =
        |shard: u16| Call::new(&ADD).key(redis.key(ShardId(shard), "n")).number(u64::from(shard));
    for round in 1..=2 {
        let replies = redis.run_all((0..64).map(call).collect()).await;
        let expected: Vec<_> = (0..64).map(|shard| Ok(Value::Int(shard * round))).collect();
        assert_eq!(replies, expected);
    }
    assert_eq!(redis.link.primaries().len(), 3);
}

static COUNT: Script = Script::new("return redis.call('SADD', KEYS[1], ARGV[1])");

/// Adds `member` to the shard's set until that certainly happened.
async fn add(redis: &Redis, shard: ShardId, member: u32) {
    let (key, member) = (redis.key(shard, "set"), member.to_string());
    until(async || redis.run(&COUNT, &[&key], &[member.as_bytes()]).await.is_ok()).await;
}

async fn members(redis: &Redis, shard: ShardId) -> Value {
    let key = redis.key(shard, "set");
    let mut command = ::redis::cmd("SCARD");
    command.arg(&key);
    redis.query(&key, command).await.expect("the set is read")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_on_the_move_and_moved_is_followed() {
    let cluster = Cluster::start(&ServerOptions::default()).expect("a cluster starts");
    let redis = open(&cluster).await;
    let (shard, key) = (ShardId(3), String::from("bugler:{s003}:set"));
    add(&redis, shard, 0).await;
    let from = cluster.primary_of(&key).expect("somebody has the slot");
    let to = (0..3).find(|place| *place != from).expect("there are three primaries");
    let (source, target) = (&cluster.nodes()[from], &cluster.nodes()[to]);
    let ask = |node: &Server, parts: &[&str]| node.ask(parts).expect("the node obeys");
    let slot = ask(source, &["CLUSTER", "KEYSLOT", &key]).text();
    let [from_id, to_id] = [source, target].map(|node| ask(node, &["CLUSTER", "MYID"]).text());
    ask(target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    ask(source, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    add(&redis, shard, 1).await;
    let port = target.port().to_string();
    ask(source, &["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
    // The key is there already, the slot is not: every call is sent on by ASK.
    add(&redis, shard, 2).await;
    for node in [target, source] {
        ask(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
    add(&redis, shard, 3).await;
    assert_eq!(members(&redis, shard).await, Value::Int(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_primary_is_replaced_and_no_call_is_lost_for_good() {
    let mut cluster = Cluster::start(&ServerOptions::default()).expect("a cluster starts");
    let options = RedisOptions { replicas: 1, ..RedisOptions::cluster(cluster.urls()) };
    let redis = Redis::open(&options).await.expect("the cluster answers");
    let shards = 0..16;
    for shard in shards.clone() {
        add(&redis, ShardId(shard), 0).await;
    }
    let lost = cluster.primary_of("bugler:{s000}:set").expect("somebody has the slot");
    let mut blocking = redis.blocking(b"bugler:{s000}:list").await.expect("it connects");
    cluster.nodes_mut()[lost].kill();
    for shard in shards.clone() {
        // The promoted replica has none of its own: one copy more cannot be had.
        let key = redis.key(ShardId(shard), "set");
        let add = async || match redis.run(&COUNT, &[&key], &[b"1"]).await {
            Ok(_) | Err(RedisError::TooFewCopies { wanted: 1, got: 0 }) => true,
            Err(_) => false,
        };
        until(add).await;
    }
    for shard in shards {
        assert_eq!(members(&redis, ShardId(shard)).await, Value::Int(2), "shard {shard}");
    }
    let mut ping = ::redis::cmd("LLEN");
    ping.arg("bugler:{s000}:list");
    // The blocking connection finds the new primary by itself.
    while blocking.call(&ping, Duration::ZERO).await.is_err() {}
    until(async || redis.trouble().is_none()).await;
    cluster.nodes_mut()[lost].restart().expect("the node starts again");
    cluster.wait_until_whole().expect("the cluster is whole");
    until(async || redis.run(&COUNT, &[b"bugler:{s000}:set"], &[b"2"]).await.is_ok()).await;
}

/// A cluster of one node that has a certificate for its name only, and tells its number and name.
async fn named(endpoint: &str) -> (Server, RedisOptions) {
    // As the process does: several may be linked.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let certified = rcgen::generate_simple_self_signed(vec![String::from("localhost")]);
    let certified = certified.expect("a certificate is made");
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("it is written");
        path.display().to_string()
    };
    let pem = certified.cert.pem();
    let (certificate, key) =
        (write("cert", &pem), write("key", &certified.signing_key.serialize_pem()));
    let lines = [
        "cluster-enabled yes",
        "cluster-announce-ip 127.0.0.1",
        "cluster-announce-hostname localhost",
        &format!("cluster-preferred-endpoint-type {endpoint}"),
        "tls-cluster yes",
        "tls-auth-clients no",
        &format!("tls-cert-file {certificate}"),
        &format!("tls-key-file {key}"),
        &format!("tls-ca-cert-file {certificate}"),
    ];
    // A free port may be taken by somebody else before the server has it.
    let started = std::iter::repeat_with(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        drop(listener);
        let lines = lines.iter().map(|line| (*line).to_owned());
        let lines = lines.chain([format!("tls-port {port}")]).collect();
        let persistence = Persistence::None;
        let options = ServerOptions { persistence, lines, ..ServerOptions::default() };
        Server::start(options).map(|server| (server, port))
    });
    let started = started.take(5).find_map(Result::ok);
    let (server, port) = started.expect("redis-server starts on one of five ports");
    server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).expect("it takes all slots");
    until(async || {
        let state = server.ask(&["CLUSTER", "INFO"]).expect("it answers");
        state.text().contains("cluster_state:ok")
    })
    .await;
    let options = RedisOptions {
        ca_pem: Some(pem.into_bytes()),
        ..RedisOptions::cluster(vec![format!("rediss://localhost:{port}")])
    };
    (server, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_certificates_for_names_is_reached_by_name() {
    for endpoint in ["ip", "hostname"] {
        let (_server, options) = named(endpoint).await;
        let redis = Redis::open(&options).await.expect("its name is in its certificate");
        until(async || redis.run(&ADD, &[b"bugler:{s000}:n"], &[b"0"]).await.is_ok()).await;
        assert!(redis.trouble().is_none());
        let names: Vec<_> = redis.link.primaries().iter().map(|node| node.name.clone()).collect();
        assert!(names.iter().all(|name| name.starts_with("localhost:")), "{names:?}");
    }
}
