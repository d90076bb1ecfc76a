//! Working on the shards that this node is given, and leaving those it is to give up.

use super::RedisJournal;
use crate::model::ShardId;
use crate::redis::owners::{Fence, Hold, Owners};
use crate::telemetry::metrics;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Works on what `owners` holds for this node, until the answer is dropped or the journal is gone.
#[must_use]
pub fn follow(journal: &Arc<RedisJournal>, owners: &Owners) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for cell in &journal.core.cells {
        tasks.spawn(follow_shard(Arc::downgrade(journal), owners.clone(), cell.shard));
    }
    tasks
}

async fn follow_shard(journal: Weak<RedisJournal>, owners: Owners, shard: ShardId) {
    let mut hold = owners.watch(shard);
    loop {
        let Some(journal) = journal.upgrade() else { return };
        let Some(cell) = journal.core.cell(shard).cloned() else { return };
        let now = hold.borrow_and_update().clone();
        let own = |fence: &Fence, may_claim| {
            let token = String::from_utf8_lossy(fence.token()).into_owned();
            journal.own(shard, &token, fence.epoch(), may_claim);
        };
        match &now {
            Hold::No => journal.disown(shard),
            Hold::Held(fence) => own(fence, true),
            Hold::Stale(fence) => own(fence, false),
            Hold::Leaving(fence) => {
                let token = String::from_utf8_lossy(fence.token()).into_owned();
                journal.leave(shard, &token, fence.epoch());
                if leave(&journal, shard, &mut hold).await {
                    let left = journal.claimed(shard);
                    journal.disown(shard);
                    metrics::redis_claims_left(left);
                    if left > 0 {
                        tracing::info!(
                            shard = shard.0,
                            left,
                            "a shard is given up before all that was claimed has ended; the next owner claims it again"
                        );
                    }
                    if let Err(error) = owners.release(fence).await {
                        tracing::warn!(shard = shard.0, %error, "a shard was not given up; it passes on when its lease runs out");
                    }
                }
            }
        }
        // Not kept while waiting: a journal is closed by dropping it, too.
        drop(journal);
        tokio::select! {
            changed = hold.changed() => if changed.is_err() { return },
            () = cell.lost.notified() => if let Some(fence) = now.fence() { owners.lost(fence) },
        }
    }
}

/// Waits for what is under way, but not for a provider that hangs: nothing of the shard moves
/// meanwhile. False if the shard is not to be left any more.
async fn leave(journal: &RedisJournal, shard: ShardId, hold: &mut watch::Receiver<Hold>) -> bool {
    let settled = async {
        while journal.claimed(shard) > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(journal.core.options.leave_patience, settled) => true,
        _ = hold.changed() => {
            // Looked at again by the caller.
            hold.mark_changed();
            false
        }
    }
}
