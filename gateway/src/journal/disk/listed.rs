//! Roots listed by organization: their index, and taking one whose time has not come.

use super::core::Core;
use super::index::{Index, IndexError, split_u64};
use super::segment::SegmentError;
use crate::journal::record::{Extent, entries};
use crate::journal::shard::line::{Spot, Ticket};
use crate::journal::shard::{ListedKey, Place, class, is_timer};
use crate::journal::{Claim, ClaimId, Entry, ListedRoot};
use crate::model::{Millis, NotificationId, OrganizationId, ShardId};
use redb::{ReadableDatabase, TableDefinition, WriteTransaction};
use std::collections::BTreeMap;
use uuid::Uuid;

/// organization 4 | notification 16 → position 8 | index 4
const LISTED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("listed");
/// notification 16 | organization 4 → position 8
const LISTED_BY_TIME: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("listed_by_time");

/// Why a listed root could not be looked up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListedError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

pub(super) fn open(txn: &WriteTransaction) -> Result<(), IndexError> {
    txn.open_table(LISTED)?;
    txn.open_table(LISTED_BY_TIME)?;
    Ok(())
}

pub(super) fn apply(txn: &WriteTransaction, rows: &[(ListedKey, Place)]) -> Result<(), IndexError> {
    let mut listed = txn.open_table(LISTED)?;
    let mut by_time = txn.open_table(LISTED_BY_TIME)?;
    for ((org, id), (position, index)) in rows {
        let position = position.to_be_bytes();
        let place = [position.as_slice(), &index.to_be_bytes()].concat();
        listed.insert(key(*org, *id).as_slice(), place.as_slice())?;
        let timed = [id.0.as_bytes().as_slice(), &org.0.to_be_bytes()].concat();
        by_time.insert(timed.as_slice(), position.as_slice())?;
    }
    Ok(())
}

/// Drops rows accepted before `until` whose root the log has dropped.
pub(super) fn retain(
    txn: &WriteTransaction,
    until: &[u8],
    is_stored: impl Fn(u64) -> bool,
) -> Result<(), IndexError> {
    let mut listed = txn.open_table(LISTED)?;
    let mut by_time = txn.open_table(LISTED_BY_TIME)?;
    let is_gone = |_: &[u8], mut position: &[u8]| !split_u64(&mut position).is_some_and(&is_stored);
    for row in by_time.extract_from_if(..until, is_gone)? {
        let (timed, _) = row?;
        if let Some((id, org)) = timed.value().split_first_chunk::<16>() {
            listed.remove([org, id.as_slice()].concat().as_slice())?;
        }
    }
    Ok(())
}

fn key(org: OrganizationId, id: NotificationId) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&org.0.to_be_bytes());
    key[4..].copy_from_slice(id.0.as_bytes());
    key
}

fn read_place(mut value: &[u8]) -> Option<Place> {
    let position = split_u64(&mut value)?;
    Some((position, u32::from_be_bytes(*value.first_chunk::<4>()?)))
}

impl Index {
    /// Rows of `org` before `before`, newest first.
    fn listed(
        &self,
        org: OrganizationId,
        before: NotificationId,
        limit: usize,
    ) -> Result<Vec<(NotificationId, Place)>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(LISTED)?;
        let (low, high) = (key(org, NotificationId(Uuid::nil())), key(org, before));
        let mut found = Vec::new();
        for row in table.range(low.as_slice()..high.as_slice())?.rev().take(limit) {
            let (key, value) = row?;
            let id = key.value().last_chunk::<16>().map(|id| Uuid::from_bytes(*id));
            if let (Some(id), Some(place)) = (id, read_place(value.value())) {
                found.push((NotificationId(id), place));
            }
        }
        Ok(found)
    }

    fn place(&self, (org, id): ListedKey) -> Result<Option<Place>, IndexError> {
        let txn = self.database.begin_read()?;
        let found = txn.open_table(LISTED)?.get(key(org, id).as_slice())?;
        Ok(found.and_then(|value| read_place(value.value())))
    }
}

