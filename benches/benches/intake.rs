//! Intake: durable single requests and bulk, against the same server answering a constant body.
//!
//! `cargo bench -p bugler-benches --bench intake`. Server and generator are two processes on the
//! same cores; cases are interleaved and medians compared, so that a noisy machine hits all alike.

use bugler_benches::{Constant, Failed, api, serve};
use bugler_gateway::clock::{Clock, SystemClock};
use bugler_gateway::model::OrganizationId;
use bugler_gateway::server::Service;
use bugler_gateway::store::Store;
use bugler_gateway::store::directory;
use bugler_gateway::store::disk::DiskStore;
use bugler_loadtest::ledger::ClientLedger;
use bugler_loadtest::load::{self, Dialect, LoadPlan, Mode, Stop};
use bugler_loadtest::process;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(4);
const CONNECTIONS: usize = 256;

fn main() -> Result<(), Failed> {
    let role = std::env::args().skip(1).find(|arg| arg.starts_with("role="));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match role.as_deref() {
        Some("role=constant") => {
            let constant = Constant("{\"id\":\"0\",\"state\":\"queued\"}");
            runtime.block_on(serve(Arc::new(constant)))
        }
        Some("role=intake") => {
            let home = tempfile::tempdir()?;
            runtime.block_on(async { serve(intake(home.path()).await?).await })
        }
        _ => runtime.block_on(compare()),
    }
}

/// The whole API over an embedded journal, without a dispatcher: what accepting costs.
async fn intake(home: &Path) -> Result<Arc<dyn Service>, Failed> {
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(home)?);
    let document = br#"{"organizations":[{"id":101,"name":"Acme"}]}"#;
    let changes = directory::changes(document, store.as_ref(), SystemClock.now()).await?;
    store.apply(changes).await?;
    api(home, store, &[OrganizationId(101)])
}

/// A server in a process of its own.
struct Role {
    child: Child,
    url: String,
    token: String,
}

impl Role {
    fn start(role: &str) -> Result<Self, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(format!("role={role}"))
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no standard output")?;
        let (mut url, mut token) = (String::new(), String::from("none"));
        for line in BufReader::new(out).lines() {
            let line = line?;
            if let Some(found) = line.strip_prefix("token ") {
                found.clone_into(&mut token);
            }
            if let Some(found) = line.strip_prefix("address ") {
                url = format!("http://{found}");
                break;
            }
        }
        Ok(Self { child, url, token })
    }

    /// Notifications per second and server CPU microseconds per notification.
    async fn load(&self, mode: Mode, connections: usize) -> Result<(f64, f64), Failed> {
        let plan = LoadPlan {
            url: self.url.clone(),
            token: self.token.clone(),
            mode,
            connections,
            stop: Stop::After(ROUND),
            ..LoadPlan::default()
        };
        let before = process::sample(self.child.id())?;
        let ledger = Arc::new(ClientLedger::open(1, None)?);
        let report = load::run(plan, ledger).await?;
        let after = process::sample(self.child.id())?;
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6;
        if report.accepted != report.sent {
            return Err(
                format!("{} of {} refused", report.sent - report.accepted, report.sent).into()
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "a count shown with three digits")]
        let accepted = report.accepted.max(1) as f64;
        Ok((report.notifications_per_s(), cpu / accepted))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // A server that already ended needs no killing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

async fn compare() -> Result<(), Failed> {
    let (constant, intake) = (Role::start("constant")?, Role::start("intake")?);
    let idle = process::sample(intake.child.id())?.rss_bytes;
    let single = || Mode::Single(Dialect::Native);
    let bulk = || Mode::Bulk { lines_per_request: 1000 };
    let mut rates = [const { Vec::new() }; 3];
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let cases = [
            constant.load(single(), CONNECTIONS).await?,
            intake.load(single(), CONNECTIONS).await?,
            intake.load(bulk(), 8).await?,
        ];
        for (case, (rate, cost)) in cases.into_iter().enumerate() {
            rates[case].push(rate);
            costs[case].push(cost);
        }
    }
    let rates = rates.map(median);
    let costs = costs.map(median);
    let mut out = std::io::stdout();
    for (name, case) in [("constant body", 0), ("durable single", 1), ("durable bulk", 2)] {
        writeln!(
            out,
            "{name:<16} {:>9.0} /s   {:>6.2} us server CPU each",
            rates[case], costs[case]
        )?;
    }
    writeln!(out, "idle resident memory   {} KiB", idle / 1024)?;
    let verdicts = [
        ("durable single / constant body", rates[1] / rates[0], 0.65),
        ("bulk / single", rates[2] / rates[1], 8.0),
    ];
    for (name, ratio, goal) in verdicts {
        let mark = if ratio >= goal { "ok" } else { "MISSED" };
        writeln!(out, "{name:<32} {ratio:>6.2}   goal {goal}   {mark}")?;
    }
    Ok(())
}
