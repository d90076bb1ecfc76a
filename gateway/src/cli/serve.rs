//! `bugler serve`: the gateway until it is told to stop.

use crate::app::{App, AppError, Reload, Start};
use crate::cli::{CliError, Exit, Settings, runtime};
use crate::config::{Config, LogFormat};
use crate::telemetry::{logging, metrics};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// Import this directory document (organizations, users, devices, subscriptions) before
    /// serving. Records that exist already are updated, never doubled.
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
    /// What this process does where several share the records: `all`, `ingest` or `dispatch`.
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Refuse to start where an answered notification survives less: `D0`, `D1`, `D2` or `D2+R`.
    #[arg(long, value_name = "CLASS")]
    require_durability: Option<String>,
    /// Start although the journal is damaged: what cannot be read is logged, kept in files beside it
    /// and given up. Once; the next start needs it no more.
    #[arg(long)]
    salvage: bool,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
}

impl Serve {
    pub(super) fn run(self) -> Result<Exit, CliError> {
        let mut settings = self.settings;
        for (key, value) in
            [("server.role", self.role), ("store.require_durability", self.require_durability)]
        {
            settings.set.extend(value.map(|value| format!("{key}={value}")));
        }
        let config = settings.load()?;
        if self.check {
            return Ok(Exit::Done);
        }
        let logging = Arc::new(start_logging(&config)?);
        let start = Start { seed: self.seed, salvages: self.salvage };
        runtime()?.block_on(async move {
            let metrics = metrics::install().map_err(|e| CliError::failed(&e))?;
            let app = App::start(config, start, metrics).await.map_err(|e| start_error(&e))?;
            let signals = crate::lifecycle::watch_signals(app.shutdown().clone());
            tokio::spawn(async move {
                if let Err(error) = signals.await {
                    tracing::error!(%error, "signals cannot be received; stop with kill -9");
                }
            });
            let reload = Arc::clone(app.reload());
            tokio::spawn(async move {
                let reread = || reload_once(&settings, &reload, &logging);
                if let Err(error) = crate::lifecycle::watch_hangups(reread).await {
                    tracing::error!(%error, "SIGHUP cannot be received; restart to change settings");
                }
            });
            Ok(Exit::Served(app.run().await))
        })
    }
}

/// Reads all settings again, from where they were read at the start.
fn reload_once(settings: &Settings, reload: &Reload, logging: &logging::Logging) {
    let level =
        |text: &str| logging.set_filter(text).map_err(|error| crate::telemetry::chain(&error));
    reload.take(settings.read(), level);
}

pub(super) fn start_logging(config: &Config) -> Result<logging::Logging, CliError> {
    let format = match config.observability.log_format {
        LogFormat::Auto => logging::LogFormat::Auto,
        LogFormat::Json => logging::LogFormat::Json,
        LogFormat::Pretty => logging::LogFormat::Pretty,
    };
    logging::start(format, &config.observability.log_level).map_err(|e| CliError::failed(&e))
}

/// What a provider, rule, key or certificate is wrong with is a matter of configuration.
pub(super) fn start_error(error: &AppError) -> CliError {
    let exit = match error {
        AppError::Rules(_)
        | AppError::Deployed(_)
        | AppError::Provider { .. }
        | AppError::Tls(_)
        | AppError::Vault(_)
        | AppError::Keys(_) => Exit::Configuration,
        AppError::Redis(error) if error.is_settings() => Exit::Configuration,
        AppError::Journal(_)
        | AppError::Store(_)
        | AppError::Dir { .. }
        | AppError::Redis(_)
        | AppError::Records(_)
        | AppError::Listen { .. }
        | AppError::Seed { .. }
        | AppError::Changes(_)
        | AppError::Redo(_)
        | AppError::Metrics(_)
        | AppError::UnreadableChanges { .. }
        | AppError::NoJournal { .. }
        | AppError::Audit(_)
        | AppError::Start(_) => Exit::Failed,
    };
    CliError::new(exit, crate::telemetry::chain(error))
}
