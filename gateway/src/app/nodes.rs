//! This process among those that send: works on the shards it holds, and leaves the others alone.

use crate::journal::redis::{RedisJournal, follow};
use crate::model::ShardId;
use crate::redis::Redis;
use crate::redis::owners::{OwnerOptions, Owners};
use std::sync::Arc;
use tokio::task::JoinSet;

/// The shards of this process; clones are the same process.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    owners: Owners,
    _following: Arc<JoinSet<()>>,
}

impl Nodes {
    /// Takes this process's share of the shards from now on.
    pub(super) fn join(redis: &Redis, journal: &Arc<RedisJournal>, options: OwnerOptions) -> Self {
        let owners = Owners::start(redis.clone(), options);
        journal.heed(owners.clone());
        let following = Arc::new(follow(journal, &owners));
        Self { owners, _following: following }
    }

    pub(super) fn name(&self) -> &str {
        self.owners.node()
    }

    /// True while this process works on `shard`.
    pub(super) fn has(&self, shard: ShardId) -> bool {
        self.owners.hold(shard).fence().is_some()
    }

    /// Claims nothing more; shards without work under way pass on at once.
    pub(super) fn leave(&self) {
        self.owners.leave();
    }

    /// Passes on whatever is still held.
    pub(super) async fn stop(&self) {
        if let Err(error) = self.owners.stop().await {
            tracing::warn!(%error, "shards pass on when the lease has run out");
        }
    }
}
