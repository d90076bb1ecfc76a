//! A delivery as APNs wants it: payload and options in a2's types, checked before anything is sent.

use crate::model::{Delivery, Priority};
use crate::providers::attempt::Memo;
use a2::request::payload::PayloadLike;
use a2::{
    CollapseId, DefaultNotificationBuilder, NotificationBuilder, NotificationOptions, PushType,
};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Apple's limit for a payload, in bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 4096;
/// Longest device token accepted, in hexadecimal digits; today's have 64 to 160.
const TOKEN_CHARS_MAX: usize = 200;
const COLLAPSE_BYTES_MAX: usize = 64;
/// What stands before a device token.
const PLACE: &str = "/3/device/";

/// One request, ready to be built as often as the transport needs it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) path: PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Builds the request for `delivery` to `token`, or says why APNs could never take it.
pub(super) fn prepare(
    delivery: &Delivery,
    token: &str,
    topic: &HeaderValue,
    bodies: &Memo<Bytes>,
) -> Result<Prepared, &'static str> {
    // The token goes into the path: anything but hexadecimal digits could change its meaning.
    if token.is_empty()
        || token.len() > TOKEN_CHARS_MAX
        || !token.bytes().all(|b| b.is_ascii_hexdigit())
    {
        return Err("bad_token_format");
    }
    let path = Bytes::from([PLACE, token].concat());
    let path = PathAndQuery::from_maybe_shared(path).map_err(|_| "bad_token_format")?;
    let id = delivery.id.to_string();
    let collapse = collapse_id(delivery.collapse_key.as_deref(), &id);
    let options = NotificationOptions {
        apns_id: Some(&id),
        apns_push_type: Some(PushType::Alert),
        apns_expiration: Some(delivery.expires_at.0 / 1000),
        apns_priority: Some(priority(delivery.priority)),
        apns_topic: topic.to_str().ok(),
        apns_collapse_id: Some(CollapseId { value: &collapse }),
    };
    let headers = headers(&options, topic)?;
    // Neither token nor options are part of it.
    let body = bodies.of(delivery, || payload(delivery, token, options))?;
    if body.len() > PAYLOAD_BYTES_MAX {
        return Err("payload_too_large");
    }
    Ok(Prepared { path, headers, body })
}

/// The caller's key where it fits, else its hash; without one the delivery's own id, so that a
/// repeat replaces the first copy on the device instead of standing next to it.
fn collapse_id(key: Option<&str>, delivery: &str) -> String {
    match key {
        None | Some("") => delivery.to_owned(),
        Some(key)
            if key.len() <= COLLAPSE_BYTES_MAX && key.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            key.to_owned()
        }
        Some(key) => {
            Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
        }
    }
}

fn priority(priority: Priority) -> a2::Priority {
    match priority {
        Priority::Low => a2::Priority::Normal,
        Priority::Normal | Priority::High | Priority::Critical => a2::Priority::High,
    }
}

fn headers(
    options: &NotificationOptions<'_>,
    topic: &HeaderValue,
) -> Result<HeaderMap, &'static str> {
    // Different in every request: a place in HPACK's table would only drive out what repeats.
    let unique = |text: &str| {
        let mut value = HeaderValue::from_str(text).map_err(|_| "bad_header")?;
        value.set_sensitive(true);
        Ok::<_, &'static str>(value)
    };
    let name = HeaderName::from_static;
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(name("apns-topic"), topic.clone());
    if let Some(id) = options.apns_id {
        headers.insert(name("apns-id"), unique(id)?);
    }
    if options.apns_push_type == Some(PushType::Alert) {
        headers.insert(name("apns-push-type"), HeaderValue::from_static("alert"));
    }
    if let Some(seconds) = options.apns_expiration {
        headers.insert(name("apns-expiration"), HeaderValue::from(seconds));
    }
    if let Some(priority) = &options.apns_priority {
        let digits = match priority {
            a2::Priority::High => "10",
            a2::Priority::Normal => "5",
        };
        headers.insert(name("apns-priority"), HeaderValue::from_static(digits));
    }
    if let Some(collapse) = &options.apns_collapse_id {
        headers.insert(name("apns-collapse-id"), unique(collapse.value)?);
    }
    Ok(headers)
}

fn payload(
    delivery: &Delivery,
    token: &str,
    options: NotificationOptions<'_>,
) -> Result<Bytes, &'static str> {
    let content = &delivery.notification.content;
    let custom: BTreeMap<String, Value> = if content.data.is_empty() {
        BTreeMap::new()
    } else {
        serde_json::from_str(&content.data).map_err(|_| "bad_data")?
    };
    let mut builder = DefaultNotificationBuilder::new().set_body(&content.body);
    if !content.title.is_empty() {
        builder = builder.set_title(&content.title);
    }
    if delivery.priority != Priority::Low {
        builder = builder.set_sound("default");
    }
    if content.image_url.is_some() {
        builder = builder.set_mutable_content();
    }
    let mut payload = builder.build(token, options);
    // `aps` is Apple's: a caller's key of that name would be a second one in the same object.
    for (key, value) in &custom {
        if key != "aps" {
            payload.data.insert(key, value.clone());
        }
    }
    if let Some(url) = &content.image_url {
        payload.data.insert("imageUrl", Value::from(url.as_str()));
    }
    payload.to_json_string().map(Bytes::from).map_err(|_| "bad_data")
}
