//! Why rules cannot be loaded, checked or wrapped, and what to change.

use crate::rules::manifest::ManifestError;
use std::error::Error;
use std::path::PathBuf;

type Cause = Box<dyn Error + Send + Sync>;

/// A rule, or the chain, was refused. Nothing of it is in force.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// Says which rule of a chain; the source says why.
    #[error("rule {rule} from {} cannot be used", path.display())]
    InRule { rule: String, path: PathBuf, source: Box<Self> },
    #[error("the rule {rule}: {problem}")]
    BadSetting { rule: String, problem: &'static str },
    #[error("{count} rules are configured; a chain has at most 32")]
    TooManyRules { count: usize },
    #[error(
        "no rule called {name} is shipped; rules.builtin takes {}",
        crate::rules::shipped_rules().collect::<Vec<_>>().join(", ")
    )]
    NotShipped { name: String },
    #[error("the file cannot be read")]
    Read(#[source] std::io::Error),
    #[error(
        "the component is larger than {limit} bytes; build with opt-level \"s\" and strip it; one in \
         JavaScript or Python asks for limits.component = \"24MiB\" in rule.toml, and the gateway \
         needs rules.limits.component and rules.limits.memory as large"
    )]
    TooLarge { limit: usize },
    #[error("this is not WebAssembly in binary form; text form must be assembled first")]
    NotWasm,
    #[error("this is a core module, not a component; wrap it with `bugler rule wrap CORE OUT`")]
    CoreModule,
    #[error("this is a component already; use it as it is")]
    NotCoreModule,
    #[error("the component is malformed or uses a WebAssembly feature that is off")]
    Malformed(#[source] Cause),
    #[error("the component has more than {most} functions; link less code into the rule")]
    TooManyFunctions { most: usize },
    #[error("one function has {bytes} bytes of code, more than {most}; split it")]
    FunctionTooLarge { bytes: usize, most: usize },
    #[error("the component passes strings as UTF-16; rules pass UTF-8")]
    StringEncoding,
    #[error("the component imports {name}; {}", advice(name))]
    ForeignImport { name: String },
    #[error(
        "the component exports none of authorizer, router and transformer of bugler:rules@0.1; \
         export a function with `export_authorize!`, `export_route!` or `export_transform!` of \
         bugler_rules_sdk"
    )]
    NoHook,
    #[error("the component does not fit the worlds of bugler:rules@0.1; build it against this WIT")]
    WrongWorld(#[source] Cause),
    #[error("rule.toml says hooks = {said}, the component exports {has}; make them agree")]
    OtherHooks { said: String, has: String },
    #[error("the manifest in the component is no text; build the component again")]
    ManifestEncoding,
    #[error("the component carries two manifests; build it again from the core module")]
    TwoManifests,
    #[error(
        "the component carries no rule.toml; wrap it with `bugler rule build` or name a manifest"
    )]
    NoManifest,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(
        "limits.{key} in rule.toml is looser than this gateway allows; lower it or leave it out, or \
         raise rules.limits.{key} of the gateway"
    )]
    LooserLimit { key: &'static str },
    #[error("the component cannot start within the memory, fuel and time a rule has")]
    CannotStart(#[source] Cause),
    #[error(
        "the module cannot be wrapped; build it for wasm32-unknown-unknown with bugler-rules-sdk"
    )]
    Wrap(#[source] Cause),
    #[error("the WebAssembly engine cannot start")]
    Engine(#[source] Cause),
    #[error("the process that compiles a rule first cannot be started")]
    Probe(#[source] std::io::Error),
    #[error("the component was refused: {text}")]
    ProbeRefused { text: String },
    #[error(
        "compiling the component took more memory or time than a rule may take; link less code \
         into it and split large functions"
    )]
    ProbeKilled,
    #[error("a thread for rules cannot start")]
    Thread(#[source] std::io::Error),
}

fn advice(import: &str) -> &'static str {
    if import.starts_with("wasi:") {
        "rules have no WASI: build for wasm32-unknown-unknown, with `--stub-wasi` in \
         componentize-py or with `disableFeatures` in componentize-js"
    } else {
        "a rule may import only types, log, clock, counters, kv and config of bugler:rules@0.1"
    }
}
