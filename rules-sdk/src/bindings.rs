//! The types and imports of `wit/bugler-rules.wit`, as Rust sees them.

wit_bindgen::generate!({
    path: "wit",
    world: "route-rule",
    pub_export_macro: true,
    generate_all,
    generate_unused_types: true,
    additional_derives: [PartialEq],
});
