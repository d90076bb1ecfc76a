//! The records seam: organizations, users, roles, devices, memberships, subscriptions.
//!
//! Three ways to write. `apply` commits changes together or not at all, decides uniqueness, and
//! answers once they are durable. `apply_logged` does the same behind a log: the log makes them
//! durable, together with what they trigger. `redo` makes logged changes again that a crash kept
//! from the records. Few reads. Every backend passes the same `conformance` suite.

use crate::BoxFuture;
use crate::model::{
    ApiKey, Audience, AuditNote, Client, DeliveryId, Device, DeviceId, Invitation, Membership,
    MessageText, Millis, NotificationId, NotificationPolicy, ObjectId, Organization,
    OrganizationId, PolicyOwner, RefreshToken, Role, RoleId, Secret, SecretHash, ShardId,
    Subscription, SubscriptionId, User, UserId,
};
use crate::redis::RedisError;
use crate::vault::Vault;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

mod accounts;
mod changes;
pub mod conformance;
pub mod directory;
pub mod disk;
pub mod dump;
mod inbox;
pub mod redis;

pub use accounts::{Accounts, SortBy, UserPage, UserSearch};
pub use inbox::{InboxChange, InboxRow, Inboxes};

/// Deepest organization tree, counted from its root: a longer chain of parents is refused.
pub const TREE_DEPTH_MAX: usize = 64;

/// One record write. `Put…` inserts or replaces by primary key.
///
/// Journal entries carry changes, so variants are only ever added at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Change {
    PutOrganization(Organization),
    PutUser(User),
    PutRole(Role),
    PutDevice(Device),
    /// Removes a device if it still exists; a missing one is no error.
    RemoveDevice(DeviceId),
    PutMembership(OrganizationId, Membership),
    PutSubscription(Subscription),
    /// Stops deliveries to a subscription whose endpoint is gone.
    DisableSubscription(SubscriptionId),
    RemoveSubscription(SubscriptionId),
    /// What must hold for the changes after it; checked once, not when they are made again.
    Expect(Expectation),
    /// A line for the audit trail about every change before it in the same apply.
    Audit(AuditNote),
    /// Replaces a user's password hash (a PHC string).
    PutPassword(UserId, Secret),
    RemoveMembership(OrganizationId, Uuid, UserId),
    PutInvitation(Invitation),
    /// Removes an invitation; refuses if it is not open any more.
    TakeInvitation(SecretHash),
    PutClient(Client),
    RemoveClient(OrganizationId, String),
    PutKey(ApiKey),
    RemoveKey(OrganizationId, ObjectId),
    PutRefresh(RefreshToken),
    /// Marks a refresh token as used; refuses if it was used or is not there.
    UseRefresh(SecretHash),
    /// Tokens that name this id stop working; the entry is forgotten after the instant.
    Revoke(String, Millis),
    /// Sets or removes a policy and raises its owner's counter. `sequence` in it is set here.
    PutPolicy(PolicyOwner, Option<NotificationPolicy>),
    /// Sets or removes a message text and raises its owner's counter, as for policies.
    PutText(PolicyOwner, String, Option<MessageText>),
    /// Raises an owner's counter for an event that leaves no record of its own.
    Count(PolicyOwner),
    /// Forgets refresh tokens, invitations and revocations that ended before the instant, a
    /// bounded number at once.
    Forget(Millis),
    /// Moves entries of inboxes, or hides a notification its sender removed.
    Inbox(InboxChange),
    /// As `PutDevice`, and removes every other device with the same platform and token: an app
    /// that somebody else logs in to tells the last one nothing any more.
    ClaimDevice(Device),
    /// Notes that a subscription's hook fails, or that it is well again; ends with the subscription.
    NoteFailing(SubscriptionId, Option<Failing>),
}

/// A hook without a success for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub subscription: SubscriptionId,
    pub org: OrganizationId,
    /// When its first try failed after the last success.
    pub since: Millis,
    /// In strict order: the delivery that the others wait for, and when it is due.
    pub head: Option<(DeliveryId, Millis)>,
}

