//! Opening a journal: lock, check every block that still matters, cut a torn tail, replay.
//!
//! A checkpoint in the index says how far the log was applied; blocks after it are applied
//! again. An unreadable block is a torn tail (and cut) only if nothing proves that it was ever
//! acknowledged: no checkpoint beyond it and no later block written after a sync beyond it.

use super::core::Core;
use super::index::{Checkpoint, Granule, Index, IndexError, Projection};
use super::media::{Disk, DiskFile, Opening, read_some, write_all};
use super::notes::Notes;
use super::options::DiskOptions;
use super::salvage;
use super::scan::blocks_behind;
use super::segment::{Segment, SegmentError, Segments};
use super::shortage::{IndexFile, Shortage};
use super::sweep::Measure;
use super::writer::count;
use crate::clock::Clock;
use crate::crash::{self, Stage};
use crate::journal::record::{BlockFault, BlockHeader, HEADER_BYTES, read_block};
use crate::journal::shard::{BlockMarks, BlockRef, Shard};
use crate::model::{Millis, ShardId};
use bytes::Bytes;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Projections applied to the index in one transaction while replaying.
const REPLAY_BATCH: usize = 4096;

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the data directory {} is in use by process {pid}: stop it, or give this one another store.dir",
        dir.display()
    )]
    InUse { dir: PathBuf, pid: String },
    #[error(
        "the journal in {} has {found} shards and the configuration says {wanted}: set store.shards = {found}",
        dir.display()
    )]
    Shards { dir: PathBuf, found: u16, wanted: u16 },
    #[error(
        "{} was moved away{to}: start the gateway on what it was moved to; `bugler store release` \
         makes it usable again, and then what was pending in it is sent from both", dir.display()
    )]
    Moved { dir: PathBuf, to: String },
    #[error(
        "{} is what a move or a restore did not finish: run it again, or remove the directory",
        dir.display()
    )]
    Unfinished { dir: PathBuf },
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(
        "the journal's index {} cannot be used; move it away and it is built again from the log",
        path.display()
    )]
    Index {
        path: PathBuf,
        #[source]
        source: IndexError,
    },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Io { action, path, source }
}

/// What opening found, for the log and for `doctor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Blocks applied again after the last checkpoint.
    pub replayed_blocks: u64,
    /// Bytes of an unacknowledged tail that were cut.
    pub cut_bytes: u64,
    /// Bytes that could not be read and were given up, as was asked for.
    pub salvaged_bytes: u64,
}

/// A journal ready to be written at `position`.
pub(super) struct Opened {
    pub(super) core: Arc<Core>,
    pub(super) segment: Arc<Segment>,
    pub(super) position: u64,
    pub(super) granule: Granule,
    pub(super) recovered: Recovered,
    pub(super) lock: Arc<dyn DiskFile>,
}

