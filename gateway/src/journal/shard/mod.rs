//! What the journal knows in memory of one shard: what is unclaimed, leased, half done.
//!
//! Everything here is bounded by what is in flight, by `DiskOptions::places` and by the number of
//! organizations with something pending, not by the backlog. Of each organization the log is known
//! up to a cursor: what lies before it was claimed (and is done, in flight or free again), what lies
//! behind it was not. So a checkpoint needs one cursor for each organization and the entries that
//! are claimed and not done, whatever the order in which organizations were served.
//! Changes are applied in position order by the writer (live) and by recovery (replay), so a
//! snapshot taken between two blocks plus the blocks after it give the same state again.

pub(in crate::journal) mod alarms;
pub(in crate::journal) mod line;
pub(in crate::journal) mod lines;

use super::record::{AmendRecord, Extent, Located, Record, SettleRecord};
use super::{Amendment, Backlog, Cancellation, Entry, EntryKind, Reserved, Settlement};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId};
use bytes::Bytes;
use line::{Class, Counts, Line, Spot, Ticket};
use lines::{Finished, Lines, Stretch};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Entries and blocks of a shard that were found unreadable and are told apart.
const DAMAGED_MAX: usize = 1024;

/// A committed block. `hot` is its payload and when it was committed.
#[derive(Debug)]
pub(in crate::journal) struct BlockRef {
    pub(in crate::journal) position: u64,
    pub(in crate::journal) hot: Option<(Bytes, Millis)>,
}

/// An entry named by where it stands.
pub(in crate::journal) type Place = (u64, u32);

/// What a listed root is found by.
pub(in crate::journal) type ListedKey = (OrganizationId, NotificationId);

/// The listed roots among the entries of the block at `position`, and where they stand.
pub(in crate::journal) fn listed_places(
    position: u64,
    entries: &[EntryMark],
) -> impl Iterator<Item = (ListedKey, Place)> {
    let listed = (0u32..).zip(entries).filter(|(_, entry)| entry.kind == EntryKind::Listed);
    listed.map(move |(index, entry)| ((entry.org, entry.notification), (position, index)))
}

#[derive(Debug)]
pub(in crate::journal) struct InFlight {
    pub(in crate::journal) lease: u64,
    pub(in crate::journal) until: Millis,
    pub(in crate::journal) org: OrganizationId,
    pub(in crate::journal) ticket: Ticket,
    /// A settlement with `done` is on its way to the disk: nobody else may claim or settle.
    pub(in crate::journal) closing: bool,
    /// Other settlements on their way. Who claimed it again now would not know of them.
    pub(in crate::journal) settling: u32,
}

#[derive(Debug, Default)]
pub(in crate::journal) struct Shard {
    pub(in crate::journal) lines: Lines,
    pub(in crate::journal) in_flight: HashMap<Place, InFlight>,
    pub(in crate::journal) partial: HashMap<Place, Vec<DeliveryId>>,
    /// Timers that were taken from the index and whose rows are still there.
    pub(in crate::journal) timers_loaded: BTreeSet<(OrganizationId, Place)>,
    pub(in crate::journal) leases: u64,
    pub(in crate::journal) next_lease_check: Millis,
    /// One past the last block of this shard that was applied.
    pub(in crate::journal) applied_end: u64,
    /// Change entries not yet done.
    pub(in crate::journal) changes: BTreeSet<Place>,
    hot: Hot,
    damaged: BTreeMap<Place, Damaged>,
    unreadable: u64,
    /// Lines have passed blocks that could not be read.
    has_skipped: bool,
    counts: Counts,
}

/// What is unreadable: an entry that was claimed, or a whole block.
#[derive(Clone, Copy, Debug)]
struct Damaged(Option<(OrganizationId, Spot)>);

/// Payloads of new blocks, so that a claimer that keeps up reads no disk; the newest are kept.
#[derive(Debug, Default)]
struct Hot {
    blocks: BTreeMap<u64, (Bytes, u32)>,
    bytes: usize,
}

impl Hot {
    fn keep(&mut self, position: u64, payload: Bytes, waiting: u32, max: usize) {
        self.bytes += payload.len();
        self.blocks.insert(position, (payload, waiting));
        while self.bytes > max
            && let Some((_, (payload, _))) = self.blocks.pop_first()
        {
            self.bytes -= payload.len();
        }
    }

