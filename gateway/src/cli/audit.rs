//! `bugler audit`: proves the books of a stopped data directory, of Redis, or of a running gateway.

use crate::app::audit_redis;
use crate::audit;
use crate::cli::access::checked;
use crate::cli::client::Gateway;
use crate::cli::{CliError, Exit, Settings, runtime};
use crate::config::Backend;
use crate::journal::disk::LogView;
use clap::Args;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A long log is read whole before the answer begins.
const PATIENCE: Duration = Duration::from_hours(1);

#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(flatten)]
    settings: Settings,
    /// The data directory of a stopped gateway; without it the store of the configuration:
    /// `store.dir`, or Redis, whoever works on that.
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
            None => match &self.data {
                Some(dir) => of_directory(dir)?,
                None => {
                    let config = self.settings.load()?;
                    match config.store.backend {
                        Backend::Embedded => of_directory(&config.store.dir)?,
                        Backend::Redis | Backend::RedisCluster => {
                            let audited = runtime()?.block_on(audit_redis(&config));
                            audited.map_err(|error| CliError::failed(&error))?.to_json()
                        }
                    }
                }
            },
        };
        if self.json {
            writeln!(out, "{report:#}")?;
        } else {
            write!(out, "{}", audit::render(&report))?;
        }
        Ok(if report["good"] == true { Exit::Done } else { Exit::Failed })
    }
}

/// Of the directory of the data, or that of the journal in it.
fn of_directory(dir: &Path) -> Result<Value, CliError> {
    let inner = dir.join("journal");
    let dir = if inner.is_dir() { &inner } else { dir };
    let view = LogView::open(dir).map_err(|error| CliError::failed(&error))?;
    let report = audit::audit(&view).map_err(|error| CliError::failed(&error))?;
    Ok(report.to_json())
}
