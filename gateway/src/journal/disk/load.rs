//! Building a journal from what another store held: the log as it was, and an index made from it.
//!
//! A directory that is being built is marked, so that nothing starts on half of it; whoever builds
//! again begins anew. One that was moved away is marked, too.

use super::dead::{self, Loaded};
use super::index::{Checkpoint, Index, IndexError};
use super::media::{self, Disk, Opening, write_all};
use super::options::DiskOptions;
use super::recovery::{self, OpenError};
use super::retention::{Carried, load_carried};
use super::segment::{Segment, SegmentError, Segments};
use super::{DiskJournal, cancel};
use crate::clock::Clock;
use crate::journal::dump::{DumpedBlock, DumpedLetter, JournalFrame, JournalTotals, Origin};
use crate::journal::record::{
    BlockHeader, HEADER_BYTES, Record, SettleRecord, id_prefix, put_block,
};
use crate::journal::shard::{Place, is_timer};
use crate::journal::{Books, DeadLetter, DeadPlace, DeadRow, Journal, Sums};
use crate::model::{Millis, OrganizationId, ShardId};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that mark a journal nobody may start on.
const UNFINISHED: &str = "UNFINISHED";
const MOVED: &str = "MOVED";
/// Where a log begins that is the end of a longer one. Places below it are of what it has not.
const BASE: u64 = 1 << 40;
/// Dead letters put in at once.
const LETTERS_AT_ONCE: usize = 256;

/// Why a journal could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the index of the new journal cannot be written")]
    Index(#[from] IndexError),
    #[error("{} holds a journal already: name an empty directory", dir.display())]
    Taken { dir: PathBuf },
    #[error("a block that came is not what a block should be")]
    Unreadable,
    #[error("the parts of the journal came in another order than they should")]
    Order,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LoadError {
    let path = path.to_path_buf();
    move |source| LoadError::Io { action, path, source }
}

/// Refuses a journal that was moved away, or that was not built to its end.
pub(super) fn refuse_marked(dir: &Path) -> Result<(), OpenError> {
    if let Ok(to) = std::fs::read_to_string(dir.join(MOVED)) {
        let to = if to.is_empty() { to } else { format!(" to {to}") };
        return Err(OpenError::Moved { dir: dir.to_path_buf(), to });
    }
    if dir.join(UNFINISHED).exists() {
        return Err(OpenError::Unfinished { dir: dir.to_path_buf() });
    }
    Ok(())
}

/// An entry of the new log that is not done.
#[derive(Clone, Copy, Debug)]
struct Open {
    place: Place,
    /// 0 unless it is a timer.
    due: Millis,
}

/// A journal being built in an empty directory.
pub struct DiskLoader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: DiskOptions,
    clock: Arc<dyn Clock>,
    /// Until the log is whole.
    log: Option<Log>,
    before: BTreeMap<i32, Sums>,
    canceled: Vec<(crate::model::NotificationId, OrganizationId)>,
    letters: Vec<Loaded>,
    letters_loaded: u32,
    index: Option<Index>,
}

/// The log as far as it is written.
struct Log {
    segments: Segments,
    segment: Arc<Segment>,
    position: u64,
    start: u64,
    open: HashMap<Origin, Open>,
    /// Entries that this log does not have, by where they were.
    absent: HashMap<Origin, u32>,
    _lock: Arc<dyn media::DiskFile>,
}

