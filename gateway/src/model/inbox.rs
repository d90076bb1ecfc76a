//! In-app inboxes: one entry per recipient of a notification, and the states it goes through.

use super::{DeliveryId, Millis, NotificationId, OrganizationId, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where an entry stands: `QUEUED → SENT | RETRY → … | FAILED`, then `SENT → READ → DISMISSED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InboxState {
    Queued,
    Sent,
    Retry,
    Failed,
    Read,
    Dismissed,
}

impl InboxState {
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Sent, Self::Retry, Self::Failed, Self::Read, Self::Dismissed];

    /// The word Jigx prints.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Sent => "SENT",
            Self::Retry => "RETRY",
            Self::Failed => "FAILED",
            Self::Read => "READ",
            Self::Dismissed => "DISMISSED",
        }
    }

    /// The state with this word, exactly.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// True while no delivery has succeeded and some may still.
    #[must_use]
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Queued | Self::Retry)
    }

    /// True if the member itself may put an entry from this state into `next`.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        matches!((self, next), (Self::Sent, Self::Read) | (Self::Read, Self::Dismissed))
    }
}

/// One user's copy of a notification. What it says is kept once for all of its recipients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxEntry {
    pub org: OrganizationId,
    pub state: InboxState,
    pub start_at: Millis,
    pub created_at: Millis,
    /// `None` is the organization itself.
    pub created_by: Option<Uuid>,
    pub updated_at: Millis,
    pub updated_by: Option<Uuid>,
    /// Deliveries that have not ended: without a success the last one of them decides.
    pub open: Vec<DeliveryId>,
    /// Rises with every change of anything in the inbox.
    pub revision: u64,
    /// The member removed it: kept for a while without its content, so that others learn of it.
    pub is_removed: bool,
}

/// A whole inbox in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxHead {
    /// The revision of the latest change; 0 before the first.
    pub revision: u64,
    pub live: u32,
    pub removed: u32,
    /// Removals up to this revision have been forgotten.
    pub forgotten: u64,
}

/// What a notification puts into inboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxMessage {
    pub notification: NotificationId,
    pub org: OrganizationId,
    /// JSON text of an object, as the member's application gets it.
    pub content: String,
    pub start_at: Millis,
    pub created_at: Millis,
    pub created_by: Option<Uuid>,
}

/// One inbox a message goes to, with the deliveries made for that user besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxRecipient {
    pub user: UserId,
    /// With none, the entry is all there is and counts as sent.
    pub open: Vec<DeliveryId>,
}

/// What a try meant for the entry it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InboxOutcome {
    Delivered,
    Retry,
    Failed,
}

/// One delivery's progress, as its inbox entry is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxStep {
    pub user: UserId,
    pub notification: NotificationId,
    pub delivery: DeliveryId,
    pub outcome: InboxOutcome,
    pub at: Millis,
}
