//! Builds answers: JSON bodies and Bugler's own headers, which never change a dialect's body.

use crate::api::failure::{Failure, FailureClass};
use crate::intake::Answer;
use crate::server::{ReplyBody, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

pub(crate) const NOTIFICATION_ID: HeaderName = HeaderName::from_static("bugler-notification-id");
pub(crate) const DURABILITY: HeaderName = HeaderName::from_static("bugler-durability");
const ERROR: HeaderName = HeaderName::from_static("bugler-error");
const DETAIL: HeaderName = HeaderName::from_static("bugler-error-detail");
/// `unknown` where the next start decides whether the request was stored.
const OUTCOME: HeaderName = HeaderName::from_static("bugler-outcome");
const HEADERS: usize = 12;
const DETAIL_MAX: usize = 500;
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A JSON answer.
pub(crate) fn json(status: u16, body: impl Into<ReplyBody>) -> Response {
    let mut response = empty(status);
    *response.body_mut() = body.into();
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// An answer without a body.
pub(crate) fn empty(status: u16) -> Response {
    let mut response = Response::new(ReplyBody::default());
    // For the headers that every answer ends up with.
    *response.headers_mut() = HeaderMap::with_capacity(HEADERS);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// A failure in a dialect's envelope, with the headers every dialect shares.
pub(crate) fn failure(status: u16, body: &Value, failure: &Failure) -> Response {
    let mut response = json(status, body.to_string());
    let headers = response.headers_mut();
    headers.insert(ERROR, HeaderValue::from_static(failure.class.code()));
    // The envelopes have little room for the reason, so it travels beside them.
    let detail: String =
        failure.detail.chars().filter(|c| matches!(c, ' '..='~')).take(DETAIL_MAX).collect();
    if let Ok(detail) = HeaderValue::from_str(&detail) {
        headers.insert(DETAIL, detail);
    }
    if failure.class == FailureClass::Uncertain {
        headers.insert(OUTCOME, HeaderValue::from_static("unknown"));
    }
    if let Some(seconds) = failure.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer to an accepted notification, first or repeated.
pub(crate) fn accepted(answer: &Answer, durability: &'static str, is_replay: bool) -> Response {
    let mut response = if answer.body.is_empty() {
        empty(answer.status)
    } else {
        json(answer.status, answer.body.clone())
    };
    let headers = response.headers_mut();
    if !answer.notification.0.is_nil()
        && let Ok(id) = HeaderValue::from_str(&answer.notification.to_string())
    {
        headers.insert(NOTIFICATION_ID, id);
    }
    headers.insert(DURABILITY, HeaderValue::from_static(durability));
    if is_replay {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