/// What must hold when changes are made, decided with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expectation {
    /// The user is stored and nobody changed it since it had this revision.
    UserRevision(UserId, u32),
    /// The organization has fewer users than this.
    Seats(OrganizationId, u32),
    /// Another active user of the organization has this role.
    RoleBesides(OrganizationId, RoleId, UserId),
    /// The owner's counter still has this value: no policy or text changed.
    Sequence(PolicyOwner, u64),
    /// The organization has fewer subscriptions than this.
    Subscriptions(OrganizationId, u32),
    /// The organization has fewer organizations directly below it than this.
    Children(OrganizationId, u32),
    /// The user's inbox entry for the notification still has this revision.
    InboxRevision(UserId, NotificationId, u64),
    /// The subscription is stored and nobody changed it since this instant.
    Subscription(OrganizationId, SubscriptionId, Millis),
    /// The organization has fewer clients than this.
    Clients(OrganizationId, u32),
    /// The organization has fewer keys than this.
    Keys(OrganizationId, u32),
    /// The user has fewer devices than this besides the one.
    Devices(UserId, DeviceId, u32),
    /// The user's membership of the solution is still this one, or still none.
    Membership(OrganizationId, Uuid, UserId, Option<Membership>),
}

impl Expectation {
    /// Stable word for what did not hold.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::UserRevision(..) => "user_changed",
            Self::Seats(..) => "no_seat",
            Self::RoleBesides(..) => "last_of_role",
            Self::Sequence(..) => "sequence_changed",
            Self::Subscriptions(..) => "too_many_subscriptions",
            Self::Children(..) => "too_many_organizations",
            Self::InboxRevision(..) => "inbox_changed",
            Self::Subscription(..) => "subscription_changed",
            Self::Clients(..) => "too_many_clients",
            Self::Keys(..) => "too_many_keys",
            Self::Devices(..) => "too_many_devices",
            Self::Membership(..) => "membership_changed",
        }
    }
}

/// An organization in any dialect's form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrganizationRef {
    Id(OrganizationId),
    Uuid(Uuid),
    ObjectId(ObjectId),
    Slug(String),
    Numeric(String),
}

/// A user in any dialect's form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UserRef {
    Id(UserId),
    Uuid(Uuid),
    /// Lower case.
    Email(String),
}

/// One user with every device: what expansion needs.
#[derive(Clone, Debug)]
pub struct Recipient {
    pub user: Arc<User>,
    pub devices: Vec<Device>,
}

/// One page of an audience.
#[derive(Clone, Debug, Default)]
pub struct RecipientPage {
    pub recipients: Vec<Recipient>,
    /// Named users that do not exist in the organization.
    pub unknown: u32,
    /// Pass to the next call as `after`; `None` after the last page.
    pub next: Option<UserId>,
}

