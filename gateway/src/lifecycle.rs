//! The life of the process: two-stage shutdown, owned tasks, and the readiness latch.
//!
//! Every long-lived task is spawned through [`Tasks`], so none outlives the join at the end of
//! `main`, and a panic in one is always seen: logged, counted and, for critical tasks, answered
//! with a drain instead of a half-dead process.

use crate::telemetry::metrics;
use parking_lot::Mutex;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How far the process is on its way down. Stages only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Normal work.
    Running,
    /// No new work; what is in flight is finished.
    Draining,
    /// Everything stops at once; unsettled work stays leased and is delivered again.
    Aborted,
}

/// The two-stage shutdown signal. Clones share one state.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<Stage>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Stage::Running)))
    }

    /// Asks for a graceful end. Without effect once draining or aborted.
    pub fn drain(&self) {
        self.advance(Stage::Draining);
    }

    /// Asks for an immediate end.
    pub fn abort(&self) {
        self.advance(Stage::Aborted);
    }

    /// The present stage.
    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    /// Resolves once draining (or aborted). Safe to drop.
    pub async fn draining(&self) {
        self.reached(Stage::Draining).await;
    }

    /// Resolves once aborted. Safe to drop.
    pub async fn aborted(&self) {
        self.reached(Stage::Aborted).await;
    }

    async fn reached(&self, stage: Stage) {
        let mut stages = self.0.subscribe();
        // The sender is owned by `self`, so the channel cannot close while this waits.
        let _still_open = stages.wait_for(|now| *now >= stage).await.is_ok();
    }

    fn advance(&self, to: Stage) {
        self.0.send_if_modified(|now| {
            let moves = *now < to;
            if moves {
                *now = to;
            }
            moves
        });
    }
}

/// Turns SIGTERM and SIGINT into the two stages: the first drains, the second aborts.
///
/// Resolves after the second signal, so it is spawned as a background task.
///
/// # Errors
/// When the operating system refuses a signal listener.
pub async fn watch_signals(shutdown: Shutdown) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for ask in [Shutdown::drain, Shutdown::abort] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        ask(&shutdown);
        tracing::info!(stage = ?shutdown.stage(), "signal received");
    }
    Ok(())
}

/// Calls `reread` for every SIGHUP, away from the reactor: it reads files. Never resolves.
///
/// # Errors
/// When the operating system refuses a signal listener.
pub async fn watch_hangups(reread: impl Fn()) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = signal(SignalKind::hangup())?;
    while hangups.recv().await.is_some() {
        tokio::task::block_in_place(&reread);
    }
    Ok(())
}

/// What the end of a task means for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// The process cannot work without it: if it ends before shutdown, or panics, drain.
    Critical,
    /// Its end is ordinary; a panic is logged and counted.
    Background,
}

/// The owner of all long-lived tasks.
#[derive(Clone, Debug)]
pub struct Tasks {
    shutdown: Shutdown,
    running: Arc<Mutex<Vec<Named>>>,
}

/// A task and the name it is known by.
type Named = (&'static str, JoinHandle<()>);

impl Tasks {
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, running: Arc::default() }
    }

    /// The signal these tasks answer to.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts `work` under `name`, which is shown in logs and by [`Tasks::join`].
    pub fn spawn<F>(&self, kind: TaskKind, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let task = tokio::spawn(async move {
            let ended = Caught::new(work).await;
            if let Err(panic) = &ended {
                report_panic(name, panic.as_ref());
            }
            if kind == TaskKind::Critical && shutdown.stage() == Stage::Running {
                tracing::error!(task = name, "critical task ended, draining");
                shutdown.drain();
            }
        });
        let mut running = self.running.lock();
        running.retain(|(_, task)| !task.is_finished());
        running.push((name, task));
    }

    /// Waits for every task to end; those still running after `deadline`, or once the shutdown is
    /// aborted, are stopped. Returns the names of the stopped ones.
    pub async fn join(&self, deadline: Duration) -> Vec<&'static str> {
        let due = tokio::time::sleep(deadline);
        tokio::pin!(due);
        let mut stopped = Vec::new();
        loop {
            // Taken one by one: a task may spawn another while this waits.
            let next = self.running.lock().pop();
            let Some((name, mut task)) = next else { return stopped };
            tokio::select! {
                biased;
                _ = &mut task => continue,
                () = &mut due => {}
                () = self.shutdown.aborted() => {}
            }
            if !task.is_finished() {
                task.abort();
                stopped.push(name);
            }
            // The outcome is known (aborted, or ended meanwhile); waiting only frees its memory.
            let _ended = task.await.is_ok();
        }
    }
}

