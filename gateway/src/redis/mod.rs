//! The link to Redis: one server or a cluster behind one type, errors by name, scripts, blocking reads.
//!
//! ```text
//!  calls ──► by slot to the node that has it ──► one pipeline for each node ──► WAIT, where asked ──► replies
//!              ▲        MOVED, ASK, READONLY: the map is read again               │
//!              └───────────────── what certainly did not happen is sent again ────┘
//! ```
//!
//! Routing is ours and not the redis crate's, for two reasons: its cluster connection sends again
//! what may have happened, and it refuses a pipeline for two slots of one node. Here nothing is
//! repeated that the server may have executed: such an operation ends as
//! [`RedisError::Unknown`], and repeating it safely is the script's business.

mod blocking;
mod call;
mod class;
mod error;
mod health;
mod layout;
mod link;
mod node;
mod options;
pub mod owners;
mod patience;
mod slots;
mod topology;
mod upkeep;

#[cfg(test)]
mod tests;

pub use blocking::Blocking;
pub use call::{Call, Script};
pub use class::Class;
pub use error::RedisError;
pub use options::RedisOptions;
pub use patience::Patience;
pub use slots::{SLOTS, slot_of};
pub use upkeep::Mark;

use crate::model::ShardId;
use link::{Link, Task};
use std::sync::Arc;

/// A connected Redis server or cluster; clones share their connections.
#[derive(Clone, Debug)]
pub struct Redis {
    link: Arc<Link>,
}

impl Redis {
    /// Connects, and learns who has which slot.
    ///
    /// From then on it is watched whether the servers are reachable and set as they must be.
    ///
    /// # Errors
    /// No node answers, the password is wrong, the server is a cluster where one server is expected
    /// or the other way round, or a setting must not be as it is: then the error names it.
    pub async fn open(options: &RedisOptions) -> Result<Self, RedisError> {
        let link = Arc::new(Link::open(options.clone()).await?);
        let redis = Self { link };
        redis.link.check_settings().await?;
        redis.link.check_commands(redis.key(ShardId(0), "check")).await?;
        tokio::spawn(health::watch(Arc::downgrade(&redis.link)));
        Ok(redis)
    }

    /// Notes the number of shards where this prefix holds none yet. From then on it is watched that
    /// they are still there.
    ///
    /// # Errors
    /// The data is laid out for another number of shards or by another release.
    pub async fn settle_layout(&self, shards: u16) -> Result<(), RedisError> {
        self.link.settle_layout(shards).await
    }

    /// The weakest durability class among the primaries, as their settings were last read.
    #[must_use]
    pub fn class(&self) -> Class {
        self.link.health.class()
    }

    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.link.options.is_cluster
    }

    /// Why nothing is to be accepted now: nobody serves any slot for more than two seconds, or a
    /// setting was changed to what loses notifications. Ends by itself.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.link.health.trouble()
    }

    /// The key `name` of a shard: all keys of one shard are in one slot.
    #[must_use]
    pub fn key(&self, shard: ShardId, name: &str) -> Vec<u8> {
        format!("{}{{s{:03}}}:{name}", self.link.options.prefix, shard.0).into_bytes()
    }

    /// The key `name` under another hash tag than a shard's; `tag` must not look like `s000`.
    #[must_use]
    pub fn tagged(&self, tag: &str, name: &str) -> Vec<u8> {
        format!("{}{{{tag}}}:{name}", self.link.options.prefix).into_bytes()
    }

    /// Runs one script; see [`Redis::run_all`].
    ///
    /// # Errors
    /// As [`Redis::run_all`].
    pub async fn run(
        &self,
        script: &'static Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<redis::Value, RedisError> {
        let mut call = Call::new(script);
        for key in keys {
            call = call.key(key.to_vec());
        }
        for arg in args {
            call = call.arg(arg.to_vec());
        }
        let mut results = self.run_all(vec![call]).await;
        results.pop().unwrap_or_else(|| Err(RedisError::unexpected("no reply")))
    }

    /// Runs scripts, one pipeline for each node; answers in the order of `calls`.
    ///
    /// Calls have no order among them: one that is redirected runs after the others. A script
    /// that writes is answered once the copies exist that [`RedisOptions::replicas`] asks for.
    ///
    /// # Errors
    /// Each call has its own. After one that is `is_unknown` the script may have run; after one
    /// that is `is_temporary` it has not.
    pub async fn run_all(&self, calls: Vec<Call>) -> Vec<Result<redis::Value, RedisError>> {
        self.link.execute(calls.into_iter().map(Task::call).collect()).await
    }

    /// Sends plain commands on keys of one slot, in order, not as a transaction; for reads.
    ///
    /// # Errors
    /// The first one's, except that an unknown one goes before all others.
    pub async fn pipe(
        &self,
        slot_key: &[u8],
        pipe: redis::Pipeline,
    ) -> Result<Vec<redis::Value>, RedisError> {
        let slot = slot_of(slot_key);
        let tasks = pipe.cmd_iter().map(|command| Task::command(slot, command.clone()));
        let results = self.link.execute(tasks.collect()).await;
        if let Some(Err(unknown)) =
            results.iter().find(|result| result.as_ref().is_err_and(RedisError::is_unknown))
        {
            return Err(unknown.clone());
        }
        results.into_iter().collect()
    }

    /// Sends one plain command on keys of one slot; for reads.
    ///
    /// # Errors
    /// As for a script.
    pub async fn query(
        &self,
        slot_key: &[u8],
        command: redis::Cmd,
    ) -> Result<redis::Value, RedisError> {
        let task = Task::command(slot_of(slot_key), command);
        let mut results = self.link.execute(vec![task]).await;
        results.pop().unwrap_or_else(|| Err(RedisError::unexpected("no reply")))
    }

    /// A connection of its own, to the node that has the slot of `slot_key`: for reads that wait.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub async fn blocking(&self, slot_key: &[u8]) -> Result<Blocking, RedisError> {
        Blocking::open(Arc::clone(&self.link), slot_of(slot_key)).await
    }
}
