//! What the journal's tasks share, and what callers do on it: enqueue, settle, take blocks in.

use super::cell::{Cell, Request, State, Taken, Tenure};
use super::lane::Committed;
use super::options::{RedisJournalOptions, millis};
use super::plan::{Ended, Laid, Part};
use super::reply::Stored;
use crate::clock::Clock;
use crate::crash::{Sabotage, is_sabotaged};
use crate::journal::shard::{BlockMarks, BlockRef, Place, is_timer};
use crate::journal::{ClaimId, Commit, JournalError, Settlement};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId, ShardId};
use crate::redis::{Redis, RedisError};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use tokio::sync::oneshot;

/// Payload bytes of new blocks kept in memory so that a caught-up dispatcher reads nothing.
const HOT_BYTES_MAX: usize = 32 << 20;
/// Blocks that are read at once.
const READ_MAX: usize = 16;

pub(super) struct Core {
    pub(super) options: RedisJournalOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) redis: Redis,
    /// New with every start.
    pub(super) writer: String,
    pub(super) cells: Vec<Arc<Cell>>,
    /// Deliveries being amended by this node.
    pub(super) reserved: Arc<Mutex<HashSet<DeliveryId>>>,
    /// Notifications of which nothing is sent any more.
    pub(super) canceled: RwLock<HashSet<NotificationId>>,
    /// Nothing new is taken.
    pub(super) closing: AtomicBool,
    /// Nothing is tried again.
    pub(super) closed: AtomicBool,
    pub(super) buffered: AtomicUsize,
}

impl Core {
    pub(super) fn cell(&self, shard: ShardId) -> Option<&Arc<Cell>> {
        self.cells.get(usize::from(shard.0))
    }

    pub(super) fn lease_until(&self) -> Millis {
        self.clock.steady().plus(millis(self.options.lease))
    }

    /// The shards in which an organization may have something.
    pub(super) fn homes(&self, org: OrganizationId) -> Vec<ShardId> {
        match self.options.home {
            Some(home) => vec![home(org, self.options.shards)],
            None => self.cells.iter().map(|cell| cell.shard).collect(),
        }
    }

    pub(super) fn submit(
        &self,
        shard: ShardId,
        part: Part,
        is_urgent: bool,
    ) -> Result<Commit, JournalError> {
        let cell = self.cell(shard).ok_or(JournalError::Closed)?;
        let bytes = part.bytes();
        let (done, committed) = oneshot::channel();
        let (sent, generation, done) = (Vec::new(), None, Some(done));
        let request = Request { part, bytes, sent, generation, is_settle: false, is_urgent, done };
        self.enqueue(cell, request)?;
        Ok(Box::pin(answered(committed)))
    }

    /// Checks leases and enqueues; fenced settlements are left out.
    pub(super) fn settle(
        &self,
        shard: ShardId,
        settlements: Vec<Settlement>,
    ) -> Result<Commit, JournalError> {
        let cell = self.cell(shard).ok_or(JournalError::Fenced)?;
        // Those that were taken go one by one, those that were claimed together.
        let mut parts = Vec::new();
        let (mut part, mut sent) = (Part::default(), Vec::new());
        {
            let mut state = cell.state.lock();
            for mut settlement in settlements {
                if is_sabotaged(Sabotage::DroppedOutcome) {
                    settlement.events.clear();
                    settlement.resolved.clear();
                }
                let place = (settlement.claim.position, settlement.claim.index);
                let is_last = settlement.done;
                if let Some(taken) = taken_part(&mut state, place, &settlement) {
                    parts.push((taken, vec![(place, is_last)], None));
                } else if let Some(ended) = hold(&mut state, settlement) {
                    sent.push((place, is_last));
                    part.settles.push(ended);
                }
            }
            if !part.settles.is_empty() {
                parts.push((part, sent, Some(state.generation)));
            }
        }
        if parts.is_empty() {
            return Err(JournalError::Fenced);
        }
        let mut waiting = Vec::with_capacity(parts.len());
        let mut parts = parts.into_iter();
        while let Some((part, sent, generation)) = parts.next() {
            match self.send_settle(cell, part, sent, generation) {
                Ok(committed) => waiting.push(committed),
                Err(error) => {
                    parts.for_each(|(_, sent, generation)| cell.reopen(generation, &sent));
                    return Err(error);
                }
            }
        }
        Ok(Box::pin(async move {
            let mut result = Ok(());
            for committed in waiting {
                result = result.and(answered(committed).await);
            }
            result
        }))
    }

    fn send_settle(
        &self,
        cell: &Cell,
        part: Part,
        sent: Vec<(Place, bool)>,
        generation: Option<u64>,
    ) -> Result<Answer, JournalError> {
        let bytes = part.bytes();
        let (done, committed) = oneshot::channel();
        let again = sent.clone();
        let (is_settle, is_urgent, done) = (true, true, Some(done));
        let request = Request { part, bytes, sent, generation, is_settle, is_urgent, done };
        self.enqueue(cell, request).inspect_err(|_| cell.reopen(generation, &again))?;
        Ok(committed)
    }

