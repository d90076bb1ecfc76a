//! What a journal entry carries: a whole notification, or a part of it that is still to do.

use crate::journal::{Entry, EntryKind};
use crate::model::{
    Millis, Notification, NotificationId, OrganizationId, Source, SubscriptionId, TargetRef,
    TimelineEvent, UserId,
};
use crate::store::{Change, Version};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

pub use crate::model::Overrides;

/// Stands before every payload, so that a later release can read what this one wrote.
const FORMAT: u8 = 2;
const PAYLOAD_BYTES: usize = 512;
/// Room for an ordinary event.
const EVENT_BYTES: usize = 160;

/// What a timeline names as the target of a notification canceled as a whole.
pub const CANCELED_TARGET: &str = "notification";

/// The target of an entry that was given up before anybody knew whom it is for.
pub const ENTRY_TARGET: &str = "entry";

/// One recipient, named without secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RecipientRef {
    User(UserId),
    Subscription(SubscriptionId),
}

impl RecipientRef {
    /// Whose target that is.
    #[must_use]
    pub fn of(target: TargetRef) -> Self {
        match target {
            TargetRef::Device { user, .. } | TargetRef::Mailbox { user, .. } => Self::User(user),
            TargetRef::Subscription { subscription, .. } => Self::Subscription(subscription),
        }
    }

    /// `user:7` or `subscription:5f1d…`, as timelines show it.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::User(user) => format!("user:{user}"),
            Self::Subscription(subscription) => format!("subscription:{subscription}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// As accepted.
    Notification(Notification),
    /// The rest of a long audience, from after this user on.
    Chunk { notification: Notification, after: UserId },
    /// One recipient that a rule held: rules are asked again.
    Recipient { notification: Notification, recipient: RecipientRef },
    /// Later steps of a plan: sent only if none of `unless` was delivered by now.
    Step {
        notification: Notification,
        unless: Vec<TargetRef>,
        steps: Vec<(Vec<TargetRef>, u32)>,
        overrides: Overrides,
    },
    /// One delivery to try again.
    Retry {
        notification: Notification,
        target: TargetRef,
        /// Tries made so far.
        attempts: u16,
        overrides: Overrides,
    },
    /// One recipient whose rules collect under `key`: at its time it goes out with the others of it.
    Collected { notification: Notification, recipient: RecipientRef, key: String },
    /// A digest for one recipient, ready to go out: rules are not asked again.
    Digested { notification: Notification, recipient: RecipientRef },
}

impl Work {
    #[must_use]
    pub fn notification(&self) -> &Notification {
        match self {
            Self::Notification(notification)
            | Self::Chunk { notification, .. }
            | Self::Recipient { notification, .. }
            | Self::Collected { notification, .. }
            | Self::Digested { notification, .. }
            | Self::Step { notification, .. }
            | Self::Retry { notification, .. } => notification,
        }
    }

    #[must_use]
    pub fn into_notification(self) -> Notification {
        match self {
            Self::Notification(notification)
            | Self::Chunk { notification, .. }
            | Self::Recipient { notification, .. }
            | Self::Collected { notification, .. }
            | Self::Digested { notification, .. }
            | Self::Step { notification, .. }
            | Self::Retry { notification, .. } => notification,
        }
    }

    /// The payload of a journal entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Room for an ordinary notification, so that the buffer does not grow step by step.
        let mut buffer = Vec::with_capacity(PAYLOAD_BYTES);
        buffer.push(FORMAT);
        // Serializing into memory cannot fail for these types.
        postcard::to_extend(self, buffer).map(Bytes::from).unwrap_or_default()
    }

    /// Reads a payload; `None` if it is none or of a later release.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (format, rest) = payload.split_first()?;
        (*format == FORMAT).then(|| postcard::from_bytes(rest).ok()).flatten()
    }

    /// A journal entry for work that an earlier entry leaves behind.
    #[must_use]
    pub fn follow_up(&self, due: Millis) -> Entry {
        let notification = self.notification();
        Entry {
            notification: notification.id,
            org: notification.org,
            kind: EntryKind::FollowUp,
            due,
            payload: self.encode(),
        }
    }

    /// As `follow_up`, for a first try that could not go out yet.
    #[must_use]
    pub fn deferred(&self, due: Millis) -> Entry {
        Entry { kind: EntryKind::Deferred, ..self.follow_up(due) }
    }

    /// The journal entry of a notification as accepted.
    #[must_use]
    pub fn root(notification: Notification) -> Entry {
        let (id, org, due) = (notification.id, notification.org, notification.start_at);
        // The one dialect that lists what was accepted.
        let is_listed = notification.source == Source::Jigx;
        let kind = if is_listed { EntryKind::Listed } else { EntryKind::Root };
        let payload = Self::Notification(notification).encode();
        Entry { notification: id, org, kind, due, payload }
    }
}

/// The journal entry of changes to records, written before they are made. `id` names the change.
#[must_use]
pub fn log_entry(
    id: NotificationId,
    org: OrganizationId,
    now: Millis,
    version: Version,
    changes: &[Change],
) -> Entry {
    let mut buffer = vec![FORMAT];
    buffer.extend_from_slice(&version.0.to_be_bytes());
    let payload = postcard::to_extend(changes, buffer).map(Bytes::from).unwrap_or_default();
    Entry { notification: id, org, kind: EntryKind::Change, due: now, payload }
}

/// Reads the payload of a `log_entry`.
#[must_use]
pub fn decode_changes(payload: &[u8]) -> Option<(Version, Vec<Change>)> {
    let (format, rest) = payload.split_first()?;
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let version = Version(u64::from_be_bytes(*version));
    (*format == FORMAT).then(|| postcard::from_bytes(rest).ok()).flatten().map(|c| (version, c))
}

/// A timeline event as the journal stores it.
#[must_use]
pub fn encode_event(event: &TimelineEvent) -> Bytes {
    Events::with_room_for(1).encode(event)
}

/// Timeline events as the journal stores them, many in one piece of memory.
#[derive(Debug)]
pub struct Events(BytesMut);

impl Events {
    #[must_use]
    pub fn with_room_for(events: usize) -> Self {
        Self(BytesMut::with_capacity(events * EVENT_BYTES))
    }

    /// As [`encode_event`]; what it answers keeps the memory of all that were encoded with it.
    pub fn encode(&mut self, event: &TimelineEvent) -> Bytes {
        self.0.put_u8(FORMAT);
        let encoded = postcard::serialize_with_flavor(event, Growing(&mut self.0));
        let bytes = self.0.split().freeze();
        encoded.map_or_else(|_| Bytes::new(), |()| bytes)
    }
}

/// Takes what postcard writes, slice by slice.
struct Growing<'a>(&'a mut BytesMut);

impl postcard::ser_flavors::Flavor for Growing<'_> {
    type Output = ();

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.put_u8(data);
        Ok(())
    }

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.put_slice(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Reads a stored timeline event.
#[must_use]
pub fn decode_event(bytes: &[u8]) -> Option<TimelineEvent> {
    let (format, rest) = bytes.split_first()?;
    (*format == FORMAT)
        .then(|| postcard::from_bytes(rest).ok())
        .flatten()
        .map(TimelineEvent::renewed)
}
