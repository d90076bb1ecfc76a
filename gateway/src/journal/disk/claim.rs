//! Claiming: from the open block, the queue, the log behind it, due timers and lapsed leases.

use super::core::{Cell, Core};
use super::record::{Record, Records};
use super::scan::Scanner;
use super::state::{BlockRef, InFlight, Place, Shard, TIMERS_LOADED_MAX, TimerRef};
use super::writer::NEVER;
use crate::journal::{Claim, ClaimId, Entry};
use crate::model::{Millis, ShardId};

/// Block positions looked up in one scan.
const SCAN_BLOCKS: usize = 256;

impl Core {
    /// Leases what is claimable now, at most `max`.
    pub(super) fn try_claim(&self, shard: ShardId, max: usize) -> Vec<Claim> {
        let Some(cell) = self.shards.get(usize::from(shard.0)) else { return Vec::new() };
        let _gate = cell.gate.lock();
        let now = self.clock.now();
        let mut claims = Vec::new();
        let places: Vec<_> = {
            let mut state = cell.state.lock();
            state.expire_leases(now);
            let again = state.reclaim.len().min(max);
            let mut places: Vec<_> = state.reclaim.drain(..again).collect();
            let due = state.timers_ready.len().min(max - places.len());
            places.extend(state.timers_ready.drain(..due));
            places
        };
        self.claim_places(cell, places, now, &mut claims);
        while claims.len() < max && self.claim_next(cell, max, now, &mut claims) {}
        claims
    }

    /// Claims from the open block or opens the next one; false when nothing is left.
    fn claim_next(&self, cell: &Cell, max: usize, now: Millis, claims: &mut Vec<Claim>) -> bool {
        let mut state = cell.state.lock();
        if let Some(open) = state.open.as_mut() {
            let take = open.entries.len().min(max - claims.len());
            let position = open.position;
            let taken: Vec<_> = open.entries.drain(..take).collect();
            if open.entries.is_empty() {
                state.open = None;
            }
            for (index, entry) in taken {
                let claim = self.lease(&mut state, (position, index), entry, Millis(0), now);
                claims.push(claim);
            }
            return true;
        }
        let Some(block) = state.queue.front() else {
            let Some(from) = state.scan_from else { return false };
            let until = state.applied_end;
            drop(state);
            self.scan(cell, from, until);
            return true;
        };
        let (position, hot) = (block.position, block.hot.clone());
        drop(state);
        let payload = match hot {
            Some((payload, committed_at)) => {
                self.release_hot(payload.len());
                Ok((committed_at, payload))
            }
            None => self.segments.block(position).map(|(header, p)| (header.committed_at, p)),
        };
        let mut state = cell.state.lock();
        state.queue.pop_front();
        match payload {
            Ok((committed_at, payload)) => state.open(position, committed_at, payload),
            Err(error) => {
                tracing::error!(error = %crate::telemetry::chain(&error), position, "a journal block is unreadable and skipped; run `bugler store verify`");
                state.skip(position);
            }
        }
        true
    }

    /// Finds the shard's next blocks between `from` and `until` and queues them.
    fn scan(&self, cell: &Cell, from: u64, until: u64) {
        let shard = self.shards.iter().position(|c| std::ptr::eq(c, cell)).unwrap_or(usize::MAX);
        let mut found = Vec::new();
        let mut scanner = Scanner::new(&self.segments, from);
        let mut next = from;
        while next < until && found.len() < SCAN_BLOCKS {
            let Some(header) = scanner.next_header(until) else {
                next = until;
                break;
            };
            next = header.position + header.block_bytes() as u64;
            if usize::from(header.shard.0) == shard && header.entries > 0 {
                found.push(BlockRef { position: header.position, hot: None });
            }
        }
        let mut state = cell.state.lock();
        state.queue.extend(found);
        state.scan_from = (next < state.applied_end).then_some(next);
    }

    fn claim_places(
        &self,
        cell: &Cell,
        mut places: Vec<TimerRef>,
        now: Millis,
        claims: &mut Vec<Claim>,
    ) {
        places.sort_by_key(|timer| timer.place);
        for group in places.chunk_by(|a, b| a.place.0 == b.place.0) {
            let Some(position) = group.first().map(|timer| timer.place.0) else { continue };
            let payload = match self.segments.block(position) {
                Ok((_, payload)) => payload,
                Err(error) => {
                    tracing::error!(error = %crate::telemetry::chain(&error), position, "a journal block is unreadable; its timers stay unsent");
                    continue;
                }
            };
            let entries = Records::new(payload).filter_map(|record| match record {
                Some(Record::Entry(entry)) => Some(entry),
                _ => None,
            });
            let mut wanted = group.iter().peekable();
            let mut state = cell.state.lock();
            for (index, entry) in (0u32..).zip(entries) {
                let Some(timer) = wanted.next_if(|timer| timer.place.1 == index) else { continue };
                claims.push(self.lease(&mut state, timer.place, entry, timer.due, now));
            }
        }
    }

    pub(super) fn lease(
        &self,
        state: &mut Shard,
        place: Place,
        entry: Entry,
        due: Millis,
        now: Millis,
    ) -> Claim {
        state.leases += 1;
        let lease = state.leases;
        let until = now.plus(u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX));
        let bytes = entry.payload.len() as u64;
        state.in_flight.insert(place, InFlight { lease, until, due, bytes, closing: false });
        Claim {
            id: ClaimId { position: place.0, index: place.1, lease },
            notification: entry.notification,
            org: entry.org,
            kind: entry.kind,
            payload: entry.payload,
            settled: state.partial.get(&place).cloned().unwrap_or_default(),
        }
    }

    /// Loads due timers of every shard that has some; called by the timer thread.
    pub(super) fn load_timers(&self, now: Millis) {
        for (number, cell) in (0u16..).zip(&self.shards) {
            {
                let mut next = cell.next_due.lock();
                if *next > now {
                    continue;
                }
                *next = NEVER;
            }
            let shard = ShardId(number);
            let room = TIMERS_LOADED_MAX.saturating_sub(cell.state.lock().timers_loaded.len());
            let loaded = cell.state.lock().timers_loaded.clone();
            let due = self.index.due(shard, now, room, |place| loaded.contains(&place));
            let next = match &due {
                Ok(due) if due.len() < room => self.index.first_due_after(shard, now),
                _ => Ok(Some(now)),
            };
            {
                let mut state = cell.state.lock();
                for (due, place) in due.unwrap_or_default() {
                    if state.timers_loaded.insert(place) {
                        state.timers_ready.push_back(TimerRef { due, place });
                    }
                }
            }
            if let Ok(Some(next)) = next {
                let mut due = cell.next_due.lock();
                *due = (*due).min(next);
            }
            cell.notify.notify_one();
        }
    }
}
