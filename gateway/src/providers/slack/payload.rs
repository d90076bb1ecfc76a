//! A delivery as a Slack message: escaped mrkdwn, blocks only where there is an image.

use crate::model::Delivery;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use url::Url;

/// Slack cuts `text` beyond this many characters.
const TEXT_CHARS_MAX: usize = 40_000;
/// Limits of a section's text, an image's URL and its alternative text, in characters.
const SECTION_CHARS_MAX: usize = 3000;
const IMAGE_URL_CHARS_MAX: usize = 3000;
const ALT_CHARS_MAX: usize = 2000;

#[derive(Serialize)]
struct Message<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks: Option<Value>,
    unfurl_links: bool,
    unfurl_media: bool,
}

/// The body for `delivery`, or why Slack could never take it.
pub(super) fn prepare(delivery: &Delivery) -> Result<Bytes, &'static str> {
    let content = &delivery.notification.content;
    let title = escape(&content.title);
    let body = escape(&content.body);
    let text = match (title.is_empty(), body.is_empty()) {
        (false, false) => format!("*{title}*\n{body}"),
        (false, true) => format!("*{title}*"),
        (true, false) => body,
        (true, true) => return Err("empty_message"),
    };
    let chars = text.chars().count();
    if chars > TEXT_CHARS_MAX {
        return Err("payload_too_large");
    }
    let blocks = content
        .image_url
        .as_deref()
        .filter(|url| chars <= SECTION_CHARS_MAX && shown_by_slack(url))
        .map(|url| {
            let alt = if content.title.is_empty() { "image" } else { content.title.as_str() };
            let alt: String = alt.chars().take(ALT_CHARS_MAX).collect();
            json!([
                {"type": "section", "text": {"type": "mrkdwn", "text": text}},
                {"type": "image", "image_url": url, "alt_text": alt},
            ])
        });
    let message = Message { text: &text, blocks, unfurl_links: false, unfurl_media: false };
    serde_json::to_vec(&message).map(Bytes::from).map_err(|_| "bad_data")
}

fn shown_by_slack(url: &str) -> bool {
    url.len() <= IMAGE_URL_CHARS_MAX && Url::parse(url).is_ok_and(|url| url.scheme() == "https")
}

/// The three characters that mrkdwn gives a meaning: without this a caller's text could mention
/// `<!channel>` or hide a link behind other words.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            other => escaped.push(other),
        }
    }
    escaped
}
