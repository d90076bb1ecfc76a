//! Who may do what: Jigx's roles, from the organization's own permissions and from memberships.

use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::api::signed::{Signed, WHOLE_ORGANIZATION, rights_of_member};
use crate::auth::{Caller, Permission};
use crate::model::{MemberRole, Organization, OrganizationId, User};
use crate::store::{OrganizationRef, UserRef};
use uuid::Uuid;

/// A caller with its role in the organization.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) caller: Signed,
    /// What `createdBy` prints.
    pub(super) uuid: Uuid,
    pub(super) role: MemberRole,
}

/// How much a role may do; more is more.
pub(super) fn rank(role: MemberRole) -> u8 {
    match role {
        MemberRole::Deny => 0,
        MemberRole::User => 1,
        MemberRole::Maker => 2,
        MemberRole::Admin => 3,
        MemberRole::Owner => 4,
    }
}

/// The role that permissions in the whole gateway amount to.
fn role_of(caller: &Signed) -> MemberRole {
    if !caller.may(Permission::NotificationSend) {
        MemberRole::User
    } else if caller.may(Permission::UserEdit) && caller.may(Permission::UserInvite) {
        MemberRole::Owner
    } else {
        MemberRole::Maker
    }
}

/// True if the token is not limited to other rights.
fn allows(caller: &Caller, permission: Permission) -> bool {
    caller.limited_to.is_none_or(|limit| limit.contains(permission))
}

fn forbidden(text: &str) -> Failure {
    Failure::new(FailureClass::Forbidden, text)
}

impl Who {
    pub(super) async fn of(
        shared: &Shared,
        caller: Signed,
        organization: &Organization,
    ) -> Result<Self, Failure> {
        let Some(user) = caller.user() else {
            let own = shared.store.organization(OrganizationRef::Id(caller.organization)).await?;
            let uuid = own.map_or(organization.uuid, |own| own.uuid);
            return Ok(Self { caller, uuid, role: MemberRole::Owner });
        };
        let held = shared.store.membership(user.org, WHOLE_ORGANIZATION, user.id).await?;
        let own = role_of(&caller);
        let role = match held.map(|held| held.role) {
            Some(MemberRole::Deny) => MemberRole::Deny,
            Some(held) if rank(held) > rank(own) => held,
            _ => own,
        };
        let uuid = user.uuid;
        Ok(Self { caller, uuid, role })
    }

    /// `None` for an organization's token.
    pub(super) fn user(&self) -> Option<&User> {
        self.caller.user()
    }

    /// True if somebody with the role `own` here may give `role` or take it away: it is not higher,
    /// and brings nothing that the token leaves out.
    pub(super) fn gives(&self, role: MemberRole, own: MemberRole) -> bool {
        let brings = rights_of_member(role);
        rank(role) <= rank(own) && brings.iter().all(|right| allows(&self.caller, *right))
    }

    fn has(&self, permission: Permission, least: MemberRole) -> bool {
        let by_role = rank(self.role) >= rank(least) && allows(&self.caller, permission);
        let is_denied = self.role == MemberRole::Deny;
        by_role || (!is_denied && self.caller.may(permission))
    }

    /// May create, list and delete what the organization sends.
    pub(super) fn may_send(&self) -> bool {
        self.has(Permission::NotificationSend, MemberRole::Maker)
    }

    pub(super) async fn require_send(&self) -> Result<(), Failure> {
        let refusal = || forbidden("this needs role OWNER, ADMIN or MAKER");
        self.judge(Permission::NotificationSend, self.may_send(), refusal).await
    }

    async fn judge(
        &self,
        permission: Permission,
        is_held: bool,
        refusal: impl FnOnce() -> Failure + Send,
    ) -> Result<(), Failure> {
        let asked = (permission.as_str(), is_held);
        self.caller.judge(asked, self.caller.organization, refusal).await
    }

    /// May make users of the organization.
    pub(super) async fn require_invite(&self) -> Result<(), Failure> {
        let is_held = self.has(Permission::UserInvite, MemberRole::Admin);
        let text = "this needs role OWNER or ADMIN, or the permission user.invite";
        self.judge(Permission::UserInvite, is_held, || forbidden(text)).await
    }

