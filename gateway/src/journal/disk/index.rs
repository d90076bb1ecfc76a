//! The journal's index: timers, timelines, idempotency keys and dead letters, in redb.
//!
//! The log is the truth and this is a projection of it: every row can be made again from the
//! blocks after the last checkpoint, so ordinary commits are not synced and cost no `fsync`.
//! A checkpoint is one synced commit that also stores how far the log was applied. Keys are
//! big-endian, so that ranges are in time order.

use super::legacy::EarlierCheckpoint;
use super::timers::{TIMERS, timer_key};
use super::{cancel, dead, listed, outcomes, retention, timers};
use crate::journal::record::SettleRecord;
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

/// notification 16 | settlement position 8 | ordinal 4 → organization 4 | event
pub(super) const EVENTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("events");
/// key 16 → body 16 | created 8 | answer
const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("idempotency");
/// created 8 | key 16 → nothing
const KEYS_BY_TIME: TableDefinition<'_, &[u8], ()> = TableDefinition::new("idempotency_by_time");
/// position 8 → first root id 8 | last root id 8 | end 8
const GRANULES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("granules");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const CHECKPOINT: &str = "checkpoint2";
/// What earlier releases wrote.
const EARLIER_CHECKPOINT: &str = "checkpoint";
const AMENDED: &str = "amended";
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

/// How far the log was applied, and the claim state there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) position: u64,
    pub(super) shards: Vec<ShardSnapshot>,
    pub(super) accepted: u64,
    pub(super) finals: [u64; 6],
    pub(super) dead_letters: u64,
    /// Stored beside it, since a checkpoint of an earlier release has none.
    #[serde(skip)]
    pub(super) amended: Amended,
}

impl Checkpoint {
    pub(super) fn books(&self) -> Books {
        Books {
            accepted: self.accepted,
            finals: self.finals,
            dead_letters: self.dead_letters,
            reopened: self.amended.reopened,
            discarded: self.amended.discarded,
        }
    }
}

/// What replays and discards add to the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Amended {
    reopened: [u64; 6],
    discarded: u64,
}

impl Amended {
    pub(super) fn of(books: &Books) -> Self {
        Self { reopened: books.reopened, discarded: books.discarded }
    }
}

/// The checkpoint as of a transaction.
pub(super) fn read_checkpoint(txn: &ReadTransaction) -> Result<Option<Checkpoint>, IndexError> {
    let table = txn.open_table(META)?;
    let stored = table.get(CHECKPOINT)?;
    let checkpoint = stored.and_then(|bytes| postcard::from_bytes(bytes.value()).ok());
    let amended = table.get(AMENDED)?;
    let amended = amended.and_then(|bytes| postcard::from_bytes(bytes.value()).ok());
    Ok(checkpoint
        .map(|found: Checkpoint| Checkpoint { amended: amended.unwrap_or_default(), ..found }))
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
        Some(Self { position, shard, at, timers, settles, keys, listed, amends, cancels })
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

    /// What an earlier release left, as long as this one has written no checkpoint.
    pub(super) fn earlier_checkpoint(&self) -> Result<Option<EarlierCheckpoint>, IndexError> {
        let txn = self.database.begin_read()?;
        let stored = txn.open_table(META)?.get(EARLIER_CHECKPOINT)?;
        Ok(stored.and_then(|bytes| postcard::from_bytes(bytes.value()).ok()))
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
        let mut txn = self.database.begin_write()?;
        txn.set_quick_repair(checkpoint.is_some());
        if checkpoint.is_none() {
            txn.set_durability(Durability::None).map_err(redb::Error::from)?;
        }
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
            if let Some(last) = projections.last() {
                meta.insert(APPLIED, last.position.to_be_bytes().as_slice())?;
            }
            if let Some(checkpoint) = checkpoint {
                let bytes = postcard::to_allocvec(checkpoint).unwrap_or_default();
                meta.insert(CHECKPOINT, bytes.as_slice())?;
                let bytes = postcard::to_allocvec(&checkpoint.amended).unwrap_or_default();
                meta.insert(AMENDED, bytes.as_slice())?;
                if meta.remove(EARLIER_CHECKPOINT)?.is_some() {
                    timers::forget_unowned(&txn)?;
                }
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
            let (_, value) = row?;
            if let Some((org, event)) = value.value().split_first_chunk::<4>() {
                let org = OrganizationId(i32::from_be_bytes(*org));
                events.push((org, Bytes::copy_from_slice(event)));
            }
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
        let key = |place: EventPlace| {
            let (position, ordinal) = (place.position.to_be_bytes(), place.ordinal.to_be_bytes());
            [id.0.as_bytes().as_slice(), &position, &ordinal].concat()
        };
        let low = key(after.unwrap_or_default());
        let high = key(EventPlace { position: u64::MAX, ordinal: u32::MAX });
        let mut events = Vec::new();
        for row in table.range(low.as_slice()..=high.as_slice())?.take(limit.saturating_add(1)) {
            let (key, value) = row?;
            let place = key.value().get(16..).and_then(|mut rest| {
                let position = split_u64(&mut rest)?;
                Some(EventPlace { position, ordinal: u32::from_be_bytes(*rest.first_chunk()?) })
            });
            let Some(place) = place.filter(|place| Some(*place) > after) else { continue };
            if let Some((of, event)) = value.value().split_first_chunk::<4>()
                && *of == org.0.to_be_bytes()
                && events.len() < limit
            {
                events.push((place, Bytes::copy_from_slice(event)));
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
        keys_before: Millis,
        events_before: Millis,
        log_before: u64,
        is_stored: impl Fn(u64) -> bool + Copy,
    ) -> Result<(), IndexError> {
        let mut txn = self.database.begin_write()?;
        // Durable with the next checkpoint: before it, the log may be shorter than the index.
        txn.set_durability(Durability::None).map_err(redb::Error::from)?;
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
            cancel::retain(&txn, keys_before)?;
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
    let mut next_key = |prefix: &[u8]| {
        let key = [prefix, &projection.position.to_be_bytes(), &ordinal.to_be_bytes()].concat();
        ordinal += 1;
        key
    };
    for settle in &projection.settles {
        let notification = settle.notification.0.into_bytes();
        if settle.done && settle.due != Millis(0) {
            let place = (settle.position, settle.index);
            timers.remove(timer_key(shard, settle.org, settle.due, place).as_slice())?;
        }
        for event in &settle.events {
            let value = [&settle.org.0.to_be_bytes(), event.as_ref()].concat();
            events.insert(next_key(&notification).as_slice(), value.as_slice())?;
        }
    }
    Ok(())
}

pub(super) fn split_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*head))
}
