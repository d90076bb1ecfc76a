//! `bugler store`: moves everything a gateway keeps, backs it up, restores it.

use crate::app::{AppError, MoveError, MoveOptions, MoveReport, Place, carry, release};
use crate::cli::{CliError, Exit, Settings, runtime};
use clap::{Args, Subcommand};
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Move everything to another store, or to another number of shards.
    ///
    /// No gateway may run on either. Notifications that are under way go on at the target, under the
    /// same ids. What is killed is started again, and begins anew. At the end both are compared, and
    /// no gateway starts on the source any more.
    Migrate(Migrate),
    /// Write everything to a directory, from which it can be restored to any store.
    ///
    /// No gateway may run meanwhile.
    Backup(Backup),
    /// Build an empty store from a backup.
    Restore(Restore),
    /// Let gateways start again on a store that was moved away, or that a killed backup holds.
    Release(Release),
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    settings: Settings,
    /// Configuration file of the target; without it that of the source, with what --to-set says.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Override one key of the target: `--to-set store.shards=64`.
    #[arg(long = "to-set", value_name = "KEY=VALUE")]
    to_set: Vec<String>,
    /// Read and count everything; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Gateways may start on the source again. Then what is pending is sent from both.
    #[arg(long)]
    keep_source: bool,
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    #[command(flatten)]
    settings: Settings,
    /// An empty directory, or one that is made.
    dir: PathBuf,
    /// Leave out the files of keys: then keep vault.json and keys.json elsewhere.
    #[arg(long)]
    without_keys: bool,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    #[command(flatten)]
    settings: Settings,
    /// The directory of the backup.
    dir: PathBuf,
    /// Leave out the files of keys.
    #[arg(long)]
    without_keys: bool,
    /// Check the backup and count what is in it; change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Release {
    #[command(flatten)]
    settings: Settings,
}

impl StoreCommand {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let (from, to, options) = match self {
            Self::Migrate(migrate) => {
                let to = Settings {
                    config: migrate.to.clone().or_else(|| migrate.settings.config.clone()),
                    set: match migrate.to {
                        Some(_) => migrate.to_set,
                        None => [migrate.settings.set.clone(), migrate.to_set].concat(),
                    },
                };
                let (dry_run, keep_source) = (migrate.dry_run, migrate.keep_source);
                let options = MoveOptions { dry_run, keep_source, without_keys: false };
                (store(&migrate.settings)?, store(&to)?, options)
            }
            Self::Backup(backup) => {
                let without_keys = backup.without_keys;
                let options = MoveOptions { dry_run: false, keep_source: true, without_keys };
                (store(&backup.settings)?, Place::Backup(backup.dir), options)
            }
            Self::Restore(restore) => {
                let Restore { without_keys, dry_run, .. } = restore;
                let options = MoveOptions { dry_run, keep_source: true, without_keys };
                (Place::Backup(restore.dir), store(&restore.settings)?, options)
            }
            Self::Release(this) => {
                let config = this.settings.load()?;
                let released = runtime()?.block_on(release(&config));
                released.map_err(explain)?;
                return Ok(Exit::Done);
            }
        };
        let report = runtime()?.block_on(carry(&from, &to, options)).map_err(explain)?;
        write_report(out, (&from, &to), options, &report)?;
        Ok(Exit::Done)
    }
}

fn store(settings: &Settings) -> Result<Place, CliError> {
    Ok(Place::Store(Box::new(settings.load()?)))
}

fn explain(error: MoveError) -> CliError {
    let exit = match &error {
        MoveError::Nothing(_) => Exit::NotFound,
        MoveError::Open(AppError::Redis(error)) | MoveError::Redis(error)
            if error.is_temporary() || error.is_unknown() =>
        {
            Exit::Unreachable
        }
        MoveError::Same(_) | MoveError::Secrets { .. } => Exit::Configuration,
        _ => Exit::Failed,
    };
    CliError::new(exit, crate::telemetry::chain(&error))
}

fn write_report(
    out: &mut impl Write,
    (from, to): (&Place, &Place),
    options: MoveOptions,
    report: &MoveReport,
) -> Result<(), CliError> {
    let (totals, counts) = (&report.totals, &report.totals.counts);
    let rows = |table: &str| totals.records.tables.get(table).map_or(0, |(rows, _)| *rows);
    let shown = serde_json::json!({
        "from": from.describe(),
        "to": to.describe(),
        "dryRun": options.dry_run,
        "records": totals.records.rows(),
        "organizations": rows("organizations"),
        "users": rows("users"),
        "blocks": counts.blocks,
        "notifications": counts.notifications,
        "accepted": totals.journal.books.accepted,
        "pending": totals.journal.pending,
        "timers": totals.journal.timers,
        "settlements": counts.settlements,
        "events": counts.events,
        "deadLetters": totals.journal.letters,
        "idempotencyKeys": counts.keys,
        "keyFiles": report.keys,
    });
    writeln!(out, "{shown}")?;
    Ok(())
}
