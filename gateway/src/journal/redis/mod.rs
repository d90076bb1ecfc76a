//! The journal on Redis: one stream for each shard, written by every node, worked on by its owner.
//!
//! ```text
//!  append (any node) ──► lane: what waits goes into one script ──► XADD block, indexes, counts, timers
//!                                                                     │ XREADGROUP: blocks of others
//!  claim ◄── lines, a bounded window ◄── keeper: sweep, due timers ◄──┤
//!  settle ──► lane ──► script, refused unless the token is the owner's ──► XACK; XDEL after retention
//! ```
//!
//! `docs/decisions/0016-journal-on-redis.md` says why. Everything of a shard is in one slot, and every
//! change is one script. What a node knows of a shard it owns is made from Redis again when it takes
//! the shard over, and is never more than a window.

mod beside;
mod cell;
mod claim;
mod core;
mod dump;
mod follow;
mod keeper;
mod keys;
mod lane;
mod load;
mod log;
mod options;
mod outbox;
mod outcomes;
mod pack;
mod plan;
mod reader;
mod reads;
mod reply;
mod rows;
mod scripts;
mod survey;
mod take;

#[cfg(test)]
mod tests;

pub use dump::{DumpError, RedisDump};
pub use follow::follow;
pub use load::{LoadError, RedisLoader};
pub use log::{Beside, Counted, RedisLog};
pub use options::RedisJournalOptions;
pub use outbox::{OutboxError, OutboxOptions, lost_of};

use self::cell::{Cell, Tenure};
use self::core::{Core, unreadable};
use self::outbox::Outbox;
use self::plan::Part;
use super::{
    Amendment, Append, Backlog, Books, Cancellation, Claim, ClaimId, Commit, DeadLetter, DeadPage,
    DeadPlace, DeadRow, Entry, EventPlace, Journal, JournalError, ListedRoot, Remembered, Reserved,
    Room, SettledPage, SettledQuery, Settlement, Timeline,
};
use crate::BoxFuture;
use crate::clock::Clock;
use crate::journal::disk::DiskJournal;
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId, ShardId};
use crate::redis::owners::Owners;
use crate::redis::{Redis, RedisError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinSet;

/// How long closing waits for what is under way.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Nothing could be written for so long: admission and readiness say so.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(2);
/// Once nothing was tried for so long, it is tried again.
const TRY_AFTER: Duration = Duration::from_secs(2);

/// A journal on Redis or on a Redis cluster.
pub struct RedisJournal {
    core: Arc<Core>,
    lanes: Mutex<JoinSet<()>>,
    tasks: Mutex<JoinSet<()>>,
    owners: OnceLock<Owners>,
    outbox: OnceLock<Arc<Outbox>>,
}

impl std::fmt::Debug for RedisJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisJournal").field("options", &self.core.options).finish_non_exhaustive()
    }
}

