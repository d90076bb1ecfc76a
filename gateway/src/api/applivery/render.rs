//! Failures in Applivery's envelope: `{"status": false, "error": {"code", "message"}}`.

use crate::api::failure::{Failure, FailureClass};
use crate::api::{ExchangeError, reply};
use crate::server::Response;
use serde_json::json;

fn is_not_configured(failure: &Failure) -> bool {
    failure.fields.is_empty() && failure.detail == ExchangeError::NotConfigured.to_string()
}

pub(crate) fn render(failure: &Failure) -> Response {
    let (status, code, message) = match failure.class {
        // No field is wrong: the sentence stands for itself.
        FailureClass::Invalid if is_not_configured(failure) => (400, 5001, failure.detail.clone()),
        FailureClass::Invalid => (400, 5001, format!("Invalid parameters: {}", failure.detail)),
        FailureClass::NoToken => (401, 4002, String::from("No auth token")),
        FailureClass::BadToken => (401, 4004, String::from("Invalid Token")),
        FailureClass::Forbidden => (403, 4003, String::from("Permission denied")),
        FailureClass::NotFound | FailureClass::MethodNotAllowed => {
            (404, 3001, String::from("Entity not found"))
        }
        FailureClass::Conflict => (409, 3002, failure.detail.clone()),
        FailureClass::KeyReused => (422, 3002, failure.detail.clone()),
        FailureClass::Exists => (409, 3002, String::from("Entity already exists")),
        FailureClass::Throttled => (429, 4029, String::from("Too many requests")),
        FailureClass::Overloaded | FailureClass::Uncertain => {
            (503, 1003, String::from("Service unavailable"))
        }
        FailureClass::Internal => (500, 1000, String::from("Internal error")),
        FailureClass::TooLarge
        | FailureClass::UriTooLong
        | FailureClass::HeadersTooLarge
        | FailureClass::UnsupportedMediaType
        | FailureClass::Timeout => {
            (failure.class.status(), 5001, format!("Invalid parameters: {}", failure.detail))
        }
    };
    let body = json!({ "status": false, "error": { "code": code, "message": message } });
    reply::failure(status, &body, failure)
}
