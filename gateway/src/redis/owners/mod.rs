//! Which dispatcher node works on which shard: one at a time, spread evenly, fenced when it changes.
//!
//! A node beats: it raises its own counter in a hash. Others measure with their own clock how long
//! a counter stood still, so that no clock of a Redis server decides anything. A shard's owner
//! stands in a key of the shard's own slot, with a token that is new for every holder; scripts of a
//! holder compare the token first, so that what a node does after it lost the shard changes nothing.
//!
//! ```text
//!  No ──take──► Held ──another is to have it──► Leaving ──release──► No
//!                │ ▲
//!   beats fail   ▼ │ beats reach Redis again, token unchanged
//!               Stale
//! ```

mod beats;
mod plan;
mod share;

#[cfg(test)]
mod tests;

use super::{Call, Redis, RedisError, Script};
use crate::model::ShardId;
use crate::telemetry::metrics;
use beats::{Beats, LEAVING};
use parking_lot::Mutex;
pub use plan::spread;
use redis::Value;
use share::{Unshared, share};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Beats in a lease: a few may be lost.
const BEATS_IN_LEASE: u32 = 10;
const BEAT_MIN: Duration = Duration::from_millis(20);
const BEAT_MAX: Duration = Duration::from_millis(500);
/// The owners are read at least at every so many beats.
const READ_EVERY: u32 = 4;

// All of these also run while Redis is out of memory: what frees it is done by who holds a shard.
static BEAT: Script = Script::freeing(
    "local said = redis.call('HGET', KEYS[1], ARGV[1]) or '0'
     local count = tonumber(string.match(said, '^%d+')) + 1
     redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', count) .. ARGV[2])
     return {redis.call('HGETALL', KEYS[1]), redis.call('GET', KEYS[2]) or '0'}",
);
static CHANGED: Script = Script::freeing("return redis.call('INCR', KEYS[1])");
static FORGET: Script = Script::freeing(
    "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
     return redis.call('HDEL', KEYS[1], ARGV[1])",
);
static LEAVE: Script = Script::freeing("return redis.call('HDEL', KEYS[1], ARGV[1])");
static RELEASE: Script = Script::freeing(
    "if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return 0 end
     redis.call('HINCRBY', KEYS[1], 'e', 1)
     return redis.call('HDEL', KEYS[1], 'n', 't')",
);

/// Lua with which a holder's script begins: `KEYS[1]` is [`Owners::key`], `ARGV[1]` the token.
pub const OWNED: &str = "if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then \
                         return redis.error_reply('FENCED the shard has another owner') end\n";

/// Proof of holding a shard: what a script compares before it changes anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    shard: ShardId,
    token: Arc<str>,
}

impl Fence {
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// For `ARGV[1]` of a script that begins with [`OWNED`].
    #[must_use]
    pub fn token(&self) -> &[u8] {
        self.token.as_bytes()
    }

    /// Grows with every holder of the shard.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.token.split(':').next().and_then(|epoch| epoch.parse().ok()).unwrap_or(0)
    }
}

/// What this node may do with a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// Nothing: another node has it, or nobody yet.
    #[default]
    No,
    /// Claim and settle.
    Held(Fence),
    /// Redis was not reached for a while, and another node may have taken it: claim nothing.
    Stale(Fence),
    /// Another node is to have it: claim nothing, settle what is under way, then release.
    Leaving(Fence),
}

impl Hold {
    /// The fence to settle under, if there is one.
    #[must_use]
    pub fn fence(&self) -> Option<&Fence> {
        match self {
            Self::No => None,
            Self::Held(fence) | Self::Stale(fence) | Self::Leaving(fence) => Some(fence),
        }
    }

    #[must_use]
    pub fn may_claim(&self) -> bool {
        matches!(self, Self::Held(_))
    }
}

#[derive(Clone, Debug)]
pub struct OwnerOptions {
    /// The same on every node.
    pub shards: u16,
    /// A node that does not beat for this long has lost its shards.
    pub lease: Duration,
    /// In front of the node's random id, for logs; no secrets.
    pub name: String,
}

/// This node's part in sharing the shards; clones are the same node.
#[derive(Clone, Debug)]
pub struct Owners {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    redis: Redis,
    node: String,
    options: OwnerOptions,
    holds: Vec<watch::Sender<Hold>>,
    /// Look now: something was released here.
    look: Notify,
    is_leaving: AtomicBool,
    is_stopped: AtomicBool,
    stopped: Notify,
    task: Mutex<Option<JoinHandle<()>>>,
    live: Mutex<usize>,
    /// Until then nobody can have taken a shard of this node.
    fresh_until: Mutex<Instant>,
}

