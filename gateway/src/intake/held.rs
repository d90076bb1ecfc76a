//! A journal for tests whose commits wait until they are let go: a disk as slow as a test likes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::BoxFuture;
use crate::clock::SystemClock;
use crate::journal::disk::{DiskJournal, DiskOptions};
use crate::journal::{
    Amendment, Append, Backlog, Books, Cancellation, Claim, ClaimId, Commit, DeadLetter, DeadPage,
    DeadPlace, DeadRow, EventPlace, Journal, JournalError, ListedRoot, Remembered, Reserved, Room,
    SettledPage, SettledQuery, Settlement, Timeline,
};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId, ShardId};

/// A real journal behind a gate.
#[derive(Debug)]
pub(crate) struct HeldJournal {
    inner: DiskJournal,
    held: watch::Sender<bool>,
    pretended: Mutex<HashMap<OrganizationId, u64>>,
    failing: AtomicUsize,
}

impl HeldJournal {
    /// Opens a journal of one shard below `dir`; its commits are held.
    pub(crate) fn open(dir: &Path) -> Arc<Self> {
        let options = DiskOptions { shards: 1, segment_bytes: 1 << 20, ..DiskOptions::default() };
        let inner = DiskJournal::open(dir, options, Arc::new(SystemClock)).unwrap();
        let (held, pretended) = (watch::Sender::new(true), Mutex::default());
        Arc::new(Self { inner, held, pretended, failing: AtomicUsize::new(0) })
    }

    /// Has so many reads of keys and timelines fail, as those of a server that is away for a moment.
    pub(crate) fn fail_reads(&self, count: usize) {
        self.failing.store(count, Ordering::Relaxed);
    }

    fn fails(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Has an organization's backlog look as if so many entries were in it.
    pub(crate) fn pretend(&self, org: OrganizationId, pending: u64) {
        self.pretended.lock().insert(org, pending);
    }

    /// Lets commits go, or holds later ones.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

impl Journal for HeldJournal {
    fn append(&self, shard: ShardId, append: Append) -> Result<Commit, JournalError> {
        let commit = self.inner.append(shard, append)?;
        let mut held = self.held.subscribe();
        Ok(Box::pin(async move {
            held.wait_for(|held| !held).await.ok();
            commit.await
        }))
    }

    fn shards(&self) -> u16 {
        self.inner.shards()
    }

    fn claim<'a>(
        &'a self,
        shard: ShardId,
        max: usize,
        room: &'a dyn Room,
    ) -> BoxFuture<'a, Result<Vec<Claim>, JournalError>> {
        self.inner.claim(shard, max, room)
    }

    fn nudge(&self, shard: ShardId) {
        self.inner.nudge(shard);
    }

    fn settle(&self, shard: ShardId, settlements: Vec<Settlement>) -> Result<Commit, JournalError> {
        self.inner.settle(shard, settlements)
    }

    fn renew(&self, shard: ShardId, claims: &[ClaimId]) {
        self.inner.renew(shard, claims);
    }

    fn may_begin(&self) -> bool {
        self.inner.may_begin()
    }

    fn lease_left(&self, shard: ShardId, claim: ClaimId) -> Option<Duration> {
        self.inner.lease_left(shard, claim)
    }

    fn backlog(&self, shard: ShardId) -> Backlog {
        self.inner.backlog(shard)
    }

    fn backlog_of(&self, shard: ShardId, org: OrganizationId) -> Backlog {
        match self.pretended.lock().get(&org) {
            Some(pending) => Backlog { pending: *pending, ..Backlog::default() },
            None => self.inner.backlog_of(shard, org),
        }
    }

    fn books(&self) -> Books {
        self.inner.books()
    }

