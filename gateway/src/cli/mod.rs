//! The command line: one binary for serving, authoring rules, following notifications and load.
//!
//! Data goes to standard output, talk and errors to standard error; exit codes are in `Exit`.

mod access;
mod again;
mod amend;
mod audit;
mod client;
mod config;
mod dead;
#[cfg(feature = "harness")]
mod demo;
mod explain;
#[cfg(feature = "harness")]
mod load;
mod oauth_client;
mod outcomes;
mod rule;
mod serve;
mod store;
mod token;
#[cfg(feature = "harness")]
mod torture;
mod trace;
mod why;

use clap::{Args, Parser, Subcommand};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// How long a thread for blocking work waits for more of it.
const BLOCKING_IDLE_MAX: Duration = Duration::from_secs(1);

/// Exit codes, never reused for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    /// Nothing was found out, for want of something.
    CouldNotRun,
    Configuration,
    Unreachable,
    NotAllowed,
    NotFound,
    Conflict,
    RuleTestFailed,
    RuleRejected,
    OutsideGate,
    ThresholdMissed,
    /// As the gateway itself ended.
    Served(u8),
}

impl Exit {
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::CouldNotRun => 2,
            Self::Configuration => 3,
            Self::Unreachable => 4,
            Self::NotAllowed => 5,
            Self::NotFound => 6,
            Self::Conflict => 7,
            Self::RuleTestFailed => 10,
            Self::RuleRejected => 11,
            Self::OutsideGate => 12,
            Self::ThresholdMissed => 99,
            Self::Served(code) => code,
        }
    }
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    text: String,
}

impl CliError {
    fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    fn failed(error: &dyn std::error::Error) -> Self {
        Self::new(Exit::Failed, crate::telemetry::chain(error))
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::failed(&error)
    }
}

/// Notification gateway: four HTTP dialects in, durable journal, WASM rules, provider delivery.
#[derive(Debug, Parser)]
#[command(name = "bugler", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::Serve),
    /// Run gateway and provider twins, send sample notifications, show where each went.
    #[cfg(feature = "harness")]
    Demo(demo::Demo),
    /// Run the provider twins alone.
    #[cfg(feature = "harness")]
    Twins(load::Twins),
    /// Put load on a gateway and report what it answered.
    #[cfg(feature = "harness")]
    Load(load::Load),
    /// Play faults from a seed against a gateway and prove by ledgers what it promises.
    #[cfg(feature = "harness")]
    Torture(torture::Torture),
    /// Show what became of a notification: every decision, try and outcome.
    Trace(trace::Trace),
    /// Say in a sentence why a notification went where it went.
    Why(why::Why),
    /// Deliveries that ended, by state and time.
    Outcomes(outcomes::Outcomes),
    /// Dead letters: list, show, replay, discard.
    #[command(subcommand)]
    Dead(dead::Dead),
    /// Send what ended of a notification again.
    Resend(again::Resend),
    /// Take back what has not gone out of a notification.
    Cancel(again::Cancel),
    /// Prove that nothing was lost or counted twice.
    Audit(audit::Audit),
    /// Move, back up and restore everything a gateway keeps.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Mint a bearer token with the keys of a data directory.
    Token(token::Token),
    /// Make the first OAuth client of a gateway.
    #[command(subcommand)]
    Client(oauth_client::ClientCommand),
    /// Write, test, measure, replay and deploy rules.
    #[command(subcommand)]
    Rule(rule::Rule),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Explain an error code, as `BGL-1409`.
    Explain(explain::Explain),
}

/// Where settings come from, for every command that reads them.
#[derive(Clone, Debug, Default, Args)]
struct Settings {
    /// Configuration file; without it the defaults and the environment count.
    #[arg(long, env = "BUGLER_CONFIG")]
    config: Option<PathBuf>,
    /// Override one key: `--set server.listen=127.0.0.1:8080`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Settings {
    fn read(&self) -> Result<crate::config::Config, crate::config::ConfigErrors> {
        crate::config::Config::load(crate::config::ConfigSources {
            file: self.config.clone(),
            env: crate::config::environment(),
            set: self.set.clone(),
        })
    }

    fn load(&self) -> Result<crate::config::Config, CliError> {
        self.read().map_err(|errors| {
            let text = format!("the configuration cannot be used:\n{errors}");
            CliError::new(Exit::Configuration, text)
        })
    }
}

/// Runs the command line of this process; answers its exit code.
#[must_use]
pub fn run() -> u8 {
    let cli = Cli::parse();
    let mut out = io::stdout();
    let result = match cli.command {
        Command::Serve(serve) => serve.run(),
        #[cfg(feature = "harness")]
        Command::Demo(demo) => demo.run(&mut out),
        #[cfg(feature = "harness")]
        Command::Twins(twins) => twins.run(&mut out),
        #[cfg(feature = "harness")]
        Command::Load(load) => load.run(&mut out),
        #[cfg(feature = "harness")]
        Command::Torture(torture) => torture.run(&mut out),
        Command::Trace(trace) => trace.run(&mut out),
        Command::Why(why) => why.run(&mut out),
        Command::Outcomes(outcomes) => outcomes.run(&mut out),
        Command::Dead(dead) => dead.run(&mut out),
        Command::Resend(resend) => resend.run(&mut out),
        Command::Cancel(cancel) => cancel.run(&mut out),
        Command::Audit(audit) => audit.run(&mut out),
        Command::Store(store) => store.run(&mut out),
        Command::Token(token) => token.run(&mut out),
        Command::Client(client) => client.run(&mut out),
        Command::Rule(rule) => rule.run(&mut out),
        Command::Config(config) => config.run(&mut out),
        Command::Explain(explain) => explain.run(&mut out),
    };
    match result {
        Ok(exit) => exit.code(),
        Err(error) => {
            // Nobody is left to tell if standard error is closed.
            writeln!(io::stderr(), "bugler: {}", error.text).ok();
            error.exit.code()
        }
    }
}

/// The runtime every networked command runs on.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // A burst of reads leaves threads behind, and a trickle would keep all of them.
    builder.enable_all().thread_keep_alive(BLOCKING_IDLE_MAX);
    Ok(builder.build()?)
}