impl Owners {
    /// Joins the nodes and takes this one's share of the shards, from now until `stop`.
    #[must_use]
    pub fn start(redis: Redis, options: OwnerOptions) -> Self {
        let holds = (0..options.shards).map(|_| watch::Sender::new(Hold::No)).collect();
        let id = uuid::Uuid::new_v4().simple();
        // The token ends with the node: a colon in it is no harm, a space would read badly.
        let name: String = options.name.split_whitespace().collect();
        let shared = Arc::new(Shared {
            redis,
            node: format!("{name}/{id}"),
            options,
            holds,
            look: Notify::new(),
            is_leaving: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            stopped: Notify::new(),
            task: Mutex::new(None),
            live: Mutex::new(0),
            fresh_until: Mutex::new(Instant::now()),
        });
        let task = tokio::spawn(run(Arc::clone(&shared)));
        *shared.task.lock() = Some(task);
        Self { shared }
    }

    /// This node's id; new with every start.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.shared.node
    }

    /// The key that [`OWNED`] compares.
    #[must_use]
    pub fn key(redis: &Redis, shard: ShardId) -> Vec<u8> {
        redis.key(shard, "owner")
    }

    /// What this node may do with `shard`, and whenever that changes.
    #[must_use]
    pub fn watch(&self, shard: ShardId) -> watch::Receiver<Hold> {
        match self.shared.holds.get(usize::from(shard.0)) {
            Some(hold) => hold.subscribe(),
            // No such shard: never held.
            None => watch::Sender::new(Hold::No).subscribe(),
        }
    }

    #[must_use]
    pub fn hold(&self, shard: ShardId) -> Hold {
        let hold = self.shared.holds.get(usize::from(shard.0));
        hold.map_or(Hold::No, |hold| hold.borrow().clone())
    }

    /// False while other nodes may be taking this one's shards: begin nothing. True again once Redis
    /// has heard of this node, and this node of what it lost meanwhile.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        Instant::now() < *self.shared.fresh_until.lock()
    }

    /// Nodes that share the shards now, as this one sees it.
    #[must_use]
    pub fn live(&self) -> usize {
        *self.shared.live.lock()
    }

    /// Forgets a hold that a script was refused under.
    pub fn lost(&self, fence: &Fence) {
        self.shared.set(fence.shard, |hold| {
            if hold.fence() == Some(fence) { Some(Hold::No) } else { None }
        });
        self.shared.look.notify_one();
    }

    /// Gives a shard up, so that the next holder can begin at once.
    ///
    /// # Errors
    /// Redis could not be asked; the shard passes on when the lease has run out.
    pub async fn release(&self, fence: &Fence) -> Result<(), RedisError> {
        let released = self.shared.release(vec![fence.clone()]).await;
        self.shared.look.notify_one();
        released
    }

    /// Wants no shards any more: what is held is to be left; what is not released by itself is
    /// with [`Owners::stop`].
    pub fn leave(&self) {
        self.shared.is_leaving.store(true, Ordering::Release);
        for hold in &self.shared.holds {
            hold.send_if_modified(|hold| match hold.fence().cloned() {
                Some(fence) if !matches!(hold, Hold::Leaving(_)) => {
                    *hold = Hold::Leaving(fence);
                    true
                }
                _ => false,
            });
        }
        self.shared.look.notify_one();
    }

    /// Gives every shard up and leaves the nodes.
    ///
    /// # Errors
    /// Redis could not be asked; what was not released passes on when the lease has run out.
    pub async fn stop(&self) -> Result<(), RedisError> {
        self.leave();
        self.shared.is_stopped.store(true, Ordering::Release);
        self.shared.stopped.notify_one();
        let shared = &self.shared;
        // A beat under way would bring the node back on the list.
        let task = shared.task.lock().take();
        if let Some(mut task) = task
            && tokio::time::timeout(BEAT_MAX, &mut task).await.is_err()
        {
            task.abort();
        }
        let held = shared.holds.iter().filter_map(|hold| hold.borrow().fence().cloned());
        let released = shared.release(held.collect()).await;
        let nodes = shared.redis.tagged("nodes", "beats");
        let left = shared.redis.run(&LEAVE, &[&nodes], &[shared.node.as_bytes()]).await;
        shared.announce().await;
        released.and(left.map(drop))
    }
}

impl Shared {
    async fn growing_stale(&self) {
        let until = *self.fresh_until.lock();
        if until > Instant::now() {
            tokio::time::sleep_until(until).await;
        } else {
            // They are stale already.
            std::future::pending().await
        }
    }

    fn set(&self, shard: ShardId, change: impl FnOnce(&Hold) -> Option<Hold>) {
        let Some(hold) = self.holds.get(usize::from(shard.0)) else { return };
        hold.send_if_modified(|hold| match change(hold) {
            Some(new) if new != *hold => {
                *hold = new;
                true
            }
            _ => false,
        });
    }

    async fn release(&self, fences: Vec<Fence>) -> Result<(), RedisError> {
        if fences.is_empty() {
            return Ok(());
        }
        let call = |fence: &Fence| {
            let key = Owners::key(&self.redis, fence.shard);
            Call::new(&RELEASE).key(key).arg(fence.token().to_vec())
        };
        let results = self.redis.run_all(fences.iter().map(call).collect()).await;
        for fence in &fences {
            self.set(fence.shard, |hold| (hold.fence() == Some(fence)).then_some(Hold::No));
        }
        self.announce().await;
        results.into_iter().try_for_each(|result| result.map(drop))
    }

