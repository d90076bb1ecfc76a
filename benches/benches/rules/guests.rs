//! The rules that are measured: built from this workspace, wrapped, with their manifests.

use bugler_benches::Failed;
use bugler_gateway::rules::{embed_manifest, wrap_component};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const TRIPLE: &str = "wasm32-unknown-unknown";
/// The shipped ones in the order their manifests give.
pub(crate) const SHIPPED: [&str; 6] =
    ["permissions", "event-routing", "quiet-hours", "throttle-digest", "fallback", "pii-redaction"];

static BUILT: OnceLock<PathBuf> = OnceLock::new();

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).map(PathBuf::from).unwrap_or_default()
}

/// The target directory this bench lies in, with the rules built.
fn built() -> Result<PathBuf, Failed> {
    if let Some(built) = BUILT.get() {
        return Ok(built.clone());
    }
    let bench = std::env::current_exe()?;
    let target = bench.ancestors().nth(3).ok_or("this program lies in no target directory")?;
    let script = root().join("scripts/build-rules");
    run(Command::new("bash").arg(script).env("CARGO_TARGET_DIR", target))?;
    // With the script's profile, so that the two builds share their dependencies.
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--release", "--target", TRIPLE])
        .args(["-p", "bugler-rules-sdk", "--example", "hostile"])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target.join("rules-wasm"))
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"))?;
    Ok(BUILT.get_or_init(|| target.to_owned()).clone())
}

fn run(command: &mut Command) -> Result<(), Failed> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {errors}").into()) }
}

/// A shipped rule without its manifest.
pub(crate) fn bare(name: &str) -> Result<Vec<u8>, Failed> {
    let core = std::fs::read(built()?.join(format!("rules/{name}.core.wasm")))?;
    Ok(wrap_component(&core)?)
}

/// A shipped rule with its manifest, as a file of `dir`.
pub(crate) fn shipped(name: &str, dir: &Path) -> Result<PathBuf, Failed> {
    let manifest = std::fs::read_to_string(root().join(format!("rules/{name}/rule.toml")))?;
    let path = dir.join(format!("{name}.wasm"));
    std::fs::write(&path, embed_manifest(&bare(name)?, &manifest)?)?;
    Ok(path)
}

/// A route rule that does what it should not: the behaviour is one of its titles.
pub(crate) fn hostile(behaviour: &str) -> Result<Vec<u8>, Failed> {
    let built = built()?.join("rules-wasm").join(TRIPLE).join("release/examples/hostile.wasm");
    let manifest = format!(
        "[rule]\nname = \"{}\"\nversion = \"1.0.0\"\nhooks = [\"route\"]\n\
         [config]\nbehaviour = \"{behaviour}\"\n",
        behaviour.replace('_', "-"),
    );
    Ok(embed_manifest(&wrap_component(&std::fs::read(built)?)?, &manifest)?)
}

/// A version of `event-routing` under another name, which sends everything on `channel`.
pub(crate) fn routing(name: &str, version: &str, channel: &str) -> Result<Vec<u8>, Failed> {
    static BARE: OnceLock<Vec<u8>> = OnceLock::new();
    let component = match BARE.get() {
        Some(component) => component,
        None => {
            let component = bare("event-routing")?;
            BARE.get_or_init(|| component)
        }
    };
    let manifest = format!(
        "[rule]\nname = \"{name}\"\nversion = \"{version}\"\nhooks = [\"route\"]\n\
         [config]\n\"route.*\" = \"{channel}\"\n"
    );
    Ok(embed_manifest(component, &manifest)?)
}
