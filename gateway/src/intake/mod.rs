//! From an accepted command to a durable commit: ids, shard, idempotency, and only then an answer.

mod cancel;
mod change;

pub use change::{ChangeError, RecordChange};

use crate::clock::Clock;
use crate::crash::{self, Stage};
use crate::journal::{Append, Entry, IdempotencyRecord, Journal, JournalError, Remembered};
use crate::model::{Millis, Notification, NotificationId, OrganizationId, ShardId};
use crate::work::Work;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::sync::Arc;
use uuid::Uuid;

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
    #[error("the request is larger than the journal can store in one commit; send less at once")]
    TooLarge,
    #[error("the journal failed; nothing was stored")]
    Failed,
}

impl From<JournalError> for IntakeError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Full => Self::Overloaded,
            JournalError::TooLarge => Self::TooLarge,
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
        let org = org.0.to_be_bytes();
        let length = (scope.len() as u64).to_be_bytes();
        // A body may hold a password. With the key before it, the stored hash can be guessed at
        // only by who knows the key, and that is stored nowhere.
        let width = (key.len() as u64).to_be_bytes();
        let body = hash(&[&width, key, body]);
        Ok(Self { key: hash(&[&org, &length, scope.as_bytes(), key]), body })
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

/// Keeps a key for itself while its first request is being answered: until that is stored.
#[derive(Debug)]
pub struct Running {
    running: RunningKeys,
    key: [u8; 16],
}

impl Drop for Running {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
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
}

impl Intake {
    #[must_use]
    pub fn new(journal: Arc<dyn Journal>, clock: Arc<dyn Clock>) -> Self {
        Self { journal, clock, running: RunningKeys::default() }
    }

    #[must_use]
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// A new notification's id: sorts by time of acceptance.
    #[must_use]
    pub fn mint(&self) -> NotificationId {
        NotificationId(Uuid::now_v7())
    }

    #[must_use]
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// All work of an organization is in one shard, so that it keeps its order.
    #[must_use]
    pub fn shard(&self, org: OrganizationId) -> ShardId {
        // Fibonacci hashing spreads consecutive ids over any number of shards.
        let spread = u64::from(org.0.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let shard = spread % u64::from(self.journal.shards().max(1));
        ShardId(u16::try_from(shard).unwrap_or(0))
    }

    /// Claims a key, or finds the answer its first request got.
    pub async fn begin(&self, request: RequestKey) -> Result<KeyState, IntakeError> {
        if !self.running.lock().insert(request.key) {
            return Err(IntakeError::KeyBusy);
        }
        let guard = Running { running: Arc::clone(&self.running), key: request.key };
        match self.journal.remembered(request.key, self.clock.now()).await? {
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
        remember: Option<(RequestKey, &Answer)>,
    ) -> Result<(), IntakeError> {
        let shard = self.shard(notification.org);
        let idempotency = remember.map(|(key, answer)| self.record(key, answer));
        let append = Append {
            entries: vec![Work::root(notification)],
            idempotency: idempotency.into_iter().collect(),
        };
        crash::point(Stage::Validated);
        self.journal.append(shard, append)?.await?;
        Ok(())
    }

    /// Stores the entries of several notifications of one organization in one commit.
    pub async fn accept_all(
        &self,
        org: OrganizationId,
        entries: Vec<Entry>,
        remember: &[(RequestKey, Answer)],
    ) -> Result<(), IntakeError> {
        let idempotency = remember.iter().map(|(key, answer)| self.record(*key, answer)).collect();
        self.journal.append(self.shard(org), Append { entries, idempotency })?.await?;
        Ok(())
    }

    fn record(&self, request: RequestKey, answer: &Answer) -> IdempotencyRecord {
        IdempotencyRecord {
            key: request.key,
            body: request.body,
            created: self.clock.now(),
            answer: answer.encode(),
        }
    }
}
