//! Versions that go back by themselves, gates that hold others, and shadows of every hook.

use super::deploying::{Node, component, node};
use super::hooks::{request, shown};
use super::*;
use std::time::{Duration, Instant};

fn promote(to: &str, is_forced: bool) -> RuleChange {
    RuleChange::Promote { to: to.parse().unwrap(), digest: None, is_forced }
}

impl Node {
    fn rule(&self) -> DeployedRule {
        self.deployments.set().rules[0].clone()
    }

    /// Shadows are asked after the answer, when there is time.
    fn wait(&self, digest: &str, compared: u64) -> Counts {
        let begun = Instant::now();
        loop {
            let counts = self.deployments.counts(&self.rule(), digest, Stage::Shadow(1));
            if counts.compared >= compared {
                return counts;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{counts:?}");
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn a_version_that_breaks_goes_back_by_itself_and_says_why() {
    let node = node(&Arc::default()).await;
    let good = node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let bad = node.deploy(None, component("hostile", "1.1.0", ""), "active").await.unwrap();
    assert_eq!(node.deployments.judge().await, []);
    let traps = || (0..5).map(|_| item(1, "trap")).collect();
    node.engine.route(NOON, traps()).await;
    let withdrawn = node.deployments.judge().await;
    assert_eq!(withdrawn.len(), 1, "{withdrawn:?}");
    let one = &withdrawn[0];
    assert_eq!((&one.digest, one.stage), (&bad.digest, "active"));
    assert_eq!(one.reason, "5 errors of 5 items in a minute");
    assert_eq!((one.note.org, one.note.actor.as_str()), (OrganizationId(1), "gates"));
    let rule = node.rule();
    assert_eq!(rule.active, Some(good.digest));
    let last = rule.history.last().unwrap();
    assert_eq!((last.what.as_str(), last.by.as_str()), ("withdraw", "gates"));
    assert_eq!(last.message, one.reason);
    assert_eq!(node.versions(vec![item(1, "x")]).await, ["1.0.0"]);
    assert_eq!(node.deployments.judge().await, []);
}

#[tokio::test]
async fn without_a_version_before_it_the_failure_mode_is_what_is_left() {
    let node = node(&Arc::default()).await;
    node.deploy(None, component("hostile", "1.0.0", ""), "active").await.unwrap();
    node.engine.route(NOON, (0..5).map(|_| item(1, "trap")).collect()).await;
    assert_eq!(node.deployments.judge().await, []);
    assert_eq!(node.versions(vec![item(2, "x")]).await, ["1.0.0"]);
}

#[tokio::test]
async fn an_error_ends_a_shadow_and_what_is_in_force_stays() {
    let node = node(&Arc::default()).await;
    let good = node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let bad = node.deploy(None, component("hostile", "1.1.0", ""), "shadow").await.unwrap();
    node.engine.route(NOON, vec![item(1, "trap")]).await;
    node.wait(&bad.digest, 1);
    let withdrawn = node.deployments.judge().await;
    assert_eq!(withdrawn.len(), 1, "{withdrawn:?}");
    assert_eq!(
        (withdrawn[0].stage, withdrawn[0].reason.as_str()),
        ("shadow", "max_errors: 1 of 0")
    );
    assert_eq!((node.rule().shadow, node.rule().active), (None, Some(good.digest)));
}

#[tokio::test]
async fn declared_gates_hold_a_version_until_it_has_shown_enough() {
    let gates = "[deploy]\ngates = { min_items = 3, min_minutes = 0, max_diff = \"50%\" }";
    let node = node(&Arc::default()).await;
    node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let tried = node.deploy(None, component("hooks", "1.1.0", gates), "shadow").await.unwrap();
    let early = node.change(promote("active", false)).await.unwrap_err();
    assert!(early.to_string().contains("min_items: 0 of 3"), "{early}");
    let items = |count: usize| (0..count).map(|_| item(1, "x")).collect();
    node.engine.route(NOON, items(3)).await;
    let counts = node.wait(&tried.digest, 3);
    assert_eq!((counts.items, counts.compared, counts.same), (3, 3, 3));
    assert_eq!(node.deployments.missing(&node.rule(), &tried.digest, Stage::Shadow(1)), [""; 0]);
    node.change(promote("canary:50%", false)).await.unwrap();
    let missing = node.change(promote("active", false)).await.unwrap_err();
    assert!(missing.to_string().contains("min_items"), "a canary shows for itself: {missing}");
    node.change(promote("active", true)).await.unwrap();
    assert_eq!(node.rule().active, Some(tried.digest));
}

#[tokio::test]
async fn a_shadow_watches_every_hook() {
    let node = node(&Arc::default()).await;
    node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let shadow = node.deploy(None, component("hooks", "1.1.0", ""), "shadow").await.unwrap();
    node.engine.authorize(NOON, vec![request("grant", false), request("deny", true)]).await;
    assert_eq!(node.wait(&shadow.digest, 2).same, 2);
    node.engine.transform(NOON, vec![shown("redact"), shown("drop")]).await;
    assert_eq!(node.wait(&shadow.digest, 4).same, 4);
    node.engine.route(NOON, vec![item(1, "count"), item(1, "x")]).await;
    let counts = node.wait(&shadow.digest, 6);
    assert_eq!((counts.items, counts.errors, counts.same), (6, 0, 6));
}
