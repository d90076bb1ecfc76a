//! What the journal's threads share, and what callers do on it: enqueue, settle, look up.

use super::index::{Granule, Index};
use super::notes::Notes;
use super::options::{CommitStats, DiskOptions};
use super::scan::Scanner;
use super::segment::{Segment, SegmentError, Segments};
use super::shortage::Shortage;
use super::sweep::Bell;
use super::writer::{Inbox, Request};
use crate::clock::Clock;
use crate::crash::{Sabotage, is_sabotaged};
use crate::journal::record::{HEADER_BYTES, encode_settlement, entries, id_prefix, settled_bytes};
use crate::journal::shard::alarms::Alarms;
use crate::journal::shard::{
    BlockMarks, BlockRef, InFlight, ListedKey, Place, Shard, listed_places, mark_settlement,
};
use crate::journal::{Books, ClaimId, Commit, Entry, IdempotencyRecord, JournalError, Settlement};
use crate::model::{DeliveryId, Millis, NotificationId, ShardId};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Payload bytes of new blocks kept in memory so that a caught-up dispatcher reads no disk.
const HOT_BYTES_MAX: usize = 32 << 20;

/// One shard's state with the means to wait for it.
pub(super) struct Cell {
    pub(super) state: Mutex<Shard>,
    /// One claimer at a time, so that `state` is not held while reading the disk.
    pub(super) gate: Mutex<()>,
    pub(super) notify: Notify,
    /// When timers not yet loaded are due.
    pub(super) alarms: Mutex<Alarms>,
}

pub(super) struct Core {
    pub(super) options: DiskOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) segments: Segments,
    pub(super) index: Index,
    pub(super) notes: Notes,
    pub(super) shards: Vec<Cell>,
    pub(super) books: Mutex<Books>,
    pub(super) inbox: Inbox,
    pub(super) poisoned: AtomicBool,
    pub(super) closed: AtomicBool,
    pub(super) shortage: Arc<Shortage>,
    pub(super) stats: CommitStats,
    /// Committed keys that the index does not hold yet.
    pub(super) recent_keys: Mutex<HashMap<[u8; 16], IdempotencyRecord>>,
    /// Committed listed roots that the index does not hold yet.
    pub(super) recent_listed: Mutex<BTreeMap<ListedKey, Place>>,
    /// Deliveries being amended: until the index shows what became of them.
    pub(super) reserved: Arc<Mutex<HashSet<DeliveryId>>>,
    /// Notifications of which nothing is sent any more.
    pub(super) canceled: RwLock<HashSet<NotificationId>>,
    /// Position of the newest checkpoint that the index holds durably.
    pub(super) checkpointed: AtomicU64,
    /// The index holds rows that retention no longer keeps.
    pub(super) untidy: AtomicBool,
    granules: RwLock<Vec<Granule>>,
    granules_saved: AtomicUsize,
    /// Wakes the thread that refills lines.
    pub(super) bell: Bell,
}

impl Core {
    pub(super) fn new(
        options: DiskOptions,
        clock: Arc<dyn Clock>,
        (segments, index, notes): (Segments, Index, Notes),
        shards: Vec<Shard>,
        granules: Vec<Granule>,
        shortage: Arc<Shortage>,
    ) -> Self {
        let cell = |shard| Cell {
            state: Mutex::new(shard),
            gate: Mutex::new(()),
            notify: Notify::new(),
            alarms: Mutex::default(),
        };
        Self {
            options,
            clock,
            segments,
            index,
            notes,
            shards: shards.into_iter().map(cell).collect(),
            books: Mutex::default(),
            inbox: Inbox::default(),
            poisoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            shortage,
            stats: CommitStats::default(),
            recent_keys: Mutex::default(),
            recent_listed: Mutex::default(),
            reserved: Arc::default(),
            canceled: RwLock::default(),
            checkpointed: AtomicU64::new(0),
            untidy: AtomicBool::new(false),
            granules_saved: AtomicUsize::new(granules.len().saturating_sub(1)),
            granules: RwLock::new(granules),
            bell: Bell::default(),
        }
    }

