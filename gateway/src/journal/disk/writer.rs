//! Group commit: one thread writes what arrived during the previous sync, syncs once, then answers.
//!
//! The next group is whatever callers enqueued while the disk was busy; a lone caller never waits
//! for others, several wait 1 ms for more, and settlements alone, which no caller waits for, follow
//! each other every 4 ms. After a failed write or sync nothing more is acknowledged, since what is on disk is then unknown.

use super::core::Core;
use super::index::{Checkpoint, Granule, Projection};
use super::media::is_shortage;
use super::options::FsyncPolicy;
use super::prepare::Preparer;
use super::segment::Segment;
use crate::crash::{self, Sabotage, Stage, is_sabotaged};
use crate::journal::record::{BlockHeader, HEADER_BYTES, id_prefix, put_block};
use crate::journal::shard::{BlockMarks, BlockRef};
use crate::journal::{Books, JournalError, Sums};
use crate::model::ShardId;
use crate::telemetry::metrics;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Requests and bytes that may wait for the disk; beyond it `append` answers `Full`.
const INBOX_REQUESTS_MAX: usize = 32_768;
const INBOX_BYTES_MAX: usize = 64 << 20;
/// A block is closed once it holds this much; a single larger request still fits.
const BLOCK_BYTES_TARGET: usize = 1 << 20;
/// A larger buffer is given back: new memory has to be cleared by the kernel, and kept memory counts.
const SPARE_BYTES_MAX: usize = 4 * BLOCK_BYTES_TARGET;
/// A group of this size shows load, and is worth waiting `LINGER` for more; one of
/// `ENOUGH_REQUESTS` is not.
const BUSY_REQUESTS: usize = 4;
const ENOUGH_REQUESTS: usize = 512;
const LINGER: Duration = Duration::from_millis(1);
/// Groups of several settlements and nothing else follow each other no faster: what they cost the
/// disk and the processor hardly depends on how much they hold, and at most slots wait for them.
const SETTLE_PACE: Duration = Duration::from_millis(4);
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// What of a segment is kept for settlements while there is no next one: its last eighth.
const KEPT_SHARE: u64 = 8;

/// One atomic addition on its way to the disk.
pub(super) struct Request {
    pub(super) shard: ShardId,
    pub(super) bytes: Vec<u8>,
    pub(super) marks: BlockMarks,
    pub(super) done: oneshot::Sender<Result<(), JournalError>>,
}

impl Request {
    /// A caller waits for its answer: it is no settlement.
    fn is_awaited(&self) -> bool {
        self.marks.settles.is_empty()
    }
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    bytes: usize,
    closed: bool,
    /// One of the requests is awaited by a caller.
    is_awaited: bool,
    /// The writer has settlements and waits for more, or for a caller.
    is_lingering: bool,
}

/// Where callers leave requests for the writer.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

impl Inbox {
    /// Enqueues, or refuses when full. Settlements pass `headroom` 2: they free what fills us.
    pub(super) fn push(&self, request: Request, headroom: usize) -> Result<(), JournalError> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(JournalError::Closed);
        }
        if waiting.requests.len() >= INBOX_REQUESTS_MAX * headroom
            || waiting.bytes + request.bytes.len() > INBOX_BYTES_MAX * headroom
        {
            return Err(JournalError::Full);
        }
        let is_news = request.is_awaited() && !waiting.is_awaited;
        waiting.is_awaited |= is_news;
        waiting.bytes += request.bytes.len();
        waiting.requests.push(request);
        if is_news || (waiting.requests.len() == 1 && !waiting.is_lingering) {
            self.wake.notify_one();
        }
        Ok(())
    }

    pub(super) fn buffered(&self) -> (usize, usize) {
        (self.waiting.lock().bytes, INBOX_BYTES_MAX)
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits up to `patience` for requests; also tells whether the inbox is closed.
    pub(super) fn take(&self, patience: Duration) -> (Vec<Request>, bool) {
        let mut waiting = self.waiting.lock();
        if waiting.requests.is_empty() && !waiting.closed {
            self.wake.wait_for(&mut waiting, patience);
        }
        waiting.bytes = 0;
        waiting.is_awaited = false;
        (std::mem::take(&mut waiting.requests), waiting.closed)
    }

    /// Waits until then, or until a request comes that a caller waits for.
    fn linger(&self, until: Instant) {
        let mut waiting = self.waiting.lock();
        waiting.is_lingering = true;
        while !waiting.is_awaited && !waiting.closed {
            if self.wake.wait_until(&mut waiting, until).timed_out() {
                break;
            }
        }
        waiting.is_lingering = false;
    }
}

