//! A delivery as an FCM v1 message, in fcm_v1's types, checked before anything is sent.

use crate::model::{Delivery, Millis, Priority};
use bytes::Bytes;
use fcm_v1::android::{AndroidConfig, AndroidMessagePriority, AndroidNotification};
use fcm_v1::message::{Message, Notification};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;

/// Google's limit for what a message carries to the device, in bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 4096;
/// Longest registration token accepted; today's have about 160 characters.
const TOKEN_BYTES_MAX: usize = 4096;
/// FCM stores a message for at most 28 days.
const TTL_MAX_S: u64 = 28 * 24 * 3600;

#[derive(Serialize)]
struct Send<'a> {
    message: &'a Message,
}

/// The body for `delivery` to `token` at `now`, or why FCM could never take it.
pub(super) fn prepare(
    delivery: &Delivery,
    token: &str,
    now: Millis,
) -> Result<Bytes, &'static str> {
    if token.is_empty()
        || token.len() > TOKEN_BYTES_MAX
        || !token.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err("bad_token_format");
    }
    let content = &delivery.notification.content;
    let data = data(&content.data)?;
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let notification = Notification {
        title: text(&content.title),
        body: text(&content.body),
        image: content.image_url.clone(),
    };
    if carried(&notification, data.as_ref()) > PAYLOAD_BYTES_MAX {
        return Err("payload_too_large");
    }
    let message = Message {
        data,
        notification: Some(notification),
        android: Some(android(delivery, now)),
        token: Some(token.to_owned()),
        ..Message::default()
    };
    serde_json::to_vec(&Send { message: &message }).map(Bytes::from).map_err(|_| "bad_data")
}

fn android(delivery: &Delivery, now: Millis) -> AndroidConfig {
    let ttl = (delivery.expires_at.since(now) / 1000).min(TTL_MAX_S);
    AndroidConfig {
        collapse_key: delivery.collapse_key.clone().filter(|key| !key.is_empty()),
        priority: Some(match delivery.priority {
            Priority::Low => AndroidMessagePriority::Normal,
            Priority::Normal | Priority::High | Priority::Critical => AndroidMessagePriority::High,
        }),
        ttl: Some(format!("{ttl}s")),
        notification: Some(AndroidNotification {
            // A repeat of this delivery replaces the first copy on the device.
            tag: Some(delivery.id.to_string()),
            ..AndroidNotification::default()
        }),
        ..AndroidConfig::default()
    }
}

/// FCM takes strings only: strings as they are, everything else as JSON text.
fn data(object: &str) -> Result<Option<HashMap<String, Value>>, &'static str> {
    if object.is_empty() {
        return Ok(None);
    }
    let fields: serde_json::Map<String, Value> =
        serde_json::from_str(object).map_err(|_| "bad_data")?;
    let reserved = |key: &str| {
        key == "from"
            || key == "message_type"
            || key.starts_with("google")
            || key.starts_with("gcm")
    };
    if fields.keys().any(|key| reserved(key)) {
        return Err("reserved_data_key");
    }
    let strings = fields
        .into_iter()
        .map(|(key, value)| match value {
            Value::String(_) => (key, value),
            other => (key, Value::String(other.to_string())),
        })
        .collect();
    Ok(Some(strings))
}

fn carried(notification: &Notification, data: Option<&HashMap<String, Value>>) -> usize {
    let shown = [&notification.title, &notification.body, &notification.image];
    let shown: usize = shown.iter().filter_map(|field| field.as_ref().map(String::len)).sum();
    let carried: usize = data
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    shown + carried
}
