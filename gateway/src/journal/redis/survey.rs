//! What this node asks about shards that it does not work on: sums for the books, backlogs for
//! admission.

use super::cell::Cell;
use super::core::Core;
use super::lane::backlog;
use super::reply::{self, SUMS, Sums};
use crate::journal::ledger::oldest_waiting;
use crate::redis::RedisError;
use futures_util::future::join_all;
use redis::Pipeline;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

const EVERY: Duration = Duration::from_millis(500);
/// A shard whose writes do not get through keeps its log for itself until they do: it is not asked
/// about, so that the others are.
const LOG_WITHIN: Duration = Duration::from_secs(1);
/// How often cancellations are looked through for those that nobody needs to know any more.
const FORGET_EVERY: Duration = Duration::from_mins(1);

impl Core {
    /// Asks about all shards until the journal is closed.
    pub(super) async fn survey(self: Arc<Self>) {
        let mut forgot = Instant::now();
        while !self.closed.load(Ordering::Acquire) {
            if forgot.elapsed() >= FORGET_EVERY {
                forgot = Instant::now();
                self.forget_canceled();
            }
            if let Err(error) = self.survey_once().await {
                tracing::debug!(%error, "the books could not be read from redis");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Drops cancellations of what is too old to wait for anything.
    pub(super) fn forget_canceled(&self) {
        let until = oldest_waiting(self.clock.now());
        self.canceled.write().retain(|id| *id >= until);
    }

    pub(super) async fn survey_once(&self) -> Result<(), RedisError> {
        let asked = join_all(self.cells.iter().map(|cell| self.survey_cell(cell))).await;
        asked.into_iter().collect()
    }

    async fn survey_cell(&self, cell: &Cell) -> Result<(), RedisError> {
        let key = self.redis.key(cell.shard, "m");
        let wanted = cell.told.lock().take_wanted();
        let mut pipe = Pipeline::new();
        let sums = pipe.cmd("HMGET").arg(&key);
        SUMS.iter().for_each(|name| {
            sums.arg(*name);
        });
        pipe.cmd("ZCARD").arg(self.redis.key(cell.shard, "da"));
        if !wanted.is_empty() {
            let counts = pipe.cmd("HMGET").arg(self.redis.key(cell.shard, "c"));
            wanted.iter().for_each(|org| {
                counts.arg(org.0);
            });
        }
        // What a commit tells meanwhile is newer than what is read here.
        let Ok(_log) = tokio::time::timeout(LOG_WITHIN, cell.log.lock()).await else {
            return Err(RedisError::Busy);
        };
        let mut replies = self.redis.pipe(&key, pipe).await?.into_iter();
        let sums = Sums::of(replies.next().unwrap_or_default())?;
        let kept = replies.next().as_ref().and_then(reply::number).unwrap_or(0);
        let counts = reply::array(replies.next().unwrap_or_default())?;
        let mut told = cell.told.lock();
        (told.sums, told.dead_kept) = (sums, kept);
        for (org, counts) in wanted.into_iter().zip(counts) {
            let counts = reply::bytes(counts).unwrap_or_default();
            told.note(org, backlog(&counts));
        }
        Ok(())
    }
}
