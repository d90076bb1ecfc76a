//! The types and imports of `wit/bugler-rules.wit`, as Rust sees them.
//!
//! A component says which hooks it has by what it exports, so each hook has a world and an export
//! macro of its own; a rule with several hooks calls several.

wit_bindgen::generate!({
    path: "wit",
    world: "host-imports",
    generate_all,
    generate_unused_types: true,
    additional_derives: [PartialEq],
});

pub use authorize_world::exports::bugler::rules::authorizer;
pub use route_world::exports::bugler::rules::router;
pub use transform_world::exports::bugler::rules::transformer;

#[doc(hidden)]
pub mod authorize_world {
    wit_bindgen::generate!({
        path: "wit",
        world: "authorize-rule",
        pub_export_macro: true,
        additional_derives: [PartialEq],
        with: {
            "bugler:rules/types@0.1.0": crate::bindings::bugler::rules::types,
            "bugler:rules/log@0.1.0": crate::bindings::bugler::rules::log,
            "bugler:rules/clock@0.1.0": crate::bindings::bugler::rules::clock,
            "bugler:rules/counters@0.1.0": crate::bindings::bugler::rules::counters,
            "bugler:rules/kv@0.1.0": crate::bindings::bugler::rules::kv,
            "bugler:rules/config@0.1.0": crate::bindings::bugler::rules::config,
            "bugler:rules/authorizer@0.1.0": generate,
        },
    });
}

#[doc(hidden)]
pub mod route_world {
    wit_bindgen::generate!({
        path: "wit",
        world: "route-rule",
        pub_export_macro: true,
        additional_derives: [PartialEq],
        with: {
            "bugler:rules/types@0.1.0": crate::bindings::bugler::rules::types,
            "bugler:rules/log@0.1.0": crate::bindings::bugler::rules::log,
            "bugler:rules/clock@0.1.0": crate::bindings::bugler::rules::clock,
            "bugler:rules/counters@0.1.0": crate::bindings::bugler::rules::counters,
            "bugler:rules/kv@0.1.0": crate::bindings::bugler::rules::kv,
            "bugler:rules/config@0.1.0": crate::bindings::bugler::rules::config,
            "bugler:rules/router@0.1.0": generate,
        },
    });
}

#[doc(hidden)]
pub mod transform_world {
    wit_bindgen::generate!({
        path: "wit",
        world: "transform-rule",
        pub_export_macro: true,
        additional_derives: [PartialEq],
        with: {
            "bugler:rules/types@0.1.0": crate::bindings::bugler::rules::types,
            "bugler:rules/log@0.1.0": crate::bindings::bugler::rules::log,
            "bugler:rules/clock@0.1.0": crate::bindings::bugler::rules::clock,
            "bugler:rules/counters@0.1.0": crate::bindings::bugler::rules::counters,
            "bugler:rules/kv@0.1.0": crate::bindings::bugler::rules::kv,
            "bugler:rules/config@0.1.0": crate::bindings::bugler::rules::config,
            "bugler:rules/transformer@0.1.0": generate,
        },
    });
}

#[doc(hidden)]
pub mod authorize_packed_world {
    wit_bindgen::generate!({ path: "wit", world: "authorize-packed", pub_export_macro: true });
}

#[doc(hidden)]
pub mod route_packed_world {
    wit_bindgen::generate!({ path: "wit", world: "route-packed", pub_export_macro: true });
}

#[doc(hidden)]
pub mod transform_packed_world {
    wit_bindgen::generate!({ path: "wit", world: "transform-packed", pub_export_macro: true });
}
