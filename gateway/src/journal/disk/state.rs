//! What the journal knows in memory of one shard: what is unclaimed, leased, half done.
//!
//! Everything here is bounded by what is in flight, not by the backlog: unclaimed blocks are
//! remembered one by one only near the head (`QUEUE_MAX`), the rest is found by scanning.
//! Changes are applied in position order by the writer (live) and by recovery (replay), so a
//! snapshot taken between two blocks plus the blocks after it give the same state again.

use super::record::{AmendRecord, Record, Records, SettleRecord};
use crate::journal::{Amendment, Backlog, Cancellation, EntryKind, Reserved};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// Unclaimed blocks remembered one by one; further ones are found by scanning.
const QUEUE_MAX: usize = 1024;
/// Due timers loaded ahead of their claim.
pub(super) const TIMERS_LOADED_MAX: usize = 512;

/// One unclaimed block. `hot` is its payload while memory for it is granted.
#[derive(Debug)]
pub(super) struct BlockRef {
    pub(super) position: u64,
    pub(super) hot: Option<(Bytes, Millis)>,
}

/// An entry named by where it stands.
pub(super) type Place = (u64, u32);

/// What a listed root is found by.
pub(super) type ListedKey = (OrganizationId, NotificationId);

/// The listed roots among the entries of the block at `position`, and where they stand.
pub(super) fn listed_places(
    position: u64,
    entries: &[EntryMark],
) -> impl Iterator<Item = (ListedKey, Place)> {
    let listed = (0u32..).zip(entries).filter(|(_, entry)| entry.kind == EntryKind::Listed);
    listed.map(move |(index, entry)| ((entry.org, entry.notification), (position, index)))
}

#[derive(Clone, Copy, Debug)]
pub(super) struct TimerRef {
    pub(super) due: Millis,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) lease: u64,
    pub(super) until: Millis,
    /// 0 for an entry claimed from the log.
    pub(super) due: Millis,
    pub(super) bytes: u64,
    /// A settlement with `done` is on its way to the disk: nobody else may claim or settle.
    pub(super) closing: bool,
}

/// Progress on a block whose entries are partly done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Unfinished {
    /// Entries that are not timers; unknown until the block was opened.
    immediate: Option<u32>,
    done: HashSet<u32>,
}

/// A block being claimed entry by entry.
#[derive(Debug)]
pub(super) struct OpenBlock {
    pub(super) position: u64,
    pub(super) entries: VecDeque<(u32, crate::journal::Entry)>,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) queue: VecDeque<BlockRef>,
    /// Blocks at or past this position are not in `queue`.
    pub(super) scan_from: Option<u64>,
    pub(super) open: Option<OpenBlock>,
    pub(super) in_flight: HashMap<Place, InFlight>,
    pub(super) partial: HashMap<Place, Vec<DeliveryId>>,
    pub(super) timers_ready: VecDeque<TimerRef>,
    pub(super) timers_loaded: HashSet<Place>,
    pub(super) reclaim: VecDeque<TimerRef>,
    pub(super) leases: u64,
    pub(super) next_lease_check: Millis,
    /// One past the last block of this shard that was applied; scans stop here.
    pub(super) applied_end: u64,
    unfinished: BTreeMap<u64, Unfinished>,
    /// Change entries not yet done.
    pub(super) changes: BTreeSet<Place>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Counts {
    pending: u64,
    timers: u64,
    bytes: u64,
}

/// What survives in a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ShardSnapshot {
    cursor: u64,
    unfinished: BTreeMap<u64, Unfinished>,
    partial: Vec<(Place, Vec<DeliveryId>)>,
    changes: BTreeSet<Place>,
    counts: Counts,
}

/// An entry as the state needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryMark {
    pub(super) notification: NotificationId,
    pub(super) org: OrganizationId,
    pub(super) kind: EntryKind,
    pub(super) due: Millis,
    pub(super) bytes: u64,
}

/// The parts of one block that change state.
#[derive(Debug, Default)]
pub(super) struct BlockMarks {
    pub(super) entries: Vec<EntryMark>,
    pub(super) settles: Vec<SettleRecord>,
    pub(super) idempotency: Vec<crate::journal::IdempotencyRecord>,
    pub(super) amends: Vec<AmendMark>,
    pub(super) cancels: Vec<Cancellation>,
}

/// A delivery amended, and the right to do so, kept until the index shows it.
#[derive(Debug)]
pub(super) struct AmendMark {
    pub(super) record: AmendRecord,
    pub(super) held: Option<Reserved>,
}

impl AmendMark {
    pub(super) fn of(amendment: Amendment) -> Self {
        let Amendment { delivery, notification, org, from, carrier, event, held } = amendment;
        let is_reopened = carrier.is_some();
        let record = AmendRecord { delivery, notification, org, from, is_reopened, event };
        Self { record, held: Some(held) }
    }
}

impl BlockMarks {
    /// Decodes a checked payload; `None` if it holds something that is no record.
    pub(super) fn decode(payload: Bytes) -> Option<Self> {
        let mut marks = Self::default();
        for record in Records::new(payload) {
            match record? {
                Record::Entry(entry) => marks.entries.push(EntryMark {
                    notification: entry.notification,
                    org: entry.org,
                    kind: entry.kind,
                    due: entry.due,
                    bytes: entry.payload.len() as u64,
                }),
                Record::Settle(settle) => marks.settles.push(settle),
                Record::Idempotency(record) => marks.idempotency.push(record),
                Record::Amend(record) => marks.amends.push(AmendMark { record, held: None }),
                Record::Cancel(cancel) => marks.cancels.push(cancel),
            }
        }
        Some(marks)
    }
}

