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

/// The core module that the component was made of.
pub(super) fn core_bytes(guest: &str) -> Vec<u8> {
    std::fs::read(component(guest).with_extension("").with_extension("wasm")).unwrap()
}

/// So much random WebAssembly, modules and components by turns, or modules with the imports and exports
/// of the core module of `guest`. As many as `BUGLER_RANDOM_WASM` says if it does.
pub(super) fn random_wasm(seed: u32, count: usize, guest: Option<&str>) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let count = std::env::var("BUGLER_RANDOM_WASM").map_or(count, |more| more.parse().unwrap());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["run", "--quiet", "--locked", "--release", "--manifest-path"])
        .arg(root.join("rules-sdk/testdata/random/Cargo.toml"))
        .env("CARGO_TARGET_DIR", target_dir().join("random-wasm"))
        .args(["--", &seed.to_string(), &count.to_string()])
        .args(guest.map(|guest| component(guest).with_extension("").with_extension("wasm")));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rest = output.stdout.as_slice();
    let mut all = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (one, after) = after.split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        all.push(one.to_vec());
        rest = after;
    }
    assert_eq!(all.len(), count);
    all
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
        .env("CARGO_INCREMENTAL", "0")
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
