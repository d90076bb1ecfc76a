//! Changes to and reads of inboxes, and of the notifications their senders removed.

use super::StoreError;
use crate::BoxFuture;
use crate::model::{
    InboxEntry, InboxHead, InboxMessage, InboxRecipient, InboxState, InboxStep, Millis,
    NotificationId, OrganizationId, UserId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One change of inboxes; each leaves as it is what it made before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InboxChange {
    /// Gives each recipient an entry who never had one for this notification.
    Put { message: InboxMessage, to: Vec<InboxRecipient>, at: Millis },
    /// Moves entries on that still wait for a delivery.
    Step(Vec<InboxStep>),
    /// Puts an entry into a state that its member may choose. Expect its revision before.
    Set {
        user: UserId,
        notification: NotificationId,
        state: InboxState,
        at: Millis,
        by: Option<Uuid>,
    },
    /// Removes an entry. Expect its revision before.
    Remove { user: UserId, notification: NotificationId, at: Millis, by: Option<Uuid> },
    /// Keeps a notification out of its organization's list; refuses if it is hidden already.
    /// Hidden ones accepted before `forget_before` are forgotten: the journal dropped them.
    Hide { org: OrganizationId, notification: NotificationId, forget_before: Millis },
}

/// An entry with what it says; a removed one says nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxRow {
    pub notification: NotificationId,
    pub entry: InboxEntry,
    pub content: Option<String>,
}

/// Reads of inboxes.
pub trait Inboxes {
    fn inbox_head(&self, user: UserId) -> BoxFuture<'_, Result<InboxHead, StoreError>>;

    /// One entry that was not removed.
    fn inbox_entry(
        &self,
        user: UserId,
        notification: NotificationId,
    ) -> BoxFuture<'_, Result<Option<InboxRow>, StoreError>>;

    /// Entries that `org` put into the user's inbox, newest first, older than `before`.
    fn inbox(
        &self,
        user: UserId,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<InboxRow>, StoreError>>;

    /// Entries of `org` changed or removed after a revision, in the order of their last change.
    fn inbox_changes(
        &self,
        user: UserId,
        org: OrganizationId,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<InboxRow>, StoreError>>;

    /// Which of these notifications of `org` are hidden.
    fn hidden(
        &self,
        org: OrganizationId,
        among: Vec<NotificationId>,
    ) -> BoxFuture<'_, Result<Vec<NotificationId>, StoreError>>;
}
