//! Where each row is kept on Redis: in which shard, under which key, and behind which lock.
//!
//! ```text
//! <prefix>{s007}:r:o:101:us     a table of organization 101: hash, sorted set, or both (`=`)
//! <prefix>{s007}:r:o:101:v      the version of the organization's records
//! <prefix>{s007}:r:d:un         names whose hash says shard 7
//! <prefix>{s007}:r:locks        what is locked here, and by which commit
//! <prefix>{s007}:r:t:<commit>   what a commit that is under way will do here
//! <prefix>{s007}:r:m:<commit>   how a commit ended, where that was decided
//! <prefix>{s007}:r:open         commits decided here that other shards may not have yet
//! ```

use crate::model::{OrganizationId, ShardId};
use crate::store::changes::tables::{Table, org_of};

/// Rows of one version or of one lock each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// With an organization, in its shard: the organization has one version and one lock.
    Org(OrganizationId),
    /// In a shard by its own hash: each row has a lock of its own.
    Names(ShardId),
}

impl Place {
    pub(super) fn shard(self, shards: u16) -> ShardId {
        match self {
            Self::Org(org) => ShardId::of(org, shards),
            Self::Names(shard) => shard,
        }
    }

    /// What keys of tables in this place start with.
    pub(super) fn prefix(self) -> String {
        match self {
            Self::Org(org) => format!("o:{org}:"),
            Self::Names(_) => String::from("d:"),
        }
    }

    pub(super) fn key(self, table: Table) -> Vec<u8> {
        let mut key = self.prefix().into_bytes();
        key.extend_from_slice(code(table).as_bytes());
        key
    }

    /// The lock in front of a field of `table`.
    pub(super) fn lock(self, table: Table, field: &[u8]) -> Vec<u8> {
        match self {
            Self::Org(org) => format!("o:{org}").into_bytes(),
            Self::Names(_) => [b"d:", code(table).as_bytes(), b":", field].concat(),
        }
    }
}

pub(super) fn version_key(org: OrganizationId) -> Vec<u8> {
    format!("o:{org}:v").into_bytes()
}

/// How the rows of a table lie on Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Fields of a hash: read one by one.
    Hash,
    /// Keys in a sorted set, in their order, and values in a hash beside it.
    Sorted,
    /// Keys without values, in a sorted set.
    Index,
    /// One field of a hash for all keys with the same first bytes: read together, and many.
    Packed(usize),
}

/// What says where a row is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// The organization its key starts with.
    Org,
    /// The organization of the user its key starts with.
    User,
    /// The hash of its key, or of as many first bytes as its form packs.
    Hash,
    /// The hash of what follows the instant in its key: the key of what ends.
    Ending,
    /// The organization in its key, or the first shard for what the instance owns.
    Owner,
    /// The shard of the organization its key starts with.
    Shard,
    /// Said with `tie`: the organization that sent the notification.
    Content,
    /// By the first byte of the key.
    Counter,
    /// The first shard: few rows that every node reads.
    First,
}

pub(super) fn form(table: Table) -> Form {
    match table {
        Table::Devices => Form::Packed(8),
        Table::DeviceTokens => Form::Packed(32),
        Table::Roles
        | Table::Memberships
        | Table::Subscriptions
        | Table::KeysByOrganization
        | Table::Audit
        | Table::Inbox
        | Table::InboxRemoved
        | Table::InboxChanges => Form::Sorted,
        Table::UsersByOrganization
        | Table::Groups
        | Table::Children
        | Table::UsersByRole
        | Table::ClientsByOrganization
        | Table::Endings
        | Table::Hidden
        | Table::Known
        | Table::UserChanges => Form::Index,
        Table::Meta
        | Table::Organizations
        | Table::OrganizationNames
        | Table::Users
        | Table::UserNames
        | Table::DeviceOwners
        | Table::SubscriptionOwners
        | Table::Counters
        | Table::Passwords
        | Table::Invitations
        | Table::Clients
        | Table::Keys
        | Table::Refreshes
        | Table::Revoked
        | Table::Policies
        | Table::Texts
        | Table::InboxHeads
        | Table::InboxMessages
        | Table::Failing
        | Table::UserHomes => Form::Hash,
    }
}

