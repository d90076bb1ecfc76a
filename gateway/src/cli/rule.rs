//! `bugler rule`: from a core module to a checked component.

use crate::cli::{CliError, Exit};
use crate::rules::{check_component, wrap_component};
use clap::Subcommand;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Nothing larger is a rule.
const PROBED_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum Rule {
    /// Make a component of a core module built for wasm32-unknown-unknown, and check it.
    Wrap {
        /// What cargo built.
        core: PathBuf,
        /// Where the component goes.
        component: PathBuf,
    },
    /// Say whether the component on standard input can be a rule. The gateway asks itself, in a child
    /// process with little memory and time.
    #[command(hide = true)]
    Probe,
    /// Say whether the gateway would load this component; exits with 11 if not.
    Check { component: PathBuf },
}

impl Rule {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        match self {
            Self::Wrap { core, component } => {
                let bytes = wrap(&core, &component)?;
                writeln!(out, "{}: {bytes} bytes", component.display())?;
            }
            Self::Probe => {
                let mut component = Vec::new();
                std::io::stdin().lock().take(PROBED_BYTES_MAX).read_to_end(&mut component)?;
                check(&component)?;
            }
            Self::Check { component } => {
                let summary = check(&read(&component)?)?;
                writeln!(out, "{}: {summary:?}", component.display())?;
            }
        }
        Ok(Exit::Done)
    }
}

/// Wraps and checks a rule; answers the size of the component.
pub(super) fn wrap(core: &Path, component: &Path) -> Result<usize, CliError> {
    let wrapped = wrap_component(&read(core)?).map_err(|error| rejected(&error))?;
    check(&wrapped)?;
    std::fs::write(component, &wrapped).map_err(|error| {
        CliError::new(Exit::Failed, format!("cannot write {}: {error}", component.display()))
    })?;
    Ok(wrapped.len())
}

fn check(component: &[u8]) -> Result<crate::rules::ComponentSummary, CliError> {
    check_component(component).map_err(|error| rejected(&error))
}

fn rejected(error: &dyn std::error::Error) -> CliError {
    CliError::new(Exit::RuleRejected, crate::telemetry::chain(error))
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|error| {
        CliError::new(Exit::NotFound, format!("cannot read {}: {error}", path.display()))
    })
}
