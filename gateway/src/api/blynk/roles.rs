//! `PUT …/users/role`: another role in the same organization.

use super::actor::{Actor, forbidden, not_found};
use super::events::{ROLE_CHANGED, place_of, role_text};
use super::users::retry;
use super::wire::UserShown;
use crate::api::failure::Failure;
use crate::api::fields::Faults;
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::shared::{Begun, Head};
use crate::api::signed::ADMIN;
use crate::api::{Answered, Shared, reply};
use crate::auth::Permission;
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::{Role, RoleId, User, UserId};
use crate::store::{Change, Expectation, StoreError};

/// What a user-scoped caller may not do, in the product's own sentences.
const OWN_ROLE: &str = "The authenticated user cannot modify their own role";
const ROLE_ABOVE: &str =
    "The authenticated user cannot assign a role with higher permissions than their own";
const USER_ABOVE: &str = "The authenticated user cannot change the role of a user with higher permissions than their own";
pub(super) const LAST_ADMIN: &str = "The organization must keep at least one administrator";

pub(super) async fn change(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require(&[Permission::UserView, Permission::UserEdit]).await?;
    let (id, role) = parameters(&Query::of_uri(&request.uri)?)?;
    let head = Head::of(request);
    let mut begun = Begun::unkeyed();
    loop {
        let user = shared.reached_user(&actor, id).await?;
        let role = shared.role_of(user.org, role).await?;
        let role = role.ok_or_else(|| not_found("Role is not found."))?;
        shared.check_change(&actor, &user, &role).await?;
        if user.role == role.id {
            let body = UserShown::of(&user, shared.intake.now()).body();
            return Ok(Answered::Other(reply::json(200, body)));
        }
        let (answer, change) = prepared(&shared, &actor, &head, (user, role.id));
        match shared.attempt(&begun, change, &answer).await {
            Ok(answered) => return Ok(answered),
            Err(ChangeError::Store(StoreError::Unmet { what: "last_of_role" })) => {
                return Err(forbidden(LAST_ADMIN));
            }
            Err(error) => retry(&mut begun, error)?,
        }
    }
}

fn parameters(query: &Query) -> Result<(UserId, RoleId), Failure> {
    let mut faults = Faults::default();
    let user = query.required_integer("userId", i64::MIN..=i64::MAX, &mut faults);
    let role = query.required_integer("roleId", i32::MIN..=i32::MAX, &mut faults);
    faults.into_result()?;
    Ok((UserId(user.unwrap_or_default()), RoleId(role.unwrap_or_default())))
}

fn prepared(
    shared: &Shared,
    actor: &Actor,
    head: &Head,
    (user, role): (User, RoleId),
) -> (Answer, RecordChange) {
    let (org, revision, before) = (user.org, user.account.revision, user.role);
    let user = User { role, ..user.changed(shared.intake.now()) };
    let mut changes = vec![Change::Expect(Expectation::UserRevision(user.id, revision))];
    if before == ADMIN {
        changes.push(Change::Expect(Expectation::RoleBesides(org, ADMIN, user.id)));
    }
    let mut data = place_of(&user);
    data["previousRoleId"] = before.0.into();
    let event = shared.event(&actor.caller, org, ROLE_CHANGED, role_text(user.id, role), &data);
    let object = format!("user:{}", user.id);
    let audit = shared.note(head, &actor.caller, org, "user.role", object);
    let answer = Answer::plain(200, UserShown::of(&user, shared.intake.now()).body());
    changes.push(Change::PutUser(user));
    (answer, RecordChange { org, changes, audit, notifications: vec![event] })
}

impl Shared {
    /// The three rules for user-scoped callers; an organization's token has no role to compare.
    async fn check_change(&self, actor: &Actor, user: &User, role: &Role) -> Result<(), Failure> {
        if actor.user().is_some_and(|own| own.id == user.id) {
            return Err(forbidden(OWN_ROLE));
        }
        if actor.is_below(role) {
            return Err(forbidden(ROLE_ABOVE));
        }
        if self.is_above(actor, user).await? {
            return Err(forbidden(USER_ABOVE));
        }
        Ok(())
    }

    /// True if a user has higher permissions than the actor.
    pub(super) async fn is_above(&self, actor: &Actor, user: &User) -> Result<bool, Failure> {
        let role = self.role_of(user.org, user.role).await?;
        Ok(role.is_some_and(|role| actor.is_below(&role)))
    }
}
