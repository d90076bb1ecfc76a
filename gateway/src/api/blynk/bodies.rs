//! The request bodies of Blynk's user operations. Members that are not documented are ignored.

use super::fields;
use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields};
use crate::api::json;
use crate::model::{OrganizationId, RoleId, Secret, UserId, UserProfile};

/// A person to be made a user, with everything it may say about itself.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) email: String,
    pub(super) password: Secret,
    /// Empty if there is none.
    pub(super) name: String,
    pub(super) profile: UserProfile,
    pub(super) tz: Option<String>,
}

impl Person {
    fn read(fields: &Fields<'_>, faults: &mut Faults) -> Self {
        let email = fields::email(fields, faults);
        let password = fields::password(fields, &email, faults);
        let name = fields::name(fields, faults);
        let profile = UserProfile {
            title: fields::title(fields, faults),
            nick_name: fields::nick_name(fields, faults),
            phone: fields::phone(fields, faults),
            address: fields::address(fields, faults),
            ..UserProfile::default()
        };
        Self { email, password, name, profile, tz: fields::tz(fields, faults) }
    }
}

/// Body of `users/create`.
#[derive(Debug)]
pub(super) struct Create {
    pub(super) person: Person,
    pub(super) organization_name: Option<String>,
}

impl Create {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        let person = Person::read(&fields, &mut faults);
        let organization_name = fields::organization_name(&fields, "organizationName", &mut faults);
        faults.into_result()?;
        Ok(Self { person, organization_name })
    }
}

/// Body of `users/create-in-org`.
#[derive(Debug)]
pub(super) struct CreateInOrg {
    pub(super) person: Person,
    pub(super) org: OrganizationId,
    pub(super) role: RoleId,
}

impl CreateInOrg {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        let person = Person::read(&fields, &mut faults);
        let org = fields.required_integer("orgId", &mut faults);
        let role = fields.required_integer("roleId", &mut faults);
        faults.into_result()?;
        let (org, role) = (org.unwrap_or_default(), role.unwrap_or_default());
        Ok(Self { person, org: OrganizationId(org), role: RoleId(role) })
    }
}

/// Body of `users/invite`.
#[derive(Debug)]
pub(super) struct Invite {
    pub(super) email: String,
    pub(super) name: String,
    pub(super) role: RoleId,
    /// `None` is the caller's own.
    pub(super) org: Option<OrganizationId>,
    pub(super) locale: Option<String>,
}

impl Invite {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        let email = fields::email(&fields, &mut faults);
        let name = fields::invited_name(&fields, &mut faults);
        let role = fields.required_integer("roleId", &mut faults);
        let org = fields.integer("orgId", &mut faults).map(OrganizationId);
        let locale = fields::locale(&fields, &mut faults);
        faults.into_result()?;
        Ok(Self { email, name, role: RoleId(role.unwrap_or_default()), org, locale })
    }
}

/// Body of `users/register`.
#[derive(Debug)]
pub(super) struct Register {
    pub(super) email: String,
    pub(super) locale: Option<String>,
}

impl Register {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        let email = fields::email(&fields, &mut faults);
        let locale = fields::locale(&fields, &mut faults);
        faults.into_result()?;
        Ok(Self { email, locale })
    }
}

/// Body of `users/transfer`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) user: UserId,
    pub(super) target: OrganizationId,
    pub(super) role: RoleId,
}

impl Transfer {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        let user = fields.required_integer("userId", &mut faults);
        let target = fields.required_integer("targetOrgId", &mut faults);
        let role = fields.required_integer("roleId", &mut faults);
        if role.is_some_and(|role: i32| role < 1) {
            faults.add("roleId", "must be at least 1");
        }
        faults.into_result()?;
        Ok(Self {
            user: UserId(user.unwrap_or_default()),
            target: OrganizationId(target.unwrap_or_default()),
            role: RoleId(role.unwrap_or_default()),
        })
    }
}