/// Opens or creates the journal in `dir`.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: DiskOptions,
    clock: Arc<dyn Clock>,
) -> Result<Opened, OpenError> {
    // Readable by the owner only: entries hold messages and credentials.
    disk.create_dir(dir).map_err(io_error("create", dir))?;
    let lock = lock(disk.as_ref(), dir)?;
    check_shards(disk.as_ref(), dir, options.shards)?;
    crash::point(Stage::Recovery);
    let mut salvaged_bytes =
        if options.salvages { salvage::mend_headers(disk.as_ref(), dir)? } else { 0 };
    let segments = Segments::open(Arc::clone(disk), dir)?;
    let index_path = dir.join("index.redb");
    let index_error = |source| OpenError::Index { path: index_path.clone(), source };
    let (shortage, patient) = (Arc::<Shortage>::default(), Arc::new(AtomicBool::new(false)));
    let read = || -> Result<_, OpenError> {
        let (file, made) = index_file(disk.as_ref(), dir, &index_path)?;
        let read = unpanicked(|| {
            let backend =
                IndexFile::new(Arc::clone(disk), file, Arc::clone(&shortage), Arc::clone(&patient));
            let index = Index::open(backend)?;
            let from = index.checkpoint()?;
            let granules = index.granules()?;
            Ok((index, from, granules))
        });
        Ok((read.map_err(index_error)?, made))
    };
    let read = match read() {
        Err(error @ OpenError::Index { .. }) if options.salvages => {
            let kept = dir.join("index.redb.damaged");
            tracing::warn!(%error, kept = %kept.display(), "the journal's index is built again from the log");
            disk.rename(&index_path, &kept).map_err(io_error("rename", &index_path))?;
            read()
        }
        read => read,
    };
    let ((index, from, granules), made) = read?;
    if let Some(made) = made {
        disk.rename(&made, &index_path).map_err(io_error("rename", &made))?;
        disk.sync_dir(dir).map_err(io_error("sync", dir))?;
    }
    let first = segments.all().first().map_or(0, |s| s.base);
    if segments.all().is_empty() {
        segments.adopt(segments.create(0, options.segment_bytes)?);
    }
    crash::point(Stage::Recovery);
    if options.salvages {
        let applied = from.as_ref().map_or(0, |checkpoint| checkpoint.position);
        salvaged_bytes += salvage::cover_damage(&segments, applied)?;
    }
    drop_unused(&segments)?;
    crash::point(Stage::Recovery);
    let checkpointed = from.as_ref().map_or(0, |checkpoint| checkpoint.position);
    let mut replay = Replay::new(from, &options, first, granules);
    let replayed = unpanicked(|| replay.run(&segments, &index));
    let end = replayed.map_err(|error| match error {
        ReplayError::Segment(error) => OpenError::Segment(error),
        ReplayError::Index(source) => index_error(source),
    })?;
    crash::point(Stage::Recovery);
    patient.store(true, Ordering::Relaxed);
    let segment = segments.at(end.position.saturating_sub(1)).ok_or_else(|| {
        io_error("find the last segment of", dir)(io::Error::from(io::ErrorKind::NotFound))
    })?;
    let Replay { shards, books, granules, recovered, latest, .. } = replay;
    // What waits was timed by it.
    clock.resume(latest);
    let granule = granules.last().copied().unwrap_or(Granule::at(end.position));
    let canceled = unpanicked(|| index.canceled()).map_err(index_error)?;
    let notes = Notes::open(disk.as_ref(), dir, options.segment_bytes);
    let notes = notes.map_err(io_error("open the notes of dropped segments in", dir))?;
    let core = Core::new(options, clock, (segments, index, notes), shards, granules, shortage);
    *core.books.lock() = books;
    core.canceled.write().extend(canceled);
    core.checkpointed.store(checkpointed, Ordering::Relaxed);
    Ok(Opened {
        core: Arc::new(core),
        segment,
        position: end.position,
        granule,
        recovered: Recovered { cut_bytes: end.cut_bytes, salvaged_bytes, ..recovered },
        lock,
    })
}

/// The index of the journal in `dir`, to be changed while the journal is closed.
pub(super) fn open_index(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Index, OpenError> {
    let path = dir.join("index.redb");
    let file = disk.open(&path, Opening::OrNew).map_err(io_error("open", &path))?;
    let (shortage, patient) = (Arc::<Shortage>::default(), Arc::new(AtomicBool::new(false)));
    let backend = IndexFile::new(Arc::clone(disk), file, shortage, patient);
    Index::open(backend).map_err(|source| OpenError::Index { path, source })
}

/// The index's file. A new one gets its name once it is whole: half of one would be damage.
fn index_file(
    disk: &dyn Disk,
    dir: &Path,
    path: &Path,
) -> Result<(Arc<dyn DiskFile>, Option<PathBuf>), OpenError> {
    match disk.open(path, Opening::Existing) {
        Ok(file) => Ok((file, None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = dir.join("index.new");
            let file = disk.open(&made, Opening::Empty).map_err(io_error("create", &made))?;
            Ok((file, Some(made)))
        }
        Err(error) => Err(io_error("open", path)(error)),
    }
}

/// Turns the assertion that redb makes where damage leaves it no way into an error.
fn unpanicked<T, E: From<IndexError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let why = String::from("its pages contradict each other");
        Err(IndexError::from(redb::Error::Corrupted(why)).into())
    })
}

