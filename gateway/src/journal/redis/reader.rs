//! The owner's blocking read: how it learns of what other nodes append.

use super::cell::Cell;
use super::core::Core;
use super::reply::Stored;
use crate::redis::{Blocking, RedisError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const BLOCK: Duration = Duration::from_secs(1);
const READ_MAX: usize = 16;
const PAUSE: Duration = Duration::from_millis(200);

impl Core {
    /// Reads for `cell` while this node owns it, until the journal is closed.
    pub(super) async fn read_on(self: Arc<Self>, cell: Arc<Cell>) {
        let mut open: Option<Blocking> = None;
        while !self.closed.load(Ordering::Acquire) {
            let woken = cell.reading.notified();
            if !cell.state.lock().is_loaded {
                open = None;
                woken.await;
                continue;
            }
            if let Err(error) = self.read_once(&cell, &mut open).await {
                tracing::debug!(shard = cell.shard.0, %error, "the log of a shard cannot be read now");
                if error == RedisError::NoGroup {
                    cell.unload("its consumer group is gone");
                } else {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn read_once(&self, cell: &Cell, open: &mut Option<Blocking>) -> Result<(), RedisError> {
        let key = self.redis.key(cell.shard, "q");
        let blocking = match open {
            Some(blocking) => blocking,
            None => open.insert(self.redis.blocking(&key).await?),
        };
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg("dispatch").arg("owner").arg("COUNT").arg(READ_MAX);
        // The commit of a block with open entries lists it itself; no other is to be listed.
        read.arg("BLOCK").arg(BLOCK.as_millis() as usize).arg("NOACK");
        read.arg("STREAMS").arg(&key).arg(">");
        let found = Stored::read(blocking.call(&read, BLOCK).await?)?;
        if found.is_empty() {
            return Ok(());
        }
        let _log = cell.log.lock().await;
        for stored in found {
            let end = {
                let state = cell.state.lock();
                if !state.is_loaded {
                    return Ok(());
                }
                state.shard.applied_end
            };
            if stored.position > end {
                self.catch_up(cell, stored.position).await?;
            }
            self.take_in_stored(cell, stored);
        }
        cell.claimers.notify_one();
        cell.keeping.notify_one();
        Ok(())
    }
}