    /// The record of an entry that is claimed now. A copy, since whole blocks would live as long.
    fn take(&mut self, spot: &Spot) -> Option<Bytes> {
        let (payload, waiting) = self.blocks.get_mut(&spot.position)?;
        let (start, bytes) = (spot.extent.offset as usize, spot.extent.bytes as usize);
        let record = payload.get(start..start + bytes).map(Bytes::copy_from_slice);
        *waiting = waiting.saturating_sub(1);
        if *waiting == 0
            && let Some((payload, _)) = self.blocks.remove(&spot.position)
        {
            self.bytes -= payload.len();
        }
        record
    }
}

/// What survives in a checkpoint.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct ShardSnapshot {
    lines: Vec<LineSnapshot>,
    /// Claimed from the log and not done.
    open: Vec<(OrganizationId, Spot)>,
    partial: Vec<(Place, Vec<DeliveryId>)>,
    changes: BTreeSet<Place>,
    /// Lines have passed blocks that could not be read: the next start reads the log again.
    pub(in crate::journal) has_skipped: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LineSnapshot {
    org: OrganizationId,
    counts: Counts,
    cursor: Option<Place>,
    done: Vec<Place>,
}

/// An entry as the state needs it.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct EntryMark {
    pub(in crate::journal) notification: NotificationId,
    pub(in crate::journal) org: OrganizationId,
    pub(in crate::journal) kind: EntryKind,
    pub(in crate::journal) due: Millis,
    pub(in crate::journal) extent: Extent,
}

impl EntryMark {
    /// The entry at `index` of the block at `position` as a timer.
    pub(in crate::journal) fn ticket(&self, position: u64, index: u32) -> Ticket {
        let spot = Spot { position, index, extent: self.extent };
        Ticket { spot, due: self.due, class: class(self.kind) }
    }
}

/// Which share of a claim a timer counts to.
pub(in crate::journal) fn class(kind: EntryKind) -> Class {
    if kind == EntryKind::FollowUp { Class::Again } else { Class::First }
}

/// The parts of one block that change state.
#[derive(Debug, Default)]
pub(in crate::journal) struct BlockMarks {
    pub(in crate::journal) entries: Vec<EntryMark>,
    pub(in crate::journal) settles: Vec<SettleRecord>,
    pub(in crate::journal) idempotency: Vec<crate::journal::IdempotencyRecord>,
    pub(in crate::journal) amends: Vec<AmendMark>,
    pub(in crate::journal) cancels: Vec<Cancellation>,
}

/// A delivery amended, and the right to do so, kept until the index shows it.
#[derive(Debug)]
pub(in crate::journal) struct AmendMark {
    pub(in crate::journal) record: AmendRecord,
    #[expect(dead_code, reason = "kept for its drop, which gives the right back")]
    pub(in crate::journal) held: Option<Reserved>,
}

impl AmendMark {
    pub(in crate::journal) fn of(amendment: Amendment) -> Self {
        let Amendment { delivery, notification, org, from, carrier, event, held, .. } = amendment;
        let is_reopened = carrier.is_some();
        let record = AmendRecord { delivery, notification, org, from, is_reopened, event };
        Self { record, held: Some(held) }
    }
}

impl BlockMarks {
    /// Decodes a checked payload; `None` if it holds something that is no record.
    pub(in crate::journal) fn decode(payload: Bytes) -> Option<Self> {
        let mut marks = Self::default();
        for (extent, record) in Located::new(payload) {
            match record? {
                Record::Entry(entry) => marks.entries.push(EntryMark {
                    notification: entry.notification,
                    org: entry.org,
                    kind: entry.kind,
                    due: entry.due,
                    extent,
                }),
                Record::Settle(settle) => marks.settles.push(settle),
                Record::Idempotency(record) => marks.idempotency.push(record),
                Record::Amend(record) => marks.amends.push(AmendMark { record, held: None }),
                Record::Cancel(cancel) => marks.cancels.push(cancel),
            }
        }
        Some(marks)
    }

