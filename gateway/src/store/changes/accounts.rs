//! What changes about accounts do to the tables: expectations, credentials, policies, audit.

use serde::de::DeserializeOwned;

use super::rows::Rows;
use super::tables::{
    Counter, Table, audit_key, device_key, group_prefix, org_key, owner_key, pair_key, role_key,
    solution_prefix, subscription_key, text_key, user_key, user_of,
};
use super::{Making, Refusal, count, counted, inbox, require_organization};
use crate::model::{
    ApiKey, AuditNote, AuditRecord, Client, Invitation, Membership, MessageText, Millis,
    NotificationPolicy, ObjectId, OrganizationId, PolicyOwner, RefreshToken, RoleId, Secret,
    SecretHash, Subscription, User, UserId, UserStatus,
};
use crate::store::{Change, Expectation};
use uuid::Uuid;

/// Ended records forgotten in one change, so that no other change waits long for it.
const FORGOTTEN_AT_ONCE: usize = 1_000;

pub(in crate::store) fn make(
    draft: &mut impl Rows,
    change: Change,
    making: &mut Making<'_>,
) -> Result<(), Refusal> {
    match change {
        Change::Expect(expectation) => expect(draft, &expectation),
        Change::Audit(note) => audit(draft, note, making.version.0),
        Change::PutPassword(user, phc) => put_password(draft, user, &phc),
        Change::RemoveMembership(org, solution, user) => {
            remove_membership(draft, org, solution, user)
        }
        Change::PutInvitation(invitation) => put_invitation(draft, &invitation),
        Change::TakeInvitation(token) => take_invitation(draft, token),
        Change::PutClient(client) => put_client(draft, &client),
        Change::RemoveClient(org, id) => remove_client(draft, org, &id),
        Change::PutKey(key) => put_key(draft, &key),
        Change::RemoveKey(org, id) => remove_key(draft, org, id),
        Change::PutRefresh(refresh) => {
            ends(draft, refresh.expires_at, b'r', &refresh.token.0)?;
            Ok(draft.put_record(Table::Refreshes, &refresh.token.0, &refresh)?)
        }
        Change::UseRefresh(token) => use_refresh(draft, token, making.again),
        Change::Revoke(id, until) => {
            ends(draft, until, b'v', id.as_bytes())?;
            draft.put(Table::Revoked, id.as_bytes(), &until.0.to_be_bytes())?;
            making.touched.revoked.push((id, until));
            Ok(())
        }
        Change::PutPolicy(owner, policy) => put_policy(draft, owner, policy),
        Change::PutText(owner, language, text) => put_text(draft, owner, &language, text),
        Change::Count(owner) => {
            count(draft, Counter::Sequence(owner), 1)?;
            Ok(())
        }
        Change::Forget(before) => forget(draft, before, making),
        Change::Inbox(change) => inbox::make(draft, change),
        // The records every delivery needs are made by the caller.
        Change::PutOrganization(_)
        | Change::PutUser(_)
        | Change::PutRole(_)
        | Change::PutDevice(_)
        | Change::RemoveDevice(_)
        | Change::ClaimDevice(_)
        | Change::NoteFailing(..)
        | Change::PutMembership(..)
        | Change::PutSubscription(_)
        | Change::DisableSubscription(_)
        | Change::RemoveSubscription(_) => Ok(()),
    }
}

fn expect(draft: &impl Rows, expectation: &Expectation) -> Result<(), Refusal> {
    let holds = match expectation {
        Expectation::UserRevision(user, revision) => {
            let stored = draft.record::<User>(Table::Users, &user_key(*user))?;
            stored.is_some_and(|stored| stored.account.revision == *revision)
        }
        Expectation::Seats(org, max) => counted(draft, Counter::Users(*org))? < u64::from(*max),
        Expectation::RoleBesides(org, role, user) => role_besides(draft, *org, *role, *user)?,
        Expectation::Sequence(owner, sequence) => {
            counted(draft, Counter::Sequence(*owner))? == *sequence
        }
        Expectation::Subscriptions(org, max) => {
            counted(draft, Counter::Subscriptions(*org))? < u64::from(*max)
        }
        Expectation::Children(org, max) => {
            counted(draft, Counter::Children(*org))? < u64::from(*max)
        }
        Expectation::InboxRevision(user, notification, revision) => {
            inbox::revision(draft, *user, *notification)? == Some(*revision)
        }
        Expectation::Subscription(org, id, at) => {
            let key = subscription_key(*org, *id);
            let stored = draft.record::<Subscription>(Table::Subscriptions, &key)?;
            stored.is_some_and(|stored| stored.updated_at == *at)
        }
        Expectation::Clients(org, max) => {
            let max = count_of(*max);
            draft.keys(Table::ClientsByOrganization, &org_key(*org), max)?.len() < max
        }
        Expectation::Keys(org, max) => {
            let max = count_of(*max);
            draft.keys(Table::KeysByOrganization, &org_key(*org), max)?.len() < max
        }
        Expectation::Devices(user, besides, max) => {
            let own = device_key(*user, *besides);
            let max = count_of(*max);
            let mut keys = draft.keys(Table::Devices, &user_key(*user), max.saturating_add(1))?;
            keys.retain(|key| *key != own);
            keys.len() < max
        }
        Expectation::Membership(org, solution, user, membership) => {
            let key = pair_key(&solution_prefix(*org, *solution), &user_key(*user));
            draft.record::<Membership>(Table::Memberships, &key)? == *membership
        }
    };
    if holds { Ok(()) } else { Err(Refusal::Unmet(expectation.word())) }
}

