//! Which module may import which, and which outside crates stay behind a fence.

use crate::lexer::is_word;
use crate::repository::Repository;
use crate::source::Source;

const ROOM: &str = "gateway/src/";

/// The modules in the order of a notification's path, from below, with all each may import.
/// `work` is what a journal entry carries: whoever writes or reads entries knows it.
const IMPORTS: [(&str, &[&str]); 24] = [
    ("model", &[]),
    ("telemetry", &[]),
    ("clock", &["model"]),
    ("crash", &[]),
    ("private", &[]),
    ("vault", &["model", "private"]),
    ("lifecycle", &["telemetry"]),
    ("config", &["model"]),
    ("redis", &["clock", "model", "telemetry"]),
    ("journal", &["clock", "crash", "model", "redis", "telemetry"]),
    ("store", &["clock", "model", "redis", "telemetry", "vault"]),
    ("dump", &["journal", "model", "store"]),
    ("work", &["journal", "model", "store"]),
    ("providers", &["clock", "crash", "model", "telemetry"]),
    ("audit", &["journal", "model", "telemetry", "work"]),
    ("rules", &["clock", "crash", "model", "telemetry"]),
    ("auth", &["clock", "model", "private", "telemetry"]),
    ("intake", &["clock", "crash", "journal", "model", "store", "telemetry", "work"]),
    ("server", &["lifecycle", "telemetry"]),
    ("openapi", &["clock", "model", "server"]),
    ("admin", &["lifecycle", "openapi", "server", "telemetry"]),
    (
        "api",
        &[
            "auth",
            "clock",
            "intake",
            "journal",
            "model",
            "openapi",
            "rules",
            "server",
            "store",
            "telemetry",
            "vault",
            "work",
        ],
    ),
    (
        "dispatch",
        &[
            "clock",
            "crash",
            "journal",
            "lifecycle",
            "model",
            "providers",
            "rules",
            "store",
            "telemetry",
            "vault",
            "work",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "audit",
            "auth",
            "clock",
            "config",
            "journal",
            "lifecycle",
            "model",
            "rules",
            "telemetry",
        ],
    ),
];
/// Free to import everything below: the composition root, and the simulation that replaces it.
const ROOT_MODULES: [&str; 4] = ["app", "lib", "main", "sim"];

/// Outside crates and the only places that may name them.
const FENCES: [(&str, &[&str]); 19] = [
    ("a2::", &["providers/apns/"]),
    ("bugler_loadtest::", &["cli/"]),
    ("clap::", &["cli/"]),
    ("fcm_v1::", &["providers/fcm/"]),
    ("h2::", &["providers/transport/"]),
    ("hyper::", &["server/", "api/", "admin/", "providers/", "cli/client.rs"]),
    ("hyper_util::", &["server/", "api/", "admin/", "providers/", "cli/client.rs"]),
    (
        "jsonwebtoken::",
        &["auth/", "providers/apns/auth.rs", "providers/fcm/auth.rs", "providers/error.rs"],
    ),
    ("matchit::", &["api/"]),
    ("metrics_exporter_prometheus::", &["telemetry/"]),
    ("redb::", &["journal/disk/", "store/disk/"]),
    ("redis::", &["redis/", "journal/redis/", "store/redis/"]),
    ("rustls::", &["server/", "providers/"]),
    (
        "std::fs",
        &[
            "app/",
            "clock.rs",
            "cli/",
            "config/",
            "dump/file.rs",
            "journal/disk/",
            "private.rs",
            "providers/apns/shelf.rs",
            "rules/compiled.rs",
            "rules/keeping.rs",
            "rules/registry.rs",
            "rules/trail.rs",
            "store/disk/",
        ],
    ),
    ("tokio_rustls::", &["server/", "providers/"]),
    ("tracing_subscriber::", &["config/keys.rs", "telemetry/"]),
    ("wasmparser::", &["rules/"]),
    ("wasmtime::", &["rules/"]),
    ("wit_component::", &["rules/"]),
];

/// The module at the top of the gateway that `source` belongs to.
fn module(source: &Source) -> Option<&str> {
    let inside = source.path.strip_prefix(ROOM)?;
    inside.split(['/', '.']).next()
}

