//! The author's side of rules, as an author meets it: the real binary, real folders, real components.

mod operate;
mod script;
mod shipped;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a command said and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| unreachable!("no JSON, {error}: {self:?}"))
    }
}

/// `bugler rule` with `arguments`, in `dir`.
fn rule(dir: &Path, arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bugler"));
    command.arg("rule").args(arguments).current_dir(dir);
    // Its own, so that runs of the repository's other builds are not waited for.
    command.env("CARGO_TARGET_DIR", target());
    said(&command.output().expect("the binary can be started"))
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Where rules are built: beside the binary, so that a second run finds them.
fn target() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_bugler"));
    binary.ancestors().nth(2).expect("a binary in a target directory").join("author")
}

/// The folder of a shipped rule.
fn shipped_rule(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate has a workspace")
        .join("rules")
        .join(name)
}
