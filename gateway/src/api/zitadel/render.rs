//! Failures in ZITADEL's REST envelope: `{"code", "message", "details"}` with a gRPC code.

use crate::api::failure::{Failure, FailureClass};
use crate::api::reply;
use crate::server::Response;
use serde_json::json;

pub(crate) fn render(failure: &Failure) -> Response {
    let (code, message) = match failure.class {
        FailureClass::Invalid
        | FailureClass::TooLarge
        | FailureClass::UriTooLong
        | FailureClass::HeadersTooLarge
        | FailureClass::UnsupportedMediaType => (3, failure.detail.as_str()),
        FailureClass::NoToken => (16, "auth header missing"),
        FailureClass::BadToken => (16, "Errors.Token.Invalid (AUTH-7fs1e)"),
        FailureClass::Forbidden => (7, "No matching permissions found (AUTH-5mWD2)"),
        FailureClass::NotFound => (5, "Not Found"),
        FailureClass::MethodNotAllowed => (12, "Method Not Allowed"),
        FailureClass::Conflict | FailureClass::Exists => (6, failure.detail.as_str()),
        FailureClass::KeyReused => (9, failure.detail.as_str()),
        FailureClass::Timeout => (4, "request timed out"),
        FailureClass::Throttled => (8, "too many requests"),
        FailureClass::Overloaded => (14, "service unavailable"),
        FailureClass::Internal => (13, "internal error"),
    };
    let body = json!({ "code": code, "message": message, "details": [] });
    reply::failure(failure.class.status(), &body, failure)
}
