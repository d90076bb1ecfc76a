//! The journal seam: the durable log between intake and dispatch.
//!
//! ```text
//!  append ──► commit block (per shard, checksummed) ──► fdatasync ──► Commit resolves ──► 2xx
//!                 │ due now                    │ due later
//!                 ▼                            ▼
//!            claim (lease) ◄──────────── timer index
//!                 │
//!                 ▼
//!            settle: timeline events + final states + follow-up entries, one atomic block
//! ```
//!
//! An entry is opaque bytes with an id, an organization and a due time. Claiming an entry leases
//! it; a lease that runs out makes the entry claimable again and fences the late settlement.
//! An entry is finished by exactly one settlement with `done`, which may spawn follow-up entries
//! (retries, chunks) in the same commit. Two backends pass the same `conformance` suite.

use crate::BoxFuture;
use crate::model::{DeliveryId, FinalState, Millis, NotificationId, OrganizationId, ShardId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

pub mod conformance;
pub mod disk;
pub mod dump;
mod ledger;
mod record;
pub mod redis;
mod shard;

pub use ledger::{
    Amendment, Cancellation, DeadPage, DeadPlace, DeadRow, Reserved, Settled, SettledBlock,
    SettledPage, SettledPlace, SettledQuery, Sums,
};

/// Whether an entry is a notification as accepted, or work that an earlier entry left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Counts as accepted; found by id.
    Root,
    /// A chunk of a long recipient list, or a retry: belongs to the root with the same id.
    FollowUp,
    /// Changes to records, to be made again after a crash unless this entry is done.
    Change,
    /// A root that is also found by its organization, newest first: see [`Journal::listed`].
    Listed,
    /// A follow-up that carries a first try: it is claimed like what was accepted.
    Deferred,
}

impl EntryKind {
    /// True for a notification as accepted.
    #[must_use]
    pub fn is_root(self) -> bool {
        matches!(self, Self::Root | Self::Listed)
    }

    /// True for what an earlier entry left behind.
    #[must_use]
    pub fn is_follow_up(self) -> bool {
        matches!(self, Self::FollowUp | Self::Deferred)
    }
}

/// What intake or a settlement adds to the journal.
#[derive(Clone, Debug)]
pub struct Entry {
    pub notification: NotificationId,
    pub org: OrganizationId,
    pub kind: EntryKind,
    /// Claimable from this instant on.
    pub due: Millis,
    pub payload: Bytes,
}

/// Remembers a request so that its repetition gets the first answer again.
#[derive(Clone, Debug)]
pub struct IdempotencyRecord {
    /// Hash of organization, path and key.
    pub key: [u8; 16],
    /// Hash of the request body.
    pub body: [u8; 16],
    pub created: Millis,
    /// The first answer: status, notification id and body.
    pub answer: Bytes,
}

/// One atomic addition: all of it is durable or none of it.
#[derive(Clone, Debug, Default)]
pub struct Append {
    pub entries: Vec<Entry>,
    pub idempotency: Vec<IdempotencyRecord>,
}

/// Names one claimed entry and the lease it was claimed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimId {
    pub position: u64,
    pub index: u32,
    /// Grows with every claim of the same entry; a settlement with an older one is refused.
    pub lease: u64,
}

/// One leased entry.
#[derive(Clone, Debug)]
pub struct Claim {
    pub id: ClaimId,
    pub notification: NotificationId,
    pub org: OrganizationId,
    pub kind: EntryKind,
    pub payload: Bytes,
    /// Deliveries of this entry that already have a final state or a follow-up entry: skip them.
    pub settled: Vec<DeliveryId>,
}

/// A final state, or the removal of a delivery into a follow-up entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Final(FinalState),
    /// A follow-up entry in the same settlement carries the delivery on.
    Moved,
}

