//! The store on Redis against the shared suite, on one server and on a cluster.

mod beside;
mod crash;
mod faults;
mod nodes;

use super::*;
use crate::redis::RedisOptions;
use crate::store::conformance::{self, Place as Where};
use bugler_loadtest::redis::{Cluster, Server, ServerOptions};
use std::sync::atomic::AtomicU32;

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

    async fn store(&self, node: &str) -> RedisStore {
        let redis = Redis::open(&self.options).await.expect("redis answers");
        RedisStore::open(redis, self.shards, node, Vault::fixed()).await.expect("the records open")
    }

    /// A node that takes every lock it meets for one that nobody goes on with.
    async fn impatient(&self, node: &str) -> RedisStore {
        let redis = Redis::open(&self.options).await.expect("redis answers");
        let mut wire = Wire::new(redis, self.shards);
        wire.stale_after = std::time::Duration::ZERO;
        RedisStore::over(wire, node, Vault::fixed()).await.expect("the records open")
    }
}

impl Where for Prefix {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.store("node").await) as Arc<dyn Store> })
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