impl RedisJournal {
    /// Opens the journal: reads the sums, and begins to write. It works on no shard yet.
    ///
    /// # Errors
    /// Redis cannot be asked.
    pub async fn open(
        redis: Redis,
        options: RedisJournalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RedisError> {
        let cells = (0..options.shards).map(|n| Arc::new(Cell::new(ShardId(n), options.places)));
        let core = Arc::new(Core {
            cells: cells.collect(),
            options,
            clock,
            redis,
            writer: uuid::Uuid::new_v4().simple().to_string(),
            reserved: Arc::default(),
            canceled: parking_lot::RwLock::default(),
            closing: false.into(),
            closed: false.into(),
            buffered: 0.into(),
        });
        core.survey_once().await?;
        let (mut lanes, mut tasks) = (JoinSet::new(), JoinSet::new());
        for cell in &core.cells {
            lanes.spawn(Arc::clone(&core).write(Arc::clone(cell)));
            tasks.spawn(Arc::clone(&core).keep(Arc::clone(cell)));
            tasks.spawn(Arc::clone(&core).read_on(Arc::clone(cell)));
        }
        tasks.spawn(Arc::clone(&core).survey());
        Ok(Self {
            core,
            lanes: Mutex::new(lanes),
            tasks: Mutex::new(tasks),
            owners: OnceLock::new(),
            outbox: OnceLock::new(),
        })
    }

    /// Keeps in `local`, a journal of this process alone, what is accepted here until it is
    /// settled, and adds it to Redis again wherever Redis has lost it.
    pub fn keep_in(&self, local: DiskJournal, options: OutboxOptions) {
        let outbox = Arc::new(Outbox::new(local, options));
        if self.outbox.set(Arc::clone(&outbox)).is_ok() {
            self.tasks.lock().spawn(outbox.run(Arc::clone(&self.core)));
        }
    }

    /// Begins nothing while `owners` cannot tell whether its shards are still its own.
    pub fn heed(&self, owners: Owners) {
        self.owners.get_or_init(|| owners);
    }

    /// Works on `shard` under the owner's `token` from now on; `epoch` grows with every owner.
    /// Without `may_claim` what is claimed is settled, and nothing more is claimed.
    pub fn own(&self, shard: ShardId, token: &str, epoch: u64, may_claim: bool) {
        if let Some(cell) = self.core.cell(shard) {
            let (token, is_leaving) = (Arc::from(token), false);
            self.core.set_tenure(cell, Some(Tenure { token, epoch, may_claim, is_leaving }));
        }
    }

    /// As [`RedisJournal::own`], to give `shard` up: what is under way is settled, and of what else is
    /// claimed nothing is begun.
    pub fn leave(&self, shard: ShardId, token: &str, epoch: u64) {
        if let Some(cell) = self.core.cell(shard) {
            let (token, may_claim, is_leaving) = (Arc::from(token), false, true);
            self.core.set_tenure(cell, Some(Tenure { token, epoch, may_claim, is_leaving }));
        }
    }

    /// Works on `shard` no more: leases on its entries are void.
    pub fn disown(&self, shard: ShardId) {
        if let Some(cell) = self.core.cell(shard) {
            self.core.set_tenure(cell, None);
        }
    }

    /// Entries of `shard` that are claimed by this node and not settled.
    #[must_use]
    pub fn claimed(&self, shard: ShardId) -> usize {
        let cell = self.core.cell(shard);
        cell.map_or(0, |cell| cell.state.lock().shard.in_flight.len())
    }

    /// True once `shard` was taken over: what is pending in it is known.
    #[must_use]
    pub fn is_loaded(&self, shard: ShardId) -> bool {
        self.core.cell(shard).is_some_and(|cell| cell.state.lock().is_loaded)
    }
}

impl Drop for RedisJournal {
    fn drop(&mut self) {
        self.core.closing.store(true, Ordering::Release);
        self.core.closed.store(true, Ordering::Release);
        // The tasks go with their sets; nothing is awaited.
    }
}

impl Journal for RedisJournal {
    fn shards(&self) -> u16 {
        self.core.options.shards
    }

    fn append(&self, shard: ShardId, append: Append) -> Result<Commit, JournalError> {
        match self.outbox.get() {
            Some(outbox) => outbox.append(&self.core, shard, append),
            None => {
                let Append { entries, idempotency } = append;
                self.core.submit(shard, Part { entries, idempotency, ..Part::default() }, false)
            }
        }
    }

