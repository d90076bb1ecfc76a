//! What each change does to the tables, and the constraints it must meet first: the same rules in
//! every store.

mod accounts;
mod inbox;
pub(in crate::store) mod rows;
pub(in crate::store) mod tables;
mod touched;

pub(in crate::store) use rows::Rows;
pub(in crate::store) use touched::Touched;

use self::tables::{
    Counter, Flaw, Table, device_key, group_prefix, last_device, number, org_key, org_of,
    organization_name, pair_key, role_key, solution_prefix, subscription_key, token_prefix,
    user_key, user_name, user_of,
};
use crate::model::{
    Device, DeviceId, Membership, Organization, OrganizationId, Role, Subscription, SubscriptionId,
    User,
};
use crate::store::{Change, Failing, OrganizationRef, TREE_DEPTH_MAX, UserRef, Version};

/// Why a change was not made. The draft may hold some of its writes: roll back.
#[derive(Debug)]
pub(in crate::store) enum Refusal {
    Conflict(&'static str),
    Missing(&'static str),
    Unmet(&'static str),
    Used(&'static str),
    Flaw(Flaw),
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

/// Under what changes are made.
pub(in crate::store) struct Making<'a> {
    /// The version the records will have.
    pub(in crate::store) version: Version,
    /// Made again from the log: expectations held the first time.
    pub(in crate::store) again: bool,
    /// What cached values the changes make stale.
    pub(in crate::store) touched: &'a mut Touched,
}

/// Makes `change` in `draft`.
pub(in crate::store) fn make(
    draft: &mut impl Rows,
    change: Change,
    making: &mut Making<'_>,
) -> Result<(), Refusal> {
    let touched = &mut *making.touched;
    match change {
        Change::PutOrganization(organization) => put_organization(draft, &organization, touched),
        Change::PutUser(user) => put_user(draft, &user, touched),
        Change::PutRole(role) => put_role(draft, &role, touched),
        Change::PutDevice(device) => put_device(draft, &device, touched),
        Change::RemoveDevice(device) => remove_device(draft, device, touched),
        Change::PutMembership(org, membership) => put_membership(draft, org, &membership),
        Change::PutSubscription(subscription) => put_subscription(draft, subscription, touched),
        Change::DisableSubscription(id) => disable_subscription(draft, id, touched),
        Change::RemoveSubscription(id) => remove_subscription(draft, id, touched),
        Change::ClaimDevice(device) => claim_device(draft, &device, touched),
        Change::NoteFailing(id, failing) => note_failing(draft, id, failing),
        Change::Expect(_) if making.again => Ok(()),
        account => accounts::make(draft, account, making),
    }
}

/// Adds to a counter; one that would fall below zero stays there.
pub(in crate::store) fn count(
    draft: &mut impl Rows,
    counter: Counter,
    by: i64,
) -> Result<u64, Flaw> {
    let value = counted(draft, counter)?.saturating_add_signed(by);
    draft.put(Table::Counters, &counter.key(), &value.to_be_bytes())?;
    Ok(value)
}

pub(in crate::store) fn counted(draft: &impl Rows, counter: Counter) -> Result<u64, Flaw> {
    let stored = draft.get(Table::Counters, &counter.key())?;
    stored.map_or(Ok(0), |value| number(Table::Counters, &value))
}

fn put_organization(
    draft: &mut impl Rows,
    organization: &Organization,
    touched: &mut Touched,
) -> Result<(), Refusal> {
    let key = org_key(organization.id);
    let names = organization_names(organization);
    for (name, field) in &names {
        match draft.get(Table::OrganizationNames, name)? {
            Some(owner) if owner != key => return Err(Refusal::Conflict(field)),
            _ => {}
        }
    }
    let old = draft.record::<Organization>(Table::Organizations, &key)?;
    let moves = old.as_ref().is_none_or(|old| old.parent != organization.parent);
    if moves {
        check_parents(draft, organization)?;
    }
    if let Some(old) = old {
        for (name, _) in organization_names(&old) {
            draft.remove(Table::OrganizationNames, &name)?;
        }
        if old.name != organization.name || moves {
            touched.reshaped.push((old.id, old.parent));
        }
        if let Some(parent) = old.parent
            && moves
        {
            draft.remove(Table::Children, &pair_key(&org_key(parent), &key))?;
            count(draft, Counter::Children(parent), -1)?;
        }
    }
    if let Some(parent) = organization.parent
        && moves
    {
        draft.put(Table::Children, &pair_key(&org_key(parent), &key), &[])?;
        count(draft, Counter::Children(parent), 1)?;
    }
    for (name, _) in &names {
        draft.put(Table::OrganizationNames, name, &key)?;
    }
    draft.put_record(Table::Organizations, &key, organization)?;
    touched.organizations.push(organization.id);
    Ok(())
}

fn organization_names(organization: &Organization) -> Vec<(Vec<u8>, &'static str)> {
    [
        (OrganizationRef::Uuid(organization.uuid), "organization uuid"),
        (OrganizationRef::ObjectId(organization.object_id), "organization object id"),
        (OrganizationRef::Slug(organization.slug.clone()), "organization slug"),
        (OrganizationRef::Numeric(organization.numeric.clone()), "organization number"),
    ]
    .into_iter()
    .filter_map(|(name, field)| organization_name(&name).map(|key| (key, field)))
    .collect()
}

/// Permission checks walk the tree up, so a loop in it must never be stored.
fn check_parents(draft: &impl Rows, organization: &Organization) -> Result<(), Refusal> {
    let mut above = organization.parent;
    for _ in 0..TREE_DEPTH_MAX {
        let Some(parent) = above else { return Ok(()) };
        if parent == organization.id {
            break;
        }
        above = draft
            .record::<Organization>(Table::Organizations, &org_key(parent))?
            .ok_or(Refusal::Missing("the parent organization"))?
            .parent;
    }
    Err(Refusal::Missing("a parent organization outside the organization's own descendants"))
}

fn put_user(draft: &mut impl Rows, user: &User, touched: &mut Touched) -> Result<(), Refusal> {
    require_organization(draft, user.org)?;
    let key = user_key(user.id);
    let names = user_names(user);
    draft.lodge(user.id, user.org)?;
    for (name, field) in &names {
        match user_name(name).map(|name| draft.get(Table::UserNames, &name)).transpose()? {
            Some(Some(owner)) if owner != key => return Err(Refusal::Conflict(field)),
            _ => {}
        }
    }
    if let Some(old) = draft.record::<User>(Table::Users, &key)? {
        for (name, _) in user_names(&old) {
            if let Some(name) = user_name(&name) {
                draft.remove(Table::UserNames, &name)?;
            }
            touched.users.push(name);
        }
        draft.remove(Table::UsersByOrganization, &pair_key(&org_key(old.org), &key))?;
        draft.remove(Table::UsersByRole, &pair_key(&role_key(old.org, old.role), &key))?;
        count(draft, Counter::Users(old.org), -1)?;
    }
    count(draft, Counter::Users(user.org), 1)?;
    draft.put(Table::UsersByRole, &pair_key(&role_key(user.org, user.role), &key), &[])?;
    for (name, _) in names {
        if let Some(name) = user_name(&name) {
            draft.put(Table::UserNames, &name, &key)?;
        }
        touched.users.push(name);
    }
    touched.users.push(UserRef::Id(user.id));
    draft.put(Table::UsersByOrganization, &pair_key(&org_key(user.org), &key), &[])?;
    Ok(draft.put_record(Table::Users, &key, user)?)
}

fn user_names(user: &User) -> [(UserRef, &'static str); 2] {
    [(UserRef::Uuid(user.uuid), "user uuid"), (UserRef::Email(user.email.clone()), "email")]
}

fn put_role(draft: &mut impl Rows, role: &Role, touched: &mut Touched) -> Result<(), Refusal> {
    require_organization(draft, role.org)?;
    touched.roles.push((role.org, role.id));
    Ok(draft.put_record(Table::Roles, &role_key(role.org, role.id), role)?)
}

fn put_device(
    draft: &mut impl Rows,
    device: &Device,
    touched: &mut Touched,
) -> Result<(), Refusal> {
    if !draft.has(Table::Users, &user_key(device.user))? {
        return Err(Refusal::Missing("the user"));
    }
    remove_device(draft, device.id, touched)?;
    let named = pair_key(&token_prefix(device.platform, &device.token), device.id.0.as_bytes());
    draft.put(Table::DeviceTokens, &named, &[])?;
    draft.put(Table::DeviceOwners, device.id.0.as_bytes(), &user_key(device.user))?;
    draft.put_record(Table::Devices, &device_key(device.user, device.id), device)?;
    touched.devices.push(device.user);
    Ok(())
}

fn claim_device(
    draft: &mut impl Rows,
    device: &Device,
    touched: &mut Touched,
) -> Result<(), Refusal> {
    let prefix = token_prefix(device.platform, &device.token);
    for key in draft.keys(Table::DeviceTokens, &prefix, usize::MAX)? {
        remove_device(draft, last_device(Table::DeviceTokens, &key)?, touched)?;
    }
    put_device(draft, device, touched)
}

fn remove_device(
    draft: &mut impl Rows,
    device: DeviceId,
    touched: &mut Touched,
) -> Result<(), Refusal> {
    let Some(owner) = draft.get(Table::DeviceOwners, device.0.as_bytes())? else {
        return Ok(());
    };
    let owner = user_of(Table::DeviceOwners, &owner)?;
    let key = device_key(owner, device);
    if let Some(old) = draft.record::<Device>(Table::Devices, &key)? {
        let prefix = token_prefix(old.platform, &old.token);
        draft.remove(Table::DeviceTokens, &pair_key(&prefix, device.0.as_bytes()))?;
    }
    draft.remove(Table::DeviceOwners, device.0.as_bytes())?;
    draft.remove(Table::Devices, &key)?;
    touched.devices.push(owner);
    Ok(())
}

fn put_membership(
    draft: &mut impl Rows,
    org: OrganizationId,
    membership: &Membership,
) -> Result<(), Refusal> {
    let user = user_key(membership.user);
    if !draft.has(Table::UsersByOrganization, &pair_key(&org_key(org), &user))? {
        return Err(Refusal::Missing("the user in this organization"));
    }
    let key = pair_key(&solution_prefix(org, membership.solution), &user);
    if let Some(old) = draft.record::<Membership>(Table::Memberships, &key)? {
        for group in &old.groups {
            let prefix = group_prefix(org, membership.solution, group);
            draft.remove(Table::Groups, &pair_key(&prefix, &user))?;
        }
    }
    for group in &membership.groups {
        let prefix = group_prefix(org, membership.solution, group);
        draft.put(Table::Groups, &pair_key(&prefix, &user), &[])?;
    }
    Ok(draft.put_record(Table::Memberships, &key, membership)?)
}

fn put_subscription(
    draft: &mut impl Rows,
    subscription: Subscription,
    touched: &mut Touched,
) -> Result<(), Refusal> {
    let (id, org) = (subscription.id, subscription.org);
    require_organization(draft, org)?;
    match draft.get(Table::SubscriptionOwners, &id.0)? {
        Some(owner) if owner != org_key(org) => return Err(Refusal::Conflict("subscription id")),
        Some(_) => {}
        None => {
            count(draft, Counter::Subscriptions(org), 1)?;
        }
    }
    draft.put(Table::SubscriptionOwners, &id.0, &org_key(org))?;
    draft.put_record(Table::Subscriptions, &subscription_key(org, id), &subscription)?;
    touched.subscriptions.push(org);
    Ok(())
}

fn disable_subscription(
    draft: &mut impl Rows,
    id: SubscriptionId,
    touched: &mut Touched,
) -> Result<(), Refusal> {
    let Some(owner) = draft.get(Table::SubscriptionOwners, &id.0)? else { return Ok(()) };
    let org = org_of(Table::SubscriptionOwners, &owner)?;
    let key = subscription_key(org, id);
    let Some(stored) = draft.record::<Subscription>(Table::Subscriptions, &key)? else {
        return Err(Refusal::Flaw(Flaw::Value(Table::SubscriptionOwners)));
    };
    let disabled = Subscription { enabled: false, ..stored };
    draft.remove(Table::Failing, &id.0)?;
    draft.put_record(Table::Subscriptions, &key, &disabled)?;
    touched.subscriptions.push(org);
    Ok(())
}

/// Only of subscriptions that are still there.
fn note_failing(
    draft: &mut impl Rows,
    id: SubscriptionId,
    failing: Option<Failing>,
) -> Result<(), Refusal> {
    match failing {
        Some(failing) if draft.has(Table::SubscriptionOwners, &id.0)? => {
            draft.put_record(Table::Failing, &id.0, &failing)?;
        }
        Some(_) | None => draft.remove(Table::Failing, &id.0)?,
    }
    Ok(())
}

fn remove_subscription(
    draft: &mut impl Rows,
    id: SubscriptionId,
    touched: &mut Touched,
) -> Result<(), Refusal> {
    let Some(owner) = draft.get(Table::SubscriptionOwners, &id.0)? else { return Ok(()) };
    let org = org_of(Table::SubscriptionOwners, &owner)?;
    draft.remove(Table::SubscriptionOwners, &id.0)?;
    draft.remove(Table::Failing, &id.0)?;
    draft.remove(Table::Subscriptions, &subscription_key(org, id))?;
    count(draft, Counter::Subscriptions(org), -1)?;
    touched.subscriptions.push(org);
    Ok(())
}

pub(in crate::store) fn require_organization(
    draft: &impl Rows,
    org: OrganizationId,
) -> Result<(), Refusal> {
    if draft.has(Table::Organizations, &org_key(org))? {
        Ok(())
    } else {
        Err(Refusal::Missing("the organization"))
    }
}
