//! Writing to one shard: what arrived while a write was under way goes into the next one.
//!
//! A lane has one request of each kind under way. Each carries the writer's name and a number, and
//! the script remembers the last number of every writer: what timed out is sent again as it is
//! until Redis says what became of it, and is never added twice.

use super::cell::{Cell, Request};
use super::core::Core;
use super::options::millis;
use super::plan::{Plan, Terms};
use super::reply::{self, Sums};
use super::scripts::{COMMIT, SETTLE};
use crate::crash::{self, Stage};
use crate::journal::{Backlog, JournalError};
use crate::model::OrganizationId;
use crate::redis::{Call, RedisError};
use redis::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// A batch is closed once it holds this much; a single larger addition still fits.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_WEIGHT: usize = 2_048;
/// Additions and bytes that may wait for one shard; beyond it `append` answers `Full`.
const REQUESTS_MAX: usize = 32_768;
const BYTES_MAX: usize = 64 << 20;
/// One addition must fit into a command.
pub(super) const PART_BYTES_MAX: usize = 16 << 20;
/// The script's word for a log that ends before what is known of it.
const SHORTER: &str = "SHORTER";
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The writer's names and numbers, one for each kind of request.
#[derive(Debug)]
pub(super) struct Numbers {
    names: [String; 2],
    next: [u64; 2],
}

/// A request that is under way until Redis says what became of it.
struct Batch {
    requests: Vec<Request>,
    plan: Plan,
    is_settle: bool,
    is_urgent: bool,
    /// Refused unless this node owns the shard.
    is_owners: bool,
    started: Instant,
    /// It was sent at least once, and may have happened.
    is_unknown: bool,
    outcome: Option<Result<Committed, JournalError>>,
    /// It was taken in and answered.
    is_over: bool,
}

/// What a script answered to a commit.
pub(super) struct Committed {
    pub(super) first: u64,
    pub(super) sums: Sums,
    pub(super) counts: Vec<(OrganizationId, Backlog)>,
}

impl Committed {
    fn of(reply: Value) -> Result<Self, RedisError> {
        let mut parts = reply::array(reply)?.into_iter();
        let first = parts.next().as_ref().and_then(reply::number);
        let sums = Sums::of(parts.next().unwrap_or_default())?;
        let counts = reply::array(parts.next().unwrap_or_default())?;
        let pairs = counts.chunks_exact(2).filter_map(|pair| match pair {
            [org, Value::BulkString(counts)] => Some((organization(org)?, backlog(counts))),
            _ => None,
        });
        let first = first.ok_or(RedisError::unexpected("a commit has no position"))?;
        Ok(Self { first, sums, counts: pairs.collect() })
    }
}

pub(super) fn organization(value: &Value) -> Option<OrganizationId> {
    match value {
        Value::BulkString(bytes) => {
            Some(OrganizationId(std::str::from_utf8(bytes).ok()?.parse().ok()?))
        }
        Value::Int(number) => i32::try_from(*number).ok().map(OrganizationId),
        _ => None,
    }
}

