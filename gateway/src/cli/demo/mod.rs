//! `bugler demo`: gateway and twins in one process, the customers' samples, each one's timeline.

mod samples;
mod world;

use crate::app::{App, Start};
use crate::cli::client::Gateway;
use crate::cli::{CliError, Exit, runtime, serve, token, trace};
use crate::model::OrganizationId;
use crate::telemetry::metrics;
use bytes::Bytes;
use clap::Args;
use http::Method;
use samples::Sample;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use world::World;

const TOKEN_TTL: Duration = Duration::from_hours(24);
const POLL: Duration = Duration::from_millis(50);
/// Polls until a sample must have arrived.
const POLLS_MAX: usize = 600;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Send the samples, judge what became of them, and exit with 0 or 1.
    #[arg(long)]
    exit: bool,
    /// Throw away what an earlier demo stored.
    #[arg(long)]
    reset: bool,
    /// Where the demo stores everything.
    #[arg(long, default_value = "bugler-data/demo")]
    data: PathBuf,
    /// Core modules of the shipped rules; default: `rules` beside the binary's directory.
    #[arg(long, env = "BUGLER_RULES")]
    rules: Option<PathBuf>,
    /// Take free ports instead of 2845 to 2858.
    #[arg(long)]
    any_port: bool,
}

impl Demo {
    pub(super) fn run(self, out: &mut (impl Write + Send)) -> Result<Exit, CliError> {
        if self.reset && self.data.join("bugler.toml").is_file() {
            std::fs::remove_dir_all(&self.data)?;
        }
        runtime()?.block_on(self.show(out))
    }

    async fn show(self, out: &mut (impl Write + Send)) -> Result<Exit, CliError> {
        let world = World::build(&self.data, self.rules.as_deref(), self.any_port).await?;
        let _logging = serve::start_logging(&world.config)?;
        let recorder = metrics::install().map_err(|e| CliError::failed(&e))?;
        let seed = Some(world.seed.clone());
        let app = App::start(world.config.clone(), Start { seed, salvages: false }, recorder).await;
        let app = app.map_err(|error| serve::start_error(&error))?;
        let mint = |user| token::mint(&world.config, OrganizationId(101), user, TOKEN_TTL);
        let (org_token, user_token) = (mint(None)?, mint(Some(crate::model::UserId(101)))?);
        let gateway = Gateway::new(&format!("http://{}", world::api(&app)), &org_token)?;
        write!(out, "{}", world.banner(&app))?;
        let mut verdict = Verdict::default();
        for sample in samples::all() {
            let by_user = Gateway::new(&format!("http://{}", world::api(&app)), &user_token)?;
            let as_whom = if sample.by_user { &by_user } else { &gateway };
            show_sample(&sample, as_whom, &gateway, &mut verdict, out).await?;
        }
        let receipts = world.twins.receipts();
        verdict.compare(&receipts, out)?;
        if self.exit {
            app.shutdown().drain();
            app.run().await;
            let exit = if verdict.is_good() { Exit::Done } else { Exit::Failed };
            writeln!(out, "{}", verdict.sentence())?;
            return Ok(exit);
        }
        write!(out, "{}", world.curls(&app, &org_token, &user_token))?;
        out.flush()?;
        tokio::spawn(crate::lifecycle::watch_signals(app.shutdown().clone()));
        Ok(Exit::Served(app.run().await))
    }
}