/// What the writer tells the projector, in log order.
pub(super) enum ToProjector {
    Blocks(Vec<Projection>),
    Checkpoint(Box<Checkpoint>, Vec<Granule>),
}

/// A block laid out in the current group.
struct Planned {
    header: BlockHeader,
    hot: Option<Bytes>,
    marks: BlockMarks,
    done: Vec<oneshot::Sender<Result<(), JournalError>>>,
}

/// A group on its way to the disk.
struct Laid {
    /// Where `buffer` belongs.
    start: u64,
    buffer: Vec<u8>,
    planned: Vec<Planned>,
}

/// The writing thread's own state.
pub(super) struct Writer {
    core: Arc<Core>,
    projector: SyncSender<ToProjector>,
    preparer: Preparer,
    segment: Arc<Segment>,
    /// Where the next block goes.
    position: u64,
    durable: u64,
    books: Books,
    granule: Granule,
    unsynced: Vec<Arc<Segment>>,
    /// Where a write that found no room may have left something behind `position`.
    stale_until: u64,
    last_sync: Instant,
    next_checkpoint: Instant,
    last_group: usize,
    last_written: Instant,
    checkpointed: u64,
    /// The last group's buffer, for the next.
    spare: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        core: Arc<Core>,
        projector: SyncSender<ToProjector>,
        mut preparer: Preparer,
        segment: Arc<Segment>,
        (position, granule): (u64, Granule),
        now: Instant,
    ) -> Self {
        preparer.ask(segment.end());
        let books = *core.books.lock();
        Self {
            core,
            projector,
            preparer,
            segment,
            position,
            durable: position,
            books,
            granule,
            unsynced: Vec::new(),
            stale_until: 0,
            last_sync: now,
            next_checkpoint: now + CHECKPOINT_EVERY,
            last_group: 0,
            last_written: now,
            checkpointed: 0,
            spare: Vec::new(),
        }
    }

    /// Runs until the inbox is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let patience = self.next_checkpoint.saturating_duration_since(Instant::now());
            let (mut requests, closed) = self.core.inbox.take(patience);
            let idle = requests.is_empty();
            let many = requests.len().max(self.last_group);
            let is_busy = many >= BUSY_REQUESTS;
            // Every further request in this sync is one sync, and one burst of wake-ups, less.
            let is_paced = many > 1 && !requests.iter().any(Request::is_awaited);
            if !idle && is_paced && !closed {
                self.core.inbox.linger(self.last_written + SETTLE_PACE);
                requests.extend(self.core.inbox.take(Duration::ZERO).0);
            } else if !idle && is_busy && requests.len() < ENOUGH_REQUESTS && !closed {
                std::thread::sleep(LINGER);
                requests.extend(self.core.inbox.take(Duration::ZERO).0);
            }
            if !idle {
                self.last_written = Instant::now();
            }
            if self.turn(requests, closed, Instant::now) {
                self.preparer.stop();
                return;
            }
        }
    }

    /// One group, and a checkpoint if it is time; true once the inbox is closed and empty.
    pub(super) fn turn(
        &mut self,
        requests: Vec<Request>,
        closed: bool,
        now: impl Fn() -> Instant + Copy,
    ) -> bool {
        let idle = requests.is_empty();
        self.last_group = requests.len();
        if self.core.poisoned.load(Ordering::Acquire) {
            self.refuse(requests, JournalError::Poisoned);
        } else if !idle {
            self.commit_group(requests, now);
        }
        self.note_room();
        let finished = closed && idle;
        if finished || now() >= self.next_checkpoint {
            if self.sync_if(true, now()).is_ok() {
                self.checkpoint();
            }
            self.next_checkpoint = now() + CHECKPOINT_EVERY;
        }
        finished
    }

    /// Keeps the end of the last segment for settlements, which free what fills the disk.
    fn note_room(&mut self) {
        let left = self.segment.end().saturating_sub(self.position);
        let is_short = left < self.segment.capacity / KEPT_SHARE && !self.preparer.has_next();
        self.core.shortage.segment.store(is_short, Ordering::Relaxed);
    }

    fn commit_group(&mut self, mut requests: Vec<Request>, now: impl Fn() -> Instant + Copy) {
        requests.sort_by_key(|request| request.shard);
        let started = now();
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.reserve(requests.iter().map(|r| r.bytes.len() + HEADER_BYTES).sum());
        let mut laid = Laid { start: self.position, buffer, planned: Vec::new() };
        let frame = 2 * HEADER_BYTES + 8;
        let target = usize::try_from(self.core.options.segment_bytes).unwrap_or(usize::MAX);
        let target = BLOCK_BYTES_TARGET.min(target.saturating_sub(frame));
        let mut left = requests.into_iter().peekable();
        while let Some(first) = left.next() {
            let mut group = vec![first];
            let mut bytes = group[0].bytes.len();
            while let Some(next) = left
                .next_if(|next| next.shard == group[0].shard && bytes + next.bytes.len() <= target)
            {
                bytes += next.bytes.len();
                group.push(next);
            }
            let block_bytes = (HEADER_BYTES + bytes.div_ceil(8) * 8) as u64;
            if self.position + block_bytes > self.segment.end() {
                let rolled = self.write(&mut laid).and_then(|()| self.roll(now()));
                if let Err(error) = rolled {
                    self.refuse(group, error);
                    self.refuse(left.collect(), error);
                    break;
                }
                laid.start = self.position;
            }
            let planned = self.plan(group, bytes, &mut laid.buffer);
            laid.planned.push(planned);
        }
        if is_sabotaged(Sabotage::EarlyAnswer) {
            let early = laid.planned.iter_mut().flat_map(|block| block.done.drain(..));
            answer(early.collect(), Ok(()));
            crash::dawdle();
        }
        self.write(&mut laid).ok();
        let Laid { planned, mut buffer, .. } = laid;
        if buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spare = buffer;
        }
        pass(&planned, Stage::Appended, Stage::Settled);
        if self.sync_if(false, now()).is_err() {
            self.drop_planned(planned, JournalError::Uncertain);
            return;
        }
        pass(&planned, Stage::Synced, Stage::Synced);
        let took = now().saturating_duration_since(started);
        let entries: u32 = planned.iter().map(|block| block.header.entries).sum();
        metrics::committed(entries, took);
        self.core.stats.record(took, planned.len());
        self.publish(planned);
    }

    /// Takes back blocks that are not on the disk, and tells who waits for them.
    fn drop_planned(&self, planned: Vec<Planned>, error: JournalError) {
        for block in planned {
            self.reopen(block.header.shard, &block.marks);
            answer(block.done, Err(error));
        }
    }

    /// Tells who waits for what was never written.
    fn refuse(&self, requests: Vec<Request>, error: JournalError) {
        let error = if error == JournalError::Uncertain { JournalError::Poisoned } else { error };
        for request in requests {
            self.reopen(request.shard, &request.marks);
            request.done.send(Err(error)).ok();
        }
    }

    /// Settlements that were refused may come again.
    fn reopen(&self, shard: ShardId, marks: &BlockMarks) {
        let sent = marks.settles.iter();
        self.core.reopen(shard, sent.map(|s| ((s.position, s.index), s.done)));
    }

    fn plan(&mut self, group: Vec<Request>, bytes: usize, buffer: &mut Vec<u8>) -> Planned {
        let mut marks = BlockMarks::default();
        let mut done = Vec::with_capacity(group.len());
        let mut parts = Vec::with_capacity(group.len());
        let shard = group[0].shard;
        let mut offset = 0;
        for request in group {
            marks.absorb(request.marks, offset);
            offset += request.bytes.len();
            done.push(request.done);
            parts.push(request.bytes);
        }
        let roots = || {
            let roots = marks.entries.iter().filter(|e| e.kind.is_root());
            roots.map(|e| id_prefix(e.notification))
        };
        let header = BlockHeader {
            shard,
            payload_bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            entries: u32::try_from(marks.entries.len()).unwrap_or(u32::MAX),
            position: self.position,
            durable_floor: self.durable,
            committed_at: self.core.clock.now(),
            first_root: roots().min().unwrap_or(u64::MAX),
            last_root: roots().max().unwrap_or(0),
        };
        let payload: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        put_block(buffer, &header, &payload);
        self.position += header.block_bytes() as u64;
        let hot = (header.entries > 0).then(|| Bytes::from(parts.concat()));
        Planned { header, hot, marks, done }
    }

    /// Writes what is laid out. What finds no room is taken back and refused; any other failure
    /// is the end, since what is on disk is then unknown.
    fn write(&mut self, laid: &mut Laid) -> Result<(), JournalError> {
        if laid.buffer.is_empty() {
            return self.unpoisoned();
        }
        let mut buffer = std::mem::take(&mut laid.buffer);
        let end = laid.start + buffer.len() as u64;
        if let Ok(stale) = usize::try_from(self.stale_until.saturating_sub(laid.start)) {
            buffer.resize(buffer.len().max(stale), 0);
        }
        let written = self.unpoisoned().and_then(|()| {
            if !self.unsynced.iter().any(|s| s.base == self.segment.base) {
                self.unsynced.push(Arc::clone(&self.segment));
            }
            let written = self.segment.write(laid.start, &buffer);
            written.map_err(|error| self.unwritten(&error))
        });
        match written {
            Ok(()) => {
                laid.start = end;
                self.stale_until = 0;
            }
            Err(error) => {
                self.stale_until = self.stale_until.max(end);
                self.position = laid.start;
                let kept = laid.planned.partition_point(|b| b.header.position < laid.start);
                self.drop_planned(laid.planned.split_off(kept), error);
            }
        }
        buffer.clear();
        laid.buffer = buffer;
        written
    }

    fn unpoisoned(&self) -> Result<(), JournalError> {
        let poisoned = self.core.poisoned.load(Ordering::Acquire);
        if poisoned { Err(JournalError::Poisoned) } else { Ok(()) }
    }

    fn unwritten(&self, error: &std::io::Error) -> JournalError {
        if is_shortage(error) {
            tracing::warn!(%error, file = %self.segment.path.display(), "the disk has no room for what was prepared; it is refused");
            return JournalError::Full;
        }
        self.core.poison("journal write failed");
        tracing::error!(%error, file = %self.segment.path.display(), "journal write failed");
        JournalError::Uncertain
    }

    fn roll(&mut self, now: Instant) -> Result<(), JournalError> {
        let prepared = self.preparer.take().ok_or(JournalError::Full)?;
        if let Err(error) = self.leave(now) {
            self.preparer.give_back(prepared);
            return Err(error);
        }
        self.core.segments.adopt(Arc::clone(&prepared));
        self.segment = prepared;
        self.position = self.segment.base + HEADER_BYTES as u64;
        self.preparer.ask(self.segment.end());
        Ok(())
    }

    /// Leaves the segment whole and synced, so that a torn block can only be in the last one.
    fn leave(&mut self, now: Instant) -> Result<(), JournalError> {
        let stale = usize::try_from(self.stale_until.saturating_sub(self.position)).unwrap_or(0);
        if stale > 0 {
            let cleaned = self.segment.write(self.position, &vec![0; stale]);
            cleaned.map_err(|error| self.unwritten(&error))?;
        }
        self.stale_until = 0;
        self.sync_if(true, now)
    }

    fn sync_if(&mut self, force: bool, now: Instant) -> Result<(), JournalError> {
        self.unpoisoned()?;
        let due = match self.core.options.fsync {
            FsyncPolicy::Commit => true,
            FsyncPolicy::Interval(every) => now.saturating_duration_since(self.last_sync) >= every,
            FsyncPolicy::Never => false,
        };
        if !due && !force {
            return Ok(());
        }
        let started = Instant::now();
        let had_some = !self.unsynced.is_empty();
        for segment in self.unsynced.drain(..) {
            if let Err(error) = segment.sync() {
                self.core.poison("journal sync failed");
                tracing::error!(%error, file = %segment.path.display(), "journal sync failed");
                return Err(JournalError::Poisoned);
            }
        }
        self.last_sync = now;
        if had_some {
            self.core.stats.synced(started.elapsed());
        }
        self.durable = self.position;
        Ok(())
    }

    /// Makes synced blocks visible, answers their callers, then feeds the index.
    fn publish(&mut self, planned: Vec<Planned>) {
        let mut projections = Vec::new();
        let mut answers = Vec::with_capacity(planned.len());
        for block in planned {
            let Planned { header, hot, marks, done } = block;
            self.books.add(&count(&marks));
            self.extend_granule(&header);
            let end = header.position + header.block_bytes() as u64;
            let hot = hot.map(|bytes| (bytes, header.committed_at));
            let reference = BlockRef { position: header.position, hot };
            self.core.apply(header.shard, reference, end, header.committed_at, &marks);
            answers.push((header.shard, done));
            projections.extend(Projection::of(
                header.position,
                header.shard,
                header.committed_at,
                marks,
            ));
        }
        *self.core.books.lock() = self.books;
        for (shard, done) in answers {
            answer(done, Ok(()));
            self.core.wake(shard);
        }
        if !projections.is_empty() {
            self.projector.send(ToProjector::Blocks(projections)).ok();
        }
    }

    fn extend_granule(&mut self, header: &BlockHeader) {
        if !self.granule.cover(header) {
            self.granule = Granule::at(header.position);
            self.granule.cover(header);
        }
        self.core.put_granule(self.granule);
    }

    fn checkpoint(&mut self) {
        if self.checkpointed == self.position {
            return;
        }
        self.checkpointed = self.position;
        let shards = self.core.shards.iter().map(|cell| cell.state.lock().snapshot()).collect();
        let checkpoint = Checkpoint { position: self.position, shards, books: self.books };
        let granules = self.core.fresh_granules();
        self.projector.send(ToProjector::Checkpoint(Box::new(checkpoint), granules)).ok();
    }
}

/// Passes a crash point for what the group holds.
fn pass(planned: &[Planned], accepted: Stage, settled: Stage) {
    let is_accepted = |block: &Planned| block.marks.entries.iter().any(|e| e.kind.is_root());
    if planned.iter().any(is_accepted) {
        crash::point(accepted);
    }
    if accepted != settled && planned.iter().any(|block| !block.marks.settles.is_empty()) {
        crash::point(settled);
    }
}

/// What a block adds to the books.
pub(super) fn count(marks: &BlockMarks) -> Sums {
    let roots = marks.entries.iter().filter(|e| e.kind.is_root()).count();
    let mut sums = Sums { accepted: roots as u64, ..Sums::default() };
    for settle in &marks.settles {
        sums.settle(&settle.resolved, settle.dead.len());
    }
    for amend in &marks.amends {
        sums.amend(amend.record.from, amend.record.is_reopened);
    }
    sums
}

fn answer(done: Vec<oneshot::Sender<Result<(), JournalError>>>, result: Result<(), JournalError>) {
    for sender in done {
        // A caller that went away no longer waits for its answer.
        sender.send(result).ok();
    }
}
