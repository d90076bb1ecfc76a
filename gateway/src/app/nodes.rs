//! This process among those that send: works on the shards it holds, and leaves the others alone.

use crate::journal::redis::RedisJournal;
use crate::model::ShardId;
use crate::redis::Redis;
use crate::redis::owners::{Hold, OwnerOptions, Owners};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often a shard that is to be left is looked at: its work ends at any moment.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The shards of this process; clones are the same process.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    owners: Owners,
    _following: Arc<JoinSet<()>>,
}

impl Nodes {
    /// Takes this process's share of the shards from now on.
    pub(super) fn join(redis: &Redis, journal: Arc<RedisJournal>, options: OwnerOptions) -> Self {
        let shards = options.shards;
        let owners = Owners::start(redis.clone(), options);
        journal.heed(owners.clone());
        let mut following = JoinSet::new();
        for shard in (0..shards).map(ShardId) {
            following.spawn(follow(owners.clone(), Arc::clone(&journal), shard));
        }
        Self { owners, _following: Arc::new(following) }
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

/// Tells the journal what this process may do with `shard`.
async fn follow(owners: Owners, journal: Arc<RedisJournal>, shard: ShardId) {
    let mut watched = owners.watch(shard);
    loop {
        let hold = watched.borrow_and_update().clone();
        match &hold {
            Hold::No => journal.disown(shard),
            Hold::Held(fence) | Hold::Stale(fence) | Hold::Leaving(fence) => {
                let token = String::from_utf8_lossy(fence.token()).into_owned();
                journal.own(shard, &token, fence.epoch(), hold.may_claim());
            }
        }
        if let Hold::Leaving(fence) = &hold
            && journal.claimed(shard) == 0
        {
            journal.disown(shard);
            if let Err(error) = owners.release(fence).await {
                tracing::debug!(%error, shard = shard.0, "a shard could not be released yet");
            }
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        let is_leaving = matches!(hold, Hold::Leaving(_));
        tokio::select! {
            changed = watched.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY), if is_leaving => {}
        }
    }
}
