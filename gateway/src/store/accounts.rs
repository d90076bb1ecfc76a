//! Reads about accounts: lists, searches, credentials, policies and the audit trail.

use super::StoreError;
use crate::BoxFuture;
use crate::model::{
    ApiKey, AuditRecord, Client, Device, Invitation, Membership, MessageText, NotificationPolicy,
    ObjectId, Organization, OrganizationId, PolicyOwner, RefreshToken, Role, Secret, SecretHash,
    Subscription, User, UserId,
};
use std::sync::Arc;
use uuid::Uuid;

/// A stretch of a list of users, and how long the whole list is.
#[derive(Clone, Debug, Default)]
pub struct UserPage {
    pub users: Vec<User>,
    pub total: u64,
}

/// What users are sorted by; ties by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SortBy {
    #[default]
    Id,
    Name,
    Email,
    Status,
    Role,
    OrganizationName,
    DevicesCount,
    Country,
    RegisteredAt,
    Phone,
}

impl SortBy {
    pub const ALL: [Self; 10] = [
        Self::Id,
        Self::Name,
        Self::Email,
        Self::Status,
        Self::Role,
        Self::OrganizationName,
        Self::DevicesCount,
        Self::Country,
        Self::RegisteredAt,
        Self::Phone,
    ];
}

/// A search among the users of an organization and those below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserSearch {
    /// Part of a name, e-mail address, nickname or phone number, without regard to case.
    pub text: String,
    pub sort: SortBy,
    pub descending: bool,
    pub offset: u64,
    pub limit: usize,
}

/// Reads that no delivery needs.
pub trait Accounts {
    /// An id that no user has or had.
    fn next_user(&self) -> UserId;

    /// An id that no organization has or had.
    fn next_organization(&self) -> OrganizationId;

    /// The organization with the smallest id.
    fn first_organization(&self) -> BoxFuture<'_, Result<Option<OrganizationId>, StoreError>>;

    /// Organizations directly below `org`, by id, without the first `offset`.
    fn children(
        &self,
        org: OrganizationId,
        offset: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<Organization>>, StoreError>>;

    /// How many organizations lie directly below `org`.
    fn count_children(&self, org: OrganizationId) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// `org` and every organization below it, parents before children.
    fn subtree(
        &self,
        org: OrganizationId,
    ) -> BoxFuture<'_, Result<Vec<OrganizationId>, StoreError>>;

    /// Users of `org`, by id; with `below` also those of every organization below it.
    fn users(
        &self,
        org: OrganizationId,
        below: bool,
        offset: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<UserPage, StoreError>>;

    /// Users of `root` and below that match.
    fn search_users(
        &self,
        root: OrganizationId,
        search: UserSearch,
    ) -> BoxFuture<'_, Result<UserPage, StoreError>>;

    /// How many users `org` itself has.
    fn count_users(&self, org: OrganizationId) -> BoxFuture<'_, Result<u64, StoreError>>;

    fn roles(&self, org: OrganizationId) -> BoxFuture<'_, Result<Vec<Role>, StoreError>>;

    fn devices(&self, user: UserId) -> BoxFuture<'_, Result<Vec<Device>, StoreError>>;

    /// The PHC string of a user's password, if one was ever set.
    fn password(&self, user: UserId) -> BoxFuture<'_, Result<Option<Secret>, StoreError>>;

    fn invitation(
        &self,
        token: SecretHash,
    ) -> BoxFuture<'_, Result<Option<Invitation>, StoreError>>;

    fn client<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Client>, StoreError>>;

    fn clients(&self, org: OrganizationId) -> BoxFuture<'_, Result<Vec<Client>, StoreError>>;

    fn key(&self, token: SecretHash) -> BoxFuture<'_, Result<Option<ApiKey>, StoreError>>;

    fn keys(&self, org: OrganizationId) -> BoxFuture<'_, Result<Vec<ApiKey>, StoreError>>;

    fn refresh(&self, token: SecretHash)
    -> BoxFuture<'_, Result<Option<RefreshToken>, StoreError>>;

    /// True if tokens that name `id` must not work any more. Answered from memory.
    fn is_revoked(&self, id: &str) -> bool;

    fn policy(
        &self,
        owner: PolicyOwner,
    ) -> BoxFuture<'_, Result<Option<NotificationPolicy>, StoreError>>;

    fn text<'a>(
        &'a self,
        owner: PolicyOwner,
        language: &'a str,
    ) -> BoxFuture<'a, Result<Option<MessageText>, StoreError>>;

    /// The owner's counter over policies, texts and password changes; 0 before the first.
    fn sequence(&self, owner: PolicyOwner) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Every subscription of `org`, disabled ones too, by id.
    fn all_subscriptions(
        &self,
        org: OrganizationId,
    ) -> BoxFuture<'_, Result<Vec<Subscription>, StoreError>>;

    fn membership(
        &self,
        org: OrganizationId,
        solution: Uuid,
        user: UserId,
    ) -> BoxFuture<'_, Result<Option<Membership>, StoreError>>;

    /// Members of a solution by user id, from after `after` on.
    fn members(
        &self,
        org: OrganizationId,
        solution: Uuid,
        after: Option<UserId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Membership>, StoreError>>;

    /// The audit trail of `org` from after `after` on, oldest first.
    fn audit(
        &self,
        org: OrganizationId,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AuditRecord>, StoreError>>;

    /// The key of `org` with this id.
    fn key_of(
        &self,
        org: OrganizationId,
        id: ObjectId,
    ) -> BoxFuture<'_, Result<Option<ApiKey>, StoreError>>;
}
