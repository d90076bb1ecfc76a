//! Setting a user's password, and telling the user when the policy says so: both or neither.

use super::answer::Answer;
use super::context::Context;
use super::fault::{Code, Fault};
use super::notice::{self, Origin};
use super::proto::ObjectDetails;
use super::{policy, text};
use crate::api::Answered;
use crate::api::failure::{Failure, FailureClass};
use crate::api::shared::Turn;
use crate::auth::{NewPassword, PasswordError, PasswordProblem, PermissionSet};
use crate::model::{Organization, PolicyOwner, Secret, User, UserId, UserStatus};
use crate::store::{Change, Expectation, OrganizationRef, UserRef};
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
        let owner = PolicyOwner::Organization(user.org);
        let (tells, mut expected) = policy::tells_of_passwords(context, user.org).await?;
        let sequence = shared.store.sequence(owner).await?;
        expected.push(Expectation::Sequence(owner, sequence));
        expected.push(Expectation::UserRevision(user.id, user.account.revision));
        let now = shared.intake.now();
        let mut changed = user.clone();
        changed.account.epoch = changed.account.epoch.wrapping_add(1);
        changed.account.revision = changed.account.revision.wrapping_add(1);
        changed.account.modified_at = now;
        let mut changes: Vec<_> = expected.into_iter().map(Change::Expect).collect();
        changes.extend([
            Change::PutPassword(user.id, phc.clone()),
            Change::PutUser(changed),
            Change::Count(owner),
        ]);
        let line = ("user.password", format!("user:{}", user.id));
        let mut change = context.record(user.org, changes, line);
        let details = ObjectDetails {
            sequence: sequence + 1,
            creation_date: Some(user.created_at.into()),
            change_date: Some(now.into()),
            resource_owner: organization.numeric.clone(),
        };
        let mut answer = context.stored(&Answer::Details(details));
        if tells {
            let languages = notice::wanted(user.locale.as_deref());
            let words = text::chosen(context, user.org, &languages).await?;
            let origin = Origin { id: shared.intake.mint(), at: now, by: context.author() };
            answer.notification = origin.id;
            change.notifications.push(notice::notification(&user, &words, origin));
        }
        match shared.change(&mut begun, change, answer).await? {
            Some(Answered::Other(response)) if tells => return Ok(Answered::Accepted(response)),
            Some(answered) => return Ok(answered),
            None => {}
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
    let role = shared.store.role(user.org, user.role).await?;
    let rights = match role {
        Some(role) => PermissionSet::of_names(role.permissions.iter().map(String::as_str)),
        None => PermissionSet::of_default_role(user.role).unwrap_or_default(),
    };
    // Who sets a password can sign in with it: nobody gets more rights that way than it has.
    if rights.and(context.access.granted) != rights {
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
    let password = NewPassword::check(password.reveal(), &user.email).map_err(|problem| {
        match problem {
            PasswordProblem::TooShort => {
                let text = "Password is too short";
                let class = FailureClass::Invalid;
                Fault::named(class, Code::InvalidArgument, "DOMAIN-HuJf6", text)
            }
            problem => Fault::invalid(format!("password {problem}")),
        }
    })?;
    context.shared.passwords.hash(password).await.map_err(|error| match error {
        PasswordError::Busy => Failure::new(FailureClass::Throttled, error.to_string()).into(),
        PasswordError::Stored | PasswordError::Hash => {
            Failure::new(FailureClass::Internal, error.to_string()).into()
        }
    })
}
