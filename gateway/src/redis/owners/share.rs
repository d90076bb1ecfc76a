//! Moves a node towards its share of the shards: reads who has which, takes what is free.

use super::beats::Beats;
use super::{AsText, Fence, Hold, Owners, Shared, number, plan, text};
use crate::model::ShardId;
use crate::redis::{Call, RedisError, Script};
use futures_util::future::join_all;
use redis::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Parts of a lease that one owner may take to be read: a server that hangs must not hold up beats.
const READS_IN_LEASE: u32 = 5;

static READ: Script = Script::reading("return redis.call('HMGET', KEYS[1], 'n', 'e', 't')");
/// Takes a shard whose epoch is still the one that was read.
static TAKE: Script = Script::freeing(
    "local epoch = tonumber(redis.call('HGET', KEYS[1], 'e') or '0')
     if epoch ~= tonumber(ARGV[2]) then return false end
     local token = (epoch + 1) .. ':' .. ARGV[1]
     redis.call('HSET', KEYS[1], 'n', ARGV[1], 'e', epoch + 1, 't', token)
     return token",
);

/// Who has a shard, as Redis tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) node: Option<String>,
    pub(super) epoch: u64,
    pub(super) token: Option<Arc<str>>,
}

/// Why this node may not be at its share yet.
#[derive(Debug)]
pub(super) enum Unshared {
    /// Some shards could not be asked or taken; the others are as they are to be.
    InPart(RedisError),
    /// Nothing could be read.
    Unread(RedisError),
}

/// Reads who has what, and moves this node towards its share.
///
/// While servers are away, shards on the others that nobody has are taken, by a plan for these
/// shards only: all nodes that see the same make the same. Nothing is left for a better balance, so
/// that a failover moves no shard.
pub(super) async fn share(shared: &Shared, beats: &Beats) -> Result<(), Unshared> {
    let (mut read, mut failed) = (Vec::new(), None);
    for (shard, owner) in (0..).map(ShardId).zip(read_owners(shared).await) {
        match owner {
            Ok(owner) => read.push((shard, owner)),
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed.take_if(|_| read.is_empty()) {
        return Err(Unshared::Unread(error));
    }
    let now = Instant::now();
    for (shard, owner) in &read {
        learn(shared, *shard, owner);
    }
    let mut live = beats.live(now);
    if shared.is_leaving.load(Ordering::Acquire) {
        live.retain(|node| *node != shared.node);
    }
    let held: Vec<_> = read.iter().map(|(_, owner)| owner.node.as_deref()).collect();
    let plan = plan::spread(&live, &held);
    let mut takes = Vec::new();
    for ((shard, owner), planned) in read.iter().zip(&plan) {
        let is_planned = planned.is_some_and(|node| node == shared.node);
        shared.set(*shard, |hold| match (hold, is_planned) {
            (Hold::Held(fence), false) if failed.is_none() => Some(Hold::Leaving(fence.clone())),
            (Hold::Leaving(fence), true) => Some(Hold::Held(fence.clone())),
            _ => None,
        });
        let is_free = owner.node.as_deref().is_none_or(|node| beats.is_dead(node, now));
        if is_planned && is_free {
            takes.push((*shard, owner.epoch));
        }
    }
    let taken = take(shared, takes).await;
    failed.map_or(Ok(()), Err).and(taken).map_err(Unshared::InPart)
}

/// Takes in who has a shard.
fn learn(shared: &Shared, shard: ShardId, owner: &Owner) {
    let is_mine = owner.node.as_deref() == Some(shared.node.as_str());
    let token = owner.token.clone().filter(|_| is_mine);
    let fence = token.map(|token| Fence { shard, token });
    shared.set(shard, |hold| match (fence, hold) {
        (Some(fence), Hold::Leaving(_)) => Some(Hold::Leaving(fence)),
        (Some(fence), _) => Some(Hold::Held(fence)),
        (None, Hold::No) => None,
        // It was just released.
        (None, Hold::Leaving(_)) => Some(Hold::No),
        (None, _) => {
            tracing::warn!(shard = shard.0, "the shard passed to another node");
            Some(Hold::No)
        }
    });
}

async fn take(shared: &Shared, takes: Vec<(ShardId, u64)>) -> Result<(), RedisError> {
    if takes.is_empty() {
        return Ok(());
    }
    let call = |(shard, epoch): &(ShardId, u64)| {
        let key = Owners::key(&shared.redis, *shard);
        Call::new(&TAKE).key(key).arg(shared.node.clone()).number(*epoch)
    };
    let results = shared.redis.run_all(takes.iter().map(call).collect()).await;
    let (mut taken, mut failed) = (0_u32, Ok(()));
    for ((shard, _), result) in takes.iter().zip(results) {
        // A take whose answer was lost is found when the owners are read the next time.
        match result {
            Ok(reply) => {
                if let Some(token) = reply.as_text() {
                    shared.set(*shard, |_| Some(Hold::Held(Fence { shard: *shard, token })));
                    taken += 1;
                }
            }
            Err(error) => failed = failed.and(Err(error)),
        }
    }
    tracing::info!(taken, node = shared.node, "shards taken");
    shared.announce().await;
    failed
}

/// The owner of each shard, each asked for by itself: servers that are away hold up nobody else's.
async fn read_owners(shared: &Shared) -> Vec<Result<Owner, RedisError>> {
    let limit = shared.options.lease / READS_IN_LEASE;
    let read = |shard| async move {
        let key = Owners::key(&shared.redis, shard);
        let keys: [&[u8]; 1] = [&key];
        match tokio::time::timeout(limit, shared.redis.run(&READ, &keys, &[])).await {
            Ok(reply) => owner(&reply?).ok_or(RedisError::unexpected("an owner")),
            Err(_) => Err(RedisError::unexpected("no owner in time")),
        }
    };
    join_all((0..shared.options.shards).map(ShardId).map(read)).await
}

fn owner(reply: &Value) -> Option<Owner> {
    let Value::Array(fields) = reply else { return None };
    let [node, epoch, token] = fields.as_slice() else { return None };
    let epoch = number(epoch).unwrap_or(0);
    Some(Owner { node: text(node), epoch, token: token.as_text() })
}
