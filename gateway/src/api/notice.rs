//! The notification after a password change: in whose words, and what every channel gets of it.

use crate::api::language::{FALLBACK, Language, Slots};
use crate::model::{
    Audience, Content, Mail, Millis, Notification, NotificationId, PolicyOwner, Priority, Source,
    User,
};
use crate::store::{Store, StoreError};

/// The event subscriptions and rules see.
const PASSWORD_CHANGED: &str = "user.password_changed";
/// Bytes of title and text that go into a push: a payload holds 4 KiB, escaped.
const TITLE_BYTES: usize = 200;
const TEXT_BYTES: usize = 1_500;

/// Whether users are told where nobody has decided anything.
pub(super) const BY_DEFAULT: bool = true;

/// The words in which `user` is told: its organization's in its language, or the built-in ones.
pub(super) async fn words(store: &dyn Store, user: &User) -> Result<Slots, StoreError> {
    let owner = PolicyOwner::Organization(user.org);
    let own = user.locale.as_deref().and_then(Language::of_tag);
    for language in own.into_iter().chain([FALLBACK]) {
        let text = store.text(owner, language.as_str()).await?;
        match (text, Slots::built_in(language)) {
            (Some(text), _) => return Ok(Slots::from(text).over(Slots::default_for(own))),
            (None, Some(built_in)) => return Ok(built_in),
            (None, None) => {}
        }
    }
    Ok(Slots::default_for(None))
}

/// Who tells of the change, and when.
pub(super) struct Origin {
    pub(super) id: NotificationId,
    pub(super) at: Millis,
    pub(super) by: String,
    pub(super) source: Source,
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
        source: origin.source,
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
        ".DisplayName" if user.name.is_empty() => &user.email,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AccountState, OrganizationId, RoleId, UserId, UserProfile, UserStatus};
    use uuid::Uuid;

    fn user(name: &str) -> User {
        User {
            id: UserId(7),
            uuid: Uuid::nil(),
            org: OrganizationId(1),
            email: String::from("ada@example.com"),
            name: name.to_owned(),
            role: RoleId(3),
            status: UserStatus::Active,
            tz: None,
            locale: None,
            prefs: Vec::new(),
            created_at: Millis(1),
            profile: UserProfile::default(),
            account: AccountState::default(),
        }
    }

    fn told(words: &Slots, user: &User) -> Notification {
        let id = NotificationId(Uuid::nil());
        let by = String::from("organization:1");
        let origin = Origin { id, at: Millis(9), by, source: Source::Zitadel };
        notification(user, words, origin)
    }

    #[test]
    fn templates_take_what_is_known_of_the_user() {
        let ada = user("Ada King Lovelace");
        for (template, filled) in [
            ("Hello {{.DisplayName}},", "Hello Ada King Lovelace,"),
            ("{{ .FirstName }}|{{.LastName}}", "Ada|King Lovelace"),
            ("{{.LastEmail}}{{.NickName}}{{.Domain}}", "ada@example.com"),
            ("{{.DisplayName", "{{.DisplayName"),
            ("}}{{}}{{", "}}{{"),
            ("a { b } {{.FirstName}}}", "a { b } Ada}"),
        ] {
            let words = Slots { greeting: template.to_owned(), ..Slots::default() };
            let mail = told(&words, &ada).mail.expect("a mail");
            assert_eq!(mail.greeting, filled, "{template}");
        }
    }

    #[test]
    fn a_name_cannot_begin_another_header_or_template() {
        let words = Slots { subject: String::from("For {{.DisplayName}}"), ..Slots::default() };
        let subject = |name: &str| told(&words, &user(name)).mail.expect("a mail").subject;
        assert_eq!(subject("Eve\r\nBcc: x"), "For EveBcc: x");
        assert_eq!(subject("{{.LastEmail}}"), "For {{.LastEmail}}");
        assert_eq!(subject(""), "For ada@example.com");
    }

    #[test]
    fn a_push_gets_as_much_as_fits_and_the_mail_gets_all() {
        let long = "é".repeat(40_000);
        let words = Slots { title: long.clone(), text: long.clone(), ..Slots::default() };
        let told = told(&words, &user("Ada"));
        assert!(told.content.title.len() <= TITLE_BYTES && told.content.title.ends_with('…'));
        assert!(told.content.body.len() <= TEXT_BYTES && told.content.body.starts_with("éé"));
        assert_eq!(told.mail.expect("a mail").text, long);
        assert!(told.inbox);
    }
}
