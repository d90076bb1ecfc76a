//! `bugler config`: the reference file, a check, and the settings in force.

use crate::cli::{CliError, Exit, Settings};
use clap::Subcommand;
use std::io::Write;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the commented reference file with every key and its default.
    Init,
    /// Check the settings; prints every problem with its key and exits with 3 if there is one.
    Check(Settings),
    /// Print the settings in force, secrets masked.
    Show(Settings),
}

impl ConfigCommand {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        match self {
            Self::Init => out.write_all(crate::config::REFERENCE.as_bytes())?,
            Self::Check(settings) => {
                settings.load()?;
                writeln!(out, "the configuration is good")?;
            }
            Self::Show(settings) => write!(out, "{}", settings.load()?.effective_toml())?,
        }
        Ok(Exit::Done)
    }
}
