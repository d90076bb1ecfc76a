//! `bugler twins` and `bugler load`: the providers' stand-ins and the load generator.

use crate::cli::{CliError, Exit, runtime};
use bugler_loadtest::ledger::ClientLedger;
use bugler_loadtest::load::{self, Dialect, LoadPlan, Mode, Recipients, Stop};
use bugler_loadtest::twins::{FaultPlan, Ports, StandaloneOptions, TwinOptions, standalone};
use clap::{Args, ValueEnum};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Twins {
    /// Where the twins' CA and credentials for a gateway go.
    #[arg(long, default_value = "twin-credentials")]
    credentials: PathBuf,
    /// First of nine loopback ports: APNs, FCM, Slack, Slack without TLS, webhook, webhook
    /// without TLS, SMTP, control, SMTP over TLS. 0 takes free ones.
    #[arg(long, default_value_t = 2850)]
    port: u16,
    /// How providers fail, as `fcm:status=503:5,429:1&delay=150ms;apns:streams=1`.
    #[arg(long, default_value = "")]
    fault: String,
    /// Append every attempt to this file, as JSON lines.
    #[arg(long)]
    receipts: Option<PathBuf>,
}

/// Nine ports from `first` on, or free ones.
pub(super) fn ports(first: u16) -> Ports {
    let nth = |n: u16| if first == 0 { 0 } else { first.saturating_add(n) };
    Ports {
        apns: nth(0),
        fcm: nth(1),
        slack: nth(2),
        slack_plain: nth(3),
        webhook: nth(4),
        webhook_plain: nth(5),
        smtp: nth(6),
        control: nth(7),
        smtp_tls: nth(8),
    }
}

impl Twins {
    pub(super) fn run(self, out: &mut (impl Write + Send)) -> Result<Exit, CliError> {
        let faults = FaultPlan::parse(&self.fault).map_err(|e| CliError::failed(&e))?;
        let twins = TwinOptions {
            ports: ports(self.port),
            receipts_file: self.receipts,
            faults,
            ..TwinOptions::default()
        };
        let options = StandaloneOptions { twins, credentials_dir: self.credentials };
        runtime()?.block_on(standalone(options, out)).map_err(|e| CliError::failed(&e))?;
        Ok(Exit::Done)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LoadMode {
    Jigx,
    Blynk,
    Native,
    Bulk,
}

#[derive(Debug, Args)]
pub(super) struct Load {
    #[arg(long, env = "BUGLER_URL", default_value = "http://127.0.0.1:2845")]
    url: String,
    /// An organization's bearer token.
    #[arg(long, env = "BUGLER_TOKEN", hide_env_values = true)]
    token: String,
    /// How notifications are sent.
    #[arg(long, value_enum, default_value_t = LoadMode::Native)]
    mode: LoadMode,
    /// The organization in Jigx paths.
    #[arg(long, default_value = "101")]
    org: String,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Lines per bulk request.
    #[arg(long, default_value_t = 1000)]
    lines: u32,
    /// Notifications in all; without it the run lasts `--seconds`.
    #[arg(long)]
    total: Option<u64>,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Notifications per second, open loop; as fast as answers come when not given.
    #[arg(long)]
    rate: Option<f64>,
    /// Users `1..=N` in turn.
    #[arg(long, default_value_t = 1)]
    users: u64,
    /// Number of the first notification; runs against the same twins must not overlap.
    #[arg(long, default_value_t = 1)]
    first_seq: u64,
    /// Send an Idempotency-Key with every request.
    #[arg(long)]
    keys: bool,
    /// Write every intent and outcome to this file, as JSON lines.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Exit with 99 unless at least this many notifications per second were accepted.
    #[arg(long)]
    at_least: Option<f64>,
}

impl Load {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let dialect = |dialect| Mode::Single(dialect);
        let plan = LoadPlan {
            url: self.url,
            token: self.token,
            mode: match self.mode {
                LoadMode::Jigx => dialect(Dialect::Jigx { organization: self.org }),
                LoadMode::Blynk => dialect(Dialect::Blynk),
                LoadMode::Native => dialect(Dialect::Native),
                LoadMode::Bulk => Mode::Bulk { lines_per_request: self.lines },
            },
            connections: self.connections,
            stop: self.total.map_or(Stop::After(Duration::from_secs(self.seconds)), Stop::Total),
            rate: self.rate,
            recipients: Recipients { first: 1, last: self.users.max(1), ..Recipients::default() },
            first_seq: self.first_seq,
            idempotency_keys: self.keys,
            ..LoadPlan::default()
        };
        let ledger = ClientLedger::open(self.first_seq, self.ledger.as_deref())?;
        let ledger = Arc::new(ledger);
        let report = runtime()?
            .block_on(load::run(plan, Arc::clone(&ledger)))
            .map_err(|e| CliError::failed(&e))?;
        ledger.sync()?;
        if self.json {
            writeln!(out, "{:#}", report.to_json())?;
        } else {
            writeln!(out, "{report}")?;
        }
        let is_met = self.at_least.is_none_or(|least| report.notifications_per_s() >= least);
        Ok(if is_met { Exit::Done } else { Exit::ThresholdMissed })
    }
}