/// Progress on one claimed entry.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub claim: ClaimId,
    pub notification: NotificationId,
    pub org: OrganizationId,
    /// Deliveries that need no further work under this claim.
    pub resolved: Vec<(DeliveryId, Resolution)>,
    /// Timeline lines, encoded by the caller.
    pub events: Vec<Bytes>,
    /// Follow-up entries.
    pub follow_ups: Vec<Entry>,
    /// Copies of work given up on, kept for replay.
    pub dead: Vec<(DeliveryId, Bytes)>,
    /// Nothing of the entry is left: release it.
    pub done: bool,
}

/// What is in the journal for one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Entries not yet done, timers included.
    pub pending: u64,
    pub claimed: u64,
    pub timers: u64,
    /// Bytes appended and not yet done.
    pub bytes: u64,
    /// Pending entries that could not be read since the start, and are not claimed for that.
    pub unreadable: u64,
}

/// The books: accepted notifications and deliveries by final state since the journal was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    pub accepted: u64,
    /// Deliveries by the state they are in now, in the order of `FinalState::ALL`.
    pub finals: [u64; 6],
    /// Dead letters ever made.
    pub dead_letters: u64,
    /// How often a delivery that had ended so was sent again; no longer in `finals`.
    pub reopened: [u64; 6],
    /// Dead letters discarded; their deliveries stay dead.
    pub discarded: u64,
}

/// A notification's stored life.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The root entry's payload; `None` once retention dropped its segment.
    pub root: Option<Bytes>,
    /// In the order they were settled.
    pub events: Vec<Bytes>,
}

/// Where an event stands among those of its notification: later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPlace {
    pub position: u64,
    pub ordinal: u32,
}

/// A listed root as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRoot {
    pub notification: NotificationId,
    pub payload: Bytes,
}

/// Work that was given up, with what it takes to send it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub delivery: DeliveryId,
    pub notification: NotificationId,
    pub copy: Bytes,
}

/// What the journal knows of an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// Never seen, or older than the retention of keys.
    No,
    /// The first answer, and the hash of the body that got it.
    Yes { body: [u8; 16], answer: Bytes },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The write queue or the disk is full; nothing was stored. Ask again after a while.
    #[error("the journal is full")]
    Full,
    /// One addition must fit into a commit block; split it.
    #[error("the addition is larger than a journal segment")]
    TooLarge,
    /// A write or sync failed before: this was not stored, and nothing more is acknowledged until a
    /// restart re-reads the disk.
    #[error("the journal failed and stopped accepting")]
    Poisoned,
    /// The write or sync of this very addition failed: the next start may find it, or not.
    #[error("the journal failed while it stored this, which may be on the disk")]
    Uncertain,
    #[error("the journal is closed")]
    Closed,
    /// The lease ran out and somebody else holds the entry: the settlement changed nothing.
    #[error("the claim's lease has passed to another claim")]
    Fenced,
    /// An idempotency key of it was used meanwhile, so nothing of it was stored: ask again, and the
    /// first answer is found.
    #[error("the idempotency key was used by another request meanwhile")]
    KeyUsed,
    /// The journal's server did not answer in time: what was asked may have happened. Ask again
    /// after a while, under the same idempotency key.
    #[error("the journal's server did not answer in time")]
    Unknown,
    /// Stored bytes could not be read back.
    #[error("journal data could not be read")]
    Unreadable,
}

/// Says whose work a claimer takes now.
pub trait Room: Send + Sync {
    /// Entries of `org` that may be claimed now.
    fn room(&self, org: OrganizationId) -> usize;
}

/// Room for everything.
#[derive(Clone, Copy, Debug)]
pub struct Unlimited;

impl Room for Unlimited {
    fn room(&self, _: OrganizationId) -> usize {
        usize::MAX
    }
}

/// Resolves when what was appended is durable; dropping it changes nothing.
pub type Commit = BoxFuture<'static, Result<(), JournalError>>;

/// A durable log of work in independent shards.
pub trait Journal: Send + Sync + std::fmt::Debug {
    fn shards(&self) -> u16;

    /// Enqueues or refuses, never waits. The promise is in the returned future.
    fn append(&self, shard: ShardId, append: Append) -> Result<Commit, JournalError>;