    pub(super) fn renew(&self, shard: ShardId, claims: &[ClaimId]) {
        let Some(cell) = self.cell(shard) else { return };
        let until = self.lease_until();
        let mut state = cell.state.lock();
        for claim in claims {
            let held = state.shard.in_flight.get_mut(&(claim.position, claim.index));
            if let Some(held) = held.filter(|held| held.lease == claim.lease) {
                held.until = until;
            }
        }
    }

    /// How much is left of a lease, `None` if it has passed to another claim.
    pub(super) fn lease_left(&self, shard: ShardId, claim: ClaimId) -> Option<Duration> {
        if is_sabotaged(Sabotage::NoFencing) {
            return Some(Duration::MAX);
        }
        let now = self.clock.steady();
        let state = self.cell(shard)?.state.lock();
        let place = (claim.position, claim.index);
        let until = match state.taken.get(&place) {
            Some(taken) if taken.lease == claim.lease => taken.until,
            _ => {
                let held = state.shard.in_flight.get(&place)?;
                let is_leaving = state.tenure.as_ref().is_some_and(|tenure| tenure.is_leaving);
                let until = if is_leaving { now } else { held.until };
                (held.lease == claim.lease).then_some(until)?
            }
        };
        Some(Duration::from_millis(until.since(now)))
    }

    /// Notes what a script told beside its answer.
    pub(super) fn note(&self, cell: &Cell, committed: &Committed) {
        let mut told = cell.told.lock();
        // A repeated request is answered with sums, too, so they are always newer.
        told.sums = committed.sums;
        for (org, backlog) in &committed.counts {
            told.note(*org, *backlog);
        }
    }

    /// Takes own blocks in; `cell.log` is held.
    pub(super) async fn take_in(
        &self,
        cell: &Cell,
        first: u64,
        (blocks, sizes): (Vec<Laid>, Vec<(Place, u64)>),
        (at, mark, is_repeated): (Millis, &Bytes, bool),
    ) {
        let (expected, is_known) = {
            let state = cell.state.lock();
            let is_known = is_repeated && state.has_taken_in(first, mark);
            (state.is_loaded.then_some(state.shard.applied_end), is_known)
        };
        match expected {
            // Its answer was lost, and it was read as a block of another node meanwhile. If another
            // was read in its place, Redis has lost that one.
            Some(end) if first < end && is_known => return,
            Some(end) if first < end => cell.unload("its log is shorter than it was"),
            Some(end) if first > end => {
                if let Err(error) = self.catch_up(cell, first).await {
                    tracing::debug!(shard = cell.shard.0, %error, "blocks of others are missing");
                    cell.unload("blocks of other nodes could not be read");
                }
            }
            _ => {}
        }
        let sizes: HashMap<_, _> = sizes.into_iter().collect();
        for (position, block) in (first..).zip(blocks) {
            self.apply(cell, (position, at, mark), block.payload, block.marks, &sizes);
        }
        cell.claimers.notify_one();
    }

    /// Reads and takes in the blocks before `until`; `cell.log` is held.
    pub(super) async fn catch_up(&self, cell: &Cell, until: u64) -> Result<(), RedisError> {
        let key = self.redis.key(cell.shard, "q");
        loop {
            let from = {
                let state = cell.state.lock();
                // Whoever loads it again reads all of that, once we let go of the log.
                if !state.is_loaded || state.shard.applied_end >= until {
                    return Ok(());
                }
                state.shard.applied_end
            };
            let mut range = redis::cmd("XRANGE");
            range.arg(&key).arg(format!("{from}-0")).arg(format!("{}-0", until - 1));
            range.arg("COUNT").arg(READ_MAX);
            let found = Stored::all(self.redis.query(&key, range).await?)?;
            if found.is_empty() {
                // What is gone was finished.
                let mut state = cell.state.lock();
                if state.is_loaded {
                    (state.shard.applied_end, state.mark) = (until, Bytes::new());
                }
            }
            for stored in found {
                self.take_in_stored(cell, stored);
            }
            cell.claimers.notify_one();
        }
    }

    /// Takes in a block of another node, unless it is known.
    pub(super) fn take_in_stored(&self, cell: &Cell, stored: Stored) {
        let Stored { position, committed_at, payload, mark, sizes } = stored;
        {
            let state = cell.state.lock();
            if !state.is_loaded || position < state.shard.applied_end {
                return;
            }
        }
        let Some(marks) = BlockMarks::decode(payload.clone()) else {
            tracing::error!(
                shard = cell.shard.0,
                position,
                "a journal block is unreadable and skipped"
            );
            let mut state = cell.state.lock();
            state.note_mark(position, &mark);
            state.shard.applied_end = position + 1;
            return;
        };
        let rows = sizes.chunks_exact(20).filter_map(|row| {
            let (place, bytes) = super::rows::read_place(row)?;
            Some((place, u64::from_be_bytes(*bytes.first_chunk::<8>()?)))
        });
        let sizes: HashMap<_, _> = rows.collect();
        let at = Millis(committed_at);
        self.apply(cell, (position, at, &mark), payload, marks, &sizes);
    }

