//! Jigx: notifications, inboxes and members under `/v2.0/tool` and `/tool`.

pub(crate) mod render;

mod create;
mod inbox;
mod invite;
mod members;
mod notifications;
mod page;
mod state;
mod time;
mod who;
mod wire;

pub use state::States;

use crate::api::failure::{Failure, FailureClass};
use crate::api::native::account::organization_ref;
use crate::api::route::{Call, Endpoint, Work};
use crate::api::{Answered, Shared, reply};
use crate::auth::Caller;
use crate::model::Organization;
use crate::server::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::json;
use std::sync::Arc;
use who::Who;

/// What Jigx's paths serve.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        patterns: &["/v2.0/tool/version", "/tool/version"],
        work: version,
    },
    Endpoint {
        method: Method::POST,
        patterns: &[
            "/v2.0/tool/organizations/{org}/notifications",
            "/tool/organizations/{org}/notifications",
        ],
        work: |call| Box::pin(create::create(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &[
            "/v2.0/tool/organizations/{org}/notifications",
            "/tool/organizations/{org}/notifications",
        ],
        work: |call| Box::pin(notifications::list(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &[
            "/v2.0/tool/organizations/{org}/notifications/{notification}",
            "/tool/organizations/{org}/notifications/{notification}",
        ],
        work: |call| Box::pin(notifications::get(call)),
    },
    Endpoint {
        method: Method::DELETE,
        patterns: &[
            "/v2.0/tool/organizations/{org}/notifications/{notification}",
            "/tool/organizations/{org}/notifications/{notification}",
        ],
        work: |call| Box::pin(notifications::delete(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/v2.0/tool/organizations/{org}/members", "/tool/organizations/{org}/members"],
        work: |call| Box::pin(invite::create(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &[
            "/v2.0/tool/organizations/{org}/members/{user}/notifications",
            "/tool/organizations/{org}/members/{user}/notifications",
        ],
        work: |call| Box::pin(inbox::list(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &[
            "/v2.0/tool/organizations/{org}/members/{user}/notifications/{notification}",
            "/tool/organizations/{org}/members/{user}/notifications/{notification}",
        ],
        work: |call| Box::pin(inbox::get(call)),
    },
    Endpoint {
        method: Method::PATCH,
        patterns: &[
            "/v2.0/tool/organizations/{org}/members/{user}/notifications/{notification}",
            "/tool/organizations/{org}/members/{user}/notifications/{notification}",
        ],
        work: |call| Box::pin(inbox::patch(call)),
    },
    Endpoint {
        method: Method::DELETE,
        patterns: &[
            "/v2.0/tool/organizations/{org}/members/{user}/notifications/{notification}",
            "/tool/organizations/{org}/members/{user}/notifications/{notification}",
        ],
        work: |call| Box::pin(inbox::delete(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &[
            "/v2.0/tool/organizations/{org}/solutions/{solution}/members",
            "/tool/organizations/{org}/solutions/{solution}/members",
        ],
        work: |call| Box::pin(members::list(call)),
    },
    Endpoint {
        method: Method::PUT,
        patterns: &[
            "/v2.0/tool/organizations/{org}/solutions/{solution}/members/{user}",
            "/tool/organizations/{org}/solutions/{solution}/members/{user}",
        ],
        work: |call| Box::pin(members::put(call)),
    },
    Endpoint {
        method: Method::PATCH,
        patterns: &[
            "/v2.0/tool/organizations/{org}/solutions/{solution}/members/{user}",
            "/tool/organizations/{org}/solutions/{solution}/members/{user}",
        ],
        work: |call| Box::pin(members::patch(call)),
    },
];

/// `GET …/version`; needs no token.
fn version(_: Call) -> Work {
    let body = json!({ "version": env!("CARGO_PKG_VERSION") }).to_string();
    Box::pin(std::future::ready(Ok(Answered::Other(reply::json(200, body)))))
}

/// Who calls, and the organization the path names.
///
/// # Errors
/// 401, 429, then 404 for an unknown organization and 403 for one out of reach.
async fn enter(
    shared: &Shared,
    headers: &HeaderMap,
    org: &str,
) -> Result<(Who, Arc<Organization>), Failure> {
    let caller = shared.caller(headers).await?;
    shared.throttle(caller.organization)?;
    let organization = find_organization(shared, &caller, org).await?;
    let who = Who::of(shared, caller, &organization).await?;
    Ok((who, organization))
}

/// The organization in Jigx's form (uuid) or any other; 404 if unknown, 403 if out of reach.
async fn find_organization(
    shared: &Shared,
    caller: &Caller,
    text: &str,
) -> Result<Arc<Organization>, Failure> {
    match shared.reach(caller, organization_ref(text)).await? {
        Some((organization, true)) => Ok(organization),
        Some((_, false)) => {
            Err(Failure::new(FailureClass::Forbidden, "the organization is not yours"))
        }
        None => Err(Failure::new(FailureClass::NotFound, "no such organization")),
    }
}

/// The answer to a browser that asks whether a page of another origin may call: it may, since
/// every call proves itself by its token and none by a cookie.
pub(super) fn preflight() -> Response {
    let mut response = reply::empty(204);
    let headers = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, PATCH, DELETE, OPTIONS"),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, Content-Type, Idempotency-Key, X-Request-Id",
        ),
        (ACCESS_CONTROL_MAX_AGE, "86400"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets pages of every origin read an answer.
pub(super) fn open_to_pages(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let shown = "Bugler-Error, Bugler-Notification-Id, Retry-After, X-Request-Id";
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(shown));
}
