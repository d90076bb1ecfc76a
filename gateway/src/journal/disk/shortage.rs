//! A disk without room: new work is refused until there is some, nothing else stops.

use super::media::{Disk, DiskFile, is_shortage, read_some, write_all};
use parking_lot::RwLock;
use redb::StorageBackend;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of the index kept in memory for want of room: more than it writes between two syncs.
const BEHIND_BYTES_MAX: usize = 64 << 20;

/// What stands in the way of new work.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// The index waits for room.
    index: AtomicBool,
    /// There is no next segment, and what is left of this one is for settlements.
    pub(super) segment: AtomicBool,
    /// The directory is not where it was.
    pub(super) gone: AtomicBool,
    /// The journal closes: nobody waits any more.
    pub(super) closing: AtomicBool,
}

impl Shortage {
    /// Why new work is refused, in words for an operator.
    pub(super) fn reason(&self) -> Option<&'static str> {
        let reasons = [
            (&self.gone, "the data directory is not where it was; put it back"),
            (&self.index, "the disk has no room for the journal's index; make some"),
            (&self.segment, "the disk has no room for a new journal segment; make some"),
        ];
        let holds = reasons.iter().find(|(flag, _)| flag.load(Ordering::Relaxed));
        holds.map(|(_, reason)| *reason)
    }
}

/// The index's file as its library sees it. A full disk is waited out: the library gives a
/// database up at the first failed write, and everything in it since the last checkpoint. It holds
/// locks that readers need while it writes, and none while it syncs: so what finds no room is kept
/// in memory, and the sync waits.
#[derive(Debug)]
pub(super) struct IndexFile {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    shortage: Arc<Shortage>,
    /// Not while opening: a start that cannot write says so.
    patient: Arc<AtomicBool>,
    behind: RwLock<Behind>,
}

/// What found no room, in its order.
#[derive(Debug, Default)]
struct Behind {
    changes: VecDeque<Change>,
    bytes: usize,
}

#[derive(Debug)]
enum Change {
    Len(u64),
    Write(u64, Vec<u8>),
}

impl Change {
    fn make(&self, file: &dyn DiskFile) -> io::Result<()> {
        match self {
            Self::Len(len) => file.set_len(*len),
            Self::Write(at, bytes) => write_all(file, bytes, *at),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Len(_) => 0,
            Self::Write(_, bytes) => bytes.len(),
        }
    }
}

impl Behind {
    /// True if the last that was asked for is a length.
    fn ends_with_len(&self) -> bool {
        matches!(self.changes.back(), Some(Change::Len(_)))
    }

    /// Makes up for what is there, as far as there is room.
    fn catch_up(&mut self, file: &dyn DiskFile) -> io::Result<()> {
        while let Some(change) = self.changes.front() {
            change.make(file)?;
            if matches!(change, Change::Len(_)) {
                // Nothing that relies on it may be durable before it.
                file.sync()?;
            }
            self.bytes -= change.bytes();
            self.changes.pop_front();
        }
        Ok(())
    }

    /// Shows in `out`, which was read from `offset`, what has not been written.
    fn show(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        for change in &self.changes {
            let Change::Write(at, bytes) = change else { continue };
            let (from, until) = (offset.max(*at), end.min(at + bytes.len() as u64));
            let place = |from: u64, at: u64| usize::try_from(from.saturating_sub(at)).unwrap_or(0);
            let source = bytes.get(place(from, *at)..place(until, *at));
            let target = out.get_mut(place(from, offset)..place(until, offset));
            if let (Some(source), Some(target)) = (source, target.filter(|_| from < until)) {
                target.copy_from_slice(source);
            }
        }
    }
}

impl IndexFile {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        file: Arc<dyn DiskFile>,
        shortage: Arc<Shortage>,
        patient: Arc<AtomicBool>,
    ) -> Self {
        Self { disk, file, shortage, patient, behind: RwLock::default() }
    }

    /// Makes a change, or keeps it until there is room.
    fn change(&self, change: Change) -> io::Result<()> {
        loop {
            let mut behind = self.behind.write();
            let caught_up = behind.catch_up(self.file.as_ref());
            match caught_up.and_then(|()| change.make(self.file.as_ref())) {
                Err(error) if self.waits_out(&error) => {
                    if behind.bytes < BEHIND_BYTES_MAX {
                        behind.bytes += change.bytes();
                        behind.changes.push_back(change);
                        return Ok(());
                    }
                    drop(behind);
                    self.wait(&error);
                }
                done => return done,
            }
        }
    }

    fn waits_out(&self, error: &io::Error) -> bool {
        is_shortage(error)
            && self.patient.load(Ordering::Relaxed)
            && !self.shortage.closing.load(Ordering::Acquire)
    }

    fn wait(&self, error: &io::Error) {
        if !self.shortage.index.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the journal's index cannot grow; new work is refused until it can");
        }
        self.disk.wait_for_room();
    }
}

impl StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        let behind = self.behind.read();
        let lens = behind.changes.iter().rev().find_map(|change| match change {
            Change::Len(len) => Some(*len),
            Change::Write(..) => None,
        });
        lens.map_or_else(|| self.file.len(), Ok)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let behind = self.behind.read();
        let read = read_some(self.file.as_ref(), out, offset)?;
        if behind.changes.is_empty() {
            let is_whole = read == out.len();
            return if is_whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        out.get_mut(read..).unwrap_or_default().fill(0);
        behind.show(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        loop {
            let (caught_up, is_len) = {
                let mut behind = self.behind.write();
                (behind.catch_up(self.file.as_ref()), behind.ends_with_len())
            };
            match caught_up {
                // While it grows the library holds a lock that readers need, and asks for order
                // alone: that is kept here.
                Err(error) if is_len && self.waits_out(&error) => return Ok(()),
                Ok(()) => {
                    if self.shortage.index.swap(false, Ordering::Relaxed) {
                        tracing::info!("the journal's index grows again");
                    }
                    return self.file.sync();
                }
                Err(error) if self.waits_out(&error) => self.wait(&error),
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
    }
}