    /// Keeps notifications that were committed beside records, where this journal keeps on the disk
    /// of this process what is not settled; others need not.
    fn keep(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<(), JournalError>> {
        drop(entries);
        Box::pin(std::future::ready(Ok(())))
    }

    /// What a store on the same Redis passes to this journal's script, to commit `append` with the
    /// changes that cause it; other journals refuse.
    fn program(&self, append: Append) -> Result<Vec<Bytes>, JournalError> {
        drop(append);
        Err(JournalError::Closed)
    }

    /// Leases up to `max` due entries of `shard`, waiting until there is at least one of an
    /// organization that `room` has room for.
    ///
    /// Organizations take turns; within one, the order is that of acceptance. An organization
    /// without room is passed over and delays nobody, however much of its work lies in front. Due
    /// timers take turns in the same way; follow-ups among them, but for deferred ones, get a fifth of
    /// what is leased while anything else waits. `room` is asked once for each organization and must not call the
    /// journal. Cancel safe: a dropped future leases nothing.
    fn claim<'a>(
        &'a self,
        shard: ShardId,
        max: usize,
        room: &'a dyn Room,
    ) -> BoxFuture<'a, Result<Vec<Claim>, JournalError>>;

    /// Makes a waiting `claim` look again: an organization has room that had none.
    fn nudge(&self, shard: ShardId);

    /// Records progress. Enqueues or refuses like `append`; an answered settlement survives a
    /// crash, an unanswered one may be repeated by the next holder of the entry.
    fn settle(&self, shard: ShardId, settlements: Vec<Settlement>) -> Result<Commit, JournalError>;

    /// Prolongs the leases of claims that are still being worked on.
    fn renew(&self, shard: ShardId, claims: &[ClaimId]);

    /// False while others may be taking what was claimed here: begin nothing of it. It stays
    /// claimed, and goes on once this is true again.
    fn may_begin(&self) -> bool {
        true
    }

    /// How much is left of a lease: nothing once it ran out, `None` once the entry is done or
    /// passed to another claim.
    fn lease_left(&self, shard: ShardId, claim: ClaimId) -> Option<Duration>;

    fn backlog(&self, shard: ShardId) -> Backlog;

    /// What is in the journal of one organization in one shard. Exact, also after a restart; cheap
    /// enough for every request. Unreadable entries are told by shard only.
    fn backlog_of(&self, shard: ShardId, org: OrganizationId) -> Backlog;

    fn books(&self) -> Books;

