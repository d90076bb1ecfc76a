//! Reads for searches: the users below an organization as rows of an index.

use std::collections::{HashMap, VecDeque};
use std::iter::Peekable;
use std::sync::Arc;

use redb::ReadableTableMetadata;

use super::Records;
use super::reader::{ScanRange, View};
use super::search::{SearchIndex, SearchRow};
use super::tables::{Counter, Flaw, Table, decode, org_key, successor, user_key, user_of};
use crate::model::{OrganizationId, User, UserId};
use crate::store::{OrganizationRef, TREE_DEPTH_MAX, UserRef};

/// Users of a subtree that is searched without an index: reading each takes microseconds.
const SMALL_USERS_MAX: u64 = 1_000;
const SMALL_ORGANIZATIONS_MAX: usize = 200;
/// A subtree with at least this share of all users is read by going through all users.
const WHOLE_TABLE_SHARE: u64 = 4;

/// Organizations and their names.
type Names = HashMap<OrganizationId, Arc<str>>;

impl View<'_> {
    /// The organizations of the subtree of `root`, if they and their users are few.
    pub(super) fn small_subtree(
        &self,
        root: OrganizationId,
    ) -> Result<Option<Vec<OrganizationId>>, Flaw> {
        let (mut found, mut open, mut users) = (vec![root], VecDeque::from([root]), 0);
        while let Some(next) = open.pop_front() {
            users += self.counter(Counter::Users(next))?;
            let below = self.child_ids(next, 0, SMALL_ORGANIZATIONS_MAX)?;
            found.extend(&below);
            open.extend(below);
            if users > SMALL_USERS_MAX || found.len() > SMALL_ORGANIZATIONS_MAX {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    /// The users of `org`, ascending.
    pub(super) fn users_of(
        &self,
        org: OrganizationId,
    ) -> Result<impl Iterator<Item = Result<UserId, Flaw>> + use<>, Flaw> {
        let prefix = org_key(org);
        let rows = self.rows(Table::UsersByOrganization, &prefix, successor(&prefix).as_deref())?;
        Ok(rows.map(|row| user_of(Table::UsersByOrganization, row?.0.value())))
    }

    /// `org` and the organizations above it, as far as they exist.
    pub(super) fn chain(&self, org: OrganizationId) -> Result<Vec<OrganizationId>, Flaw> {
        let (mut chain, mut next) = (Vec::new(), Some(org));
        while let Some(org) = next
            && chain.len() <= TREE_DEPTH_MAX
        {
            chain.push(org);
            let found = self.organization(&OrganizationRef::Id(org))?;
            next = found.and_then(|found| found.parent);
        }
        Ok(chain)
    }

    /// The rows of the users of a few organizations, all as of this view's moment.
    pub(super) fn small_index(&self, orgs: &[OrganizationId]) -> Result<SearchIndex, Flaw> {
        let (names, _) = self.names(orgs)?;
        let ids = self.ids(orgs)?;
        indexed(ids.into_iter().filter_map(|id| self.row_in(id, &names).transpose()))
    }

    /// The names of `orgs`, and how many users they have.
    fn names(&self, orgs: &[OrganizationId]) -> Result<(Names, u64), Flaw> {
        let mut names = Names::with_capacity(orgs.len());
        let mut users = 0;
        for org in orgs {
            users += self.counter(Counter::Users(*org))?;
            names.insert(*org, self.organization_name(*org)?);
        }
        Ok((names, users))
    }

    /// The users of `orgs`, ascending.
    fn ids(&self, orgs: &[OrganizationId]) -> Result<Vec<UserId>, Flaw> {
        let mut ids = Vec::new();
        for org in orgs {
            for id in self.users_of(*org)? {
                ids.push(id?);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// An id with about as many users below as above it, if ids were given out in order.
    fn middle(&self) -> Result<UserId, Flaw> {
        let first = self.rows(Table::Users, &[], None)?.next().transpose()?;
        let first = first.map_or(Ok(UserId(0)), |(key, _)| user_of(Table::Users, key.value()))?;
        let last = self.last_key(Table::Users)?;
        let last = last.map_or(Ok(UserId(0)), |key| user_of(Table::Users, &key))?;
        Ok(UserId(first.0.midpoint(last.0)))
    }

    /// The row of `user` and where it is, `None` if there is no such user.
    pub(super) fn search_row(
        &self,
        user: UserId,
    ) -> Result<Option<(OrganizationId, SearchRow)>, Flaw> {
        let Some(found) = self.record::<User>(Table::Users, &user_key(user))? else {
            return Ok(None);
        };
        let (org, devices) = (found.org, self.device_count(user)?);
        Ok(Some((org, row(found, self.organization_name(org)?, devices))))
    }

    /// These users, in this order, without those that are not below `root` any more.
    pub(super) fn users_below(
        &self,
        root: OrganizationId,
        users: &[UserId],
    ) -> Result<Vec<User>, Flaw> {
        let mut found = Vec::with_capacity(users.len());
        for id in users {
            let Some(user) = self.user(&UserRef::Id(*id))? else { continue };
            if user.org == root || self.chain(user.org)?.contains(&root) {
                found.push(Arc::unwrap_or_clone(user));
            }
        }
        Ok(found)
    }

    fn row_in(&self, user: UserId, names: &Names) -> Result<Option<SearchRow>, Flaw> {
        let Some(found) = self.record::<User>(Table::Users, &user_key(user))? else {
            return Ok(None);
        };
        let Some(name) = names.get(&found.org).cloned() else { return Ok(None) };
        Ok(Some(row(found, name, self.device_count(user)?)))
    }

    /// Goes through users and devices side by side: both are in the order of user ids.
    fn rows_between(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        names: &Names,
    ) -> Result<impl Iterator<Item = Result<SearchRow, Flaw>>, Flaw> {
        let users = self.rows(Table::Users, from, to)?;
        let mut devices = self.rows(Table::Devices, from, to)?.peekable();
        Ok(users.filter_map(move |entry| {
            let read = || {
                let (key, value) = entry?;
                let devices = skip_devices(&mut devices, key.value())?;
                let user: User = decode(Table::Users, value.value())?;
                let name = names.get(&user.org).cloned();
                Ok(name.map(|name| row(user, name, devices)))
            };
            read().transpose()
        }))
    }

    fn organization_name(&self, org: OrganizationId) -> Result<Arc<str>, Flaw> {
        let found = self.organization(&OrganizationRef::Id(org))?;
        Ok(found.map_or_else(|| Arc::from(""), |found| Arc::from(found.name.as_str())))
    }

    fn device_count(&self, user: UserId) -> Result<u32, Flaw> {
        let prefix = user_key(user);
        let rows = self.rows(Table::Devices, &prefix, successor(&prefix).as_deref())?;
        Ok(u32::try_from(rows.count()).unwrap_or(u32::MAX))
    }
}

/// The index of the users below `root`, read by two threads.
///
/// The two see the records at different moments: whoever asks adds what was committed since.
pub(super) fn read_index(records: &Records, root: OrganizationId) -> Result<SearchIndex, Flaw> {
    let view = View::uncached(records);
    let orgs = view.subtree(root)?;
    let (names, users) = view.names(&orgs)?;
    if users * WHOLE_TABLE_SHARE >= view.open(Table::Users)?.len()? {
        let middle = user_key(view.middle()?);
        return in_halves(
            || indexed(view.rows_between(&[], Some(&middle), &names)?),
            || indexed(View::uncached(records).rows_between(&middle, None, &names)?),
        );
    }
    let ids = view.ids(&orgs)?;
    let (low, high) = ids.split_at(ids.len() / 2);
    let read = |view: &View<'_>, ids: &[UserId]| {
        indexed(ids.iter().filter_map(|id| view.row_in(*id, &names).transpose()))
    };
    in_halves(|| read(&view, low), || read(&View::uncached(records), high))
}

/// The users of `low` are all below those of `high`.
fn in_halves(
    low: impl FnOnce() -> Result<SearchIndex, Flaw>,
    high: impl FnOnce() -> Result<SearchIndex, Flaw> + Send,
) -> Result<SearchIndex, Flaw> {
    let (low, high) = std::thread::scope(|scope| {
        let high = scope.spawn(high);
        (low(), high.join())
    });
    let high = high.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok(low?.joined(&high?))
}

/// How many of `devices` belong to the user with this key, going past them.
fn skip_devices(devices: &mut Peekable<ScanRange>, user: &[u8]) -> Result<u32, Flaw> {
    let mut count = 0u32;
    while let Some(next) = devices.peek() {
        if let Ok((key, _)) = next {
            let owner = key.value().get(..user.len());
            if owner > Some(user) {
                break;
            }
            count = count.saturating_add(u32::from(owner == Some(user)));
        }
        devices.next().transpose()?;
    }
    Ok(count)
}

fn indexed(rows: impl Iterator<Item = Result<SearchRow, Flaw>>) -> Result<SearchIndex, Flaw> {
    let mut flaw = None;
    let index =
        SearchIndex::build(rows.map_while(|row| row.map_err(|found| flaw = Some(found)).ok()));
    flaw.map_or(Ok(index), Err)
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
