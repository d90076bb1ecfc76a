//! What changes of users tell: events for subscriptions, and the invitation a person gets.

use crate::api::Shared;
use crate::auth::{Caller, Fresh};
use crate::model::{
    Audience, Content, Invitation, Mail, Notification, Organization, OrganizationId, Priority,
    RoleId, Source, User, UserId,
};
use serde_json::{Value, json};
use unicode_normalization::char::is_combining_mark;

pub(super) const CREATED: &str = "user.created";
pub(crate) const INVITED: &str = "user.invited";
pub(super) const REGISTERED: &str = "user.registered";
pub(super) const ROLE_CHANGED: &str = "user.role_changed";
pub(super) const TRANSFERRED: &str = "user.transferred";

/// A user's new place: ids only, since subscriptions carry them out of the house.
pub(super) fn place_of(user: &User) -> Value {
    json!({ "userId": user.id.0, "orgId": user.org.0, "roleId": user.role.0 })
}

impl Shared {
    /// An event for the subscriptions of `org` and nobody else.
    pub(super) fn event(
        &self,
        caller: &Caller,
        org: OrganizationId,
        event: &str,
        text: String,
        data: &Value,
    ) -> Notification {
        let now = self.intake.now();
        Notification {
            id: self.intake.mint(),
            org,
            source: Source::Blynk,
            event: event.to_owned(),
            audience: Audience::Subscriptions,
            content: Content {
                title: headline(event).to_owned(),
                body: text,
                image_url: None,
                data: data.to_string(),
            },
            priority: Priority::default(),
            collapse_key: None,
            created_at: now,
            created_by: caller.name(),
            start_at: now,
            expires_at: None,
            dialect_fields: String::new(),
            mail: None,
            inbox: false,
        }
    }

    /// The notification that brings a person the link of its invitation.
    pub(crate) fn invitation_notice(
        &self,
        caller: &Caller,
        event: &str,
        user: &User,
        (organization, token): (&Organization, &Fresh),
    ) -> Notification {
        let text = format!("User {} was invited to organization {}.", user.id, user.org);
        let notice = self.event(caller, user.org, event, text, &place_of(user));
        let audience = Audience::Users(vec![user.id]);
        let mail = Some(self.invitation_mail(event, organization, token));
        Notification { audience, mail, priority: Priority::High, ..notice }
    }

    /// The mail with the link of an invitation.
    fn invitation_mail(&self, event: &str, organization: &Organization, token: &Fresh) -> Mail {
        let name = unlinked(&organization.name);
        let (subject, text) = if event == REGISTERED {
            let text = "an account was opened for you. Choose a password to use it.";
            (String::from("Complete your registration"), text.to_owned())
        } else {
            let text = format!("you are invited to {name}. Choose a password to join.");
            (format!("You are invited to {name}"), text)
        };
        let settings = &self.blynk.settings;
        let button = settings.public_url.clone().map(|mut page| {
            // A fragment is never sent: not to the page's server, not to those it links to.
            page.set_fragment(Some(&format!("token={}", token.text.reveal())));
            (String::from("Choose a password"), page.to_string())
        });
        let days = settings.invitation_ttl.as_secs().div_ceil(24 * 60 * 60);
        let days = if days == 1 { String::from("1 day") } else { format!("{days} days") };
        Mail {
            pre_header: subject.clone(),
            title: subject.clone(),
            subject,
            greeting: String::from("Hello,"),
            text,
            button,
            footer: format!(
                "This can be done once, within {days}. If you do not know what this is about, \
                 ignore it."
            ),
        }
    }

    /// An invitation for `user`, who was made at the same time.
    pub(crate) fn invitation_of(&self, user: &User, token: &Fresh) -> Invitation {
        let now = self.intake.now();
        let ttl = self.blynk.settings.invitation_ttl.as_millis();
        Invitation {
            token: token.hash,
            user: user.id,
            org: user.org,
            role: user.role,
            created_at: now,
            expires_at: now.plus(u64::try_from(ttl).unwrap_or(u64::MAX)),
        }
    }
}

/// What subscribers read first.
fn headline(event: &str) -> &'static str {
    match event {
        CREATED => "User created",
        INVITED => "User invited",
        REGISTERED => "User registered",
        ROLE_CHANGED => "User role changed",
        _ => "User transferred",
    }
}

/// The sentence about a new role.
pub(super) fn role_text(user: UserId, role: RoleId) -> String {
    format!("User {user} now has role {role}.")
}

/// A name chosen by a caller, without what a mail program could make a link of.
fn unlinked(name: &str) -> String {
    let is_plain = |c: char| {
        c.is_alphanumeric() || is_combining_mark(c) || matches!(c, '-' | '\'' | '\u{2019}')
    };
    let spaced: String = name.chars().map(|c| if is_plain(c) { c } else { ' ' }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_mail_are_no_links() {
        for (name, shown) in [
            ("Acme Corp", "Acme Corp"),
            ("John's Personal Org", "John's Personal Org"),
            ("evil.example", "evil example"),
            ("see https://evil.example/x now", "see https evil example x now"),
            ("a@evil.example\r\nBcc: b", "a evil example Bcc b"),
        ] {
            assert_eq!(unlinked(name), shown);
        }
    }
}
