//! `bugler rule dev`: on every change build and test, and put what passes into a gateway.

use crate::cli::rule::operate::{Perhaps, swap};
use crate::cli::rule::project::Subject;
use crate::cli::rule::test::Test;
use crate::cli::{CliError, Exit};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Folders that builds write.
const BUILT: [&str; 4] = ["target", "node_modules", "build", ".git"];

#[derive(Debug, Args)]
pub(in crate::cli) struct Dev {
    /// The rule's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Deploy what passes its tests as the active version; needs --org, --url and --token.
    #[arg(long)]
    swap: bool,
    /// Build, test and swap once, and end.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    at: Perhaps,
}

impl Dev {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let mut seen = None;
        loop {
            let now = changed_at(&self.dir)?;
            if seen != now {
                seen = now;
                let exit = self.round(out).unwrap_or_else(|error| {
                    writeln!(out, "{}", error.text).ok();
                    error.exit
                });
                if self.once {
                    return Ok(exit);
                }
                out.flush()?;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn round(&self, out: &mut impl Write) -> Result<Exit, CliError> {
        let exit = Test::of(&self.dir).run(out)?;
        if self.swap && exit == Exit::Done {
            let subject = Subject::open(&self.dir)?;
            swap(&self.at.at()?, &subject.component, "bugler rule dev")?;
            writeln!(out, "swapped in: {}", subject.title())?;
        }
        Ok(exit)
    }
}

/// When something in the folder was written last.
fn changed_at(dir: &Path) -> Result<Option<SystemTime>, CliError> {
    let mut last = None;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if BUILT.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let own = if entry.file_type()?.is_dir() {
            changed_at(&entry.path())?
        } else {
            Some(entry.metadata()?.modified()?)
        };
        last = last.max(own);
    }
    Ok(last)
}
