//! Drives a journal without threads, one step at a time, so that a run is a function of its seed.

use super::core::Core;
use super::media::Disk;
use super::prepare::{Made, Maker, Preparer};
use super::recovery;
use super::scan::Scanner;
use super::writer::{ToProjector, Writer};
use super::{DiskJournal, DiskOptions, OpenError, PROJECTOR_LAG_MAX, projector};
use crate::clock::Clock;
use crate::journal::record::HEADER_BYTES;
use crate::model::{Millis, ShardId};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

/// Makes segments when somebody looks for them.
struct Inline {
    core: Arc<Core>,
    asked: Option<u64>,
}

impl Maker for Inline {
    fn ask(&mut self, base: u64) {
        self.asked = Some(base);
    }

    fn look(&mut self) -> Option<Made> {
        self.asked.take().map(|base| self.core.create_segment(base))
    }

    fn wait(&mut self) -> Option<Made> {
        self.look()
    }

    fn stop(self: Box<Self>) {}
}

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
            Preparer::with(Box::new(Inline { core: Arc::clone(&core), asked: None })),
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
        self.step(now);
    }

    fn step(&mut self, now: Instant) -> bool {
        let (requests, closed) = self.journal.core.inbox.take(Duration::ZERO);
        self.writer.turn(requests, closed, || now)
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

    /// Lets every lease run out, as if whoever renews them had stood still.
    pub(crate) fn lapse(&self) {
        for cell in &self.journal.core.shards {
            let mut state = cell.state.lock();
            state.next_lease_check = Millis(0);
            state.in_flight.values_mut().for_each(|held| held.until = Millis(0));
        }
    }

    /// Where roots are looked for, and the blocks that are there.
    pub(crate) fn describe(&self) -> Vec<String> {
        let core = &self.journal.core;
        let mut lines: Vec<_> =
            core.granules().iter().map(|granule| format!("{granule:x?}")).collect();
        let mut scanner = Scanner::new(&core.segments, HEADER_BYTES as u64);
        while let Some(header) = scanner.next_header(u64::MAX) {
            lines.push(format!("{header:x?}"));
        }
        lines
    }

    /// Refills lines that were cut short.
    pub(crate) fn sweep(&self) {
        let core = &self.journal.core;
        for (number, cell) in (0u16..).zip(&core.shards) {
            while core.sweep(ShardId(number), cell) {}
        }
    }

    /// Loads due timers.
    pub(crate) fn timers(&self) {
        projector::wake_timers(&self.journal.core);
    }

    /// Ends as a process that was asked to: everything synced, a last checkpoint.
    pub(crate) fn close(&mut self, now: Instant) {
        let core = Arc::clone(&self.journal.core);
        core.shortage.closing.store(true, Ordering::Release);
        core.inbox.close();
        core.closed.store(true, Ordering::Release);
        self.project();
        while !self.step(now) {}
        self.project();
    }

    /// Drops what retention no longer keeps.
    pub(crate) fn retain(&self) {
        if let Err(error) = projector::retain(&self.journal.core) {
            tracing::warn!(error = %crate::telemetry::chain(error.as_ref()), "retention failed");
        }
    }
}
