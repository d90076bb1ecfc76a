//! Reads: one redb snapshot per question, with the caches in front for the hot ones.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use redb::{ReadTransaction, ReadableDatabase, ReadableTable};
use serde::de::DeserializeOwned;

use super::Records;
use super::cache::{Cache, Generation};
use super::tables::{
    Flaw, Table, decode, group_prefix, org_key, organization_name, pair_key, role_key,
    solution_prefix, subscription_key, successor, user_key, user_name, user_of,
};
use super::transaction::definition;
use crate::model::{
    Audience, Device, Organization, OrganizationId, Role, RoleId, Subscription, SubscriptionId,
    User, UserId,
};
use crate::store::{Failing, OrganizationRef, Recipient, RecipientPage, UserRef};

type ScanTable = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;
pub(super) type ScanRange = redb::Range<'static, &'static [u8], &'static [u8]>;

/// The records as of one moment. Reads through the caches unless made for a scan.
pub(super) struct View<'a> {
    records: &'a Records,
    /// Noted before the transaction begins; `None` keeps a long scan out of the caches.
    cached: Option<Generation>,
    transaction: OnceCell<ReadTransaction>,
}

impl<'a> View<'a> {
    /// For point reads: what is cached is not read again, and what is read is cached.
    pub(super) fn cached(records: &'a Records) -> Self {
        let cached = Some(records.caches.generation());
        Self { records, cached, transaction: OnceCell::new() }
    }

    /// For scans over many users, which would push everything hot out of the caches.
    pub(super) fn uncached(records: &'a Records) -> Self {
        Self { records, cached: None, transaction: OnceCell::new() }
    }

    pub(super) fn organization(
        &self,
        which: &OrganizationRef,
    ) -> Result<Option<Arc<Organization>>, Flaw> {
        let caches = &self.records.caches;
        self.through(&caches.organizations, which, || {
            let key = match (which, organization_name(which)) {
                (OrganizationRef::Id(id), _) => Some(org_key(*id).to_vec()),
                (_, Some(name)) => self.value(Table::OrganizationNames, &name)?,
                (_, None) => None,
            };
            key.map_or(Ok(None), |key| self.record(Table::Organizations, &key))
        })
    }

    pub(super) fn user(&self, which: &UserRef) -> Result<Option<Arc<User>>, Flaw> {
        self.through(&self.records.caches.users, which, || {
            let key = match (which, user_name(which)) {
                (UserRef::Id(id), _) => Some(user_key(*id).to_vec()),
                (_, Some(name)) => self.value(Table::UserNames, &name)?,
                (_, None) => None,
            };
            key.map_or(Ok(None), |key| self.record(Table::Users, &key))
        })
    }

    pub(super) fn role(
        &self,
        org: OrganizationId,
        role: RoleId,
    ) -> Result<Option<Arc<Role>>, Flaw> {
        self.through(&self.records.caches.roles, &(org, role), || {
            self.record(Table::Roles, &role_key(org, role))
        })
    }

    pub(super) fn subscription(
        &self,
        org: OrganizationId,
        id: SubscriptionId,
    ) -> Result<Option<Subscription>, Flaw> {
        self.record(Table::Subscriptions, &subscription_key(org, id))
    }

    /// The enabled subscriptions of `org` that want `event`.
    pub(super) fn subscriptions(
        &self,
        org: OrganizationId,
        event: &str,
    ) -> Result<Vec<Subscription>, Flaw> {
        let all = self.through(&self.records.caches.subscriptions, &org, || {
            let mut all: Vec<Subscription> = Vec::new();
            for entry in self.range(Table::Subscriptions, &org_key(org), None)? {
                all.push(decode(Table::Subscriptions, entry?.1.value())?);
            }
            Ok(Some(all))
        })?;
        let wanting = all.iter().flat_map(|all| all.iter()).filter(|one| one.wants(event));
        Ok(wanting.cloned().collect())
    }

