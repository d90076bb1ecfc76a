//! What is kept of a segment when retention drops it: its sums, so that the books still add up.

use super::core::Core;
use super::index::IndexError;
use super::outcomes;
use super::segment::Segment;
use crate::journal::record::{HEADER_BYTES, Record, Records, SettleRecord, read_block};
use crate::journal::shard::Place;
use crate::journal::{Books, Resolution, SettledPlace};
use crate::model::{FinalState, OrganizationId};
use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// base of a dropped segment 8 → sums as postcard; under the largest base, those of all before
const CARRIED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("carried");
/// Segments whose sums are kept apart: so many may go in one run of retention.
const APART: usize = 1_024;
const ALL_BEFORE: u64 = u64::MAX;

/// One organization's part of the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    pub accepted: u64,
    /// By the state they are in now; may be negative for a part of the log.
    pub finals: [i64; 6],
    pub dead_letters: u64,
    pub reopened: [u64; 6],
    pub discarded: u64,
}

impl Sums {
    pub(super) fn add_settle(&mut self, settle: &SettleRecord) {
        self.dead_letters += settle.dead.len() as u64;
        for (_, resolution) in &settle.resolved {
            if let Resolution::Final(state) = resolution {
                self.end(*state);
            }
        }
    }

    /// Counts a delivery that ended.
    pub fn end(&mut self, state: FinalState) {
        if let Some(count) = self.finals.get_mut(state as usize) {
            *count += 1;
        }
    }

    /// Counts an amendment of a delivery that had ended in `from`.
    pub fn amend(&mut self, from: FinalState, is_reopened: bool) {
        let slot = from as usize;
        if !is_reopened {
            self.discarded += 1;
        } else if let (Some(is), Some(was)) =
            (self.finals.get_mut(slot), self.reopened.get_mut(slot))
        {
            *is -= 1;
            *was += 1;
        }
    }

    /// Both parts together.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.dead_letters += other.dead_letters;
        self.discarded += other.discarded;
        for (to, from) in self.finals.iter_mut().zip(other.finals) {
            *to += from;
        }
        for (to, from) in self.reopened.iter_mut().zip(other.reopened) {
            *to += from;
        }
    }

    /// As the books say it; `None` if a state has fewer than none.
    #[must_use]
    pub fn books(&self) -> Option<Books> {
        let mut finals = [0; 6];
        for (to, from) in finals.iter_mut().zip(self.finals) {
            *to = u64::try_from(from).ok()?;
        }
        let Self { accepted, dead_letters, reopened, discarded, .. } = *self;
        Some(Books { accepted, finals, dead_letters, reopened, discarded })
    }
}

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
}

pub(super) fn open(txn: &WriteTransaction) -> Result<(), IndexError> {
    txn.open_table(CARRIED)?;
    Ok(())
}

/// What dropped segments held, as of a transaction; `is_stored` says which bases are there yet.
pub(super) fn carried(
    txn: &ReadTransaction,
    is_stored: impl Fn(u64) -> bool,
) -> Result<Carried, IndexError> {
    let mut all = Carried::default();
    for row in txn.open_table(CARRIED)?.iter()? {
        let (base, value) = row?;
        if !is_stored(base.value()) {
            all.add(postcard::from_bytes(value.value()).unwrap_or_default());
        }
    }
    Ok(all)
}

/// What a segment holds that must outlive it, and the rows that go with it.
fn sum_up(segment: &Segment) -> std::io::Result<(Carried, Vec<(OrganizationId, SettledPlace)>)> {
    let mut bytes = vec![0; usize::try_from(segment.capacity).unwrap_or(usize::MAX)];
    let read = segment.read(segment.base, &mut bytes)?;
    bytes.truncate(read);
    let bytes = Bytes::from(bytes);
    let (mut carried, mut rows) = (Carried::default(), Vec::new());
    let mut offset = HEADER_BYTES;
    loop {
        let position = segment.base + offset as u64;
        let rest = bytes.get(offset..).unwrap_or_default();
        let Ok((header, _)) = read_block(rest, position) else { return Ok((carried, rows)) };
        let from = offset + HEADER_BYTES;
        let payload = bytes.slice(from..from + header.payload_bytes as usize);
        let place = SettledPlace { at: header.committed_at, position };
        let mut settles = Vec::new();
        for record in Records::new(payload).flatten() {
            match record {
                Record::Entry(entry) if entry.kind.is_root() => {
                    carried.sums.entry(entry.org.0).or_default().accepted += 1;
                }
                Record::Settle(settle) => settles.push(settle),
                Record::Amend(amend) => {
                    let sums = carried.sums.entry(amend.org.0).or_default();
                    sums.amend(amend.from, amend.is_reopened);
                }
                Record::Entry(_) | Record::Idempotency(_) | Record::Cancel(_) => {}
            }
        }
        for settle in &settles {
            carried.sums.entry(settle.org.0).or_default().add_settle(settle);
            if settle.done && !(segment.base..segment.end()).contains(&settle.position) {
                carried.settled.push((settle.position, settle.index));
            }
        }
        rows.extend(outcomes::states(settles.iter()).into_keys().map(|org| (org, place)));
        offset += header.block_bytes();
    }
}

/// Notes what a segment held, durably, so that its file can go.
pub(super) fn forget(core: &Core, segment: &Segment) -> Result<(), Box<dyn std::error::Error>> {
    let (mut carried, rows) = sum_up(segment)?;
    carried.settled.retain(|(position, _)| core.segments.at(*position).is_some());
    let txn = core.index.database.begin_write().map_err(IndexError::from)?;
    outcomes::forget(&txn, &rows)?;
    {
        let mut table = txn.open_table(CARRIED).map_err(IndexError::from)?;
        let bytes = postcard::to_allocvec(&carried)?;
        table.insert(segment.base, bytes.as_slice()).map_err(IndexError::from)?;
    }
    txn.commit().map_err(IndexError::from)?;
    Ok(())
}

/// Adds the sums of segments long gone together, so that there are not ever more rows.
pub(super) fn fold(core: &Core) -> Result<(), IndexError> {
    let txn = core.index.database.begin_write()?;
    {
        let mut table = txn.open_table(CARRIED)?;
        let mut gone = Vec::new();
        for row in table.iter()? {
            let (base, _) = row?;
            let base = base.value();
            if base != ALL_BEFORE && core.segments.at(base).is_none_or(|s| s.base != base) {
                gone.push(base);
            }
        }
        if gone.len() <= APART {
            return Ok(());
        }
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
