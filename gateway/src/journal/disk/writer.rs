//! Group commit: one thread writes what arrived during the previous sync, syncs once, then answers.
//!
//! The next group is whatever callers enqueued while the disk was busy; a lone caller never waits
//! for others, several wait 1 ms for more. After a failed write or sync nothing more is acknowledged, since what is on disk is then unknown.

use super::core::Core;
use super::index::{Checkpoint, Granule, Projection};
use super::options::FsyncPolicy;
use super::record::{BlockHeader, HEADER_BYTES, id_prefix, put_block};
use super::segment::{Segment, SegmentError};
use super::state::{BlockMarks, BlockRef};
use crate::journal::{Books, JournalError, Resolution};
use crate::model::{FinalState, ShardId};
use crate::telemetry::metrics;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Requests and bytes that may wait for the disk; beyond it `append` answers `Full`.
const INBOX_REQUESTS_MAX: usize = 32_768;
const INBOX_BYTES_MAX: usize = 64 << 20;
/// A block is closed once it holds this much; a single larger request still fits.
const BLOCK_BYTES_TARGET: usize = 1 << 20;
/// A group of this size shows load, and is worth waiting `LINGER` for more; one of
/// `ENOUGH_REQUESTS` is not.
const BUSY_REQUESTS: usize = 4;
const ENOUGH_REQUESTS: usize = 512;
const LINGER: Duration = Duration::from_millis(1);
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
const GRANULE_BYTES: u64 = 256 << 10;

