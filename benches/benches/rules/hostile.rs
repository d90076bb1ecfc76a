//! `case=hostile`: how long a well-behaved organization waits beside one whose rules do their worst.

use crate::guests;
use crate::say;
use crate::traffic::{Flow, Seen, percentile};
use crate::world::{Node, Plan, World, seed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugler_benches::{Failed, judge, micros_each};
use bugler_gateway::model::{OrganizationId, ShardId};
use bugler_gateway::store::disk::DiskStore;
use bugler_loadtest::process;
use http::Method;
use serde_json::json;
use std::time::Duration;

const GOOD: i32 = 101;
/// What the configuration has if it says nothing.
const SHARDS: u16 = 8;
const RATE: f64 = 250.0;
const ROUND: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
/// Loops, eats memory, floods the host with questions, answers with garbage; and the last, which
/// breaks nothing and so opens no breaker, uses all the fuel it may.
const BEHAVIOURS: [&str; 6] = ["loop", "memory", "call_storm", "bad_code", "huge", "burn"];
const WORSE_MAX: f64 = 1.1;
/// What the p99 of such a short stretch varies by itself.
const NOISE_MS: f64 = 5.0;

/// One of the same shard: their notifications are claimed, and judged, side by side.
fn bad() -> i32 {
    let shard = |org: i32| ShardId::of(OrganizationId(org), SHARDS);
    (GOOD + 1..).find(|org| shard(*org) == shard(GOOD)).unwrap_or(GOOD + 1)
}

pub(crate) async fn compare() -> Result<bool, Failed> {
    let bad = bad();
    let world = World::start().await?;
    let home = tempfile::tempdir()?;
    let dir = home.path().join("store");
    std::fs::create_dir_all(&dir)?;
    seed(&DiskStore::open(&dir)?, &[GOOD, bad], &["apns"]).await?;
    let plan = Plan { store: String::new(), dir: home.path(), rules: String::new() };
    let node = world.node(&plan).await?;
    let tokens = [world.token(GOOD)?, world.token(bad)?];
    let good = guests::routing("routing", "1.0.0", "apns")?;
    deploy(&node, (&tokens[0], GOOD), &good).await?;
    for behaviour in BEHAVIOURS {
        deploy(&node, (&tokens[1], bad), &guests::hostile(behaviour)?).await?;
    }
    pause(&node, (&tokens[1], bad), true).await?;
    both(&world, &node, (&tokens, bad, WARM_UP)).await?;
    let mut sides = [Vec::new(), Vec::new()];
    let mut holds = true;
    for _ in 0..ROUNDS {
        for (is_hostile, side) in [false, true].into_iter().zip(&mut sides) {
            pause(&node, (&tokens[1], bad), !is_hostile).await?;
            let busy = process::sample(node.gateway.id())?.cpu;
            let [good, other] = both(&world, &node, (&tokens, bad, ROUND)).await?;
            let used = process::sample(node.gateway.id())?.cpu.saturating_sub(busy);
            let what = if is_hostile { "hostile rules" } else { "rules paused" };
            let (count, delays) = (good.sent.len() + other.sent.len(), good.delays());
            say(&format!(
                "{what}: well-behaved p50 {:.1}, p99 {:.1}, at most {:.1} ms, {} failed; the other p99 \
                 {:.1} ms, {} failed; {:.0} µs of gateway processor each",
                percentile(&delays, 50),
                percentile(&delays, 99),
                percentile(&delays, 100),
                good.failed,
                percentile(&other.delays(), 99),
                other.failed,
                micros_each(used, count.max(1)),
            ))?;
            holds &= good.failed == 0;
            side.extend(delays);
        }
    }
    let [without, with] = sides.map(|mut delays| {
        delays.sort_by(f64::total_cmp);
        percentile(&delays, 99)
    });
    let most = without * WORSE_MAX + NOISE_MS;
    say(&format!("p99 of the well-behaved organization without hostile rules: {without:.1} ms"))?;
    let what = "p99 of the well-behaved one beside them, ms";
    Ok(holds & judge(what, with, &format!("<= {most:.1}"), with <= most)?)
}

async fn deploy(
    node: &Node,
    (token, organization): (&str, i32),
    component: &[u8],
) -> Result<(), Failed> {
    let path = format!("/bugler/v1/organizations/{organization}/rules");
    let component = STANDARD.encode(component);
    let body = json!({ "component": component, "stage": "active", "message": "bench" });
    node.ask((Method::POST, &path, token), &body).await.map(drop)
}

async fn pause(
    node: &Node,
    (token, organization): (&str, i32),
    is_paused: bool,
) -> Result<(), Failed> {
    for behaviour in BEHAVIOURS {
        let rule = behaviour.replace('_', "-");
        let path = format!("/bugler/v1/organizations/{organization}/rules/{rule}");
        let body = json!({ "paused": is_paused, "message": "bench" });
        node.ask((Method::PATCH, &path, token), &body).await?;
    }
    Ok(())
}

/// The same traffic of both organizations at the same time.
async fn both(
    world: &World,
    node: &Node,
    (tokens, bad, length): (&[String; 2], i32, Duration),
) -> Result<[Seen; 2], Failed> {
    world.twins.clear_receipts();
    let good = Flow::start(node, (&tokens[0], GOOD), (RATE, length))?;
    let bad = Flow::start(node, (&tokens[1], bad), (RATE, length))?;
    let (good, bad) = futures_util::future::join(good.finish(world), bad.finish(world)).await;
    Ok([good?, bad?])
}
