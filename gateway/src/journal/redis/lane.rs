//! Writing to one shard: what arrived while a write was under way goes into the next one.
//!
//! A lane has one request of each kind under way. Each carries the writer's name and a number, and
//! the script remembers the last number of every writer: what timed out is sent again as it is
//! until Redis says what became of it, and is never added twice.

use super::cell::{Cell, Failing, Request};
use super::core::Core;
use super::options::millis;
use super::plan::{Part, Plan, Terms};
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
/// The script's word for a log that ends before what is known of it, or is another one there.
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
    is_urgent: bool,
    /// Refused unless the shard is owned under this token.
    fence: Option<Arc<str>>,
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
        if request.bytes > PART_BYTES_MAX {
            return Err(JournalError::TooLarge);
        }
        let headroom = if request.is_urgent { 2 } else { 1 };
        let mut waiting = cell.waiting.lock();
        // Asked under the lock, as its lane does: nothing is left for one that has ended.
        if self.closing.load(Ordering::Acquire) {
            return Err(JournalError::Closed);
        }
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
            let (plain, settles, is_closing) = {
                let mut waiting = cell.waiting.lock();
                let is_closing = self.closing.load(Ordering::Acquire);
                (take(&mut waiting.plain), take(&mut waiting.settles), is_closing)
            };
            if plain.is_empty() && settles.is_empty() {
                if is_closing {
                    return;
                }
                woken.await;
                continue;
            }
            let bytes: usize = plain.iter().chain(&settles).map(|request| request.bytes).sum();
            // Blocks are taken in by one at a time, in their order.
            let _log = cell.log.lock().await;
            let batches = [plain, settles].into_iter();
            let batches = batches.filter_map(|requests| self.lay(&cell, requests, &mut numbers));
            self.commit(&cell, batches.collect(), &mut numbers).await;
            self.buffered.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Lays requests out; `None` if nothing is left of them.
    fn lay(&self, cell: &Cell, requests: Vec<Request>, numbers: &mut Numbers) -> Option<Batch> {
        // What was claimed is of the log as it was read last, also while it is read again.
        let (token, generation, known, known_mark) = {
            let state = cell.state.lock();
            let known = state.shard.applied_end.saturating_sub(1);
            (state.token(), state.generation, known, state.mark.clone())
        };
        // What was claimed before the shard was read again is claimed again, or settled by another.
        let is_void = |request: &mut Request| request.generation.is_some_and(|of| of != generation);
        let mut requests = requests;
        for request in requests.extract_if(.., is_void) {
            if let Some(done) = request.done {
                done.send(Err(JournalError::Fenced)).ok();
            }
        }
        let first = requests.first()?;
        let (is_settle, is_urgent) = (first.is_settle, first.is_urgent);
        // Without a token nothing of what was claimed here is ours any more.
        let fence = first.generation.map(|_| token.clone().unwrap_or_else(|| Arc::from("none")));
        let kind = usize::from(is_settle);
        let [plain, settles] = &mut numbers.next;
        let next = if is_settle { settles } else { plain };
        let sequence = *next;
        *next += 1;
        let terms = Terms {
            now: self.clock.now(),
            writer: numbers.names.get(kind).map_or("", String::as_str),
            sequence,
            fence: fence.as_deref(),
            own: token.as_deref(),
            // What is only added cannot be mistaken for anything.
            known: if is_settle { known } else { 0 },
            known_mark: &known_mark,
            retention_ms: millis(self.options.retention),
            keys_ttl_ms: millis(self.options.keys_ttl),
            tracks: self.options.tracks,
        };
        let mut parts: Vec<_> = requests.iter_mut().map(|request| &mut request.part).collect();
        let plan = Plan::new(&mut parts, &terms);
        // Only what has keys may have to be laid out again.
        if requests.iter().all(|request| request.part.idempotency.is_empty()) {
            requests.iter_mut().for_each(|request| request.part = Part::default());
        }
        let started = Instant::now();
        let (is_unknown, outcome, is_over) = (false, None, false);
        Some(Batch { requests, plan, is_urgent, fence, started, is_unknown, outcome, is_over })
    }

    /// Answers the requests of a refused batch whose keys, by their numbers, were used meanwhile; the
    /// others go on under another number. Nothing of the batch was done, nor will be: also if an
    /// earlier sending of it arrives late, it finds these keys.
    fn leave_out(&self, cell: &Cell, batch: &mut Batch, used: &[usize], numbers: &mut Numbers) {
        let mut end = 0;
        let is_used = |request: &mut Request| {
            let start = end;
            end += request.part.idempotency.len();
            used.iter().any(|key| (start..end).contains(key))
        };
        let refused: Vec<_> = batch.requests.extract_if(.., is_used).collect();
        let others =
            if refused.is_empty() { Vec::new() } else { std::mem::take(&mut batch.requests) };
        for request in refused {
            if let Some(done) = request.done {
                done.send(Err(JournalError::KeyUsed)).ok();
            }
        }
        match self.lay(cell, others, numbers) {
            Some(laid) => *batch = Batch { started: batch.started, ..laid },
            None => batch.outcome = Some(Err(JournalError::KeyUsed)),
        }
    }

    /// Sends batches until it is known of each whether it happened.
    async fn commit(&self, cell: &Cell, mut batches: Vec<Batch>, numbers: &mut Numbers) {
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
                    Err(error) => match used_keys(&error) {
                        Some(used) => self.leave_out(cell, batch, &used, numbers),
                        None => failed = self.judge(cell, batch, error).or(failed),
                    },
                }
            }
            crash::point(Stage::Synced);
            self.take_in_all(cell, &mut batches).await;
            let Some(error) = failed else {
                *cell.failing.lock() = None;
                continue;
            };
            let tried = Instant::now();
            let since = cell.failing.lock().map_or(tried, |failing| failing.since);
            *cell.failing.lock() = Some(Failing { since, tried });
            if since.elapsed() >= self.options.patience {
                self.refuse_waiting(cell);
            }
            if self.closed.load(Ordering::Acquire) {
                for batch in batches.iter_mut().filter(|batch| !batch.is_over) {
                    let error = batch.failed_as(JournalError::Closed);
                    batch.answer(cell, Err(error));
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
        let refused: Vec<_> = {
            let mut waiting = cell.waiting.lock();
            let plain = std::mem::take(&mut waiting.plain);
            // Somebody waits for what was taken, too.
            let settles = std::mem::take(&mut waiting.settles).into_iter();
            let (taken, others): (VecDeque<_>, _) =
                settles.partition(|request| request.part.taken.is_some());
            waiting.settles = others;
            plain.into_iter().chain(taken).collect()
        };
        for mut request in refused {
            self.buffered.fetch_sub(request.bytes, Ordering::Relaxed);
            cell.reopen(request.generation, &request.sent);
            if let Some(done) = request.done.take() {
                done.send(Err(JournalError::Full)).ok();
            }
        }
    }

    fn call(&self, cell: &Cell, batch: &Batch) -> Call {
        // What may have happened is to be known, also while Redis is out of memory.
        let script = if batch.is_urgent || batch.is_unknown { &SETTLE } else { &COMMIT };
        let call = Call::new(script).key(self.redis.key(cell.shard, "m"));
        let call = call.arg(batch.plan.program.clone());
        batch.plan.blocks.iter().fold(call, |call, block| call.arg(block.payload.clone()))
    }

    /// What an error means for a batch; answers it back if the batch is tried again.
    fn judge(&self, cell: &Cell, batch: &mut Batch, error: RedisError) -> Option<RedisError> {
        batch.is_unknown |= error.is_unknown();
        if error == RedisError::Fenced {
            if let Some(token) = &batch.fence {
                self.lost(cell, token);
            }
            batch.outcome = Some(Err(JournalError::Fenced));
            return None;
        }
        if matches!(&error, RedisError::Refused { code, .. } if code == SHORTER) {
            // What was claimed is gone, or comes again.
            cell.unload("its log is not the one that was read");
            batch.outcome = Some(Err(JournalError::Fenced));
            return None;
        }
        // Rights come back as they went; until then nothing else can be done with what was sent.
        let is_forbidden = matches!(&error, RedisError::Refused { code, .. } if code == "NOPERM");
        let waits = is_forbidden && batch.fence.is_some();
        if !error.is_unknown() && !error.is_temporary() && !waits {
            tracing::error!(shard = cell.shard.0, %error, "redis refused a commit of the journal");
            if batch.is_unknown && batch.fence.is_some() {
                cell.unload("what became of a settlement is unknown");
            }
            batch.outcome = Some(Err(batch.failed_as(JournalError::Poisoned)));
            return None;
        }
        // Who settles what was claimed waits: nothing else can be done with what was sent. It also
        // frees memory, and must not wait for what has to wait for that.
        let is_late = batch.started.elapsed() >= self.options.patience && batch.fence.is_none();
        let is_full = error == RedisError::Full { what: "OOM" };
        if is_late && batch.is_unknown {
            batch.tell(Err(JournalError::Unknown));
        } else if (is_late || is_full) && !batch.is_unknown {
            batch.outcome = Some(Err(JournalError::Full));
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

    /// What its callers are told if it failed with `error`.
    fn failed_as(&self, error: JournalError) -> JournalError {
        if self.is_unknown { JournalError::Unknown } else { error }
    }

    /// Answers an addition of which nothing happened, as far as is known.
    fn answer(&mut self, cell: &Cell, result: Result<(), JournalError>) {
        for request in &self.requests {
            cell.reopen(request.generation, &request.sent);
        }
        self.tell(result);
    }
}

/// Which keys of a batch, by their numbers, were used meanwhile, if that is why it was refused.
fn used_keys(error: &RedisError) -> Option<Vec<usize>> {
    match error {
        RedisError::Refused { code, what } if code == "KEYUSED" => {
            Some(what.split_ascii_whitespace().filter_map(|key| key.parse().ok()).collect())
        }
        _ => None,
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
