//! The embedded journal: an own segmented log with group commit, and an index projected from it.
//!
//! Threads: `writer` (group commit), `prepare` (next segment), `project` (index), `timers`, `sweep`
//! (refills what claims have emptied), `retention`.
//! A crash at any instant leaves whole commits and perhaps a torn tail, which `recovery` cuts.

mod cancel;
mod claim;
mod core;
mod dead;
#[cfg(test)]
pub(crate) mod drive;
#[cfg(feature = "crash-points")]
mod faulty;
mod index;
mod listed;
mod load;
pub(crate) mod media;
mod notes;
mod options;
mod outcomes;
mod prepare;
mod projector;
mod recovery;
mod retention;
mod salvage;
mod scan;
mod segment;
mod shortage;
mod sweep;
mod timers;
mod told;
mod view;
mod writer;

#[cfg(test)]
mod cancel_tests;
#[cfg(test)]
mod claim_tests;
#[cfg(test)]
mod failing;
#[cfg(test)]
mod failing_tests;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod tests;

pub use load::{DiskLoader, LoadError};
pub use options::{CommitStats, DiskOptions, FsyncPolicy};
pub use recovery::{OpenError, Recovered};
pub use segment::SegmentError;
pub(in crate::journal) use view::logged_at;
pub use view::{
    Damage, DeadCounts, DumpError, IndexFacts, LogView, Logged, LoggedAmendment, LoggedBlock,
    LoggedSettlement, ViewError, fingerprint,
};

use self::core::Core;
use self::media::{Disk, DiskFile};
use self::prepare::Preparer;
use self::writer::Writer;
use super::{
    Amendment, Append, Backlog, Books, Cancellation, Claim, ClaimId, Commit, DeadLetter, DeadPage,
    DeadPlace, DeadRow, EventPlace, Journal, JournalError, ListedRoot, Remembered, Reserved, Room,
    SettledPage, SettledQuery, Settlement, Timeline,
};
use crate::BoxFuture;
use crate::clock::Clock;
use crate::crash::{self, Stage};
use crate::journal::record::encode_append;
use crate::journal::shard::{BlockMarks, entry_mark};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId, ShardId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Groups the index may lag behind before the writer waits for it.
const PROJECTOR_LAG_MAX: usize = 256;

/// A journal on local disk. One process at a time: the directory is locked.
pub struct DiskJournal {
    core: Arc<Core>,
    recovered: Recovered,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Arc<dyn DiskFile>>>,
    /// Driven without threads: nothing may leave the caller's.
    is_driven: bool,
}

impl std::fmt::Debug for DiskJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskJournal").field("options", &self.core.options).finish_non_exhaustive()
    }
}

impl DiskJournal {
    /// Opens the journal in `dir`, creating it if it is not there, and recovers what a crash left.
    ///
    /// Blocks on the disk: call it before serving, or from a blocking task.
    pub fn open(
        dir: &Path,
        options: DiskOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        load::refuse_marked(dir)?;
        Self::open_on(&media::machine(), dir, options, clock)
    }

    fn open_on(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        options: DiskOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let opened = recovery::open(disk, dir, options, clock)?;
        let core = Arc::clone(&opened.core);
        let threads = start(&opened).map_err(|source| OpenError::Io {
            action: "start the threads of",
            path: dir.to_path_buf(),
            source,
        })?;
        Ok(Self {
            core,
            recovered: opened.recovered,
            threads: Mutex::new(threads),
            lock: Mutex::new(Some(opened.lock)),
            is_driven: false,
        })
    }

    /// What opening had to repair.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    #[must_use]
    pub fn stats(&self) -> &CommitStats {
        &self.core.stats
    }

    /// The journal as it is now, to be read while it goes on.
    ///
    /// # Errors
    /// The index could not be read.
    pub fn view(&self) -> Result<LogView, ViewError> {
        Ok(LogView::live(&self.core)?)
    }

    /// Bytes that wait for the disk, and how many may.
    #[must_use]
    pub fn buffered(&self) -> (usize, usize) {
        self.core.inbox.buffered()
    }

    /// Why new work is refused for now, although nothing is broken.
    #[must_use]
    pub fn shortage(&self) -> Option<&'static str> {
        self.core.shortage.reason()
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        if self.is_driven {
            return work();
        }
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(JournalError::Closed))
    }

    fn shut(core: &Core, threads: Vec<JoinHandle<()>>, lock: Option<Arc<dyn DiskFile>>) {
        core.shortage.closing.store(true, Ordering::Release);
        core.inbox.close();
        core.closed.store(true, Ordering::Release);
        core.bell.ring();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a journal thread panicked");
            }
        }
        projector::wake_all(core);
        drop(lock);
    }
}

