//! Crashes while a rule is published: the set before or the set after, whole.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::rules::{HOT, OWN, STEADY, steady};
use super::{Need, Order, Row, Shape, Stage, Trouble, points};
use crate::torture::rules::{Workshop, decisions};

/// A deploy passes C11 twelve times.
const PASSINGS: Range<u64> = 12..20;
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const ROWS: &[Row] =
    &[Row::new("F11", "crash while a rule is published (C11)", crashing_shape, |stage| {
        Box::pin(publication(stage))
    })
    .needs(&[Need::CrashPoints, Need::RuleTools])];

fn crashing_shape(shape: Shape) -> Shape {
    Shape { keys: true, ..shape }.devices_only().order(Order::InFlight)
}

/// Publishes one version after another, and dies at each step of it.
async fn publication(stage: &mut Stage) -> Result<(), Trouble> {
    let workshop = Workshop::open(stage).await?;
    stage.put_in_force(&workshop, OWN, steady("1.0.0")).await?;
    let mut before = stage.in_force(HOT, STEADY).await?;
    let mut published = HashSet::from([before.0.clone()]);
    let mut passed = 0;
    for nth in 1..PASSINGS.end {
        let version = format!("1.0.{nth}");
        let component = workshop.make(steady(&version)).await?;
        if !points::start_armed(stage, "C11", nth).await? {
            return Err(Trouble::Broken(String::from("a start publishes rules")));
        }
        let ended = stage.deploy(OWN, &component, "active").await?;
        points::disarm(stage);
        if ended.code == Some(0) {
            // It would strike later, where nobody expects it.
            stage.stop().await?;
        } else {
            let died = stage.gateway.ended(PATIENCE).await;
            stage.note(format_args!("{version}: died with {died:?}"));
            stage.expect(died.is_some(), || format!("{version}: {}", ended.last_words()));
            stage.gateway.kill();
            stage.crashes += 1;
            passed = nth;
        }
        stage.restart().await?;
        let now = stage.in_force(HOT, STEADY).await?;
        let is_whole = now == before || now.1 == version;
        stage.expect(is_whole, || format!("after {version} version {} is in force", now.1));
        expect_components(stage)?;
        published.insert(now.0.clone());
        before = now;
        if ended.code == Some(0) {
            break;
        }
    }
    stage.remarks.push(format!(
        "died at each of the {passed} steps of a deploy; {} versions were in force",
        published.len()
    ));
    stage.expect(passed >= PASSINGS.start, || format!("only {passed} steps were reached"));
    stage.wait(300..600).await;
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    for timeline in stage.timelines(HOT, &HashSet::new()).await? {
        let stranger = decisions(&timeline, STEADY)
            .find(|one| one["digest"].as_str().is_none_or(|digest| !published.contains(digest)));
        stage.expect(stranger.is_none(), || {
            format!("decided by what was never published: {stranger:?}")
        });
    }
    Ok(())
}

/// Every version of the set that is kept has its component, byte for byte.
fn expect_components(stage: &mut Stage) -> Result<(), Trouble> {
    let folder = stage.launch.store.join("rules");
    let set = std::fs::read(folder.join("set.json")).map_err(Trouble::io("the set of rules"))?;
    let set: Value = serde_json::from_slice(&set).unwrap_or_default();
    let rules = set["rules"].as_array();
    stage.expect(rules.is_some(), || String::from("the set of rules that is kept is not whole"));
    let versions = rules.into_iter().flatten().filter_map(|rule| rule["versions"].as_array());
    for version in versions.flatten() {
        let digest = version["digest"].as_str().unwrap_or_default();
        let bytes = std::fs::read(folder.join(format!("{digest}.wasm"))).unwrap_or_default();
        let found: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        stage.expect(found == digest, || format!("the component of {version} is not there"));
    }
    Ok(())
}
