//! `case=on`: from the request to the twin with all six shipped rules, against none.

use crate::guests;
use crate::say;
use crate::traffic::{recipients, sequence};
use crate::world::{Node, Plan, World, seed};
use bugler_benches::{Failed, judge, median, micros_each, per_second};
use bugler_gateway::clock::{Clock, SystemClock};
use bugler_gateway::store::disk::DiskStore;
use bugler_loadtest::ledger::ClientLedger;
use bugler_loadtest::load::{Dialect, LoadPlan, Mode, Stop, run};
use bugler_loadtest::process;
use bugler_loadtest::twins::TwinName;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ORG: i32 = 101;
const ROUNDS: usize = 5;
const SENT: u64 = 20_000;
const RATIO_MIN: f64 = 0.8;
const PATIENCE: Duration = Duration::from_secs(60);
const HOUR_MS: u64 = 3_600_000;

struct Side {
    node: Node,
    rates: Vec<f64>,
    costs: Vec<f64>,
    /// The last field: it goes after the gateway.
    _home: TempDir,
}

pub(crate) async fn compare() -> Result<bool, Failed> {
    let world = World::start().await?;
    let token = world.token(ORG)?;
    let chain = chain(world.file("").as_path())?;
    let mut holds = true;
    let ways = [
        ("single requests", Mode::Single(Dialect::Native), 64),
        ("bulk of 200", Mode::Bulk { lines_per_request: 200 }, 4),
    ];
    for (name, mode, connections) in ways {
        let mut sides = [side(&world, String::new()).await?, side(&world, chain.clone()).await?];
        // Phones are met with care, and connections opened: not counted.
        for round in 0..=ROUNDS {
            for side in &mut sides {
                let (rate, cost) = pass(&world, side, (&token, mode.clone(), connections)).await?;
                if round > 0 {
                    side.rates.push(rate);
                    side.costs.push(cost);
                }
            }
        }
        let [none, all] = sides.map(|side| (median(side.rates), median(side.costs)));
        for (what, (rate, cost)) in [("no rules", none), ("all six shipped rules", all)] {
            say(&format!("{name}, {what}: {rate:.0} /s, {cost:.1} µs of gateway processor each"))?;
        }
        let ratio = all.0 / none.0;
        let what = format!("{name}: all rules / none");
        holds &= judge(&what, ratio, &format!(">= {RATIO_MIN}"), ratio >= RATIO_MIN)?;
    }
    Ok(holds)
}

async fn side(world: &World, rules: String) -> Result<Side, Failed> {
    let home = tempfile::tempdir()?;
    let dir = home.path().join("store");
    std::fs::create_dir_all(&dir)?;
    seed(&DiskStore::open(&dir)?, &[ORG], &["apns"]).await?;
    let plan = Plan { store: String::new(), dir: home.path(), rules };
    let node = world.node(&plan).await?;
    Ok(Side { node, rates: Vec::new(), costs: Vec::new(), _home: home })
}

/// Sends a round, and waits until it has arrived: notifications per second, and processor time.
async fn pass(
    world: &World,
    side: &Side,
    (token, mode, connections): (&str, Mode, usize),
) -> Result<(f64, f64), Failed> {
    let first_seq = sequence(SENT);
    let plan = LoadPlan {
        url: side.node.url.clone(),
        token: token.to_owned(),
        mode,
        connections,
        stop: Stop::Total(SENT),
        recipients: recipients(ORG),
        first_seq,
        ..LoadPlan::default()
    };
    let delivered = || world.twins.counts().get(&TwinName::Apns).map_or(0, |c| c.succeeded);
    let (before, busy) = (delivered(), process::sample(side.node.gateway.id())?.cpu);
    let begun = Instant::now();
    let report = run(plan, Arc::new(ClientLedger::open(first_seq, None)?)).await?;
    if report.accepted != SENT {
        return Err(
            format!("{} of {SENT} accepted: {:?}", report.accepted, report.by_status).into()
        );
    }
    while delivered() - before < SENT {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{} of {SENT} were delivered", delivered() - before).into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let elapsed = begun.elapsed();
    let used = process::sample(side.node.gateway.id())?.cpu.saturating_sub(busy);
    let count = usize::try_from(SENT)?;
    Ok((per_second(count, elapsed), micros_each(used, count)))
}

/// All shipped rules as an operator would set them, so that everything goes out: it is no night, and
/// nobody's limit is reached.
fn chain(dir: &Path) -> Result<String, Failed> {
    let hour = SystemClock.now().0 / HOUR_MS % 24;
    let night =
        format!("from = \"{:02}:00\", to = \"{:02}:00\"", (hour + 11) % 24, (hour + 13) % 24);
    let mut chain = String::new();
    for name in guests::SHIPPED {
        let config = match name {
            "event-routing" => "\"route.*\" = \"apns\"",
            "quiet-hours" => &night,
            "throttle-digest" => "max = \"1000000\"",
            _ => "",
        };
        let path = guests::shipped(name, dir)?;
        chain += &format!(
            "[[rules.chain]]\nname = \"{name}\"\nversion = \"0.1.0\"\npath = \"{}\"\n\
             config = {{ {config} }}\n",
            path.display(),
        );
    }
    Ok(chain)
}
