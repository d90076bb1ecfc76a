//! What transform rules see of a notification on a channel, and a notification that shows what they left.

use crate::model::{Content, Mail, Notification, ProviderName};
use crate::rules::hooks::TransformItem;
use crate::rules::limits::Breach;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What is shown on every channel but mail.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Shown {
    title: String,
    body: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

/// What a mail says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Letter {
    subject: String,
    #[serde(default)]
    pre_header: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    greeting: String,
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    button: Option<Button>,
    #[serde(default)]
    footer: String,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Button {
    text: String,
    url: String,
}

/// The payload of `notification` on `channel` as JSON text; `None` for a mail it does not have.
#[must_use]
pub fn payload(notification: &Notification, channel: ProviderName) -> Option<String> {
    let text = if channel == ProviderName::Email {
        let mail = notification.mail.as_ref()?;
        let button = mail.button.clone().map(|(text, url)| Button { text, url });
        serde_json::to_string(&Letter {
            subject: mail.subject.clone(),
            pre_header: mail.pre_header.clone(),
            title: mail.title.clone(),
            greeting: mail.greeting.clone(),
            text: mail.text.clone(),
            button,
            footer: mail.footer.clone(),
        })
    } else {
        let content = &notification.content;
        serde_json::to_string(&Shown {
            title: content.title.clone(),
            body: content.body.clone(),
            image_url: content.image_url.clone(),
            data: RawValue::from_string(content.data.clone()).ok(),
        })
    };
    text.ok()
}

/// `notification` as it is to be shown on `channel`.
///
/// # Errors
/// `payload` has other members than [`payload`] gives, or leads somewhere else.
pub fn showing(
    notification: &Notification,
    channel: ProviderName,
    payload: &str,
) -> Result<Notification, Breach> {
    let mut shown = notification.clone();
    if channel == ProviderName::Email {
        shown.mail = Some(mail(notification, payload)?);
    } else {
        shown.content = content(notification, payload)?;
    }
    Ok(shown)
}

fn content(notification: &Notification, payload: &str) -> Result<Content, Breach> {
    let Shown { title, body, image_url, data } =
        serde_json::from_str(payload).map_err(|_| members())?;
    let is_known = image_url.is_none() || image_url == notification.content.image_url;
    if !is_known && !image_url.as_ref().is_some_and(|url| url.starts_with("https://")) {
        return Err(Breach::output("imageUrl must stay, go, or be an https URL"));
    }
    let data = data.map(|data| String::from(data.get())).unwrap_or_default();
    if !data.is_empty() && !data.starts_with('{') {
        return Err(Breach::output("the payload's data must be a JSON object"));
    }
    Ok(Content { title, body, image_url, data })
}

fn mail(notification: &Notification, payload: &str) -> Result<Mail, Breach> {
    let letter: Letter = serde_json::from_str(payload).map_err(|_| members())?;
    let before = notification.mail.as_ref().and_then(|mail| mail.button.as_ref());
    if letter.button.as_ref().is_some_and(|button| before.is_none_or(|(_, to)| *to != button.url)) {
        return Err(Breach::output("a mail's button may go, but not lead somewhere else"));
    }
    let texts = [&letter.subject, &letter.pre_header];
    if texts.iter().any(|text| text.contains(char::is_control)) {
        return Err(Breach::output("subject and preHeader are single lines"));
    }
    Ok(Mail {
        subject: letter.subject,
        pre_header: letter.pre_header,
        title: letter.title,
        greeting: letter.greeting,
        text: letter.text,
        button: letter.button.map(|button| (button.text, button.url)),
        footer: letter.footer,
    })
}

fn members() -> Breach {
    Breach::output("the payload must keep the members it had, with values of the same kind")
}

impl TransformItem {
    /// Whether `payload` could be shown instead.
    pub(super) fn check(&self, payload: &str) -> Result<(), Breach> {
        if self.channel == ProviderName::Email {
            mail(&self.notification, payload).map(drop)
        } else {
            content(&self.notification, payload).map(drop)
        }
    }
}