impl std::fmt::Debug for DiskLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskLoader").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl DiskLoader {
    /// Begins a journal in `dir`, which is empty or was begun before. `is_whole` if the log that
    /// comes is there from its beginning.
    ///
    /// # Errors
    /// There is another journal in `dir`, or the disk cannot be written.
    pub fn begin(
        dir: &Path,
        options: DiskOptions,
        clock: Arc<dyn Clock>,
        is_whole: bool,
    ) -> Result<Self, LoadError> {
        let disk = media::machine();
        disk.create_dir(dir).map_err(io_error("create", dir))?;
        let lock = recovery::lock(disk.as_ref(), dir)?;
        let mark = dir.join(UNFINISHED);
        let files = disk.list(dir).map_err(io_error("list", dir))?;
        let is_other = |path: &&PathBuf| path.file_name().is_some_and(|name| name != "LOCK");
        if files.iter().any(|path| is_other(&path)) && !mark.exists() {
            return Err(LoadError::Taken { dir: dir.to_path_buf() });
        }
        disk.open(&mark, Opening::OrNew).map_err(io_error("create", &mark))?;
        disk.sync_dir(dir).map_err(io_error("sync", dir))?;
        for path in files.iter().filter(is_other).filter(|path| **path != mark) {
            disk.remove(path).map_err(io_error("remove", path))?;
        }
        recovery::check_shards(disk.as_ref(), dir, options.shards)?;
        let segments = Segments::open(Arc::clone(&disk), dir)?;
        let base = if is_whole { 0 } else { BASE };
        let segment = segments.create(base, options.segment_bytes)?;
        let start = base + HEADER_BYTES as u64;
        let log = Log {
            segments,
            segment,
            position: start,
            start,
            open: HashMap::new(),
            absent: HashMap::new(),
            _lock: lock,
        };
        Ok(Self {
            disk,
            dir: dir.to_path_buf(),
            options,
            clock,
            log: Some(log),
            before: BTreeMap::new(),
            canceled: Vec::new(),
            letters: Vec::new(),
            letters_loaded: 0,
            index: None,
        })
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// It cannot be written, or is not what it should be.
    pub fn put(&mut self, frame: JournalFrame) -> Result<(), LoadError> {
        match frame {
            JournalFrame::Block(block) => {
                let log = self.log.as_mut().ok_or(LoadError::Order)?;
                log.block(&block, &self.options)
            }
            JournalFrame::Before(org, sums) => {
                self.before.entry(org.0).or_default().add(&sums);
                Ok(())
            }
            JournalFrame::Canceled(cancel) => {
                let org = cancel.org.unwrap_or(OrganizationId(0));
                self.canceled.push((cancel.notification, org));
                Ok(())
            }
            JournalFrame::Letter(letter) => self.letter(letter),
        }
    }

    /// Makes the journal one that can be opened; answers what it holds.
    ///
    /// # Errors
    /// As for `put`.
    pub fn finish(mut self) -> Result<JournalTotals, LoadError> {
        self.close_log()?;
        self.put_letters()?;
        let made: u64 = self.before.values().map(|sums| sums.dead_letters).sum();
        let gone = made.saturating_sub(u64::from(self.letters_loaded));
        if let Some(index) = self.index.take() {
            let txn = index.database.begin_write().map_err(IndexError::from)?;
            dead::note_dropped(&txn, gone)?;
            txn.commit().map_err(IndexError::from)?;
        }
        let opened = self.open()?;
        let backlogs = (0..self.options.shards).map(|shard| opened.backlog(ShardId(shard)));
        let (pending, timers) =
            backlogs.fold((0, 0), |sum, log| (sum.0 + log.pending, sum.1 + log.timers));
        let letters = opened.core.index.dead_kept()?;
        Ok(JournalTotals { books: opened.books(), pending, timers, letters })
    }

    /// True if a journal is being built in `dir`.
    #[must_use]
    pub fn is_begun(dir: &Path) -> bool {
        dir.join(UNFINISHED).exists()
    }

    /// Where the journal in `dir` was moved to.
    #[must_use]
    pub fn moved_to(dir: &Path) -> Option<String> {
        std::fs::read_to_string(dir.join(MOVED)).ok()
    }

    /// Lets gateways start on the journal from now on.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn release(dir: &Path) -> Result<(), LoadError> {
        let disk = media::machine();
        for mark in [UNFINISHED, MOVED].map(|name| dir.join(name)) {
            if mark.exists() {
                disk.remove(&mark).map_err(io_error("remove", &mark))?;
            }
        }
        disk.sync_dir(dir).map_err(io_error("sync", dir))
    }

    /// Lets no gateway start on the journal any more: everything in it is at `to` now.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn retire(dir: &Path, to: &str) -> Result<(), LoadError> {
        let disk = media::machine();
        let mark = dir.join(MOVED);
        let file = disk.open(&mark, Opening::Empty).map_err(io_error("create", &mark))?;
        let written = write_all(file.as_ref(), to.as_bytes(), 0).and_then(|()| file.sync());
        written.map_err(io_error("write", &mark))?;
        disk.sync_dir(dir).map_err(io_error("sync", dir))
    }

    fn open(&self) -> Result<DiskJournal, LoadError> {
        let clock = Arc::clone(&self.clock);
        Ok(DiskJournal::open_on(&self.disk, &self.dir, self.options.clone(), clock)?)
    }

    /// Ends the log, and has the index made from it.
    fn close_log(&mut self) -> Result<(), LoadError> {
        let Some(log) = self.log.take() else { return Ok(()) };
        let segment = &log.segment;
        segment.sync().map_err(SegmentError::io("sync", &segment.path))?;
        let start = log.start;
        drop(log);
        let index = recovery::open_index(&self.disk, &self.dir)?;
        let mut books = Books::default();
        self.before.values().for_each(|sums| books.add(sums));
        let sums = std::mem::take(&mut self.before);
        let carried = Carried { sums, settled: Vec::new() };
        let txn = index.database.begin_write().map_err(IndexError::from)?;
        load_carried(&txn, &carried)?;
        for (notification, org) in self.canceled.drain(..) {
            cancel::load(&txn, notification, org)?;
        }
        txn.commit().map_err(IndexError::from)?;
        let shards = (0..self.options.shards).map(|_| Default::default()).collect();
        index.write(&[], &[], Some(&Checkpoint { position: start, shards, books }))?;
        self.before = carried.sums;
        drop(index);
        // Opening applies the log to it; closing makes it durable.
        drop(self.open()?);
        self.index = Some(recovery::open_index(&self.disk, &self.dir)?);
        Ok(())
    }

    fn letter(&mut self, letter: DumpedLetter) -> Result<(), LoadError> {
        self.close_log()?;
        let DumpedLetter { delivery, notification, org, at, copy } = letter;
        // Where no block is: its own is not in this log, or has no copies.
        let place = DeadPlace { position: 1, ordinal: self.letters_loaded };
        self.letters_loaded += 1;
        let letter = DeadLetter { delivery, notification, copy: Bytes::from(copy) };
        self.letters.push(Loaded { org, row: DeadRow { place, at, letter, events: Vec::new() } });
        if self.letters.len() >= LETTERS_AT_ONCE {
            self.put_letters()?;
        }
        Ok(())
    }

    fn put_letters(&mut self) -> Result<(), LoadError> {
        let Some(index) = &self.index else { return Ok(()) };
        let txn = index.database.begin_write().map_err(IndexError::from)?;
        dead::load(&txn, &self.letters)?;
        txn.commit().map_err(IndexError::from)?;
        self.letters.clear();
        Ok(())
    }
}

