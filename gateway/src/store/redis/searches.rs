//! Searches among the users of a subtree: an index in memory, checked against versions each time.
//!
//! Every search first reads the versions of all organizations below its root, in one question to
//! each node; what changed since is read, and put into the index. So a search finds every change
//! that was answered before it, on whichever node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::Value;
use tokio::time::Instant;

use super::packed;
use super::places::Place;
use super::reads::{Found, all_children, cell, children, decoded};
use super::wire::{Ask, into_bytes, members, number};
use super::{Records, RecordsError};
use crate::clock::{Clock, SystemClock};
use crate::model::{Organization, OrganizationId, User, UserId};
use crate::store::changes::tables::{Table, org_key, org_of, pair_key, user_key, user_of};
use crate::store::disk::search::{Page, Query, SearchIndex, SearchRow};
use crate::store::{UserPage, UserSearch};

/// Indexes kept at once.
const ROOTS_MAX: usize = 64;
/// Memory of all indexes together; the one used last stays even if it alone is larger.
const BYTES_MAX: usize = 1 << 30;
/// An index nobody asked for in so long goes when another one comes.
const IDLE_MAX: Duration = Duration::from_mins(15);
/// How often an index is built while organizations come and go below its root.
const BUILDS_MAX: usize = 3;
/// Users read at once.
const USERS_AT_ONCE: usize = 1_000;
/// Changed users of an organization above which they are read as new.
const CHANGES_MAX: usize = 20_000;

#[derive(Debug, Default)]
pub(super) struct Searches {
    roots: Mutex<HashMap<OrganizationId, Root>>,
}

#[derive(Debug)]
struct Root {
    used: Instant,
    bytes: usize,
    tree: Arc<tokio::sync::Mutex<Option<Tree>>>,
}

/// What is known of a subtree.
#[derive(Debug)]
struct Tree {
    orgs: BTreeMap<OrganizationId, Known>,
    index: SearchIndex,
}

#[derive(Clone, Debug)]
struct Known {
    version: u64,
    name: Arc<str>,
    children: Vec<OrganizationId>,
}

impl Records {
    pub(super) async fn search(&self, root: OrganizationId, search: UserSearch) -> Found<UserPage> {
        let tree = self.searches.tree(root);
        let mut tree = tree.lock_owned().await;
        let is_current = match tree.as_mut() {
            Some(tree) => self.refresh(tree).await?,
            None => false,
        };
        if !is_current {
            *tree = None;
            for _ in 0..BUILDS_MAX {
                let mut built = self.build(root).await?;
                // Who moved while it was built may be in neither place that was read.
                let is_current = self.refresh(&mut built).await?;
                *tree = Some(built);
                if is_current {
                    break;
                }
            }
        }
        let Some(current) = tree.as_mut() else { return Err(RecordsError::BUSY) };
        let mut index = current.index.clone();
        let orgs: BTreeSet<OrganizationId> = current.orgs.keys().copied().collect();
        if index.is_fold_due() {
            let (next, folded) = blocking(move || {
                let folded = index.folded();
                (index, folded)
            })
            .await?;
            current.index.adopt(folded);
            drop(next);
            index = current.index.clone();
        }
        self.searches.note(root, current.index.bytes());
        drop(tree);
        let page = blocking(move || page(&index, &search)).await?;
        let users = self.users_in(&orgs, &page.users).await?;
        Ok(UserPage { users, total: page.total })
    }

    /// These users, in this order, as far as they are in one of `orgs`.
    async fn users_in(
        &self,
        orgs: &BTreeSet<OrganizationId>,
        users: &[UserId],
    ) -> Found<Vec<User>> {
        let mut found = Vec::with_capacity(users.len());
        for users in users.chunks(USERS_AT_ONCE) {
            let homes = self.homes(users, |org| orgs.contains(&org)).await?;
            let user =
                |(org, user): &(_, UserId)| cell(Place::Org(*org), Table::Users, &user_key(*user));
            let asks: Vec<Ask> = homes.iter().map(user).collect();
            for reply in self.wire.read(&asks).await? {
                found.extend(decoded::<User>(Table::Users, reply)?);
            }
        }
        Ok(found)
    }

    /// Where these users are, as far as that is in one of the organizations.
    async fn homes(
        &self,
        users: &[UserId],
        is_among: impl Fn(OrganizationId) -> bool,
    ) -> Found<Vec<(OrganizationId, UserId)>> {
        let home = |user: &UserId| {
            let key = user_key(*user);
            cell(self.named(Table::UserHomes, &key), Table::UserHomes, &key)
        };
        let asks: Vec<Ask> = users.iter().map(home).collect();
        let mut homes = Vec::with_capacity(users.len());
        for (user, reply) in users.iter().zip(self.wire.read(&asks).await?) {
            let Some(org) = into_bytes(reply) else { continue };
            let org = org_of(Table::UserHomes, &org)?;
            if is_among(org) {
                homes.push((org, *user));
            }
        }
        Ok(homes)
    }

