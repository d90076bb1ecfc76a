//! The journal's index: timers, timelines, idempotency keys and dead letters, in redb.
//!
//! The log is the truth and this is a projection of it: every row can be made again from the
//! blocks after the last checkpoint, so ordinary commits are not synced and cost no `fsync`.
//! A checkpoint is one synced commit that also stores how far the log was applied. Keys are
//! big-endian, so that ranges are in time order.

use super::timers::{TIMERS, timer_key};
use super::told::{self, Told, event_key};
use super::{cancel, dead, listed, outcomes, retention, timers};
use crate::journal::record::{BlockHeader, SettleRecord};
use crate::journal::shard::line::Ticket;
use crate::journal::shard::{
    AmendMark, BlockMarks, ListedKey, Place, ShardSnapshot, is_timer, listed_places,
};
use crate::journal::{Books, Cancellation, EventPlace, IdempotencyRecord, Remembered};
use crate::model::{Millis, NotificationId, OrganizationId, ShardId};
use bytes::Bytes;
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

/// notification 16 | settlement position 8 | ordinal 4 → organization 4 | event; see `told`
pub(super) const EVENTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("events");
/// key 16 → body 16 | created 8 | answer
const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("idempotency");
/// created 8 | key 16 → nothing
const KEYS_BY_TIME: TableDefinition<'_, &[u8], ()> = TableDefinition::new("idempotency_by_time");
/// position 8 → first root id 8 | last root id 8 | end 8
const GRANULES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("granules");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const CHECKPOINT: &str = "checkpoint3";
/// Bytes of the log that one granule covers, but for its last block.
const GRANULE_BYTES: u64 = 256 << 10;
/// Position of the last block whose rows are in.
pub(super) const APPLIED: &str = "applied";

/// The index could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[error("the journal's index failed")]
pub struct IndexError(#[source] Box<redb::Error>);

impl<E: Into<redb::Error>> From<E> for IndexError {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

/// A stretch of the log and the root ids in it, by which a notification is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granule {
    pub(super) position: u64,
    pub(super) end: u64,
    pub(super) first_root: u64,
    pub(super) last_root: u64,
}

impl Granule {
    /// Covers the block, too; false if it should begin another one.
    pub(super) fn cover(&mut self, header: &BlockHeader) -> bool {
        if self.end - self.position >= GRANULE_BYTES {
            return false;
        }
        self.end = header.position + header.block_bytes() as u64;
        self.first_root = self.first_root.min(header.first_root);
        self.last_root = self.last_root.max(header.last_root);
        true
    }

    /// Covers nothing yet.
    pub(super) fn at(position: u64) -> Self {
        Self { position, end: position, first_root: u64::MAX, last_root: 0 }
    }
}

/// How far the log was applied, and the claim state there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) position: u64,
    pub(super) shards: Vec<ShardSnapshot>,
    pub(super) books: Books,
}

/// The checkpoint as of a transaction.
pub(super) fn read_checkpoint(txn: &ReadTransaction) -> Result<Option<Checkpoint>, IndexError> {
    let table = txn.open_table(META)?;
    let stored = table.get(CHECKPOINT)?;
    Ok(stored.and_then(|bytes| postcard::from_bytes(bytes.value()).ok()))
}

/// What one block changes in the index.
#[derive(Debug, Default)]
pub(super) struct Projection {
    pub(super) position: u64,
    shard: u16,
    pub(super) at: Millis,
    timers: Vec<(OrganizationId, Ticket)>,
    pub(super) settles: Vec<SettleRecord>,
    keys: Vec<IdempotencyRecord>,
    listed: Vec<(ListedKey, Place)>,
    pub(super) amends: Vec<AmendMark>,
    pub(super) cancels: Vec<Cancellation>,
    /// Only timers: all other rows of the block are in, and of later ones, too.
    is_repeated: bool,
}

