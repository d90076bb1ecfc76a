//! Who calls a Blynk operation: its scope, its rights, and what it reaches in the tree.

use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::api::signed::Signed;
use crate::auth::{Permission, Rights, Scope};
use crate::model::{Organization, OrganizationId, Role, RoleId, User, UserId};
use crate::store::{OrganizationRef, UserRef};
use http::HeaderMap;
use std::sync::Arc;

pub(super) const NO_ORGANIZATION: &str =
    "Organization is not found or you don't have access to it.";
pub(super) const NO_ROLE_ACCESS: &str =
    "You don't have permissions to access this Role. Contact administrator for details.";

/// An authenticated caller within its request limit.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) caller: Signed,
}

impl Actor {
    /// Authenticates a request and counts it.
    pub(super) async fn of(shared: &Shared, headers: &HeaderMap) -> Result<Self, Failure> {
        let caller = shared.caller(headers).await?;
        shared.blynk.request(caller.organization)?;
        Ok(Self { caller })
    }

    pub(super) fn org(&self) -> OrganizationId {
        self.caller.organization
    }

    /// The user behind the token; `None` is the organization itself.
    pub(super) fn user(&self) -> Option<&User> {
        self.caller.user()
    }

    pub(super) fn role(&self) -> Option<&Role> {
        self.caller.role()
    }

    pub(super) fn is_organization(&self) -> bool {
        self.caller.scope == Scope::Organization
    }

    /// Refuses a caller without every one of `permissions`.
    pub(super) async fn require(&self, permissions: &[Permission]) -> Result<(), Failure> {
        for one in permissions {
            let refusal = || lacks(one.dialect_name().unwrap_or_else(|| one.as_str()));
            let asked = (one.as_str(), self.caller.may(*one));
            self.caller.judge(asked, self.org(), refusal).await?;
        }
        Ok(())
    }

    /// As `require`, for a right that only Blynk has. Limited tokens never have such a one.
    pub(super) async fn require_named(&self, permission: &str) -> Result<(), Failure> {
        let is_held = self.caller.rights().is_none_or(|rights| rights.hold(permission));
        self.caller.judge((permission, is_held), self.org(), || lacks(permission)).await
    }

    /// True if `role` has higher permissions than the caller: all of them and more.
    pub(super) fn is_below(&self, role: &Role) -> bool {
        self.caller.rights().is_some_and(|own| Rights::of_role(role).exceed(&own))
    }
}

fn lacks(permission: &str) -> Failure {
    let text = format!("You don't have the permission {permission}.");
    Failure::new(FailureClass::Forbidden, text)
}

pub(super) fn forbidden(text: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Forbidden, text)
}

pub(super) fn not_found(text: impl Into<String>) -> Failure {
    Failure::new(FailureClass::NotFound, text)
}

/// A 400 whose sentence the envelope shows.
pub(super) fn refused(text: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Invalid, text)
}

impl Shared {
    /// A user within the actor's reach; foreign and absent ones look the same.
    pub(super) async fn reached_user(&self, actor: &Actor, id: UserId) -> Result<User, Failure> {
        let found = self.store.user(UserRef::Id(id)).await?;
        // Absent users cost the same walk, so that the time tells nothing either.
        let org = found.as_ref().map_or(OrganizationId(0), |user| user.org);
        let is_reached = self.is_within(org, actor.org()).await?;
        found.filter(|_| is_reached).ok_or_else(|| {
            not_found(format!(
                "User with identifier {id} is not found or belong to another organization."
            ))
        })
    }

    /// An organization within the actor's reach; foreign and absent ones look the same.
    pub(super) async fn reached_organization(
        &self,
        actor: &Actor,
        id: OrganizationId,
        sentence: &str,
    ) -> Result<Arc<Organization>, Failure> {
        match self.reach(&actor.caller, OrganizationRef::Id(id)).await? {
            Some((organization, true)) => Ok(organization),
            _ => Err(not_found(sentence)),
        }
    }

    /// The role a new user of `org` is to have, if the actor may give it.
    pub(super) async fn given_role(
        &self,
        actor: &Actor,
        org: OrganizationId,
        id: RoleId,
    ) -> Result<Role, Failure> {
        let role = self.role_of(org, id).await?;
        role.filter(|role| !actor.is_below(role)).ok_or_else(|| refused(NO_ROLE_ACCESS))
    }
}
