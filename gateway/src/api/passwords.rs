//! The one command that sets a password, whoever asks for it: old tokens end, and the user is told.

use crate::api::failure::{Failure, FailureClass};
use crate::api::notice::{self, Origin};
use crate::api::shared::Begun;
use crate::api::{Answered, Shared};
use crate::intake::{Answer, RecordChange};
use crate::model::{
    AuditNote, Notification, NotificationId, OrganizationId, PolicyOwner, Secret, Source, User,
    UserStatus,
};
use crate::store::{Change, Expectation};

/// A password to be set, already checked and hashed.
#[derive(Debug)]
pub(crate) struct NewHash {
    /// As read for the decision; a change of it meanwhile is noticed.
    pub(crate) user: User,
    pub(crate) hash: Secret,
    pub(crate) source: Source,
    pub(crate) audit: AuditNote,
}

/// What setting a password did, for the answer.
pub(crate) struct PasswordSet {
    /// The organization's counter behind it.
    pub(crate) sequence: u64,
    /// What tells the user; nil where the policy wants no such thing.
    pub(crate) notification: NotificationId,
}

impl Shared {
    /// Sets a password, ends the user's tokens and refresh tokens, and tells the user if the
    /// policy says so: all or nothing. `None` if the user or the policy changed since they were
    /// read: read the user and decide again. Refuses a user whose invitation is open.
    pub(crate) async fn set_password(
        &self,
        begun: &mut Begun,
        new: NewHash,
        answer: impl FnOnce(PasswordSet) -> Answer,
    ) -> Result<Option<Answered>, Failure> {
        let NewHash { user, hash, source, audit } = new;
        if user.status == UserStatus::Pending {
            // Who may open the account is for the invitation to say.
            let text = "the user was invited and has not chosen a first password yet";
            return Err(Failure::new(FailureClass::Exists, text));
        }
        let (org, now) = (user.org, self.intake.now());
        let own = PolicyOwner::Organization(org);
        let (tells, counters) = self.tells_of_passwords(org).await?;
        let notice = match tells {
            true => Some(self.password_notice(&user, source, &audit.actor).await?),
            false => None,
        };
        let revision = user.account.revision;
        let mut changed = user.changed(now);
        changed.account.epoch = changed.account.epoch.wrapping_add(1);
        let sequence = counters.first().map_or(0, |(_, sequence)| *sequence) + 1;
        let mut changes = vec![Change::Expect(Expectation::UserRevision(changed.id, revision))];
        let expected = |(owner, sequence)| Change::Expect(Expectation::Sequence(owner, sequence));
        changes.extend(counters.into_iter().map(expected));
        changes.extend([
            Change::PutPassword(changed.id, hash),
            Change::PutUser(changed),
            Change::Count(own),
        ]);
        let id = notice.as_ref().map_or_else(|| NotificationId(uuid::Uuid::nil()), |one| one.id);
        let answer = answer(PasswordSet { sequence, notification: id });
        let notifications = notice.into_iter().collect();
        let change = RecordChange { org, changes, audit, notifications };
        let answered = self.change(begun, change, answer).await?;
        Ok(answered.map(|answered| match answered {
            Answered::Other(response) if tells => Answered::Accepted(response),
            other => other,
        }))
    }

    /// Whether users of `org` are told of new passwords, and the counters of the policies that
    /// was read from: the organization's first.
    async fn tells_of_passwords(
        &self,
        org: OrganizationId,
    ) -> Result<(bool, Vec<(PolicyOwner, u64)>), Failure> {
        let mut counters = Vec::new();
        for owner in [PolicyOwner::Organization(org), PolicyOwner::Instance] {
            counters.push((owner, self.store.sequence(owner).await?));
            if let Some(policy) = self.store.policy(owner).await? {
                return Ok((policy.password_change, counters));
            }
        }
        Ok((notice::BY_DEFAULT, counters))
    }

    async fn password_notice(
        &self,
        user: &User,
        source: Source,
        actor: &str,
    ) -> Result<Notification, Failure> {
        let words = notice::words(self.store.as_ref(), user).await?;
        let (id, at) = (self.intake.mint(), self.intake.now());
        let origin = Origin { id, at, by: actor.to_owned(), source };
        Ok(notice::notification(user, &words, origin))
    }
}