impl Projection {
    /// The index changes of a block, `None` if it has none.
    pub(super) fn of(
        position: u64,
        shard: ShardId,
        committed_at: Millis,
        marks: BlockMarks,
    ) -> Option<Self> {
        let timers: Vec<_> = (0u32..)
            .zip(&marks.entries)
            .filter(|(_, entry)| is_timer(entry.due, committed_at))
            .map(|(index, entry)| (entry.org, entry.ticket(position, index)))
            .collect();
        let listed: Vec<_> = listed_places(position, &marks.entries).collect();
        let is_plain = timers.is_empty()
            && listed.is_empty()
            && marks.amends.is_empty()
            && marks.cancels.is_empty();
        if is_plain && marks.settles.is_empty() && marks.idempotency.is_empty() {
            return None;
        }
        let (settles, keys) = (marks.settles, marks.idempotency);
        let (amends, cancels) = (marks.amends, marks.cancels);
        let (shard, at) = (shard.0, committed_at);
        let mut made = Self { position, shard, at, timers, settles, keys, ..Self::default() };
        (made.listed, made.amends, made.cancels) = (listed, amends, cancels);
        Some(made)
    }

    pub(super) fn repeated(self, is_repeated: bool) -> Self {
        Self { is_repeated, ..self }
    }

    pub(super) fn shard(&self) -> usize {
        usize::from(self.shard)
    }

    /// Timers whose rows this block removes.
    pub(super) fn timers_done(&self) -> impl Iterator<Item = (OrganizationId, Place)> {
        let done = self.settles.iter().filter(|s| s.done && s.due != Millis(0));
        done.map(|s| (s.org, (s.position, s.index)))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = [u8; 16]> {
        self.keys.iter().map(|key| key.key)
    }

    pub(super) fn listed(&self) -> impl Iterator<Item = ListedKey> {
        self.listed.iter().map(|(key, _)| *key)
    }

    /// The timers this block adds.
    pub(super) fn timers(&self) -> impl Iterator<Item = (OrganizationId, Millis)> {
        self.timers.iter().map(|(org, ticket)| (*org, ticket.due))
    }
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) database: Database,
}

impl Index {
    /// Opens the index, creating it if the file is empty.
    pub(super) fn open(file: impl StorageBackend) -> Result<Self, IndexError> {
        let database = Database::builder().set_cache_size(16 << 20).create_with_backend(file)?;
        let txn = database.begin_write()?;
        txn.open_table(EVENTS)?;
        timers::open(&txn)?;
        txn.open_table(KEYS)?;
        txn.open_table(KEYS_BY_TIME)?;
        dead::open(&txn)?;
        outcomes::open(&txn)?;
        cancel::open(&txn)?;
        retention::open(&txn)?;
        txn.open_table(GRANULES)?;
        listed::open(&txn)?;
        txn.open_table(META)?;
        txn.commit()?;
        Ok(Self { database })
    }

