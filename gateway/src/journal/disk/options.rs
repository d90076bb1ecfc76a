//! How a journal is run, and what it tells about its commits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// When `fdatasync` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Before every reply: class D2.
    Commit,
    /// At most this long after: class D1.
    Interval(Duration),
    /// When the kernel likes: class D0, for experiments.
    Never,
}

/// How to run a journal.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    pub shards: u16,
    pub segment_bytes: u64,
    pub fsync: FsyncPolicy,
    pub lease: Duration,
    /// How long timelines and settled segments stay.
    pub retention: Duration,
    /// How long dead letters stay.
    pub dead_letter_retention: Duration,
    /// How long idempotency keys are remembered.
    pub keys_ttl: Duration,
    /// Bytes all segments may take; beyond it new work is refused.
    pub disk_bytes_max: u64,
    /// Unclaimed entries that each shard remembers one by one, 24 bytes each; further ones are read
    /// from the log again when their turn comes.
    pub places: usize,
    /// Gives up what is damaged instead of refusing to open.
    pub salvages: bool,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            shards: 8,
            segment_bytes: 32 << 20,
            fsync: FsyncPolicy::Commit,
            lease: Duration::from_secs(60),
            retention: Duration::from_hours(168),
            dead_letter_retention: Duration::from_hours(720),
            keys_ttl: Duration::from_hours(24),
            disk_bytes_max: 20 << 30,
            places: 1 << 16,
            salvages: false,
        }
    }
}

/// Commit statistics, read by the metrics.
#[derive(Debug, Default)]
pub struct CommitStats {
    pub groups: AtomicU64,
    pub blocks: AtomicU64,
    pub micros: AtomicU64,
    /// Duration of the newest group in microseconds.
    pub last_micros: AtomicU64,
    /// Moving average of the time of a sync in microseconds; 0 before the first one.
    sync_micros: AtomicU64,
}

/// Weight of the newest sync in their moving average: one in so many.
const SYNC_WEIGHT: u64 = 8;

impl CommitStats {
    /// The moving average of the time of one sync.
    #[must_use]
    pub fn sync(&self) -> Duration {
        Duration::from_micros(self.sync_micros.load(Ordering::Relaxed))
    }

    /// Only the writer calls it.
    pub(super) fn synced(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let before = self.sync_micros.load(Ordering::Relaxed);
        let average = match before {
            0 => took,
            _ => before - before / SYNC_WEIGHT + took / SYNC_WEIGHT,
        };
        self.sync_micros.store(average, Ordering::Relaxed);
    }

    pub(super) fn record(&self, took: Duration, blocks: usize) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.blocks.fetch_add(blocks as u64, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.last_micros.store(micros, Ordering::Relaxed);
    }
}