/// Logs and counts a panic that was caught at a task's boundary.
pub fn report_panic(task: &'static str, panic: &(dyn Any + Send)) {
    let text = panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without text");
    metrics::panicked(task);
    tracing::error!(task, panic = text, "task panicked");
}

/// A future whose panic is a value.
#[derive(Debug)]
pub struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Caught<F> {
    pub fn new(inner: F) -> Self {
        Self(Box::pin(inner))
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = std::thread::Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = &mut self.0;
        // Unwind safe: after a panic the inner future is never polled again, only dropped.
        match std::panic::catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Which conditions still keep the process from taking work. Ready when there are none.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, String>>>,
    notes: Arc<Mutex<BTreeMap<&'static str, String>>>,
    shutdown: Shutdown,
}

impl Readiness {
    /// Ready from the start, not ready from the moment `shutdown` begins to drain.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { conditions: Arc::default(), notes: Arc::default(), shutdown }
    }

    /// Marks `condition` as standing in the way, with a `reason` an operator can act on.
    pub fn block(&self, condition: &'static str, reason: impl Into<String>) {
        self.conditions.lock().insert(condition, reason.into());
    }

    /// Removes `condition`.
    pub fn clear(&self, condition: &'static str) {
        self.conditions.lock().remove(condition);
    }

    /// Says `what` of `topic` to whoever asks how the process is; it keeps it from nothing.
    pub fn note(&self, topic: &'static str, what: impl Into<String>) {
        self.notes.lock().insert(topic, what.into());
    }

    /// Takes back what was said of `topic`.
    pub fn forget(&self, topic: &'static str) {
        self.notes.lock().remove(topic);
    }

    /// What was said, as `(topic, what)`.
    #[must_use]
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        self.notes.lock().iter().map(|(topic, what)| (*topic, what.clone())).collect()
    }

    /// True if nothing stands in the way.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shutdown.stage() == Stage::Running && self.conditions.lock().is_empty()
    }

    /// What stands in the way, as `(condition, reason)` in the conditions' order.
    #[must_use]
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        let mut reasons: Vec<_> =
            self.conditions.lock().iter().map(|(name, why)| (*name, why.clone())).collect();
        if self.shutdown.stage() != Stage::Running {
            reasons.push(("shutdown", String::from("the process is draining")));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_only_move_forward() {
        let shutdown = Shutdown::new();
        assert_eq!(shutdown.stage(), Stage::Running);
        shutdown.abort();
        shutdown.drain();
        assert_eq!(shutdown.stage(), Stage::Aborted);
        shutdown.draining().await;
        shutdown.aborted().await;
    }

    #[tokio::test]
    async fn a_panic_in_a_critical_task_drains_the_process() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn(TaskKind::Critical, "doomed", async { panic!("on purpose") });
        tasks.shutdown().draining().await;
        assert!(tasks.join(Duration::from_secs(5)).await.is_empty());
    }

    #[tokio::test]
    async fn a_panic_in_a_background_task_leaves_the_process_running() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn(TaskKind::Background, "doomed", async { panic!("on purpose") });
        assert!(tasks.join(Duration::from_secs(5)).await.is_empty());
        assert_eq!(tasks.shutdown().stage(), Stage::Running);
    }

    #[tokio::test]
    async fn join_stops_and_names_what_is_late() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn(TaskKind::Background, "stuck", std::future::pending());
        tasks.spawn(TaskKind::Background, "quick", async {});
        assert_eq!(tasks.join(Duration::from_millis(20)).await, ["stuck"]);
    }

    #[tokio::test]
    async fn an_aborted_shutdown_ends_the_join_early() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn(TaskKind::Background, "stuck", std::future::pending());
        tasks.shutdown().abort();
        assert_eq!(tasks.join(Duration::from_secs(3600)).await, ["stuck"]);
    }

    #[test]
    fn readiness_names_every_open_condition() {
        let shutdown = Shutdown::new();
        let readiness = Readiness::new(shutdown.clone());
        assert!(readiness.is_ready());
        readiness.block("journal", "recovering segment 3");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.reasons(), [("journal", String::from("recovering segment 3"))]);
        readiness.clear("journal");
        assert!(readiness.is_ready());
        shutdown.drain();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.reasons().len(), 1);
    }
}
