//! Users and organizations as Blynk prints them. Fields without a value are left out.

use crate::model::{
    Address, Millis, Organization, OrganizationKind, Role, Units, User, UserStatus,
};
use bytes::Bytes;
use serde::Serialize;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserShown<'a> {
    id: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nick_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone_number: Option<&'a str>,
    #[serde(flatten)]
    place: Place<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tz: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locale: Option<&'a str>,
    status: &'static str,
    last_modified_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_logged_at: Option<u64>,
    registered_at: u64,
    is_dev: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_dark_mode: Option<bool>,
}

/// Where a user stands: in lists by ids, in its own profile spelled out.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Place<'a> {
    #[serde(rename_all = "camelCase")]
    Ids { role_id: i32, org_id: i32 },
    #[serde(rename_all = "camelCase")]
    Spelled { role: RoleShown<'a>, org_id: i32, org_name: &'a str },
}

#[derive(Debug, Serialize)]
struct RoleShown<'a> {
    id: i32,
    name: &'a str,
    permissions: Vec<&'a str>,
}

impl<'a> UserShown<'a> {
    /// A user as lists and most answers have it.
    pub(super) fn of(user: &'a User, now: Millis) -> Self {
        let (profile, account) = (&user.profile, &user.account);
        Self {
            id: user.id.0,
            name: &user.name,
            email: &user.email,
            title: profile.title.as_deref(),
            nick_name: profile.nick_name.as_deref(),
            phone_number: profile.phone.as_deref(),
            place: Place::Ids { role_id: user.role.0, org_id: user.org.0 },
            tz: user.tz.as_deref(),
            locale: user.locale.as_deref(),
            status: status(user, now),
            last_modified_ts: changed_at(account.modified_at, user.created_at),
            last_logged_at: account.last_login_at.map(|at| at.0),
            registered_at: user.created_at.0,
            is_dev: profile.is_developer,
            is_dark_mode: None,
        }
    }

    /// A user as it sees itself.
    pub(super) fn profile(
        user: &'a User,
        role: &'a Role,
        organization: &'a Organization,
        now: Millis,
    ) -> Self {
        // Rights of the other products have no name here.
        let is_ours = |name: &&str| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        let permissions = role.permissions.iter().map(|name| dialect_name(name)).filter(is_ours);
        let (id, name) = (role.id.0, role.name.as_str());
        let role = RoleShown { id, name, permissions: permissions.collect() };
        let place = Place::Spelled { role, org_id: user.org.0, org_name: &organization.name };
        Self { place, is_dark_mode: Some(user.profile.dark_mode), ..Self::of(user, now) }
    }

    pub(super) fn body(&self) -> Bytes {
        json(self)
    }
}

fn dialect_name(name: &str) -> &str {
    let known = crate::auth::Permission::named(name).and_then(|known| known.dialect_name());
    known.unwrap_or(name)
}

/// What changed records tell; those never changed were last changed when they were made.
fn changed_at(modified: Millis, created: Millis) -> u64 {
    if modified.0 == 0 { created.0 } else { modified.0 }
}

fn status(user: &User, now: Millis) -> &'static str {
    match user.status {
        UserStatus::Pending => "Pending",
        UserStatus::Active if user.inactive_from().is_some_and(|at| at <= now) => "Inactive",
        UserStatus::Active => "Active",
        UserStatus::Suspended => "Suspended",
    }
}

/// One page of a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<T> {
    pub(super) content: Vec<T>,
    pub(super) total_elements: u64,
}

impl<T: Serialize> Page<T> {
    pub(super) fn body(&self) -> Bytes {
        json(self)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrganizationShown<'a> {
    id: i32,
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_organization_id: Option<i32>,
    is_active: bool,
    tz: &'a str,
    unit_system: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<AddressShown<'a>>,
    last_modified_ts: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AddressShown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    full_address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    city: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zip: Option<&'a str>,
}

impl<'a> AddressShown<'a> {
    fn of(address: &'a Address) -> Self {
        Self {
            full_address: address.full_address.as_deref(),
            country: address.country.as_deref(),
            city: address.city.as_deref(),
            state: address.state.as_deref(),
            zip: address.zip.as_deref(),
        }
    }
}

impl<'a> OrganizationShown<'a> {
    pub(super) fn of(organization: &'a Organization) -> Self {
        let profile = &organization.profile;
        Self {
            id: organization.id.0,
            name: &organization.name,
            kind: kind_name(profile.kind),
            description: profile.description.as_deref(),
            parent_organization_id: organization.parent.map(|parent| parent.0),
            is_active: true,
            tz: &organization.tz,
            unit_system: match profile.units {
                Units::Imperial => "IMPERIAL",
                Units::Metric => "METRIC",
            },
            phone_number: profile.phone.as_deref(),
            address: profile.address.as_ref().map(AddressShown::of),
            last_modified_ts: changed_at(profile.modified_at, organization.created_at),
        }
    }

    pub(super) fn body(&self) -> Bytes {
        json(self)
    }
}

/// Every type of organization with its name.
pub(super) const KINDS: [(&str, OrganizationKind); 8] = [
    ("ROOT", OrganizationKind::Root),
    ("BUSINESS", OrganizationKind::Business),
    ("PERSONAL", OrganizationKind::Personal),
    ("BRANCH", OrganizationKind::Branch),
    ("DISTRIBUTOR", OrganizationKind::Distributor),
    ("CONTRACTOR", OrganizationKind::Contractor),
    ("INSTALLER", OrganizationKind::Installer),
    ("RESELLER", OrganizationKind::Reseller),
];

fn kind_name(kind: OrganizationKind) -> &'static str {
    KINDS.into_iter().find(|(_, known)| *known == kind).map_or("BUSINESS", |(name, _)| name)
}

fn json(value: &impl Serialize) -> Bytes {
    // Serializing into memory cannot fail for these types.
    serde_json::to_vec(value).unwrap_or_default().into()
}