/// Changes from one number on: `apply` answers with the version that holds its changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another record already has this value of a unique field.
    #[error("{field} is already in use")]
    Conflict { field: &'static str },
    /// A change names a record that does not exist (a user's organization, a device's user).
    #[error("{what} does not exist")]
    Missing { what: &'static str },
    /// An expectation did not hold; its `word`.
    #[error("the records are not as the change expects them: {what}")]
    Unmet { what: &'static str },
    /// A single-use record was used before.
    #[error("{what} was used before or is not there")]
    Used { what: &'static str },
    /// The log refused the changes; nothing was made.
    #[error("the changes could not be logged")]
    Log(#[source] LogError),
    #[error("the record store failed")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// True if the records are somewhere else and cannot be reached now: ask again after a while.
    #[must_use]
    pub fn is_away(&self) -> bool {
        let Self::Backend(source) = self else { return false };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source.as_ref());
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<RedisError>() {
                return error.is_temporary() || error.is_unknown();
            }
            cause = error.source();
        }
        false
    }
}

/// Why changes could not be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The log has none of it.
    #[error("the log is full; ask again later")]
    Full,
    /// The log has none of it, and never will.
    #[error("the changes are larger than the log can take at once")]
    TooLarge,
    /// The log has none of it, and takes nothing any more until a restart.
    #[error("the log takes nothing any more; restart")]
    Refused,
    /// What the log has of it is known once it is read again.
    #[error("the log failed; restart to read what it holds")]
    Failed,
}

/// Resolves when what was logged is durable.
pub type Logged = BoxFuture<'static, Result<(), LogError>>;

/// Writes checked changes, under the version they will have, to a durable log.
pub type LogStep = Box<dyn FnOnce(Version) -> Result<Logged, LogError> + Send>;

/// Lays out what changes trigger, under the version they will have, as what the script of a journal
/// beside the records takes. Asked again under another version if the records changed meanwhile.
pub type AppendStep = Box<dyn FnMut(Version) -> Result<Vec<Bytes>, LogError> + Send>;

/// Records with atomic changes.
pub trait Store: Accounts + Inboxes + Send + Sync + std::fmt::Debug {
    /// Seals and opens the secrets of these records.
    fn vault(&self) -> &Vault;

    /// Commits all `changes` durably, or none of them. The answered version is used once.
    fn apply(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<Version, StoreError>>;

    /// Checks `changes`, logs them with `log`, and makes them visible once the log has them.
    ///
    /// The log is what makes them durable: after a crash, `redo` must be given every logged
    /// change before anything is read. A log that is full refuses its own changes only. After
    /// one that failed nothing is made until the store is opened again: a later version would
    /// hide from `redo` what the log may have.
    fn apply_logged(
        &self,
        changes: Vec<Change>,
        log: LogStep,
    ) -> BoxFuture<'_, Result<Version, StoreError>>;

    /// True if changes and what they trigger are one commit here: then [`Store::apply_appending`]
    /// takes the place of [`Store::apply_logged`].
    fn appends(&self) -> bool {
        false
    }

    /// Commits `changes` and what `append` lays out for the journal of `shard`, both or neither.
    fn apply_appending(
        &self,
        changes: Vec<Change>,
        shard: ShardId,
        append: AppendStep,
    ) -> BoxFuture<'_, Result<Version, StoreError>> {
        drop((changes, shard, append));
        Box::pin(std::future::ready(Err(StoreError::Log(LogError::Failed))))
    }

    /// Makes logged changes again where the records lack them, in order of their versions, and
    /// resolves once the records hold all of them durably: then the log may forget them.
    ///
    /// Changes up to the version of the records are there and are skipped. One that the records
    /// refuse now is left out and logged as an error; damaged records refuse all of them.
    fn redo(&self, logged: Vec<(Version, Vec<Change>)>) -> BoxFuture<'_, Result<(), StoreError>>;

    fn organization(
        &self,
        which: OrganizationRef,
    ) -> BoxFuture<'_, Result<Option<Arc<Organization>>, StoreError>>;

    fn user(&self, which: UserRef) -> BoxFuture<'_, Result<Option<User>, StoreError>>;

    fn role(
        &self,
        org: OrganizationId,
        role: RoleId,
    ) -> BoxFuture<'_, Result<Option<Arc<Role>>, StoreError>>;

    /// The users of `audience` in `org`, with devices, in ascending user id from after `after`.
    ///
    /// Users outside `org` count as unknown. At most `limit` recipients a page. `Users` and
    /// `Emails` audiences report `unknown` once, on the first page, and name each user once.
    fn recipients<'a>(
        &'a self,
        org: OrganizationId,
        audience: &'a Audience,
        after: Option<UserId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<RecipientPage, StoreError>>;

    /// Enabled subscriptions of `org` that want `event`.
    fn subscriptions<'a>(
        &'a self,
        org: OrganizationId,
        event: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Subscription>, StoreError>>;

    /// One subscription of `org`.
    fn subscription(
        &self,
        org: OrganizationId,
        id: SubscriptionId,
    ) -> BoxFuture<'_, Result<Option<Subscription>, StoreError>>;

    /// Every subscription whose hook fails: read once, when work begins.
    fn failing(&self) -> BoxFuture<'_, Result<Vec<Failing>, StoreError>>;
}
