//! Builds the rules for wasm32 once per test run and wraps them into components.

use crate::rules::wrap_component;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const TRIPLE: &str = "wasm32-unknown-unknown";

static GUESTS: OnceLock<HashMap<&'static str, PathBuf>> = OnceLock::new();

/// File of the component `guest`: a shipped rule, `hooks` or `hostile`.
pub(super) fn component(guest: &str) -> PathBuf {
    GUESTS.get_or_init(build)[guest].clone()
}

/// File of the core module that a shipped rule is built to.
pub(super) fn shipped(name: &str) -> PathBuf {
    component("quiet-hours").with_file_name(format!("{name}.core.wasm"))
}

pub(super) fn component_bytes(guest: &str) -> Vec<u8> {
    std::fs::read(component(guest)).unwrap()
}

fn build() -> HashMap<&'static str, PathBuf> {
    let target_dir = target_dir();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    run(Command::new("bash")
        .arg(root.join("scripts/build-rules"))
        .env("CARGO_TARGET_DIR", &target_dir));
    let own_dir = target_dir.join("rules-wasm");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The script's profile, so that the two builds share their dependencies.
    run(Command::new(cargo)
        .args(["build", "--locked", "--release", "--target", TRIPLE])
        .args(["-p", "bugler-rules-sdk", "--example", "hostile", "--example", "hooks"])
        .current_dir(root)
        .env("CARGO_TARGET_DIR", &own_dir)
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"));
    let shipped = |name: &str| target_dir.join(format!("rules/{name}.core.wasm"));
    HashMap::from([
        ("event-routing", wrap(&shipped("event-routing"))),
        ("quiet-hours", wrap(&shipped("quiet-hours"))),
        ("hooks", wrap(&own_dir.join(TRIPLE).join("release/examples/hooks.wasm"))),
        ("hostile", wrap(&own_dir.join(TRIPLE).join("release/examples/hostile.wasm"))),
    ])
}

/// Another test process may write the same file: it appears whole or not at all.
fn wrap(core: &Path) -> PathBuf {
    let component = wrap_component(&std::fs::read(core).unwrap()).unwrap();
    let path = core.with_extension("component.wasm");
    let file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    std::fs::write(file.path(), component).unwrap();
    file.persist(&path).unwrap();
    path
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

/// This test runs from `<target dir>/<profile>/deps`.
fn target_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().to_owned()
}