impl Shard {
    /// A shard as a checkpoint left it; unclaimed blocks are found by scanning from its cursor.
    pub(super) fn restore(snapshot: ShardSnapshot, end: u64) -> Self {
        let queue = snapshot
            .unfinished
            .keys()
            .filter(|position| **position < snapshot.cursor)
            .map(|position| BlockRef { position: *position, hot: None })
            .collect();
        Self {
            queue,
            scan_from: (snapshot.cursor < end).then_some(snapshot.cursor),
            applied_end: end,
            partial: snapshot.partial.into_iter().collect(),
            unfinished: snapshot.unfinished,
            changes: snapshot.changes,
            counts: snapshot.counts,
            ..Self::default()
        }
    }

    /// State for a checkpoint; `end` is the position after the last applied block.
    pub(super) fn snapshot(&self, end: u64) -> ShardSnapshot {
        let queued = self.queue.iter().map(|b| b.position);
        let reopened = |position: &u64| self.unfinished.contains_key(position);
        let cursor = queued
            .filter(|position| !reopened(position))
            .chain(self.scan_from)
            .min()
            .unwrap_or(end);
        ShardSnapshot {
            cursor,
            unfinished: self.unfinished.clone(),
            partial: self.partial.iter().map(|(k, v)| (*k, v.clone())).collect(),
            changes: self.changes.clone(),
            counts: self.counts,
        }
    }

    /// Applies a committed block: new entries become claimable or timers, settlements take effect.
    pub(super) fn apply(
        &mut self,
        block: BlockRef,
        end: u64,
        committed_at: Millis,
        marks: &BlockMarks,
    ) {
        self.applied_end = end;
        let mut immediate = false;
        for (index, entry) in (0u32..).zip(&marks.entries) {
            if entry.kind == EntryKind::Change {
                self.changes.insert((block.position, index));
            }
            self.counts.pending += 1;
            self.counts.bytes += entry.bytes;
            if is_timer(entry.due, committed_at) {
                self.counts.timers += 1;
            } else {
                immediate = true;
            }
        }
        for settle in &marks.settles {
            self.apply_settle(settle);
        }
        if immediate && self.scan_from.is_none() {
            if self.queue.len() < QUEUE_MAX {
                self.queue.push_back(block);
            } else {
                self.scan_from = Some(block.position);
            }
        }
    }

    fn apply_settle(&mut self, settle: &SettleRecord) {
        let place = (settle.position, settle.index);
        if !settle.done {
            let ids = settle.resolved.iter().map(|(delivery, _)| *delivery);
            self.partial.entry(place).or_default().extend(ids);
            return;
        }
        self.partial.remove(&place);
        self.changes.remove(&place);
        let bytes = self.in_flight.remove(&place).map_or(0, |entry| entry.bytes);
        self.counts.pending = self.counts.pending.saturating_sub(1);
        self.counts.bytes = self.counts.bytes.saturating_sub(bytes);
        if settle.due == Millis(0) {
            self.finish(settle.position, settle.index);
        } else {
            // `timers_loaded` keeps the place until the index row is gone, else it would load again.
            self.counts.timers = self.counts.timers.saturating_sub(1);
        }
    }

    fn finish(&mut self, position: u64, index: u32) {
        let block = self.unfinished.entry(position).or_default();
        block.done.insert(index);
        if block.immediate.is_some_and(|all| block.done.len() >= all as usize) {
            self.unfinished.remove(&position);
        }
    }

    /// Takes the entries of a block that are neither timers nor done.
    pub(super) fn open(&mut self, position: u64, committed_at: Millis, payload: Bytes) {
        let all = Records::new(payload).filter_map(|record| match record {
            Some(Record::Entry(entry)) => Some(entry),
            _ => None,
        });
        let immediate: Vec<_> =
            (0u32..).zip(all).filter(|(_, entry)| !is_timer(entry.due, committed_at)).collect();
        let block = self.unfinished.entry(position).or_default();
        block.immediate = Some(u32::try_from(immediate.len()).unwrap_or(u32::MAX));
        let entries: VecDeque<_> =
            immediate.into_iter().filter(|(index, _)| !block.done.contains(index)).collect();
        if entries.is_empty() {
            self.unfinished.remove(&position);
        } else {
            self.open = Some(OpenBlock { position, entries });
        }
    }

    /// Forgets a block that cannot be read, so that the rest of the shard goes on.
    pub(super) fn skip(&mut self, position: u64) {
        self.unfinished.remove(&position);
    }

    /// Lowest position still needed for claims.
    pub(super) fn low_water(&self, end: u64) -> u64 {
        let unfinished = self.unfinished.keys().next().copied();
        let queued = self.queue.front().map(|b| b.position);
        [unfinished, queued, self.scan_from].into_iter().flatten().min().unwrap_or(end)
    }

    /// Moves claims whose lease ran out back to the claimable ones.
    pub(super) fn expire_leases(&mut self, now: Millis) {
        if now < self.next_lease_check {
            return;
        }
        self.next_lease_check = now.plus(500);
        let mut expired: Vec<_> = self
            .in_flight
            .iter()
            .filter(|(_, entry)| entry.until <= now && !entry.closing)
            .map(|(place, entry)| TimerRef { due: entry.due, place: *place })
            .collect();
        expired.sort_unstable_by_key(|timer| timer.place);
        for timer in expired {
            self.in_flight.remove(&timer.place);
            self.reclaim.push_back(timer);
        }
    }

    pub(super) fn backlog(&self) -> Backlog {
        Backlog {
            pending: self.counts.pending,
            claimed: self.in_flight.len() as u64,
            timers: self.counts.timers,
            bytes: self.counts.bytes,
        }
    }
}

/// An entry due after its commit waits in the timer index; all others are claimed from the log.
pub(super) fn is_timer(due: Millis, committed_at: Millis) -> bool {
    due > committed_at
}
