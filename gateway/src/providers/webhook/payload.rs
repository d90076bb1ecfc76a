//! The JSON a webhook receives: an Applivery event as it came, or our own envelope.

use crate::model::{Delivery, Millis};
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Largest body sent, in bytes: an event's data may have 64 KiB, and its envelope stands around it.
pub(super) const BODY_BYTES_MAX: usize = 68 * 1024;

/// Room for what stands around an envelope's texts; more is made if needed.
const ENVELOPE_BYTES: usize = 256;

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: String,
    data: Fields<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    notification_id: String,
    organization_id: i32,
    title: &'a str,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// Applivery's events carry their own discriminator.
#[derive(Deserialize)]
struct Event {
    action: Option<IgnoredAny>,
}

/// The body for `delivery`, or why it can never be sent.
pub(super) fn prepare(delivery: &Delivery) -> Result<Bytes, &'static str> {
    let notification = &delivery.notification;
    let content = &notification.content;
    let body = match content.data.as_str() {
        "" => envelope(delivery, None)?,
        object => {
            let event: Event = serde_json::from_str(object).map_err(|_| "bad_data")?;
            if event.action.is_some() {
                Bytes::copy_from_slice(object.as_bytes())
            } else {
                let raw: &RawValue = serde_json::from_str(object).map_err(|_| "bad_data")?;
                envelope(delivery, Some(raw))?
            }
        }
    };
    if body.len() > BODY_BYTES_MAX { Err("payload_too_large") } else { Ok(body) }
}

fn envelope(delivery: &Delivery, data: Option<&RawValue>) -> Result<Bytes, &'static str> {
    let notification = &delivery.notification;
    let content = &notification.content;
    let envelope = Envelope {
        kind: &notification.event,
        // When it happened, not when this try is made: repeats are byte for byte the same.
        timestamp: Millis::to_rfc3339(notification.created_at),
        data: Fields {
            notification_id: notification.id.to_string(),
            organization_id: notification.org.0,
            title: &content.title,
            body: &content.body,
            image_url: content.image_url.as_deref(),
            data,
        },
    };
    let texts = content.title.len() + content.body.len() + content.data.len();
    let mut body = Vec::with_capacity(texts + ENVELOPE_BYTES);
    serde_json::to_writer(&mut body, &envelope).map_err(|_| "bad_data")?;
    Ok(Bytes::from(body))
}