    /// Brings a tree up to now, or leaves it as it is; false if its organizations are not the same
    /// any more.
    async fn refresh(&self, tree: &mut Tree) -> Found<bool> {
        let asks: Vec<Ask> = tree.orgs.keys().map(|org| Ask::version(*org)).collect();
        let replies = self.wire.read(&asks).await?;
        let versions = replies.iter().map(|reply| number(reply).unwrap_or_default());
        let changed = tree.orgs.iter().zip(versions);
        let changed = changed.filter(|((_, known), version)| known.version != *version);
        let changed: Vec<OrganizationId> = changed.map(|((org, _), _)| *org).collect();
        let mut users: Vec<(OrganizationId, UserId)> = Vec::new();
        let mut raised = Vec::with_capacity(changed.len());
        for org in changed {
            let Some(known) = tree.orgs.get(&org) else { continue };
            match self.changes_of(org, known).await? {
                Some((version, changed)) => {
                    users.extend(changed.into_iter().map(|user| (org, user)));
                    raised.push((org, version));
                }
                None => return Ok(false),
            }
        }
        if users.len() > CHANGES_MAX {
            return Ok(false);
        }
        let (mut rows, mut gone) = (Vec::new(), Vec::new());
        for users in users.chunks(USERS_AT_ONCE) {
            for (user, row) in self.rows(users, &tree.orgs).await? {
                match row {
                    Some(row) => rows.push(row),
                    None => gone.push(user),
                }
            }
        }
        // Who is gone here may be elsewhere below the root, and may have been read there before.
        for users in gone.chunks(USERS_AT_ONCE) {
            let homes = self.homes(users, |org| tree.orgs.contains_key(&org)).await?;
            let found = self.rows(&homes, &tree.orgs).await?;
            rows.extend(found.into_iter().filter_map(|(_, row)| row));
        }
        // Nothing waits from here on: a search that is given up leaves all of this or none.
        for (org, version) in raised {
            tree.orgs.entry(org).and_modify(|known| known.version = version);
        }
        for user in gone {
            if tree.index.has(user) {
                tree.index.remove(user);
            }
        }
        rows.iter().for_each(|row| tree.index.put(row));
        Ok(true)
    }

