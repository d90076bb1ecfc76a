//! Taking a timer whose time has not come, and bringing forward what waits of a notification.

use super::cell::Taken;
use super::core::Core;
use super::options::millis;
use super::reads::entry_at;
use super::reply::{self, Stored};
use super::rows::{self, EVENTS};
use super::scripts::{HURRY, TAKE};
use crate::journal::record::{Extent, entries};
use crate::journal::shard::line::{Spot, Ticket};
use crate::journal::shard::{class, is_timer};
use crate::journal::{Claim, ClaimId, Entry};
use crate::model::{Millis, NotificationId, OrganizationId, ShardId};
use crate::redis::{Call, RedisError};
use uuid::Uuid;

/// Timers brought forward at once.
const HURRY_AT_ONCE: usize = 1_000;

fn ticket(stored: &Stored, index: u32, extent: Extent, entry: &Entry) -> Option<Ticket> {
    let spot = Spot { position: stored.position, index, extent };
    let is_later = is_timer(entry.due, Millis(stored.committed_at));
    is_later.then_some(Ticket { spot, due: entry.due, class: class(entry.kind) })
}

impl Core {
    pub(super) async fn take(
        &self,
        shard: ShardId,
        org: OrganizationId,
        id: NotificationId,
    ) -> Result<Option<Claim>, RedisError> {
        let Some(cell) = self.cell(shard) else { return Ok(None) };
        let Some(place) = self.listed_place(shard, org, id).await? else { return Ok(None) };
        let blocks = self.blocks(shard, [place.0]).await?;
        let Some(stored) = blocks.get(&place.0) else { return Ok(None) };
        let Some((extent, entry)) = entry_at(stored, place.1) else { return Ok(None) };
        let Some(ticket) = ticket(stored, place.1, extent, &entry) else { return Ok(None) };
        let token = Uuid::new_v4().simple().to_string();
        let until = self.clock.now().plus(millis(self.options.lease));
        let call = Call::new(&TAKE).key(self.redis.key(shard, "m"));
        let call = call.number(self.clock.now().0).number(until.0).arg(token.clone());
        let call = call.arg(org.0.to_string()).arg(rows::timer(&ticket));
        let reply = self.redis.run_all(vec![call]).await.pop();
        let reply = reply.unwrap_or(Err(RedisError::unexpected("no reply")))?;
        if reply::number(&reply) != Some(1) {
            return Ok(None);
        }
        let settled = self.parts_of(shard, place).await?;
        let lease = {
            let mut state = cell.state.lock();
            state.shard.leases += 1;
            state.shard.leases
        };
        let until = self.lease_until();
        self.note_taken(cell, place, Taken { lease, until, token, org, ticket, is_closing: false });
        Ok(Some(Claim {
            id: ClaimId { position: place.0, index: place.1, lease },
            notification: entry.notification,
            org,
            kind: entry.kind,
            payload: entry.payload,
            settled,
        }))
    }

    /// Deliveries of an entry that need nothing more.
    async fn parts_of(
        &self,
        shard: ShardId,
        place: crate::journal::shard::Place,
    ) -> Result<Vec<crate::model::DeliveryId>, RedisError> {
        let key = self.redis.key(shard, "part");
        let found = self.range(&key, &rows::place(place), None, usize::MAX).await?;
        let delivery = |row: &bytes::Bytes| {
            let id = row.get(12..)?.first_chunk::<16>()?;
            Some(crate::model::DeliveryId(Uuid::from_bytes(*id)))
        };
        Ok(found.iter().filter_map(delivery).collect())
    }

    /// Makes the timers of a notification due now; answers how many were not.
    pub(super) async fn hurry(
        &self,
        shard: ShardId,
        org: OrganizationId,
        id: NotificationId,
    ) -> Result<usize, RedisError> {
        let Some(cell) = self.cell(shard) else { return Ok(0) };
        let places = self.told_at(shard, id).await?;
        let waiting = places.iter().filter(|(_, index)| *index != EVENTS);
        let blocks = self.blocks(shard, waiting.map(|(position, _)| *position)).await?;
        let mut timers = Vec::new();
        for stored in blocks.values() {
            for (index, extent, entry) in entries(stored.payload.clone()) {
                let is_ours = entry.notification == id && entry.org == org;
                let ticket = ticket(stored, index, extent, &entry).filter(|_| is_ours);
                timers.extend(ticket.map(|ticket| rows::timer(&ticket)));
            }
        }
        let mut hurried = 0;
        for some in timers.chunks(HURRY_AT_ONCE) {
            let now = self.clock.now();
            let call = Call::new(&HURRY).key(self.redis.key(shard, "m"));
            let call = call.number(now.0).arg(org.0.to_string());
            let call = some.iter().fold(call, |call, row| call.arg(row.clone()));
            let reply = self.redis.run_all(vec![call]).await.pop();
            let reply = reply.unwrap_or(Err(RedisError::unexpected("no reply")))?;
            hurried += reply::number(&reply).unwrap_or(0);
            if cell.state.lock().is_loaded {
                cell.alarms.lock().set(org, now);
                cell.keeping.notify_one();
            }
        }
        Ok(usize::try_from(hurried).unwrap_or(usize::MAX))
    }
}