    /// The instant that was this long ago.
    pub(super) fn ago(&self, age: Duration) -> Millis {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Millis(self.clock.now().0.saturating_sub(age))
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
        if !marks.cancels.is_empty() {
            let mut canceled = self.canceled.write();
            canceled.extend(marks.cancels.iter().map(|cancel| cancel.notification));
        }
        let mut listed = listed_places(block.position, &marks.entries).peekable();
        if listed.peek().is_some() {
            self.recent_listed.lock().extend(listed);
        }
        if let Some(cell) = self.shards.get(usize::from(shard.0)) {
            let at = (committed_at, HOT_BYTES_MAX / self.shards.len());
            // Whatever is settled here is held here, so there is nothing to measure.
            cell.state.lock().apply(block, end, marks, at, &mut |_| None);
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

    #[cfg(test)]
    pub(super) fn granules(&self) -> Vec<Granule> {
        self.granules.read().clone()
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
        if headroom == 1 && self.shortage.reason().is_some() {
            return Err(JournalError::Full);
        }
        if bytes.len() as u64 + 2 * HEADER_BYTES as u64 + 8 > self.options.segment_bytes {
            return Err(JournalError::TooLarge);
        }
        let (done, committed) = oneshot::channel();
        self.inbox.push(Request { shard, bytes, marks, done }, headroom)?;
        Ok(Box::pin(async move { committed.await.unwrap_or(Err(JournalError::Uncertain)) }))
    }

    /// Checks leases, encodes and enqueues; fenced settlements are left out.
    pub(super) fn settle(
        &self,
        shard: ShardId,
        settlements: Vec<Settlement>,
    ) -> Result<Commit, JournalError> {
        let cell = self.shards.get(usize::from(shard.0)).ok_or(JournalError::Fenced)?;
        let room = settlements.iter().map(settled_bytes).sum();
        let mut bytes = Vec::with_capacity(room);
        let mut marks = BlockMarks::default();
        marks.settles.reserve_exact(settlements.len());
        let mut sent = Vec::with_capacity(settlements.len());
        {
            let mut state = cell.state.lock();
            for mut settlement in settlements {
                if is_sabotaged(Sabotage::DroppedOutcome) {
                    settlement.events.clear();
                    settlement.resolved.clear();
                }
                let place = (settlement.claim.position, settlement.claim.index);
                let held = state.in_flight.get_mut(&place);
                let is_fenced = |held: &InFlight| held.lease != settlement.claim.lease;
                let Some(held) = held.filter(|held| {
                    !held.closing && (!is_fenced(held) || is_sabotaged(Sabotage::NoFencing))
                }) else {
                    continue;
                };
                held.closing = settlement.done;
                held.settling += u32::from(!settlement.done);
                sent.push((place, settlement.done));
                // Its timer and its backlog are found by it.
                settlement.org = held.org;
                let due = held.ticket.due;
                let extents = encode_settlement(&settlement, due, &mut bytes);
                mark_settlement(settlement, due, extents, &mut marks);
            }
        }
        if marks.settles.is_empty() {
            return Err(JournalError::Fenced);
        }
        self.enqueue(shard, bytes, marks, 2).inspect_err(|_| self.reopen(shard, sent))
    }

    /// Takes back that settlements are on their way, `true` for those that end their entry: they
    /// were refused and may come again.
    pub(super) fn reopen(&self, shard: ShardId, sent: impl IntoIterator<Item = (Place, bool)>) {
        let Some(cell) = self.shards.get(usize::from(shard.0)) else { return };
        let mut state = cell.state.lock();
        for (place, is_last) in sent {
            let Some(held) = state.in_flight.get_mut(&place) else { continue };
            if is_last {
                held.closing = false;
            } else {
                held.settling = held.settling.saturating_sub(1);
            }
        }
    }

    pub(super) fn renew(&self, shard: ShardId, claims: &[ClaimId]) {
        let Some(cell) = self.shards.get(usize::from(shard.0)) else { return };
        let until = self.lease_until(self.clock.steady());
        let mut state = cell.state.lock();
        for claim in claims {
            let held = state.in_flight.get_mut(&(claim.position, claim.index));
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
        let state = self.shards.get(usize::from(shard.0))?.state.lock();
        let held = state.in_flight.get(&(claim.position, claim.index))?;
        (held.lease == claim.lease).then(|| Duration::from_millis(held.until.since(now)))
    }

    /// The root entry of a notification.
    pub(super) fn root(&self, id: NotificationId) -> Result<Option<Entry>, SegmentError> {
        Ok(self.root_block(id)?.map(|(_, root)| root))
    }

    /// The root entry of a notification, and the position of its block.
    pub(super) fn root_block(
        &self,
        id: NotificationId,
    ) -> Result<Option<(u64, Entry)>, SegmentError> {
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
                let root = entries(payload)
                    .map(|(_, _, entry)| entry)
                    .find(|entry| entry.notification == id && entry.kind.is_root());
                if let Some(root) = root {
                    return Ok(Some((header.position, root)));
                }
            }
        }
        Ok(None)
    }
}

impl Core {
    /// The payloads of change entries that are not done, in the order they were written.
    pub(super) fn unfinished_changes(&self) -> Result<Vec<Bytes>, SegmentError> {
        let mut places: Vec<_> = Vec::new();
        for cell in &self.shards {
            places.extend(cell.state.lock().changes.iter().copied());
        }
        places.sort_unstable();
        let mut payloads = Vec::with_capacity(places.len());
        for group in places.chunk_by(|a, b| a.0 == b.0) {
            let Some((position, _)) = group.first() else { continue };
            let (_, payload) = self.segments.block(*position)?;
            let found = entries(payload)
                .filter(|(index, _, _)| group.binary_search(&(*position, *index)).is_ok());
            payloads.extend(found.map(|(_, _, entry)| entry.payload));
        }
        Ok(payloads)
    }
}
