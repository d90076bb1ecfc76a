//! From an accepted command to a durable commit: ids, shard, idempotency, and only then an answer.

mod admission;
mod again;
mod cancel;
mod change;

#[cfg(test)]
pub(crate) mod held;
#[cfg(test)]
mod tests;

pub use admission::{Admission, AdmissionLimits, Asked, BacklogQuota, Class, Vitals};
pub use again::{Again, Done, Pace, Refused, ended};
pub use change::{ChangeError, RecordChange};

use self::admission::{Denied, Waiting};
use crate::clock::Clock;
use crate::crash::{self, Stage};
use crate::journal::{
    Append, Backlog, Commit, Entry, IdempotencyRecord, Journal, JournalError, Remembered,
};
use crate::model::{Millis, Notification, NotificationId, OrganizationId, ShardId};
use crate::work::Work;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use uuid::{ContextV7, Timestamp, Uuid};

/// Longest `Idempotency-Key`.
const KEY_MAX: usize = 255;

/// Why nothing was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    #[error("an Idempotency-Key is 1 to 255 visible ASCII characters")]
    BadKey,
    #[error("this Idempotency-Key was used with another body; use a new key for a new request")]
    KeyReused,
    #[error("a request with this Idempotency-Key is still being answered; ask again in a second")]
    KeyBusy,
    #[error("the journal is full; ask again later")]
    Overloaded,
    #[error("more is asked for than the disk takes; ask again in {retry_after_s} s")]
    Shed { retry_after_s: u32 },
    #[error("new work cannot be stored now; ask again in {retry_after_s} s")]
    NoRoom { retry_after_s: u32 },
    #[error(
        "too much of the organization waits to be delivered (limits.backlog_per_org, \
         limits.backlog_bytes_per_org); ask again in {retry_after_s} s"
    )]
    Backlog { retry_after_s: u32 },
    #[error("the request is larger than the journal can store in one commit; send less at once")]
    TooLarge,
    #[error("the journal failed; nothing was stored")]
    Failed,
    #[error(
        "the journal failed while it stored this, and may have it: send the same request \
         again under its Idempotency-Key; without a key it may be done twice"
    )]
    Uncertain,
}

impl IntakeError {
    /// True if nothing was stored and the same may be asked again after a while.
    fn is_refusal(self) -> bool {
        match self {
            Self::Overloaded | Self::Shed { .. } | Self::NoRoom { .. } | Self::Backlog { .. } => {
                true
            }
            Self::BadKey
            | Self::KeyReused
            | Self::KeyBusy
            | Self::TooLarge
            | Self::Failed
            | Self::Uncertain => false,
        }
    }
}

impl From<Denied> for IntakeError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Overloaded(retry_after_s) => Self::Shed { retry_after_s },
            Denied::Stopped(retry_after_s) => Self::NoRoom { retry_after_s },
            Denied::Backlog(retry_after_s) => Self::Backlog { retry_after_s },
        }
    }
}

impl From<JournalError> for IntakeError {
    fn from(error: JournalError) -> Self {
        match error {
            // Redis is away: asked again under the same key, it is known what became of it.
            JournalError::Full => Self::Overloaded,
            JournalError::TooLarge => Self::TooLarge,
            JournalError::KeyUsed => Self::KeyBusy,
            JournalError::Uncertain | JournalError::Unknown => Self::Uncertain,
            JournalError::Poisoned
            | JournalError::Closed
            | JournalError::Fenced
            | JournalError::Unreadable => Self::Failed,
        }
    }
}

/// An answer to a caller, as first given and as repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// What was accepted; nil for a request that accepted no notification.
    pub notification: NotificationId,
    pub body: Bytes,
}

impl Answer {
    /// An answer to a request that accepted no notification.
    #[must_use]
    pub fn plain(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, notification: NotificationId(Uuid::nil()), body: body.into() }
    }

    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(18 + self.body.len());
        bytes.extend_from_slice(&self.status.to_be_bytes());
        bytes.extend_from_slice(self.notification.0.as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        let (status, rest) = bytes.split_first_chunk::<2>()?;
        let id = rest.first_chunk::<16>()?;
        let (status, notification) =
            (u16::from_be_bytes(*status), NotificationId(Uuid::from_bytes(*id)));
        Some(Self { status, notification, body: bytes.split_off(18) })
    }
}