fn start(opened: &recovery::Opened) -> std::io::Result<Vec<JoinHandle<()>>> {
    let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let core = &opened.core;
    let (to_projector, projected) = sync_channel(PROJECTOR_LAG_MAX);
    let writer = Writer::new(
        Arc::clone(core),
        to_projector,
        Preparer::start(core)?,
        Arc::clone(&opened.segment),
        (opened.position, opened.granule),
        Instant::now(),
    );
    let (for_index, for_timers) = (Arc::clone(core), Arc::clone(core));
    let (for_sweep, for_retention) = (Arc::clone(core), Arc::clone(core));
    Ok(vec![
        named("journal-write").spawn(move || writer.run())?,
        named("journal-index").spawn(move || projector::project(&for_index, &projected))?,
        named("journal-timers").spawn(move || projector::tick(&for_timers))?,
        named("journal-sweep").spawn(move || sweep::run(&for_sweep))?,
        named("journal-retention").spawn(move || projector::retire(&for_retention))?,
    ])
}

impl Drop for DiskJournal {
    fn drop(&mut self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        Self::shut(&self.core, threads, self.lock.lock().take());
    }
}

impl Journal for DiskJournal {
    fn shards(&self) -> u16 {
        self.core.options.shards
    }

    fn append(&self, shard: ShardId, append: Append) -> Result<Commit, JournalError> {
        let (bytes, extents) = encode_append(&append);
        let marks = BlockMarks {
            entries: append.entries.iter().zip(extents).map(entry_mark).collect(),
            idempotency: append.idempotency,
            ..BlockMarks::default()
        };
        self.core.enqueue(shard, bytes, marks, 1)
    }