/// `pending timers bytes` of one organization.
pub(super) fn backlog(counts: &[u8]) -> Backlog {
    let mut numbers =
        counts.split(|byte| *byte == b' ').map(|part| reply::parse(part).unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    Backlog { pending: next(), timers: next(), bytes: next(), ..Backlog::default() }
}

impl Numbers {
    pub(super) fn new(writer: &str) -> Self {
        Self { names: [format!("{writer}a"), format!("{writer}s")], next: [1, 1] }
    }
}

impl Core {
    /// Enqueues, or refuses when full. What frees space may take twice the room.
    pub(super) fn enqueue(&self, cell: &Cell, request: Request) -> Result<(), JournalError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(JournalError::Closed);
        }
        if request.bytes > PART_BYTES_MAX {
            return Err(JournalError::TooLarge);
        }
        let headroom = if request.is_urgent { 2 } else { 1 };
        let mut waiting = cell.waiting.lock();
        let queue = if request.is_settle { &mut waiting.settles } else { &mut waiting.plain };
        let bytes = self.buffered.load(Ordering::Relaxed);
        if queue.len() >= REQUESTS_MAX * headroom || bytes + request.bytes > BYTES_MAX * headroom {
            return Err(JournalError::Full);
        }
        self.buffered.fetch_add(request.bytes, Ordering::Relaxed);
        queue.push_back(request);
        drop(waiting);
        cell.writing.notify_one();
        Ok(())
    }

    /// Writes what waits for `cell` until the journal is closed.
    pub(super) async fn write(self: Arc<Self>, cell: Arc<Cell>) {
        let mut numbers = Numbers::new(&self.writer);
        loop {
            let woken = cell.writing.notified();
            let (plain, settles) = {
                let mut waiting = cell.waiting.lock();
                (take(&mut waiting.plain), take(&mut waiting.settles))
            };
            if plain.is_empty() && settles.is_empty() {
                if self.closing.load(Ordering::Acquire) {
                    return;
                }
                woken.await;
                continue;
            }
            let bytes: usize = plain.iter().chain(&settles).map(|request| request.bytes).sum();
            // Blocks are taken in by one at a time, in their order.
            let _log = cell.log.lock().await;
            let batches = [plain, settles].into_iter().filter(|requests| !requests.is_empty());
            let batches = batches.map(|requests| self.lay(&cell, requests, &mut numbers));
            self.commit(&cell, batches.collect()).await;
            self.buffered.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn lay(&self, cell: &Cell, mut requests: Vec<Request>, numbers: &mut Numbers) -> Batch {
        let first = requests.first();
        let is_settle = first.is_some_and(|request| request.is_settle);
        let is_urgent = first.is_some_and(|request| request.is_urgent);
        let is_taken = first.is_some_and(|request| request.part.taken.is_some());
        // What was claimed is of the log as it was read last, also while it is read again.
        let (token, known) = {
            let state = cell.state.lock();
            (state.token(), state.shard.applied_end.saturating_sub(1))
        };
        let kind = usize::from(is_settle);
        let [plain, settles] = &mut numbers.next;
        let next = if is_settle { settles } else { plain };
        let sequence = *next;
        *next += 1;
        let parts = requests.iter_mut().map(|request| std::mem::take(&mut request.part));
        let terms = Terms {
            now: self.clock.now(),
            writer: numbers.names.get(kind).map_or("", String::as_str),
            sequence,
            // Without a token nothing of what was claimed here is ours any more.
            fence: (is_settle && !is_taken).then(|| token.as_deref().unwrap_or("none")),
            own: token.as_deref(),
            // What is only added cannot be mistaken for anything.
            known: if is_settle { known } else { 0 },
            retention_ms: millis(self.options.retention),
            keys_ttl_ms: millis(self.options.keys_ttl),
            tracks: self.options.tracks,
        };
        let plan = Plan::new(parts.collect(), &terms);
        Batch {
            requests,
            plan,
            is_settle,
            is_urgent,
            is_owners: terms.fence.is_some(),
            started: Instant::now(),
            is_unknown: false,
            outcome: None,
            is_over: false,
        }
    }

    /// Sends batches until it is known of each whether it happened.
    async fn commit(&self, cell: &Cell, mut batches: Vec<Batch>) {
        let mut pause = PAUSE_MIN;
        loop {
            let open: Vec<_> = batches.iter_mut().filter(|b| b.outcome.is_none()).collect();
            if open.is_empty() {
                break;
            }
            let calls = open.iter().map(|batch| self.call(cell, batch)).collect();
            crash::point(Stage::Appended);
            let replies = self.redis.run_all(calls).await;
            let mut failed = None;
            for (batch, reply) in open.into_iter().zip(replies) {
                match reply.and_then(Committed::of) {
                    Ok(committed) => batch.outcome = Some(Ok(committed)),
                    Err(error) => failed = self.judge(cell, batch, error).or(failed),
                }
            }
            crash::point(Stage::Synced);
            self.take_in_all(cell, &mut batches).await;
            let Some(error) = failed else {
                *cell.failing.lock() = None;
                continue;
            };
            let since = *cell.failing.lock().get_or_insert_with(Instant::now);
            if since.elapsed() >= self.options.patience {
                self.refuse_waiting(cell);
            }
            if self.closed.load(Ordering::Acquire) {
                for batch in batches.iter_mut().filter(|batch| !batch.is_over) {
                    batch.answer(cell, Err(JournalError::Closed));
                }
                return;
            }
            tracing::debug!(shard = cell.shard.0, %error, "a write to redis is tried again");
            tokio::time::sleep(pause.mul_f64(0.5 + self.clock.chance())).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Answers additions that wait behind a write which does not get through: nobody is to wait for
    /// them longer than for it.
    fn refuse_waiting(&self, cell: &Cell) {
        let refused = std::mem::take(&mut cell.waiting.lock().plain);
        for mut request in refused {
            self.buffered.fetch_sub(request.bytes, Ordering::Relaxed);
            cell.reopen(&request.sent);
            if let Some(done) = request.done.take() {
                done.send(Err(JournalError::Full)).ok();
            }
        }
    }

    fn call(&self, cell: &Cell, batch: &Batch) -> Call {
        let script = if batch.is_urgent { &SETTLE } else { &COMMIT };
        let call = Call::new(script).key(self.redis.key(cell.shard, "m"));
        let call = call.arg(batch.plan.program.clone());
        batch.plan.blocks.iter().fold(call, |call, block| call.arg(block.payload.clone()))
    }

    /// What an error means for a batch; answers it back if the batch is tried again.
    fn judge(&self, cell: &Cell, batch: &mut Batch, error: RedisError) -> Option<RedisError> {
        batch.is_unknown |= error.is_unknown();
        if error == RedisError::Fenced {
            if batch.is_owners {
                self.lost(cell);
            }
            batch.outcome = Some(Err(JournalError::Fenced));
            return None;
        }
        if matches!(&error, RedisError::Refused { code, .. } if code == SHORTER) {
            // What was claimed is gone, or comes again.
            cell.unload("its log is shorter than it was");
            batch.outcome = Some(Err(JournalError::Fenced));
            return None;
        }
        if !error.is_unknown() && !error.is_temporary() {
            tracing::error!(shard = cell.shard.0, %error, "redis refused a commit of the journal");
            batch.outcome = Some(Err(JournalError::Poisoned));
            return None;
        }
        // Who settles waits: nothing else can be done with what was sent.
        if batch.started.elapsed() >= self.options.patience && !batch.is_settle {
            if batch.is_unknown {
                batch.tell(Err(JournalError::Unknown));
            } else {
                batch.outcome = Some(Err(JournalError::Full));
            }
        }
        Some(error)
    }

    /// Takes in what was committed, in the order of the log, and answers.
    async fn take_in_all(&self, cell: &Cell, batches: &mut [Batch]) {
        let first = |batch: &Batch| match &batch.outcome {
            Some(Ok(committed)) => committed.first,
            _ => u64::MAX,
        };
        let is_new = |batch: &Batch| batch.outcome.is_some() && !batch.is_over;
        let mut order: Vec<_> = batches.iter_mut().filter(|batch| is_new(batch)).collect();
        order.sort_by_key(|batch| first(batch));
        for batch in order {
            batch.is_over = true;
            match &batch.outcome {
                Some(Ok(committed)) => {
                    let blocks = std::mem::take(&mut batch.plan.blocks);
                    let sizes = std::mem::take(&mut batch.plan.sizes);
                    let how = (batch.plan.committed_at, &batch.plan.mark, batch.is_unknown);
                    self.note(cell, committed);
                    self.take_in(cell, committed.first, (blocks, sizes), how).await;
                    batch.tell(Ok(()));
                }
                Some(Err(error)) => {
                    let error = *error;
                    batch.answer(cell, Err(error));
                }
                None => {}
            }
        }
    }
}

impl Batch {
    fn tell(&mut self, result: Result<(), JournalError>) {
        for request in &mut self.requests {
            if let Some(done) = request.done.take() {
                done.send(result).ok();
            }
        }
    }

    /// Answers an addition of which nothing happened.
    fn answer(&mut self, cell: &Cell, result: Result<(), JournalError>) {
        for request in &self.requests {
            cell.reopen(&request.sent);
        }
        self.tell(result);
    }
}

/// What goes into one request: additions of one kind, or a single one that may be refused.
fn take(queue: &mut VecDeque<Request>) -> Vec<Request> {
    let (mut taken, mut bytes, mut weight) = (Vec::new(), 0, 0);
    while let Some(next) = queue.front() {
        let is_alone = next.part.has_checks();
        let is_other = taken.first().is_some_and(|first: &Request| {
            is_alone || first.part.has_checks() || first.is_urgent != next.is_urgent
        });
        let is_full =
            bytes + next.bytes > BATCH_BYTES || weight + next.part.weight() > BATCH_WEIGHT;
        if is_other || (is_full && !taken.is_empty()) {
            break;
        }
        bytes += next.bytes;
        weight += next.part.weight();
        taken.extend(queue.pop_front());
    }
    taken
}