/// An `Idempotency-Key` in its scope, with the hash of the body it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    org: OrganizationId,
    key: [u8; 16],
    body: [u8; 16],
}

impl RequestKey {
    /// `scope` is the path and, in a bulk request, the line.
    pub fn new(
        org: OrganizationId,
        scope: &str,
        key: &[u8],
        body: &[u8],
    ) -> Result<Self, IntakeError> {
        let is_visible = key.iter().all(|b| (0x21..=0x7e).contains(b));
        if key.is_empty() || key.len() > KEY_MAX || !is_visible {
            return Err(IntakeError::BadKey);
        }
        let of = org.0.to_be_bytes();
        let length = (scope.len() as u64).to_be_bytes();
        // With the key before it, equal bodies of two requests have two hashes. That hides no
        // password: keys are often numbers. Bodies with one are stretched before they come here.
        let width = (key.len() as u64).to_be_bytes();
        let body = hash(&[&width, key, body]);
        Ok(Self { org, key: hash(&[&of, &length, scope.as_bytes(), key]), body })
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    short
}

type RunningKeys = Arc<Mutex<HashSet<[u8; 16]>>>;

/// Keeps a key for its first request until that is answered, even if the caller leaves before:
/// clones go where the answer is waited for. After [`JournalError::Unknown`] the request may still
/// be stored; the journal then refuses a second one under its key.
#[derive(Clone, Debug)]
pub struct Running(Arc<RunningKey>);

#[derive(Debug)]
struct RunningKey {
    running: RunningKeys,
    request: RequestKey,
    journal: Arc<dyn Journal>,
    shard: ShardId,
    /// Other processes must be told that the request is decided.
    is_kept: AtomicBool,
}

impl Drop for RunningKey {
    fn drop(&mut self) {
        self.running.lock().remove(&self.request.key);
        if self.is_kept.load(Ordering::Relaxed) {
            self.journal.let_go(self.shard, self.request.key);
        }
    }
}

/// A commit whose keys stay taken until it is answered: who drops it early leaves it to a task.
struct Undecided {
    commit: Option<Commit>,
    running: Vec<Running>,
    waiting: Option<Waiting>,
}

impl Future for Undecided {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(commit) = &mut self.commit else { return Poll::Pending };
        let decided = std::task::ready!(commit.as_mut().poll(context));
        self.commit = None;
        self.waiting.take().into_iter().for_each(Waiting::answered);
        Poll::Ready(decided)
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        let running = std::mem::take(&mut self.running);
        if let Some(commit) = self.commit.take()
            && !running.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let waiting = self.waiting.take();
            runtime.spawn(async move {
                commit.await.ok();
                waiting.into_iter().for_each(Waiting::answered);
                drop(running);
            });
        }
    }
}

/// What is known of a key before its request is worked on.
#[derive(Debug)]
pub enum KeyState {
    /// Ours to answer, as long as this guard lives.
    First(Running),
    Replay(Answer),
}

/// Accepts notifications into the journal.
#[derive(Debug)]
pub struct Intake {
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    running: RunningKeys,
    admission: Arc<Admission>,
    /// Orders ids of one millisecond.
    ids: Arc<Mutex<ContextV7>>,
}

impl Intake {
    /// With the default limits.
    #[must_use]
    pub fn new(journal: Arc<dyn Journal>, clock: Arc<dyn Clock>) -> Self {
        Self::limited(journal, clock, AdmissionLimits::default())
    }

    #[must_use]
    pub fn limited(
        journal: Arc<dyn Journal>,
        clock: Arc<dyn Clock>,
        limits: AdmissionLimits,
    ) -> Self {
        let (running, admission) = (RunningKeys::default(), Arc::new(Admission::new(limits)));
        Self { journal, clock, running, admission, ids: Arc::default() }
    }

    #[must_use]
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Whether a request may come in, decided before its body is read. While nothing presses
    /// ([`Admission::is_pressed`]) everybody may.
    ///
    /// # Errors
    /// [`IntakeError::Shed`], [`IntakeError::Backlog`] or [`IntakeError::NoRoom`], each with the
    /// seconds after which to ask again.
    pub fn admit(&self, asked: &Asked) -> Result<(), IntakeError> {
        let backlog = || self.journal.backlog_of(self.shard(asked.org), asked.org);
        Ok(self.admission.ask(asked, backlog)?)
    }

