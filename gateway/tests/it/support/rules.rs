//! The shipped rules: built once per run, wrapped with the gateway's own command.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The wrapped component of a shipped rule.
pub(crate) fn component(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIRECTORY.get_or_init(build).path().join(format!("{name}.wasm"))
}

fn build() -> tempfile::TempDir {
    let target = target_dir();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate has a workspace");
    let script = root.join("scripts/build-rules");
    run(Command::new("bash").arg(script).env("CARGO_TARGET_DIR", &target));
    let wrapped = tempfile::tempdir().expect("a temporary directory");
    for name in ["event-routing", "quiet-hours"] {
        let core = target.join(format!("rules/{name}.core.wasm"));
        let component = wrapped.path().join(format!("{name}.wasm"));
        run(Command::new(env!("CARGO_BIN_EXE_bugler"))
            .args(["rule", "wrap"])
            .args([core, component]));
    }
    wrapped
}

fn run(command: &mut Command) {
    let output = command.output().expect("the command can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

/// The binary lies in `<target dir>/<profile>`.
fn target_dir() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_bugler"));
    binary.ancestors().nth(2).expect("a binary in a target directory").to_owned()
}
