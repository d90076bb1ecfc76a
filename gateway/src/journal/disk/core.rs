//! What the journal's threads share, and the claiming and settling that callers do on it.

use super::index::{Granule, Index};
use super::record::{HEADER_BYTES, Record, Records, encode_settlement, id_prefix, read_header};
use super::segment::{Segment, SegmentError, Segments};
use super::state::{BlockMarks, BlockRef, InFlight, Place, Shard, TIMERS_LOADED_MAX, TimerRef};
use super::writer::{Inbox, NEVER, Request};
use crate::clock::Clock;
use crate::journal::{
    Books, Claim, ClaimId, Commit, Entry, EntryKind, IdempotencyRecord, JournalError, Settlement,
};
use crate::model::{Millis, NotificationId, ShardId};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Block positions looked up in one scan.
const SCAN_BLOCKS: usize = 256;
const SCAN_BYTES: usize = 64 << 10;

/// When `fdatasync` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Before every reply: class D2.
    Commit,
    /// At most this long after: class D1.
    Interval(Duration),
    /// When the kernel likes: class D0, for experiments.
    Never,
}

/// How to run a journal.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    pub shards: u16,
    pub segment_bytes: u64,
    pub fsync: FsyncPolicy,
    pub lease: Duration,
    /// How long timelines and settled segments stay.
    pub retention: Duration,
    /// How long idempotency keys are remembered.
    pub keys_ttl: Duration,
    /// Bytes all segments may take; beyond it new work is refused.
    pub disk_bytes_max: u64,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            shards: 8,
            segment_bytes: 32 << 20,
            fsync: FsyncPolicy::Commit,
            lease: Duration::from_secs(60),
            retention: Duration::from_hours(168),
            keys_ttl: Duration::from_hours(24),
            disk_bytes_max: 20 << 30,
        }
    }
}

/// Commit statistics, read by the metrics.
#[derive(Debug, Default)]
pub struct CommitStats {
    pub groups: AtomicU64,
    pub blocks: AtomicU64,
    pub micros: AtomicU64,
    /// Duration of the newest group in microseconds.
    pub last_micros: AtomicU64,
}

impl CommitStats {
    pub(super) fn record(&self, took: Duration, blocks: usize) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.blocks.fetch_add(blocks as u64, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.last_micros.store(micros, Ordering::Relaxed);
    }
}

/// One shard's state with the means to wait for it.
pub(super) struct Cell {
    pub(super) state: Mutex<Shard>,
    /// One claimer at a time, so that `state` is not held while reading the disk.
    gate: Mutex<()>,
    pub(super) notify: Notify,
    /// The earliest timer not yet loaded, or `NEVER`.
    pub(super) next_due: Mutex<Millis>,
}

pub(super) struct Core {
    pub(super) options: DiskOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) segments: Segments,
    pub(super) index: Index,
    pub(super) shards: Vec<Cell>,
    pub(super) books: Mutex<Books>,
    pub(super) inbox: Inbox,
    pub(super) poisoned: AtomicBool,
    pub(super) closed: AtomicBool,
    pub(super) stats: CommitStats,
    /// Committed keys that the index does not hold yet.
    pub(super) recent_keys: Mutex<HashMap<[u8; 16], IdempotencyRecord>>,
    granules: RwLock<Vec<Granule>>,
    granules_saved: AtomicUsize,
    hot_bytes: AtomicUsize,
}

impl Core {
    pub(super) fn new(
        options: DiskOptions,
        clock: Arc<dyn Clock>,
        segments: Segments,
        index: Index,
        shards: Vec<Shard>,
        granules: Vec<Granule>,
    ) -> Self {
        let cell = |shard| Cell {
            state: Mutex::new(shard),
            gate: Mutex::new(()),
            notify: Notify::new(),
            next_due: Mutex::new(Millis(0)),
        };
        Self {
            options,
            clock,
            segments,
            index,
            shards: shards.into_iter().map(cell).collect(),
            books: Mutex::default(),
            inbox: Inbox::default(),
            poisoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stats: CommitStats::default(),
            recent_keys: Mutex::default(),
            granules_saved: AtomicUsize::new(granules.len().saturating_sub(1)),
            granules: RwLock::new(granules),
            hot_bytes: AtomicUsize::new(0),
        }
    }

