//! Makes the next segment while the current one is written, and keeps trying while it cannot.

use super::core::Core;
use super::segment::{Segment, SegmentError};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Pauses of the disk between two tries to make a segment that found no room.
const PAUSES: u32 = 5;

pub(super) type Made = Result<Arc<Segment>, SegmentError>;

/// Makes segments for a `Preparer`.
pub(super) trait Maker: Send {
    /// Asks for the segment that starts at `base`, one at a time.
    fn ask(&mut self, base: u64);

    /// What was asked for, if it is there.
    fn look(&mut self) -> Option<Made>;

    /// Waits for what was asked for; `None` if it will never come.
    fn wait(&mut self) -> Option<Made>;

    fn stop(self: Box<Self>);
}

/// The writer's view of the segment to come.
pub(super) struct Preparer {
    maker: Box<dyn Maker>,
    next: Option<Arc<Segment>>,
    base: u64,
    has_failed: bool,
}

struct Thread {
    ask: SyncSender<u64>,
    made: Receiver<Made>,
    thread: JoinHandle<()>,
}

impl Maker for Thread {
    fn ask(&mut self, base: u64) {
        self.ask.send(base).ok();
    }

    fn look(&mut self) -> Option<Made> {
        self.made.try_recv().ok()
    }

    fn wait(&mut self) -> Option<Made> {
        self.made.recv().ok()
    }

    fn stop(self: Box<Self>) {
        let Self { ask, made, thread } = *self;
        drop((ask, made));
        if thread.join().is_err() {
            tracing::error!("the thread that prepares journal segments panicked");
        }
    }
}

impl Preparer {
    pub(super) fn start(core: &Arc<Core>) -> std::io::Result<Self> {
        let (ask, asked) = sync_channel::<u64>(1);
        let (answer, made) = sync_channel(1);
        let core = Arc::clone(core);
        let thread = std::thread::Builder::new().name(String::from("journal-prepare"));
        let thread = thread.spawn(move || {
            let mut has_failed = false;
            for base in asked {
                for _ in 0..if has_failed { PAUSES } else { 0 } {
                    core.segments.place().0.wait_for_room();
                }
                let made = core.create_segment(base);
                has_failed = made.is_err();
                if answer.send(made).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self::with(Box::new(Thread { ask, made, thread })))
    }

    pub(super) fn with(maker: Box<dyn Maker>) -> Self {
        Self { maker, next: None, base: 0, has_failed: false }
    }

    /// Asks for the segment that starts at `base`.
    pub(super) fn ask(&mut self, base: u64) {
        self.base = base;
        self.maker.ask(base);
    }

    /// Looks whether what was asked for is there; false while it cannot be made.
    pub(super) fn has_next(&mut self) -> bool {
        if self.next.is_none()
            && let Some(made) = self.maker.look()
        {
            self.note(made);
        }
        self.next.is_some() || !self.has_failed
    }

    /// The next segment, waited for unless it could not be made.
    pub(super) fn take(&mut self) -> Option<Arc<Segment>> {
        while self.has_next() && self.next.is_none() {
            let made = self.maker.wait()?;
            self.note(made);
        }
        self.next.take()
    }

    /// Keeps a segment that was taken too early.
    pub(super) fn give_back(&mut self, segment: Arc<Segment>) {
        self.next = Some(segment);
    }

    fn note(&mut self, made: Made) {
        match made {
            Ok(segment) => {
                if std::mem::take(&mut self.has_failed) {
                    tracing::info!("there is room for journal segments again");
                }
                self.next = Some(segment);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::warn!(error = %crate::telemetry::chain(&error), "no room for a new journal segment; new work is refused until there is");
                }
                self.ask(self.base);
            }
        }
    }

    /// Ends the thread, so that nothing holds the journal's files any more.
    pub(super) fn stop(self) {
        self.maker.stop();
    }
}