    /// Drops everything but what timers need, for blocks whose other rows the index has.
    pub(in crate::journal) fn keep_timers(&mut self) {
        self.idempotency.clear();
        self.amends.clear();
        self.cancels.clear();
        self.settles.retain(|settle| settle.done && settle.due != Millis(0));
        for settle in &mut self.settles {
            settle.resolved.clear();
            settle.events.clear();
            settle.dead.clear();
        }
    }

    /// Adds those of a part of the block that starts at `offset` of its payload.
    pub(in crate::journal) fn absorb(&mut self, mut part: Self, offset: usize) {
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        for entry in &mut part.entries {
            entry.extent.offset = entry.extent.offset.saturating_add(offset);
        }
        self.entries.append(&mut part.entries);
        self.settles.append(&mut part.settles);
        self.idempotency.append(&mut part.idempotency);
        self.amends.append(&mut part.amends);
        self.cancels.append(&mut part.cancels);
    }
}

impl Shard {
    /// An empty shard that remembers up to `places` unclaimed entries.
    pub(in crate::journal) fn new(places: usize) -> Self {
        Self { lines: Lines::new(places), ..Self::default() }
    }

    /// A shard as a checkpoint left it; what is unclaimed is found again from its cursors.
    pub(in crate::journal) fn restore(snapshot: ShardSnapshot, end: u64, places: usize) -> Self {
        let mut shard = Self {
            applied_end: end,
            partial: snapshot.partial.into_iter().collect(),
            changes: snapshot.changes,
            ..Self::new(places)
        };
        for line in snapshot.lines {
            shard.counts.pending += line.counts.pending;
            shard.counts.timers += line.counts.timers;
            shard.counts.bytes += line.counts.bytes;
            shard.lines.restore(line.org, line.counts, line.cursor, line.done);
        }
        for (org, spot) in snapshot.open {
            shard.lines.lapse(org, Ticket::from_log(spot));
        }
        shard
    }

    /// A shard as its new owner finds it: what is pending of each organization, all of it behind
    /// `cursor`. Leases are numbered from `leases` on.
    pub(in crate::journal) fn adopted(
        places: usize,
        (end, cursor): (u64, Option<Place>),
        pending: impl IntoIterator<Item = (OrganizationId, Counts)>,
        leases: u64,
    ) -> Self {
        let mut shard = Self { applied_end: end, leases, ..Self::new(places) };
        for (org, counts) in pending {
            shard.counts.pending += counts.pending;
            shard.counts.timers += counts.timers;
            shard.counts.bytes += counts.bytes;
            shard.lines.restore(org, counts, cursor, []);
        }
        shard
    }

    /// State for a checkpoint, as of the last block that was applied.
    pub(in crate::journal) fn snapshot(&self) -> ShardSnapshot {
        let mut open: Vec<_> = self.open_in_flight().collect();
        open.extend(self.damaged.values().filter_map(|damaged| damaged.0));
        let mut lines = Vec::new();
        for (org, line) in self.lines.iter() {
            open.extend(line.lapsed.values().map(|spot| (org, *spot)));
            lines.push(LineSnapshot {
                org,
                counts: line.counts,
                cursor: line.cursor(),
                done: line.done.iter().copied().collect(),
            });
        }
        // So that the same state is the same bytes.
        lines.sort_unstable_by_key(|line| line.org);
        open.sort_unstable_by_key(|(_, spot)| spot.place());
        let mut partial: Vec<_> = self.partial.iter().map(|(k, v)| (*k, v.clone())).collect();
        partial.sort_unstable_by_key(|(place, _)| *place);
        let (changes, has_skipped) = (self.changes.clone(), self.has_skipped);
        ShardSnapshot { lines, open, partial, changes, has_skipped }
    }

    fn open_in_flight(&self) -> impl Iterator<Item = (OrganizationId, Spot)> {
        let from_log = self.in_flight.values().filter(|held| !held.ticket.is_timer());
        from_log.map(|held| (held.org, held.ticket.spot))
    }

