//! Users who choose their own password: invited into an organization, or registered in their own.

use super::actor::{Actor, NO_ORGANIZATION, forbidden};
use super::bodies::{Invite, Register};
use super::events::{INVITED, REGISTERED, place_of};
use super::personal::default_name;
use super::users::{NO_SEAT, refusal, retry};
use super::wire::UserShown;
use crate::api::failure::Failure;
use crate::api::route::Call;
use crate::api::shared::{Begun, Head, Turn};
use crate::api::signed::ADMIN;
use crate::api::{Answered, BLYNK_BODY_MAX, Shared};
use crate::auth::{Fresh, Permission, invitation_token};
use crate::intake::{Answer, ChangeError, RecordChange};
use crate::model::User;
use crate::server::Response;
use crate::store::Change;
use http::{HeaderName, HeaderValue};

/// Carries the token of an invitation to an organization's own backend, which may deliver it.
const TOKEN: HeaderName = HeaderName::from_static("bugler-invitation-token");

/// `POST …/users/invite`
pub(super) async fn invite(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    actor.require(&[Permission::UserInvite]).await?;
    let (head, body) = Shared::json_body_of(request, BLYNK_BODY_MAX).await?;
    let new = Invite::parse(&body)?;
    let org = new.org.unwrap_or(actor.org());
    let organization = shared.reached_organization(&actor, org, NO_ORGANIZATION).await?;
    let mut begun = match shared.turn(head.key(actor.org(), &body)?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    shared.given_role(&actor, org, new.role).await?;
    shared.check_free(&new.email).await?;
    shared.check_seat(org, NO_SEAT).await?;
    let invited = shared.blynk.invitation(actor.org(), &new.email)?;
    loop {
        let user = shared.blank_user(&new.email, (org, new.role), organization.tz.clone());
        let locale = new.locale.clone().or(user.locale);
        let user = User { name: new.name.clone(), locale, ..user };
        let token = invitation_token();
        let notice =
            shared.invitation_notice(&actor.caller, INVITED, &user, (&organization, &token));
        let object = format!("user:{}", user.id);
        let audit = shared.note(&head, &actor.caller, user.org, "user.invite", object);
        let body = UserShown::of(&user, shared.intake.now()).body();
        let answer = Answer { notification: notice.id, ..Answer::plain(201, body) };
        let mut changes = shared.seat_guard(org);
        let invitation = Change::PutInvitation(shared.invitation_of(&user, &token));
        changes.extend([Change::PutUser(user), invitation]);
        let change = RecordChange { org, changes, audit, notifications: vec![notice] };
        match shared.attempt(&begun, change, &answer).await {
            Ok(answered) => {
                invited.keep();
                return Ok(with_token(answered, &actor, &token));
            }
            Err(error) => retry(&mut begun, refusal(error, &new.email)?)?,
        }
    }
}

/// `POST …/users/register`
pub(super) async fn register(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let actor = Actor::of(&shared, &request.headers).await?;
    if !actor.is_organization() {
        return Err(forbidden("User-scoped authentication is not allowed for this endpoint."));
    }
    actor.require(&[Permission::UserInvite]).await?;
    let (head, body) = Shared::json_body_of(request, BLYNK_BODY_MAX).await?;
    let new = Register::parse(&body)?;
    let mut begun = match shared.turn(head.key(actor.org(), &body)?).await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    shared.check_free(&new.email).await?;
    let invited = shared.blynk.invitation(actor.org(), &new.email)?;
    let mut is_again = false;
    loop {
        let token = invitation_token();
        match registered(&shared, &actor, (&head, &begun), (&new, &token), is_again).await? {
            Ok(answered) => {
                invited.keep();
                return Ok(with_token(answered, &actor, &token));
            }
            Err(error) => retry(&mut begun, refusal(error, &new.email)?)?,
        }
        is_again = true;
    }
}

async fn registered(
    shared: &Shared,
    actor: &Actor,
    (head, begun): (&Head, &Begun),
    (new, token): (&Register, &Fresh),
    is_again: bool,
) -> Result<Result<Answered, ChangeError>, Failure> {
    let name = default_name("", &new.email);
    let mut personal = shared.personal(actor, (name, None), is_again).await?;
    let organization = personal.organization;
    let place = (organization.id, ADMIN);
    let user = shared.blank_user(&new.email, place, organization.tz.clone());
    let user = User { locale: new.locale.clone().or(user.locale), ..user };
    let notice = shared.invitation_notice(&actor.caller, REGISTERED, &user, (&organization, token));
    // The new organization has no subscriptions; those of the caller hear of it too.
    let text = format!("User {} was registered in organization {}.", user.id, user.org);
    let event = shared.event(&actor.caller, actor.org(), REGISTERED, text, &place_of(&user));
    let object = format!("user:{}", user.id);
    let audit = shared.note(head, &actor.caller, actor.org(), "user.register", object);
    let body = UserShown::of(&user, shared.intake.now()).body();
    let answer = Answer { notification: notice.id, ..Answer::plain(201, body) };
    let invitation = Change::PutInvitation(shared.invitation_of(&user, token));
    personal.changes.extend([Change::PutUser(user), invitation]);
    let (org, changes) = (actor.org(), personal.changes);
    let change = RecordChange { org, changes, audit, notifications: vec![notice, event] };
    Ok(shared.attempt(begun, change, &answer).await)
}

/// Adds the token for a backend. A user could open the account of whom it invites with it.
fn with_token(answered: Answered, actor: &Actor, token: &Fresh) -> Answered {
    let add = |mut response: Response| {
        if actor.is_organization()
            && let Ok(mut value) = HeaderValue::from_str(token.text.reveal())
        {
            value.set_sensitive(true);
            response.headers_mut().insert(TOKEN, value);
        }
        response
    };
    match answered {
        Answered::Accepted(response) => Answered::Accepted(add(response)),
        Answered::Replayed(response) => Answered::Replayed(response),
        Answered::Other(response) => Answered::Other(add(response)),
    }
}
