//! The mail of a notification as RFC 5322 wants it: text and HTML, the same bytes on every repeat.

use crate::model::{Delivery, Mail};
use lettre::Address;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MultiPart, SinglePart};
use std::time::{Duration, SystemTime};
use url::{Host, Url};

/// Longest subject, in characters. With no blank to fold at, more would not fit into a line.
const SUBJECT_CHARS_MAX: usize = 200;
/// The last second of the year 9999, beyond which a `Date` has no form.
const DATE_MS_MAX: u64 = 253_402_300_799_000;

/// What mail says of where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) mailbox: Mailbox,
}

impl Sender {
    /// Part of every Message-ID.
    pub(super) fn domain(&self) -> &str {
        self.mailbox.email.domain()
    }
}

/// A message ready to be handed over.
#[derive(Clone)]
pub(super) struct Letter {
    pub(super) to: Address,
    pub(super) message: Vec<u8>,
    /// The address needs SMTPUTF8 (RFC 6531).
    pub(super) is_utf8: bool,
}

/// The mail of `delivery` from `sender` to `to`, or why it can never be sent.
pub(super) fn compose(
    sender: &Sender,
    delivery: &Delivery,
    to: &str,
) -> Result<Letter, &'static str> {
    let notification = &delivery.notification;
    let mail = notification.mail.as_ref().ok_or("no_mail")?;
    let to = address(to).ok_or("bad_address")?;
    // When it was asked for, not when this try is made: repeats are the same byte for byte.
    let at = notification.created_at.max(notification.start_at).0.min(DATE_MS_MAX);
    let text = |name, value: String| HeaderValue::new(HeaderName::new_from_ascii_str(name), value);
    let alternatives = MultiPart::alternative()
        .boundary(format!("bugler-{}", delivery.id))
        .singlepart(SinglePart::plain(plain(mail)))
        .singlepart(SinglePart::html(html(mail)));
    let message = Message::builder()
        .from(sender.mailbox.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(subject(mail, &notification.content.title))
        .date(SystemTime::UNIX_EPOCH + Duration::from_millis(at))
        .message_id(Some(message_id(sender, delivery)))
        // RFC 3834: no holiday answers to what no person wrote.
        .raw_header(text("Auto-Submitted", String::from("auto-generated")))
        .raw_header(text("Bugler-Notification-Id", notification.id.to_string()))
        .multipart(alternatives)
        .map_err(|_| "bad_mail")?;
    let is_utf8 = !AsRef::<str>::as_ref(&to).is_ascii();
    Ok(Letter { to, message: message.formatted(), is_utf8 })
}

/// The same for every try, so that receivers can fold repeats.
pub(super) fn message_id(sender: &Sender, delivery: &Delivery) -> String {
    format!("<{}@{}>", delivery.id, sender.domain())
}

/// `text` as an address to send to: its domain in the form of the DNS, and nothing in it that
/// could end a command or a header early.
pub(super) fn address(text: &str) -> Option<Address> {
    let is_unsafe = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | '"');
    if text.contains(is_unsafe) {
        return None;
    }
    let (local, domain) = text.rsplit_once('@')?;
    match Host::parse(domain).ok()? {
        Host::Domain(domain) => Address::new(local, domain).ok(),
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

/// One line: a line break or another control character would start a header of its own.
fn subject(mail: &Mail, fallback: &str) -> String {
    let given = if mail.subject.trim().is_empty() { fallback } else { &mail.subject };
    let is_break = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let line: String = given.chars().map(|c| if is_break(c) { ' ' } else { c }).collect();
    let words: Vec<_> = line.split_whitespace().collect();
    // What looks like an encoded word (RFC 2047) would be shown decoded.
    let line = words.join(" ").replace("=?", "= ?");
    line.chars().take(SUBJECT_CHARS_MAX).collect()
}

/// The button, if its link is one that a reader can follow.
fn button(mail: &Mail) -> Option<(&str, Url)> {
    let (caption, link) = mail.button.as_ref()?;
    let link = Url::parse(link).ok().filter(|link| matches!(link.scheme(), "http" | "https"))?;
    Some((caption, link))
}

fn plain(mail: &Mail) -> String {
    let mut text = String::new();
    let mut add = |paragraph: &str| {
        if !paragraph.trim().is_empty() {
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            text.push_str(&lines(paragraph));
        }
    };
    add(&mail.title);
    add(&mail.greeting);
    add(&mail.text);
    if let Some((caption, link)) = button(mail) {
        add(&format!("{caption}:\n{link}"));
    }
    add(&mail.footer);
    text.push('\n');
    text
}

/// Line breaks of every kind as `\n`; no other control characters.
fn lines(text: &str) -> String {
    let text = text.trim().replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}'], "\n");
    text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect()
}

fn html(mail: &Mail) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n",
    );
    element(&mut page, "<title>", &mail.title, "</title>");
    page.push_str("</head>\n<body style=\"font-family:sans-serif;line-height:1.5;color:#222\">\n");
    element(&mut page, "<div style=\"display:none\">", &mail.pre_header, "</div>");
    element(&mut page, "<h1 style=\"font-size:1.4em\">", &mail.title, "</h1>");
    element(&mut page, "<p>", &mail.greeting, "</p>");
    element(&mut page, "<p>", &mail.text, "</p>");
    if let Some((caption, link)) = button(mail) {
        let open = format!(
            "<p><a href=\"{}\" style=\"display:inline-block;padding:.6em 1.2em;\
             background:#1a5fb4;color:#fff;text-decoration:none\">",
            escape(link.as_str())
        );
        element(&mut page, &open, caption, "</a></p>");
    }
    element(&mut page, "<p style=\"font-size:.85em;color:#666\">", &mail.footer, "</p>");
    page.push_str("</body>\n</html>\n");
    page
}

/// Adds `text` between its tags, or nothing for nothing.
fn element(page: &mut String, open: &str, text: &str, close: &str) {
    if !text.trim().is_empty() {
        for part in [open, &escape(&lines(text)), close, "\n"] {
            page.push_str(part);
        }
    }
}

/// Text as HTML shows it: without this a caller's text could hold links and pictures of its own.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push_str("<br>\n"),
            other => escaped.push(other),
        }
    }
    escaped
}
