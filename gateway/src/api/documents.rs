//! The documents of what is served, at `/openapi.json` and for each dialect; no token is needed.

use crate::api::Answered;
use crate::api::failure::{Failure, FailureClass};
use crate::api::route::{Call, Endpoint};
use crate::openapi::Documents;
use http::Method;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: Method::GET,
    patterns: &["/openapi.json", "/openapi/{document}"],
    work: |call| Box::pin(std::future::ready(document(&call))),
}];

fn document(call: &Call) -> Result<Answered, Failure> {
    let found = Documents::get().reply(call.request.path(), &call.request.headers);
    found
        .map(Answered::Other)
        .ok_or_else(|| Failure::new(FailureClass::NotFound, "no document has this name"))
}