/// Removes segments that were made ahead and never written to.
fn drop_unused(segments: &Segments) -> Result<(), SegmentError> {
    let all = segments.all();
    for segment in all.iter().skip(1).rev() {
        let mut first = [0; HEADER_BYTES];
        let read = segment
            .read(segment.base + HEADER_BYTES as u64, &mut first)
            .map_err(SegmentError::io("read", &segment.path))?;
        if first.get(..read).unwrap_or_default().iter().any(|b| *b != 0) {
            break;
        }
        segments.remove(segment.base)?;
    }
    Ok(())
}

pub(super) fn lock(disk: &dyn Disk, dir: &Path) -> Result<Arc<dyn DiskFile>, OpenError> {
    let path = dir.join("LOCK");
    let file = disk.open(&path, Opening::OrNew).map_err(io_error("open", &path))?;
    if !file.try_lock().map_err(io_error("lock", &path))? {
        let mut pid = [0; 20];
        let read = read_some(file.as_ref(), &mut pid, 0).unwrap_or(0);
        let pid = String::from_utf8_lossy(pid.get(..read).unwrap_or_default()).trim().to_owned();
        let pid = if pid.is_empty() { String::from("unknown") } else { pid };
        return Err(OpenError::InUse { dir: dir.to_path_buf(), pid });
    }
    file.set_len(0)
        .and_then(|()| write_all(file.as_ref(), std::process::id().to_string().as_bytes(), 0))
        .map_err(io_error("write", &path))?;
    Ok(file)
}

