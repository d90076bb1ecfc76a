//! `#[authorize]`, `#[route]` and `#[transform]`: the function below is what the rule's component exports.
//!
//! The attribute leaves the function as it is and adds the SDK's export macro for its name, so that the
//! compiler's messages are about the author's own code.

use proc_macro::{TokenStream, TokenTree};

/// Exports a `fn(&Request<'_>, &Cx<'_>) -> Authorized`.
#[proc_macro_attribute]
pub fn authorize(arguments: TokenStream, function: TokenStream) -> TokenStream {
    export("authorize", &arguments, function)
}

/// Exports a `fn(&Item<'_>, &Cx<'_>) -> Routed`.
#[proc_macro_attribute]
pub fn route(arguments: TokenStream, function: TokenStream) -> TokenStream {
    export("route", &arguments, function)
}

/// Exports a `fn(&Payload<'_>, &Cx<'_>) -> Transformed`.
#[proc_macro_attribute]
pub fn transform(arguments: TokenStream, function: TokenStream) -> TokenStream {
    export("transform", &arguments, function)
}

fn export(hook: &str, arguments: &TokenStream, function: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return error(&format!("#[{hook}] takes no arguments; settings are in rule.toml"));
    }
    let Some(name) = name(&function) else {
        return error(&format!("#[{hook}] goes before a function"));
    };
    let export = format!("::bugler_rules_sdk::export_{hook}!({name});");
    let export: TokenStream = export.parse().unwrap_or_else(|_| error("the name cannot be used"));
    let mut both = function;
    both.extend(export);
    both
}

/// The word after the first `fn` that is not inside brackets.
fn name(function: &TokenStream) -> Option<String> {
    let mut tokens = function.clone().into_iter();
    tokens.find(|token| matches!(token, TokenTree::Ident(word) if word.to_string() == "fn"))?;
    tokens.next().map(|name| name.to_string())
}

fn error(text: &str) -> TokenStream {
    let error = format!("::core::compile_error!({text:?});");
    error.parse().unwrap_or_default()
}