impl Core {
    pub(super) fn listed(
        &self,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<ListedRoot>, ListedError> {
        let before = before.unwrap_or(NotificationId(Uuid::max()));
        // Before the index, since rows move from here to there.
        let mut places: BTreeMap<NotificationId, Place> = {
            let recent = self.recent_listed.lock();
            let range = recent.range((org, NotificationId(Uuid::nil()))..(org, before)).rev();
            range.take(limit).map(|((_, id), place)| (*id, *place)).collect()
        };
        places.extend(self.index.listed(org, before, limit)?);
        let mut roots = Vec::with_capacity(places.len().min(limit));
        let mut read: Option<(u64, Vec<(Extent, Entry)>)> = None;
        for (notification, place) in places.into_iter().rev().take(limit) {
            // Retention may have dropped the segment a moment ago.
            if self.segments.at(place.0).is_none() {
                continue;
            }
            // Neighbours mostly share a block.
            let entries = match &read {
                Some((position, entries)) if *position == place.0 => entries,
                _ => &read.insert((place.0, self.entries(place.0)?.0)).1,
            };
            let entry = usize::try_from(place.1).ok().and_then(|index| entries.get(index));
            let payload = entry.map(|(_, entry)| entry.payload.clone());
            roots.extend(payload.map(|payload| ListedRoot { notification, payload }));
        }
        Ok(roots)
    }

    /// The entries of the block at `position`, and when it was committed.
    pub(super) fn entries(
        &self,
        position: u64,
    ) -> Result<(Vec<(Extent, Entry)>, Millis), ListedError> {
        let (header, payload) = self.segments.block(position)?;
        let entries = entries(payload).map(|(_, extent, entry)| (extent, entry));
        Ok((entries.collect(), header.committed_at))
    }

    pub(super) fn take(
        &self,
        shard: ShardId,
        listed: ListedKey,
    ) -> Result<Option<Claim>, ListedError> {
        let recent = self.recent_listed.lock().get(&listed).copied();
        let place = recent.map_or_else(|| self.index.place(listed), |place| Ok(Some(place)))?;
        let Some(place) = place.filter(|place| self.segments.at(place.0).is_some()) else {
            return Ok(None);
        };
        let (entries, committed_at) = self.entries(place.0)?;
        let found = (0u32..).zip(entries).find(|(index, _)| *index == place.1);
        let Some((index, (extent, entry))) = found else { return Ok(None) };
        let cell = self.shards.get(usize::from(shard.0));
        let Some(cell) = cell.filter(|_| is_timer(entry.due, committed_at)) else {
            return Ok(None);
        };
        // Nobody claims in this shard meanwhile, so what waits now still waits below.
        let _gate = cell.gate.lock();
        {
            let state = cell.state.lock();
            let is_ready = state.lines.get(entry.org).is_some_and(|line| line.is_ready(place));
            // Loaded and not ready: claimed, or settled a moment ago.
            let is_begun = state.timers_loaded.contains(&(entry.org, place)) && !is_ready;
            if is_begun || state.in_flight.contains_key(&place) {
                return Ok(None);
            }
        }
        let is_new = self.recent_listed.lock().contains_key(&listed);
        let spot = Spot { position: place.0, index, extent };
        let ticket = Ticket { spot, due: entry.due, class: class(entry.kind) };
        let one = std::iter::once(ticket);
        if !is_new && self.index.waiting((shard, entry.org), one, 1)?.is_empty() {
            return Ok(None);
        }
        let mut state = cell.state.lock();
        state.lines.drop_ready(entry.org, place);
        state.timers_loaded.insert((entry.org, place));
        state.lines.claim(entry.org);
        let (lease, _) = state.lease(entry.org, ticket, self.lease_until(self.clock.steady()));
        Ok(Some(Claim {
            id: ClaimId { position: place.0, index, lease },
            notification: entry.notification,
            org: entry.org,
            kind: entry.kind,
            payload: entry.payload,
            settled: state.partial.get(&place).cloned().unwrap_or_default(),
        }))
    }
}
