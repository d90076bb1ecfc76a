//! `POST …/users/transfer`: a user moves to another organization, with a role there.

use super::actor::{Actor, NO_ROLE_ACCESS, forbidden, not_found, refused};
use super::bodies::Transfer;
use super::events::{TRANSFERRED, place_of};
use super::roles::LAST_ADMIN;
use super::users::retry;
use super::wire::UserShown;
use crate::api::failure::Failure;
use crate::api::route::Call;
use crate::api::shared::{Head, Turn};
use crate::api::signed::ADMIN;
use crate::api::{Answered, BLYNK_BODY_MAX, Shared};
use crate::auth::Permission;
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::{Organization, OrganizationKind, User, UserStatus};
use crate::store::{Change, Expectation, OrganizationRef, StoreError, UserRef};

const NO_ACCESS: &str = "Forbidden or no access to user's/target organization";
const PENDING: &str = "Users in Pending status cannot be transferred";
const SAME: &str = "Cannot transfer a user to the same organization they are already in";
const NO_SEAT: &str = "The destination organization must not exceed its user limit";
const OWN: &str = "The authenticated user cannot transfer themselves";
const USER_ABOVE: &str =
    "The authenticated user cannot transfer a user with higher permissions than their own";

pub(super) async fn transfer(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require(&[Permission::UserView, Permission::UserTransfer]).await?;
    let (head, body) = Shared::json_body_of(request, BLYNK_BODY_MAX).await?;
    let wanted = Transfer::parse(&body)?;
    let mut begun = match shared.turn(head.key(actor.org(), &body)?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    loop {
        let user = shared.transferable(&actor, wanted).await?;
        let leaving = shared.leave_guard(&user).await?;
        let (answer, change) = prepared(&shared, (&actor, &head), user, (wanted, leaving));
        match shared.attempt(&begun, change, &answer).await {
            Ok(answered) => return Ok(answered),
            Err(ChangeError::Store(StoreError::Unmet { what: "last_of_role" })) => {
                return Err(forbidden(LAST_ADMIN));
            }
            // The seats are counted again, so that a full organization is said to be full.
            Err(error) => retry(&mut begun, error)?,
        }
    }
}

fn prepared(
    shared: &Shared,
    (actor, head): (&Actor, &Head),
    user: User,
    (wanted, leaving): (Transfer, Vec<Change>),
) -> (Answer, RecordChange) {
    let (from, revision) = (user.org, user.account.revision);
    let mut user =
        User { org: wanted.target, role: wanted.role, ..user.changed(shared.intake.now()) };
    // Tokens of the old place must not come back to life with a transfer back.
    user.account.epoch = user.account.epoch.wrapping_add(1);
    let mut changes = vec![Change::Expect(Expectation::UserRevision(user.id, revision))];
    changes.extend(shared.seat_guard(wanted.target));
    changes.extend(leaving);
    let mut data = place_of(&user);
    data["previousOrgId"] = from.0.into();
    let text = format!("User {} moved from organization {from} to {}.", user.id, user.org);
    let event = |org| shared.event(&actor.caller, org, TRANSFERRED, text.clone(), &data);
    let notifications = vec![event(from), event(wanted.target)];
    let object = format!("user:{}", user.id);
    let audit = shared.note(head, &actor.caller, wanted.target, "user.transfer", object);
    let answer = Answer::plain(200, UserShown::of(&user, shared.intake.now()).body());
    changes.push(Change::PutUser(user));
    (answer, RecordChange { org: wanted.target, changes, audit, notifications })
}

impl Shared {
    /// The user, if everything the product asks of a transfer holds.
    async fn transferable(&self, actor: &Actor, wanted: Transfer) -> Result<User, Failure> {
        let found = self.store.user(UserRef::Id(wanted.user)).await?;
        let unknown = || not_found(format!("User with identifier {} is not found.", wanted.user));
        let user = found.ok_or_else(unknown)?;
        if !self.is_within(user.org, actor.org()).await? {
            return Err(forbidden(NO_ACCESS));
        }
        match self.reach(&actor.caller, OrganizationRef::Id(wanted.target)).await? {
            None => return Err(not_found("Target organization is not found.")),
            Some((_, false)) => return Err(forbidden(NO_ACCESS)),
            Some((_, true)) => {}
        }
        if actor.user().is_some_and(|own| own.id == user.id) {
            return Err(forbidden(OWN));
        }
        if self.is_above(actor, &user).await? {
            return Err(forbidden(USER_ABOVE));
        }
        if user.status == UserStatus::Pending {
            return Err(refused(PENDING));
        }
        if user.org == wanted.target {
            return Err(refused(SAME));
        }
        let role = self.role_of(wanted.target, wanted.role).await?;
        if role.is_none_or(|role| actor.is_below(&role)) {
            return Err(refused(NO_ROLE_ACCESS));
        }
        self.check_seat(wanted.target, NO_SEAT).await?;
        Ok(user)
    }

    /// What must hold for a user to leave: an administrator stays behind. A personal organization
    /// that nobody is left in needs none.
    async fn leave_guard(&self, user: &User) -> Result<Vec<Change>, Failure> {
        if user.role != ADMIN {
            return Ok(Vec::new());
        }
        let home = self.store.organization(OrganizationRef::Id(user.org)).await?;
        let is_personal = |home: &Organization| home.profile.kind == OrganizationKind::Personal;
        let is_alone = self.store.count_users(user.org).await? == 1;
        let guard = if is_alone && home.as_deref().is_some_and(is_personal) {
            Expectation::Seats(user.org, 2)
        } else {
            Expectation::RoleBesides(user.org, ADMIN, user.id)
        };
        Ok(vec![Change::Expect(guard)])
    }
}