    /// Every hook that fails.
    pub(super) fn failing(&self) -> Result<Vec<Failing>, Flaw> {
        let all = self.range(Table::Failing, &[], None)?;
        all.map(|entry| decode(Table::Failing, entry?.1.value())).collect()
    }

    /// One page of `audience`, as [`crate::store::Store::recipients`] promises it.
    pub(super) fn recipients(
        &self,
        org: OrganizationId,
        audience: &Audience,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<RecipientPage, Flaw> {
        let limit = limit.max(1);
        match audience {
            Audience::Users(ids) => {
                self.named(org, ids.iter().copied().collect(), 0, (after, limit))
            }
            Audience::Emails(emails) => {
                let (users, unknown) = self.addressed(emails)?;
                self.named(org, users, unknown, (after, limit))
            }
            Audience::Organization => {
                let members = Members::Organization;
                let all = vec![self.members(members, &org_key(org), after)?];
                self.page(org, all, limit)
            }
            Audience::Solution(solution) => {
                let prefix = solution_prefix(org, *solution);
                let all = vec![self.members(Members::Solution, &prefix, after)?];
                self.page(org, all, limit)
            }
            Audience::Groups { solution, groups } => {
                let groups: BTreeSet<&String> = groups.iter().collect();
                let each = groups.into_iter().map(|group| {
                    self.members(Members::Group, &group_prefix(org, *solution, group), after)
                });
                let each = each.collect::<Result<Vec<_>, _>>()?;
                self.page(org, each, limit)
            }
            Audience::Subscriptions => Ok(RecipientPage::default()),
        }
    }

    /// The users with these e-mail addresses, and how many addresses nobody has.
    fn addressed(&self, emails: &[String]) -> Result<(BTreeSet<UserId>, u32), Flaw> {
        let emails: BTreeSet<String> = emails.iter().map(|email| email.to_lowercase()).collect();
        let (mut users, mut unknown) = (BTreeSet::new(), 0u32);
        for email in emails {
            let name = pair_key(b"e", email.as_bytes());
            match self.value(Table::UserNames, &name)? {
                Some(user) => {
                    users.insert(user_of(Table::UserNames, &user)?);
                }
                None => unknown = unknown.saturating_add(1),
            }
        }
        Ok((users, unknown))
    }

    /// A page of `users`, `unknown` others being known not to exist.
    ///
    /// The first page looks at every user, to count the unknown; a later one only at its own.
    fn named(
        &self,
        org: OrganizationId,
        users: BTreeSet<UserId>,
        unknown: u32,
        (after, limit): (Option<UserId>, usize),
    ) -> Result<RecipientPage, Flaw> {
        let mut page = RecipientPage::default();
        let mut unknown = unknown;
        for id in users {
            if after.is_some_and(|after| id <= after) {
                continue;
            }
            let Some(user) = self.user(&UserRef::Id(id))?.filter(|user| user.org == org) else {
                unknown = unknown.saturating_add(1);
                continue;
            };
            if page.recipients.len() < limit {
                page.recipients.push(self.recipient(user)?);
                continue;
            }
            page.next = page.recipients.last().map(|last| last.user.id);
            if after.is_some() {
                break;
            }
        }
        page.unknown = if after.is_none() { unknown } else { 0 };
        Ok(page)
    }

    /// A page of the union of several ascending lists of members.
    fn page(
        &self,
        org: OrganizationId,
        mut lists: Vec<MemberList>,
        limit: usize,
    ) -> Result<RecipientPage, Flaw> {
        let mut page = RecipientPage::default();
        while let Some(next) = lists.iter().filter_map(|list| list.head).min() {
            for list in &mut lists {
                if list.head == Some(next) {
                    list.advance()?;
                }
            }
            // A membership outlives its user's move to another organization.
            let user = self.user(&UserRef::Id(next))?.filter(|user| user.org == org);
            let Some(user) = user else { continue };
            if page.recipients.len() == limit {
                page.next = page.recipients.last().map(|last| last.user.id);
                break;
            }
            page.recipients.push(self.recipient(user)?);
        }
        Ok(page)
    }

    fn recipient(&self, user: Arc<User>) -> Result<Recipient, Flaw> {
        let devices = self.through(&self.records.caches.devices, &user.id, || {
            let mut all: Vec<Device> = Vec::new();
            for entry in self.range(Table::Devices, &user_key(user.id), None)? {
                all.push(decode(Table::Devices, entry?.1.value())?);
            }
            Ok(Some(all))
        })?;
        let devices = devices.map(Arc::unwrap_or_clone).unwrap_or_default();
        Ok(Recipient { user, devices })
    }

    fn members(
        &self,
        kind: Members,
        prefix: &[u8],
        after: Option<UserId>,
    ) -> Result<MemberList, Flaw> {
        let table = kind.table();
        let mut list = MemberList { table, rest: self.range(table, prefix, after)?, head: None };
        list.advance()?;
        Ok(list)
    }

    /// The cached value of `key`, else what `read` finds.
    fn through<K: std::hash::Hash + Eq + Clone, V>(
        &self,
        cache: &Cache<K, V>,
        key: &K,
        read: impl FnOnce() -> Result<Option<V>, Flaw>,
    ) -> Result<Option<Arc<V>>, Flaw> {
        let Some(noted) = self.cached else { return Ok(read()?.map(Arc::new)) };
        if let Some(value) = cache.get(key) {
            return Ok(Some(value));
        }
        let value = read()?.map(Arc::new);
        if let Some(value) = &value {
            self.records.caches.fill(cache, noted, key.clone(), Arc::clone(value));
        }
        Ok(value)
    }

    pub(super) fn record<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, Flaw> {
        let stored = self.open(table)?.get(key)?;
        stored.map(|value| decode(table, value.value())).transpose()
    }

    pub(super) fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
        Ok(self.open(table)?.get(key)?.map(|value| value.value().to_vec()))
    }

