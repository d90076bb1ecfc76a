//! The records seam: organizations, users, roles, devices, memberships, subscriptions.
//!
//! One write verb, `apply`, whose changes commit together or not at all and decide uniqueness;
//! few reads. Two backends pass the same `conformance` suite.

use crate::BoxFuture;
use crate::model::{
    Audience, Device, DeviceId, Membership, ObjectId, Organization, OrganizationId, Role, RoleId,
    Subscription, SubscriptionId, User, UserId,
};
use std::sync::Arc;
use uuid::Uuid;

pub mod conformance;
pub mod directory;
pub mod disk;

/// One record write. `Put…` inserts or replaces by primary key.
#[derive(Clone, Debug)]
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
    pub user: User,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another record already has this value of a unique field.
    #[error("{field} is already in use")]
    Conflict { field: &'static str },
    /// A change names a record that does not exist (a user's organization, a device's user).
    #[error("{what} does not exist")]
    Missing { what: &'static str },
    #[error("the record store failed")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Records with atomic changes.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Commits all `changes` durably, or none of them.
    fn apply(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<Version, StoreError>>;

    fn organization(
        &self,
        which: OrganizationRef,
    ) -> BoxFuture<'_, Result<Option<Arc<Organization>>, StoreError>>;

    fn user(&self, which: UserRef) -> BoxFuture<'_, Result<Option<User>, StoreError>>;

    fn role(
        &self,
        org: OrganizationId,
        role: RoleId,
    ) -> BoxFuture<'_, Result<Option<Role>, StoreError>>;

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
}
