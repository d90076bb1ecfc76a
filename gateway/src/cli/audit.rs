//! `bugler audit`: proves the books of a stopped data directory, or of a running gateway.

use crate::audit;
use crate::cli::access::checked;
use crate::cli::client::Gateway;
use crate::cli::{CliError, Exit, Settings, runtime};
use crate::journal::disk::LogView;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// A long log is read whole before the answer begins.
const PATIENCE: Duration = Duration::from_hours(1);

#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(flatten)]
    settings: Settings,
    /// The data directory of a stopped gateway; `store.dir` of the configuration without it.
    #[arg(long, conflicts_with = "url")]
    data: Option<PathBuf>,
    /// The operator's port of a running gateway: `http://127.0.0.1:2846`.
    #[arg(long)]
    url: Option<String>,
    /// Print the whole report as JSON.
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let report = match &self.url {
            Some(url) => runtime()?.block_on(async {
                let gateway = Gateway::new(url, "")?.with_patience(PATIENCE);
                checked(&gateway.get("/audit").await?)
            })?,
            None => {
                let dir = match &self.data {
                    Some(dir) => dir.clone(),
                    None => self.settings.load()?.store.dir,
                };
                // The directory of the data, or that of the journal in it.
                let inner = dir.join("journal");
                let dir = if inner.is_dir() { inner } else { dir };
                let view = LogView::open(&dir).map_err(|error| CliError::failed(&error))?;
                let report = audit::audit(&view).map_err(|error| CliError::failed(&error))?;
                report.to_json()
            }
        };
        if self.json {
            writeln!(out, "{report:#}")?;
        } else {
            write!(out, "{}", audit::render(&report))?;
        }
        Ok(if report["good"] == true { Exit::Done } else { Exit::Failed })
    }
}
