//! Claiming: whose turn it is, leasing, and reading what was leased.

use super::cell::Cell;
use super::core::{Core, unreadable};
use super::reply;
use super::scripts::RECORDS;
use crate::crash::{self, Stage};
use crate::journal::record::read_entry;
use crate::journal::shard::Place;
use crate::journal::shard::line::Ticket;
use crate::journal::{Claim, ClaimId, JournalError, Room};
use crate::model::{DeliveryId, OrganizationId, ShardId};
use crate::redis::Call;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest wait of a claim for lines that are being filled.
const SWEEP_PATIENCE: Duration = Duration::from_millis(50);

/// An entry under a lease, on its way to become a claim.
struct Leased {
    org: OrganizationId,
    ticket: Ticket,
    lease: u64,
    settled: Vec<DeliveryId>,
    record: Option<Bytes>,
}

impl Leased {
    fn place(&self) -> Place {
        self.ticket.spot.place()
    }
}

/// Leases that nobody was told of yet: given back when the claimer goes away.
struct Untold<'a> {
    cell: &'a Cell,
    leased: Vec<Leased>,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if self.leased.is_empty() {
            return;
        }
        let mut state = self.cell.state.lock();
        for leased in &self.leased {
            state.shard.unlease(leased.place(), leased.lease);
        }
        drop(state);
        self.cell.claimers.notify_one();
    }
}

impl Core {
    pub(super) async fn claim(
        &self,
        shard: ShardId,
        max: usize,
        room: &dyn Room,
    ) -> Result<Vec<Claim>, JournalError> {
        let cell = self.cell(shard).ok_or(JournalError::Closed)?;
        loop {
            // Armed before looking, so that a commit in between is not missed.
            let woken = cell.claimers.notified();
            if self.closed.load(Ordering::Acquire) {
                return Err(JournalError::Closed);
            }
            let claims = self.try_claim(cell, max, room).await?;
            if !claims.is_empty() {
                crash::point(Stage::Replied);
                return Ok(claims);
            }
            // Leases run out without a commit, so look again now and then.
            tokio::time::timeout(Duration::from_millis(500), woken).await.ok();
        }
    }

    async fn try_claim(
        &self,
        cell: &Cell,
        max: usize,
        room: &dyn Room,
    ) -> Result<Vec<Claim>, JournalError> {
        let _gate = cell.gate.lock().await;
        self.refill(cell, max).await;
        let now = self.clock.now();
        let steady = self.clock.steady();
        let until = self.lease_until();
        let mut untold = Untold { cell, leased: Vec::new() };
        let (early, is_hungry) = {
            let mut state = cell.state.lock();
            if !state.is_loaded {
                return Ok(Vec::new());
            }
            let early = state.shard.expire_leases(now, steady);
            let picked =
                if state.is_working() { state.shard.lines.pick(max, room) } else { Vec::new() };
            for (org, ticket) in picked {
                let (lease, record) = state.shard.lease(org, ticket, until);
                let settled = state.shard.partial.get(&ticket.spot.place()).cloned();
                let settled = settled.unwrap_or_default();
                untold.leased.push(Leased { org, ticket, lease, settled, record });
            }
            (early, state.shard.lines.is_hungry())
        };
        if !early.is_empty() {
            let mut alarms = cell.alarms.lock();
            early.into_iter().for_each(|(org, due)| alarms.set(org, due));
        }
        if is_hungry {
            cell.keeping.notify_one();
        }
        self.read(cell, &mut untold.leased).await?;
        let leased = std::mem::take(&mut untold.leased);
        Ok(leased.into_iter().filter_map(|leased| finish(cell, leased)).collect())
    }

    /// Gives lines that are short a moment to be filled from the log: repeats would take the places of
    /// first attempts that are not read yet.
    async fn refill(&self, cell: &Cell, max: usize) {
        let swept = cell.swept.notified();
        if cell.state.lock().shard.lines.is_worth_waiting(max) {
            cell.keeping.notify_one();
            tokio::time::timeout(SWEEP_PATIENCE, swept).await.ok();
        }
    }

    /// Reads the records that are not in memory.
    async fn read(&self, cell: &Cell, leased: &mut [Leased]) -> Result<(), JournalError> {
        let mut cold: Vec<_> = leased.iter_mut().filter(|leased| leased.record.is_none()).collect();
        if cold.is_empty() {
            return Ok(());
        }
        // Parts of one block are read out of it together.
        cold.sort_unstable_by_key(|leased| leased.place());
        let mut call = Call::new(&RECORDS).key(self.redis.key(cell.shard, "m"));
        for leased in &cold {
            let spot = &leased.ticket.spot;
            call = call.number(spot.position).number(u64::from(spot.extent.offset));
            call = call.number(u64::from(spot.extent.bytes));
        }
        let reply = self.redis.run_all(vec![call]).await.pop();
        let reply = reply.unwrap_or(Err(crate::redis::RedisError::unexpected("no reply")));
        let records = reply.and_then(reply::array).map_err(unreadable)?;
        for (leased, record) in cold.into_iter().zip(records) {
            leased.record = reply::bytes(record);
        }
        Ok(())
    }
}

fn finish(cell: &Cell, leased: Leased) -> Option<Claim> {
    let Leased { org, ticket, lease, settled, record } = leased;
    let (position, index) = ticket.spot.place();
    let entry = record.and_then(|record| read_entry(record, ticket.spot.extent));
    let Some(entry) = entry.filter(|entry| entry.org == org) else {
        tracing::error!(
            shard = cell.shard.0,
            position,
            index,
            "a journal entry is unreadable and set aside"
        );
        cell.state.lock().shard.set_aside(ticket.spot.place());
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
