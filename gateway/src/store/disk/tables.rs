//! What `records.redb` holds: tables, key layouts and the encoding of values.
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
//! | `memberships` | org, solution, user | membership |
//! | `groups` | org, solution, group name, `0xff`, user | – |
//! | `subscriptions` | org, subscription | subscription |
//! | `subscription_owners` | subscription | org |
//!
//! Integers in keys are big-endian with the sign bit flipped, so byte order is numeric order:
//! org and role 4 bytes, user 8, uuids 16, object ids 12. `0xff` ends a group name because UTF-8
//! never contains it. A record is one version byte, its postcard form, and the CRC-32C of both
//! (4 bytes, big-endian): redb checks pages only when it repairs, so each record proves itself.

use redb::TableDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{
    DeviceId, Endpoint, Millis, ObjectId, OrganizationId, RoleId, Secret, Subscription,
    SubscriptionId, UserId,
};
use crate::store::{OrganizationRef, UserRef};

/// Layout of the whole file: raised when tables or keys change.
pub(super) const FORMAT: u8 = 1;
/// Encoding of one record: raised when a stored type changes.
const RECORD_VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

pub(super) const META_FORMAT: &[u8] = b"format";
pub(super) const META_VERSION: &[u8] = b"version";

pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
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
}

impl Table {
    /// Every table, in the order of the variants.
    pub(super) const ALL: [Self; 13] = [
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
    ];

    pub(super) const fn name(self) -> &'static str {
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
        }
    }

    pub(super) const fn definition(self) -> Definition {
        TableDefinition::new(self.name())
    }
}

/// A failure below the seam, before the file's path is added to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    #[error(transparent)]
    Redb(Box<redb::Error>),
    /// A stored value is not what the table's layout says.
    #[error("a value in table {} fails its checksum or layout", .0.name())]
    Value(Table),
}

macro_rules! flaw_from {
    ($($error:ty),+) => {
        $(impl From<$error> for Flaw {
            fn from(error: $error) -> Self {
                Self::Redb(Box::new(error.into()))
            }
        })+
    };
}

flaw_from!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::SetDurabilityError
);

/// The stored form of a record of `table`.
pub(super) fn encode<T: Serialize>(table: Table, record: &T) -> Result<Vec<u8>, Flaw> {
    let mut bytes =
        postcard::to_extend(record, vec![RECORD_VERSION]).map_err(|_| Flaw::Value(table))?;
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    Ok(bytes)
}

/// The record in `stored`, if its checksum and version hold.
pub(super) fn decode<T: DeserializeOwned>(table: Table, stored: &[u8]) -> Result<T, Flaw> {
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

pub(super) fn org_key(org: OrganizationId) -> [u8; 4] {
    (org.0.cast_unsigned() ^ (1 << 31)).to_be_bytes()
}

pub(super) fn user_key(user: UserId) -> [u8; 8] {
    (user.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// The organization an index value names.
pub(super) fn org_of(table: Table, value: &[u8]) -> Result<OrganizationId, Flaw> {
    let bytes = <[u8; 4]>::try_from(value).map_err(|_| Flaw::Value(table))?;
    Ok(OrganizationId((u32::from_be_bytes(bytes) ^ (1 << 31)).cast_signed()))
}

/// The user whose id ends `bytes`: an index value, or a key that ends with a user.
pub(super) fn user_of(table: Table, bytes: &[u8]) -> Result<UserId, Flaw> {
    let bytes = bytes.last_chunk::<8>().ok_or(Flaw::Value(table))?;
    Ok(UserId((u64::from_be_bytes(*bytes) ^ (1 << 63)).cast_signed()))
}

pub(super) fn pair_key(first: &[u8], second: &[u8]) -> Vec<u8> {
    [first, second].concat()
}

pub(super) fn role_key(org: OrganizationId, role: RoleId) -> Vec<u8> {
    pair_key(&org_key(org), &org_key(OrganizationId(role.0)))
}

pub(super) fn device_key(user: UserId, device: DeviceId) -> Vec<u8> {
    pair_key(&user_key(user), device.0.as_bytes())
}

pub(super) fn subscription_key(org: OrganizationId, id: SubscriptionId) -> Vec<u8> {
    pair_key(&org_key(org), &id.0)
}

/// What every member's key in a solution starts with.
pub(super) fn solution_prefix(org: OrganizationId, solution: Uuid) -> Vec<u8> {
    pair_key(&org_key(org), solution.as_bytes())
}

/// What every member's key in a group of a solution starts with.
pub(super) fn group_prefix(org: OrganizationId, solution: Uuid, group: &str) -> Vec<u8> {
    [&org_key(org)[..], solution.as_bytes(), group.as_bytes(), &[0xff]].concat()
}

/// Key in `organization_names`, or `None` for the primary key.
pub(super) fn organization_name(which: &OrganizationRef) -> Option<Vec<u8>> {
    match which {
        OrganizationRef::Id(_) => None,
        OrganizationRef::Uuid(uuid) => Some(pair_key(b"u", uuid.as_bytes())),
        OrganizationRef::ObjectId(id) => Some(pair_key(b"o", &id.0)),
        OrganizationRef::Slug(slug) => Some(pair_key(b"s", slug.as_bytes())),
        OrganizationRef::Numeric(digits) => Some(pair_key(b"n", digits.as_bytes())),
    }
}

/// Key in `user_names`, or `None` for the primary key.
pub(super) fn user_name(which: &UserRef) -> Option<Vec<u8>> {
    match which {
        UserRef::Id(_) => None,
        UserRef::Uuid(uuid) => Some(pair_key(b"u", uuid.as_bytes())),
        UserRef::Email(email) => Some(pair_key(b"e", email.as_bytes())),
    }
}

/// A subscription as stored: postcard cannot read the model's internally tagged endpoint.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredSubscription {
    id: ObjectId,
    org: OrganizationId,
    description: String,
    events: Vec<String>,
    endpoint: StoredEndpoint,
    enabled: bool,
    created_at: Millis,
    updated_at: Millis,
}

#[derive(Serialize, Deserialize)]
enum StoredEndpoint {
    Slack { url: Secret, team: String, channel: String },
    Webhook { url: String, secret: Secret },
}

impl From<Subscription> for StoredSubscription {
    fn from(from: Subscription) -> Self {
        let Subscription { id, org, description, events, endpoint, enabled, .. } = from;
        let endpoint = match endpoint {
            Endpoint::Slack { url, team, channel } => StoredEndpoint::Slack { url, team, channel },
            Endpoint::Webhook { url, secret } => StoredEndpoint::Webhook { url, secret },
        };
        let (created_at, updated_at) = (from.created_at, from.updated_at);
        Self { id, org, description, events, endpoint, enabled, created_at, updated_at }
    }
}

impl From<StoredSubscription> for Subscription {
    fn from(from: StoredSubscription) -> Self {
        let StoredSubscription { id, org, description, events, endpoint, enabled, .. } = from;
        let endpoint = match endpoint {
            StoredEndpoint::Slack { url, team, channel } => Endpoint::Slack { url, team, channel },
            StoredEndpoint::Webhook { url, secret } => Endpoint::Webhook { url, secret },
        };
        let (created_at, updated_at) = (from.created_at, from.updated_at);
        Self { id, org, description, events, endpoint, enabled, created_at, updated_at }
    }
}