/// One atomic addition on its way to the disk.
pub(super) struct Request {
    pub(super) shard: ShardId,
    pub(super) bytes: Vec<u8>,
    pub(super) marks: BlockMarks,
    pub(super) done: oneshot::Sender<Result<(), JournalError>>,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    bytes: usize,
    closed: bool,
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
        waiting.bytes += request.bytes.len();
        waiting.requests.push(request);
        if waiting.requests.len() == 1 {
            self.wake.notify_one();
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    fn take(&self, patience: Duration) -> (Vec<Request>, bool) {
        let mut waiting = self.waiting.lock();
        if waiting.requests.is_empty() && !waiting.closed {
            self.wake.wait_for(&mut waiting, patience);
        }
        waiting.bytes = 0;
        (std::mem::take(&mut waiting.requests), waiting.closed)
    }
}

/// What the writer tells the projector, in log order.
pub(super) enum ToProjector {
    Blocks(Vec<Projection>),
    Checkpoint(Box<Checkpoint>, Vec<Granule>),
}

/// Makes the next segment while the current one is written.
struct Preparer {
    ask: SyncSender<u64>,
    ready: Receiver<Result<Arc<Segment>, SegmentError>>,
    thread: JoinHandle<()>,
}

impl Preparer {
    fn start(core: &Arc<Core>) -> std::io::Result<Self> {
        let (ask, asked) = sync_channel::<u64>(1);
        let (answer, ready) = sync_channel(1);
        let core = Arc::clone(core);
        let thread = std::thread::Builder::new().name(String::from("journal-prepare"));
        let thread = thread.spawn(move || {
            for base in asked {
                if answer.send(core.create_segment(base)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { ask, ready, thread })
    }

    /// Ends the thread, so that nothing holds the journal's files any more.
    fn stop(self) {
        drop((self.ask, self.ready));
        if self.thread.join().is_err() {
            tracing::error!("the thread that prepares journal segments panicked");
        }
    }
}

/// A block laid out in the current group.
struct Planned {
    header: BlockHeader,
    hot: Option<Bytes>,
    marks: BlockMarks,
    done: Vec<oneshot::Sender<Result<(), JournalError>>>,
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
    last_sync: Instant,
    checkpointed: u64,
}

impl Writer {
    pub(super) fn new(
        core: Arc<Core>,
        projector: SyncSender<ToProjector>,
        segment: Arc<Segment>,
        position: u64,
        granule: Granule,
    ) -> std::io::Result<Self> {
        let preparer = Preparer::start(&core)?;
        preparer.ask.send(segment.end()).ok();
        let books = *core.books.lock();
        Ok(Self {
            core,
            projector,
            preparer,
            segment,
            position,
            durable: position,
            books,
            granule,
            unsynced: Vec::new(),
            last_sync: Instant::now(),
            checkpointed: 0,
        })
    }

    /// Runs until the inbox is closed and empty.
    pub(super) fn run(mut self) {
        let mut next_checkpoint = Instant::now() + CHECKPOINT_EVERY;
        let mut last_group = 0;
        loop {
            let patience = next_checkpoint.saturating_duration_since(Instant::now());
            let (mut requests, closed) = self.core.inbox.take(patience);
            let idle = requests.is_empty();
            let is_busy = requests.len().max(last_group) >= BUSY_REQUESTS;
            if !idle && is_busy && requests.len() < ENOUGH_REQUESTS && !closed {
                // Every further caller in this sync is one sync, and one burst of wake-ups, less.
                std::thread::sleep(LINGER);
                requests.extend(self.core.inbox.take(Duration::ZERO).0);
            }
            last_group = requests.len();
            if self.core.poisoned.load(Ordering::Acquire) {
                refuse(requests, JournalError::Poisoned);
            } else if !idle {
                self.commit_group(requests);
            }
            let finished = closed && idle;
            if finished || Instant::now() >= next_checkpoint {
                self.sync_if(true).ok();
                self.checkpoint();
                next_checkpoint = Instant::now() + CHECKPOINT_EVERY;
            }
            if finished {
                self.preparer.stop();
                return;
            }
        }
    }

    fn commit_group(&mut self, mut requests: Vec<Request>) {
        requests.sort_by_key(|request| request.shard);
        let started = Instant::now();
        let mut buffer = Vec::with_capacity(requests.iter().map(|r| r.bytes.len() + 64).sum());
        let mut start = self.position;
        let mut planned = Vec::new();
        let mut left = requests.into_iter().peekable();
        while let Some(first) = left.next() {
            let mut group = vec![first];
            let mut bytes = group[0].bytes.len();
            while let Some(next) = left.next_if(|next| {
                next.shard == group[0].shard && bytes + next.bytes.len() <= BLOCK_BYTES_TARGET
            }) {
                bytes += next.bytes.len();
                group.push(next);
            }
            let block_bytes = (HEADER_BYTES + bytes.div_ceil(8) * 8) as u64;
            if self.position + block_bytes > self.segment.end() {
                if !self.write(start, &buffer) || !self.roll() {
                    let error = self.refusal();
                    refuse(group, error);
                    refuse(left.collect(), error);
                    buffer.clear();
                    start = self.position;
                    break;
                }
                buffer.clear();
                start = self.position;
            }
            planned.push(self.plan(group, bytes, &mut buffer));
        }
        if !self.write(start, &buffer) || self.sync_if(false).is_err() {
            self.core.poison("journal write or sync failed");
            for block in planned {
                answer(block.done, Err(JournalError::Poisoned));
            }
            return;
        }
        let took = started.elapsed();
        let entries: u32 = planned.iter().map(|block| block.header.entries).sum();
        metrics::committed(entries, took);
        metrics::commit_waited(took);
        self.core.stats.record(took, planned.len());
        self.publish(planned);
    }

    fn refusal(&self) -> JournalError {
        if self.core.poisoned.load(Ordering::Acquire) {
            JournalError::Poisoned
        } else {
            JournalError::Full
        }
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

    fn write(&mut self, start: u64, buffer: &[u8]) -> bool {
        if buffer.is_empty() {
            return true;
        }
        if !self.unsynced.iter().any(|s| s.base == self.segment.base) {
            self.unsynced.push(Arc::clone(&self.segment));
        }
        let written = self.segment.write(start, buffer);
        if let Err(error) = &written {
            self.core.poison("journal write failed");
            tracing::error!(%error, file = %self.segment.path.display(), "journal write failed");
        }
        written.is_ok()
    }

    fn roll(&mut self) -> bool {
        let prepared = match self.preparer.ready.recv() {
            Ok(Ok(segment)) => segment,
            Ok(Err(error)) => {
                tracing::warn!(error = %crate::telemetry::chain(&error), "no room for a new journal segment; new work is refused until there is");
                // Asked again now, answered by the time the next group needs it.
                self.preparer.ask.send(self.segment.end()).ok();
                return false;
            }
            Err(_) => return false,
        };
        // So that a torn block can only be in the last segment.
        if self.sync_if(true).is_err() {
            return false;
        }
        self.core.segments.adopt(Arc::clone(&prepared));
        self.segment = prepared;
        self.position = self.segment.base + HEADER_BYTES as u64;
        self.preparer.ask.send(self.segment.end()).ok();
        true
    }

    fn sync_if(&mut self, force: bool) -> Result<(), JournalError> {
        let due = match self.core.options.fsync {
            FsyncPolicy::Commit => true,
            FsyncPolicy::Interval(every) => self.last_sync.elapsed() >= every,
            FsyncPolicy::Never => false,
        };
        if !due && !force {
            return Ok(());
        }
        for segment in self.unsynced.drain(..) {
            if let Err(error) = segment.sync() {
                self.core.poison("journal sync failed");
                tracing::error!(%error, file = %segment.path.display(), "journal sync failed");
                return Err(JournalError::Poisoned);
            }
        }
        self.last_sync = Instant::now();
        self.durable = self.position;
        Ok(())
    }

    /// Makes synced blocks visible, answers their callers, then feeds the index.
    fn publish(&mut self, planned: Vec<Planned>) {
        let mut projections = Vec::new();
        let mut answers = Vec::with_capacity(planned.len());
        for block in planned {
            let Planned { header, hot, marks, done } = block;
            self.count(&marks);
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

    fn count(&mut self, marks: &BlockMarks) {
        count(&mut self.books, marks);
    }

    fn extend_granule(&mut self, header: &BlockHeader) {
        let end = header.position + header.block_bytes() as u64;
        if self.granule.end - self.granule.position >= GRANULE_BYTES {
            self.granule =
                Granule { position: header.position, end, first_root: u64::MAX, last_root: 0 };
        }
        self.granule.end = end;
        self.granule.first_root = self.granule.first_root.min(header.first_root);
        self.granule.last_root = self.granule.last_root.max(header.last_root);
        self.core.put_granule(self.granule);
    }

    fn checkpoint(&mut self) {
        if self.checkpointed == self.position {
            return;
        }
        self.checkpointed = self.position;
        let shards = self.core.shards.iter().map(|cell| cell.state.lock().snapshot()).collect();
        let checkpoint = Checkpoint {
            position: self.position,
            shards,
            accepted: self.books.accepted,
            finals: self.books.finals,
            dead_letters: self.books.dead_letters,
        };
        let granules = self.core.fresh_granules();
        self.projector.send(ToProjector::Checkpoint(Box::new(checkpoint), granules)).ok();
    }
}

/// Adds a block to the books.
pub(super) fn count(books: &mut Books, marks: &BlockMarks) {
    let roots = marks.entries.iter().filter(|e| e.kind.is_root()).count();
    books.accepted += roots as u64;
    for settle in &marks.settles {
        books.dead_letters += settle.dead.len() as u64;
        for (_, resolution) in &settle.resolved {
            if let Resolution::Final(state) = resolution {
                let slot = FinalState::ALL.iter().position(|s| s == state);
                if let Some(count) = slot.and_then(|i| books.finals.get_mut(i)) {
                    *count += 1;
                }
            }
        }
    }
}

fn answer(done: Vec<oneshot::Sender<Result<(), JournalError>>>, result: Result<(), JournalError>) {
    for sender in done {
        // A caller that went away no longer waits for its answer.
        sender.send(result).ok();
    }
}

fn refuse(requests: Vec<Request>, error: JournalError) {
    answer(requests.into_iter().map(|r| r.done).collect(), Err(error));
}
