//! An authenticated caller with its user and what that one's role grants now, read once a request.

use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::auth::{Caller, Permission, PermissionSet, Rights, Scope};
use crate::model::{MemberRole, Millis, OrganizationId, Role, RoleId, User, UserStatus};
use crate::rules::RuleEngine;
use crate::store::UserRef;
use crate::store::directory::built_in_roles;
use std::ops::Deref;
use std::sync::Arc;
use uuid::Uuid;

/// The built-in role with every right; each organization keeps somebody in it.
pub(crate) const ADMIN: RoleId = RoleId(1);
/// The built-in role without rights.
pub(crate) const PLAIN_USER: RoleId = RoleId(3);
/// Stands for the whole organization where a membership names a solution.
pub(crate) const WHOLE_ORGANIZATION: Uuid = Uuid::nil();

/// A caller whose token counts; reads as the caller that the token names.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    caller: Arc<Caller>,
    /// The user of a user-scoped token, and its role if that is there.
    user: Option<(User, Option<Role>)>,
    /// Who has the last word on what it may do, and when it asked.
    pub(in crate::api) rules: Arc<dyn RuleEngine>,
    pub(in crate::api) asked_at: Millis,
}

impl Deref for Signed {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl Signed {
    /// The user behind the token; `None` is the organization itself.
    pub(crate) fn user(&self) -> Option<&User> {
        self.user.as_ref().map(|(user, _)| user)
    }

    /// The user's role, if it is there.
    pub(crate) fn role(&self) -> Option<&Role> {
        self.user.as_ref().and_then(|(_, role)| role.as_ref())
    }

    /// What it may do, of the rights that every dialect knows.
    pub(crate) fn granted(&self) -> PermissionSet {
        let granted = match &self.user {
            None => PermissionSet::all(),
            Some(_) => self.role().map(permissions).unwrap_or_default(),
        };
        self.limited_to.map_or(granted, |limit| granted.and(limit))
    }

    /// All it may do; `None` is no bound.
    pub(crate) fn rights(&self) -> Option<Rights> {
        match (&self.user, self.limited_to) {
            (None, None) => None,
            (None, Some(limit)) => Some(limit.names().collect()),
            (Some(_), limit) => {
                let rights = self.role().map(Rights::of_role).unwrap_or_default();
                Some(match limit {
                    Some(limit) => rights.within(limit),
                    None => rights,
                })
            }
        }
    }

    pub(crate) fn may(&self, permission: Permission) -> bool {
        self.granted().contains(permission)
    }

    /// True if it lacks no right.
    pub(crate) fn has_every_right(&self) -> bool {
        self.granted() == PermissionSet::all()
    }

    /// Refuses a caller that lacks any right: whoever makes credentials could give itself them all.
    pub(crate) async fn require_every_right(&self) -> Result<(), Failure> {
        let text = "this needs every permission: an Admin, or an organization's own token";
        let refusal = || Failure::new(FailureClass::Forbidden, text);
        let asked = ("credentials.manage", self.has_every_right());
        self.judge(asked, self.organization, refusal).await
    }

    /// True if it has every one of `rights`: whoever can act as somebody gets no more by it.
    pub(crate) fn covers(&self, rights: &Rights) -> bool {
        self.rights().is_none_or(|own| own.cover(rights))
    }
}

fn permissions(role: &Role) -> PermissionSet {
    PermissionSet::of_names(role.permissions.iter().map(String::as_str))
}

/// The rights that a role among the members brings, in the one dialect that knows such roles.
pub(crate) fn rights_of_member(role: MemberRole) -> &'static [Permission] {
    use Permission::{NotificationSend, UserEdit, UserInvite, UserView};
    match role {
        MemberRole::Deny | MemberRole::User => &[],
        MemberRole::Maker => &[NotificationSend, UserView],
        MemberRole::Admin | MemberRole::Owner => {
            &[NotificationSend, UserView, UserInvite, UserEdit]
        }
    }
}

