//! Retention: whole segments go, and of each its sums stay, so that the books still add up.

use super::core::Core;
use super::index::IndexError;
use super::notes::Note;
use super::outcomes;
use super::scan::{Beyond, beyond};
use super::segment::Segment;
use crate::journal::Sums;
use crate::journal::record::{HEADER_BYTES, Record, Records, read_block};
use crate::journal::shard::Place;
use crate::model::{Millis, OrganizationId};
use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// base of a dropped segment 8 → sums as postcard; under the largest base, those of all before
const CARRIED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("carried");
/// Segments whose sums are kept apart: so many may go in one run of retention.
const APART: usize = 1_024;
const ALL_BEFORE: u64 = u64::MAX;

/// What dropped segments held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) sums: BTreeMap<i32, Sums>,
    /// Entries of segments that stay, settled for good by one that goes.
    pub(super) settled: Vec<Place>,
}

impl Carried {
    fn add(&mut self, other: Self) {
        for (org, sums) in other.sums {
            self.sums.entry(org).or_default().add(&sums);
        }
        self.settled.extend(other.settled);
    }

    /// Counts a block of the segment that takes up `own`.
    fn count(&mut self, payload: Bytes, own: Range<u64>) {
        for record in Records::new(payload).flatten() {
            match record {
                Record::Entry(entry) if entry.kind.is_root() => {
                    self.sums.entry(entry.org.0).or_default().accepted += 1;
                }
                Record::Settle(settle) => {
                    let sums = self.sums.entry(settle.org.0).or_default();
                    sums.settle(&settle.resolved, settle.dead.len());
                    if settle.done && !own.contains(&settle.position) {
                        self.settled.push((settle.position, settle.index));
                    }
                }
                Record::Amend(amend) => {
                    let sums = self.sums.entry(amend.org.0).or_default();
                    sums.amend(amend.from, amend.is_reopened);
                }
                Record::Entry(_) | Record::Idempotency(_) | Record::Cancel(_) => {}
            }
        }
    }
}

pub(super) fn open(txn: &WriteTransaction) -> Result<(), IndexError> {
    txn.open_table(CARRIED)?;
    Ok(())
}

/// What dropped segments held, as of a transaction and of `notes`, which it may have already;
/// `is_stored` says which bases are there yet.
pub(super) fn carried(
    txn: &ReadTransaction,
    notes: &[Note],
    is_stored: impl Fn(u64) -> bool,
) -> Result<Carried, IndexError> {
    let mut all = Carried::default();
    let table = txn.open_table(CARRIED)?;
    let fresh: BTreeMap<_, _> = notes.iter().map(|note| (note.base, &note.carried)).collect();
    for (base, carried) in fresh {
        if !is_stored(base) && table.get(base)?.is_none() {
            all.add(carried.clone());
        }
    }
    for row in table.iter()? {
        let (base, value) = row?;
        if !is_stored(base.value()) {
            all.add(postcard::from_bytes(value.value()).unwrap_or_default());
        }
    }
    Ok(all)
}

/// Puts in what another store's log was before this one begins.
pub(super) fn load_carried(txn: &WriteTransaction, carried: &Carried) -> Result<(), IndexError> {
    let bytes = postcard::to_allocvec(carried).unwrap_or_default();
    txn.open_table(CARRIED)?.insert(ALL_BEFORE, bytes.as_slice())?;
    Ok(())
}

/// What a segment holds that must outlive it, and when its newest block was committed.
fn sum_up(segment: &Segment) -> std::io::Result<(Carried, Millis)> {
    let mut bytes = vec![0; usize::try_from(segment.capacity).unwrap_or(usize::MAX)];
    let read = segment.read(segment.base, &mut bytes)?;
    bytes.truncate(read);
    let bytes = Bytes::from(bytes);
    let (mut carried, mut until) = (Carried::default(), Millis(0));
    let mut position = segment.base + HEADER_BYTES as u64;
    loop {
        let offset = usize::try_from(position - segment.base).unwrap_or(usize::MAX);
        let rest = bytes.get(offset..).unwrap_or_default();
        if let Ok((header, _)) = read_block(rest, position) {
            let from = offset + HEADER_BYTES;
            let payload = bytes.slice(from..from + header.payload_bytes as usize);
            carried.count(payload, segment.base..segment.end());
            until = until.max(header.committed_at);
            position += header.block_bytes() as u64;
            continue;
        }
        let Beyond::Damage(next) = beyond(rest, position) else { return Ok((carried, until)) };
        tracing::error!(
            file = %segment.path.display(),
            byte = offset,
            "a segment past retention is damaged: what is unreadable in it is missing from the books that `bugler audit` adds up"
        );
        let Some(next) = next else { return Ok((carried, until)) };
        position = next;
    }
}

