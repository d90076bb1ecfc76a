//! Blynk: users, invitations, pushes and organizations under `/api/v1/organization`.
//!
//! Ids travel as query parameters or in the body, never in the path. A token speaks for its
//! organization and those below it; one of a user also needs the rights its role has.

pub(crate) mod render;

mod actor;
mod bodies;
mod devices;
mod events;
mod fields;
mod invite;
mod limits;
mod lists;
mod organizations;
mod personal;
mod push;
mod roles;
mod transfer;
mod users;
mod wire;

pub(crate) use events::INVITED;
pub use limits::{Blynk, BlynkSettings};
pub(crate) use users::NO_SEAT;

use crate::api::route::Endpoint;
use http::Method;

/// What Blynk's paths serve.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        patterns: &["/api/v1/organization/user/profile"],
        work: |call| Box::pin(lists::profile(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/api/v1/organization/users"],
        work: |call| Box::pin(lists::list(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/api/v1/organization/search/users"],
        work: |call| Box::pin(lists::search(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/api/v1/organization/user"],
        work: |call| Box::pin(lists::get(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/api/v1/organization/users/create"],
        work: |call| Box::pin(users::create(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/api/v1/organization/users/create-in-org"],
        work: |call| Box::pin(users::create_in_org(call)),
    },
    Endpoint {
        method: Method::PUT,
        patterns: &["/api/v1/organization/users/role"],
        work: |call| Box::pin(roles::change(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/api/v1/organization/users/invite"],
        work: |call| Box::pin(invite::invite(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/api/v1/organization/users/register"],
        work: |call| Box::pin(invite::register(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/api/v1/organization/users/transfer"],
        work: |call| Box::pin(transfer::transfer(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/api/v1/organization/users/send-push-notification"],
        work: |call| Box::pin(push::push(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/api/v1/organization/users/fcm-token/register"],
        work: |call| Box::pin(devices::register(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/api/v1/organization/profile"],
        work: |call| Box::pin(organizations::profile(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/api/v1/organization"],
        work: |call| Box::pin(organizations::get(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/api/v1/organization/search"],
        work: |call| Box::pin(organizations::search(call)),
    },
    Endpoint {
        method: Method::GET,
        patterns: &["/api/v1/organization/sub-organizations"],
        work: |call| Box::pin(organizations::children(call)),
    },
    Endpoint {
        method: Method::POST,
        patterns: &["/api/v1/organization/create"],
        work: |call| Box::pin(organizations::create(call)),
    },
];