    #[must_use]
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// A new notification's id: sorts by time of acceptance.
    #[must_use]
    pub fn mint(&self) -> NotificationId {
        let Millis(now) = self.clock.now();
        let nanos = u32::try_from(now % 1_000).unwrap_or(0) * 1_000_000;
        let ids = self.ids.lock();
        NotificationId(Uuid::new_v7(Timestamp::from_unix(&*ids, now / 1_000, nanos)))
    }

    #[must_use]
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// All work of an organization is in one shard, so that it keeps its order.
    #[must_use]
    pub fn shard(&self, org: OrganizationId) -> ShardId {
        ShardId::of(org, self.journal.shards())
    }

    /// Claims a key, or finds the answer its first request got.
    pub async fn begin(&self, request: RequestKey) -> Result<KeyState, IntakeError> {
        if !self.running.lock().insert(request.key) {
            return Err(IntakeError::KeyBusy);
        }
        let shard = self.shard(request.org);
        let guard = Running(Arc::new(RunningKey {
            running: Arc::clone(&self.running),
            request,
            journal: Arc::clone(&self.journal),
            shard,
            is_kept: AtomicBool::new(false),
        }));
        let found = self.journal.keep_key(shard, request.key, self.clock.now()).await;
        // Without an answer it may be kept, too.
        guard.0.is_kept.store(!matches!(found, Ok(None)), Ordering::Relaxed);
        let found = found.map_err(|error| match error {
            // Of the request itself nothing was stored.
            JournalError::Unknown | JournalError::Uncertain => IntakeError::Overloaded,
            other => other.into(),
        })?;
        let Some(found) = found else { return Err(IntakeError::KeyBusy) };
        match found {
            Remembered::No => Ok(KeyState::First(guard)),
            Remembered::Yes { body, .. } if body != request.body => Err(IntakeError::KeyReused),
            Remembered::Yes { answer, .. } => {
                Answer::decode(answer).map(KeyState::Replay).ok_or(IntakeError::Failed)
            }
        }
    }

    /// Stores a notification with the answer its caller will get; resolves once it is durable.
    pub async fn accept(
        &self,
        notification: Notification,
        remember: Option<(&Running, &Answer)>,
    ) -> Result<(), IntakeError> {
        self.append(notification.org, vec![Work::root(notification)], remember).await
    }

    /// How many of the first of `entries` the backlog of their organization has room for now.
    #[must_use]
    pub fn fitting(&self, org: OrganizationId, entries: &[Entry]) -> usize {
        let backlog = self.journal.backlog_of(self.shard(org), org);
        self.admission.fitting(backlog, entries.iter().map(|entry| entry.payload.len() as u64))
    }

    /// Stores the entries of several notifications of one organization in one commit.
    pub async fn accept_all(
        &self,
        org: OrganizationId,
        entries: Vec<Entry>,
        remember: &[(Running, Answer)],
    ) -> Result<(), IntakeError> {
        let remember = remember.iter().map(|(running, answer)| (running, answer));
        self.append(org, entries, remember).await
    }

    async fn append(
        &self,
        org: OrganizationId,
        entries: Vec<Entry>,
        remember: impl IntoIterator<Item = (&Running, &Answer)>,
    ) -> Result<(), IntakeError> {
        let more = size(&entries);
        let shard = self.shard(org);
        self.admission.check(org, self.journal.backlog_of(shard, org), more)?;
        let (mut idempotency, mut running) = (Vec::new(), Vec::new());
        for (first, answer) in remember {
            idempotency.push(self.record(first, answer));
            running.push(first.clone());
        }
        crash::point(Stage::Validated);
        let requests = entries.len();
        let commit = Some(self.journal.append(shard, Append { entries, idempotency })?);
        let waiting = Some(self.admission.begin(org, requests, more.bytes));
        Undecided { commit, running, waiting }.await?;
        Ok(())
    }

    fn record(&self, first: &Running, answer: &Answer) -> IdempotencyRecord {
        let request = first.0.request;
        IdempotencyRecord {
            key: request.key,
            body: request.body,
            created: self.clock.now(),
            answer: answer.encode(),
        }
    }
}

/// What `entries` add to the backlog of their organization.
fn size(entries: &[Entry]) -> Backlog {
    let bytes = entries.iter().map(|entry| entry.payload.len() as u64).sum();
    Backlog { pending: entries.len() as u64, bytes, ..Backlog::default() }
}