fn imports(source: &Source) -> Vec<String> {
    let Some(module) = module(source) else { return Vec::new() };
    if ROOT_MODULES.contains(&module) {
        return Vec::new();
    }
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
        return vec![source.finding(0, &format!("`{module}` has no row in the table of imports"))];
    };
    let mut findings = Vec::new();
    for offset in source.uses("crate::").filter(|offset| !source.is_test_at(*offset)) {
        let path = source.code.get(offset + "crate::".len()..).unwrap_or_default();
        for target in targets(path) {
            let is_allowed = target.starts_with(module) && first(&target) == module
                || target.starts_with(char::is_uppercase)
                || allowed.iter().any(|allowed| *allowed == target || *allowed == first(&target));
            if !is_allowed {
                let what = format!("`{module}` must not import `crate::{target}`");
                findings.push(source.finding(offset, &what));
            }
        }
    }
    findings
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

/// The first two names of each path that `text`, which follows `crate::`, imports.
fn targets(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (head, rest) in heads(text) {
        match rest.strip_prefix("::") {
            Some(rest) => {
                paths.extend(heads(rest).into_iter().map(|(next, _)| format!("{head}::{next}")));
            }
            None => paths.push(head.to_owned()),
        }
    }
    paths
}

/// The name at the start of `text`, or those of the group that starts there, each with what
/// follows it.
fn heads(text: &str) -> Vec<(&str, &str)> {
    let name = |text| {
        let text: &str = text;
        let end = text.find(|character| !is_word(character)).unwrap_or(text.len());
        text.split_at(end)
    };
    let Some(group) = text.strip_prefix('{') else { return vec![name(text)] };
    let mut depth = 0;
    let mut is_start = true;
    let mut found = Vec::new();
    for (offset, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if is_start && depth == 0 && is_word(character) => {
                found.push(name(group.get(offset..).unwrap_or_default()));
                is_start = false;
            }
            _ => {}
        }
    }
    found
}

fn fences(source: &Source) -> Vec<String> {
    let Some(inside) = source.path.strip_prefix(ROOM) else { return Vec::new() };
    let mut findings = Vec::new();
    for (name, places) in FENCES {
        if places.iter().any(|place| inside.starts_with(place)) {
            continue;
        }
        for offset in source.uses(name).filter(|offset| !source.is_test_at(*offset)) {
            findings.push(source.finding(offset, &format!("`{name}` belongs to {places:?} only")));
        }
    }
    findings
}

fn all(repository: &Repository) -> Vec<String> {
    let sources = &repository.sources;
    sources.iter().flat_map(imports).chain(sources.iter().flat_map(fences)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect_none;
    use crate::repository::repository;

    fn sample(path: &str, text: &str) -> Source {
        Source::new(&format!("gateway/src/{path}"), text)
    }

    #[test]
    fn modules_import_only_what_lies_below_them() {
        expect_none(&all(repository()));
    }

    #[test]
    fn an_import_upwards_is_found_in_every_spelling() {
        for bad in [
            "use crate::api::Api;",
            "use crate::{model::UserId, api::{Api, Shared}};",
            "fn f() { crate::server::serve(); }",
            "use crate::dispatch::{retry, work};",
            "use crate::{dispatch::shard};",
        ] {
            assert!(!imports(&sample("intake.rs", bad)).is_empty(), "{bad}");
        }
    }

    #[test]
    fn imports_from_the_table_and_in_tests_pass() {
        for good in [
            "use crate::journal::{Append, Entry};\nuse crate::BoxFuture;",
            "use crate::work::Work;",
            "use crate::work::{Overrides, Work};",
            "use crate::intake::KeyState;",
            "// crate::api\n",
            "#[cfg(test)]\nmod tests {\n use crate::api::Api;\n}",
        ] {
            expect_none(&imports(&sample("intake.rs", good)));
        }
    }

    #[test]
    fn a_module_without_a_row_is_found() {
        assert_eq!(imports(&sample("gossip/mod.rs", "")).len(), 1);
    }

    #[test]
    fn an_outside_crate_beyond_its_fence_is_found() {
        let wasm = "use wasmtime::Engine;";
        assert_eq!(fences(&sample("dispatch/mod.rs", wasm)).len(), 1);
        expect_none(&fences(&sample("rules/engine.rs", wasm)));
        let client = "fn f() { let c = a2::Client::new(); }";
        assert_eq!(fences(&sample("providers/fcm/mod.rs", client)).len(), 1);
        assert_eq!(fences(&sample("model/ids.rs", "use std::fs;")).len(), 1);
    }
}