    /// The stored life of a notification of `org`; `None` if there is no such one.
    fn timeline(
        &self,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Timeline>, JournalError>>;

    /// True if a read finds whatever was committed before; otherwise it may be behind for a while.
    fn reads_are_current(&self) -> bool {
        false
    }

    /// Timeline events of a notification of `org` after `after`, in their order, at most `limit`.
    fn events_after(
        &self,
        org: OrganizationId,
        notification: NotificationId,
        after: Option<EventPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(EventPlace, Bytes)>, JournalError>>;

    /// Timeline events of a notification of `org` before `before`, newest first, at most `limit`.
    fn events_before(
        &self,
        org: OrganizationId,
        notification: NotificationId,
        before: Option<EventPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(EventPlace, Bytes)>, JournalError>>;

    /// The positions of the blocks that sent these deliveries again last: what ended one in an
    /// earlier block is not its end any more. Those never sent again are not in the answer.
    fn reopened(
        &self,
        deliveries: Vec<DeliveryId>,
    ) -> BoxFuture<'_, Result<HashMap<DeliveryId, u64>, JournalError>>;

    /// Listed roots of `org` older than `before`, newest first, at most `limit`. What was
    /// committed is listed at once, and until retention drops it.
    fn listed(
        &self,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<ListedRoot>, JournalError>>;

    /// Leases a listed root of `org` in `shard` whose time has not come, so that it can be
    /// settled without being sent. `None` if there is no such one, or its work has begun.
    fn take(
        &self,
        shard: ShardId,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Claim>, JournalError>>;

    fn remembered(
        &self,
        key: [u8; 16],
        now: Millis,
    ) -> BoxFuture<'_, Result<Remembered, JournalError>>;

    /// As [`Journal::remembered`], for a key whose organization is in `shard`: where that can be
    /// looked up alone.
    fn remembered_in(
        &self,
        shard: ShardId,
        key: [u8; 16],
        now: Millis,
    ) -> BoxFuture<'_, Result<Remembered, JournalError>> {
        let _ = shard;
        self.remembered(key, now)
    }

    /// As [`Journal::remembered_in`], and keeps a key that is not remembered until
    /// [`Journal::let_go`]: `None` while another process's request has it.
    fn keep_key(
        &self,
        shard: ShardId,
        key: [u8; 16],
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<Remembered>, JournalError>> {
        Box::pin(async move { self.remembered_in(shard, key, now).await.map(Some) })
    }

    /// The request that a key was kept for is decided. Does not wait.
    fn let_go(&self, shard: ShardId, key: [u8; 16]) {
        let _ = (shard, key);
    }

    /// Blocks with deliveries of `query.org` that ended, newest first, at most `limit`, without
    /// those that were sent again since.
    fn settled(
        &self,
        query: SettledQuery,
        limit: usize,
    ) -> BoxFuture<'_, Result<SettledPage, JournalError>>;

    /// Dead letters of `org`, newest first, after `before` in that order, at most `limit`.
    fn dead_of(
        &self,
        org: OrganizationId,
        before: Option<DeadPlace>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeadPage, JournalError>>;

    /// The dead letter of one delivery of `org`.
    fn dead_letter(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> BoxFuture<'_, Result<Option<DeadRow>, JournalError>>;

    /// The dead letter of one delivery of `org` without what was said about it, for much less.
    fn dead_copy(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> BoxFuture<'_, Result<Option<DeadLetter>, JournalError>>;

    /// The right to amend a delivery, as long as the answer lives; `None` while another has it.
    /// What is read after that is what an amendment under it finds.
    fn reserve(&self, delivery: DeliveryId) -> Option<Reserved>;

    /// Sends deliveries that have ended again, or discards their dead letters: in one commit. The
    /// dead letter goes and its entry comes, or nothing happens; `Fenced` if another process
    /// amended one of them first.
    fn amend(&self, shard: ShardId, amendments: Vec<Amendment>) -> Result<Commit, JournalError>;

    /// Notes that nothing of a notification is to be sent any more.
    fn cancel(&self, shard: ShardId, cancellation: Cancellation) -> Result<Commit, JournalError>;

    /// True once [`Journal::cancel`] was durable for it: known to who claims in its shard, and to
    /// who canceled it.
    fn is_canceled(&self, notification: NotificationId) -> bool;

    /// As [`Journal::is_canceled`], of a notification in `shard`, whoever canceled it.
    fn was_canceled(
        &self,
        shard: ShardId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<bool, JournalError>> {
        let _ = shard;
        Box::pin(std::future::ready(Ok(self.is_canceled(notification))))
    }

    /// Makes what waits of a notification claimable now; answers how many entries.
    fn hurry(
        &self,
        shard: ShardId,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<usize, JournalError>>;

    /// The root entry's payload of a notification of `org`, while retention keeps it.
    fn root(
        &self,
        org: OrganizationId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<Bytes>, JournalError>>;

    /// Dead letters kept at present.
    fn dead_kept(&self) -> BoxFuture<'_, Result<u64, JournalError>>;

    /// Dead letters, oldest first.
    fn dead_letters(&self, limit: usize) -> BoxFuture<'_, Result<Vec<DeadLetter>, JournalError>>;

    /// The payloads of change entries not yet done, oldest first: what a crash may have kept from
    /// the records. Asked once, before anything is claimed.
    fn unfinished_changes(&self) -> BoxFuture<'_, Result<Vec<Bytes>, JournalError>>;

    /// Durability class shown to callers (`D2`, …).
    fn durability(&self) -> &'static str;

    /// False once a write failed: readiness and admission look here.
    fn is_healthy(&self) -> bool;

    /// Flushes and closes; later calls answer `Closed`.
    fn close(&self) -> BoxFuture<'_, ()>;
}
