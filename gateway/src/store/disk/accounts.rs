//! The accounts half of the seam on disk: each read is one question to a view.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::reader::View;
use super::tables::{Counter, Flaw};
use super::{DiskError, DiskStore, searches};
use crate::BoxFuture;
use crate::model::{
    ApiKey, AuditRecord, Client, Device, Invitation, Membership, MessageText, NotificationPolicy,
    ObjectId, Organization, OrganizationId, PolicyOwner, RefreshToken, Role, Secret, SecretHash,
    Subscription, UserId,
};
use crate::store::{Accounts, SortBy, StoreError, UserPage, UserSearch};
use uuid::Uuid;

pub(super) type Read<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

impl DiskStore {
    /// A short read, made where the caller runs.
    pub(super) fn short<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View<'_>) -> Result<T, Flaw> + Send,
    ) -> Read<'_, T> {
        Box::pin(std::future::ready(self.answer(read(&self.view()))))
    }

    /// A read of many rows, made on a blocking thread and without the caches.
    pub(super) fn long<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View<'_>) -> Result<T, Flaw> + Send + 'static,
    ) -> Read<'_, T> {
        let records = Arc::clone(&self.records);
        let read = tokio::task::spawn_blocking(move || read(&View::uncached(&records)));
        Box::pin(async move {
            let found = read.await;
            self.answer(found.map_err(|e| StoreError::Backend(Box::new(DiskError::ReadCutOff(e))))?)
        })
    }
}

impl Accounts for DiskStore {
    fn next_user(&self) -> UserId {
        UserId(self.records.last_user.fetch_add(1, Ordering::Relaxed).saturating_add(1))
    }

    fn next_organization(&self) -> OrganizationId {
        let last = self.records.last_organization.fetch_add(1, Ordering::Relaxed);
        OrganizationId(last.saturating_add(1))
    }

    fn first_organization(&self) -> Read<'_, Option<OrganizationId>> {
        self.short(|view| view.first_organization())
    }

    fn children(
        &self,
        org: OrganizationId,
        offset: u64,
        limit: usize,
    ) -> Read<'_, Vec<Arc<Organization>>> {
        self.long(move |view| view.children(org, offset, limit))
    }

    fn count_children(&self, org: OrganizationId) -> Read<'_, u64> {
        self.short(|view| view.counter(Counter::Children(org)))
    }

    fn subtree(&self, org: OrganizationId) -> Read<'_, Vec<OrganizationId>> {
        self.long(move |view| view.subtree(org))
    }

    fn users(
        &self,
        org: OrganizationId,
        below: bool,
        offset: u64,
        limit: usize,
    ) -> Read<'_, UserPage> {
        if below {
            let everybody = UserSearch {
                text: String::new(),
                sort: SortBy::Id,
                descending: false,
                offset,
                limit,
            };
            return self.search_users(org, everybody);
        }
        self.long(move |view| view.users(org, offset, limit))
    }

    fn search_users(&self, root: OrganizationId, search: UserSearch) -> Read<'_, UserPage> {
        Box::pin(searches::search(&self.records, root, search))
    }

    fn count_users(&self, org: OrganizationId) -> Read<'_, u64> {
        self.short(|view| view.counter(Counter::Users(org)))
    }

    fn roles(&self, org: OrganizationId) -> Read<'_, Vec<Role>> {
        self.short(|view| view.roles(org))
    }

    fn devices(&self, user: UserId) -> Read<'_, Vec<Device>> {
        self.short(|view| view.devices(user))
    }

    fn password(&self, user: UserId) -> Read<'_, Option<Secret>> {
        self.short(|view| view.password(user))
    }

    fn invitation(&self, token: SecretHash) -> Read<'_, Option<Invitation>> {
        self.short(|view| view.invitation(token))
    }

    fn client<'a>(&'a self, id: &'a str) -> Read<'a, Option<Client>> {
        self.short(|view| view.client(id))
    }

    fn clients(&self, org: OrganizationId) -> Read<'_, Vec<Client>> {
        self.short(|view| view.clients(org))
    }

    fn key(&self, token: SecretHash) -> Read<'_, Option<ApiKey>> {
        self.short(|view| view.key(token))
    }

    fn keys(&self, org: OrganizationId) -> Read<'_, Vec<ApiKey>> {
        self.short(|view| view.keys(org))
    }

    fn key_of(&self, org: OrganizationId, id: ObjectId) -> Read<'_, Option<ApiKey>> {
        self.short(|view| view.key_of(org, id))
    }

    fn refresh(&self, token: SecretHash) -> Read<'_, Option<RefreshToken>> {
        self.short(|view| view.refresh(token))
    }

    fn is_revoked(&self, id: &str) -> bool {
        let revoked = self.records.caches.revoked.read();
        // Asked for every request; mostly nothing is revoked.
        !revoked.is_empty() && revoked.contains_key(id)
    }

    fn policy(&self, owner: PolicyOwner) -> Read<'_, Option<NotificationPolicy>> {
        self.short(|view| view.policy(owner))
    }

    fn text<'a>(&'a self, owner: PolicyOwner, language: &'a str) -> Read<'a, Option<MessageText>> {
        self.short(|view| view.text(owner, language))
    }

    fn sequence(&self, owner: PolicyOwner) -> Read<'_, u64> {
        self.short(|view| view.counter(Counter::Sequence(owner)))
    }

    fn all_subscriptions(&self, org: OrganizationId) -> Read<'_, Vec<Subscription>> {
        self.short(|view| view.all_subscriptions(org))
    }

    fn membership(
        &self,
        org: OrganizationId,
        solution: Uuid,
        user: UserId,
    ) -> Read<'_, Option<Membership>> {
        self.short(|view| view.membership(org, solution, user))
    }

    fn members(
        &self,
        org: OrganizationId,
        solution: Uuid,
        after: Option<UserId>,
        limit: usize,
    ) -> Read<'_, Vec<Membership>> {
        self.long(move |view| view.solution_members(org, solution, after, limit))
    }

    fn audit(&self, org: OrganizationId, after: u64, limit: usize) -> Read<'_, Vec<AuditRecord>> {
        self.long(move |view| view.audit(org, after, limit))
    }
}