    /// The version of `org` now and its users changed since; `None` if more than users changed.
    async fn changes_of(
        &self,
        org: OrganizationId,
        known: &Known,
    ) -> Found<Option<(u64, Vec<UserId>)>> {
        let at = (Place::Org(org), Table::UserChanges);
        let prefix = org_key(org);
        let after = [&prefix[..], &known.version.to_be_bytes(), &[0xff; 9]].concat();
        let asks = [
            Ask::version(org),
            cell(Place::Org(org), Table::Organizations, &prefix),
            all_children(org),
            Ask::members(at, &prefix, None, 1, false),
            Ask::members(at, &prefix, Some(&after), usize::MAX, false),
        ];
        let mut replies = self.wire.read(&asks).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil);
        let version = number(&next()).unwrap_or_default();
        let organization: Option<Organization> = decoded(Table::Organizations, next())?;
        let is_same = organization.is_some_and(|found| *found.name == *known.name)
            && children(next())? == known.children;
        let oldest = members(next())?.pop();
        let changes = members(next())?;
        // The oldest changes are forgotten: some of those after the known version may be among them.
        let is_cut = changes.len() >= CHANGES_MAX
            && oldest.is_some_and(|oldest| changes.first() == Some(&oldest));
        if !is_same || is_cut {
            return Ok(None);
        }
        let mut users = BTreeSet::new();
        for key in &changes {
            users.insert(user_of(Table::UserChanges, key)?);
        }
        Ok(Some((version, users.into_iter().collect())))
    }

    /// The rows of users in these organizations; `None` for one who is not there.
    async fn rows(
        &self,
        users: &[(OrganizationId, UserId)],
        orgs: &BTreeMap<OrganizationId, Known>,
    ) -> Found<Vec<(UserId, Option<SearchRow>)>> {
        let mut asks = Vec::with_capacity(users.len() * 2);
        for (org, user) in users {
            asks.push(cell(Place::Org(*org), Table::Users, &user_key(*user)));
            asks.push(cell(Place::Org(*org), Table::Devices, &user_key(*user)));
        }
        let mut replies = self.wire.read(&asks).await?.into_iter();
        let mut rows = Vec::with_capacity(users.len());
        for (org, user) in users {
            let (found, own) = (replies.next(), replies.next());
            let found: Option<User> = decoded(Table::Users, found.unwrap_or(Value::Nil))?;
            let stored = own.and_then(into_bytes).unwrap_or_default();
            let devices = packed::unpack(Table::Devices, &stored)?.len();
            let devices = u32::try_from(devices).unwrap_or(u32::MAX);
            let name = orgs.get(org).map(|known| Arc::clone(&known.name));
            let row = found.zip(name).map(|(user, name)| row(user, name, devices));
            rows.push((*user, row));
        }
        Ok(rows)
    }

    async fn build(&self, root: OrganizationId) -> Found<Tree> {
        let mut orgs = BTreeMap::new();
        let mut open = vec![root];
        while !open.is_empty() {
            let mut asks = Vec::with_capacity(open.len() * 3);
            for org in &open {
                let record = cell(Place::Org(*org), Table::Organizations, &org_key(*org));
                asks.extend([Ask::version(*org), record, all_children(*org)]);
            }
            let mut replies = self.wire.read(&asks).await?.into_iter();
            let mut below = Vec::new();
            for org in std::mem::take(&mut open) {
                let mut next = || replies.next().unwrap_or(Value::Nil);
                let version = number(&next()).unwrap_or_default();
                let found: Option<Organization> = decoded(Table::Organizations, next())?;
                let name = found.map_or_else(|| Arc::from(""), |found| Arc::from(found.name));
                let children = children(next())?;
                below.extend(&children);
                orgs.insert(org, Known { version, name, children });
            }
            below.retain(|org| !orgs.contains_key(org));
            open = below;
        }
        let mut rows = BTreeMap::new();
        for org in orgs.keys() {
            self.read_users(*org, &orgs, &mut rows).await?;
        }
        let index = blocking(move || SearchIndex::build(rows.into_values())).await?;
        Ok(Tree { orgs, index })
    }

    async fn read_users(
        &self,
        org: OrganizationId,
        orgs: &BTreeMap<OrganizationId, Known>,
        rows: &mut BTreeMap<UserId, SearchRow>,
    ) -> Found<()> {
        let (prefix, mut after) = (org_key(org), None::<UserId>);
        loop {
            let last = after.map(|after| pair_key(&prefix, &user_key(after)));
            let at = (Place::Org(org), Table::UsersByOrganization);
            let ask = Ask::members(at, &prefix, last.as_deref(), USERS_AT_ONCE, false);
            let mut users = Vec::new();
            for key in members(self.ask(ask).await?)? {
                users.push((org, user_of(Table::UsersByOrganization, &key)?));
            }
            let Some((_, last)) = users.last() else { return Ok(()) };
            after = Some(*last);
            for (user, row) in self.rows(&users, orgs).await? {
                rows.extend(row.map(|row| (user, row)));
            }
        }
    }
}

impl Searches {
    fn tree(&self, root: OrganizationId) -> Arc<tokio::sync::Mutex<Option<Tree>>> {
        let mut roots = self.roots.lock();
        let now = Instant::now();
        let empty = || Root { used: now, bytes: 0, tree: Arc::default() };
        let found = roots.entry(root).or_insert_with(empty);
        found.used = now;
        Arc::clone(&found.tree)
    }

    /// Notes the size of an index, and drops what is too much.
    fn note(&self, root: OrganizationId, bytes: usize) {
        let mut dropped = Vec::new();
        let mut roots = self.roots.lock();
        if let Some(found) = roots.get_mut(&root) {
            found.bytes = bytes;
        }
        let now = Instant::now();
        loop {
            let total: usize = roots.values().map(|root| root.bytes).sum();
            let others = roots.iter().filter(|(other, _)| **other != root);
            let Some((oldest, used)) =
                others.min_by_key(|(_, root)| root.used).map(|(oldest, root)| (*oldest, root.used))
            else {
                break;
            };
            let is_unused = now.duration_since(used) > IDLE_MAX;
            if total <= BYTES_MAX && roots.len() <= ROOTS_MAX && !is_unused {
                break;
            }
            dropped.extend(roots.remove(&oldest));
        }
        drop(roots);
        drop(dropped);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Found<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RecordsError::Stopped)
}

fn page(index: &SearchIndex, search: &UserSearch) -> Page {
    let UserSearch { text, sort, descending, offset, limit } = search;
    let (sort, descending, offset, limit) = (*sort, *descending, *offset, *limit);
    index.search(&Query { text, sort, descending, offset, limit, now: SystemClock.now() })
}

fn row(user: User, org_name: Arc<str>, devices: u32) -> SearchRow {
    let inactive_from = user.inactive_from();
    let profile = user.profile;
    SearchRow {
        user: user.id,
        org_name,
        name: user.name,
        email: user.email,
        nick_name: profile.nick_name,
        phone: profile.phone,
        status: user.status,
        inactive_from,
        role: user.role.0,
        devices,
        country: profile.address.and_then(|address| address.country).map(Arc::from),
        registered_at: user.created_at,
    }
}
