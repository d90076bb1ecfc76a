//! Guest SDK for rule authors: typed views over a batch, constructors for answers, and the export glue.
//!
//! A rule is one function from an item to an answer:
//!
//! ```
//! use bugler_rules_sdk::prelude::*;
//!
//! #[route]
//! fn not_low(item: &Item<'_>, _cx: &Cx<'_>) -> Routed {
//!     if item.priority() == Priority::Low { drop_("low") } else { abstain("not_low") }
//! }
//! # fn main() {}
//! ```
//!
//! `bugler rule new` makes a crate of this, `bugler rule build` a component, `bugler rule test` tries
//! it. On every other target than `wasm32` the export is left out, so the same function is unit-tested
//! natively with [`testing`].
//!
//! With the feature `allocator`, which is on by default, a rule's memory is handed out upwards and all
//! free again at the end of a batch.

mod answer;
#[cfg(all(target_arch = "wasm32", feature = "allocator"))]
mod bump;
mod cx;
mod item;
mod memo;

pub mod bindings;
pub mod guest;
pub mod json;
#[doc(hidden)]
pub mod packed;
pub mod testing;

pub use bugler_rules_macros::{authorize, route, transform};

pub use answer::{
    Authorized, abstain, allow, deliver, deny, digest, drop_, drop_payload, hold, keep, no_opinion,
    patch, remove, replace, set,
};
pub use cx::{BadSetting, Counters, Cx, Host, Kv, TimeOfDay};
pub use item::{Item, Payload, Request};

/// What a rule usually needs, in one `use`.
pub mod prelude {
    pub use crate::bindings::bugler::rules::clock::{LocalTime, TzError};
    pub use crate::bindings::bugler::rules::counters::CounterError;
    pub use crate::bindings::bugler::rules::kv::KvError;
    pub use crate::bindings::bugler::rules::log::Level;
    pub use crate::bindings::bugler::rules::types::{
        Channel, Notification, Outcome, Plan, Principal, PrincipalKind, Priority, Recipient,
        RecipientKind, Step, Target, UserStatus, Verdict,
    };
    pub use crate::bindings::router::Routed;
    pub use crate::bindings::transformer::{Edit, Transformed};
    pub use crate::{
        Authorized, BadSetting, Cx, Item, Payload, Request, TimeOfDay, abstain, allow, deliver,
        deny, digest, drop_, drop_payload, hold, keep, no_opinion, patch, remove, replace, set,
    };
    pub use bugler_rules_macros::{authorize, route, transform};
}

/// Exports a `fn(&Request<'_>, &Cx<'_>) -> Authorized` as the component's `authorizer`.
#[macro_export]
macro_rules! export_authorize {
    ($authorize:path) => {
        const _: $crate::guest::Authorize = $authorize;
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::bindings::authorizer;
            struct Rule;
            impl authorizer::Guest for Rule {
                fn authorize(batch: Vec<authorizer::Request>) -> Vec<authorizer::Decision> {
                    $crate::guest::authorize(&batch, $authorize)
                }
            }
            $crate::bindings::authorize_world::export!(Rule with_types_in $crate::bindings::authorize_world);
            impl $crate::bindings::authorize_packed_world::exports::bugler::rules::authorizer_packed::Guest for Rule {
                fn authorize(batch: Vec<u8>) -> Vec<u8> {
                    $crate::packed::authorize(&batch, $authorize)
                }
            }
            $crate::bindings::authorize_packed_world::export!(Rule with_types_in $crate::bindings::authorize_packed_world);
        };
    };
}

/// Exports a `fn(&Item<'_>, &Cx<'_>) -> Routed` as the component's `router`.
#[macro_export]
macro_rules! export_route {
    ($route:path) => {
        const _: $crate::guest::Route = $route;
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::bindings::router;
            struct Rule;
            impl router::Guest for Rule {
                fn route(batch: router::Batch) -> Vec<router::Routed> {
                    $crate::guest::answer(&batch, $route)
                }
            }
            $crate::bindings::route_world::export!(Rule with_types_in $crate::bindings::route_world);
            impl $crate::bindings::route_packed_world::exports::bugler::rules::router_packed::Guest for Rule {
                fn route(batch: Vec<u8>) -> Vec<u8> {
                    $crate::packed::route(&batch, $route)
                }
            }
            $crate::bindings::route_packed_world::export!(Rule with_types_in $crate::bindings::route_packed_world);
        };
    };
}

/// Exports a `fn(&Payload<'_>, &Cx<'_>) -> Transformed` as the component's `transformer`.
#[macro_export]
macro_rules! export_transform {
    ($transform:path) => {
        const _: $crate::guest::Transform = $transform;
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::bindings::transformer;
            struct Rule;
            impl transformer::Guest for Rule {
                fn transform(batch: transformer::Batch) -> Vec<transformer::Transformed> {
                    $crate::guest::transform(&batch, $transform)
                }
            }
            $crate::bindings::transform_world::export!(Rule with_types_in $crate::bindings::transform_world);
            impl $crate::bindings::transform_packed_world::exports::bugler::rules::transformer_packed::Guest for Rule {
                fn transform(batch: Vec<u8>) -> Vec<u8> {
                    $crate::packed::transform(&batch, $transform)
                }
            }
            $crate::bindings::transform_packed_world::export!(Rule with_types_in $crate::bindings::transform_packed_world);
        };
    };
}