async fn show_sample(
    sample: &Sample,
    as_whom: &Gateway,
    reader: &Gateway,
    verdict: &mut Verdict,
    out: &mut (impl Write + Send),
) -> Result<(), CliError> {
    writeln!(out, "\n== {}\n   POST {}", sample.title, sample.path)?;
    let body = Bytes::from_static(sample.body.as_bytes());
    let reply = as_whom.send(Method::POST, sample.path, sample.media, body).await?;
    let durability = reply.header("bugler-durability").unwrap_or("-").to_owned();
    writeln!(out, "   {} (durability {durability})", reply.status)?;
    let mut ids = Vec::new();
    if let Some(id) = reply.header("bugler-notification-id") {
        ids.push(id.to_owned());
    }
    for line in String::from_utf8_lossy(&reply.body).lines() {
        writeln!(out, "   {line}")?;
        if sample.is_bulk {
            let parsed: Value = serde_json::from_str(line).unwrap_or_default();
            ids.extend(parsed["id"].as_str().map(str::to_owned));
        }
    }
    verdict.check(reply.status == sample.status, || {
        format!("{}: answered {} instead of {}", sample.title, reply.status, sample.status)
    });
    verdict.check(ids.len() == sample.notifications, || {
        format!("{}: {} notifications instead of {}", sample.title, ids.len(), sample.notifications)
    });
    for id in ids {
        let timeline = follow(reader, &id).await?;
        write!(out, "{}", trace::render(&timeline))?;
        verdict.judge(sample, &id, &timeline);
    }
    Ok(())
}

/// Waits until every delivery has its outcome.
async fn follow(gateway: &Gateway, id: &str) -> Result<Value, CliError> {
    let mut timeline = Value::Null;
    for _ in 0..POLLS_MAX {
        timeline = trace::fetch(gateway, id, None).await?;
        if timeline["state"] == "done" {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(timeline)
}

/// What the demo found wrong, and the deliveries it must find with the twins.
#[derive(Debug, Default)]
struct Verdict {
    delivered: Vec<(String, String)>,
    notifications: usize,
    faults: Vec<String>,
}

impl Verdict {
    fn check(&mut self, is_right: bool, fault: impl FnOnce() -> String) {
        if !is_right {
            self.faults.push(fault());
        }
    }

    fn judge(&mut self, sample: &Sample, id: &str, timeline: &Value) {
        self.notifications += 1;
        self.check(timeline["state"] == "done", || format!("{id}: not settled"));
        let deliveries = &timeline["deliveries"];
        let expected = sample.deliveries;
        self.check(deliveries["delivered"].as_u64() == Some(expected), || {
            format!("{}: {deliveries} instead of {expected} delivered", sample.title)
        });
        let mut ruled = false;
        for event in timeline["timeline"].as_array().into_iter().flatten() {
            ruled |= event["type"] == "ruled";
            if event["state"] == "delivered" {
                let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                self.delivered.push((text("target"), text("delivery")));
            }
        }
        self.check(ruled, || format!("{}: no rule was asked", sample.title));
    }

    /// Each delivery the gateway calls delivered must be in the twins' own books exactly once.
    fn compare(
        &mut self,
        receipts: &[bugler_loadtest::twins::Receipt],
        out: &mut impl Write,
    ) -> Result<(), CliError> {
        let mut missing = String::new();
        for (target, delivery) in &self.delivered {
            let is_slack = target.starts_with("slack:");
            let found = receipts.iter().filter(|receipt| {
                receipt.succeeded() && receipt.key.to_lowercase().contains(delivery.as_str())
            });
            // Slack's hooks take no id of ours, so these are counted below.
            if !is_slack && found.count() != 1 {
                write!(missing, " {target}").ok();
            }
        }
        let slack =
            self.delivered.iter().filter(|(target, _)| target.starts_with("slack:")).count();
        let posted =
            receipts.iter().filter(|r| r.succeeded() && r.key.contains("/services/")).count();
        self.check(posted == slack, || format!("Slack got {posted} messages instead of {slack}"));
        self.check(missing.is_empty(), || format!("the twins do not know of{missing}"));
        writeln!(
            out,
            "\ntwins: {} attempts received, {} deliveries confirmed",
            receipts.len(),
            self.delivered.len()
        )?;
        Ok(())
    }

    fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    fn sentence(&self) -> String {
        if self.is_good() {
            return format!(
                "verdict: good. {} notifications, {} deliveries, every one confirmed by its provider twin",
                self.notifications,
                self.delivered.len()
            );
        }
        format!("verdict: BAD\n  {}", self.faults.join("\n  "))
    }
}
