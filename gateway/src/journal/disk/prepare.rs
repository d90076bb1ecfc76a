//! Makes the next segment while the current one is written, and keeps trying while it cannot.

use super::core::Core;
use super::segment::{Segment, SegmentError};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

/// Pauses of the disk between two tries to make a segment that found no room.
const PAUSES: u32 = 5;

type Made = Result<Arc<Segment>, SegmentError>;

/// The writer's view of the segment to come.
pub(super) struct Preparer {
    worker: Worker,
    next: Option<Arc<Segment>>,
    base: u64,
    has_failed: bool,
}

enum Worker {
    Thread {
        ask: SyncSender<u64>,
        made: Receiver<Made>,
        thread: JoinHandle<()>,
    },
    /// Made by whoever asks, when it is needed: no thread, no chance.
    Inline {
        core: Arc<Core>,
        is_asked: bool,
    },
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
        Ok(Self::with(Worker::Thread { ask, made, thread }))
    }

    /// One that makes segments in the caller's own steps.
    #[cfg(test)]
    pub(super) fn inline(core: &Arc<Core>) -> Self {
        Self::with(Worker::Inline { core: Arc::clone(core), is_asked: false })
    }

    fn with(worker: Worker) -> Self {
        Self { worker, next: None, base: 0, has_failed: false }
    }

    /// Asks for the segment that starts at `base`.
    pub(super) fn ask(&mut self, base: u64) {
        self.base = base;
        match &mut self.worker {
            Worker::Thread { ask, .. } => {
                ask.send(base).ok();
            }
            Worker::Inline { is_asked, .. } => *is_asked = true,
        }
    }

    /// Looks whether what was asked for is there; false while it cannot be made.
    pub(super) fn has_next(&mut self) -> bool {
        if self.next.is_none() {
            let made = match &mut self.worker {
                Worker::Thread { made, .. } => match made.try_recv() {
                    Ok(made) => Some(made),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
                },
                Worker::Inline { core, is_asked } => {
                    std::mem::take(is_asked).then(|| core.create_segment(self.base))
                }
            };
            if let Some(made) = made {
                self.note(made);
            }
        }
        self.next.is_some() || !self.has_failed
    }

    /// The next segment, waited for unless it could not be made.
    pub(super) fn take(&mut self) -> Option<Arc<Segment>> {
        while self.has_next() && self.next.is_none() {
            let made = match &self.worker {
                Worker::Thread { made, .. } => made.recv(),
                Worker::Inline { .. } => Err(RecvError),
            };
            self.note(made.ok()?);
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
        if let Worker::Thread { ask, made, thread } = self.worker {
            drop((ask, made));
            if thread.join().is_err() {
                tracing::error!("the thread that prepares journal segments panicked");
            }
        }
    }
}
