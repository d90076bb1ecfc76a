//! Who is in an audience: page by page, with devices.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::Value;

use super::Records;
use super::packed;
use super::places::Place;
use super::reads::{Found, cell, decoded};
use super::wire::{Ask, into_bytes, members};
use crate::model::{Audience, Device, OrganizationId, User, UserId};
use crate::store::changes::tables::{
    Flaw, Table, decode, group_prefix, org_key, pair_key, solution_prefix, user_key, user_of,
};
use crate::store::{Recipient, RecipientPage};

/// Members read at once at most.
const CHUNK_MAX: usize = 2_000;

impl Records {
    /// One page of `audience`, as the seam promises it.
    pub(super) async fn recipients(
        &self,
        org: OrganizationId,
        audience: &Audience,
        after: Option<UserId>,
        limit: usize,
    ) -> Found<RecipientPage> {
        let page = (after, limit.max(1));
        match audience {
            Audience::Users(ids) => self.among(org, ids.iter().copied().collect(), 0, page).await,
            Audience::Emails(emails) => {
                let (users, unknown) = self.addressed(emails).await?;
                self.among(org, users, unknown, page).await
            }
            Audience::Organization => {
                let lists = vec![(Table::UsersByOrganization, org_key(org).to_vec())];
                self.union(org, lists, page).await
            }
            Audience::Solution(solution) => {
                let lists = vec![(Table::Memberships, solution_prefix(org, *solution))];
                self.union(org, lists, page).await
            }
            Audience::Groups { solution, groups } => {
                let groups: BTreeSet<&String> = groups.iter().collect();
                let lists = groups.into_iter();
                let lists = lists.map(|group| (Table::Groups, group_prefix(org, *solution, group)));
                self.union(org, lists.collect(), page).await
            }
            Audience::Subscriptions => Ok(RecipientPage::default()),
        }
    }

    /// The users with these e-mail addresses, and how many addresses nobody has.
    async fn addressed(&self, emails: &[String]) -> Found<(BTreeSet<UserId>, u32)> {
        let emails: BTreeSet<String> = emails.iter().map(|email| email.to_lowercase()).collect();
        let ask = |email: &String| {
            let name = pair_key(b"e", email.as_bytes());
            cell(self.named(Table::UserNames, &name), Table::UserNames, &name)
        };
        let asks: Vec<Ask> = emails.iter().map(ask).collect();
        let (mut users, mut unknown) = (BTreeSet::new(), 0u32);
        for reply in self.wire.read(&asks).await? {
            match into_bytes(reply) {
                Some(user) => {
                    users.insert(user_of(Table::UserNames, &user)?);
                }
                None => unknown = unknown.saturating_add(1),
            }
        }
        Ok((users, unknown))
    }

    /// A page of `users`, `unknown` others being known not to exist.
    async fn among(
        &self,
        org: OrganizationId,
        users: BTreeSet<UserId>,
        unknown: u32,
        (after, limit): (Option<UserId>, usize),
    ) -> Found<RecipientPage> {
        let place = Place::Org(org);
        let all: Vec<UserId> =
            users.into_iter().filter(|id| after.is_none_or(|after| *id > after)).collect();
        let mut page = RecipientPage::default();
        if all.len() <= limit.min(CHUNK_MAX) {
            page.recipients = self.here(org, &all).await?;
            let missing = u32::try_from(all.len() - page.recipients.len()).unwrap_or(u32::MAX);
            page.unknown = if after.is_none() { unknown.saturating_add(missing) } else { 0 };
            return Ok(page);
        }
        let (mut unknown, mut here) = (unknown, Vec::new());
        for chunk in all.chunks(CHUNK_MAX) {
            let ask = |id: &UserId| Ask::is_there(place, Table::Users, &user_key(*id));
            let asks: Vec<Ask> = chunk.iter().map(ask).collect();
            for (id, reply) in chunk.iter().zip(self.wire.read(&asks).await?) {
                if reply == Value::Int(1) {
                    here.push(*id);
                } else {
                    unknown = unknown.saturating_add(1);
                }
            }
            // A later page need not look behind its own end.
            if after.is_some() && here.len() > limit {
                break;
            }
        }
        page.unknown = if after.is_none() { unknown } else { 0 };
        let wanted = here.get(..limit).unwrap_or(&here);
        if here.len() > limit {
            page.next = wanted.last().copied();
        }
        page.recipients = self.here(org, wanted).await?;
        Ok(page)
    }

    /// A page of the union of several ascending lists of members.
    async fn union(
        &self,
        org: OrganizationId,
        lists: Vec<(Table, Vec<u8>)>,
        (after, limit): (Option<UserId>, usize),
    ) -> Found<RecipientPage> {
        let mut page = RecipientPage::default();
        let mut after = after;
        let chunk = limit.saturating_add(1).min(CHUNK_MAX);
        loop {
            let ask = |(table, prefix): &(Table, Vec<u8>)| {
                let after = after.map(|after| pair_key(prefix, &user_key(after)));
                Ask::members((Place::Org(org), *table), prefix, after.as_deref(), chunk, false)
            };
            let asks: Vec<Ask> = lists.iter().map(ask).collect();
            let (mut users, mut till) = (BTreeSet::new(), None::<UserId>);
            for ((table, _), reply) in lists.iter().zip(self.wire.read(&asks).await?) {
                let keys = members(reply)?;
                let is_cut = keys.len() == chunk;
                let mut last = None;
                for key in keys {
                    last = Some(user_of(*table, &key)?);
                    users.extend(last);
                }
                if is_cut {
                    // Behind it this list is not known yet.
                    till = till.into_iter().chain(last).min();
                }
            }
            let known: Vec<UserId> =
                users.into_iter().filter(|user| till.is_none_or(|till| *user <= till)).collect();
            after = known.last().copied().or(after);
            for recipient in self.here(org, &known).await? {
                if page.recipients.len() == limit {
                    page.next = page.recipients.last().map(|last| last.user.id);
                    return Ok(page);
                }
                page.recipients.push(recipient);
            }
            if till.is_none() {
                return Ok(page);
            }
        }
    }

    /// Those of `users` who are in `org`: a membership outlives its user's move.
    async fn here(&self, org: OrganizationId, users: &[UserId]) -> Found<Vec<Recipient>> {
        let place = Place::Org(org);
        let mut found = Vec::with_capacity(users.len());
        for users in users.chunks(CHUNK_MAX) {
            let mut asks = Vec::with_capacity(users.len() * 2);
            for user in users {
                asks.push(cell(place, Table::Users, &user_key(*user)));
                asks.push(cell(place, Table::Devices, &user_key(*user)));
            }
            let mut replies = self.wire.read(&asks).await?.into_iter();
            while let (Some(user), Some(own)) = (replies.next(), replies.next()) {
                if let Some(user) = decoded::<User>(Table::Users, user)? {
                    found.push(Recipient { user: Arc::new(user), devices: devices(own)? });
                }
            }
        }
        Ok(found)
    }
}

/// The devices in a user's cell.
pub(super) fn devices(reply: Value) -> Result<Vec<Device>, Flaw> {
    let stored = into_bytes(reply).unwrap_or_default();
    let rows = packed::unpack(Table::Devices, &stored)?;
    rows.values().map(|device| decode(Table::Devices, device)).collect()
}