    pub(super) fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        let txn = self.database.begin_read()?;
        read_checkpoint(&txn)
    }

    /// A transaction that is durable with the next checkpoint: before it, the log may be shorter
    /// than the index.
    pub(super) fn begin_behind(&self) -> Result<WriteTransaction, IndexError> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::None).map_err(redb::Error::from)?;
        Ok(txn)
    }

    pub(super) fn granules(&self) -> Result<Vec<Granule>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(GRANULES)?;
        let mut granules = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            let mut value = value.value();
            let mut next = || split_u64(&mut value);
            if let (Some(position), Some(first_root), Some(last_root), Some(end)) =
                (split_u64(&mut key.value()), next(), next(), next())
            {
                granules.push(Granule { position, end, first_root, last_root });
            }
        }
        Ok(granules)
    }

    /// Applies projections; with a checkpoint, durably.
    pub(super) fn write(
        &self,
        projections: &[Projection],
        granules: &[Granule],
        checkpoint: Option<&Checkpoint>,
    ) -> Result<(), IndexError> {
        let mut txn = match checkpoint {
            Some(_) => self.database.begin_write()?,
            None => self.begin_behind()?,
        };
        txn.set_quick_repair(checkpoint.is_some());
        for projection in projections {
            apply(&txn, projection)?;
        }
        {
            let mut table = txn.open_table(GRANULES)?;
            for granule in granules {
                let mut value = Vec::with_capacity(24);
                for part in [granule.first_root, granule.last_root, granule.end] {
                    value.extend_from_slice(&part.to_be_bytes());
                }
                table.insert(granule.position.to_be_bytes().as_slice(), value.as_slice())?;
            }
        }
        {
            let mut meta = txn.open_table(META)?;
            if let Some(last) = projections.last().filter(|last| !last.is_repeated) {
                meta.insert(APPLIED, last.position.to_be_bytes().as_slice())?;
            }
            if let Some(checkpoint) = checkpoint {
                let bytes = postcard::to_allocvec(checkpoint).unwrap_or_default();
                meta.insert(CHECKPOINT, bytes.as_slice())?;
            }
        }
        txn.commit()?;
        Ok(())
    }

    /// Timeline events of a notification, oldest first, with the organization they belong to.
    pub(super) fn events(
        &self,
        id: NotificationId,
    ) -> Result<Vec<(OrganizationId, Bytes)>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(EVENTS)?;
        let low = id.0.into_bytes();
        let mut high = low.to_vec();
        high.extend_from_slice(&[0xff; 12]);
        let mut events = Vec::new();
        for row in table.range(low.as_slice()..=high.as_slice())? {
            let (key, value) = row?;
            let told = Told::read(key.value(), value.value());
            events.extend(told.into_iter().flat_map(|told| {
                told.events().map(move |(_, event)| (told.org, Bytes::copy_from_slice(event)))
            }));
        }
        Ok(events)
    }

    /// Events of a notification after `after`, oldest first, at most `limit` rows.
    pub(super) fn events_after(
        &self,
        (org, id): ListedKey,
        after: Option<EventPlace>,
        limit: usize,
    ) -> Result<Vec<(EventPlace, Bytes)>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(EVENTS)?;
        // The row that holds `after` starts in the same block.
        let from = EventPlace { ordinal: 0, ..after.unwrap_or_default() };
        let low = event_key(id, from);
        let high = event_key(id, EventPlace { position: u64::MAX, ordinal: u32::MAX });
        let mut events = Vec::new();
        for row in table.range(low.as_slice()..=high.as_slice())? {
            let (key, value) = row?;
            let Some(told) = Told::read(key.value(), value.value()) else { continue };
            let later = told.events().filter(|(place, _)| told.org == org && Some(*place) > after);
            let room = limit - events.len();
            events.extend(later.take(room).map(|(at, e)| (at, Bytes::copy_from_slice(e))));
            if events.len() == limit {
                break;
            }
        }
        Ok(events)
    }

    /// Events of a notification before `before`, newest first, at most `limit`.
    pub(super) fn events_before(
        &self,
        (org, id): ListedKey,
        before: Option<EventPlace>,
        limit: usize,
    ) -> Result<Vec<(EventPlace, Bytes)>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(EVENTS)?;
        let last = EventPlace { position: u64::MAX, ordinal: u32::MAX };
        let low = event_key(id, EventPlace::default());
        let high = event_key(id, before.unwrap_or(last));
        let mut events = Vec::new();
        for row in table.range(low.as_slice()..high.as_slice())?.rev() {
            let (key, value) = row?;
            let Some(told) = Told::read(key.value(), value.value()) else { continue };
            let is_wanted =
                |at: &EventPlace| told.org == org && before.is_none_or(|before| *at < before);
            let earlier: Vec<_> = told.events().filter(|(at, _)| is_wanted(at)).collect();
            let room = limit - events.len();
            let newest = earlier.into_iter().rev().take(room);
            events.extend(newest.map(|(at, event)| (at, Bytes::copy_from_slice(event))));
            if events.len() == limit {
                break;
            }
        }
        Ok(events)
    }

    pub(super) fn remembered(&self, key: [u8; 16]) -> Result<(Millis, Remembered), IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(KEYS)?;
        let found = table.get(key.as_slice())?;
        let parsed = found.as_ref().and_then(|row| {
            let (body, rest) = row.value().split_first_chunk::<16>()?;
            let (created, answer) = rest.split_first_chunk::<8>()?;
            let answer = Bytes::copy_from_slice(answer);
            Some((Millis(u64::from_be_bytes(*created)), Remembered::Yes { body: *body, answer }))
        });
        Ok(parsed.unwrap_or((Millis(0), Remembered::No)))
    }

    /// Drops what retention no longer keeps: old keys, old timelines, granules of dropped segments.
    /// `is_stored` says whether the log still has what is at a position.
    pub(super) fn retain(
        &self,
        now: Millis,
        (keys_before, events_before): (Millis, Millis),
        log_before: u64,
        is_stored: impl Fn(u64) -> bool + Copy,
    ) -> Result<(), IndexError> {
        let txn = self.begin_behind()?;
        {
            let mut by_time = txn.open_table(KEYS_BY_TIME)?;
            let mut keys = txn.open_table(KEYS)?;
            let until = keys_before.0.to_be_bytes();
            for row in by_time.extract_from_if(..until.as_slice(), |_, ()| true)? {
                let (key, _) = row?;
                if let Some(key) = key.value().get(8..) {
                    keys.remove(key)?;
                }
            }
            // A version 7 UUID starts with 48 bits of milliseconds.
            let until = (events_before.0 << 16).to_be_bytes();
            // A notification sent long after its acceptance keeps what was just written about it.
            let is_kept = |key: &[u8], _: &[u8]| {
                key.get(16..).and_then(|mut rest| split_u64(&mut rest)).is_some_and(is_stored)
            };
            txn.open_table(EVENTS)?.retain_in(..until.as_slice(), is_kept)?;
            listed::retain(&txn, until.as_slice(), is_stored)?;
            let until = log_before.to_be_bytes();
            cancel::retain(&txn, now)?;
            dead::retain(&txn, is_stored)?;
            txn.open_table(GRANULES)?.retain_in(..until.as_slice(), |_, _| false)?;
        }
        txn.commit()?;
        Ok(())
    }
}