    /// Applies a committed block: new entries become claimable or timers, settlements take effect.
    /// `hot_max` bounds the payloads kept in memory. `measure` tells the payload bytes of an entry
    /// that a settlement names and that nothing here knows, which only happens while replaying.
    pub(in crate::journal) fn apply(
        &mut self,
        block: BlockRef,
        end: u64,
        marks: &BlockMarks,
        (committed_at, hot_max): (Millis, usize),
        measure: &mut dyn FnMut(Place) -> Option<u64>,
    ) {
        self.applied_end = end;
        let mut waiting = 0;
        for (index, entry) in (0u32..).zip(&marks.entries) {
            if entry.kind == EntryKind::Change {
                self.changes.insert((block.position, index));
            }
            let (bytes, is_timer) =
                (entry.extent.payload_bytes(), is_timer(entry.due, committed_at));
            self.counts.pending += 1;
            self.counts.bytes += bytes;
            self.counts.timers += u64::from(is_timer);
            self.lines.count(entry.org, bytes, is_timer);
            if !is_timer {
                let spot = Spot { position: block.position, index, extent: entry.extent };
                waiting += u32::from(self.lines.offer(entry.org, spot));
            }
        }
        for settle in &marks.settles {
            self.apply_settle(settle, measure);
        }
        if let Some((payload, _)) = block.hot.filter(|_| waiting > 0) {
            self.hot.keep(block.position, payload, waiting, hot_max);
        }
    }

    fn apply_settle(
        &mut self,
        settle: &SettleRecord,
        measure: &mut dyn FnMut(Place) -> Option<u64>,
    ) {
        let place = (settle.position, settle.index);
        if !settle.done {
            let ids = settle.resolved.iter().map(|(delivery, _)| *delivery);
            self.partial.entry(place).or_default().extend(ids);
            if let Some(held) = self.in_flight.get_mut(&place) {
                held.settling = held.settling.saturating_sub(1);
            }
            return;
        }
        self.partial.remove(&place);
        self.changes.remove(&place);
        let is_timer = settle.due != Millis(0);
        let bytes = match self.in_flight.remove(&place) {
            Some(held) => {
                self.lines.unclaim(held.org, &held.ticket, false);
                Some(held.ticket.spot.extent.payload_bytes())
            }
            // `timers_loaded` keeps the place until the index row is gone, else it would load again.
            None if is_timer => measure(place),
            None => match self.lines.finish(settle.org, place) {
                Finished::Known(spot) => Some(spot.extent.payload_bytes()),
                Finished::Ahead => Some(measure(place).unwrap_or(0)),
                Finished::Unknown => None,
            },
        };
        let Some(bytes) = bytes else { return };
        self.counts.pending = self.counts.pending.saturating_sub(1);
        self.counts.bytes = self.counts.bytes.saturating_sub(bytes);
        self.counts.timers = self.counts.timers.saturating_sub(u64::from(is_timer));
        self.lines.uncount(settle.org, bytes, is_timer);
    }

    /// Leases an entry; its record, too, if that is in memory.
    pub(in crate::journal) fn lease(
        &mut self,
        org: OrganizationId,
        ticket: Ticket,
        until: Millis,
    ) -> (u64, Option<Bytes>) {
        self.leases += 1;
        let lease = self.leases;
        let place = ticket.spot.place();
        let record = if ticket.is_timer() { None } else { self.hot.take(&ticket.spot) };
        self.in_flight
            .insert(place, InFlight { lease, until, org, ticket, closing: false, settling: 0 });
        (lease, record)
    }

    /// Takes a lease back that nobody was told of.
    pub(in crate::journal) fn unlease(&mut self, place: Place, lease: u64) {
        if self.in_flight.get(&place).is_none_or(|held| held.lease != lease) {
            return;
        }
        if let Some(held) = self.in_flight.remove(&place) {
            self.lines.unclaim(held.org, &held.ticket, false);
            self.lines.lapse(held.org, held.ticket);
        }
    }

    /// Sets an entry aside that was leased and cannot be read: it stays pending, unclaimed.
    pub(in crate::journal) fn set_aside(&mut self, place: Place) {
        let Some(held) = self.in_flight.remove(&place) else { return };
        self.lines.unclaim(held.org, &held.ticket, true);
        self.unreadable += 1;
        let entry = (!held.ticket.is_timer()).then_some((held.org, held.ticket.spot));
        self.damaged.insert(place, Damaged(entry));
    }

