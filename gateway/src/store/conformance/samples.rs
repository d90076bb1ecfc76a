//! Small valid records for the suite: only what a check is about differs from them.

use uuid::Uuid;

use crate::model::{
    AccountState, Device, DeviceId, Endpoint, MemberRole, Membership, Millis, ObjectId,
    Organization, OrganizationId, OrganizationProfile, Platform, RoleId, Sealed, Secret,
    Subscription, TargetPolicy, User, UserId, UserProfile, UserStatus,
};
use crate::store::Change;

pub(crate) const ACME: OrganizationId = OrganizationId(101);
pub(crate) const GLOBEX: OrganizationId = OrganizationId(202);

/// An organization whose names all follow from its id.
pub(crate) fn organization(id: OrganizationId) -> Organization {
    Organization {
        id,
        uuid: Uuid::from_u128(u128::from(id.0.unsigned_abs())),
        object_id: object_id(id.0.unsigned_abs()),
        slug: format!("organization-{id}"),
        numeric: format!("6962902390648{id}"),
        name: format!("Organization {id}"),
        parent: None,
        tz: String::from("Europe/Berlin"),
        created_at: Millis(1_700_000_000_000),
        profile: OrganizationProfile::default(),
    }
}

/// A user whose names all follow from its id.
pub(crate) fn user(org: OrganizationId, id: i64) -> User {
    User {
        id: UserId(id),
        uuid: Uuid::from_u128(u128::from(id.cast_unsigned()) << 64),
        org,
        email: format!("user-{id}@example.com"),
        name: format!("User {id}"),
        role: RoleId(3),
        status: UserStatus::Active,
        tz: Some(String::from("Asia/Tokyo")),
        locale: None,
        prefs: vec![(String::from("quiet"), String::from("22:00-07:00"))],
        created_at: Millis(1_700_000_000_001),
        profile: UserProfile::default(),
        account: AccountState::default(),
    }
}

pub(crate) fn device(user: i64, number: u128) -> Device {
    Device {
        id: DeviceId(Uuid::from_u128(number)),
        user: UserId(user),
        platform: Platform::Apns,
        app: String::from("main"),
        token: Secret::new(format!("token-{number}")),
        registered_at: Millis(1_700_000_000_002),
    }
}

pub(crate) fn member(solution: Uuid, user: i64, groups: &[&str]) -> Membership {
    let groups = groups.iter().map(|group| String::from(*group)).collect();
    Membership { solution, user: UserId(user), groups, role: MemberRole::default() }
}

pub(crate) fn webhook(org: OrganizationId, number: u32, events: &[&str]) -> Subscription {
    Subscription {
        id: object_id(number),
        org,
        description: Some(format!("Webhook {number}")),
        events: events.iter().map(|event| String::from(*event)).collect(),
        unwanted: Vec::new(),
        endpoint: Endpoint::Webhook {
            url: format!("https://hooks.example.com/{number}"),
            secret: Sealed::of(b"sealed".to_vec()),
            retired: None,
        },
        policy: TargetPolicy::default(),
        enabled: true,
        created_at: Millis(1_700_000_000_003),
        updated_at: Millis(1_700_000_000_004),
    }
}

pub(crate) fn slack(org: OrganizationId, number: u32, events: &[&str]) -> Subscription {
    let endpoint = Endpoint::Slack {
        url: Sealed::of(b"sealed".to_vec()),
        team: String::from("T1"),
        channel: String::from("#alerts"),
    };
    Subscription { endpoint, ..webhook(org, number, events) }
}

pub(crate) fn object_id(number: u32) -> ObjectId {
    let mut bytes = [7u8; 12];
    for (to, from) in bytes.iter_mut().rev().zip(number.to_le_bytes()) {
        *to = from;
    }
    ObjectId(bytes)
}

/// Two organizations, the first with the users 1 to `users`.
pub(crate) fn two_organizations(users: i64) -> Vec<Change> {
    let mut changes = vec![
        Change::PutOrganization(organization(ACME)),
        Change::PutOrganization(organization(GLOBEX)),
    ];
    changes.extend((1..=users).map(|id| Change::PutUser(user(ACME, id))));
    changes
}
