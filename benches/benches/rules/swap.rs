//! `case=swap`: rules deployed, promoted and rolled back all the time under a constant load.
//!
//! One version sends to APNs, the other to FCM, so each delivery says which version judged it.

use crate::guests;
use crate::say;
use crate::traffic::{Flow, Seen, percentile, unix_ms};
use crate::world::{Node, Plan, World, seed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugler_benches::{Failed, judge};
use bugler_gateway::redis::{Redis, RedisOptions};
use bugler_gateway::store::disk::DiskStore;
use bugler_gateway::store::redis::RedisStore;
use bugler_gateway::vault::Vault;
use bugler_loadtest::redis::{Server, ServerOptions};
use bugler_loadtest::twins::TwinName;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const ORG: i32 = 101;
const RATE: f64 = 500.0;
const ROUND: Duration = Duration::from_secs(12);
const WARM_UP: Duration = Duration::from_secs(4);
const ROUNDS: usize = 2;
const BETWEEN: Duration = Duration::from_millis(100);
/// Every so many swaps another version is uploaded, checked and compiled.
const DEPLOY_EVERY: usize = 10;
const LATE_MS: f64 = 100.0;
const FORCE_MS_MAX: f64 = 100.0;
const SHARDS: u16 = 16;
/// Twins say when something came in whole milliseconds, and so do plans.
const CLOCKS_MS: f64 = 2.0;

/// A version that is in force from an answer on.
struct Swap {
    asked_at: f64,
    answered_at: f64,
    twin: TwinName,
}

/// What was done to the rules while a flow ran.
#[derive(Default)]
struct Done {
    swaps: Vec<Swap>,
    deploys: usize,
}

pub(crate) async fn compare() -> Result<bool, Failed> {
    let world = World::start().await?;
    Ok(embedded(&world).await? & on_redis(&world).await?)
}

async fn embedded(world: &World) -> Result<bool, Failed> {
    let home = tempfile::tempdir()?;
    let dir = home.path().join("store");
    std::fs::create_dir_all(&dir)?;
    seed(&DiskStore::open(&dir)?, &[ORG], &["apns", "fcm"]).await?;
    let plan = Plan { store: String::new(), dir: home.path(), rules: String::new() };
    let nodes = [world.node(&plan).await?];
    let token = world.token(ORG)?;
    prepare(&nodes, &token).await?;
    Flow::start(&nodes[0], (&token, ORG), (RATE, WARM_UP))?.finish(world).await?;
    let (mut still, mut moving, mut done) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        still.push(Flow::start(&nodes[0], (&token, ORG), (RATE, ROUND))?.finish(world).await?);
        let (seen, did) = swapped(world, &nodes, &token).await?;
        moving.push(seen);
        done.push(did);
    }
    show("one gateway", "no swaps", &still)?;
    let mut holds = show("one gateway", "swapping", &moving)?;
    let (swaps, deploys) = count(&done);
    say(&format!("one gateway: {swaps} promotes and roll backs, {deploys} deploys"))?;
    let late = |all: &[Seen]| all.iter().map(|seen| seen.later_than(LATE_MS)).sum::<usize>();
    let more = late(&moving).saturating_sub(late(&still));
    let what = "one gateway: later than 100 ms, more than without";
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousand at most")]
    let number = more as f64;
    holds &= judge(what, number, "0", more == 0)?;
    holds &= forced("one gateway", &moving, &done)?;
    Ok(holds)
}

/// Two processes on one server; changes are asked of one and of the other.
async fn on_redis(world: &World) -> Result<bool, Failed> {
    let server = Server::start(ServerOptions::default())?;
    let home = tempfile::tempdir()?;
    let redis = Redis::open(&RedisOptions::single(server.url())).await?;
    redis.settle_layout(SHARDS).await?;
    let vault = world.file("vault.json");
    let store = RedisStore::open(redis, SHARDS, Vault::load_or_create(&vault)?).await?;
    seed(&store, &[ORG], &["apns", "fcm"]).await?;
    drop(store);
    let store = format!(
        "backend = \"redis\"\nshards = {SHARDS}\nvault_file = \"{}\"\n[store.redis]\n\
         urls = [\"{}\"]",
        vault.display(),
        server.url(),
    );
    let dirs = [home.path().join("one"), home.path().join("two")];
    let mut nodes = Vec::new();
    for dir in &dirs {
        std::fs::create_dir_all(dir)?;
        let plan = Plan { store: store.clone(), dir, rules: String::new() };
        nodes.push(world.node(&plan).await?);
    }
    let token = world.token(ORG)?;
    prepare(&nodes, &token).await?;
    Flow::start(&nodes[0], (&token, ORG), (RATE, WARM_UP))?.finish(world).await?;
    let still = Flow::start(&nodes[0], (&token, ORG), (RATE, ROUND))?.finish(world).await?;
    let (seen, done) = swapped(world, &nodes, &token).await?;
    show("two gateways", "no swaps", &[still])?;
    let seen = [seen];
    let mut holds = show("two gateways", "swapping", &seen)?;
    let done = [done];
    let (swaps, deploys) = count(&done);
    say(&format!("two gateways: {swaps} promotes and roll backs, {deploys} deploys"))?;
    holds &= forced("two gateways", &seen, &done)?;
    Ok(holds)
}