    fn timeline(
        &self,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Timeline>, JournalError>> {
        if self.fails() {
            return Box::pin(std::future::ready(Err(JournalError::Unknown)));
        }
        self.inner.timeline(org, notification)
    }

    fn events_after(
        &self,
        org: OrganizationId,
        notification: NotificationId,
        after: Option<EventPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(EventPlace, bytes::Bytes)>, JournalError>> {
        if self.fails() {
            return Box::pin(std::future::ready(Err(JournalError::Unknown)));
        }
        self.inner.events_after(org, notification, after, limit)
    }

    fn events_before(
        &self,
        org: OrganizationId,
        notification: NotificationId,
        before: Option<EventPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(EventPlace, bytes::Bytes)>, JournalError>> {
        self.inner.events_before(org, notification, before, limit)
    }

    fn reopened(
        &self,
        deliveries: Vec<DeliveryId>,
    ) -> BoxFuture<'_, Result<HashMap<DeliveryId, u64>, JournalError>> {
        self.inner.reopened(deliveries)
    }

    fn listed(
        &self,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<ListedRoot>, JournalError>> {
        self.inner.listed(org, before, limit)
    }

    fn take(
        &self,
        shard: ShardId,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Claim>, JournalError>> {
        self.inner.take(shard, org, notification)
    }

    fn keep_key(
        &self,
        shard: ShardId,
        key: [u8; 16],
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<Remembered>, JournalError>> {
        if self.fails() {
            return Box::pin(std::future::ready(Err(JournalError::Unknown)));
        }
        self.inner.keep_key(shard, key, now)
    }

    fn let_go(&self, shard: ShardId, key: [u8; 16]) {
        self.inner.let_go(shard, key);
    }

    fn remembered(
        &self,
        key: [u8; 16],
        now: Millis,
    ) -> BoxFuture<'_, Result<Remembered, JournalError>> {
        self.inner.remembered(key, now)
    }

    fn settled(
        &self,
        query: SettledQuery,
        limit: usize,
    ) -> BoxFuture<'_, Result<SettledPage, JournalError>> {
        self.inner.settled(query, limit)
    }

    fn dead_of(
        &self,
        org: OrganizationId,
        before: Option<DeadPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeadPage, JournalError>> {
        self.inner.dead_of(org, before, limit)
    }

    fn dead_letter(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> BoxFuture<'_, Result<Option<DeadRow>, JournalError>> {
        self.inner.dead_letter(org, delivery)
    }

    fn dead_copy(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> BoxFuture<'_, Result<Option<DeadLetter>, JournalError>> {
        self.inner.dead_copy(org, delivery)
    }

    fn reserve(&self, delivery: DeliveryId) -> Option<Reserved> {
        self.inner.reserve(delivery)
    }

    fn amend(&self, shard: ShardId, amendments: Vec<Amendment>) -> Result<Commit, JournalError> {
        self.inner.amend(shard, amendments)
    }

    fn cancel(&self, shard: ShardId, cancellation: Cancellation) -> Result<Commit, JournalError> {
        self.inner.cancel(shard, cancellation)
    }

    fn is_canceled(&self, notification: NotificationId) -> bool {
        self.inner.is_canceled(notification)
    }

    fn hurry(
        &self,
        shard: ShardId,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<usize, JournalError>> {
        self.inner.hurry(shard, org, notification)
    }

    fn root(
        &self,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<bytes::Bytes>, JournalError>> {
        self.inner.root(org, notification)
    }

    fn dead_kept(&self) -> BoxFuture<'_, Result<u64, JournalError>> {
        self.inner.dead_kept()
    }

    fn dead_letters(&self, limit: usize) -> BoxFuture<'_, Result<Vec<DeadLetter>, JournalError>> {
        self.inner.dead_letters(limit)
    }

    fn unfinished_changes(&self) -> BoxFuture<'_, Result<Vec<bytes::Bytes>, JournalError>> {
        self.inner.unfinished_changes()
    }

    fn durability(&self) -> &'static str {
        self.inner.durability()
    }

    fn is_healthy(&self) -> bool {
        self.inner.is_healthy()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