    /// Every entry whose key starts with `prefix`, from after `prefix` + `after` on.
    fn range(&self, table: Table, prefix: &[u8], after: Option<UserId>) -> Result<ScanRange, Flaw> {
        let first = after.map(|after| pair_key(prefix, &user_key(after)));
        let from = first.as_deref().map_or(Bound::Included(prefix), Bound::Excluded);
        let end = successor(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.open(table)?.range::<&[u8]>((from, to))?)
    }

    /// Every entry from the key `from` on and before `to`.
    pub(super) fn rows(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<ScanRange, Flaw> {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.open(table)?.range::<&[u8]>((Bound::Included(from), to))?)
    }

    /// The last key of `table`.
    pub(super) fn last_key(&self, table: Table) -> Result<Option<Vec<u8>>, Flaw> {
        let table = self.open(table)?;
        let last = table.last()?;
        Ok(last.map(|(key, _)| key.value().to_vec()))
    }

    pub(super) fn open(&self, table: Table) -> Result<ScanTable, Flaw> {
        let transaction = match self.transaction.get() {
            Some(transaction) => transaction,
            None => {
                let begun = self.records.database.begin_read()?;
                self.transaction.get_or_init(|| begun)
            }
        };
        Ok(transaction.open_table(definition(table))?)
    }
}

/// Where a list of users is kept.
#[derive(Clone, Copy)]
enum Members {
    Organization,
    Solution,
    Group,
}

impl Members {
    fn table(self) -> Table {
        match self {
            Self::Organization => Table::UsersByOrganization,
            Self::Solution => Table::Memberships,
            Self::Group => Table::Groups,
        }
    }
}

/// Users in ascending order, the next one already read.
struct MemberList {
    table: Table,
    rest: ScanRange,
    head: Option<UserId>,
}

impl MemberList {
    fn advance(&mut self) -> Result<(), Flaw> {
        self.head = match self.rest.next() {
            Some(entry) => Some(user_of(self.table, entry?.0.value())?),
            None => None,
        };
        Ok(())
    }
}
