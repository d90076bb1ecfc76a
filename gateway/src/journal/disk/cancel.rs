//! Notifications of which nothing is sent any more, and bringing forward what waits of them.

use super::core::Core;
use super::index::{EVENTS, Index, IndexError, Projection, split_u64};
use super::listed::ListedError;
use crate::journal::ledger::oldest_waiting;
use crate::journal::record::encode_cancellation;
use crate::journal::shard::line::{Spot, Ticket};
use crate::journal::shard::{BlockMarks, class, is_timer};
use crate::journal::{Cancellation, Commit, JournalError};
use crate::model::{Millis, NotificationId, OrganizationId, ShardId};
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::collections::BTreeSet;
use uuid::Uuid;

/// notification 16 → organization 4
const CANCELED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("canceled");
/// Events of cancellations are numbered from here, behind all others in the same block.
const CANCEL_ORDINAL: u32 = 3 << 30;
/// Blocks searched for what waits of a notification; the rest is suppressed when it comes due.
const BLOCKS_MAX: usize = 1_024;

pub(super) fn open(txn: &WriteTransaction) -> Result<(), IndexError> {
    txn.open_table(CANCELED)?;
    Ok(())
}

pub(super) fn apply(txn: &WriteTransaction, projection: &Projection) -> Result<(), IndexError> {
    if projection.cancels.is_empty() {
        return Ok(());
    }
    let mut canceled = txn.open_table(CANCELED)?;
    let mut events = txn.open_table(EVENTS)?;
    for (ordinal, cancel) in (CANCEL_ORDINAL..).zip(&projection.cancels) {
        let id = cancel.notification.0.as_bytes().as_slice();
        let org = cancel.org.0.to_be_bytes();
        canceled.insert(id, org.as_slice())?;
        let position = projection.position.to_be_bytes();
        let key = [id, &position, &ordinal.to_be_bytes()].concat();
        events.insert(key.as_slice(), [&org, cancel.event.as_ref()].concat().as_slice())?;
    }
    Ok(())
}

/// Drops wishes of which nobody needs to know any more.
pub(super) fn retain(txn: &WriteTransaction, now: Millis) -> Result<(), IndexError> {
    let until = oldest_waiting(now);
    txn.open_table(CANCELED)?.retain_in(..until.0.as_bytes().as_slice(), |_, _| false)?;
    Ok(())
}

/// Every notification of which nothing is sent any more, and whose it is.
pub(super) fn canceled_of(
    txn: &ReadTransaction,
) -> Result<Vec<(NotificationId, OrganizationId)>, IndexError> {
    let mut found = Vec::new();
    for row in txn.open_table(CANCELED)?.iter()? {
        let (key, value) = row?;
        let id = key.value().first_chunk::<16>().map(|id| NotificationId(Uuid::from_bytes(*id)));
        let org = value.value().first_chunk::<4>().map(|org| i32::from_be_bytes(*org));
        found.extend(id.zip(org.map(OrganizationId)));
    }
    Ok(found)
}

/// Notes that nothing of a notification is sent any more.
pub(super) fn load(
    txn: &WriteTransaction,
    notification: NotificationId,
    org: OrganizationId,
) -> Result<(), IndexError> {
    let mut canceled = txn.open_table(CANCELED)?;
    canceled.insert(notification.0.as_bytes().as_slice(), org.0.to_be_bytes().as_slice())?;
    Ok(())
}

impl Index {
    pub(super) fn canceled(&self) -> Result<Vec<NotificationId>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(CANCELED)?;
        let mut found = Vec::new();
        for row in table.iter()? {
            let (key, _) = row?;
            let id =
                key.value().first_chunk::<16>().map(|id| NotificationId(Uuid::from_bytes(*id)));
            found.extend(id);
        }
        Ok(found)
    }

    /// Positions of the newest blocks that told of a notification.
    fn told_at(&self, id: NotificationId) -> Result<BTreeSet<u64>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(EVENTS)?;
        let low = id.0.into_bytes();
        let high = [low.as_slice(), &[0xff; 12]].concat();
        let mut positions = BTreeSet::new();
        for row in table.range(low.as_slice()..=high.as_slice())?.rev() {
            let (key, _) = row?;
            positions.extend(key.value().get(16..).and_then(|mut rest| split_u64(&mut rest)));
            if positions.len() >= BLOCKS_MAX {
                break;
            }
        }
        Ok(positions)
    }
}

impl Core {
    pub(super) fn cancel(
        &self,
        shard: ShardId,
        cancellation: Cancellation,
    ) -> Result<Commit, JournalError> {
        let mut bytes = Vec::new();
        encode_cancellation(&cancellation, &mut bytes);
        let marks = BlockMarks { cancels: vec![cancellation], ..BlockMarks::default() };
        self.enqueue(shard, bytes, marks, 2)
    }

    /// Drops from memory what `retain` drops from the index.
    pub(super) fn forget_canceled(&self, now: Millis) {
        let until = oldest_waiting(now);
        self.canceled.write().retain(|id| *id >= until);
    }

    /// Makes the timers of a notification claimable now, as far as there is room for them; what
    /// stays is not sent when it comes due.
    pub(super) fn hurry(
        &self,
        shard: ShardId,
        org: OrganizationId,
        id: NotificationId,
    ) -> Result<usize, ListedError> {
        let Some(cell) = self.shards.get(usize::from(shard.0)) else { return Ok(0) };
        let told = self.timers_of(org, id)?;
        let mut hurried = 0;
        {
            // Nobody claims or takes meanwhile, so what waits in the index now still waits below.
            let _gate = cell.gate.lock();
            let (room, loaded) = {
                let state = cell.state.lock();
                (state.lines.room_for_ready(org), state.timers_loaded_of(org))
            };
            let idle = told.into_iter().filter(|ticket| !loaded.contains(&ticket.spot.place()));
            let waiting = self.index.waiting((shard, org), idle, room)?;
            let mut state = cell.state.lock();
            for ticket in waiting {
                if state.timers_loaded.insert((org, ticket.spot.place())) {
                    state.lines.lapse(org, ticket);
                    hurried += 1;
                }
            }
        }
        self.wake(shard);
        Ok(hurried)
    }

    /// The timers that were ever set for a notification, in the newest blocks that told of it.
    fn timers_of(
        &self,
        org: OrganizationId,
        id: NotificationId,
    ) -> Result<Vec<Ticket>, ListedError> {
        let mut blocks = self.index.told_at(id)?;
        blocks.extend(self.root_block(id)?.map(|(position, _)| position));
        let mut timers = Vec::new();
        for position in blocks {
            // Retention may have dropped the segment.
            if self.segments.at(position).is_none() {
                continue;
            }
            let (entries, committed_at) = self.entries(position)?;
            for (index, (extent, entry)) in (0u32..).zip(entries) {
                let is_ours = entry.notification == id && entry.org == org;
                if is_ours && is_timer(entry.due, committed_at) {
                    let spot = Spot { position, index, extent };
                    timers.push(Ticket { spot, due: entry.due, class: class(entry.kind) });
                }
            }
        }
        Ok(timers)
    }
}
