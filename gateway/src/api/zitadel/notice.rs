//! The notification after a password change: in whose words, and what every channel gets of it.

use super::language::{FALLBACK, Language, Slots};
use crate::model::{
    Audience, Content, Mail, Millis, Notification, NotificationId, Priority, Source, User,
};

/// The event subscriptions and rules see.
pub(super) const PASSWORD_CHANGED: &str = "user.password_changed";
/// Bytes of title and text that go into a push: a payload holds 4 KiB, escaped.
const TITLE_BYTES: usize = 200;
const TEXT_BYTES: usize = 1_500;

/// Languages to look for words in, best first, for a user who speaks `locale`.
pub(super) fn wanted(locale: Option<&str>) -> Vec<Language> {
    let own = locale.and_then(Language::of_tag);
    let mut wanted: Vec<_> = own.into_iter().collect();
    if own != Some(FALLBACK) {
        wanted.push(FALLBACK);
    }
    wanted
}

/// Who tells of the change, and when.
pub(super) struct Origin {
    pub(super) id: NotificationId,
    pub(super) at: Millis,
    pub(super) by: String,
}

/// What `user` is told in `words`.
pub(super) fn notification(user: &User, words: &Slots, origin: Origin) -> Notification {
    let fill = |template: &str| fill(template, user);
    let title = fill(&words.title);
    let text = fill(&words.text);
    let content = Content {
        title: cut(&title, TITLE_BYTES),
        body: cut(&text, TEXT_BYTES),
        image_url: None,
        data: String::new(),
    };
    let mail = Mail {
        subject: fill(&words.subject),
        pre_header: fill(&words.pre_header),
        title,
        greeting: fill(&words.greeting),
        text,
        // There is no page of ours to lead to.
        button: None,
        footer: fill(&words.footer_text),
    };
    Notification {
        id: origin.id,
        org: user.org,
        source: Source::Zitadel,
        event: PASSWORD_CHANGED.to_owned(),
        audience: Audience::Users(vec![user.id]),
        content,
        priority: Priority::High,
        collapse_key: None,
        created_at: origin.at,
        created_by: origin.by,
        start_at: origin.at,
        expires_at: None,
        dialect_fields: String::new(),
        mail: Some(mail),
        inbox: true,
    }
}

/// `{{.DisplayName}}` and the like with what is known of the user; other names with nothing.
fn fill(template: &str, user: &User) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else { break };
        filled.push_str(before);
        filled.push_str(&value(name.trim(), user));
        rest = after;
    }
    filled.push_str(rest);
    filled
}

fn value(name: &str, user: &User) -> String {
    let (first, last) = user.name.split_once(' ').unwrap_or((&user.name, ""));
    let value = match name {
        ".DisplayName" => &user.name,
        ".FirstName" => first,
        ".LastName" => last,
        ".NickName" => user.profile.nick_name.as_deref().unwrap_or_default(),
        ".UserName" | ".PreferredLoginName" | ".LastEmail" | ".VerifiedEmail" => &user.email,
        _ => "",
    };
    // A line break from a user's name would begin another header of the mail.
    value.chars().filter(|c| !c.is_control()).collect()
}

/// The beginning of a text that fits, and that there is more of it.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max.saturating_sub('…'.len_utf8()));
    format!("{}…", text.split_at(end).0)
}