pub(super) fn check_shards(disk: &dyn Disk, dir: &Path, wanted: u16) -> Result<(), OpenError> {
    let path = dir.join("SHARDS");
    match disk.open(&path, Opening::Existing) {
        Ok(file) => {
            let mut text = [0; 8];
            let read = read_some(file.as_ref(), &mut text, 0).map_err(io_error("read", &path))?;
            let text = std::str::from_utf8(text.get(..read).unwrap_or_default()).ok();
            match text.and_then(|text| text.trim().parse().ok()) {
                Some(found) if found != wanted => {
                    Err(OpenError::Shards { dir: dir.to_path_buf(), found, wanted })
                }
                Some(_) => Ok(()),
                None => Err(OpenError::Segment(SegmentError::Damaged {
                    path,
                    offset: 0,
                    what: "it should hold the number of shards",
                })),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let temporary = dir.join("SHARDS.new");
            let file = disk.open(&temporary, Opening::Empty);
            let file = file.map_err(io_error("create", &temporary))?;
            write_all(file.as_ref(), wanted.to_string().as_bytes(), 0)
                .map_err(io_error("write", &temporary))?;
            file.sync().map_err(io_error("sync", &temporary))?;
            disk.rename(&temporary, &path).map_err(io_error("rename", &temporary))?;
            disk.sync_dir(dir).map_err(io_error("sync", dir))
        }
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Where the log ends.
struct End {
    position: u64,
    cut_bytes: u64,
}

struct Replay {
    /// Blocks below this are in the books and in the index.
    applied: u64,
    /// Blocks below this are in the state of the shards.
    claimed: u64,
    start: u64,
    /// Everything below this is known to have reached the disk.
    floor: u64,
    shards: Vec<Shard>,
    books: crate::journal::Books,
    granules: Vec<Granule>,
    projections: Vec<Projection>,
    recovered: Recovered,
    /// The latest time a block says it was committed.
    latest: Millis,
}

impl Replay {
    fn new(
        from: Option<Checkpoint>,
        options: &DiskOptions,
        first: u64,
        mut granules: Vec<Granule>,
    ) -> Self {
        let places = options.places;
        let fresh = || (0..options.shards).map(|_| Shard::new(places)).collect();
        let (books, applied, claimed, shards): (_, _, _, Vec<_>) = match from {
            // The books and the index are right; where lines should be only the log can say.
            Some(found) if found.shards.iter().any(|shard| shard.has_skipped) => {
                (found.books, found.position, first, fresh())
            }
            Some(found) => {
                let at = found.position;
                let shards = found.shards.into_iter().map(|s| Shard::restore(s, at, places));
                (found.books, at, at, shards.collect())
            }
            None => (crate::journal::Books::default(), first, first, fresh()),
        };
        let low = shards.iter().map(|s| s.low_water(claimed)).min().unwrap_or(claimed);
        // The index may be ahead of its checkpoint; these are made again.
        granules.retain(|granule| granule.position < applied);
        Self {
            applied,
            claimed,
            start: low.min(claimed),
            floor: applied,
            shards,
            books,
            granules,
            projections: Vec::new(),
            recovered: Recovered::default(),
            latest: Millis(0),
        }
    }

    /// Checks from the first segment that still matters to the end, applying what is new.
    fn run(&mut self, segments: &Segments, index: &Index) -> Result<End, ReplayError> {
        let all = segments.all();
        let first = segments.at(self.start).map_or(0, |s| s.base);
        let live: Vec<_> = all.into_iter().filter(|s| s.base >= first).collect();
        let mut end = End { position: self.applied.max(HEADER_BYTES as u64), cut_bytes: 0 };
        let mut measure = Measure::new(segments);
        for (number, segment) in live.iter().enumerate() {
            let is_last = number + 1 == live.len();
            end = self.segment(segment, is_last, index, &mut measure)?;
        }
        if let Some(last) = live.last() {
            self.confirm(last, end.position)?;
        }
        self.flush(index)?;
        Ok(end)
    }

    /// Writes again and syncs what no sync is known to have reached, before anything relies on it.
    /// After a failed sync a system may keep pages that the disk never got, and call the next sync
    /// a success.
    fn confirm(&self, segment: &Segment, end: u64) -> Result<(), SegmentError> {
        let from = self.floor.max(segment.base + HEADER_BYTES as u64);
        let Some(bytes) = end.checked_sub(from).and_then(|bytes| usize::try_from(bytes).ok())
        else {
            return Ok(());
        };
        if bytes == 0 {
            return Ok(());
        }
        let mut tail = vec![0; bytes];
        let read = segment.read(from, &mut tail);
        let read = read.map_err(SegmentError::io("read", &segment.path))?;
        tail.truncate(read);
        let written = segment.write(from, &tail).and_then(|()| segment.sync());
        written.map_err(SegmentError::io("write again", &segment.path))
    }

    fn segment(
        &mut self,
        segment: &Arc<Segment>,
        is_last: bool,
        index: &Index,
        measure: &mut Measure<'_>,
    ) -> Result<End, ReplayError> {
        let capacity = usize::try_from(segment.capacity).unwrap_or(usize::MAX);
        let mut bytes = vec![0; capacity];
        let read = segment
            .read(segment.base, &mut bytes)
            .map_err(SegmentError::io("read", &segment.path))?;
        bytes.truncate(read);
        let bytes = Bytes::from(bytes);
        let mut offset = HEADER_BYTES;
        loop {
            let position = segment.base + offset as u64;
            let rest = bytes.get(offset..).unwrap_or_default();
            let fault = match read_block(rest, position) {
                Ok((header, _)) => {
                    let from = offset + HEADER_BYTES;
                    let payload = bytes.slice(from..from + header.payload_bytes as usize);
                    offset += header.block_bytes();
                    self.block(segment, &header, payload, index, measure)?;
                    continue;
                }
                Err(fault) => fault,
            };
            let damaged = || SegmentError::Damaged {
                path: segment.path.clone(),
                offset: offset as u64,
                what: "a block that was acknowledged is unreadable",
            };
            // The unused end of a rolled segment is all zeros.
            let nothing_left = rest.len() < HEADER_BYTES || fault == BlockFault::Empty;
            let checkpointed = position < self.applied && self.applied <= segment.end();
            if checkpointed || acknowledged_beyond(rest, position) {
                return Err(damaged().into());
            }
            if !is_last && !nothing_left {
                return Err(damaged().into());
            }
            let cut_bytes = if is_last { cut(segment, position, rest)? } else { 0 };
            return Ok(End { position, cut_bytes });
        }
    }

    fn block(
        &mut self,
        segment: &Segment,
        header: &BlockHeader,
        payload: Bytes,
        index: &Index,
        measure: &mut Measure<'_>,
    ) -> Result<(), ReplayError> {
        self.floor = self.floor.max(header.durable_floor);
        self.latest = self.latest.max(header.committed_at);
        if header.position < self.claimed {
            return Ok(());
        }
        let unreadable = || SegmentError::Damaged {
            path: segment.path.clone(),
            offset: header.position - segment.base,
            what: "a block holds records this version does not know; use the version that wrote it",
        };
        let mut marks = BlockMarks::decode(payload).ok_or_else(unreadable)?;
        let shard = self.shards.get_mut(usize::from(header.shard.0)).ok_or_else(unreadable)?;
        let end = header.position + header.block_bytes() as u64;
        let reference = BlockRef { position: header.position, hot: None };
        let at = (header.committed_at, 0);
        shard.apply(reference, end, &marks, at, &mut |place| measure.payload_bytes(place));
        shard.settle_down(measure.segments(), header.shard);
        self.recovered.replayed_blocks += 1;
        crash::point(Stage::Recovery);
        let is_repeated = header.position < self.applied;
        if is_repeated {
            marks.keep_timers();
        } else {
            self.books.add(&count(&marks));
            self.granule(header);
        }
        let shard = ShardId(header.shard.0);
        let projection = Projection::of(header.position, shard, header.committed_at, marks);
        self.projections.extend(projection.map(|made| made.repeated(is_repeated)));
        if self.projections.len() >= REPLAY_BATCH {
            self.flush(index)?;
        }
        Ok(())
    }

    fn granule(&mut self, header: &BlockHeader) {
        if !self.granules.last_mut().is_some_and(|last| last.cover(header)) {
            let mut new = Granule::at(header.position);
            new.cover(header);
            self.granules.push(new);
        }
    }

    fn flush(&mut self, index: &Index) -> Result<(), IndexError> {
        if self.projections.is_empty() {
            return Ok(());
        }
        index.write(&self.projections, &self.granules, None)?;
        self.projections.clear();
        Ok(())
    }
}

/// True if `rest`, which starts at `position`, holds a whole block that was written after the
/// log had been synced beyond `position`.
pub(super) fn acknowledged_beyond(rest: &[u8], position: u64) -> bool {
    blocks_behind(rest, position).any(|header| header.durable_floor > position)
}

/// Overwrites an unacknowledged tail with zeros, so that nothing stale follows new blocks.
fn cut(segment: &Segment, position: u64, rest: &[u8]) -> Result<u64, SegmentError> {
    let Some(last) = rest.iter().rposition(|b| *b != 0) else { return Ok(0) };
    let zeros = vec![0; last + 1];
    crash::point(Stage::Recovery);
    segment
        .write(position, &zeros)
        .and_then(|()| segment.sync())
        .map_err(SegmentError::io("cut the torn tail of", &segment.path))?;
    Ok(zeros.len() as u64)
}
