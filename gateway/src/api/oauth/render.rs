//! The token endpoint's failures: `{"error", "error_description"}`, never kept by a cache.

use crate::api::failure::{Failure, FailureClass};
use crate::api::oauth::refusal::{TokenError, TokenRefusal};
use crate::api::reply;
use crate::server::Response;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, PRAGMA};
use serde_json::json;

/// What every answer of the endpoint carries (RFC 6749 section 5.1).
pub(super) fn uncached(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

pub(super) fn refused(refusal: &TokenRefusal) -> Response {
    match refusal {
        TokenRefusal::Documented(error, description) => {
            let failure = Failure::new(FailureClass::Invalid, description.clone());
            answer(400, error.as_str(), description, &failure)
        }
        TokenRefusal::Other(failure) => render(failure),
    }
}

pub(crate) fn render(failure: &Failure) -> Response {
    let status = failure.class.status();
    let error = match status {
        429 | 503 | 408 => "temporarily_unavailable",
        500 => "server_error",
        _ => TokenError::InvalidRequest.as_str(),
    };
    let description = match failure.class {
        FailureClass::Throttled => "Too many requests",
        FailureClass::Internal => "Internal server error",
        _ => failure.detail.as_str(),
    };
    answer(status, error, description, failure)
}

fn answer(status: u16, error: &str, description: &str, failure: &Failure) -> Response {
    let body = json!({ "error": error, "error_description": description });
    uncached(reply::failure(status, &body, failure))
}