    /// The caller's role among the members of a solution, where it is higher than in the
    /// organization; `DENY` there counts for that solution alone.
    pub(super) async fn in_solution(
        &self,
        shared: &Shared,
        org: OrganizationId,
        solution: Uuid,
    ) -> Result<MemberRole, Failure> {
        let Some(user) = self.user() else { return Ok(self.role) };
        let held = shared.store.membership(org, solution, user.id).await?;
        Ok(match held.filter(|_| user.org == org).map(|held| held.role) {
            Some(MemberRole::Deny) => MemberRole::Deny,
            Some(held) if self.role != MemberRole::Deny && rank(held) > rank(self.role) => held,
            _ => self.role,
        })
    }

    /// May send to a solution by its role there.
    pub(super) async fn may_send_to(
        &self,
        shared: &Shared,
        org: OrganizationId,
        solution: Uuid,
    ) -> Result<bool, Failure> {
        let role = self.in_solution(shared, org, solution).await?;
        let is_maker = rank(role) >= rank(MemberRole::Maker);
        let is_held = is_maker && allows(&self.caller, Permission::NotificationSend);
        let refusal = || forbidden("the role in this solution does not allow it");
        Ok(self.judge(Permission::NotificationSend, is_held, refusal).await.is_ok())
    }

    /// May see the members of a solution; answers the caller's role in it.
    pub(super) async fn require_view(
        &self,
        shared: &Shared,
        org: OrganizationId,
        solution: Uuid,
    ) -> Result<MemberRole, Failure> {
        self.require_in(shared, (org, solution), Permission::UserView, MemberRole::Maker).await
    }

    /// May change the members of a solution; answers the caller's role in it.
    pub(super) async fn require_manage(
        &self,
        shared: &Shared,
        org: OrganizationId,
        solution: Uuid,
    ) -> Result<MemberRole, Failure> {
        self.require_in(shared, (org, solution), Permission::UserEdit, MemberRole::Admin).await
    }

    async fn require_in(
        &self,
        shared: &Shared,
        (org, solution): (OrganizationId, Uuid),
        permission: Permission,
        least: MemberRole,
    ) -> Result<MemberRole, Failure> {
        let role = self.in_solution(shared, org, solution).await?;
        let by_role = rank(role) >= rank(least) && allows(&self.caller, permission);
        let is_denied = role == MemberRole::Deny;
        let is_held = by_role || (!is_denied && self.caller.may(permission));
        let refusal = || forbidden("the role in this solution does not allow it");
        self.judge(permission, is_held, refusal).await?;
        Ok(role)
    }

    /// True if `named` is the caller itself.
    pub(super) fn is(&self, named: &str) -> bool {
        let Some(user) = self.user() else { return false };
        user_ref(named)
            .is_some_and(|which| which == UserRef::Uuid(user.uuid) || which == UserRef::Id(user.id))
    }

    /// The member of `org` whose inbox a path names, if the caller may look into it.
    pub(super) async fn require_inbox(
        &self,
        shared: &Shared,
        org: OrganizationId,
        named: &str,
    ) -> Result<User, Failure> {
        // One's own, as long as one is not shut out.
        let is_own = self.is(named) && self.role != MemberRole::Deny;
        if !is_own {
            let refusal = || forbidden("an inbox is its member's");
            self.judge(Permission::UserView, self.may_send(), refusal).await?;
        }
        member(shared, org, named).await
    }
}

/// A user in Jigx's form, or by number.
fn user_ref(text: &str) -> Option<UserRef> {
    uuid_of(text).map(UserRef::Uuid).or_else(|| {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?.map(UserRef::Id)
    })
}

/// An uuid in its usual form only.
pub(super) fn uuid_of(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

/// The user of `org` that a path names.
pub(super) async fn member(
    shared: &Shared,
    org: OrganizationId,
    named: &str,
) -> Result<User, Failure> {
    let unknown = || Failure::new(FailureClass::NotFound, "no such member");
    let which = user_ref(named).ok_or_else(unknown)?;
    let found = shared.store.user(which).await?;
    found.filter(|user| user.org == org).ok_or_else(unknown)
}