fn count_of(max: u32) -> usize {
    usize::try_from(max).unwrap_or(usize::MAX)
}

fn role_besides(
    draft: &impl Rows,
    org: OrganizationId,
    role: RoleId,
    besides: UserId,
) -> Result<bool, Refusal> {
    let mut limit = 8;
    loop {
        let keys = draft.keys(Table::UsersByRole, &role_key(org, role), limit)?;
        for key in &keys {
            let user = user_of(Table::UsersByRole, key)?;
            if user == besides {
                continue;
            }
            let stored = draft.record::<User>(Table::Users, &user_key(user))?;
            if stored.is_some_and(|user| user.status == UserStatus::Active) {
                return Ok(true);
            }
        }
        if keys.len() < limit {
            return Ok(false);
        }
        limit *= 8;
    }
}

/// Chains a line to the last one of its organization.
fn audit(draft: &mut impl Rows, note: AuditNote, version: u64) -> Result<(), Refusal> {
    let (before, after) = draft.digests()?;
    let last = draft.last(Table::Audit, &org_key(note.org))?;
    let previous = match last {
        Some(key) => stored::<AuditRecord>(draft, Table::Audit, &key)?.map(|line| line.hash),
        None => None,
    };
    let mut line = AuditRecord {
        version,
        note,
        before,
        after,
        previous: previous.unwrap_or_default(),
        hash: [0; 32],
    };
    line.hash = line.computed_hash();
    Ok(draft.put_record(Table::Audit, &audit_key(line.note.org, version), &line)?)
}

fn put_password(draft: &mut impl Rows, user: UserId, phc: &Secret) -> Result<(), Refusal> {
    require_user(draft, user)?;
    Ok(draft.put_record(Table::Passwords, &user_key(user), phc)?)
}

fn remove_membership(
    draft: &mut impl Rows,
    org: OrganizationId,
    solution: Uuid,
    user: UserId,
) -> Result<(), Refusal> {
    let user = user_key(user);
    let key = pair_key(&solution_prefix(org, solution), &user);
    let Some(old) = stored::<Membership>(draft, Table::Memberships, &key)? else { return Ok(()) };
    for group in &old.groups {
        let prefix = group_prefix(org, solution, group);
        draft.remove(Table::Groups, &pair_key(&prefix, &user))?;
    }
    Ok(draft.remove(Table::Memberships, &key)?)
}

fn put_invitation(draft: &mut impl Rows, invitation: &Invitation) -> Result<(), Refusal> {
    require_user(draft, invitation.user)?;
    ends(draft, invitation.expires_at, b'i', &invitation.token.0)?;
    Ok(draft.put_record(Table::Invitations, &invitation.token.0, invitation)?)
}

fn take_invitation(draft: &mut impl Rows, token: SecretHash) -> Result<(), Refusal> {
    if !draft.has(Table::Invitations, &token.0)? {
        return Err(Refusal::Used("the invitation"));
    }
    Ok(draft.remove(Table::Invitations, &token.0)?)
}

fn put_client(draft: &mut impl Rows, client: &Client) -> Result<(), Refusal> {
    require_organization(draft, client.org)?;
    let id = client.id.as_bytes();
    if let Some(old) = stored::<Client>(draft, Table::Clients, id)?
        && old.org != client.org
    {
        return Err(Refusal::Conflict("client id"));
    }
    draft.put(Table::ClientsByOrganization, &pair_key(&org_key(client.org), id), &[])?;
    Ok(draft.put_record(Table::Clients, id, client)?)
}

