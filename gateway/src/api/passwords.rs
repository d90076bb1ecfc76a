//! The one command that sets a password, whoever asks for it: old tokens end, and the user is told.

use crate::api::failure::Failure;
use crate::api::shared::Begun;
use crate::api::{Answered, Shared};
use crate::intake::{Answer, RecordChange};
use crate::model::{
    Audience, AuditNote, Content, Mail, MessageText, Notification, PolicyOwner, Priority, Secret,
    Source, User,
};
use crate::store::{Change, Expectation};

/// What subscriptions and rules know the change by.
const EVENT: &str = "user.password_changed";
/// What stands for the user's name in texts.
const NAME_MARK: &str = "{{.DisplayName}}";
const LANGUAGE_DEFAULT: &str = "en";

/// A password to be set, already checked and hashed.
#[derive(Debug)]
pub(crate) struct NewHash {
    /// As read for the decision; a change of it meanwhile is noticed.
    pub(crate) user: User,
    pub(crate) hash: Secret,
    pub(crate) source: Source,
    pub(crate) audit: AuditNote,
}

impl Shared {
    /// Sets a password, ends the user's tokens and refresh tokens, and tells the user if the
    /// policy says so: all or nothing. `None` if the user or the policy changed since they were
    /// read: read the user and decide again.
    pub(crate) async fn set_password(
        &self,
        begun: &mut Begun,
        new: NewHash,
        answer: Answer,
    ) -> Result<Option<Answered>, Failure> {
        let NewHash { user, hash, source, audit } = new;
        let (org, now) = (user.org, self.intake.now());
        let own = PolicyOwner::Organization(org);
        let read_at = self.store.sequence(own).await?;
        let notice = self.password_notice(&user, source, &audit.actor).await?;
        let revision = user.account.revision;
        let mut changed = user.changed(now);
        changed.account.epoch = changed.account.epoch.wrapping_add(1);
        let changes = vec![
            Change::Expect(Expectation::UserRevision(changed.id, revision)),
            Change::Expect(Expectation::Sequence(own, read_at)),
            Change::PutPassword(changed.id, hash),
            Change::PutUser(changed),
            Change::Count(own),
        ];
        let notifications = notice.into_iter().collect();
        self.change(begun, RecordChange { org, changes, audit, notifications }, answer).await
    }

    /// What tells a user that its password changed; `None` where the policy wants no such thing.
    async fn password_notice(
        &self,
        user: &User,
        source: Source,
        actor: &str,
    ) -> Result<Option<Notification>, Failure> {
        let own = PolicyOwner::Organization(user.org);
        let policy = match self.store.policy(own).await? {
            Some(policy) => Some(policy),
            None => self.store.policy(PolicyOwner::Instance).await?,
        };
        // Nobody decided otherwise: users are told.
        if policy.is_some_and(|policy| !policy.password_change) {
            return Ok(None);
        }
        let mail = self.password_mail(user).await?;
        let now = self.intake.now();
        Ok(Some(Notification {
            id: self.intake.mint(),
            org: user.org,
            source,
            event: String::from(EVENT),
            audience: Audience::Users(vec![user.id]),
            content: Content {
                title: mail.title.clone(),
                body: mail.text.clone(),
                ..Content::default()
            },
            priority: Priority::High,
            collapse_key: None,
            created_at: now,
            created_by: actor.to_owned(),
            start_at: now,
            expires_at: None,
            dialect_fields: String::new(),
            mail: Some(mail),
            inbox: true,
        }))
    }

    /// The texts in the user's language: the organization's, the instance's, or ours.
    async fn password_mail(&self, user: &User) -> Result<Mail, Failure> {
        let locale = user.locale.as_deref().unwrap_or(LANGUAGE_DEFAULT);
        let language = locale.split(['_', '-']).next().unwrap_or(LANGUAGE_DEFAULT);
        let mut own = MessageText::default();
        for owner in [PolicyOwner::Organization(user.org), PolicyOwner::Instance] {
            if let Some(text) = self.store.text(owner, language).await? {
                own = text;
                break;
            }
        }
        let name = if user.name.is_empty() { &user.email } else { &user.name };
        let or = |text: &str, ours: &str| {
            let text = if text.is_empty() { ours } else { text };
            text.replace(NAME_MARK, name)
        };
        Ok(Mail {
            subject: or(&own.subject, "Your password was changed"),
            pre_header: or(&own.pre_header, "Your password was changed"),
            title: or(&own.title, "Your password was changed"),
            greeting: or(&own.greeting, "Hello {{.DisplayName}},"),
            text: or(
                &own.text,
                "the password of your account was changed. If it was not you, set a new one at once.",
            ),
            button: None,
            footer: or(&own.footer_text, ""),
        })
    }
}
