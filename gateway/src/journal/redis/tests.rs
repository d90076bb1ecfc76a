//! The journal on Redis against the conformance suite, on one server and on a cluster.

use super::*;
use crate::clock::TestClock;
use crate::journal::conformance::{self, Fixture};
use crate::redis::RedisOptions;
use ::redis::cmd;
use bugler_loadtest::redis::{Cluster, Server, ServerOptions};

const SHARDS: u16 = 2;

/// A journal of one test: its keys have a prefix of their own on a server that all share.
struct OnRedis {
    redis: Redis,
    clock: TestClock,
    journal: Option<Arc<RedisJournal>>,
}

fn options() -> RedisJournalOptions {
    // Few places, so that every case also overflows.
    RedisJournalOptions { shards: SHARDS, places: 64, ..RedisJournalOptions::default() }
}

async fn start(redis: &Redis, clock: &TestClock) -> RedisJournal {
    let clock = Arc::new(clock.clone());
    let journal = RedisJournal::open(redis.clone(), options(), clock).await.expect("opens");
    for shard in (0..SHARDS).map(ShardId) {
        let key = redis.key(shard, "owner");
        let mut next = cmd("HINCRBY");
        next.arg(&key).arg("e").arg(1);
        let epoch = redis.query(&key, next).await.expect("counted");
        let epoch = reply::number(&epoch).expect("a number");
        let token = format!("{epoch}:test");
        let mut set = cmd("HSET");
        set.arg(&key).arg("t").arg(&token);
        redis.query(&key, set).await.expect("owned");
        journal.own(shard, &token, epoch, true);
    }
    for _ in 0..2_000 {
        if (0..SHARDS).all(|shard| journal.is_loaded(ShardId(shard))) {
            return journal;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the shards are never loaded");
}

impl OnRedis {
    async fn new(options: &RedisOptions) -> Self {
        let prefix = format!("t{}:", uuid::Uuid::new_v4().simple());
        let options = RedisOptions { prefix, ..options.clone() };
        let redis = Redis::open(&options).await.expect("redis answers");
        let clock = TestClock::at(Millis(1_700_000_000_000));
        let journal = start(&redis, &clock).await;
        Self { redis, clock, journal: Some(Arc::new(journal)) }
    }
}

impl Fixture for OnRedis {
    fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(self.journal.as_ref().expect("running")) as Arc<dyn Journal>
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(by);
        Box::pin(std::future::ready(()))
    }

    fn crash(&mut self) -> BoxFuture<'_, ()> {
        self.journal = None;
        Box::pin(async {
            self.journal = Some(Arc::new(start(&self.redis, &self.clock).await));
        })
    }

    fn lease(&self) -> Duration {
        options().lease
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_on_one_server_conforms() {
    let server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let options = RedisOptions::single(server.url());
    conformance::run(async || OnRedis::new(&options).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_on_a_cluster_conforms() {
    let cluster = Cluster::start(&ServerOptions::default()).expect("a cluster starts");
    let options = RedisOptions::cluster(cluster.urls());
    conformance::run(async || OnRedis::new(&options).await).await;
}
