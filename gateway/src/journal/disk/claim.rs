//! Claiming: whose turn it is, leasing, and reading what was leased.

use super::core::{Cell, Core};
use crate::journal::record::{HEADER_BYTES, read_entry};
use crate::journal::shard::line::Ticket;
use crate::journal::{Claim, ClaimId, Room};
use crate::model::{DeliveryId, Millis, OrganizationId, ShardId};
use bytes::Bytes;

/// Entries that lie closer together than this are read at once, up to `RUN_BYTES_MAX`.
const GAP_BYTES_MAX: u64 = 4 << 10;
const RUN_BYTES_MAX: u64 = 256 << 10;

/// An entry under a lease, on its way to become a claim.
struct Leased {
    org: OrganizationId,
    ticket: Ticket,
    lease: u64,
    settled: Vec<DeliveryId>,
    record: Option<Bytes>,
}

impl Leased {
    /// Where its record begins.
    fn at(&self) -> u64 {
        let spot = &self.ticket.spot;
        spot.position + HEADER_BYTES as u64 + u64::from(spot.extent.offset)
    }

    fn end(&self) -> u64 {
        self.at() + u64::from(self.ticket.spot.extent.bytes)
    }
}

impl Core {
    /// Leases what is claimable now, at most `max`.
    pub(super) fn try_claim(&self, shard: ShardId, max: usize, room: &dyn Room) -> Vec<Claim> {
        let Some(cell) = self.shards.get(usize::from(shard.0)) else { return Vec::new() };
        let _gate = cell.gate.lock();
        let now = self.clock.now();
        let steady = self.clock.steady();
        let until = self.lease_until(steady);
        let (early, mut leased, is_hungry) = {
            let mut state = cell.state.lock();
            let early = state.expire_leases(now, steady);
            let picked = state.lines.pick(max, room);
            let mut leased = Vec::with_capacity(picked.len());
            for (org, ticket) in picked {
                let (lease, record) = state.lease(org, ticket, until);
                let settled = state.partial.get(&ticket.spot.place()).cloned().unwrap_or_default();
                leased.push(Leased { org, ticket, lease, settled, record });
            }
            (early, leased, state.lines.is_hungry())
        };
        if !early.is_empty() {
            let mut alarms = cell.alarms.lock();
            early.into_iter().for_each(|(org, due)| alarms.set(org, due));
        }
        if is_hungry {
            self.bell.ring();
        }
        self.read(&mut leased);
        leased.into_iter().filter_map(|leased| self.finish_claim(cell, leased)).collect()
    }

    pub(super) fn lease_until(&self, now: Millis) -> Millis {
        now.plus(u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads the records that are not in memory, neighbours together.
    fn read(&self, leased: &mut [Leased]) {
        let mut cold: Vec<_> = leased.iter_mut().filter(|leased| leased.record.is_none()).collect();
        cold.sort_unstable_by_key(|leased| leased.at());
        let mut rest = cold.as_mut_slice();
        while let Some(first) = rest.first() {
            let start = first.at();
            let Some(segment) = self.segments.at(start) else {
                rest = rest.get_mut(1..).unwrap_or_default();
                continue;
            };
            let (mut end, mut many) = (start, 0);
            for leased in rest.iter() {
                let is_near = leased.at() <= end + GAP_BYTES_MAX;
                let fits = leased.end() <= segment.end().min(start + RUN_BYTES_MAX);
                if many > 0 && !(is_near && fits) {
                    break;
                }
                end = end.max(leased.end());
                many += 1;
            }
            let (run, others) = rest.split_at_mut(many);
            rest = others;
            let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
            match segment.read(start, &mut bytes) {
                Ok(read) => bytes.truncate(read),
                Err(error) => {
                    tracing::error!(%error, file = %segment.path.display(), "journal entries cannot be read");
                    continue;
                }
            }
            let bytes = Bytes::from(bytes);
            for leased in run {
                let from = usize::try_from(leased.at() - start).unwrap_or(usize::MAX);
                let until = usize::try_from(leased.end() - start).unwrap_or(usize::MAX);
                leased.record = (until <= bytes.len()).then(|| bytes.slice(from..until));
            }
        }
    }

    fn finish_claim(&self, cell: &Cell, leased: Leased) -> Option<Claim> {
        let Leased { org, ticket, lease, settled, record } = leased;
        let (position, index) = ticket.spot.place();
        let entry = record.and_then(|record| read_entry(record, ticket.spot.extent));
        let Some(entry) = entry.filter(|entry| entry.org == org) else {
            tracing::error!(
                position,
                index,
                "a journal entry is unreadable and set aside; run `bugler store verify`"
            );
            cell.state.lock().set_aside(ticket.spot.place());
            return None;
        };
        Some(Claim {
            id: ClaimId { position, index, lease },
            notification: entry.notification,
            org,
            kind: entry.kind,
            payload: entry.payload,
            settled,
        })
    }
}
