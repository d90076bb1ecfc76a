//! Reads of records: each is one question or a few, answered as of the moment it was asked.

use redis::Value;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::sync::Arc;

use super::overlay::Cell;
use super::places::{FIRST, Place, field, hashed};
use super::wire::{Ask, array, into_bytes, members, pairs};
use super::{Records, RecordsError};
use crate::model::{
    Organization, OrganizationId, PolicyOwner, ShardId, Subscription, User, UserId,
};
use crate::store::changes::tables::{
    Counter, Flaw, Table, decode, last_org, number, org_key, org_of, organization_name, user_key,
    user_name, user_of,
};
use crate::store::{Failing, OrganizationRef, UserPage, UserRef};

/// Organizations one walk down the tree visits.
const SUBTREE_MAX: usize = 1_000_000;
/// How often a user is looked for who moves while we look.
const MOVES_MAX: usize = 16;

pub(super) type Found<T> = Result<T, RecordsError>;

pub(super) fn owner_place(owner: PolicyOwner) -> Place {
    match owner {
        PolicyOwner::Instance => FIRST,
        PolicyOwner::Organization(org) => Place::Org(org),
    }
}

pub(super) fn cell(place: Place, table: Table, key: &[u8]) -> Ask {
    Ask::cell(&Cell { place, table, field: field(table, key).to_vec() })
}

pub(super) fn decoded<T: DeserializeOwned>(table: Table, reply: Value) -> Found<Option<T>> {
    Ok(into_bytes(reply).map(|stored| decode(table, &stored)).transpose()?)
}

/// The values of a reply with keys and values.
pub(super) fn decoded_all<T: DeserializeOwned>(table: Table, reply: Value) -> Found<Vec<T>> {
    let rows = pairs(reply)?.into_iter();
    Ok(rows.map(|(_, stored)| decode(table, &stored)).collect::<Result<_, Flaw>>()?)
}

impl Records {
    pub(super) async fn ask(&self, ask: Ask) -> Found<Value> {
        Ok(self.wire.read(&[ask]).await?.pop().unwrap_or(Value::Nil))
    }

    pub(super) fn named(&self, table: Table, key: &[u8]) -> Place {
        hashed(field(table, key), self.wire.shards)
    }

    /// The shards, as places of rows by name.
    pub(super) fn shards(&self) -> impl Iterator<Item = Place> + use<> {
        (0..self.wire.shards).map(|shard| Place::Names(ShardId(shard)))
    }

    pub(super) async fn record<T: DeserializeOwned>(
        &self,
        place: Place,
        table: Table,
        key: &[u8],
    ) -> Found<Option<T>> {
        decoded(table, self.ask(cell(place, table, key)).await?)
    }

    /// A record kept by the hash of its key.
    pub(super) async fn named_record<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Found<Option<T>> {
        self.record(self.named(table, key), table, key).await
    }

    /// All records of an organization in `table` that start with `prefix`.
    pub(super) async fn all<T: DeserializeOwned>(
        &self,
        org: OrganizationId,
        table: Table,
        prefix: &[u8],
    ) -> Found<Vec<T>> {
        let at = (Place::Org(org), table);
        let rows = self.ask(Ask::members(at, prefix, None, usize::MAX, true)).await?;
        decoded_all(table, rows)
    }

    pub(super) async fn counter(&self, place: Place, counter: Counter) -> Found<u64> {
        let stored = into_bytes(self.ask(cell(place, Table::Counters, &counter.key())).await?);
        Ok(stored.map_or(Ok(0), |value| number(Table::Counters, &value))?)
    }

    /// The organization that the rows of `user` are kept with.
    pub(super) async fn home_of(&self, user: UserId) -> Found<Option<OrganizationId>> {
        let key = user_key(user);
        let place = self.named(Table::UserHomes, &key);
        let stored = into_bytes(self.ask(cell(place, Table::UserHomes, &key)).await?);
        Ok(stored.map(|org| org_of(Table::UserHomes, &org)).transpose()?)
    }

    /// What `asks` finds with a user, wherever the user moves meanwhile; `None` for nobody.
    pub(super) async fn of_user(
        &self,
        user: UserId,
        asks: impl Fn(Place) -> Vec<Ask>,
    ) -> Found<Option<(OrganizationId, Vec<Value>)>> {
        for tries in 0..MOVES_MAX {
            let hint = if tries == 0 { self.hints.homes.get(&user) } else { None };
            let home = match hint {
                Some(org) => Some(org),
                None => self.home_of(user).await?,
            };
            let Some(org) = home else { return Ok(None) };
            let place = Place::Org(org);
            let mut all = asks(place);
            all.push(Ask::is_there(place, Table::Users, &user_key(user)));
            let mut found = self.wire.read(&all).await?;
            if found.pop() == Some(Value::Int(1)) {
                self.hints.homes.keep(&user, org);
                return Ok(Some((org, found)));
            }
        }
        Ok(None)
    }

