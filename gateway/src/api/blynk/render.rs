//! Failures in Blynk's envelope: `{"error": {"message": …}}`.

use crate::api::failure::{Failure, FailureClass};
use crate::api::reply;
use crate::server::Response;
use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use serde_json::json;

pub(crate) fn render(failure: &Failure) -> Response {
    let message = match failure.class {
        FailureClass::Invalid if failure.fields.is_empty() && !failure.detail.is_empty() => {
            failure.detail.clone()
        }
        FailureClass::Invalid => String::from("Request with incorrect parameters"),
        FailureClass::NoToken | FailureClass::BadToken => String::from("Invalid token."),
        FailureClass::Forbidden | FailureClass::NotFound => failure.detail.clone(),
        FailureClass::MethodNotAllowed => String::from("Method not allowed"),
        FailureClass::Conflict | FailureClass::KeyReused | FailureClass::Exists => {
            failure.detail.clone()
        }
        FailureClass::TooLarge => String::from("Request is too large"),
        FailureClass::UriTooLong => String::from("URI is too long"),
        FailureClass::HeadersTooLarge => String::from("Request header fields are too large"),
        FailureClass::UnsupportedMediaType => String::from("Unsupported media type"),
        FailureClass::Timeout => String::from("Request timeout"),
        FailureClass::Throttled => String::from("Too many requests"),
        FailureClass::Overloaded | FailureClass::Uncertain => String::from("Service unavailable"),
        FailureClass::Internal => String::from("Internal server error"),
    };
    let body = json!({ "error": { "message": message } });
    let mut response = reply::failure(failure.class.status(), &body, failure);
    if matches!(failure.class, FailureClass::NoToken | FailureClass::BadToken) {
        let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
