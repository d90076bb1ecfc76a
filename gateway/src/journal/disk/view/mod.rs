//! The whole log and its index as they are at one instant, to be read and never changed.
//!
//! Of a running journal it is a snapshot: the files as they are open, and one transaction of the
//! index. Of a stopped one it opens everything for reading; an index that would have to be
//! repaired first is repaired in a copy elsewhere.

mod dump;

pub use dump::DumpError;

use super::core::Core;
use super::dead;
use super::index::{APPLIED, EVENTS, IndexError, META, read_checkpoint, split_u64};
use super::media;
use super::notes::{self, Note};
use super::outcomes::OUTCOMES;
use super::recovery::acknowledged_beyond;
use super::retention::carried;
use super::scan::{Beyond, beyond};
use super::segment::{Segment, SegmentError};
use super::timers::{TIMERS, read_timer_key};
use super::told::Told;
use crate::journal::record::{
    AmendRecord, BlockHeader, HEADER_BYTES, Record, Records, SettleRecord, read_block, read_header,
};
use crate::journal::shard::{Place, is_timer};
use crate::journal::{Books, Entry, Resolution, Sums};
use crate::model::{DeliveryId, FinalState, Millis, NotificationId, OrganizationId};
use bytes::Bytes;
use redb::{Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a data directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error(
        "{} is in use by a running gateway: stop it, or ask it with --url and its operator's port",
        dir.display()
    )]
    InUse { dir: PathBuf },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error("the journal's index cannot be read")]
    Index(#[from] IndexError),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ViewError {
    let path = path.to_path_buf();
    move |source| ViewError::Io { action, path, source }
}

/// A settlement as logged.
#[derive(Clone, Debug)]
pub struct LoggedSettlement {
    /// The entry it is about.
    pub entry: Place,
    pub is_timer: bool,
    pub done: bool,
    pub notification: NotificationId,
    pub org: OrganizationId,
    pub resolved: Vec<(DeliveryId, Resolution)>,
    pub events: Vec<Bytes>,
    pub dead: u64,
}

/// An amendment as logged.
#[derive(Clone, Copy, Debug)]
pub struct LoggedAmendment {
    pub delivery: DeliveryId,
    pub notification: NotificationId,
    pub org: OrganizationId,
    pub from: FinalState,
    pub is_reopened: bool,
}

/// One record of the log.
#[derive(Clone, Debug)]
pub enum Logged {
    /// An entry, whether it waited for a time, and its place.
    Entry(Entry, bool, Place),
    Settlement(LoggedSettlement),
    Amendment(LoggedAmendment),
    Cancellation(NotificationId),
}

/// One block of the log, with where it is.
#[derive(Clone, Debug)]
pub struct LoggedBlock {
    pub file: PathBuf,
    pub byte: u64,
    pub position: u64,
    pub at: Millis,
    pub records: Vec<Logged>,
}

/// Bytes that are no block and should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    pub byte: u64,
    pub what: &'static str,
}

/// What became of the dead letters that were ever made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadCounts {
    pub kept: u64,
    /// By retention.
    pub dropped: u64,
    /// Their deliveries were sent again.
    pub taken: u64,
    pub given_up: u64,
}

/// What the index says, for comparison with the log.
#[derive(Debug, Default)]
pub struct IndexFacts {
    /// The books as of the last checkpoint, and its position.
    pub checkpoint: Option<(u64, Books)>,
    /// Position of the last block whose rows are in.
    pub applied: Option<u64>,
    pub dead: DeadCounts,
    /// What dropped segments held, by organization.
    pub carried: BTreeMap<OrganizationId, Sums>,
    /// Entries here that were settled by segments dropped since.
    pub settled: Vec<Place>,
    /// By base of the segment: rows of timelines, and their fingerprint.
    pub events: BTreeMap<u64, (u64, u64)>,
    /// By base of the segment: rows of outcomes.
    pub outcomes: BTreeMap<u64, u64>,
}

