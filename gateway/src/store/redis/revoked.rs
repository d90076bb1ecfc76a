//! Ids that must not work any more, in memory: told of by a stream that every node reads.
//!
//! A node knows its own at once and those of others after one poll: 250 ms and the time of a read,
//! longer while Redis cannot be reached. Once a minute everything is read again.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use redis::Value;

use super::places::FIRST;
use super::reads::Found;
use super::wire::{Ask, array, into_bytes, pairs};
use super::{Records, RecordsError};
use crate::clock::{Clock, SystemClock};
use crate::model::Millis;
use crate::store::changes::Touched;
use crate::store::changes::tables::{Table, number};

/// Between two reads of the stream.
const POLL: Duration = Duration::from_millis(250);
/// Reads of the stream until everything is read again, and old commits are swept.
const POLLS_PER_SWEEP: u32 = 240;
/// Entries read at once.
const ENTRIES_MAX: usize = 1_000;
const STREAM: &str = "revoked";

#[derive(Debug)]
pub(super) struct Revoked {
    ids: RwLock<HashMap<String, Millis>>,
    /// The last entry of the stream that is known here.
    seen: Mutex<String>,
}

impl Default for Revoked {
    fn default() -> Self {
        Self { ids: RwLock::default(), seen: Mutex::new(String::from("0-0")) }
    }
}

impl Revoked {
    pub(super) fn has(&self, id: &str) -> bool {
        let ids = self.ids.read();
        // Asked for every request; mostly nothing is revoked.
        !ids.is_empty() && ids.contains_key(id)
    }

    /// What a commit of this node changed.
    pub(super) fn note(&self, touched: &Touched) {
        if touched.revoked.is_empty() && touched.unrevoked.is_empty() {
            return;
        }
        let mut ids = self.ids.write();
        touched.unrevoked.iter().for_each(|id| {
            ids.remove(id);
        });
        ids.extend(touched.revoked.iter().cloned());
    }
}

impl Records {
    /// Reads everything that is revoked.
    pub(super) async fn recall_revoked(&self) -> Found<()> {
        // First the stream: what is revoked while the table is read is behind its end.
        self.poll_revoked().await?;
        let mut all = HashMap::new();
        for (id, until) in pairs(self.ask(Ask::everything(FIRST, Table::Revoked)).await?)? {
            let until = Millis(number(Table::Revoked, &until)?);
            all.insert(String::from_utf8_lossy(&id).into_owned(), until);
        }
        let now = SystemClock.now();
        let mut ids = self.revoked.ids.write();
        // Those of the stream that the table does not have were forgotten or came meanwhile.
        ids.retain(|_, until| *until > now);
        ids.extend(all);
        Ok(())
    }

    /// Reads what was revoked since the last time.
    pub(super) async fn poll_revoked(&self) -> Found<()> {
        loop {
            let seen = self.revoked.seen.lock().clone();
            let entries = array(self.ask(Ask::stream(FIRST, STREAM, &seen, ENTRIES_MAX)).await?)?;
            let count = entries.len();
            for entry in entries {
                let (place, id, until) = parse(entry)?;
                self.revoked.ids.write().insert(id, until);
                *self.revoked.seen.lock() = place;
            }
            if count < ENTRIES_MAX {
                return Ok(());
            }
        }
    }
}

fn parse(entry: Value) -> Result<(String, String, Millis), RecordsError> {
    let unexpected = || crate::redis::RedisError::unexpected("a revocation without its parts");
    let mut parts = array(entry)?.into_iter();
    let place = parts.next().and_then(into_bytes).ok_or_else(unexpected)?;
    let mut fields = pairs(parts.next().unwrap_or(Value::Nil))?.into_iter();
    let (Some((_, id)), Some((_, until))) = (fields.next(), fields.next()) else {
        return Err(unexpected().into());
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let until = text(until).parse().map_err(|_| unexpected())?;
    Ok((text(place), text(id), Millis(until)))
}

/// Keeps a node's memory fresh, and finishes what other nodes left, until the store is dropped.
pub(super) async fn watch(records: Weak<Records>) {
    for polls in 1u32.. {
        tokio::time::sleep(POLL).await;
        let Some(records) = records.upgrade() else { return };
        if let Err(error) = refresh(&records, polls % POLLS_PER_SWEEP == 0).await {
            tracing::warn!(%error, "what other nodes revoked is not known now");
        }
    }
}

async fn refresh(records: &Arc<Records>, is_sweep: bool) -> Found<()> {
    if !is_sweep {
        return records.poll_revoked().await;
    }
    records.recall_revoked().await?;
    records.wire.sweep().await?;
    Ok(())
}