    pub(super) async fn user_record<T: DeserializeOwned>(
        &self,
        user: UserId,
        table: Table,
    ) -> Found<Option<T>> {
        let key = user_key(user);
        let found = self.of_user(user, |place| vec![cell(place, table, &key)]).await?;
        let Some((_, mut values)) = found else { return Ok(None) };
        decoded(table, values.pop().unwrap_or(Value::Nil))
    }

    pub(super) async fn user(&self, which: &UserRef) -> Found<Option<User>> {
        let Some(name) = user_name(which) else {
            let UserRef::Id(id) = which else { return Ok(None) };
            return self.user_record(*id, Table::Users).await;
        };
        // The name may have gone to somebody else since.
        let says_so = |user: &User| match which {
            UserRef::Id(id) => user.id == *id,
            UserRef::Uuid(uuid) => user.uuid == *uuid,
            UserRef::Email(email) => user.email == *email,
        };
        if let Some(owner) = self.hints.users.get(which) {
            let found: Option<User> = self.user_record(owner, Table::Users).await?;
            if let Some(found) = found.filter(says_so) {
                return Ok(Some(found));
            }
        }
        for _ in 0..MOVES_MAX {
            let place = self.named(Table::UserNames, &name);
            let stored = self.ask(cell(place, Table::UserNames, &name)).await?;
            let Some(owner) = into_bytes(stored) else { return Ok(None) };
            let owner = user_of(Table::UserNames, &owner)?;
            let found: Option<User> = self.user_record(owner, Table::Users).await?;
            if let Some(found) = found.filter(says_so) {
                self.hints.users.keep(which, owner);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What is stored is read every time, and decoded if it is not what was decoded last.
    fn organization_of(
        &self,
        id: OrganizationId,
        stored: Value,
    ) -> Found<Option<Arc<Organization>>> {
        let Some(stored) = into_bytes(stored) else { return Ok(None) };
        let last = self.hints.decoded.get(&id);
        if let Some((_, found)) = last.filter(|(bytes, _)| **bytes == *stored) {
            return Ok(Some(found));
        }
        let found: Arc<Organization> = Arc::new(decode(Table::Organizations, &stored)?);
        self.hints.decoded.keep(&id, (stored.into(), Arc::clone(&found)));
        Ok(Some(found))
    }

    pub(super) async fn organization(
        &self,
        which: &OrganizationRef,
    ) -> Found<Option<Arc<Organization>>> {
        let says_so = |found: &Organization| match which {
            OrganizationRef::Id(id) => found.id == *id,
            OrganizationRef::Uuid(uuid) => found.uuid == *uuid,
            OrganizationRef::ObjectId(id) => found.object_id == *id,
            OrganizationRef::Slug(slug) => found.slug == *slug,
            OrganizationRef::Numeric(digits) => found.numeric == *digits,
        };
        let hint = match which {
            OrganizationRef::Id(id) => Some(*id),
            _ => self.hints.organizations.get(which),
        };
        if let Some(id) = hint {
            let stored = self.ask(cell(Place::Org(id), Table::Organizations, &org_key(id))).await?;
            let found = self.organization_of(id, stored)?;
            if let Some(found) = found.filter(|found| says_so(found)) {
                return Ok(Some(found));
            }
        }
        let Some(name) = organization_name(which) else { return Ok(None) };
        let place = self.named(Table::OrganizationNames, &name);
        for _ in 0..MOVES_MAX {
            let stored = self.ask(cell(place, Table::OrganizationNames, &name)).await?;
            let Some(owner) = into_bytes(stored) else { return Ok(None) };
            let id = org_of(Table::OrganizationNames, &owner)?;
            let found = self.record(Place::Org(id), Table::Organizations, &org_key(id)).await?;
            if let Some(found) = found.filter(says_so) {
                self.hints.organizations.keep(which, id);
                return Ok(Some(Arc::new(found)));
            }
        }
        Ok(None)
    }

    pub(super) async fn subscriptions(
        &self,
        org: OrganizationId,
        event: &str,
    ) -> Found<Vec<Subscription>> {
        let mut all: Vec<Subscription> = self.all(org, Table::Subscriptions, &org_key(org)).await?;
        all.retain(|one| one.wants(event));
        Ok(all)
    }

    pub(super) async fn failing(&self) -> Found<Vec<Failing>> {
        let asks: Vec<Ask> =
            self.shards().map(|place| Ask::everything(place, Table::Failing)).collect();
        let mut all = Vec::new();
        for reply in self.wire.read(&asks).await? {
            all.extend(decoded_all::<Failing>(Table::Failing, reply)?);
        }
        Ok(all)
    }

    pub(super) async fn first_organization(&self) -> Found<Option<OrganizationId>> {
        let first = |place| Ask::members((place, Table::Known), &[], None, 1, false);
        let asks: Vec<Ask> = self.shards().map(first).collect();
        let mut all = Vec::new();
        for reply in self.wire.read(&asks).await? {
            all.extend(members(reply)?);
        }
        let first = all.into_iter().min();
        Ok(first.map(|key| last_org(Table::Known, &key)).transpose()?)
    }

    pub(super) async fn children(
        &self,
        org: OrganizationId,
        offset: u64,
        limit: usize,
    ) -> Found<Vec<Arc<Organization>>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let ranks = Ask::ranks(Place::Org(org), Table::Children, offset, limit);
        let ids = children(self.ask(ranks).await?)?;
        let record =
            |id: &OrganizationId| cell(Place::Org(*id), Table::Organizations, &org_key(*id));
        let asks: Vec<Ask> = ids.iter().map(record).collect();
        let mut found = Vec::new();
        for reply in self.wire.read(&asks).await? {
            found.extend(decoded::<Organization>(Table::Organizations, reply)?.map(Arc::new));
        }
        Ok(found)
    }

    pub(super) async fn subtree(&self, org: OrganizationId) -> Found<Vec<OrganizationId>> {
        let mut found = vec![org];
        let mut open = VecDeque::from([org]);
        while !open.is_empty() && found.len() < SUBTREE_MAX {
            // Level by level: one question for each.
            let asks: Vec<Ask> = open.drain(..).map(all_children).collect();
            for reply in self.wire.read(&asks).await? {
                let below = children(reply)?;
                found.extend(&below);
                open.extend(below);
            }
        }
        Ok(found)
    }

    pub(super) async fn users(
        &self,
        org: OrganizationId,
        offset: u64,
        limit: usize,
    ) -> Found<UserPage> {
        let place = Place::Org(org);
        let mut asks = vec![cell(place, Table::Counters, &Counter::Users(org).key())];
        if limit > 0 {
            asks.push(Ask::ranks(place, Table::UsersByOrganization, offset, limit));
        }
        let mut replies = self.wire.read(&asks).await?.into_iter();
        let total = replies.next().and_then(into_bytes);
        let total = total.map_or(Ok(0), |value| number(Table::Counters, &value))?;
        let mut users = Vec::new();
        let Some(ids) = replies.next() else { return Ok(UserPage { users, total }) };
        let mut asks = Vec::new();
        for key in members(ids)? {
            let user = user_of(Table::UsersByOrganization, &key)?;
            asks.push(cell(place, Table::Users, &user_key(user)));
        }
        for reply in self.wire.read(&asks).await? {
            users.extend(decoded::<User>(Table::Users, reply)?);
        }
        Ok(UserPage { users, total })
    }

    /// Records that an index of an organization names by the rest of its keys.
    pub(super) async fn indexed<T: DeserializeOwned>(
        &self,
        org: OrganizationId,
        (index, table): (Table, Table),
    ) -> Found<Vec<T>> {
        let prefix = org_key(org);
        let ask = Ask::members((Place::Org(org), index), &prefix, None, usize::MAX, false);
        let mut asks = Vec::new();
        for key in members(self.ask(ask).await?)? {
            let id = key.get(prefix.len()..).unwrap_or_default();
            asks.push(cell(self.named(table, id), table, id));
        }
        let mut found = Vec::new();
        for reply in self.wire.read(&asks).await? {
            found.extend(decoded::<T>(table, reply)?);
        }
        Ok(found)
    }

    /// Records whose keys are the values of a table of an organization.
    pub(super) async fn pointed<T: DeserializeOwned>(
        &self,
        org: OrganizationId,
        (pointers, table): (Table, Table),
    ) -> Found<Vec<T>> {
        let at = (Place::Org(org), pointers);
        let rows = self.ask(Ask::members(at, &org_key(org), None, usize::MAX, true)).await?;
        let ask = |key: &Vec<u8>| cell(self.named(table, key), table, key);
        let asks: Vec<Ask> = pairs(rows)?.iter().map(|(_, key)| ask(key)).collect();
        let mut found = Vec::new();
        for reply in self.wire.read(&asks).await? {
            found.extend(decoded::<T>(table, reply)?);
        }
        Ok(found)
    }
}

pub(super) fn all_children(org: OrganizationId) -> Ask {
    Ask::members((Place::Org(org), Table::Children), &org_key(org), None, usize::MAX, false)
}

/// The organizations in a reply of the table of children.
pub(super) fn children(reply: Value) -> Found<Vec<OrganizationId>> {
    let keys = array(reply)?.into_iter().filter_map(into_bytes);
    Ok(keys.map(|key| last_org(Table::Children, &key)).collect::<Result<_, Flaw>>()?)
}
