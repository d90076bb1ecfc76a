//! Setting a user's password, and telling the user when the policy says so: both or neither.

use super::answer::Answer;
use super::context::Context;
use super::fault::{Code, Fault};
use super::proto::ObjectDetails;
use crate::api::Answered;
use crate::api::failure::{Failure, FailureClass};
use crate::api::passwords::{NewHash, PasswordSet};
use crate::api::shared::Turn;
use crate::auth::{NewPassword, PasswordProblem};
use crate::intake;
use crate::model::{Organization, Secret, Source, User, UserId, UserStatus};
use crate::store::{OrganizationRef, UserRef};
use std::sync::Arc;

/// `SetHumanPassword`
pub(super) async fn set(
    context: &Context<'_>,
    user: Option<UserId>,
    password: &Secret,
) -> Result<Answered, Fault> {
    let shared = context.shared;
    let mut begun = match context.turn().await? {
        Turn::First(begun) => begun,
        Turn::Replay(answered) => return Ok(answered),
    };
    let mut hash = None;
    loop {
        let (user, organization) = find(context, user).await?;
        let phc = match &hash {
            Some(phc) => phc,
            None => hash.insert(hashed(context, &user, password).await?),
        };
        let (created_at, now) = (user.created_at, shared.intake.now());
        let audit = context.note(user.org, "user.password", format!("user:{}", user.id));
        let new = NewHash { user, hash: phc.clone(), source: Source::Zitadel, audit };
        let answer = |set: PasswordSet| {
            let details = ObjectDetails {
                sequence: set.sequence,
                creation_date: Some(created_at.into()),
                change_date: Some(now.into()),
                resource_owner: organization.numeric.clone(),
            };
            let answer = context.stored(&Answer::Details(details));
            intake::Answer { notification: set.notification, ..answer }
        };
        if let Some(answered) = shared.set_password(&mut begun, new, answer).await? {
            return Ok(answered);
        }
    }
}

/// The user, if the caller may set its password. A user elsewhere is as one that is not there.
async fn find(
    context: &Context<'_>,
    id: Option<UserId>,
) -> Result<(User, Arc<Organization>), Fault> {
    let shared = context.shared;
    let missing = || {
        let text = "User could not be found";
        Fault::named(FailureClass::NotFound, Code::NotFound, "COMMAND-G8dh3", text)
    };
    let id = id.ok_or_else(missing)?;
    let user = shared.store.user(UserRef::Id(id)).await?.ok_or_else(missing)?;
    if !shared.is_within(user.org, context.organization().id).await? {
        return Err(missing());
    }
    let organization = shared.store.organization(OrganizationRef::Id(user.org)).await?;
    let organization = organization.ok_or_else(missing)?;
    // Who sets a password can sign in with it: nobody gets more rights that way than it has.
    if !context.access.caller.covers(&shared.rights_of(&user).await?) {
        let text = "the user has rights that the caller lacks";
        return Err(Failure::new(FailureClass::Forbidden, text).into());
    }
    if user.status == UserStatus::Pending {
        let (code, text) = (Code::FailedPrecondition, "User is not yet initialized");
        return Err(Fault::named(FailureClass::Invalid, code, "COMMAND-M9dse", text));
    }
    Ok((user, organization))
}

async fn hashed(context: &Context<'_>, user: &User, password: &Secret) -> Result<Secret, Fault> {
    let password =
        NewPassword::check(password.reveal(), &user.email).map_err(|problem| match problem {
            PasswordProblem::TooShort => {
                let text = "Password is too short";
                let class = FailureClass::Invalid;
                Fault::named(class, Code::InvalidArgument, "DOMAIN-HuJf6", text)
            }
            problem => Fault::invalid(format!("password {problem}")),
        })?;
    let hash = context.shared.passwords.hash(password).await;
    Ok(hash.map_err(Failure::from)?)
}