/// Where a row came from, as a number that can be added up.
#[must_use]
pub fn fingerprint(notification: NotificationId, position: u64) -> u64 {
    let (high, low) = notification.0.as_u64_pair();
    let mixed =
        (high ^ low.rotate_left(17) ^ position.rotate_left(31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// A copy of an index, removed with it.
#[derive(Debug)]
struct Copied {
    path: PathBuf,
    /// What is read of it is gone once it is closed.
    _open: Option<Database>,
}

impl Drop for Copied {
    fn drop(&mut self) {
        // A leftover in the temporary directory is all that can come of it.
        fs::remove_file(&self.path).ok();
    }
}

/// A journal as it is at one instant.
#[derive(Debug)]
pub struct LogView {
    segments: Vec<Arc<Segment>>,
    /// Of dropped segments, as far as the index may not have them.
    notes: Vec<Note>,
    index: Option<ReadTransaction>,
    /// Of a running journal: nothing behind this position is looked at.
    until: Option<u64>,
    _lock: Option<File>,
    _copied: Option<Copied>,
}

impl LogView {
    /// Opens the journal in `dir` for reading. Changes nothing in it.
    ///
    /// # Errors
    /// A gateway runs on it, or a file cannot be opened.
    pub fn open(dir: &Path) -> Result<Self, ViewError> {
        let lock_path = dir.join("LOCK");
        let lock = match File::open(&lock_path) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("open", &lock_path)(error)),
        };
        if lock.as_ref().is_some_and(|lock| lock.try_lock_shared().is_err()) {
            return Err(ViewError::InUse { dir: dir.to_path_buf() });
        }
        let mut segments = Vec::new();
        for found in fs::read_dir(dir).map_err(io_error("list", dir))? {
            let path = found.map_err(io_error("list", dir))?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let file = File::open(&path).map_err(io_error("open", &path))?;
                segments.push(Arc::new(Segment::of(media::opened(file), path)?));
            }
        }
        segments.sort_by_key(|segment| segment.base);
        let (index, copied) = open_index(&dir.join("index.redb"))?;
        let path = notes::path(dir);
        let notes = match fs::read(&path) {
            Ok(bytes) => notes::read(&bytes).0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        Ok(Self { segments, notes, index, until: None, _lock: lock, _copied: copied })
    }

    /// A running journal as it is now.
    pub(super) fn live(core: &Core) -> Result<Self, IndexError> {
        // While notes stand still, what is dropped is in them. The index before the segments:
        // what it shows is in the log, which only grows.
        let (notes, index, segments) = core.notes.standing(|notes| {
            let index = core.index.database.begin_read()?;
            Ok::<_, IndexError>((notes.to_vec(), index, core.segments.all()))
        })?;
        let until = Some(applied(&index)?.unwrap_or(0));
        Ok(Self { segments, notes, index: Some(index), until, _lock: None, _copied: None })
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.capacity).sum()
    }

    /// The base of the segment that holds a position.
    #[must_use]
    pub fn segment_of(&self, position: u64) -> Option<u64> {
        let after = self.segments.partition_point(|segment| segment.base <= position);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        (position < segment.base + segment.capacity).then_some(segment.base)
    }

    /// The file of the segment with this base.
    #[must_use]
    pub fn file(&self, base: u64) -> Option<&Path> {
        self.segments.iter().find(|segment| segment.base == base).map(|s| s.path.as_path())
    }

    /// Reads the log from its first block to its last; answers what is no block and should be.
    ///
    /// # Errors
    /// A file could not be read.
    pub fn scan(&self, visit: &mut dyn FnMut(LoggedBlock)) -> Result<Vec<Damage>, ViewError> {
        self.scan_all(&mut |found| {
            visit(found.logged());
            true
        })
    }

    /// Reads the log as `scan` does, in blocks as they are stored, until `visit` answers false.
    fn scan_raw(
        &self,
        visit: &mut dyn FnMut(&BlockHeader, Bytes) -> bool,
    ) -> Result<Vec<Damage>, ViewError> {
        self.scan_all(&mut |found| visit(&found.header, found.payload))
    }

    fn scan_all(&self, visit: &mut dyn FnMut(Found<'_>) -> bool) -> Result<Vec<Damage>, ViewError> {
        let mut damages = Vec::new();
        for (number, segment) in self.segments.iter().enumerate() {
            let is_last = number + 1 == self.segments.len();
            if !self.scan_segment(segment, is_last, visit, &mut damages)? {
                break;
            }
        }
        Ok(damages)
    }

    fn scan_segment(
        &self,
        segment: &Segment,
        is_last: bool,
        visit: &mut dyn FnMut(Found<'_>) -> bool,
        damages: &mut Vec<Damage>,
    ) -> Result<bool, ViewError> {
        let mut position = segment.base + HEADER_BYTES as u64;
        let end = segment.base + segment.capacity;
        let mut buffer = Vec::new();
        while position + (HEADER_BYTES as u64) <= end {
            if self.until.is_some_and(|until| position > until) {
                return Ok(true);
            }
            match self.block(segment, position, &mut buffer)? {
                Ok(found) => {
                    position += found.header.block_bytes() as u64;
                    if !visit(found) {
                        return Ok(false);
                    }
                }
                Err(what) => {
                    // What follows says whether this was ever acknowledged.
                    let rest = usize::try_from(end - position).unwrap_or(usize::MAX);
                    buffer.resize(rest, 0);
                    let read = segment.read(position, &mut buffer);
                    let read = read.map_err(io_error("read", &segment.path))?;
                    buffer.truncate(read);
                    let Beyond::Damage(next) = beyond(&buffer, position) else { return Ok(true) };
                    let is_torn = is_last && !acknowledged_beyond(&buffer, position);
                    if is_torn && self.until.is_none() {
                        return Ok(true);
                    }
                    let byte = position - segment.base;
                    damages.push(Damage { file: segment.path.clone(), byte, what });
                    let Some(next) = next else { return Ok(true) };
                    position = next;
                }
            }
        }
        Ok(true)
    }

    fn block<'a>(
        &self,
        segment: &'a Segment,
        position: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Result<Found<'a>, &'static str>, ViewError> {
        buffer.resize(HEADER_BYTES, 0);
        let read = segment.read(position, buffer).map_err(io_error("read", &segment.path))?;
        let header = read_header(buffer.get(..read).unwrap_or_default(), position);
        let Ok(header) = header else { return Ok(Err("no block header")) };
        let capacity = usize::try_from(segment.capacity).unwrap_or(usize::MAX);
        buffer.resize(header.block_bytes().min(capacity), 0);
        let read = segment.read(position, buffer).map_err(io_error("read", &segment.path))?;
        buffer.truncate(read);
        let Ok((header, payload)) = read_block(buffer, position) else {
            return Ok(Err("the checksum differs"));
        };
        let payload = Bytes::copy_from_slice(payload);
        if Records::new(payload.clone()).any(|record| record.is_none()) {
            return Ok(Err("a record this version does not know"));
        }
        Ok(Ok(Found { segment, header, payload }))
    }

    /// What the index says; nothing without one.
    ///
    /// # Errors
    /// The index could not be read.
    pub fn facts(&self) -> Result<Option<IndexFacts>, ViewError> {
        let Some(index) = &self.index else { return Ok(None) };
        Ok(Some(self.read_facts(index)?))
    }

    fn read_facts(&self, index: &ReadTransaction) -> Result<IndexFacts, IndexError> {
        let is_stored = |base| self.segments.iter().any(|segment| segment.base == base);
        let kept = carried(index, &self.notes, is_stored)?;
        let mut facts = IndexFacts {
            checkpoint: read_checkpoint(index)?.map(|c| (c.position, c.books)),
            applied: applied(index)?,
            dead: dead::counts(index)?,
            carried: kept.sums.into_iter().map(|(org, s)| (OrganizationId(org), s)).collect(),
            settled: kept.settled,
            ..IndexFacts::default()
        };
        for row in index.open_table(EVENTS)?.iter()? {
            let (key, value) = row?;
            let Some(told) = Told::read(key.value(), value.value()) else { continue };
            let Some(base) = self.segment_of(told.position()) else { continue };
            let sum = facts.events.entry(base).or_default();
            for _ in told.events() {
                sum.0 += 1;
                sum.1 = sum.1.wrapping_add(fingerprint(told.notification, told.position()));
            }
        }
        for row in index.open_table(OUTCOMES)?.iter()? {
            let (key, _) = row?;
            let position = key.value().get(12..).and_then(|mut rest| split_u64(&mut rest));
            let base = position.and_then(|position| self.segment_of(position));
            if let Some(base) = base {
                *facts.outcomes.entry(base).or_default() += 1;
            }
        }
        Ok(facts)
    }

    /// Every waiting entry the index knows.
    ///
    /// # Errors
    /// The index could not be read.
    pub fn timers(&self, visit: &mut dyn FnMut(Place)) -> Result<(), ViewError> {
        let Some(index) = &self.index else { return Ok(()) };
        let table = index.open_table(TIMERS).map_err(IndexError::from)?;
        for row in table.iter().map_err(IndexError::from)? {
            let (key, _) = row.map_err(IndexError::from)?;
            if let Some((_, _, _, place)) = read_timer_key(key.value()) {
                visit(place);
            }
        }
        Ok(())
    }
}

/// A block as it is stored, whose records are known.
struct Found<'a> {
    segment: &'a Segment,
    header: BlockHeader,
    payload: Bytes,
}

impl Found<'_> {
    fn logged(self) -> LoggedBlock {
        let BlockHeader { position, committed_at: at, .. } = self.header;
        let mut index = 0;
        let records = Records::new(self.payload).flatten().filter_map(|record| {
            let place = (position, index);
            index += u32::from(matches!(record, Record::Entry(_)));
            logged_at(place, record, at)
        });
        LoggedBlock {
            file: self.segment.path.clone(),
            byte: position - self.segment.base,
            position,
            at,
            records: records.collect(),
        }
    }
}