    fn claim<'a>(
        &'a self,
        shard: ShardId,
        max: usize,
        room: &'a dyn Room,
    ) -> BoxFuture<'a, Result<Vec<Claim>, JournalError>> {
        Box::pin(async move {
            let cell = self.core.shards.get(usize::from(shard.0)).ok_or(JournalError::Closed)?;
            loop {
                // Armed before looking, so that a commit in between is not missed.
                let woken = cell.notify.notified();
                if self.core.closed.load(Ordering::Acquire) {
                    return Err(JournalError::Closed);
                }
                // What cannot be settled would be sent in vain, and again after the restart.
                if self.core.poisoned.load(Ordering::Acquire) {
                    return Err(JournalError::Poisoned);
                }
                let claims = self.core.try_claim(shard, max, room);
                if !claims.is_empty() {
                    crash::point(Stage::Replied);
                    return Ok(claims);
                }
                // Leases run out without a commit, so look again now and then.
                tokio::time::timeout(Duration::from_millis(500), woken).await.ok();
            }
        })
    }

    fn nudge(&self, shard: ShardId) {
        self.core.wake(shard);
    }

    fn settle(&self, shard: ShardId, settlements: Vec<Settlement>) -> Result<Commit, JournalError> {
        self.core.settle(shard, settlements)
    }

    fn renew(&self, shard: ShardId, claims: &[ClaimId]) {
        self.core.renew(shard, claims);
    }

    fn lease_left(&self, shard: ShardId, claim: ClaimId) -> Option<Duration> {
        self.core.lease_left(shard, claim)
    }

    fn backlog(&self, shard: ShardId) -> Backlog {
        let cell = self.core.shards.get(usize::from(shard.0));
        cell.map(|cell| cell.state.lock().backlog()).unwrap_or_default()
    }

    fn backlog_of(&self, shard: ShardId, org: OrganizationId) -> Backlog {
        let cell = self.core.shards.get(usize::from(shard.0));
        cell.map(|cell| cell.state.lock().backlog_of(org)).unwrap_or_default()
    }

    fn books(&self) -> Books {
        *self.core.books.lock()
    }

    fn timeline(
        &self,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Timeline>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || {
                let root = core.root(notification).map_err(unreadable)?;
                let events = core.index.events(notification).map_err(unreadable)?;
                let is_ours = match &root {
                    Some(root) => root.org == org,
                    None => events.first().is_some_and(|(of, _)| *of == org),
                };
                Ok(is_ours.then(|| Timeline {
                    root: root.map(|root| root.payload),
                    events: events.into_iter().map(|(_, event)| event).collect(),
                }))
            })
            .await
        })
    }

    fn events_after(
        &self,
        org: OrganizationId,
        notification: NotificationId,
        after: Option<EventPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(EventPlace, Bytes)>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || {
                let found = core.index.events_after((org, notification), after, limit);
                found.map_err(unreadable)
            })
            .await
        })
    }

    fn events_before(
        &self,
        org: OrganizationId,
        notification: NotificationId,
        before: Option<EventPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(EventPlace, Bytes)>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || {
                let found = core.index.events_before((org, notification), before, limit);
                found.map_err(unreadable)
            })
            .await
        })
    }

    fn reopened(
        &self,
        deliveries: Vec<DeliveryId>,
    ) -> BoxFuture<'_, Result<HashMap<DeliveryId, u64>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.index.reopened(deliveries.into_iter()).map_err(unreadable))
                .await
        })
    }

    fn listed(
        &self,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<ListedRoot>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.listed(org, before, limit).map_err(unreadable)).await
        })
    }

    fn take(
        &self,
        shard: ShardId,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Claim>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.take(shard, (org, notification)).map_err(unreadable)).await
        })
    }

    fn remembered(
        &self,
        key: [u8; 16],
        now: Millis,
    ) -> BoxFuture<'_, Result<Remembered, JournalError>> {
        Box::pin(async move {
            let recent = self.core.recent_keys.lock().get(&key).cloned();
            if let Some(record) = recent {
                return Ok(Remembered::Yes { body: record.body, answer: record.answer });
            }
            let (created, found) = self.core.index.remembered(key).map_err(unreadable)?;
            let ttl = u64::try_from(self.core.options.keys_ttl.as_millis()).unwrap_or(u64::MAX);
            Ok(if now.since(created) > ttl { Remembered::No } else { found })
        })
    }

    fn settled(
        &self,
        query: SettledQuery,
        limit: usize,
    ) -> BoxFuture<'_, Result<SettledPage, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.settled(&query, limit).map_err(unreadable)).await
        })
    }

    fn dead_of(
        &self,
        org: OrganizationId,
        before: Option<DeadPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeadPage, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.dead_of(org, before, limit).map_err(unreadable)).await
        })
    }

    fn dead_letter(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> BoxFuture<'_, Result<Option<DeadRow>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.dead_letter(org, delivery).map_err(unreadable)).await
        })
    }

    fn dead_copy(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> BoxFuture<'_, Result<Option<DeadLetter>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.dead_copy(org, delivery).map_err(unreadable)).await
        })
    }

    fn reserve(&self, delivery: DeliveryId) -> Option<Reserved> {
        Reserved::take(delivery, &self.core.reserved)
    }

    fn amend(&self, shard: ShardId, amendments: Vec<Amendment>) -> Result<Commit, JournalError> {
        self.core.amend(shard, amendments)
    }

    fn cancel(&self, shard: ShardId, cancellation: Cancellation) -> Result<Commit, JournalError> {
        self.core.cancel(shard, cancellation)
    }

    fn is_canceled(&self, notification: NotificationId) -> bool {
        self.core.canceled.read().contains(&notification)
    }

    fn hurry(
        &self,
        shard: ShardId,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<usize, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.hurry(shard, org, notification).map_err(unreadable)).await
        })
    }

    fn root(
        &self,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Bytes>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || {
                let root = core.root(notification).map_err(unreadable)?;
                Ok(root.filter(|root| root.org == org).map(|root| root.payload))
            })
            .await
        })
    }

    fn dead_kept(&self) -> BoxFuture<'_, Result<u64, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(
            async move { self.blocking(move || core.index.dead_kept().map_err(unreadable)).await },
        )
    }

    fn dead_letters(&self, limit: usize) -> BoxFuture<'_, Result<Vec<DeadLetter>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.index.dead_letters(limit).map_err(unreadable)).await
        })
    }

    fn unfinished_changes(&self) -> BoxFuture<'_, Result<Vec<Bytes>, JournalError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            self.blocking(move || core.unfinished_changes().map_err(unreadable)).await
        })
    }

    fn durability(&self) -> &'static str {
        match self.core.options.fsync {
            FsyncPolicy::Commit => "D2",
            FsyncPolicy::Interval(_) => "D1",
            FsyncPolicy::Never => "D0",
        }
    }

    fn is_healthy(&self) -> bool {
        !self.core.poisoned.load(Ordering::Acquire)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let threads = std::mem::take(&mut *self.threads.lock());
        let lock = self.lock.lock().take();
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            tokio::task::spawn_blocking(move || Self::shut(&core, threads, lock)).await.ok();
        })
    }
}

fn unreadable(error: impl std::error::Error) -> JournalError {
    tracing::error!(error = %crate::telemetry::chain(&error), "journal data could not be read");
    JournalError::Unreadable
}
