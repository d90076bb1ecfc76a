//! `bugler rule build`: cargo or the rule's own command, then a component with manifest and origin inside.

use crate::cli::rule::project::Project;
use crate::cli::rule::{check, read, rejected, write};
use crate::cli::{CliError, Exit};
use crate::rules::{embed_manifest, with_section, wrap_component};
use clap::Args;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "wasm32-unknown-unknown";
/// The custom section that says what a component was built of.
const SECTION: &str = "bugler-build";
/// Folders that are no source.
const NO_SOURCE: [&str; 7] =
    ["target", "node_modules", "tests", ".git", "build", "__pycache__", ".venv"];
/// A rule's instructions are paid for with every item, its bytes with every start.
const PROFILE: [(&str, &str); 5] = [
    // Incremental builds leave other bytes than whole ones.
    ("CARGO_INCREMENTAL", "0"),
    ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];

#[derive(Debug, Args)]
pub(in crate::cli) struct Build {
    /// The rule's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Write the component here instead of into the target folder.
    #[arg(long)]
    out: Option<PathBuf>,
    /// For cargo, after `--`.
    #[arg(last = true)]
    cargo: Vec<String>,
}

impl Build {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let built = build(&Project::open(&self.dir)?, &self.cargo)?;
        if let Some(path) = &self.out {
            write(path, &built.component)?;
        }
        writeln!(out, "built {}", built.title())?;
        writeln!(out, "{}", self.out.as_ref().unwrap_or(&built.path).display())?;
        Ok(Exit::Done)
    }
}

/// What came of a build.
#[derive(Clone, Debug)]
pub(super) struct Built {
    pub(super) component: Vec<u8>,
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) digest: String,
    pub(super) hooks: String,
}

impl Built {
    /// One line for people.
    pub(super) fn title(&self) -> String {
        let tenths = self.component.len() / 100;
        let short: String = self.digest.chars().take(12).collect();
        format!(
            "{} {}  {}.{} kB  sha256:{short}…  {}",
            self.name,
            self.version,
            tenths / 10,
            tenths % 10,
            self.hooks
        )
    }
}

/// What a module came from.
struct Raw {
    module: Vec<u8>,
    /// Where components go.
    folder: PathBuf,
    sdk: String,
}

pub(super) fn build(project: &Project, cargo_arguments: &[String]) -> Result<Built, CliError> {
    let raw = match &project.manifest.build {
        Some(own) => by_command(project, &own.command, own.artifact.as_deref())?,
        None => by_cargo(project, cargo_arguments)?,
    };
    let is_core = is_core_module(&raw.module);
    let component =
        if is_core { wrap_component(&raw.module).map_err(|e| rejected(&e))? } else { raw.module };
    let component = embed_manifest(&component, &project.text).map_err(|e| rejected(&e))?;
    let facts = format!(
        "bugler {} sdk {} source sha256:{}",
        env!("CARGO_PKG_VERSION"),
        raw.sdk,
        source_digest(&project.dir)?
    );
    let component = with_section(component, SECTION, facts.as_bytes());
    let summary = check(&component)?;
    let (name, version) = (project.manifest.name.clone(), project.manifest.version.clone());
    let path = raw.folder.join(format!("{name}-{version}.wasm"));
    write(&path, &component)?;
    let hooks: Vec<_> = summary.hooks.iter().map(|hook| hook.as_str()).collect();
    Ok(Built { component, path, name, version, digest: summary.digest, hooks: hooks.join("+") })
}

/// A core module and a component begin alike; the next byte tells.
fn is_core_module(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(&[1, 0, 0, 0])
}