    /// Makes the other nodes read the owners at their next beat.
    async fn announce(&self) {
        let key = self.redis.tagged("nodes", "changes");
        if let Err(error) = self.redis.run(&CHANGED, &[&key], &[]).await {
            tracing::debug!(%error, "other nodes learn of a change of owners a little later");
        }
    }
}

async fn run(shared: Arc<Shared>) {
    let lease = shared.options.lease;
    let beat = (lease / BEATS_IN_LEASE).clamp(BEAT_MIN, BEAT_MAX);
    let mut beats = Beats::new(lease.saturating_sub(2 * beat), lease / 2);
    let mut since_read = READ_EVERY;
    while !shared.is_stopped.load(Ordering::Acquire) {
        let sent = Instant::now();
        if sent >= *shared.fresh_until.lock() {
            // This process stood still, or could not be heard.
            grow_stale(&shared);
        }
        let heard = {
            let beating = beat_once(&shared, &mut beats);
            tokio::pin!(beating);
            tokio::select! {
                heard = &mut beating => heard,
                // Shards are stale in time, however long Redis lets this beat wait.
                () = shared.growing_stale() => {
                    grow_stale(&shared);
                    beating.await
                }
            }
        };
        match heard {
            Ok(is_news) => {
                // The others may have heard it as early as it was sent.
                let until = sent + lease / 2;
                let was_stale =
                    shared.holds.iter().any(|hold| matches!(*hold.borrow(), Hold::Stale(_)));
                if !was_stale {
                    *shared.fresh_until.lock() = until;
                }
                since_read += 1;
                if is_news || was_stale || since_read > READ_EVERY {
                    let shared_out = share(&shared, &beats).await;
                    since_read = if shared_out.is_ok() { 0 } else { READ_EVERY };
                    // What was lost is known now; who is away decides nothing for the others.
                    if !matches!(shared_out, Err(Unshared::Unread(_))) {
                        *shared.fresh_until.lock() = until;
                    }
                    if let Err(Unshared::InPart(error) | Unshared::Unread(error)) = shared_out {
                        tracing::debug!(%error, "not all owners of shards could be read or changed");
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "this node's beat did not reach redis");
                if Instant::now() >= *shared.fresh_until.lock() {
                    grow_stale(&shared);
                }
                since_read = READ_EVERY;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(beat) => {}
            () = shared.look.notified() => since_read = READ_EVERY,
            () = shared.stopped.notified() => return,
        }
    }
}

/// Beats, and hears the others; true if something changed.
async fn beat_once(shared: &Shared, beats: &mut Beats) -> Result<bool, RedisError> {
    let redis = &shared.redis;
    let (nodes, changes) = (redis.tagged("nodes", "beats"), redis.tagged("nodes", "changes"));
    let mut leaving = String::new();
    if shared.is_leaving.load(Ordering::Acquire) {
        leaving.push(LEAVING);
    }
    let args: [&[u8]; 2] = [shared.node.as_bytes(), leaving.as_bytes()];
    let reply = redis.run(&BEAT, &[&nodes, &changes], &args).await?;
    let Value::Array(reply) = reply else { return Err(RedisError::unexpected("beats")) };
    let [Value::Array(heard), changes] = reply.as_slice() else {
        return Err(RedisError::unexpected("beats"));
    };
    let pairs = heard.chunks_exact(2).filter_map(|pair| match pair {
        [node, count] => Some((text(node)?, text(count)?)),
        _ => None,
    });
    let counts: BTreeMap<_, _> = pairs.collect();
    let is_news = beats.hear(counts, number(changes).unwrap_or(0), Instant::now());
    *shared.live.lock() = beats.live(Instant::now()).len();
    let owned = shared.holds.iter().filter(|hold| hold.borrow().fence().is_some()).count();
    metrics::redis_shards_owned(u32::try_from(owned).unwrap_or(u32::MAX));
    for (node, said) in beats.forgettable(Instant::now()) {
        let args: [&[u8]; 2] = [node.as_bytes(), said.as_bytes()];
        redis.run(&FORGET, &[&nodes], &args).await?;
    }
    Ok(is_news)
}

fn grow_stale(shared: &Shared) {
    for hold in &shared.holds {
        hold.send_if_modified(|hold| match hold {
            Hold::Held(fence) => {
                *hold = Hold::Stale(fence.clone());
                true
            }
            _ => false,
        });
    }
}

trait AsText {
    fn as_text(&self) -> Option<Arc<str>>;
}

impl AsText for Value {
    fn as_text(&self) -> Option<Arc<str>> {
        text(self).map(Arc::from)
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    text(value)?.parse().ok()
}
