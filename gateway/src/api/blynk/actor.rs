//! Who calls a Blynk operation: its scope, its rights, and what it reaches in the tree.

use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::auth::{Caller, Permission, PermissionSet, Scope};
use crate::model::{Organization, OrganizationId, Role, RoleId, User, UserId};
use crate::store::directory::built_in_roles;
use crate::store::{OrganizationRef, UserRef};
use http::HeaderMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The role every organization keeps somebody in.
pub(super) const ADMIN: RoleId = RoleId(1);

pub(super) const NO_ORGANIZATION: &str =
    "Organization is not found or you don't have access to it.";
pub(super) const NO_ROLE_ACCESS: &str =
    "You don't have permissions to access this Role. Contact administrator for details.";

/// The names of rights, canonical where they have such a name.
pub(super) type Rights = BTreeSet<String>;

/// An authenticated caller within its request limit.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) caller: Arc<Caller>,
    /// The user of a user-scoped token, and its role.
    user: Option<(User, Option<Role>)>,
}

impl Actor {
    /// Authenticates a request and counts it.
    pub(super) async fn of(shared: &Shared, headers: &HeaderMap) -> Result<Self, Failure> {
        let caller = shared.caller(headers).await?;
        shared.blynk.request(caller.organization)?;
        let user = match shared.user(&caller).await? {
            Some((user, _)) => {
                let role = shared.role_of(user.org, user.role).await?;
                Some((user, role))
            }
            None => None,
        };
        Ok(Self { caller, user })
    }

    pub(super) fn org(&self) -> OrganizationId {
        self.caller.organization
    }

    /// The user behind the token; `None` is the organization itself.
    pub(super) fn user(&self) -> Option<&User> {
        self.user.as_ref().map(|(user, _)| user)
    }

    pub(super) fn role(&self) -> Option<&Role> {
        self.user.as_ref().and_then(|(_, role)| role.as_ref())
    }

    pub(super) fn is_organization(&self) -> bool {
        self.caller.scope == Scope::Organization
    }

    /// `organization:101` or `user:7`.
    pub(super) fn name(&self) -> String {
        match self.caller.scope {
            Scope::Organization => format!("organization:{}", self.caller.organization),
            Scope::User(user) => format!("user:{user}"),
        }
    }

    /// Refuses a caller without every one of `permissions`.
    pub(super) fn require(&self, permissions: &[Permission]) -> Result<(), Failure> {
        let names = self.role().into_iter().flat_map(|role| role.permissions.iter());
        let granted = PermissionSet::of_names(names.map(String::as_str));
        let lacking = permissions.iter().find(|one| !self.caller.may(**one, granted));
        match lacking {
            None => Ok(()),
            Some(one) => Err(lacks(one.dialect_name().unwrap_or_else(|| one.as_str()))),
        }
    }

    /// As `require`, for a right that only Blynk has. Limited tokens never have such a one.
    pub(super) fn require_named(&self, permission: &str) -> Result<(), Failure> {
        let is_held = match (&self.user, self.caller.limited_to) {
            (_, Some(_)) => false,
            (None, None) => true,
            (Some((_, role)), None) => {
                role.as_ref().is_some_and(|role| role.permissions.iter().any(|p| p == permission))
            }
        };
        if is_held { Ok(()) } else { Err(lacks(permission)) }
    }

    /// The rights that bound what the caller may give to others; `None` is no bound.
    fn bound(&self) -> Option<Rights> {
        let limit = self.caller.limited_to;
        match (&self.user, limit) {
            (None, None) => None,
            (None, Some(limit)) => Some(limit.names().map(str::to_owned).collect()),
            (Some((_, role)), limit) => {
                let mut rights = role.as_ref().map(rights_of).unwrap_or_default();
                if let Some(limit) = limit {
                    let is_left =
                        |name: &String| Permission::named(name).is_some_and(|p| limit.contains(p));
                    rights.retain(is_left);
                }
                Some(rights)
            }
        }
    }

    /// True if `role` has higher permissions than the caller: all of them and more.
    pub(super) fn is_below(&self, role: &Role) -> bool {
        self.bound().is_some_and(|own| {
            let theirs = rights_of(role);
            own.len() < theirs.len() && own.is_subset(&theirs)
        })
    }
}

fn lacks(permission: &str) -> Failure {
    let text = format!("You don't have the permission {permission}.");
    Failure::new(FailureClass::Forbidden, text)
}

fn rights_of(role: &Role) -> Rights {
    let canonical = |name: &String| {
        Permission::named(name).map_or_else(|| name.clone(), |p| p.as_str().to_owned())
    };
    role.permissions.iter().map(canonical).collect()
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
    /// A role of an organization; the built-in ones are there even before they are stored.
    pub(super) async fn role_of(
        &self,
        org: OrganizationId,
        id: RoleId,
    ) -> Result<Option<Role>, Failure> {
        let stored = self.store.role(org, id).await?;
        Ok(stored.or_else(|| built_in_roles(org).into_iter().find(|role| role.id == id)))
    }

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
