//! Failures in Jigx's envelope: `{"message": …}`, plus which fields are wrong.

use crate::api::failure::{Failure, FailureClass};
use crate::api::reply;
use crate::server::Response;
use serde_json::json;

pub(crate) fn render(failure: &Failure) -> Response {
    let message = match failure.class {
        FailureClass::Invalid if failure.fields.is_empty() => failure.detail.as_str(),
        FailureClass::Invalid => "Invalid request body",
        FailureClass::NoToken | FailureClass::BadToken => "Unauthorized",
        FailureClass::Forbidden => "Forbidden",
        // The product answers 404 to every method it does not serve.
        FailureClass::NotFound | FailureClass::MethodNotAllowed => "Not Found",
        FailureClass::Conflict | FailureClass::KeyReused | FailureClass::Exists => {
            failure.detail.as_str()
        }
        FailureClass::TooLarge => "Request Too Long",
        FailureClass::UriTooLong => "URI Too Long",
        FailureClass::HeadersTooLarge => "Request Header Fields Too Large",
        FailureClass::UnsupportedMediaType => "Unsupported Media Type",
        FailureClass::Timeout => "Request Timeout",
        FailureClass::Throttled => "Too Many Requests",
        FailureClass::Overloaded | FailureClass::Uncertain => "Service Unavailable",
        FailureClass::Internal => "Internal server error",
    };
    let mut body = json!({ "message": message });
    if failure.class == FailureClass::Invalid && !failure.fields.is_empty() {
        let errors: Vec<_> = failure
            .fields
            .iter()
            .map(|fault| json!({ "path": fault.path, "message": fault.problem }))
            .collect();
        body["errors"] = errors.into();
    }
    let status = match failure.class {
        FailureClass::MethodNotAllowed => 404,
        _ => failure.class.status(),
    };
    reply::failure(status, &body, failure)
}