fn apply(txn: &WriteTransaction, projection: &Projection) -> Result<(), IndexError> {
    let shard = ShardId(projection.shard);
    if !projection.timers.is_empty() {
        timers::insert(txn, shard, &projection.timers)?;
    }
    if !projection.keys.is_empty() {
        let mut keys = txn.open_table(KEYS)?;
        let mut by_time = txn.open_table(KEYS_BY_TIME)?;
        for record in &projection.keys {
            let created = record.created.0.to_be_bytes();
            let value = [&record.body, created.as_slice(), &record.answer].concat();
            keys.insert(record.key.as_slice(), value.as_slice())?;
            by_time.insert([created.as_slice(), &record.key].concat().as_slice(), ())?;
        }
    }
    if !projection.listed.is_empty() {
        listed::apply(txn, &projection.listed)?;
    }
    if !projection.settles.is_empty() {
        apply_settles(txn, shard, projection)?;
        outcomes::apply(txn, projection)?;
    }
    dead::apply(txn, projection)?;
    cancel::apply(txn, projection)?;
    Ok(())
}

fn apply_settles(
    txn: &WriteTransaction,
    shard: ShardId,
    projection: &Projection,
) -> Result<(), IndexError> {
    let mut timers = txn.open_table(TIMERS)?;
    let mut events = txn.open_table(EVENTS)?;
    let mut ordinal = 0u32;
    for settle in &projection.settles {
        if settle.done && settle.due != Millis(0) {
            let place = (settle.position, settle.index);
            timers.remove(timer_key(shard, settle.org, settle.due, place).as_slice())?;
        }
        let place = EventPlace { position: projection.position, ordinal };
        if let Some((key, value)) = told::row(settle, place) {
            events.insert(key.as_slice(), value.as_slice())?;
        }
        ordinal += u32::try_from(settle.events.len()).unwrap_or(u32::MAX);
    }
    Ok(())
}

pub(super) fn split_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*head))
}
