//! The accounts half of the seam on Redis: each read is one question or a few.

use std::sync::Arc;

use super::places::Place;
use super::reads::{Found, cell, decoded_all, owner_place};
use super::recipients::devices;
use super::wire::{Ask, into_bytes};
use super::{RecordsError, RedisStore};
use crate::BoxFuture;
use crate::model::{
    ApiKey, AuditRecord, Client, Device, Invitation, Membership, MessageText, NotificationPolicy,
    ObjectId, Organization, OrganizationId, PolicyOwner, RefreshToken, Role, Secret, SecretHash,
    Subscription, UserId,
};
use crate::store::changes::tables::{
    Counter, Table, audit_key, org_key, owner_key, pair_key, solution_prefix, text_key, user_key,
};
use crate::store::{Accounts, SortBy, StoreError, UserPage, UserSearch};
use redis::Value;
use uuid::Uuid;

pub(super) type Read<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A read whose error says where it comes from.
pub(super) fn told<'a, T: Send + 'a>(
    read: impl Future<Output = Found<T>> + Send + 'a,
) -> Read<'a, T> {
    Box::pin(async move {
        read.await.map_err(|error: RecordsError| StoreError::Backend(Box::new(error)))
    })
}

impl Accounts for RedisStore {
    fn next_user(&self) -> UserId {
        UserId(self.records.next_id(super::ids::Kind::User))
    }

    fn next_organization(&self) -> OrganizationId {
        let id = self.records.next_id(super::ids::Kind::Organization);
        OrganizationId(i32::try_from(id).unwrap_or(i32::MAX))
    }

    fn first_organization(&self) -> Read<'_, Option<OrganizationId>> {
        told(self.records.first_organization())
    }

    fn children(
        &self,
        org: OrganizationId,
        offset: u64,
        limit: usize,
    ) -> Read<'_, Vec<Arc<Organization>>> {
        told(self.records.children(org, offset, limit))
    }

    fn count_children(&self, org: OrganizationId) -> Read<'_, u64> {
        told(self.records.counter(Place::Org(org), Counter::Children(org)))
    }

    fn subtree(&self, org: OrganizationId) -> Read<'_, Vec<OrganizationId>> {
        told(self.records.subtree(org))
    }

    fn users(
        &self,
        org: OrganizationId,
        below: bool,
        offset: u64,
        limit: usize,
    ) -> Read<'_, UserPage> {
        if !below {
            return told(self.records.users(org, offset, limit));
        }
        let text = String::new();
        let (sort, descending) = (SortBy::Id, false);
        self.search_users(org, UserSearch { text, sort, descending, offset, limit })
    }

    fn search_users(&self, root: OrganizationId, search: UserSearch) -> Read<'_, UserPage> {
        told(self.records.search(root, search))
    }

    fn count_users(&self, org: OrganizationId) -> Read<'_, u64> {
        told(self.records.counter(Place::Org(org), Counter::Users(org)))
    }

    fn roles(&self, org: OrganizationId) -> Read<'_, Vec<Role>> {
        told(async move { self.records.all(org, Table::Roles, &org_key(org)).await })
    }

    fn devices(&self, user: UserId) -> Read<'_, Vec<Device>> {
        told(async move {
            let key = user_key(user);
            let asks = |place| vec![cell(place, Table::Devices, &key)];
            let found = self.records.of_user(user, asks).await?;
            let own = found.and_then(|(_, mut values)| values.pop());
            Ok(devices(own.unwrap_or(Value::Nil))?)
        })
    }

    fn password(&self, user: UserId) -> Read<'_, Option<Secret>> {
        told(self.records.user_record(user, Table::Passwords))
    }

    fn invitation(&self, token: SecretHash) -> Read<'_, Option<Invitation>> {
        told(async move { self.records.named_record(Table::Invitations, &token.0).await })
    }

    fn client<'a>(&'a self, id: &'a str) -> Read<'a, Option<Client>> {
        told(self.records.named_record(Table::Clients, id.as_bytes()))
    }

    fn clients(&self, org: OrganizationId) -> Read<'_, Vec<Client>> {
        told(self.records.indexed(org, (Table::ClientsByOrganization, Table::Clients)))
    }

    fn key(&self, token: SecretHash) -> Read<'_, Option<ApiKey>> {
        told(async move { self.records.named_record(Table::Keys, &token.0).await })
    }

    fn keys(&self, org: OrganizationId) -> Read<'_, Vec<ApiKey>> {
        told(self.records.pointed(org, (Table::KeysByOrganization, Table::Keys)))
    }

    fn key_of(&self, org: OrganizationId, id: ObjectId) -> Read<'_, Option<ApiKey>> {
        told(async move {
            let key = pair_key(&org_key(org), &id.0);
            let ask = cell(Place::Org(org), Table::KeysByOrganization, &key);
            match into_bytes(self.records.ask(ask).await?) {
                Some(token) => self.records.named_record(Table::Keys, &token).await,
                None => Ok(None),
            }
        })
    }

    fn refresh(&self, token: SecretHash) -> Read<'_, Option<RefreshToken>> {
        told(async move { self.records.named_record(Table::Refreshes, &token.0).await })
    }

    fn is_revoked(&self, id: &str) -> bool {
        self.records.revoked.has(id)
    }

    fn policy(&self, owner: PolicyOwner) -> Read<'_, Option<NotificationPolicy>> {
        let key = owner_key(owner);
        told(async move { self.records.record(owner_place(owner), Table::Policies, &key).await })
    }

    fn text<'a>(&'a self, owner: PolicyOwner, language: &'a str) -> Read<'a, Option<MessageText>> {
        let key = text_key(owner, language);
        told(async move { self.records.record(owner_place(owner), Table::Texts, &key).await })
    }

    fn sequence(&self, owner: PolicyOwner) -> Read<'_, u64> {
        told(self.records.counter(owner_place(owner), Counter::Sequence(owner)))
    }

    fn all_subscriptions(&self, org: OrganizationId) -> Read<'_, Vec<Subscription>> {
        told(async move { self.records.all(org, Table::Subscriptions, &org_key(org)).await })
    }

    fn membership(
        &self,
        org: OrganizationId,
        solution: Uuid,
        user: UserId,
    ) -> Read<'_, Option<Membership>> {
        let key = pair_key(&solution_prefix(org, solution), &user_key(user));
        told(async move { self.records.record(Place::Org(org), Table::Memberships, &key).await })
    }

    fn members(
        &self,
        org: OrganizationId,
        solution: Uuid,
        after: Option<UserId>,
        limit: usize,
    ) -> Read<'_, Vec<Membership>> {
        told(async move {
            let prefix = solution_prefix(org, solution);
            let after = after.map(|after| pair_key(&prefix, &user_key(after)));
            let at = (Place::Org(org), Table::Memberships);
            let ask = Ask::members(at, &prefix, after.as_deref(), limit, true);
            decoded_all(Table::Memberships, self.records.ask(ask).await?)
        })
    }

    fn audit(&self, org: OrganizationId, after: u64, limit: usize) -> Read<'_, Vec<AuditRecord>> {
        told(async move {
            let last = audit_key(org, after);
            let at = (Place::Org(org), Table::Audit);
            let ask = Ask::members(at, &org_key(org), Some(&last), limit, true);
            decoded_all(Table::Audit, self.records.ask(ask).await?)
        })
    }
}