impl Shared {
    /// The caller with its user, if it has one that still counts.
    pub(super) async fn signed_by(&self, caller: Arc<Caller>) -> Result<Signed, Failure> {
        let (rules, asked_at) = (Arc::clone(&self.rules), self.intake.now());
        let Scope::User(id) = caller.scope else {
            return Ok(Signed { caller, user: None, rules, asked_at });
        };
        let found = self.store.user(UserRef::Id(id)).await?;
        // Transferred and suspended users keep their tokens and lose what these open.
        let is_current = |user: &User| {
            user.org == caller.organization
                && user.status != UserStatus::Suspended
                && caller.epoch.is_none_or(|epoch| epoch == user.account.epoch)
        };
        let Some(user) = found.filter(is_current) else {
            return Err(Failure::new(FailureClass::BadToken, "the token's user is gone"));
        };
        let role = self.role_of(user.org, user.role).await?;
        Ok(Signed { caller, user: Some((user, role)), rules, asked_at })
    }

    /// A role of an organization; the built-in ones are there even before they are stored.
    pub(crate) async fn role_of(
        &self,
        org: OrganizationId,
        id: RoleId,
    ) -> Result<Option<Role>, Failure> {
        let stored = self.store.role(org, id).await?.map(Arc::unwrap_or_clone);
        Ok(stored.or_else(|| built_in_roles(org).into_iter().find(|role| role.id == id)))
    }

    /// All that a user may do in its organization: by its role, and as a member of the whole.
    pub(crate) async fn rights_of(&self, user: &User) -> Result<Rights, Failure> {
        let role = self.role_of(user.org, user.role).await?;
        let mut rights = role.as_ref().map(Rights::of_role).unwrap_or_default();
        let member = self.store.membership(user.org, WHOLE_ORGANIZATION, user.id).await?;
        let brought = member.map_or(&[][..], |member| rights_of_member(member.role));
        rights.extend(brought.iter().copied());
        Ok(rights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;
    use crate::model::{AccountState, Millis, UserId, UserProfile};

    fn role(permissions: &[&str]) -> Role {
        let permissions = permissions.iter().map(|name| String::from(*name)).collect();
        Role { id: RoleId(9), org: OrganizationId(1), name: String::new(), permissions }
    }

    fn signed(role: Option<Role>, limited_to: Option<&[Permission]>) -> Signed {
        let id = UserId(7);
        let scope = if role.is_some() { Scope::User(id) } else { Scope::Organization };
        let caller = Caller {
            organization: OrganizationId(1),
            scope,
            token_id: String::from("t"),
            limited_to: limited_to.map(|limit| limit.iter().copied().collect()),
            epoch: None,
            family: None,
            client: None,
        };
        let user = User {
            id,
            uuid: Uuid::nil(),
            org: OrganizationId(1),
            email: String::new(),
            name: String::new(),
            role: RoleId(9),
            status: UserStatus::Active,
            tz: None,
            locale: None,
            prefs: Vec::new(),
            created_at: Millis(1),
            profile: UserProfile::default(),
            account: AccountState::default(),
        };
        Signed {
            caller: Arc::new(caller),
            user: role.map(|role| (user, Some(role))),
            rules: Arc::new(crate::rules::NoRules),
            asked_at: Millis(1),
        }
    }

    #[test]
    fn a_limit_narrows_and_never_grants() {
        use Permission::{UserEdit, UserTransfer, UserView};
        let staff = role(&["user.view", "ORG_EDIT_USERS"]);
        let all = signed(Some(staff.clone()), None);
        assert!(all.may(UserView) && all.may(UserEdit) && !all.may(UserTransfer));
        let limited = signed(Some(staff), Some(&[UserView, UserTransfer]));
        assert!(limited.may(UserView) && !limited.may(UserEdit) && !limited.may(UserTransfer));
        let organization = signed(None, Some(&[UserView, UserTransfer]));
        assert!(organization.may(UserTransfer) && !organization.may(UserEdit));
        assert!(signed(None, None).has_every_right());
        assert!(!organization.has_every_right());
    }

    #[test]
    fn nobody_covers_rights_that_its_token_leaves_out() {
        let editor = role(&["user.edit", "ROLE_EDIT"]);
        let theirs = Rights::of_role(&editor);
        assert!(signed(None, None).covers(&theirs));
        assert!(signed(Some(editor.clone()), None).covers(&theirs));
        let limit = Some(&[Permission::UserEdit][..]);
        for limited in [signed(None, limit), signed(Some(editor), limit)] {
            assert!(!limited.covers(&theirs), "a right of one dialect is not in the limit");
            assert!(limited.covers(&Rights::of_role(&role(&["ORG_EDIT_USERS"]))));
            assert!(limited.covers(&Rights::default()));
        }
        assert!(!signed(Some(role(&["user.edit"])), None).covers(&theirs));
    }
}
