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

/// A version with these gates and more of `[deploy]`, in shadow beside 1.0.0, which judged nothing yet.
async fn tried(node: &Node, rest: &str) -> String {
    let gates = "gates = { min_items = 3, min_minutes = 0 }";
    node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let rest = format!("[deploy]\n{gates}\n{rest}");
    node.deploy(None, component("hooks", "1.1.0", &rest), "shadow").await.unwrap().digest
}

#[tokio::test]
async fn a_version_that_may_goes_on_by_itself_stage_by_stage_once_its_gates_are_met() {
    let node = node(&Arc::default()).await;
    let digest = tried(&node, "promote = \"auto\"\ncanary = \"100%\"").await;
    let items = || (0..3).map(|_| item(1, "x")).collect();
    assert_eq!(node.deployments.advance().await, [], "it has shown nothing yet");
    node.engine.route(NOON, items()).await;
    node.wait(&digest, 3);
    let notes = node.deployments.advance().await;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!((notes[0].actor.as_str(), notes[0].action.as_str()), ("gates", "rule.promote"));
    let reason = "the gates are met: 3 items, 0 errors, 0 min";
    assert_eq!(notes[0].object, format!("rule:tried {digest} canary: {reason}"));
    assert_eq!((node.rule().canary, node.rule().shadow), (Some((digest.clone(), 10_000)), None));
    assert_eq!(node.deployments.advance().await, [], "a canary shows for itself");
    node.engine.route(NOON, items()).await;
    assert_eq!(node.deployments.advance().await.len(), 1);
    let rule = node.rule();
    assert_eq!((rule.active, rule.canary), (Some(digest), None));
    let last = rule.history.last().unwrap();
    assert_eq!((last.what.as_str(), last.by.as_str()), ("active", "gates"));
    assert_eq!(last.message, reason);
    assert_eq!(node.deployments.advance().await, []);
}

#[tokio::test]
async fn a_version_waits_for_a_person_if_its_manifest_does_not_say_otherwise() {
    let node = node(&Arc::default()).await;
    let digest = tried(&node, "").await;
    node.engine.route(NOON, (0..3).map(|_| item(1, "x")).collect()).await;
    node.wait(&digest, 3);
    assert_eq!(node.deployments.missing(&node.rule(), &digest, Stage::Shadow(1)), [""; 0]);
    assert_eq!(node.deployments.advance().await, []);
    assert_eq!(node.rule().shadow.map(|(own, _)| own), Some(digest));
}

#[tokio::test]
async fn a_paused_rule_and_a_shadow_behind_a_canary_do_not_go_on() {
    let node = node(&Arc::default()).await;
    let digest = tried(&node, "promote = \"auto\"").await;
    node.engine.route(NOON, (0..3).map(|_| item(1, "x")).collect()).await;
    node.wait(&digest, 3);
    node.change(RuleChange::Pause { is_forced: false, until: None }).await.unwrap();
    assert_eq!(node.deployments.advance().await, []);
    node.change(RuleChange::Resume).await.unwrap();
    node.deploy(None, component("hooks", "1.2.0", ""), "canary:1%").await.unwrap();
    assert_eq!(node.deployments.advance().await, []);
    assert_eq!(node.rule().shadow.map(|(own, _)| own), Some(digest));
}

#[tokio::test]
async fn what_is_published_tells_stages_and_hooks_apart() {
    let handle = crate::telemetry::metrics::install().unwrap();
    let node = node(&Arc::default()).await;
    let off = "[match]\nevents = [\"*\", \"!off\"]";
    node.deploy(None, component("hooks", "70.0.0", off), "active").await.unwrap();
    let shadow = node.deploy(None, component("hooks", "70.1.0", off), "shadow").await.unwrap();
    let mut skipped = item(1, "x");
    Arc::get_mut(&mut skipped.notification).unwrap().event = "off".into();
    node.engine.route(NOON, vec![item(1, "x"), item(1, "x"), skipped]).await;
    node.engine.transform(NOON, vec![shown("drop")]).await;
    node.wait(&shadow.digest, 4);
    let text = handle.render();
    let value = |family: &str, labels: &[&str]| {
        let is_it = |line: &&str| {
            line.starts_with(&format!("{family}{{"))
                && labels.iter().all(|label| line.contains(label))
        };
        let found =
            text.lines().find(is_it).unwrap_or_else(|| panic!("{family} {labels:?}: {text}"));
        found.rsplit(' ').next().unwrap().to_owned()
    };
    let active = ["version=\"70.0.0\"", "stage=\"active\"", "hook=\"route\""];
    assert_eq!(value("bugler_rule_items_total", &active), "2");
    assert_eq!(value("bugler_rule_batch_items_sum", &active), "2");
    let skipped = [&active[..], &["decision=\"skipped\""]].concat();
    assert_eq!(value("bugler_rule_decisions_total", &skipped), "1");
    let drop = ["version=\"70.0.0\"", "hook=\"transform\"", "decision=\"drop\""];
    assert_eq!(value("bugler_rule_decisions_total", &drop), "1");
    let coded =
        ["version=\"70.0.0\"", "hook=\"route\"", "decision=\"skipped\"", "code=\"no_match\""];
    assert_eq!(value("bugler_rule_decisions_total", &coded), "1");
    assert_eq!(value("bugler_rule_instances", &active), "0");
    assert_eq!(value("bugler_rule_info", &[active[0], active[1]]), "1");
    node.change(RuleChange::RollBack).await.unwrap();
    let later = handle.render();
    let gone = "bugler_rule_info{rule=\"tried\",version=\"70.1.0\",stage=\"shadow\"} 0";
    assert!(later.contains(gone), "{later}");
    let watched = ["version=\"70.1.0\"", "stage=\"shadow\"", "hook=\"route\""];
    assert_eq!(value("bugler_rule_shadow_compared_total", &watched), "3");
    assert_eq!(value("bugler_rule_shadow_diff_total", &watched), "0");
}

#[tokio::test]
async fn a_pause_for_a_time_ends_by_itself_and_others_do_not() {
    let node = node(&Arc::default()).await;
    node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let pause = |until| RuleChange::Pause { is_forced: false, until };
    for until in [None, Some(Millis(u64::MAX))] {
        node.change(pause(until)).await.unwrap();
        assert_eq!(node.deployments.resume().await, []);
        assert_eq!(node.versions(vec![item(1, "x")]).await, [""]);
    }
    node.change(pause(Some(Millis(1)))).await.unwrap();
    let notes = node.deployments.resume().await;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!((notes[0].actor.as_str(), notes[0].action.as_str()), ("timer", "rule.resume"));
    assert_eq!(node.versions(vec![item(1, "x")]).await, ["1.0.0"]);
    assert_eq!(node.deployments.resume().await, []);
}
