//! How a journal on Redis is run.

use crate::model::{OrganizationId, ShardId};
use std::time::Duration;

/// How to run a journal on Redis.
#[derive(Clone, Debug)]
pub struct RedisJournalOptions {
    /// The same on every node.
    pub shards: u16,
    pub lease: Duration,
    /// How long finished blocks, timelines and outcomes stay.
    pub retention: Duration,
    /// How long dead letters stay.
    pub dead_letter_retention: Duration,
    /// How long idempotency keys are remembered.
    pub keys_ttl: Duration,
    /// Bytes the log of one shard may take; beyond it finished blocks go before their time.
    pub log_bytes_max: u64,
    /// Unclaimed entries that each shard of this node remembers one by one.
    pub places: usize,
    /// How long an addition is tried before its caller is told that Redis is away.
    pub patience: Duration,
    /// How long what is under way in a shard may take before the shard is given up all the same.
    /// What has not ended by then is claimed again by the next owner.
    pub leave_patience: Duration,
    /// Where all of an organization lies; without it everything about one is looked up in every
    /// shard.
    pub home: Option<fn(OrganizationId, u16) -> ShardId>,
    /// Counts what is left of each notification that an outbox keeps: the same on every node.
    pub tracks: bool,
    /// The class that the server's settings come to.
    pub durability: &'static str,
}

impl Default for RedisJournalOptions {
    fn default() -> Self {
        Self {
            shards: 64,
            lease: Duration::from_secs(60),
            retention: Duration::from_hours(168),
            dead_letter_retention: Duration::from_hours(720),
            keys_ttl: Duration::from_hours(24),
            log_bytes_max: 1 << 30,
            places: 1 << 14,
            patience: Duration::from_secs(2),
            // With the beats that tell of it, a shard passes on within a second.
            leave_patience: Duration::from_millis(500),
            home: None,
            tracks: false,
            durability: "D0",
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
