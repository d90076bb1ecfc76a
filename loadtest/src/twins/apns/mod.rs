//! The APNs twin: checks a request as Apple's "Sending notification requests to APNs" demands and
//! answers with Apple's statuses and reasons.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use super::TwinName;
use super::credentials::Credentials;
use super::reference;
use super::reply::{Call, answer};
use super::stage::{Judged, Magic, Twin};
use crate::wall;

mod token;

pub(crate) use token::TokenCheck;

const DEVICE_PATH: &str = "/3/device/";
const PAYLOAD_BYTES_MAX: usize = 4096;
const VOIP_PAYLOAD_BYTES_MAX: usize = 5120;
const COLLAPSE_ID_BYTES_MAX: usize = 64;
const APNS_ID: HeaderName = HeaderName::from_static("apns-id");
const PUSH_TYPES: [&str; 11] = [
    "alert",
    "background",
    "location",
    "voip",
    "complication",
    "fileprovider",
    "mdm",
    "liveactivity",
    "pushtotalk",
    "widgets",
    "controls",
];

pub(crate) struct ApnsTwin {
    topic: String,
    tokens: TokenCheck,
}

/// Why a request is refused: status and Apple's reason.
type Refusal = (u16, &'static str);

impl ApnsTwin {
    pub(crate) fn new(credentials: &Credentials, tokens: TokenCheck) -> Self {
        Self { topic: credentials.apns_topic.clone(), tokens }
    }

    fn check(&self, call: &Call, credentials: &mut Option<bool>) -> Result<(), Refusal> {
        if call.method != Method::POST {
            return Err((405, "MethodNotAllowed"));
        }
        check_path(call.path())?;
        let verdict = self.tokens.check(call.header("authorization"), wall::unix_s());
        *credentials = Some(verdict.is_ok());
        verdict?;
        let push_type = call.header("apns-push-type").unwrap_or_default();
        if !PUSH_TYPES.contains(&push_type) {
            return Err((400, "InvalidPushType"));
        }
        self.check_topic(call, push_type)?;
        check_options(call, push_type)?;
        check_payload(&call.body, push_type)
    }

    fn check_topic(&self, call: &Call, push_type: &str) -> Result<(), Refusal> {
        let topic = call.header("apns-topic").ok_or((400, "MissingTopic"))?;
        let suffix = match push_type {
            "voip" => ".voip",
            "complication" => ".complication",
            "fileprovider" => ".pushkit.fileprovider",
            "location" => ".location-query",
            "liveactivity" => ".push-type.liveactivity",
            "pushtotalk" => ".voip-ptt",
            "widgets" => ".push-type.widgets",
            "controls" => ".push-type.controls",
            _ => "",
        };
        if topic.strip_suffix(suffix) == Some(self.topic.as_str()) {
            Ok(())
        } else {
            Err((400, "TopicDisallowed"))
        }
    }
}

fn check_path(path: &str) -> Result<(), Refusal> {
    let token = path.strip_prefix(DEVICE_PATH).ok_or((404, "BadPath"))?;
    if token.is_empty() {
        return Err((400, "MissingDeviceToken"));
    }
    let is_token = (64..=200).contains(&token.len())
        && token.len().is_multiple_of(2)
        && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_token { Ok(()) } else { Err((400, "BadDeviceToken")) }
}

fn check_options(call: &Call, push_type: &str) -> Result<(), Refusal> {
    if call.headers.contains_key("apns-id") && apns_id(call).is_none() {
        return Err((400, "BadMessageId"));
    }
    if let Some(expiration) = call.headers.get("apns-expiration") {
        let expiration = expiration.to_str().ok().and_then(|text| text.parse::<i64>().ok());
        if expiration.is_none_or(|at| at < 0) {
            return Err((400, "BadExpirationDate"));
        }
    }
    if call.headers.contains_key("apns-priority") {
        let priority = call.header("apns-priority").unwrap_or_default();
        // Apple: sending a background notification with priority 10 is an error.
        let is_known =
            matches!(priority, "1" | "5") || priority == "10" && push_type != "background";
        if !is_known {
            return Err((400, "BadPriority"));
        }
    }
    if let Some(collapse_id) = call.headers.get("apns-collapse-id")
        && !(1..=COLLAPSE_ID_BYTES_MAX).contains(&collapse_id.len())
    {
        return Err((400, "BadCollapseId"));
    }
    Ok(())
}

fn check_payload(body: &[u8], push_type: &str) -> Result<(), Refusal> {
    if body.is_empty() {
        return Err((400, "PayloadEmpty"));
    }
    let bytes_max = if push_type == "voip" { VOIP_PAYLOAD_BYTES_MAX } else { PAYLOAD_BYTES_MAX };
    if body.len() > bytes_max {
        return Err((413, "PayloadTooLarge"));
    }
    let payload: Value = serde_json::from_slice(body).map_err(|_| (400, "BadPayload"))?;
    if payload.get("aps").is_some_and(Value::is_object) { Ok(()) } else { Err((400, "BadPayload")) }
}

/// The id of the request, in the only form Apple documents: 8-4-4-4-12 hex digits.
fn apns_id(call: &Call) -> Option<&str> {
    call.header("apns-id").filter(|id| id.len() == 36 && Uuid::try_parse(id).is_ok())
}

/// Targets made for tests, by the first digits of the device token.
fn magic(token: &str) -> Option<Magic> {
    let of = |prefix| token.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if of("dead") {
        Some(Magic::Always(Magic::status(410, "Unregistered")))
    } else if of("e401") {
        Some(Magic::Always(Magic::status(410, "ExpiredToken")))
    } else if of("badd") {
        Some(Magic::Always(Magic::status(400, "BadDeviceToken")))
    } else if of("429a") {
        Some(Magic::throttle(429, "TooManyRequests"))
    } else if of("5105") {
        Some(Magic::slow())
    } else if of("f1a4") {
        Some(Magic::Once(Magic::status(429, "TooManyRequests")))
    } else {
        None
    }
}

impl Twin for ApnsTwin {
    fn judge(&self, call: &Call) -> Judged {
        let mut credentials = None;
        let verdict = self.check(call, &mut credentials);
        let key = apns_id(call).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        let target = call.path().strip_prefix(DEVICE_PATH).unwrap_or(call.path()).to_owned();
        let payload: Option<Value> = serde_json::from_slice(&call.body).ok();
        let refused = verdict.err();
        Judged {
            twin: TwinName::Apns,
            answer: respond(refused, &key),
            notification: payload.as_ref().and_then(reference::notification),
            magic: magic(&target),
            refused: refused.map(|(_, reason)| reason.to_owned()),
            credentials,
            key,
            target,
        }
    }

    /// Seen at Apple: one bad device token, and the next good answer lifts it again.
    fn is_throttled_by(&self, reason: &str) -> bool {
        reason == "BadDeviceToken"
    }

    fn failure(
        &self,
        judged: &Judged,
        code: u16,
        reason: Option<&str>,
    ) -> (Response<Bytes>, String) {
        let reason = reason.unwrap_or(match code {
            200 => "",
            403 => "InvalidProviderToken",
            404 => "BadPath",
            405 => "MethodNotAllowed",
            410 => "Unregistered",
            413 => "PayloadTooLarge",
            429 => "TooManyRequests",
            500 => "InternalServerError",
            503 => "ServiceUnavailable",
            _ => "BadDeviceToken",
        });
        (respond_with(code, reason, &judged.key), reason.to_owned())
    }
}

fn respond(refused: Option<Refusal>, key: &str) -> Response<Bytes> {
    let (code, reason) = refused.unwrap_or((200, ""));
    respond_with(code, reason, key)
}

fn respond_with(code: u16, reason: &str, key: &str) -> Response<Bytes> {
    let body = match (code, reason) {
        (200, _) => Vec::new(),
        // Apple's time stamp: when the token was last seen to be invalid, in milliseconds.
        (410, reason) => {
            json!({ "reason": reason, "timestamp": wall::unix_ms() }).to_string().into_bytes()
        }
        (_, reason) => json!({ "reason": reason }).to_string().into_bytes(),
    };
    let mut response = answer(code, "application/json", body);
    if let Ok(id) = HeaderValue::try_from(key) {
        response.headers_mut().insert(APNS_ID, id);
    }
    response
}