    fn keep(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            match self.outbox.get() {
                Some(outbox) => outbox.keep(&entries, &[], self.core.clock.now()).await,
                None => Ok(()),
            }
        })
    }

    fn program(&self, append: Append) -> Result<Vec<Bytes>, JournalError> {
        self.core.program(append)
    }

    fn claim<'a>(
        &'a self,
        shard: ShardId,
        max: usize,
        room: &'a dyn Room,
    ) -> BoxFuture<'a, Result<Vec<Claim>, JournalError>> {
        Box::pin(self.core.claim(shard, max, room))
    }

    fn nudge(&self, shard: ShardId) {
        if let Some(cell) = self.core.cell(shard) {
            cell.claimers.notify_one();
        }
    }

    fn settle(&self, shard: ShardId, settlements: Vec<Settlement>) -> Result<Commit, JournalError> {
        self.core.settle(shard, settlements)
    }

    fn renew(&self, shard: ShardId, claims: &[ClaimId]) {
        self.core.renew(shard, claims);
    }

    fn may_begin(&self) -> bool {
        self.owners.get().is_none_or(Owners::is_fresh)
    }

    fn lease_left(&self, shard: ShardId, claim: ClaimId) -> Option<Duration> {
        self.core.lease_left(shard, claim)
    }

    fn backlog(&self, shard: ShardId) -> Backlog {
        let Some(cell) = self.core.cell(shard) else { return Backlog::default() };
        let state = cell.state.lock();
        if state.is_loaded {
            return state.shard.backlog();
        }
        let sums = cell.told.lock().sums;
        let (pending, timers, bytes) = (sums.pending, sums.timers, sums.bytes);
        Backlog { pending, timers, bytes, ..Backlog::default() }
    }

    fn backlog_of(&self, shard: ShardId, org: OrganizationId) -> Backlog {
        let Some(cell) = self.core.cell(shard) else { return Backlog::default() };
        let state = cell.state.lock();
        if state.is_loaded { state.shard.backlog_of(org) } else { cell.told.lock().ask(org) }
    }

    fn books(&self) -> Books {
        let mut books = Books::default();
        for cell in &self.core.cells {
            let of = cell.told.lock().sums.books;
            books.accepted += of.accepted;
            books.dead_letters += of.dead_letters;
            books.discarded += of.discarded;
            for (sum, part) in books.finals.iter_mut().zip(of.finals) {
                *sum += part;
            }
            for (sum, part) in books.reopened.iter_mut().zip(of.reopened) {
                *sum += part;
            }
        }
        books
    }

    fn timeline(
        &self,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Timeline>, JournalError>> {
        Box::pin(async move { self.core.timeline(org, notification).await.map_err(unreadable) })
    }

    fn reads_are_current(&self) -> bool {
        true
    }

    fn events_after(
        &self,
        org: OrganizationId,
        notification: NotificationId,
        after: Option<EventPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(EventPlace, Bytes)>, JournalError>> {
        Box::pin(async move {
            let found = self.core.events_after(org, notification, after, limit).await;
            found.map_err(unreadable)
        })
    }

    fn events_before(
        &self,
        org: OrganizationId,
        notification: NotificationId,
        before: Option<EventPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(EventPlace, Bytes)>, JournalError>> {
        Box::pin(async move {
            let found = self.core.events_before(org, notification, before, limit).await;
            found.map_err(unreadable)
        })
    }

    fn reopened(
        &self,
        deliveries: Vec<DeliveryId>,
    ) -> BoxFuture<'_, Result<HashMap<DeliveryId, u64>, JournalError>> {
        Box::pin(async move { self.core.reopened_anywhere(&deliveries).await.map_err(unreadable) })
    }

    fn listed(
        &self,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<ListedRoot>, JournalError>> {
        Box::pin(async move { self.core.listed(org, before, limit).await.map_err(unreadable) })
    }

    fn take(
        &self,
        shard: ShardId,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Claim>, JournalError>> {
        Box::pin(async move { self.core.take(shard, org, notification).await.map_err(unreadable) })
    }

    fn remembered(
        &self,
        key: [u8; 16],
        now: Millis,
    ) -> BoxFuture<'_, Result<Remembered, JournalError>> {
        Box::pin(async move {
            let shards = self.core.cells.iter();
            let asked = shards.map(|cell| self.core.remembered_at(cell.shard, key, now));
            let found = futures_util::future::try_join_all(asked).await.map_err(unreadable)?;
            let known = found.into_iter().find(|found| *found != Remembered::No);
            Ok(known.unwrap_or(Remembered::No))
        })
    }

    fn remembered_in(
        &self,
        shard: ShardId,
        key: [u8; 16],
        now: Millis,
    ) -> BoxFuture<'_, Result<Remembered, JournalError>> {
        Box::pin(async move { self.core.remembered_at(shard, key, now).await.map_err(unreadable) })
    }

    fn keep_key(
        &self,
        shard: ShardId,
        key: [u8; 16],
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<Remembered>, JournalError>> {
        Box::pin(async move { self.core.keep_key(shard, key, now).await.map_err(unreadable) })
    }

    fn let_go(&self, shard: ShardId, key: [u8; 16]) {
        let core = Arc::clone(&self.core);
        // Without a runtime the process ends; the key is free after a while.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { core.let_go(shard, key).await });
        }
    }

    fn settled(
        &self,
        query: SettledQuery,
        limit: usize,
    ) -> BoxFuture<'_, Result<SettledPage, JournalError>> {
        Box::pin(async move { self.core.settled(&query, limit).await.map_err(unreadable) })
    }

    fn dead_of(
        &self,
        org: OrganizationId,
        before: Option<DeadPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeadPage, JournalError>> {
        Box::pin(async move { self.core.dead_of(org, before, limit).await.map_err(unreadable) })
    }

    fn dead_letter(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> BoxFuture<'_, Result<Option<DeadRow>, JournalError>> {
        Box::pin(async move { self.core.dead_letter(org, delivery).await.map_err(unreadable) })
    }

    fn dead_copy(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> BoxFuture<'_, Result<Option<DeadLetter>, JournalError>> {
        Box::pin(async move {
            let row = self.core.dead_letter(org, delivery).await.map_err(unreadable)?;
            Ok(row.map(|row| row.letter))
        })
    }

    fn reserve(&self, delivery: DeliveryId) -> Option<Reserved> {
        Reserved::take(delivery, &self.core.reserved)
    }

    fn amend(&self, shard: ShardId, amendments: Vec<Amendment>) -> Result<Commit, JournalError> {
        self.core.submit(shard, Part { amends: amendments, ..Part::default() }, false)
    }

    fn cancel(&self, shard: ShardId, cancellation: Cancellation) -> Result<Commit, JournalError> {
        self.core.submit(shard, Part { cancels: vec![cancellation], ..Part::default() }, true)
    }

    fn is_canceled(&self, notification: NotificationId) -> bool {
        self.core.canceled.read().contains(&notification)
    }

    fn was_canceled(
        &self,
        shard: ShardId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(
            async move { self.core.was_canceled(shard, notification).await.map_err(unreadable) },
        )
    }

    fn hurry(
        &self,
        shard: ShardId,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<usize, JournalError>> {
        Box::pin(async move { self.core.hurry(shard, org, notification).await.map_err(unreadable) })
    }

    fn root(
        &self,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Bytes>, JournalError>> {
        Box::pin(async move { self.core.root(org, notification).await.map_err(unreadable) })
    }

    fn dead_kept(&self) -> BoxFuture<'_, Result<u64, JournalError>> {
        Box::pin(async move {
            self.core.survey_once().await.map_err(unreadable)?;
            Ok(self.core.cells.iter().map(|cell| cell.told.lock().dead_kept).sum())
        })
    }

    fn dead_letters(&self, limit: usize) -> BoxFuture<'_, Result<Vec<DeadLetter>, JournalError>> {
        Box::pin(async move { self.core.dead_letters(limit).await.map_err(unreadable) })
    }

    fn unfinished_changes(&self) -> BoxFuture<'_, Result<Vec<Bytes>, JournalError>> {
        Box::pin(async move { self.core.unfinished_changes().await.map_err(unreadable) })
    }

    fn durability(&self) -> &'static str {
        if self.outbox.get().is_some() { "D3" } else { self.core.options.durability }
    }

    fn is_healthy(&self) -> bool {
        let is_failing = |cell: &Arc<Cell>| {
            // Nothing is let in while this is so: from time to time something has to be, to find out.
            cell.failing.lock().is_some_and(|failing| {
                failing.since.elapsed() >= UNHEALTHY_AFTER && failing.tried.elapsed() < TRY_AFTER
            })
        };
        let is_keeping = self.outbox.get().is_none_or(|outbox| outbox.is_healthy());
        let is_open = !self.core.closed.load(Ordering::Acquire);
        is_open && is_keeping && !self.core.cells.iter().any(is_failing)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.core.closing.store(true, Ordering::Release);
        for cell in &self.core.cells {
            cell.writing.notify_one();
        }
        let mut lanes = std::mem::take(&mut *self.lanes.lock());
        let tasks = std::mem::take(&mut *self.tasks.lock());
        Box::pin(async move {
            let written = async { while lanes.join_next().await.is_some() {} };
            if tokio::time::timeout(CLOSE_PATIENCE, written).await.is_err() {
                tracing::warn!("redis did not answer in time; what was being written is unknown");
            }
            self.core.closed.store(true, Ordering::Release);
            for cell in &self.core.cells {
                cell.claimers.notify_waiters();
            }
            drop(tasks);
            if let Some(outbox) = self.outbox.get() {
                outbox.close().await;
            }
        })
    }
}
