//! Guest SDK for rule authors: typed views over a batch, constructors for answers, and the export glue.
//!
//! A rule is one function from an item to an answer:
//!
//! ```
//! use bugler_rules_sdk::prelude::*;
//!
//! fn route(item: &Item<'_>, _cx: &Cx<'_>) -> Routed {
//!     if item.notification().priority == Priority::Low { drop_("low") } else { abstain("not_low") }
//! }
//!
//! bugler_rules_sdk::export_route!(route);
//! # fn main() {}
//! ```
//!
//! Build it with `cargo build --release --target wasm32-unknown-unknown` as a `cdylib` and wrap the
//! result with `bugler rule wrap`. On every other target the export is left out, so the same
//! function is unit-tested natively with [`testing`].

mod answer;
mod cx;
mod item;

pub mod bindings;
pub mod guest;
pub mod testing;

pub use answer::{abstain, deliver, drop_, hold};
pub use cx::{BadSetting, Cx, Host, TimeOfDay};
pub use item::Item;

/// What a rule usually needs, in one `use`.
pub mod prelude {
    pub use crate::bindings::bugler::rules::clock::{LocalTime, TzError};
    pub use crate::bindings::bugler::rules::log::Level;
    pub use crate::bindings::bugler::rules::types::{
        Channel, Notification, Plan, Priority, Recipient, RecipientKind, Step, Target, UserStatus,
    };
    pub use crate::bindings::exports::bugler::rules::router::Routed;
    pub use crate::{Cx, Item, TimeOfDay, abstain, deliver, drop_, hold};
}

/// Exports a `fn(&Item<'_>, &Cx<'_>) -> Routed` as the component's `router`.
#[macro_export]
macro_rules! export_route {
    ($route:path) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Rule;
            impl $crate::bindings::exports::bugler::rules::router::Guest for Rule {
                fn route(
                    batch: $crate::bindings::exports::bugler::rules::router::Batch,
                ) -> Vec<$crate::bindings::exports::bugler::rules::router::Routed> {
                    $crate::guest::answer(&batch, $route)
                }
            }
    $crate::bindings::export!(Rule with_types_in $crate::bindings);
        };
    };
}
