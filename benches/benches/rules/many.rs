//! `case=organizations`: many organizations with a rule of their own each: memory and start.

use crate::guests;
use crate::say;
use crate::world::{Node, Plan, World, seed};
use bugler_benches::{Failed, judge};
use bugler_gateway::rules::{DeployedRule, RuleSet, RuleVersion, inspect};
use bugler_gateway::store::disk::DiskStore;
use bugler_loadtest::process;
use std::path::Path;
use std::time::Duration;

pub(crate) const ORGANIZATIONS: usize = 1_000;
/// What docs/rules/performance.md gives each.
const BYTES_MAX: f64 = 512.0 * 1024.0;
const SETTLE: Duration = Duration::from_secs(2);

/// What a gateway took to start, and has resident once it serves.
struct Taken {
    started: Duration,
    processor: Duration,
    resident: u64,
}

pub(crate) async fn compare(count: usize) -> Result<bool, Failed> {
    let world = World::start().await?;
    let (none, many) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let bytes = fill(&many.path().join("store/rules"), count)?;
    let [none, many] = [start(&world, none.path()).await?, start(&world, many.path()).await?];
    say(&format!(
        "{count} organizations with a component of their own each, {:.1} kB on the average",
        each(bytes, count) / 1_000.0,
    ))?;
    for (what, taken) in [("without", &none), ("with all", &many)] {
        say(&format!(
            "{what}: ready after {:.1} s and {:.1} s of processor, {} MiB resident",
            taken.started.as_secs_f64(),
            taken.processor.as_secs_f64(),
            taken.resident >> 20,
        ))?;
    }
    let more = many.resident.saturating_sub(none.resident);
    let one = each(more, count);
    say(&format!("more resident: {} MiB in all", more >> 20))?;
    let goal = format!("<= {:.0}", BYTES_MAX / 1024.0);
    judge("KiB resident for each rule", one / 1024.0, &goal, one <= BYTES_MAX)
}

async fn start(world: &World, dir: &Path) -> Result<Taken, Failed> {
    let store = dir.join("store");
    std::fs::create_dir_all(&store)?;
    seed(&DiskStore::open(&store)?, &[101], &["apns"]).await?;
    let plan = Plan { store: String::new(), dir, rules: String::new() };
    let Node { gateway, started, .. } = world.node(&plan).await?;
    let processor = process::sample(gateway.id())?.cpu;
    tokio::time::sleep(SETTLE).await;
    let resident = process::sample(gateway.id())?.rss_bytes;
    Ok(Taken { started, processor, resident })
}

/// Puts a set where a gateway keeps it: route rules by turns, each with a name, version and settings of
/// its organization, so that no two components are alike. Answers their bytes.
fn fill(dir: &Path, count: usize) -> Result<u64, Failed> {
    const RULES: [&str; 4] = ["event-routing", "quiet-hours", "throttle-digest", "fallback"];
    std::fs::create_dir_all(dir)?;
    let bare = RULES.map(guests::bare);
    let mut set = RuleSet { revision: 1, ..RuleSet::default() };
    let mut sum = 0;
    for (n, component) in (0..count).zip(bare.iter().cycle()) {
        let component = component.as_ref().map_err(ToString::to_string)?;
        let org = i32::try_from(101 + n)?;
        let manifest = format!(
            "[rule]\nname = \"rule-{org}\"\nversion = \"1.0.{n}\"\nhooks = [\"route\"]\n\
             [config]\n\"route.*\" = \"apns\"\nowner = \"organization {org}\"\n"
        );
        let component = bugler_gateway::rules::embed_manifest(component, &manifest)?;
        let summary = inspect(&component, usize::MAX)?;
        std::fs::write(dir.join(format!("{}.wasm", summary.digest)), &component)?;
        sum += u64::try_from(component.len())?;
        set.rules.push(DeployedRule {
            name: format!("rule-{org}"),
            org: Some(org),
            home: org,
            order: 500,
            required: false,
            is_paused: false,
            paused_until: None,
            versions: vec![RuleVersion {
                digest: summary.digest.clone(),
                version: format!("1.0.{n}"),
                bytes: component.len(),
                hooks: summary.hooks,
                ..RuleVersion::default()
            }],
            active: Some(summary.digest),
            before: Vec::new(),
            canary: None,
            shadow: None,
            history: Vec::new(),
            settings: std::collections::BTreeMap::default(),
            shipped: None,
        });
    }
    std::fs::write(dir.join("set.json"), serde_json::to_vec(&set)?)?;
    Ok(sum)
}

#[expect(clippy::cast_precision_loss, reason = "a size shown with three digits")]
fn each(sum: u64, count: usize) -> f64 {
    sum as f64 / count.max(1) as f64
}
