//! Drives a journal without threads, one step at a time, so that a run is a function of its seed.

use super::media::Disk;
use super::prepare::Preparer;
use super::recovery;
use super::writer::{ToProjector, Writer};
use super::{DiskJournal, DiskOptions, OpenError, PROJECTOR_LAG_MAX, projector};
use crate::clock::Clock;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Instant;

/// What the threads of a journal would do, done when the driver is told.
pub(crate) struct Driver {
    journal: Arc<DiskJournal>,
    writer: Writer,
    projected: Receiver<ToProjector>,
    turns: usize,
}

impl Driver {
    /// Opens a journal on `disk` whose steps are the caller's.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        options: DiskOptions,
        clock: Arc<dyn Clock>,
        now: Instant,
    ) -> Result<Self, OpenError> {
        let opened = recovery::open(disk, dir, options, clock)?;
        let core = Arc::clone(&opened.core);
        let (to_projector, projected) = sync_channel(PROJECTOR_LAG_MAX);
        let writer = Writer::new(
            Arc::clone(&core),
            to_projector,
            Preparer::inline(&core),
            opened.segment,
            (opened.position, opened.granule),
            now,
        );
        let journal = Arc::new(DiskJournal {
            core,
            recovered: opened.recovered,
            threads: Mutex::default(),
            lock: Mutex::new(Some(opened.lock)),
            is_driven: true,
        });
        Ok(Self { journal, writer, projected, turns: 0 })
    }

    pub(crate) fn journal(&self) -> &Arc<DiskJournal> {
        &self.journal
    }

    /// One group of the writer.
    pub(crate) fn write(&mut self, now: Instant) {
        self.turns += 1;
        // Each group sends at most two messages; the thread would wait here, nobody else can.
        if self.turns > PROJECTOR_LAG_MAX / 2 - 1 {
            self.project();
        }
        self.writer.step(now);
    }

    /// Applies to the index what was committed up to the next checkpoint.
    pub(crate) fn project(&mut self) {
        self.turns = 0;
        loop {
            match self.projected.try_recv() {
                Ok(first) => projector::apply(&self.journal.core, first, &self.projected),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    /// Loads due timers.
    pub(crate) fn timers(&self) {
        self.journal.core.load_timers(self.journal.core.clock.now());
    }

    /// Drops what retention no longer keeps.
    pub(crate) fn retain(&self) {
        projector::try_retain(&self.journal.core);
    }
}
