//! The shape of an FCM v1 message, after the REST reference "projects.messages".

use serde_json::{Map, Value};

const REQUEST_FIELDS: &[&str] = &["validate_only", "message"];
const MESSAGE_FIELDS: &[&str] = &[
    "name",
    "data",
    "notification",
    "android",
    "webpush",
    "apns",
    "fcm_options",
    "token",
    "topic",
    "condition",
];
const NOTIFICATION_FIELDS: &[&str] = &["title", "body", "image"];
/// Limit of notification and data together, in bytes.
const PAYLOAD_BYTES_MAX: usize = 4096;
const TOPIC_PAYLOAD_BYTES_MAX: usize = 2048;

/// Checks a whole request body; the error says what is wrong, without values.
pub(super) fn check(request: &Value) -> Result<(), String> {
    let request = object(request, "the body")?;
    only(request, REQUEST_FIELDS)?;
    if request.get("validate_only").is_some_and(|flag| !flag.is_boolean()) {
        return Err("validate_only is not a boolean".into());
    }
    let message = object(request.get("message").ok_or("message is missing")?, "message")?;
    only(message, MESSAGE_FIELDS)?;
    let is_to_token = check_target(message)?;
    let mut bytes = 0;
    if let Some(notification) = message.get("notification") {
        let notification = object(notification, "notification")?;
        only(notification, NOTIFICATION_FIELDS)?;
        bytes += strings(notification, "notification")?;
    }
    if let Some(data) = message.get("data") {
        let data = object(data, "data")?;
        bytes += strings(data, "data")?;
        check_data_keys(data)?;
    }
    let bytes_max = if is_to_token { PAYLOAD_BYTES_MAX } else { TOPIC_PAYLOAD_BYTES_MAX };
    if bytes > bytes_max {
        return Err("Android message is too big".into());
    }
    message.get("android").map_or(Ok(()), check_android)
}

/// Exactly one target; true when it is a device token.
fn check_target(message: &Map<String, Value>) -> Result<bool, String> {
    let mut targets = ["token", "topic", "condition"]
        .into_iter()
        .filter_map(|name| message.get(name).map(|value| (name, value)));
    let (name, value) = targets.next().ok_or("one of token, topic and condition must be set")?;
    if targets.next().is_some() {
        return Err("only one of token, topic and condition may be set".into());
    }
    if value.as_str().is_none_or(str::is_empty) {
        return Err(format!("{name} is not a text"));
    }
    Ok(name == "token")
}

fn check_data_keys(data: &Map<String, Value>) -> Result<(), String> {
    let is_reserved = |key: &str| {
        matches!(key, "from" | "message_type")
            || key.starts_with("google.")
            || key.starts_with("gcm.")
    };
    match data.keys().find(|key| is_reserved(key)) {
        Some(key) => Err(format!("{key} is a reserved data key")),
        None => Ok(()),
    }
}

fn check_android(android: &Value) -> Result<(), String> {
    let android = object(android, "android")?;
    if let Some(ttl) = android.get("ttl") {
        let seconds = ttl.as_str().and_then(|ttl| ttl.strip_suffix('s'));
        if seconds.and_then(|seconds| seconds.parse::<f64>().ok()).is_none_or(|ttl| ttl < 0.0) {
            return Err("android.ttl is not a duration such as 3600s".into());
        }
    }
    if let Some(priority) = android.get("priority") {
        let priority = priority.as_str().unwrap_or_default().to_ascii_lowercase();
        if !matches!(priority.as_str(), "normal" | "high") {
            return Err("android.priority is neither NORMAL nor HIGH".into());
        }
    }
    let tag = android.get("notification").and_then(|notification| notification.get("tag"));
    if tag.is_some_and(|tag| !tag.is_string()) {
        return Err("android.notification.tag is not a text".into());
    }
    Ok(())
}

fn object<'a>(value: &'a Value, name: &str) -> Result<&'a Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{name} is not an object"))
}

fn only(object: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(format!("Invalid JSON payload received. Unknown name \"{key}\"")),
        None => Ok(()),
    }
}

/// Bytes of all keys and values, which must be texts; null counts as absent.
fn strings(object: &Map<String, Value>, name: &str) -> Result<usize, String> {
    let mut bytes = 0;
    for (key, value) in object {
        match value {
            Value::String(text) => bytes += key.len() + text.len(),
            Value::Null if name == "notification" => {}
            _ => return Err(format!("{name}.{key} is not a text")),
        }
    }
    Ok(bytes)
}
