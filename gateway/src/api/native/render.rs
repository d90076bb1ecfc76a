//! Failures of the native API: RFC 9457 `application/problem+json`.

use crate::api::failure::Failure;
use crate::api::reply;
use crate::server::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde_json::json;

pub(crate) fn render(failure: &Failure) -> Response {
    let status = failure.class.status();
    let title = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error");
    let mut body = json!({
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": failure.class.code(),
        "detail": failure.detail,
    });
    if !failure.fields.is_empty() {
        let errors: Vec<_> = failure
            .fields
            .iter()
            .map(|fault| json!({ "path": fault.path, "message": fault.problem }))
            .collect();
        body["errors"] = errors.into();
    }
    let mut response = reply::failure(status, &body, failure);
    let problem = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, problem);
    response
}