fn applied(index: &ReadTransaction) -> Result<Option<u64>, IndexError> {
    let stored = index.open_table(META)?.get(APPLIED)?;
    Ok(stored.and_then(|position| split_u64(&mut position.value())))
}

/// A record as it is told; `place` is that of an entry.
pub(in crate::journal) fn logged_at(
    place: Place,
    record: Record,
    committed_at: Millis,
) -> Option<Logged> {
    match record {
        Record::Entry(entry) => {
            let is_timer = is_timer(entry.due, committed_at);
            Some(Logged::Entry(entry, is_timer, place))
        }
        Record::Settle(settle) => {
            let SettleRecord { position, index, due, done, notification, org, .. } = settle;
            Some(Logged::Settlement(LoggedSettlement {
                entry: (position, index),
                is_timer: due != Millis(0),
                done,
                notification,
                org,
                resolved: settle.resolved,
                events: settle.events,
                dead: settle.dead.len() as u64,
            }))
        }
        Record::Amend(amend) => {
            let AmendRecord { delivery, notification, org, from, is_reopened, .. } = amend;
            let amendment = LoggedAmendment { delivery, notification, org, from, is_reopened };
            Some(Logged::Amendment(amendment))
        }
        Record::Cancel(cancel) => Some(Logged::Cancellation(cancel.notification)),
        Record::Idempotency(_) => None,
    }
}

fn open_index(path: &Path) -> Result<(Option<ReadTransaction>, Option<Copied>), ViewError> {
    if !path.exists() {
        return Ok((None, None));
    }
    let opened = ReadOnlyDatabase::open(path).map_err(IndexError::from);
    let read = opened.and_then(|index| Ok(index.begin_read()?));
    if let Ok(index) = read {
        return Ok((Some(index), None));
    }
    // After a crash it has to be repaired, and only a copy may be.
    let name = format!("bugler-audit-{}-{}.redb", std::process::id(), uuid::Uuid::now_v7());
    let mut copied = Copied { path: std::env::temp_dir().join(name), _open: None };
    copy(path, &copied.path).map_err(io_error("copy", path))?;
    let database = Database::create(&copied.path).map_err(IndexError::from)?;
    let index = database.begin_read().map_err(IndexError::from)?;
    copied._open = Some(database);
    Ok((Some(index), Some(copied)))
}

/// Copies to a new file that only the owner can read: what is in it is nobody else's business.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut target)?;
    Ok(())
}
