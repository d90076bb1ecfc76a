//! REST: failures in the envelope `{"code", "message", "details"}`.

use super::fault::Fault;
use super::proto::ERROR_DETAIL_TYPE;
use crate::api::failure::Failure;
use crate::api::reply;
use crate::server::Response;
use serde_json::json;

/// A failure found before the call was.
pub(crate) fn render(failure: &Failure) -> Response {
    refused(&Fault::from(failure.clone()))
}

pub(super) fn refused(fault: &Fault) -> Response {
    let details = fault.detail().map(
        |detail| json!({ "@type": ERROR_DETAIL_TYPE, "id": detail.id, "message": detail.message }),
    );
    let body = json!({
        "code": fault.code.number(),
        "message": fault.message(),
        "details": details.into_iter().collect::<Vec<_>>(),
    });
    reply::failure(fault.failure.class.status(), &body, &fault.failure)
}
