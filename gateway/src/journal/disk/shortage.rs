//! A disk without room: new work is refused until there is some, nothing else stops.

use super::media::{Disk, DiskFile, is_shortage, read_some, write_all};
use redb::StorageBackend;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
/// database up at the first failed write, and everything in it since the last checkpoint.
#[derive(Debug)]
pub(super) struct IndexFile {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    shortage: Arc<Shortage>,
    /// Not while opening: a start that cannot write says so.
    patient: Arc<AtomicBool>,
}

impl IndexFile {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        file: Arc<dyn DiskFile>,
        shortage: Arc<Shortage>,
        patient: Arc<AtomicBool>,
    ) -> Self {
        Self { disk, file, shortage, patient }
    }

    fn patiently(&self, work: impl Fn() -> io::Result<()>) -> io::Result<()> {
        loop {
            let done = work();
            let waits = self.patient.load(Ordering::Relaxed)
                && !self.shortage.closing.load(Ordering::Acquire);
            match done {
                Err(error) if is_shortage(&error) && waits => {
                    if !self.shortage.index.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "the journal's index cannot grow; new work is refused until it can");
                    }
                    self.disk.wait_for_room();
                }
                done => {
                    if self.shortage.index.swap(false, Ordering::Relaxed) && done.is_ok() {
                        tracing::info!("the journal's index grows again");
                    }
                    return done;
                }
            }
        }
    }
}

impl StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = read_some(self.file.as_ref(), out, offset)?;
        if read < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.patiently(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.patiently(|| write_all(self.file.as_ref(), data, offset))
    }
}