fn count(done: &[Done]) -> (usize, usize) {
    let swaps = done.iter().map(|done| done.swaps.len()).sum();
    (swaps, done.iter().map(|done| done.deploys).sum())
}

fn show(who: &str, what: &str, all: &[Seen]) -> Result<bool, Failed> {
    let mut delays: Vec<_> = all.iter().flat_map(Seen::delays).collect();
    delays.sort_by(f64::total_cmp);
    let failed: u64 = all.iter().map(|seen| seen.failed).sum();
    let late: usize = all.iter().map(|seen| seen.later_than(LATE_MS)).sum();
    say(&format!(
        "{who}, {what}: {} delivered, {failed} failed, {late} later than 100 ms; \
         p50 {:.1}, p99 {:.1}, at most {:.1} ms",
        delays.len(),
        percentile(&delays, 50),
        percentile(&delays, 99),
        percentile(&delays, 100),
    ))?;
    Ok(failed == 0)
}

/// The longest time after an answer at which something that was sent after it was judged by the
/// version before.
fn forced(who: &str, seen: &[Seen], done: &[Done]) -> Result<bool, Failed> {
    let mut longest = 0.0_f64;
    let mut judged = 0;
    for (seen, done) in seen.iter().zip(done) {
        for pair in done.swaps.windows(2) {
            let [swap, next] = pair else { continue };
            for sent in &seen.sent {
                let is_after = sent.planned_ms > swap.answered_at + CLOCKS_MS;
                // Not judged by the next one, which may send to the same twin.
                if !is_after || sent.attempted_at + CLOCKS_MS > next.asked_at {
                    continue;
                }
                judged += 1;
                if sent.twin != swap.twin {
                    longest = longest.max(sent.planned_ms - swap.answered_at);
                }
            }
        }
    }
    let what = format!("{who}: ms until all is judged anew ({judged} seen)");
    judge(&what, longest, &format!("<= {FORCE_MS_MAX}"), longest <= FORCE_MS_MAX && judged > 0)
}

const RULES: &str = "/bugler/v1/organizations/101/rules";
const RULE: &str = "/bugler/v1/organizations/101/rules/routing";

async fn deploy(node: &Node, token: &str, (version, stage): (&str, &str)) -> Result<Value, Failed> {
    let channel = if version.ends_with(".1") { "fcm" } else { "apns" };
    let component = STANDARD.encode(guests::routing("routing", version, channel)?);
    let body = json!({ "component": component, "stage": stage, "message": "bench" });
    node.ask((Method::POST, RULES, token), &body).await
}

/// The version for APNs and then, in force, the one for FCM.
async fn prepare(nodes: &[Node], token: &str) -> Result<(), Failed> {
    let [first, ..] = nodes else { return Err("no gateway".into()) };
    deploy(first, token, ("1.0.0", "active")).await?;
    deploy(first, token, ("1.0.1", "active")).await?;
    Ok(())
}

async fn swapped(world: &World, nodes: &[Node], token: &str) -> Result<(Seen, Done), Failed> {
    let [first, ..] = nodes else { return Err("no gateway".into()) };
    let is_over = Arc::new(AtomicBool::new(false));
    let flow = Flow::start(first, (token, ORG), (RATE, ROUND))?;
    let swapping = async {
        let done = swap(nodes, token, &is_over).await;
        is_over.store(true, Ordering::Relaxed);
        done
    };
    let finishing = async {
        let seen = flow.finish(world).await;
        is_over.store(true, Ordering::Relaxed);
        seen
    };
    let (done, seen) = futures_util::future::join(swapping, finishing).await;
    Ok((seen?, done?))
}

async fn swap(nodes: &[Node], token: &str, is_over: &AtomicBool) -> Result<Done, Failed> {
    let mut done = Done::default();
    let [first, ..] = nodes else { return Err("no gateway".into()) };
    let shown = first.ask((Method::GET, RULE, token), &Value::Null).await?;
    let digest = shown["active"]["digest"].clone();
    while !is_over.load(Ordering::Relaxed) {
        for (node, n) in nodes.iter().cycle().zip(0..DEPLOY_EVERY) {
            let (body, twin) = if n % 2 == 0 {
                (json!({ "rollback": true, "message": "bench" }), TwinName::Apns)
            } else {
                let to = json!({ "stage": "active", "digest": digest, "message": "bench" });
                (to, TwinName::Fcm)
            };
            let asked_at = unix_ms();
            node.ask((Method::PATCH, RULE, token), &body).await?;
            done.swaps.push(Swap { asked_at, answered_at: unix_ms(), twin });
            tokio::time::sleep(BETWEEN).await;
        }
        // Judges nothing, but is checked, compiled and kept like any other.
        deploy_other(first, token).await?;
        done.deploys += 1;
    }
    Ok(done)
}

/// A new version of another rule, so that no roll back of the first takes it back.
async fn deploy_other(node: &Node, token: &str) -> Result<(), Failed> {
    static VERSION: AtomicUsize = AtomicUsize::new(0);
    let version = format!("1.0.{}", VERSION.fetch_add(1, Ordering::Relaxed));
    let component = STANDARD.encode(guests::routing("another", &version, "apns,fcm")?);
    let body = json!({ "component": component, "stage": "shadow", "message": "bench" });
    node.ask((Method::POST, RULES, token), &body).await.map(drop)
}
