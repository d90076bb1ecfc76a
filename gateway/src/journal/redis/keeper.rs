//! What the owner of a shard does beside claiming: takes it over, refills lines, loads timers,
//! drops what is too old.

use super::cell::{Cell, Tenure};
use super::core::Core;
use super::lane::{backlog, organization};
use super::options::millis;
use super::reply::{self, Stored};
use super::rows;
use super::scripts::{ADOPT, DUE, SWEEP, TIDY};
use crate::journal::record::entries;
use crate::journal::shard::line::{Counts, Spot};
use crate::journal::shard::lines::Stretch;
use crate::journal::shard::{Place, Shard, is_timer};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId};
use crate::redis::{Call, RedisError};
use bytes::Bytes;
use redis::Value;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How often timers in memory are looked at.
const TICK: Duration = Duration::from_millis(20);
const TIDY_EVERY: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes of the log in one stretch.
const STRETCH_BYTES: u64 = 1 << 20;
/// Cancellations read at once.
const CANCELED_AT_ONCE: usize = 10_000;
/// Organizations whose timers are asked for at once.
const DUE_AT_ONCE: usize = 64;

impl Core {
    /// Keeps `cell` until the journal is closed.
    pub(super) async fn keep(self: Arc<Self>, cell: Arc<Cell>) {
        let mut tidied = Instant::now();
        while !self.closed.load(Ordering::Acquire) {
            let woken = tokio::time::timeout(TICK, cell.keeping.notified());
            let (tenure, is_loaded) = {
                let state = cell.state.lock();
                (state.tenure.clone(), state.is_loaded)
            };
            let Some(tenure) = tenure else {
                woken.await.ok();
                continue;
            };
            let kept = if is_loaded {
                self.keep_once(&cell, &tenure, &mut tidied).await
            } else {
                self.load(&cell, &tenure).await
            };
            match kept {
                Ok(()) => {
                    woken.await.ok();
                }
                Err(RedisError::Fenced) => self.lost(&cell, &tenure.token),
                Err(error) => {
                    tracing::debug!(shard = cell.shard.0, %error, "a shard cannot be kept now; it is tried again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn keep_once(
        &self,
        cell: &Cell,
        tenure: &Tenure,
        tidied: &mut Instant,
    ) -> Result<(), RedisError> {
        while self.sweep(cell).await? {}
        self.load_timers(cell, tenure).await?;
        if tidied.elapsed() >= TIDY_EVERY {
            *tidied = Instant::now();
            while self.tidy(cell, tenure).await? {}
        }
        Ok(())
    }

    async fn ask(&self, call: Call) -> Result<Vec<Value>, RedisError> {
        let reply = self.redis.run_all(vec![call]).await.pop();
        reply.unwrap_or(Err(RedisError::unexpected("no reply"))).and_then(reply::array)
    }

    /// Reads what is pending in a shard that was just taken over.
    async fn load(&self, cell: &Cell, tenure: &Tenure) -> Result<(), RedisError> {
        let _log = cell.log.lock().await;
        let call = Call::new(&ADOPT).key(self.redis.key(cell.shard, "m"));
        let mut parts = self.ask(call.arg(tenure.token.to_string())).await?.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        let end = reply::number(&next()).unwrap_or(0) + 1;
        let mut first = reply::array(next())?;
        let first = first.pop().map(reply::array).transpose()?.unwrap_or_default();
        let first = first.into_iter().next().and_then(reply::bytes);
        let first = first.and_then(|id| reply::position(&id));
        let pending = pairs(next())?.filter_map(|(org, counts)| {
            let counts = backlog(&reply::bytes(counts)?);
            let (pending, timers, bytes) = (counts.pending, counts.timers, counts.bytes);
            Some((organization(&org)?, Counts { pending, timers, bytes }))
        });
        let pending: Vec<_> = pending.collect();
        let alarms: Vec<_> = pairs(next())?
            .filter_map(|(org, due)| Some((organization(&org)?, Millis(reply::number(&due)?))))
            .collect();
        let changes = reply::array(next())?.into_iter().filter_map(reply::bytes);
        let changes: BTreeSet<_> =
            changes.filter_map(|row| Some(rows::read_place(&row)?.0)).collect();
        let mut partial: HashMap<Place, Vec<DeliveryId>> = HashMap::new();
        for row in reply::array(next())?.into_iter().filter_map(reply::bytes) {
            if let Some((place, delivery)) = rows::read_place(&row)
                && let Some(delivery) = uuid_of(delivery)
            {
                partial.entry(place).or_default().push(DeliveryId(delivery));
            }
        }
        let mark = reply::bytes(next()).unwrap_or_default();
        // Later ones are told by the log.
        self.load_canceled(cell).await?;
        {
            let mut state = cell.state.lock();
            if state.token().as_ref() != Some(&tenure.token) {
                return Ok(());
            }
            let leases = state.shard.leases.max(tenure.epoch << 32) + 1;
            let cursor = first.map(|position| (position, 0));
            state.renew(Shard::adopted(self.options.places, (end, cursor), pending, leases));
            state.shard.partial = partial;
            state.shard.changes = changes;
            state.mark = mark;
            state.is_loaded = true;
        }
        {
            let mut known = cell.alarms.lock();
            alarms.into_iter().for_each(|(org, due)| known.set(org, due));
        }
        cell.keeping.notify_one();
        cell.reading.notify_one();
        cell.claimers.notify_one();
        Ok(())
    }

    /// Reads what was canceled, a page at a time: nobody is to wait for Redis meanwhile.
    async fn load_canceled(&self, cell: &Cell) -> Result<(), RedisError> {
        let key = self.redis.key(cell.shard, "x");
        let (mut from, mut limit) = (Bytes::from_static(b"-inf"), CANCELED_AT_ONCE);
        loop {
            let mut range = redis::cmd("ZRANGEBYSCORE");
            range.arg(&key).arg(from.as_ref()).arg("+inf").arg("WITHSCORES");
            range.arg("LIMIT").arg(0).arg(limit);
            let rows: Vec<_> = pairs(self.redis.query(&key, range).await?)?.collect();
            let (count, mut last) = (rows.len(), from.clone());
            let mut canceled = self.canceled.write();
            for (id, at) in rows {
                let id = reply::bytes(id).and_then(|id| uuid_of(&id));
                canceled.extend(id.map(NotificationId));
                last = reply::bytes(at).unwrap_or(last);
            }
            drop(canceled);
            if count < limit {
                return Ok(());
            }
            // Those of the last instant are read again, since there may be more of it.
            if last == from {
                limit *= 2;
            }
            from = last;
        }
    }

    /// Refills lines from one stretch of the log; false if there was nothing to do or no place.
    async fn sweep(&self, cell: &Cell) -> Result<bool, RedisError> {
        let (from, until) = {
            let mut state = cell.state.lock();
            let Some(from) = state.shard.lines.next_hungry() else { return Ok(false) };
            (from, state.shard.applied_end)
        };
        let stretch = match self.stretch(cell, from, until).await {
            Ok(stretch) => stretch,
            Err(error) => {
                // Whoever was asked for is hungry still.
                let empty = Stretch { start: from, next: from, ..Stretch::default() };
                cell.state.lock().shard.take_in(&empty);
                cell.swept.notify_waiters();
                return Err(error);
            }
        };
        let has_moved = cell.state.lock().shard.take_in(&stretch);
        cell.swept.notify_waiters();
        cell.claimers.notify_one();
        Ok(has_moved)
    }

    async fn stretch(&self, cell: &Cell, from: u64, until: u64) -> Result<Stretch, RedisError> {
        let mut stretch = Stretch { start: from, next: until, ..Stretch::default() };
        if from >= until {
            return Ok(stretch);
        }
        let call = Call::new(&SWEEP).key(self.redis.key(cell.shard, "m"));
        let mut parts =
            self.ask(call.number(from).number(until).number(STRETCH_BYTES)).await?.into_iter();
        let is_all = parts.next().as_ref().and_then(reply::number) == Some(1);
        for block in reply::array(parts.next().unwrap_or_default())? {
            let mut block = reply::array(block)?.into_iter();
            let position = block.next().as_ref().and_then(reply::number);
            let position = position.ok_or(RedisError::unexpected("a block has no position"))?;
            let fields = block.next().unwrap_or_default();
            let done = block.next().and_then(reply::bytes).unwrap_or_default();
            if !is_all {
                stretch.next = position + 1;
            }
            if fields == Value::Nil {
                stretch.unreadable.push((position, 1));
                continue;
            }
            let stored = Stored::of(position, fields)?;
            let done: HashSet<_> = done.chunks_exact(4).filter_map(|i| i.first_chunk()).collect();
            for (index, extent, entry) in entries(stored.payload) {
                let is_pending = !done.contains(&index.to_be_bytes());
                if is_pending && !is_timer(entry.due, Millis(stored.committed_at)) {
                    stretch.entries.push((entry.org, Spot { position, index, extent }));
                }
            }
        }
        Ok(stretch)
    }

    /// Loads timers that are due.
    async fn load_timers(&self, cell: &Cell, tenure: &Tenure) -> Result<(), RedisError> {
        let now = self.clock.now();
        let mut due = cell.alarms.lock().take_due(now);
        while !due.is_empty() {
            let some = due.split_off(due.len().saturating_sub(DUE_AT_ONCE));
            if let Err(error) = self.load_due(cell, tenure, &some, now).await {
                cell.state.lock().ended = None;
                let mut alarms = cell.alarms.lock();
                due.into_iter().chain(some).for_each(|org| alarms.set(org, now));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn load_due(
        &self,
        cell: &Cell,
        tenure: &Tenure,
        orgs: &[OrganizationId],
        now: Millis,
    ) -> Result<(), RedisError> {
        let mut call = Call::new(&DUE).key(self.redis.key(cell.shard, "m"));
        call = call.arg(tenure.token.to_string()).number(now.0);
        let mut is_some = false;
        {
            let mut state = cell.state.lock();
            state.ended = Some(HashSet::new());
            for org in orgs {
                let room = state.shard.lines.room_for_ready(*org);
                if room == 0 {
                    cell.alarms.lock().set(*org, now);
                    continue;
                }
                is_some = true;
                let known = state.shard.timers_loaded_of(*org).len();
                call = call.arg(org.0.to_string()).number((room + known) as u64);
            }
        }
        let mut found = if is_some { self.ask(call).await? } else { Vec::new() }.into_iter();
        let end = found.next().as_ref().and_then(reply::number).unwrap_or(0) + 1;
        if cell.state.lock().shard.applied_end < end {
            // Whoever brings forward what was canceled tells so in the log first.
            let _log = cell.log.lock().await;
            self.catch_up(cell, end).await?;
        }
        for one in reply::array(found.next().unwrap_or_default())? {
            let mut one = reply::array(one)?.into_iter();
            let Some(org) = one.next().as_ref().and_then(organization) else { continue };
            let next = one.next().as_ref().and_then(reply::number).unwrap_or(0);
            let rows: Vec<_> = pairs(one.next().unwrap_or_default())?.collect();
            let mut is_behind = false;
            {
                let mut state = cell.state.lock();
                let mut room = state.shard.lines.room_for_ready(org);
                for (row, due) in rows {
                    let due = Millis(reply::number(&due).unwrap_or(now.0));
                    let ticket = reply::bytes(row).and_then(|row| rows::read_timer(&row, due));
                    let Some(ticket) = ticket else { continue };
                    let place = ticket.spot.place();
                    let is_over = state.ended.as_ref().is_some_and(|ended| ended.contains(&place));
                    // A block that was not taken in yet is counted nowhere.
                    let is_early = place.0 >= state.shard.applied_end;
                    is_behind |= is_early || room == 0;
                    if is_over || is_early || room == 0 || !state.is_loaded {
                        continue;
                    }
                    if state.shard.timers_loaded.insert((org, place)) {
                        state.shard.lines.lapse(org, ticket);
                        room -= 1;
                    }
                }
            }
            if is_behind || next > 0 {
                let at = if is_behind { now } else { Millis(next) };
                cell.alarms.lock().set(org, at);
            }
        }
        cell.state.lock().ended = None;
        cell.claimers.notify_one();
        Ok(())
    }

    /// Drops what is too old, a part at a time; true if there is more.
    async fn tidy(&self, cell: &Cell, tenure: &Tenure) -> Result<bool, RedisError> {
        let now = self.clock.now();
        let before = |kept: Duration| now.0.saturating_sub(millis(kept));
        let end = cell.state.lock().shard.applied_end;
        let call = Call::new(&TIDY).key(self.redis.key(cell.shard, "m"));
        let call = call.arg(tenure.token.to_string()).number(now.0);
        let call = call.number(before(self.options.retention));
        let call = call.number(before(self.options.dead_letter_retention));
        let parts = self.ask(call.number(self.options.log_bytes_max).number(end)).await?;
        let has_more = parts.first().and_then(reply::number) == Some(1);
        let last = parts.get(1).and_then(reply::number).unwrap_or(0);
        let mut rest = parts.into_iter().skip(2);
        for org in reply::array(rest.next().unwrap_or_default())? {
            let org = organization(&org);
            org.into_iter().for_each(|org| cell.alarms.lock().set(org, now));
        }
        let mark = rest.next().and_then(reply::bytes).unwrap_or_default();
        // What is missing here a zombie's reader may have been given. What differs was lost by a
        // failover and written anew: what was applied is not what Redis has.
        let is_other = |known: &Bytes| !mark.is_empty() && !known.is_empty() && mark != *known;
        let is_behind = {
            let _log = cell.log.lock().await;
            let state = cell.state.lock();
            let is_same = state.shard.applied_end == end;
            is_same && (last + 1 < end || is_other(&state.mark))
        };
        if is_behind {
            cell.unload("redis has another history");
        } else if last + 1 > end {
            let _log = cell.log.lock().await;
            self.catch_up(cell, last + 1).await?;
        }
        Ok(has_more)
    }
}

fn uuid_of(bytes: &[u8]) -> Option<Uuid> {
    bytes.first_chunk().map(|id| Uuid::from_bytes(*id))
}

/// Values by twos: of a hash, or of a sorted set with scores.
pub(super) fn pairs(values: Value) -> Result<impl Iterator<Item = (Value, Value)>, RedisError> {
    let mut values = reply::array(values)?.into_iter();
    Ok(std::iter::from_fn(move || Some((values.next()?, values.next()?))))
}