/// What goes into one block of one shard.
#[derive(Default)]
struct Draft {
    records: Vec<(Option<Origin>, Record)>,
}

impl Log {
    fn block(&mut self, block: &DumpedBlock, options: &DiskOptions) -> Result<(), LoadError> {
        let mut drafts: BTreeMap<ShardId, Draft> = BTreeMap::new();
        for (place, record) in block.records().ok_or(LoadError::Unreadable)? {
            let org = match &record {
                Record::Entry(entry) => Some(entry.org),
                Record::Settle(settle) => Some(settle.org),
                Record::Amend(amend) => Some(amend.org),
                Record::Cancel(cancel) => Some(cancel.org),
                // Keys are found in every shard.
                Record::Idempotency(_) => None,
            };
            let first = drafts.keys().next().copied().unwrap_or(ShardId(0));
            let shard = org.map_or(first, |org| ShardId::of(org, options.shards));
            let origin = matches!(record, Record::Entry(_)).then_some((block.shard(), place));
            let record = match record {
                Record::Settle(settle) => {
                    let Some(settle) = self.settle(settle, block.shard()) else { continue };
                    Record::Settle(settle)
                }
                other => other,
            };
            drafts.entry(shard).or_default().records.push((origin, record));
        }
        for (shard, draft) in drafts {
            self.write(shard, draft, block.committed_at(), options)?;
        }
        Ok(())
    }