/// What a component says of its build, if it was built by this command.
pub(super) fn facts(component: &[u8]) -> Option<String> {
    let name = SECTION.as_bytes();
    let at = component.windows(name.len()).rposition(|window| window == name)?;
    let text = component.get(at + name.len()..)?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

fn by_command(project: &Project, command: &str, artifact: Option<&str>) -> Result<Raw, CliError> {
    let status = Command::new("sh")
        .args(["-c", command])
        .current_dir(&project.dir)
        .stdout(Stdio::from(std::io::stderr()))
        .status()?;
    if !status.success() {
        let text = format!("`{command}` failed ({status})");
        return Err(CliError::new(Exit::Failed, text));
    }
    let Some(artifact) = artifact else {
        let text = "rule.toml: build.artifact must name what the command leaves behind";
        return Err(CliError::new(Exit::RuleRejected, text));
    };
    let folder = project.dir.join("target/rules");
    Ok(Raw { module: read(&project.dir.join(artifact))?, folder, sdk: String::from("none") })
}

fn by_cargo(project: &Project, arguments: &[String]) -> Result<Raw, CliError> {
    let about = metadata(&project.dir)?;
    let folder = |name: &str| about[name].as_str().map(PathBuf::from).unwrap_or_default();
    let (target, root) = (folder("target_directory"), folder("workspace_root"));
    let mut command = cargo(&project.dir);
    command
        .args(["build", "--release", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .arg("--target-dir")
        .arg(target.join("rules-wasm"))
        .envs(PROFILE)
        .env("CARGO_ENCODED_RUSTFLAGS", remapped(&root))
        .stderr(Stdio::inherit());
    if is_fetched(&project.dir) {
        command.arg("--offline");
    }
    let output = command.args(arguments).output()?;
    if !output.status.success() {
        let hint = "; if the target is missing: rustup target add wasm32-unknown-unknown";
        return Err(CliError::new(Exit::Failed, format!("cargo could not build the rule{hint}")));
    }
    let artifacts = artifacts(&output.stdout);
    let sdk = artifacts.iter().find(|artifact| artifact["target"]["name"] == "bugler_rules_sdk");
    let sdk = sdk.and_then(|artifact| artifact["package_id"].as_str()).unwrap_or("none");
    let sdk = sdk.rsplit(['#', '@']).next().unwrap_or(sdk).to_owned();
    let module = artifacts.iter().rev().find_map(wasm).ok_or_else(|| {
        let text = "cargo built no module; Cargo.toml needs [lib] crate-type = [\"cdylib\"]";
        CliError::new(Exit::RuleRejected, text)
    })?;
    Ok(Raw { module: read(&module)?, folder: target.join("rules"), sdk })
}

fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir);
    command
}

/// True if everything the rule depends on is here: then nothing is asked of the network.
fn is_fetched(dir: &Path) -> bool {
    let mut fetch = cargo(dir);
    fetch.args(["fetch", "--offline", "--quiet", "--target", TARGET]);
    let status = fetch.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn metadata(dir: &Path) -> Result<Value, CliError> {
    let mut command = cargo(dir);
    let output = command.args(["metadata", "--no-deps", "--format-version", "1"]).output();
    let output = output.map_err(|error| {
        let text =
            format!("cargo cannot be started ({error}); install Rust from https://rustup.rs");
        CliError::new(Exit::Failed, text)
    })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        return Err(CliError::new(Exit::Failed, text));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| CliError::failed(&error))
}

/// Compiler flags that keep this machine's paths out of the module.
fn remapped(root: &Path) -> OsString {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let user = std::env::var_os("HOME").map(PathBuf::from);
        user.map(|user| user.join(".cargo"))
    });
    let mut flags = OsString::from("--remap-path-prefix=");
    flags.push(root);
    flags.push("=/rule");
    if let Some(home) = home {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(home);
        flags.push("=/cargo");
    }
    flags
}

fn artifacts(messages: &[u8]) -> Vec<Value> {
    let lines = messages.split(|byte| *byte == b'\n');
    let parsed = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    parsed.filter(|message| message["reason"] == "compiler-artifact").collect()
}

fn wasm(artifact: &Value) -> Option<PathBuf> {
    let files = artifact["filenames"].as_array()?;
    let paths = files.iter().filter_map(Value::as_str).map(PathBuf::from);
    let is_wasm = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wasm");
    paths.rev().find(is_wasm)
}

/// SHA-256 of everything in the folder that can change the component.
fn source_digest(dir: &Path) -> Result<String, CliError> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let name = file.strip_prefix(dir).unwrap_or(&file).to_string_lossy().into_owned();
        let bytes = read(&file)?;
        digest.update(format!("{name}\n{}\n", bytes.len()));
        digest.update(&bytes);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), CliError> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if NO_SOURCE.iter().any(|no| name == *no) {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}
