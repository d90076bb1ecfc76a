//! The tables of records: key layouts and the encoding of values, the same in every store.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `format`, `version` | u8, u64 |
//! | `organizations` | org | organization |
//! | `organization_names` | kind, name (`u` uuid, `o` object id, `s` slug, `n` number) | org |
//! | `users` | user | user |
//! | `user_names` | kind, name (`u` uuid, `e` e-mail) | user |
//! | `users_by_organization` | org, user | – |
//! | `roles` | org, role | role |
//! | `devices` | user, device | device |
//! | `device_owners` | device | user |
//! | `device_tokens` | SHA-256 of platform and token, device | – |
//! | `memberships` | org, solution, user | membership |
//! | `groups` | org, solution, group name, `0xff`, user | – |
//! | `subscriptions` | org, subscription | subscription |
//! | `subscription_owners` | subscription | org |
//! | `failing` | subscription | since when it fails, and who heads its line |
//! | `children` | parent org, org | – |
//! | `users_by_role` | org, role, user | – |
//! | `counters` | kind, org (`u` users, `c` children, `s` subscriptions) owner (`p`), notification (`i`) | u64 |
//! | `passwords` | user | PHC string |
//! | `invitations` | token hash | invitation |
//! | `clients`, `clients_by_organization` | id; org, id | client; – |
//! | `keys`, `keys_by_organization` | token hash; org, key | key; token hash |
//! | `refreshes` | token hash | refresh token |
//! | `revoked` | id | instant it is forgotten |
//! | `policies`, `texts` | owner; owner, language | policy; text |
//! | `audit` | org, version | audit record |
//! | `endings` | instant, kind (`r` refresh, `i` invitation, `v` revoked), key | – |
//! | `inbox`, `inbox_removed` | user, notification | entry; entry whose removal sync tells of |
//! | `inbox_changes`, `inbox_heads` | user, revision; user | notification; numbers |
//! | `inbox_messages` | notification | content |
//! | `hidden` | org, notification | – |
//!
//! Integers in keys are big-endian with the sign bit flipped, so byte order is numeric order:
//! org and role 4 bytes, user 8, uuids 16, object ids 12. `0xff` ends a group name because UTF-8
//! never contains it. A record is one version byte, its postcard form, and the CRC-32C of both
//! (4 bytes, big-endian), so each record proves itself. The last tables are kept on Redis only:
//! `user_homes` (user: the organization it is kept with), `known` (org) and `user_changes` (org,
//! version, user).

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::model::{
    DeviceId, NotificationId, OrganizationId, Platform, PolicyOwner, RoleId, Secret,
    SubscriptionId, UserId,
};
use crate::store::{OrganizationRef, UserRef};

/// Layout of the whole file: raised when tables or keys change.
pub(in crate::store) const FORMAT: u8 = 4;
/// Encoding of one record: raised when a stored type changes.
const RECORD_VERSION: u8 = 2;
const CHECKSUM_BYTES: usize = 4;

pub(in crate::store) const META_FORMAT: &[u8] = b"format";
pub(in crate::store) const META_VERSION: &[u8] = b"version";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) enum Table {
    Meta,
    Organizations,
    OrganizationNames,
    Users,
    UserNames,
    UsersByOrganization,
    Roles,
    Devices,
    DeviceOwners,
    Memberships,
    Groups,
    Subscriptions,
    SubscriptionOwners,
    Children,
    UsersByRole,
    Counters,
    Passwords,
    Invitations,
    Clients,
    ClientsByOrganization,
    Keys,
    KeysByOrganization,
    Refreshes,
    Revoked,
    Policies,
    Texts,
    Audit,
    Endings,
    Inbox,
    InboxRemoved,
    InboxChanges,
    InboxHeads,
    InboxMessages,
    Hidden,
    DeviceTokens,
    Failing,
    UserHomes,
    Known,
    UserChanges,
}

impl Table {
    /// Every table that all stores have, in the order of the variants.
    pub(in crate::store) const ALL: [Self; 36] = [
        Self::Meta,
        Self::Organizations,
        Self::OrganizationNames,
        Self::Users,
        Self::UserNames,
        Self::UsersByOrganization,
        Self::Roles,
        Self::Devices,
        Self::DeviceOwners,
        Self::Memberships,
        Self::Groups,
        Self::Subscriptions,
        Self::SubscriptionOwners,
        Self::Children,
        Self::UsersByRole,
        Self::Counters,
        Self::Passwords,
        Self::Invitations,
        Self::Clients,
        Self::ClientsByOrganization,
        Self::Keys,
        Self::KeysByOrganization,
        Self::Refreshes,
        Self::Revoked,
        Self::Policies,
        Self::Texts,
        Self::Audit,
        Self::Endings,
        Self::Inbox,
        Self::InboxRemoved,
        Self::InboxChanges,
        Self::InboxHeads,
        Self::InboxMessages,
        Self::Hidden,
        Self::DeviceTokens,
        Self::Failing,
    ];

