//! The journal on Redis against the conformance suite, on one server and on a cluster.

use super::*;
use crate::clock::TestClock;
use crate::journal::conformance::{self, Fixture};
use crate::redis::RedisOptions;
use ::redis::cmd;
use bugler_loadtest::redis::{Cluster, Persistence, Server, ServerOptions};

mod faults;
mod nodes;
mod reads;
mod tenure;
mod unknown;

const SHARDS: u16 = 2;

/// A journal of one test: its keys have a prefix of their own on a server that all share.
struct OnRedis {
    redis: Redis,
    clock: TestClock,
    journal: Option<Arc<RedisJournal>>,
}

fn small_options() -> RedisJournalOptions {
    // Few places, so that every case also overflows.
    RedisJournalOptions { shards: SHARDS, places: 64, ..RedisJournalOptions::default() }
}

async fn open(redis: &Redis, clock: &TestClock, options: RedisJournalOptions) -> RedisJournal {
    let clock = Arc::new(clock.clone());
    RedisJournal::open(redis.clone(), options, clock).await.expect("opens")
}

/// Makes `journal` the owner of all shards, as the next after whoever was it.
async fn own(redis: &Redis, journal: &RedisJournal) {
    take_over(redis, journal).await;
    let is_loaded = || (0..journal.shards()).all(|shard| journal.is_loaded(ShardId(shard)));
    for _ in 0..4_000 {
        if is_loaded() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the shards are never loaded");
}

/// As [`own`], without waiting until it has read them.
async fn take_over(redis: &Redis, journal: &RedisJournal) {
    for shard in (0..journal.shards()).map(ShardId) {
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
}

/// Asks until `probe` is true.
async fn until(what: &str, probe: impl AsyncFn() -> bool) {
    for _ in 0..4_000 {
        if probe().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}

impl OnRedis {
    async fn new(options: &RedisOptions) -> Self {
        let prefix = format!("t{}:", uuid::Uuid::new_v4().simple());
        let options = RedisOptions { prefix, ..options.clone() };
        let redis = Redis::open(&options).await.expect("redis answers");
        let clock = TestClock::at(Millis(1_700_000_000_000));
        let journal = open(&redis, &clock, small_options()).await;
        own(&redis, &journal).await;
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
            let journal = open(&self.redis, &self.clock, small_options()).await;
            own(&self.redis, &journal).await;
            self.journal = Some(Arc::new(journal));
        })
    }

    fn lease(&self) -> Duration {
        small_options().lease
    }
}

fn server() -> Server {
    let options = ServerOptions { persistence: Persistence::EverySecond, ..Default::default() };
    Server::start(options).expect("redis-server starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_on_one_server_conforms() {
    let server = server();
    let options = RedisOptions::single(server.url());
    conformance::run(async || OnRedis::new(&options).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_on_a_cluster_conforms() {
    let options = ServerOptions { persistence: Persistence::EverySecond, ..Default::default() };
    let cluster = Cluster::start(&options).expect("a cluster starts");
    let options = RedisOptions::cluster(cluster.urls());
    conformance::run(async || OnRedis::new(&options).await).await;
}