pub(super) fn home(table: Table) -> Home {
    match table {
        Table::Organizations
        | Table::UsersByOrganization
        | Table::Roles
        | Table::Memberships
        | Table::Groups
        | Table::Subscriptions
        | Table::Children
        | Table::UsersByRole
        | Table::ClientsByOrganization
        | Table::KeysByOrganization
        | Table::Audit
        | Table::Hidden
        | Table::UserChanges => Home::Org,
        Table::Users
        | Table::Devices
        | Table::Passwords
        | Table::Inbox
        | Table::InboxRemoved
        | Table::InboxChanges
        | Table::InboxHeads => Home::User,
        Table::OrganizationNames
        | Table::UserNames
        | Table::DeviceOwners
        | Table::DeviceTokens
        | Table::SubscriptionOwners
        | Table::Failing
        | Table::Invitations
        | Table::Clients
        | Table::Keys
        | Table::Refreshes
        | Table::UserHomes => Home::Hash,
        Table::Endings => Home::Ending,
        Table::Policies | Table::Texts => Home::Owner,
        Table::Known => Home::Shard,
        Table::InboxMessages => Home::Content,
        Table::Counters => Home::Counter,
        Table::Meta | Table::Revoked => Home::First,
    }
}

/// True for rows by name that others than their owner change: what was read is compared again.
pub(super) fn is_shared(table: Table) -> bool {
    matches!(table, Table::Counters | Table::Policies | Table::Texts)
}

/// Short names: every organization has keys with them.
fn code(table: Table) -> &'static str {
    match table {
        Table::Meta => "me",
        Table::Organizations => "og",
        Table::OrganizationNames => "on",
        Table::Users => "us",
        Table::UserNames => "un",
        Table::UsersByOrganization => "uo",
        Table::Roles => "ro",
        Table::Devices => "de",
        Table::DeviceOwners => "do",
        Table::Memberships => "mb",
        Table::Groups => "gr",
        Table::Subscriptions => "su",
        Table::SubscriptionOwners => "so",
        Table::Children => "ch",
        Table::UsersByRole => "ur",
        Table::Counters => "co",
        Table::Passwords => "pw",
        Table::Invitations => "in",
        Table::Clients => "cl",
        Table::ClientsByOrganization => "ci",
        Table::Keys => "ke",
        Table::KeysByOrganization => "ko",
        Table::Refreshes => "re",
        Table::Revoked => "rv",
        Table::Policies => "po",
        Table::Texts => "te",
        Table::Audit => "au",
        Table::Endings => "en",
        Table::Inbox => "ib",
        Table::InboxRemoved => "ir",
        Table::InboxChanges => "ic",
        Table::InboxHeads => "ih",
        Table::InboxMessages => "im",
        Table::Hidden => "hi",
        Table::DeviceTokens => "dt",
        Table::Failing => "fa",
        Table::UserHomes => "uh",
        Table::Known => "kn",
        Table::UserChanges => "uc",
    }
}

/// The shard of a row by its own hash.
pub(super) fn hashed(bytes: &[u8], shards: u16) -> Place {
    let shard = crc32c::crc32c(bytes) % u32::from(shards.max(1));
    Place::Names(ShardId(u16::try_from(shard).unwrap_or(0)))
}

/// The first shard, for what all nodes share.
pub(super) const FIRST: Place = Place::Names(ShardId(0));

/// The organization a key starts with.
pub(super) fn first_org(table: Table, key: &[u8]) -> Option<OrganizationId> {
    org_of(table, key.first_chunk::<4>()?).ok()
}

/// The field of a table's hash or the member of its sorted set that has the row of `key`.
pub(super) fn field(table: Table, key: &[u8]) -> &[u8] {
    match form(table) {
        Form::Packed(bytes) => key.get(..bytes).unwrap_or(key),
        Form::Hash | Form::Sorted | Form::Index => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_table_has_a_short_name_of_its_own() {
        let own = [Table::UserHomes, Table::Known, Table::UserChanges];
        let all = Table::ALL.into_iter().chain(own);
        let codes: BTreeSet<_> = all.map(code).collect();
        assert_eq!(codes.len(), Table::ALL.len() + own.len());
        assert!(codes.iter().all(|code| code.len() == 2));
    }

    #[test]
    fn rows_that_are_changed_together_hash_to_one_shard() {
        for shards in [1, 7, 256] {
            let id = [3; 12];
            assert_eq!(hashed(&id, shards), hashed(&id, shards));
            assert!(hashed(&id, shards).shard(shards).0 < shards);
        }
    }
}