    pub(in crate::store) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Organizations => "organizations",
            Self::OrganizationNames => "organization_names",
            Self::Users => "users",
            Self::UserNames => "user_names",
            Self::UsersByOrganization => "users_by_organization",
            Self::Roles => "roles",
            Self::Devices => "devices",
            Self::DeviceOwners => "device_owners",
            Self::Memberships => "memberships",
            Self::Groups => "groups",
            Self::Subscriptions => "subscriptions",
            Self::SubscriptionOwners => "subscription_owners",
            Self::Children => "children",
            Self::UsersByRole => "users_by_role",
            Self::Counters => "counters",
            Self::Passwords => "passwords",
            Self::Invitations => "invitations",
            Self::Clients => "clients",
            Self::ClientsByOrganization => "clients_by_organization",
            Self::Keys => "keys",
            Self::KeysByOrganization => "keys_by_organization",
            Self::Refreshes => "refreshes",
            Self::Revoked => "revoked",
            Self::Policies => "policies",
            Self::Texts => "texts",
            Self::Audit => "audit",
            Self::Endings => "endings",
            Self::Inbox => "inbox",
            Self::InboxRemoved => "inbox_removed",
            Self::InboxChanges => "inbox_changes",
            Self::InboxHeads => "inbox_heads",
            Self::InboxMessages => "inbox_messages",
            Self::Hidden => "hidden",
            Self::DeviceTokens => "device_tokens",
            Self::Failing => "failing",
            Self::UserHomes => "user_homes",
            Self::Known => "known",
            Self::UserChanges => "user_changes",
        }
    }
}

/// A failure below the seam, before the store says where.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum Flaw {
    /// What keeps the tables failed.
    #[error(transparent)]
    Backend(Box<dyn std::error::Error + Send + Sync>),
    /// A stored value is not what the table's layout says.
    #[error("a value in table {} fails its checksum or layout", .0.name())]
    Value(Table),
}

/// The stored form of a record of `table`.
pub(in crate::store) fn encode<T: Serialize>(table: Table, record: &T) -> Result<Vec<u8>, Flaw> {
    let mut bytes =
        postcard::to_extend(record, vec![RECORD_VERSION]).map_err(|_| Flaw::Value(table))?;
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    Ok(bytes)
}

/// The record in `stored`, if its checksum and version hold.
pub(in crate::store) fn decode<T: DeserializeOwned>(
    table: Table,
    stored: &[u8],
) -> Result<T, Flaw> {
    let body = stored
        .split_last_chunk::<CHECKSUM_BYTES>()
        .filter(|(body, sum)| crc32c::crc32c(body) == u32::from_be_bytes(**sum))
        .map(|(body, _)| body);
    match body.and_then(<[u8]>::split_first) {
        Some((&RECORD_VERSION, record)) => {
            postcard::from_bytes(record).map_err(|_| Flaw::Value(table))
        }
        _ => Err(Flaw::Value(table)),
    }
}

pub(in crate::store) fn org_key(org: OrganizationId) -> [u8; 4] {
    (org.0.cast_unsigned() ^ (1 << 31)).to_be_bytes()
}

