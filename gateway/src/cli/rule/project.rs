//! A rule: a component, a folder with `rule.toml` that one is built of, or the name of a shipped one.

use crate::cli::rule::build::{self, Built};
use crate::cli::rule::{bench, read, rejected};
use crate::cli::{CliError, Exit};
use crate::rules::{Bench, BenchRule, Hook, Manifest, shipped_component};
use std::path::{Path, PathBuf};

/// A folder with a `rule.toml`.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) dir: PathBuf,
    pub(super) text: String,
    pub(super) manifest: Manifest,
}

impl Project {
    pub(super) fn open(dir: &Path) -> Result<Self, CliError> {
        let path = dir.join("rule.toml");
        let bytes = read(&path).map_err(|_| {
            let text = format!("{} is no rule: it has no rule.toml", dir.display());
            CliError::new(Exit::NotFound, text)
        })?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let manifest = Manifest::parse(&text).map_err(|error| rejected(&error))?;
        let dir = std::path::absolute(dir)?;
        Ok(Self { dir, text, manifest })
    }
}

/// The rule a command is about.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) component: Vec<u8>,
    /// Where it was read or built.
    pub(super) path: PathBuf,
    pub(super) built: Option<Built>,
}

/// A rule on its bench.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) bench: Bench,
    pub(super) rule: BenchRule,
}

impl Subject {
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        if path.is_dir() {
            let built = build::build(&Project::open(path)?, &[])?;
            let (component, path) = (built.component.clone(), built.path.clone());
            return Ok(Self { component, path, built: Some(built) });
        }
        let component = match path.to_str().and_then(shipped_component) {
            Some(shipped) if !path.exists() => shipped.to_vec(),
            _ => read(path)?,
        };
        Ok(Self { component, path: path.to_owned(), built: None })
    }

    pub(super) fn title(&self) -> String {
        self.built.as_ref().map_or_else(|| self.path.display().to_string(), Built::title)
    }

    /// For the sake of its answers.
    pub(super) fn load(&self) -> Result<Loaded, CliError> {
        self.load_into(bench(&self.component, true)?)
    }

    /// For the sake of what it takes: within a gateway's time.
    pub(super) fn load_to_measure(&self) -> Result<Loaded, CliError> {
        self.load_into(bench(&self.component, false)?)
    }

    fn load_into(&self, bench: Bench) -> Result<Loaded, CliError> {
        let name = self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("rule");
        let rule = bench.load(name, &self.component).map_err(|error| rejected(&error))?;
        Ok(Loaded { bench, rule })
    }
}

impl Loaded {
    /// The hook a question is for: the one it names, else the rule's only one.
    pub(super) fn hook(&self, named: Option<Hook>) -> Result<Hook, CliError> {
        let hooks = &self.rule.summary.hooks;
        match (named, hooks.as_slice()) {
            (Some(hook), _) if hooks.contains(&hook) => Ok(hook),
            (Some(hook), _) => {
                let text = format!("the rule has no hook {}", hook.as_str());
                Err(CliError::new(Exit::Failed, text))
            }
            (None, [hook]) => Ok(*hook),
            (None, _) => {
                let text = "the rule has several hooks; say which: hook = \"route\"";
                Err(CliError::new(Exit::Failed, text))
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        let manifest = self.rule.summary.manifest.as_ref();
        manifest.map_or(&self.rule.config().name, |manifest| &manifest.name)
    }

    pub(super) fn version(&self) -> &str {
        &self.rule.config().version
    }
}