/// Drops whole segments that are older than retention and that no work needs any more. Waits for
/// nobody who writes to the index, since that may be waiting for the room this makes.
pub(super) fn drop_old(core: &Core) -> Result<(), Box<dyn std::error::Error>> {
    let horizon = core.ago(core.options.retention);
    let segments = core.segments.all();
    let end = segments.last().map_or(0, |s| s.base);
    let shards = core.shards.iter().map(|cell| cell.state.lock().low_water(end));
    // What the index does not hold for good would be made again from the log.
    let checkpointed = core.checkpointed.load(Ordering::Acquire);
    let low = shards.min().unwrap_or(end).min(checkpointed);
    let mut waiting = HashSet::new();
    core.index.timer_positions(|position| {
        waiting.extend(core.segments.at(position).map(|segment| segment.base));
    })?;
    // The first block behind a segment was written after all of that segment's. Looked for while
    // all are there: whoever follows a segment that stays may go.
    let behind = |next: &Arc<Segment>| core.segments.header(next.base + HEADER_BYTES as u64);
    let ages = segments.iter().skip(1).map(|next| behind(next).map(|first| first.committed_at));
    let ages: Vec<_> = ages.collect();
    for (segment, age) in segments.iter().zip(ages) {
        let is_old = age.is_some_and(|committed_at| committed_at < horizon);
        if is_old && segment.end() <= low && !waiting.contains(&segment.base) {
            tracing::info!(file = %segment.path.display(), "dropping a segment past retention");
            let (mut carried, until) = sum_up(segment)?;
            carried.settled.retain(|(position, _)| core.segments.at(*position).is_some());
            core.notes.add(Note { base: segment.base, until, carried })?;
            core.segments.remove(segment.base)?;
        }
    }
    core.drop_granules_before(first_base(core));
    Ok(())
}

fn first_base(core: &Core) -> u64 {
    core.segments.all().first().map_or(0, |segment| segment.base)
}

/// Drops from the index what is older than retention, and takes in what dropped segments held.
pub(super) fn tidy(core: &Core) -> Result<(), IndexError> {
    let is_stored = |position| core.segments.at(position).is_some();
    core.notes.take(|notes| note_down(core, notes))?;
    let before = (core.ago(core.options.keys_ttl), core.ago(core.options.retention));
    core.index.retain(core.clock.now(), before, first_base(core), is_stored)?;
    core.forget_canceled(core.clock.now());
    fold(core)?;
    let dropped = core.index.drop_dead(core.ago(core.options.dead_letter_retention))?;
    if dropped > 0 {
        tracing::warn!(dropped, "dead letters past store.dead_letter_retention are gone");
    }
    Ok(())
}

fn note_down(core: &Core, notes: &[Note]) -> Result<(), IndexError> {
    let txn = core.index.begin_behind()?;
    {
        let mut table = txn.open_table(CARRIED)?;
        for Note { base, until, carried } in notes {
            let bytes = postcard::to_allocvec(carried).unwrap_or_default();
            table.insert(base, bytes.as_slice())?;
            let orgs = carried.sums.keys().map(|org| OrganizationId(*org));
            outcomes::forget(&txn, orgs, *until, |at| core.segments.at(at).is_some())?;
        }
    }
    txn.commit()?;
    Ok(())
}

/// Adds the sums of segments long gone together, so that there are not ever more rows.
fn fold(core: &Core) -> Result<(), IndexError> {
    let mut gone = Vec::new();
    for row in core.index.database.begin_read()?.open_table(CARRIED)?.iter()? {
        let (base, _) = row?;
        let base = base.value();
        if base != ALL_BEFORE && core.segments.at(base).is_none_or(|s| s.base != base) {
            gone.push(base);
        }
    }
    // What is noted yet may be taken in again, under its own base.
    if gone.len() <= APART || core.notes.standing(|notes| !notes.is_empty()) {
        return Ok(());
    }
    let txn = core.index.begin_behind()?;
    {
        let mut table = txn.open_table(CARRIED)?;
        let mut all = Carried::default();
        for base in gone.into_iter().chain([ALL_BEFORE]) {
            if let Some(row) = table.remove(base)? {
                all.add(postcard::from_bytes(row.value()).unwrap_or_default());
            }
        }
        all.settled.retain(|(position, _)| core.segments.at(*position).is_some());
        let bytes = postcard::to_allocvec(&all).unwrap_or_default();
        table.insert(ALL_BEFORE, bytes.as_slice())?;
    }
    txn.commit()?;
    Ok(())
}