pub(in crate::store) fn user_key(user: UserId) -> [u8; 8] {
    (user.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// The organization an index value names.
pub(in crate::store) fn org_of(table: Table, value: &[u8]) -> Result<OrganizationId, Flaw> {
    let bytes = <[u8; 4]>::try_from(value).map_err(|_| Flaw::Value(table))?;
    Ok(OrganizationId((u32::from_be_bytes(bytes) ^ (1 << 31)).cast_signed()))
}

/// The user whose id ends `bytes`: an index value, or a key that ends with a user.
pub(in crate::store) fn user_of(table: Table, bytes: &[u8]) -> Result<UserId, Flaw> {
    let bytes = bytes.last_chunk::<8>().ok_or(Flaw::Value(table))?;
    Ok(UserId((u64::from_be_bytes(*bytes) ^ (1 << 63)).cast_signed()))
}

pub(in crate::store) fn pair_key(first: &[u8], second: &[u8]) -> Vec<u8> {
    [first, second].concat()
}

pub(in crate::store) fn role_key(org: OrganizationId, role: RoleId) -> Vec<u8> {
    pair_key(&org_key(org), &org_key(OrganizationId(role.0)))
}

pub(in crate::store) fn device_key(user: UserId, device: DeviceId) -> Vec<u8> {
    pair_key(&user_key(user), device.0.as_bytes())
}

pub(in crate::store) fn notification_key(notification: NotificationId) -> [u8; 16] {
    notification.0.into_bytes()
}

/// Key of a change of an inbox.
pub(in crate::store) fn change_key(user: UserId, revision: u64) -> Vec<u8> {
    pair_key(&user_key(user), &revision.to_be_bytes())
}

/// The notification whose id ends `bytes`.
pub(in crate::store) fn notification_of(
    table: Table,
    bytes: &[u8],
) -> Result<NotificationId, Flaw> {
    let bytes = bytes.last_chunk::<16>().ok_or(Flaw::Value(table))?;
    Ok(NotificationId(Uuid::from_bytes(*bytes)))
}

/// What every key of a token's devices starts with.
pub(in crate::store) fn token_prefix(platform: Platform, token: &Secret) -> [u8; 32] {
    let platform: u8 = match platform {
        Platform::Apns => b'a',
        Platform::Fcm => b'f',
    };
    Sha256::new().chain_update([platform]).chain_update(token.reveal()).finalize().into()
}

/// The device whose id ends a key.
pub(in crate::store) fn last_device(table: Table, key: &[u8]) -> Result<DeviceId, Flaw> {
    let id = key.last_chunk::<16>().ok_or(Flaw::Value(table))?;
    Ok(DeviceId(Uuid::from_bytes(*id)))
}

/// What a counter counts.
#[derive(Clone, Copy)]
pub(in crate::store) enum Counter {
    Users(OrganizationId),
    Children(OrganizationId),
    Subscriptions(OrganizationId),
    /// Policies, texts and password changes.
    Sequence(PolicyOwner),
    /// Inbox entries that share a content.
    InboxEntries(NotificationId),
}

impl Counter {
    pub(in crate::store) fn key(self) -> Vec<u8> {
        match self {
            Self::Users(org) => pair_key(b"u", &org_key(org)),
            Self::Children(org) => pair_key(b"c", &org_key(org)),
            Self::Subscriptions(org) => pair_key(b"s", &org_key(org)),
            Self::Sequence(owner) => pair_key(b"p", &owner_key(owner)),
            Self::InboxEntries(notification) => pair_key(b"i", &notification_key(notification)),
        }
    }
}

/// Key of a policy; the instance's is empty.
pub(in crate::store) fn owner_key(owner: PolicyOwner) -> Vec<u8> {
    match owner {
        PolicyOwner::Instance => Vec::new(),
        PolicyOwner::Organization(org) => org_key(org).to_vec(),
    }
}

pub(in crate::store) fn text_key(owner: PolicyOwner, language: &str) -> Vec<u8> {
    // A fixed length before the language, so that no owner's key is a prefix of another's.
    let owner = match owner {
        PolicyOwner::Instance => [0; 5],
        PolicyOwner::Organization(org) => {
            let [a, b, c, d] = org_key(org);
            [1, a, b, c, d]
        }
    };
    pair_key(&owner, language.as_bytes())
}

pub(in crate::store) fn audit_key(org: OrganizationId, version: u64) -> Vec<u8> {
    pair_key(&org_key(org), &version.to_be_bytes())
}

/// The organization whose id ends `key`.
pub(in crate::store) fn last_org(table: Table, key: &[u8]) -> Result<OrganizationId, Flaw> {
    org_of(table, key.last_chunk::<4>().ok_or(Flaw::Value(table))?)
}

/// A stored number.
pub(in crate::store) fn number(table: Table, value: &[u8]) -> Result<u64, Flaw> {
    Ok(u64::from_be_bytes(<[u8; 8]>::try_from(value).map_err(|_| Flaw::Value(table))?))
}

pub(in crate::store) fn subscription_key(org: OrganizationId, id: SubscriptionId) -> Vec<u8> {
    pair_key(&org_key(org), &id.0)
}

/// What every member's key in a solution starts with.
pub(in crate::store) fn solution_prefix(org: OrganizationId, solution: Uuid) -> Vec<u8> {
    pair_key(&org_key(org), solution.as_bytes())
}

/// What every member's key in a group of a solution starts with.
pub(in crate::store) fn group_prefix(org: OrganizationId, solution: Uuid, group: &str) -> Vec<u8> {
    [&org_key(org)[..], solution.as_bytes(), group.as_bytes(), &[0xff]].concat()
}

/// Key in `organization_names`, or `None` for the primary key.
pub(in crate::store) fn organization_name(which: &OrganizationRef) -> Option<Vec<u8>> {
    match which {
        OrganizationRef::Id(_) => None,
        OrganizationRef::Uuid(uuid) => Some(pair_key(b"u", uuid.as_bytes())),
        OrganizationRef::ObjectId(id) => Some(pair_key(b"o", &id.0)),
        OrganizationRef::Slug(slug) => Some(pair_key(b"s", slug.as_bytes())),
        OrganizationRef::Numeric(digits) => Some(pair_key(b"n", digits.as_bytes())),
    }
}

/// Key in `user_names`, or `None` for the primary key.
pub(in crate::store) fn user_name(which: &UserRef) -> Option<Vec<u8>> {
    match which {
        UserRef::Id(_) => None,
        UserRef::Uuid(uuid) => Some(pair_key(b"u", uuid.as_bytes())),
        UserRef::Email(email) => Some(pair_key(b"e", email.as_bytes())),
    }
}

/// The smallest key after every key that starts with `prefix`.
pub(in crate::store) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}
