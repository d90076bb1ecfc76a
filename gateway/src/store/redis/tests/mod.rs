//! The store on Redis against the shared suite, on one server and on a cluster.

mod beside;
mod commits;
mod crash;
mod faults;
mod gather;
mod moving;
mod nodes;

use super::*;
use crate::redis::{Call, RedisOptions};
use crate::store::conformance::{self, Place as Where};
use bugler_loadtest::redis::{Cluster, Server, ServerOptions};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU32};

/// A request that is still on its way when its sender gives up waiting.
#[derive(Clone, Debug, Default)]
pub(super) struct Late {
    steps: Arc<AtomicI64>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Late {
    /// The step after so many others is late.
    fn after(&self, steps: i64) {
        self.steps.store(steps + 1, Ordering::SeqCst);
    }

    /// It arrives.
    async fn arrive(&self, redis: &Redis) -> Vec<Result<redis::Value, RedisError>> {
        let calls = self.calls.lock().clone();
        assert_eq!(calls.len(), 1, "one request is late");
        redis.run_all(calls).await
    }

    pub(super) fn keep(&self, calls: &[Call]) -> Option<Vec<Result<redis::Value, RedisError>>> {
        if self.steps.load(Ordering::SeqCst) <= 0 || self.steps.fetch_sub(1, Ordering::SeqCst) > 1 {
            return None;
        }
        self.calls.lock().extend(calls.iter().cloned());
        let unknown =
            || RedisError::Unknown { node: String::from("a"), what: String::from("late") };
        Some(calls.iter().map(|_| Err(unknown())).collect())
    }
}

/// Places of their own on one Redis: each test and each check has a prefix.
struct Prefix {
    options: RedisOptions,
    shards: u16,
}

static PREFIXES: AtomicU32 = AtomicU32::new(0);

impl Prefix {
    fn new(options: &RedisOptions, shards: u16) -> Self {
        let number = PREFIXES.fetch_add(1, Ordering::SeqCst);
        let options = RedisOptions { prefix: format!("t{number}:"), ..options.clone() };
        Self { options, shards }
    }

    async fn store(&self) -> RedisStore {
        let redis = Redis::open(&self.options).await.expect("redis answers");
        RedisStore::open(redis, self.shards, Vault::fixed()).await.expect("the records open")
    }

    /// A node that takes every lock it meets for one that nobody goes on with.
    async fn impatient(&self) -> RedisStore {
        let redis = Redis::open(&self.options).await.expect("redis answers");
        let mut wire = Wire::new(redis, self.shards);
        wire.stale_after = std::time::Duration::ZERO;
        RedisStore::over(wire, Vault::fixed()).await.expect("the records open")
    }
}

impl Where for Prefix {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.store().await) as Arc<dyn Store> })
    }
}

fn server() -> (Server, RedisOptions) {
    let server = Server::start(ServerOptions::default()).expect("redis-server starts");
    let options = RedisOptions::single(server.url());
    (server, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_keeps_every_promise_of_the_seam() {
    let (_server, options) = server();
    conformance::run(async || Prefix::new(&options, 8)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shard_keeps_every_promise_of_the_seam() {
    let (_server, options) = server();
    conformance::run(async || Prefix::new(&options, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_keeps_every_promise_of_the_seam() {
    let start = || Cluster::start(&ServerOptions::default());
    let cluster = tokio::task::spawn_blocking(start).await.unwrap();
    let cluster = cluster.expect("the cluster forms");
    let options = RedisOptions::cluster(cluster.urls());
    conformance::run(async || Prefix::new(&options, 64)).await.unwrap();
}