    pub(super) fn poison(&self, why: &'static str) {
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            tracing::error!(why, "the journal stops accepting; restart to re-read what is on disk");
        }
    }

    pub(super) fn create_segment(&self, base: u64) -> Result<Arc<Segment>, SegmentError> {
        let capacity = self.options.segment_bytes;
        if self.segments.bytes() + capacity > self.options.disk_bytes_max {
            let path = std::path::PathBuf::from(format!("segment at {base:#x}"));
            let source = std::io::Error::new(
                std::io::ErrorKind::StorageFull,
                "store.max_disk is reached; raise it or shorten store.retention",
            );
            return Err(SegmentError::Io { action: "create", path, source });
        }
        self.segments.create(base, capacity)
    }

    pub(super) fn grant_hot(&self, bytes: usize, max: usize) -> bool {
        let granted = self.hot_bytes.load(Ordering::Relaxed) + bytes <= max;
        if granted {
            self.hot_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        granted
    }

    fn release_hot(&self, bytes: usize) {
        self.hot_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn apply(
        &self,
        shard: ShardId,
        block: BlockRef,
        end: u64,
        committed_at: Millis,
        marks: &BlockMarks,
    ) {
        if !marks.idempotency.is_empty() {
            let mut recent = self.recent_keys.lock();
            recent.extend(marks.idempotency.iter().map(|record| (record.key, record.clone())));
        }
        if let Some(cell) = self.shards.get(usize::from(shard.0)) {
            let hot = block.hot.as_ref().map_or(0, |(bytes, _)| bytes.len());
            let mut state = cell.state.lock();
            let queued = state.queue.len();
            state.apply(block, end, committed_at, marks);
            if state.queue.len() == queued && hot > 0 {
                self.release_hot(hot);
            }
        }
    }

    pub(super) fn wake(&self, shard: ShardId) {
        if let Some(cell) = self.shards.get(usize::from(shard.0)) {
            cell.notify.notify_one();
        }
    }

    pub(super) fn put_granule(&self, granule: Granule) {
        let mut granules = self.granules.write();
        match granules.last_mut() {
            Some(last) if last.position == granule.position => *last = granule,
            _ => granules.push(granule),
        }
    }

    /// Granules that changed since the last call.
    pub(super) fn fresh_granules(&self) -> Vec<Granule> {
        let granules = self.granules.read();
        let from = self.granules_saved.swap(granules.len().saturating_sub(1), Ordering::Relaxed);
        granules.get(from..).unwrap_or_default().to_vec()
    }

    pub(super) fn drop_granules_before(&self, position: u64) {
        let mut granules = self.granules.write();
        let before = granules.len();
        granules.retain(|g| g.position >= position);
        let dropped = before - granules.len();
        self.granules_saved
            .fetch_sub(dropped.min(self.granules_saved.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    pub(super) fn enqueue(
        &self,
        shard: ShardId,
        bytes: Vec<u8>,
        marks: BlockMarks,
        headroom: usize,
    ) -> Result<Commit, JournalError> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(JournalError::Poisoned);
        }
        if bytes.len() as u64 + 2 * HEADER_BYTES as u64 + 8 > self.options.segment_bytes {
            return Err(JournalError::TooLarge);
        }
        let (done, committed) = oneshot::channel();
        self.inbox.push(Request { shard, bytes, marks, done }, headroom)?;
        Ok(Box::pin(async move { committed.await.unwrap_or(Err(JournalError::Closed)) }))
    }

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

    fn lease(
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

    /// Checks leases, encodes and enqueues; fenced settlements are left out.
    pub(super) fn settle(
        &self,
        shard: ShardId,
        settlements: Vec<Settlement>,
    ) -> Result<Commit, JournalError> {
        let cell = self.shards.get(usize::from(shard.0)).ok_or(JournalError::Fenced)?;
        let mut bytes = Vec::new();
        let mut marks = BlockMarks::default();
        let mut closing = Vec::new();
        {
            let mut state = cell.state.lock();
            for settlement in settlements {
                let place = (settlement.claim.position, settlement.claim.index);
                let held = state.in_flight.get_mut(&place);
                let Some(held) = held.filter(|h| h.lease == settlement.claim.lease && !h.closing)
                else {
                    continue;
                };
                held.closing = settlement.done;
                if settlement.done {
                    closing.push(place);
                }
                encode_settlement(&settlement, held.due, &mut bytes);
                mark_settlement(settlement, held.due, &mut marks);
            }
        }
        if marks.settles.is_empty() {
            return Err(JournalError::Fenced);
        }
        self.enqueue(shard, bytes, marks, 2).inspect_err(|_| {
            let mut state = cell.state.lock();
            for place in &closing {
                if let Some(held) = state.in_flight.get_mut(place) {
                    held.closing = false;
                }
            }
        })
    }

    pub(super) fn renew(&self, shard: ShardId, claims: &[ClaimId]) {
        let Some(cell) = self.shards.get(usize::from(shard.0)) else { return };
        let lease = u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX);
        let until = self.clock.now().plus(lease);
        let mut state = cell.state.lock();
        for claim in claims {
            let held = state.in_flight.get_mut(&(claim.position, claim.index));
            if let Some(held) = held.filter(|held| held.lease == claim.lease) {
                held.until = until;
            }
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

    /// The root entry of a notification.
    pub(super) fn root(&self, id: NotificationId) -> Result<Option<Entry>, SegmentError> {
        let prefix = id_prefix(id);
        let candidates: Vec<_> = {
            let granules = self.granules.read();
            let holds = |g: &&Granule| g.first_root <= prefix && prefix <= g.last_root;
            granules.iter().filter(holds).copied().collect()
        };
        for granule in candidates {
            let mut scanner = Scanner::new(&self.segments, granule.position);
            while let Some(header) = scanner.next_header(granule.end) {
                if header.first_root > prefix || prefix > header.last_root {
                    continue;
                }
                let (_, payload) = self.segments.block(header.position)?;
                let root = Records::new(payload).find_map(|record| match record {
                    Some(Record::Entry(e)) if e.notification == id && e.kind == EntryKind::Root => {
                        Some(e)
                    }
                    _ => None,
                });
                if root.is_some() {
                    return Ok(root);
                }
            }
        }
        Ok(None)
    }
}

fn mark_settlement(settlement: Settlement, due: Millis, marks: &mut BlockMarks) {
    marks.entries.extend(settlement.follow_ups.iter().map(entry_mark));
    marks.settles.push(super::record::SettleRecord {
        position: settlement.claim.position,
        index: settlement.claim.index,
        due,
        done: settlement.done,
        notification: settlement.notification,
        org: settlement.org,
        resolved: settlement.resolved,
        events: settlement.events,
        dead: settlement.dead,
    });
}

pub(super) fn entry_mark(entry: &Entry) -> super::state::EntryMark {
    super::state::EntryMark {
        notification: entry.notification,
        kind: entry.kind,
        due: entry.due,
        bytes: entry.payload.len() as u64,
    }
}

/// Reads block headers in order through one buffer.
pub(super) struct Scanner<'a> {
    segments: &'a Segments,
    position: u64,
    buffer: Bytes,
    buffer_at: u64,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(segments: &'a Segments, position: u64) -> Self {
        Self { segments, position, buffer: Bytes::new(), buffer_at: position }
    }

    /// The next block that starts below `until`, in this segment or a later one.
    pub(super) fn next_header(&mut self, until: u64) -> Option<super::record::BlockHeader> {
        while self.position < until {
            if let Some(header) = self.header_here() {
                self.position += header.block_bytes() as u64;
                return Some(header);
            }
            // Nothing more in this segment: blocks go on behind the next segment's header.
            let segment = self.segments.at(self.position)?;
            self.position = segment.end() + HEADER_BYTES as u64;
        }
        None
    }

    fn header_here(&mut self) -> Option<super::record::BlockHeader> {
        let offset =
            self.position.checked_sub(self.buffer_at).and_then(|o| usize::try_from(o).ok());
        let buffered = offset.and_then(|o| self.buffer.get(o..o + HEADER_BYTES));
        if let Some(bytes) = buffered {
            return read_header(bytes, self.position).ok();
        }
        let segment = self.segments.at(self.position)?;
        let mut buffer = vec![0; SCAN_BYTES];
        let read = segment.read(self.position, &mut buffer).ok()?;
        buffer.truncate(read);
        self.buffer = Bytes::from(buffer);
        self.buffer_at = self.position;
        read_header(self.buffer.get(..HEADER_BYTES)?, self.position).ok()
    }
}
