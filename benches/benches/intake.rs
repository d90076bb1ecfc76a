//! Intake: durable single requests and bulk, against the same server answering a constant body.
//!
//! `cargo bench -p bugler-benches --bench intake`. Server and generator are two processes on the
//! same cores; cases are interleaved and medians compared, so that a noisy machine hits all alike.

use bugler_benches::{Constant, Failed, Role, api, judge, median, serve};
use bugler_gateway::clock::{Clock, SystemClock};
use bugler_gateway::model::OrganizationId;
use bugler_gateway::server::Service;
use bugler_gateway::store::Store;
use bugler_gateway::store::directory;
use bugler_gateway::store::disk::DiskStore;
use bugler_loadtest::load::{Dialect, Mode};
use std::io::Write;
use std::path::Path;
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

async fn compare() -> Result<(), Failed> {
    let start = |role: &str| Role::start(&[format!("role={role}")]);
    let (constant, intake) = (start("constant")?, start("intake")?);
    let idle = intake.resident_bytes()?;
    let single = || Mode::Single(Dialect::Native);
    let bulk = || Mode::Bulk { lines_per_request: 1000 };
    let mut rates = [const { Vec::new() }; 3];
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let cases = [
            constant.load(single(), CONNECTIONS, ROUND).await?,
            intake.load(single(), CONNECTIONS, ROUND).await?,
            intake.load(bulk(), 8, ROUND).await?,
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
        judge(name, ratio, &format!(">= {goal}"), ratio >= goal)?;
    }
    Ok(())
}