fn remove_client(draft: &mut impl Rows, org: OrganizationId, id: &str) -> Result<(), Refusal> {
    let found = stored::<Client>(draft, Table::Clients, id.as_bytes())?;
    if found.is_none_or(|client| client.org != org) {
        return Err(Refusal::Missing("the client"));
    }
    draft.remove(Table::ClientsByOrganization, &pair_key(&org_key(org), id.as_bytes()))?;
    Ok(draft.remove(Table::Clients, id.as_bytes())?)
}

fn put_key(draft: &mut impl Rows, key: &ApiKey) -> Result<(), Refusal> {
    require_organization(draft, key.org)?;
    draft.put(Table::KeysByOrganization, &pair_key(&org_key(key.org), &key.id.0), &key.token.0)?;
    Ok(draft.put_record(Table::Keys, &key.token.0, key)?)
}

fn remove_key(draft: &mut impl Rows, org: OrganizationId, id: ObjectId) -> Result<(), Refusal> {
    let named = pair_key(&org_key(org), &id.0);
    let token = draft.get(Table::KeysByOrganization, &named)?.ok_or(Refusal::Missing("the key"))?;
    draft.remove(Table::KeysByOrganization, &named)?;
    Ok(draft.remove(Table::Keys, &token)?)
}

fn use_refresh(draft: &mut impl Rows, token: SecretHash, again: bool) -> Result<(), Refusal> {
    let found = stored::<RefreshToken>(draft, Table::Refreshes, &token.0)?;
    match found {
        Some(refresh) if again || !refresh.is_used => {
            let used = RefreshToken { is_used: true, ..refresh };
            Ok(draft.put_record(Table::Refreshes, &token.0, &used)?)
        }
        _ => Err(Refusal::Used("the refresh token")),
    }
}

fn put_policy(
    draft: &mut impl Rows,
    owner: PolicyOwner,
    policy: Option<NotificationPolicy>,
) -> Result<(), Refusal> {
    let sequence = count(draft, Counter::Sequence(owner), 1)?;
    let key = owner_key(owner);
    match policy {
        Some(policy) => {
            draft.put_record(Table::Policies, &key, &NotificationPolicy { sequence, ..policy })?;
        }
        None => draft.remove(Table::Policies, &key)?,
    }
    Ok(())
}

fn put_text(
    draft: &mut impl Rows,
    owner: PolicyOwner,
    language: &str,
    text: Option<MessageText>,
) -> Result<(), Refusal> {
    let sequence = count(draft, Counter::Sequence(owner), 1)?;
    let key = text_key(owner, language);
    match text {
        Some(text) => draft.put_record(Table::Texts, &key, &MessageText { sequence, ..text })?,
        None => draft.remove(Table::Texts, &key)?,
    }
    Ok(())
}

/// Notes when a record may be forgotten.
fn ends(draft: &mut impl Rows, at: Millis, kind: u8, key: &[u8]) -> Result<(), Refusal> {
    Ok(draft.put(Table::Endings, &[&at.0.to_be_bytes()[..], &[kind], key].concat(), &[])?)
}

fn forget(draft: &mut impl Rows, before: Millis, making: &mut Making<'_>) -> Result<(), Refusal> {
    let until = before.0.to_be_bytes();
    let mut ended = draft.keys(Table::Endings, &[], FORGOTTEN_AT_ONCE)?;
    ended.retain(|key| key.as_slice() < until.as_slice());
    for ending in ended {
        if let Some((kind, key)) = ending.get(8..).and_then(<[u8]>::split_first) {
            match kind {
                b'r' => draft.remove(Table::Refreshes, key)?,
                b'i' => draft.remove(Table::Invitations, key)?,
                _ => {
                    draft.remove(Table::Revoked, key)?;
                    making.touched.unrevoked.push(String::from_utf8_lossy(key).into_owned());
                }
            }
        }
        draft.remove(Table::Endings, &ending)?;
    }
    Ok(())
}

fn require_user(draft: &impl Rows, user: UserId) -> Result<(), Refusal> {
    if draft.has(Table::Users, &user_key(user))? {
        Ok(())
    } else {
        Err(Refusal::Missing("the user"))
    }
}

fn stored<T: DeserializeOwned>(
    draft: &impl Rows,
    table: Table,
    key: &[u8],
) -> Result<Option<T>, Refusal> {
    Ok(draft.record(table, key)?)
}