    /// The settlement with the place that its entry has here; `None` if there is nothing in it.
    fn settle(&mut self, settle: SettleRecord, shard: ShardId) -> Option<SettleRecord> {
        let origin = (shard, (settle.position, settle.index));
        if let Some(open) = self.open.get(&origin).copied() {
            if settle.done {
                self.open.remove(&origin);
            }
            let (position, index) = open.place;
            return Some(SettleRecord { position, index, due: open.due, ..settle });
        }
        if settle.resolved.is_empty() && settle.events.is_empty() {
            return None;
        }
        let next = u32::try_from(self.absent.len()).unwrap_or(u32::MAX);
        let index = *self.absent.entry(origin).or_insert(next);
        // As a timer that is over: then nobody looks for it among what is pending.
        Some(SettleRecord { position: 2, index, due: Millis(1), done: true, ..settle })
    }

    fn write(
        &mut self,
        shard: ShardId,
        draft: Draft,
        committed_at: Millis,
        options: &DiskOptions,
    ) -> Result<(), LoadError> {
        let mut payload = Vec::new();
        let mut header = BlockHeader {
            shard,
            payload_bytes: 0,
            entries: 0,
            position: 0,
            durable_floor: 0,
            committed_at,
            first_root: u64::MAX,
            last_root: 0,
        };
        let mut placed = Vec::new();
        for (origin, record) in draft.records {
            if let (Some(origin), Record::Entry(entry)) = (origin, &record) {
                let due = if is_timer(entry.due, committed_at) { entry.due } else { Millis(0) };
                placed.push((origin, header.entries, due));
                header.entries += 1;
                if entry.kind.is_root() {
                    let prefix = id_prefix(entry.notification);
                    header.first_root = header.first_root.min(prefix);
                    header.last_root = header.last_root.max(prefix);
                }
            }
            crate::journal::dump::put_record(&mut payload, record);
        }
        header.payload_bytes = u32::try_from(payload.len()).map_err(|_| LoadError::Unreadable)?;
        self.make_room(header.block_bytes() as u64, options)?;
        header.position = self.position;
        header.durable_floor = self.position;
        let mut bytes = Vec::with_capacity(header.block_bytes());
        put_block(&mut bytes, &header, &[&payload]);
        let segment = &self.segment;
        let written = segment.write(self.position, &bytes);
        written.map_err(SegmentError::io("write", &segment.path))?;
        for (origin, index, due) in placed {
            self.open.insert(origin, Open { place: (self.position, index), due });
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Goes on in another segment if this one has no room for so much.
    fn make_room(&mut self, bytes: u64, options: &DiskOptions) -> Result<(), LoadError> {
        if self.position + bytes <= self.segment.end() {
            return Ok(());
        }
        let full = &self.segment;
        full.sync().map_err(SegmentError::io("sync", &full.path))?;
        let capacity = options.segment_bytes.max(bytes + 2 * HEADER_BYTES as u64);
        self.segment = self.segments.create(full.end(), capacity)?;
        self.position = self.segment.base + HEADER_BYTES as u64;
        Ok(())
    }
}
