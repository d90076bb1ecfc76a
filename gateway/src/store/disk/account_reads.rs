//! Reads about accounts: lists, credentials, policies, the audit trail.

use std::collections::VecDeque;
use std::sync::Arc;

use super::reader::View;
use super::tables::{
    Counter, Flaw, Table, audit_key, decode, last_org, number, org_key, owner_key, pair_key,
    solution_prefix, successor, text_key, user_key,
};
use crate::model::{
    ApiKey, AuditRecord, Client, Device, Invitation, Membership, MessageText, NotificationPolicy,
    ObjectId, Organization, OrganizationId, PolicyOwner, RefreshToken, Role, Secret, SecretHash,
    Subscription, UserId,
};
use crate::store::{OrganizationRef, UserPage, UserRef};
use uuid::Uuid;

/// Organizations one walk down the tree visits.
const SUBTREE_MAX: usize = 1_000_000;

impl View<'_> {
    pub(super) fn first_organization(&self) -> Result<Option<OrganizationId>, Flaw> {
        let first = self.rows(Table::Organizations, &[], None)?.next();
        first.map(|row| last_org(Table::Organizations, row?.0.value())).transpose()
    }

    pub(super) fn children(
        &self,
        org: OrganizationId,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Organization>>, Flaw> {
        let mut found = Vec::new();
        for child in self.child_ids(org, offset, limit)? {
            found.extend(self.organization(&OrganizationRef::Id(child))?);
        }
        Ok(found)
    }

    pub(super) fn child_ids(
        &self,
        org: OrganizationId,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<OrganizationId>, Flaw> {
        let prefix = org_key(org);
        let rows = self.rows(Table::Children, &prefix, successor(&prefix).as_deref())?;
        let rows = rows.skip(usize::try_from(offset).unwrap_or(usize::MAX)).take(limit);
        rows.map(|row| last_org(Table::Children, row?.0.value())).collect()
    }

    pub(super) fn subtree(&self, org: OrganizationId) -> Result<Vec<OrganizationId>, Flaw> {
        let mut found = vec![org];
        let mut open = VecDeque::from([org]);
        while let Some(next) = open.pop_front() {
            if found.len() >= SUBTREE_MAX {
                break;
            }
            let below = self.child_ids(next, 0, SUBTREE_MAX)?;
            found.extend(&below);
            open.extend(below);
        }
        Ok(found)
    }

    pub(super) fn users(
        &self,
        org: OrganizationId,
        offset: u64,
        limit: usize,
    ) -> Result<UserPage, Flaw> {
        let total = self.counter(Counter::Users(org))?;
        let mut page = UserPage { users: Vec::new(), total };
        if offset >= total {
            return Ok(page);
        }
        for id in
            self.users_of(org)?.skip(usize::try_from(offset).unwrap_or(usize::MAX)).take(limit)
        {
            page.users.extend(self.user(&UserRef::Id(id?))?.map(Arc::unwrap_or_clone));
        }
        Ok(page)
    }

    pub(super) fn counter(&self, counter: Counter) -> Result<u64, Flaw> {
        let stored = self.value(Table::Counters, &counter.key())?;
        stored.map_or(Ok(0), |value| number(Table::Counters, &value))
    }

    pub(super) fn roles(&self, org: OrganizationId) -> Result<Vec<Role>, Flaw> {
        self.all(Table::Roles, &org_key(org))
    }

    pub(super) fn devices(&self, user: UserId) -> Result<Vec<Device>, Flaw> {
        self.all(Table::Devices, &user_key(user))
    }

    pub(super) fn password(&self, user: UserId) -> Result<Option<Secret>, Flaw> {
        self.record(Table::Passwords, &user_key(user))
    }

    pub(super) fn invitation(&self, token: SecretHash) -> Result<Option<Invitation>, Flaw> {
        self.record(Table::Invitations, &token.0)
    }

    pub(super) fn client(&self, id: &str) -> Result<Option<Client>, Flaw> {
        self.record(Table::Clients, id.as_bytes())
    }

    pub(super) fn clients(&self, org: OrganizationId) -> Result<Vec<Client>, Flaw> {
        let prefix = org_key(org);
        let rows =
            self.rows(Table::ClientsByOrganization, &prefix, successor(&prefix).as_deref())?;
        let mut found = Vec::new();
        for row in rows {
            let row = row?;
            let id = row.0.value().get(prefix.len()..).unwrap_or_default();
            found.extend(self.record::<Client>(Table::Clients, id)?);
        }
        Ok(found)
    }

    pub(super) fn key(&self, token: SecretHash) -> Result<Option<ApiKey>, Flaw> {
        self.record(Table::Keys, &token.0)
    }

    pub(super) fn keys(&self, org: OrganizationId) -> Result<Vec<ApiKey>, Flaw> {
        let prefix = org_key(org);
        let rows = self.rows(Table::KeysByOrganization, &prefix, successor(&prefix).as_deref())?;
        let mut found = Vec::new();
        for row in rows {
            found.extend(self.record::<ApiKey>(Table::Keys, row?.1.value())?);
        }
        Ok(found)
    }

    pub(super) fn key_of(&self, org: OrganizationId, id: ObjectId) -> Result<Option<ApiKey>, Flaw> {
        let token = self.value(Table::KeysByOrganization, &pair_key(&org_key(org), &id.0))?;
        token.map_or(Ok(None), |token| self.record(Table::Keys, &token))
    }

    pub(super) fn refresh(&self, token: SecretHash) -> Result<Option<RefreshToken>, Flaw> {
        self.record(Table::Refreshes, &token.0)
    }

    pub(super) fn policy(&self, owner: PolicyOwner) -> Result<Option<NotificationPolicy>, Flaw> {
        self.record(Table::Policies, &owner_key(owner))
    }

    pub(super) fn text(
        &self,
        owner: PolicyOwner,
        language: &str,
    ) -> Result<Option<MessageText>, Flaw> {
        self.record(Table::Texts, &text_key(owner, language))
    }

    pub(super) fn all_subscriptions(&self, org: OrganizationId) -> Result<Vec<Subscription>, Flaw> {
        self.all(Table::Subscriptions, &org_key(org))
    }

    pub(super) fn membership(
        &self,
        org: OrganizationId,
        solution: Uuid,
        user: UserId,
    ) -> Result<Option<Membership>, Flaw> {
        let key = pair_key(&solution_prefix(org, solution), &user_key(user));
        self.record(Table::Memberships, &key)
    }

    pub(super) fn solution_members(
        &self,
        org: OrganizationId,
        solution: Uuid,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<Membership>, Flaw> {
        let prefix = solution_prefix(org, solution);
        let from = after.map_or_else(
            || prefix.clone(),
            |after| pair_key(&pair_key(&prefix, &user_key(after)), &[0]),
        );
        let rows = self.rows(Table::Memberships, &from, successor(&prefix).as_deref())?;
        rows.take(limit).map(|row| decode(Table::Memberships, row?.1.value())).collect()
    }

    pub(super) fn audit(
        &self,
        org: OrganizationId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, Flaw> {
        let from = audit_key(org, after.saturating_add(1));
        let rows = self.rows(Table::Audit, &from, successor(&org_key(org)).as_deref())?;
        rows.take(limit).map(|row| decode(Table::Audit, row?.1.value())).collect()
    }

    fn all<T: serde::de::DeserializeOwned>(
        &self,
        table: Table,
        prefix: &[u8],
    ) -> Result<Vec<T>, Flaw> {
        let rows = self.rows(table, prefix, successor(prefix).as_deref())?;
        rows.map(|row| decode(table, row?.1.value())).collect()
    }
}