    /// Counts a block of `entries` that cannot be read; false if it is known.
    pub(in crate::journal) fn note_unreadable(&mut self, position: u64, entries: u32) -> bool {
        let place = (position, u32::MAX);
        self.has_skipped = true;
        if self.damaged.contains_key(&place) || self.damaged.len() >= DAMAGED_MAX {
            return false;
        }
        self.unreadable += u64::from(entries);
        self.damaged.insert(place, Damaged(None));
        true
    }

    /// Lowest position still needed for claims.
    pub(in crate::journal) fn low_water(&self, end: u64) -> u64 {
        let lines = self.lines.iter().filter_map(|(_, line)| line.low_water());
        let open = self.open_in_flight().map(|(_, spot)| spot.position);
        let damaged = self.damaged.keys().map(|(position, _)| *position);
        lines.chain(open).chain(damaged).min().unwrap_or(end)
    }

    /// Moves claims whose lease ran out back to the claimable ones. Answers the timers among them
    /// whose time has not come: they wait in the index again.
    pub(in crate::journal) fn expire_leases(
        &mut self,
        now: Millis,
        steady: Millis,
    ) -> Vec<(OrganizationId, Millis)> {
        if steady < self.next_lease_check {
            return Vec::new();
        }
        self.next_lease_check = steady.plus(500);
        let mut expired: Vec<_> = self
            .in_flight
            .iter()
            .filter(|(_, held)| held.until <= steady && !held.closing && held.settling == 0)
            .map(|(_, held)| (held.org, held.ticket))
            .collect();
        expired.sort_unstable_by_key(|(_, ticket)| (ticket.due, ticket.spot.place()));
        let mut early = Vec::new();
        for (org, ticket) in expired {
            self.in_flight.remove(&ticket.spot.place());
            self.lines.unclaim(org, &ticket, false);
            if ticket.due > now {
                self.timers_loaded.remove(&(org, ticket.spot.place()));
                early.push((org, ticket.due));
            } else {
                self.lines.lapse(org, ticket);
            }
        }
        early
    }

    /// Timers of `org` that need not be loaded.
    pub(in crate::journal) fn timers_loaded_of(&self, org: OrganizationId) -> HashSet<Place> {
        let all = (org, (0, 0))..=(org, (u64::MAX, u32::MAX));
        self.timers_loaded.range(all).map(|(_, place)| *place).collect()
    }

    /// Refills lines from a stretch of the log; false if there was no place for anything.
    pub(in crate::journal) fn take_in(&mut self, stretch: &Stretch) -> bool {
        for (position, entries) in &stretch.unreadable {
            if self.note_unreadable(*position, *entries) {
                tracing::error!(
                    position,
                    entries,
                    "a journal block is unreadable and skipped; run `bugler store verify`"
                );
            }
        }
        let is_end = stretch.next >= self.applied_end;
        self.lines.merge(stretch, is_end)
    }

    pub(in crate::journal) fn backlog(&self) -> Backlog {
        Backlog {
            pending: self.counts.pending,
            claimed: self.in_flight.len() as u64,
            timers: self.counts.timers,
            bytes: self.counts.bytes,
            unreadable: self.unreadable,
        }
    }

    pub(in crate::journal) fn backlog_of(&self, org: OrganizationId) -> Backlog {
        self.lines.get(org).map(Line::backlog).unwrap_or_default()
    }
}

/// An entry due after its commit waits in the timer index; all others are claimed from the log.
pub(in crate::journal) fn is_timer(due: Millis, committed_at: Millis) -> bool {
    due > committed_at
}

/// Adds a settlement that is to be in a block; `due` is that of a claimed timer, else 0.
pub(in crate::journal) fn mark_settlement(
    settlement: Settlement,
    due: Millis,
    extents: Vec<Extent>,
    marks: &mut BlockMarks,
) {
    marks.entries.extend(settlement.follow_ups.iter().zip(extents).map(entry_mark));
    marks.settles.push(SettleRecord {
        position: settlement.claim.position,
        index: settlement.claim.index,
        due,
        done: settlement.done,
        notification: settlement.notification,
        org: settlement.org,
        resolved: settlement.resolved,
        events: settlement.events,
        dead: settlement.dead,
    });
}

pub(in crate::journal) fn entry_mark((entry, extent): (&Entry, Extent)) -> EntryMark {
    EntryMark {
        notification: entry.notification,
        org: entry.org,
        kind: entry.kind,
        due: entry.due,
        extent,
    }
}