    fn apply(
        &self,
        cell: &Cell,
        (position, at, mark): (u64, Millis, &Bytes),
        payload: Bytes,
        marks: BlockMarks,
        sizes: &HashMap<Place, u64>,
    ) {
        if !marks.cancels.is_empty() {
            let mut canceled = self.canceled.write();
            canceled.extend(marks.cancels.iter().map(|cancel| cancel.notification));
        }
        let mut state = cell.state.lock();
        for settle in marks.settles.iter().filter(|settle| settle.done) {
            state.taken.remove(&(settle.position, settle.index));
        }
        if !state.is_loaded {
            return;
        }
        state.note_mark(position, mark);
        let hot = HOT_BYTES_MAX / self.cells.len().max(1);
        let block = BlockRef { position, hot: Some((payload, at)) };
        let measure = &mut |place: Place| sizes.get(&place).copied();
        state.shard.apply(block, position + 1, &marks, (at, hot), measure);
        for settle in marks.settles.iter().filter(|settle| settle.done && settle.due != Millis(0)) {
            let place = (settle.position, settle.index);
            state.shard.timers_loaded.remove(&(settle.org, place));
            state.ended.iter_mut().for_each(|ended| {
                ended.insert(place);
            });
        }
        drop(state);
        let timers = marks.entries.iter().filter(|entry| is_timer(entry.due, at));
        let mut alarms = cell.alarms.lock();
        timers.for_each(|entry| alarms.set(entry.org, entry.due));
    }

    /// Somebody else owns the shard that was worked on under `token`.
    pub(super) fn lost(&self, cell: &Cell, token: &str) {
        let mut state = cell.state.lock();
        if state.token().is_some_and(|current| *current == *token) {
            state.hand_over(None, self.options.places);
            drop(state);
            cell.lost.notify_one();
        }
    }

    /// The right to work on a shard as it is from now on.
    pub(super) fn set_tenure(&self, cell: &Cell, tenure: Option<Tenure>) {
        cell.state.lock().hand_over(tenure, self.options.places);
        cell.keeping.notify_one();
        cell.claimers.notify_one();
    }

    pub(super) fn note_taken(&self, cell: &Cell, place: Place, taken: Taken) {
        let now = self.clock.steady();
        let mut state = cell.state.lock();
        state.taken.retain(|_, taken| taken.until > now || taken.is_closing);
        state.taken.insert(place, taken);
    }
}

/// Where a request is answered.
type Answer = oneshot::Receiver<Result<(), JournalError>>;

/// Waits for the answer of a lane; one that is cut off may have sent the request.
async fn answered(answer: Answer) -> Result<(), JournalError> {
    answer.await.unwrap_or(Err(JournalError::Unknown))
}

/// A settlement of an entry that was taken here.
fn taken_part(state: &mut State, place: Place, settlement: &Settlement) -> Option<Part> {
    let taken = state.taken.get_mut(&place)?;
    if taken.lease != settlement.claim.lease || taken.is_closing {
        return None;
    }
    taken.is_closing = settlement.done;
    let settlement = Settlement { org: taken.org, ..settlement.clone() };
    let ended = Ended {
        settlement,
        ticket: taken.ticket,
        has_parts: true,
        is_change: false,
        is_inherited: false,
    };
    let token = taken.token.clone();
    Some(Part { settles: vec![ended], taken: Some((place, token)), ..Part::default() })
}

/// Notes that a settlement is on its way, if its claim still holds the entry.
fn hold(state: &mut State, mut settlement: Settlement) -> Option<Ended> {
    let place = (settlement.claim.position, settlement.claim.index);
    let has_partial = state.shard.partial.contains_key(&place);
    let is_change = state.shard.changes.contains(&place);
    let held = state.shard.in_flight.get_mut(&place)?;
    let is_fenced = held.lease != settlement.claim.lease;
    if held.closing || (is_fenced && !is_sabotaged(Sabotage::NoFencing)) {
        return None;
    }
    let has_parts = has_partial || held.settling > 0;
    held.closing = settlement.done;
    held.settling += u32::from(!settlement.done);
    // Its timer and its backlog are found by it.
    settlement.org = held.org;
    let ticket = held.ticket;
    Some(Ended { settlement, ticket, has_parts, is_change, is_inherited: false })
}

/// What a caller is told when something could not be read.
pub(super) fn unreadable(error: RedisError) -> JournalError {
    tracing::warn!(%error, "the journal could not be read from redis");
    if error.is_unknown() || error.is_temporary() {
        JournalError::Unknown
    } else {
        JournalError::Unreadable
    }
}
