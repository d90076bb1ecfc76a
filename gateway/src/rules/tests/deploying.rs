//! Rules that come by the API: refused or in force as a whole, on every node, and back.

use super::guests::component_bytes;
use super::*;
use crate::BoxFuture;
use crate::clock::SystemClock;
use parking_lot::Mutex;
use std::collections::HashMap;

/// What two nodes share.
#[derive(Debug, Default)]
pub(super) struct Memory {
    set: Mutex<(u64, Option<String>)>,
    components: Mutex<HashMap<String, Vec<u8>>>,
}

impl Shelf for Memory {
    fn read(&self) -> BoxFuture<'_, Result<Option<String>, ShelfError>> {
        let text = self.set.lock().1.clone();
        Box::pin(std::future::ready(Ok(text)))
    }

    fn replace(&self, before: u64, after: String) -> BoxFuture<'_, Result<bool, ShelfError>> {
        let mut set = self.set.lock();
        let is_it = set.0 == before;
        if is_it {
            *set = (before + 1, Some(after));
        }
        Box::pin(std::future::ready(Ok(is_it)))
    }

    fn component<'a>(
        &'a self,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, ShelfError>> {
        let found = self.components.lock().get(digest).cloned();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn put<'a>(&'a self, digest: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<(), ShelfError>> {
        self.components.lock().insert(digest.to_owned(), bytes);
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

pub(super) struct Node {
    pub(super) engine: Arc<WasmRules>,
    pub(super) deployments: Arc<Deployments>,
}

pub(super) async fn node(shelf: &Arc<Memory>) -> Node {
    node_of(start(Vec::new()), shelf).await
}

pub(super) async fn node_of(engine: Arc<WasmRules>, shelf: &Arc<Memory>) -> Node {
    let (own, shelf) = (Arc::clone(&engine), Arc::clone(shelf) as Arc<dyn Shelf>);
    let deployments =
        Deployments::open(own, shelf, None, Arc::new(SystemClock), &[]).await.unwrap();
    Node { engine, deployments }
}

pub(super) fn component(guest: &str, version: &str, rest: &str) -> Vec<u8> {
    let text = format!("[rule]\nname = \"tried\"\nversion = \"{version}\"\n{rest}");
    embed_manifest(&component_bytes(guest), &text).unwrap()
}

impl Node {
    pub(super) async fn deploy(
        &self,
        org: Option<i32>,
        component: Vec<u8>,
        stage: &str,
    ) -> Result<RuleVersion, DeployError> {
        let deployment = Deployment {
            component,
            org: org.map(OrganizationId),
            home: OrganizationId(1),
            stage: stage.parse().unwrap(),
            by: "user:1".into(),
            message: String::new(),
            gates: BTreeMap::new(),
            expects_change: false,
        };
        self.deployments.deploy(deployment).await.map(|(_, version)| version)
    }

    pub(super) async fn change(&self, change: RuleChange) -> Result<(), DeployError> {
        let by = (String::from("user:1"), String::new());
        self.deployments.change((None, "tried"), change, by).await
    }

    pub(super) async fn versions(&self, items: Vec<RouteItem>) -> Vec<String> {
        let routed = self.engine.route(NOON, items).await;
        let version = |one: &Routed| {
            one.decisions.last().map_or_else(String::new, |last| last.version.to_string())
        };
        routed.iter().map(version).collect()
    }
}

#[tokio::test]
async fn a_version_is_in_force_at_once_and_the_one_before_comes_back() {
    let node = node(&Arc::default()).await;
    node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    assert_eq!(node.versions(vec![item(1, "x")]).await, ["1.0.0"]);
    let second = node.deploy(None, component("quiet-hours", "1.1.0", ""), "active").await.unwrap();
    assert_eq!(node.versions(vec![item(1, "x"), item(2, "x")]).await, ["1.1.0", "1.1.0"]);
    let decision = ask_one(&node.engine, item(1, "x")).await.decisions.swap_remove(0);
    assert_eq!(
        (decision.digest.as_str(), decision.stage.as_str()),
        (second.digest.as_str(), "active")
    );
    node.change(RuleChange::RollBack).await.unwrap();
    assert_eq!(node.versions(vec![item(1, "x")]).await, ["1.0.0"]);
    node.change(RuleChange::Pause { is_forced: false, until: None }).await.unwrap();
    assert_eq!(node.versions(vec![item(1, "x")]).await, [""]);
    node.change(RuleChange::Resume).await.unwrap();
    assert_eq!(node.versions(vec![item(1, "x")]).await, ["1.0.0"]);
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let node = node(&Arc::default()).await;
    node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let before = node.deployments.set();
    let bare = component_bytes("hooks");
    let loose = component("hooks", "1.0.1", "[limits]\nmemory = \"1GiB\"");
    let other = component("quiet-hours", "1.0.0", "");
    for (what, bytes) in [
        ("no wasm", b"text".to_vec()),
        ("a core module", wat::parse_str("(module)").unwrap()),
        ("no manifest", bare),
        ("loose limits", loose),
        ("another content under the same version", other),
    ] {
        let error = node.deploy(None, bytes, "active").await.unwrap_err();
        assert!(!error.to_string().is_empty(), "{what}");
        assert_eq!(node.deployments.set(), before, "{what}");
        assert_eq!(node.versions(vec![item(1, "x")]).await, ["1.0.0"], "{what}");
    }
}

#[tokio::test]
async fn an_organizations_own_rule_judges_nobody_else() {
    let node = node(&Arc::default()).await;
    node.deploy(Some(2), component("hooks", "1.0.0", ""), "active").await.unwrap();
    assert_eq!(node.versions(vec![item(1, "x"), item(2, "x")]).await, ["", "1.0.0"]);
    assert!(node.engine.has(Hook::Transform, OrganizationId(2)));
    assert!(!node.engine.has(Hook::Transform, OrganizationId(1)));
    // One for everybody beside it, before it by its order.
    node.deploy(None, component("quiet-hours", "2.0.0", "order = 100"), "active").await.unwrap();
    let routed = node.engine.route(NOON, vec![item(2, "x")]).await;
    let versions: Vec<_> = routed[0].decisions.iter().map(|one| one.version.as_str()).collect();
    assert_eq!(versions, ["2.0.0", "1.0.0"]);
}

#[tokio::test]
async fn a_canary_judges_its_share_and_always_the_same() {
    let node = node(&Arc::default()).await;
    let sticky = "[deploy]\nsticky = \"recipient\"";
    node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    node.deploy(None, component("quiet-hours", "1.1.0", sticky), "canary:25%").await.unwrap();
    let people = || {
        let person = |n: usize| {
            let mut asked = item(1, "x");
            asked.recipient.id = n.to_string();
            asked
        };
        (0..1_000).map(person).collect::<Vec<_>>()
    };
    let first = node.versions(people()).await;
    let tried = first.iter().filter(|version| *version == "1.1.0").count();
    assert!((150..350).contains(&tried), "{tried} of 1000");
    assert_eq!(node.versions(people()).await, first);
    let promote = RuleChange::Promote { to: Stage::Active, digest: None, is_forced: false };
    node.change(promote).await.unwrap();
    assert!(node.versions(people()).await.iter().all(|version| version == "1.1.0"));
}

#[tokio::test]
async fn a_shadow_is_asked_and_decides_nothing() {
    let node = node(&Arc::default()).await;
    node.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let shadow = node.deploy(None, component("quiet-hours", "1.1.0", ""), "shadow").await.unwrap();
    let mut count = None;
    for _ in 0..10_000 {
        assert_eq!(node.versions(vec![item(1, "x")]).await, ["1.0.0"]);
        let set = node.deployments.set();
        let counts = node.deployments.counts(&set.rules[0], &shadow.digest, Stage::Shadow(1));
        if counts.compared > 0 {
            count = Some(counts);
            break;
        }
        tokio::task::yield_now().await;
    }
    let count = count.unwrap();
    assert!(count.errors == 0 && count.same == 0, "{count:?}");
}

#[tokio::test]
async fn every_node_has_the_set_and_only_one_of_two_changes_at_once_is_made() {
    let shelf = Arc::default();
    let (one, other) = (node(&shelf).await, node(&shelf).await);
    one.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let follow = tokio::spawn(Arc::clone(&other.deployments).follow());
    while other.deployments.set().revision < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(other.versions(vec![item(1, "x")]).await, ["1.0.0"]);
    follow.abort();
    one.change(RuleChange::Order(7)).await.unwrap();
    let late = other.change(RuleChange::Order(8)).await.unwrap_err();
    assert!(matches!(late, DeployError::Set(SetError::Changed)), "{late}");
    assert_eq!(other.deployments.set(), one.deployments.set(), "it looked again");
    other.change(RuleChange::Order(8)).await.unwrap();
    let third = node(&shelf).await;
    assert_eq!(third.deployments.set().rules[0].order, 8);
    assert_eq!(third.versions(vec![item(1, "x")]).await, ["1.0.0"]);
}

#[tokio::test]
async fn a_component_that_was_tampered_with_is_not_put_in_force() {
    let shelf: Arc<Memory> = Arc::default();
    let one = node(&shelf).await;
    one.deploy(None, component("hooks", "1.0.0", ""), "active").await.unwrap();
    let other = component("quiet-hours", "1.0.0", "");
    shelf.components.lock().values_mut().for_each(|bytes| bytes.clone_from(&other));
    let (engine, shelf) = (start(Vec::new()), shelf as Arc<dyn Shelf>);
    let opened = Deployments::open(engine, shelf, None, Arc::new(SystemClock), &[]).await;
    assert!(matches!(opened, Err(DeployError::Damaged { .. })));
}

#[tokio::test]
async fn a_thousand_organizations_with_rules_of_their_own_share_a_component() {
    let node = node(&Arc::default()).await;
    let shared = component("hooks", "1.0.0", "");
    let summary = check_component(&shared).unwrap();
    node.engine.learn(&summary, &shared).unwrap();
    let rules = (0..1_000).map(|org| DeployedRule {
        org: Some(org),
        home: org,
        versions: vec![RuleVersion {
            digest: summary.digest.clone(),
            version: "1.0.0".into(),
            bytes: shared.len(),
            hooks: summary.hooks.clone(),
            ..RuleVersion::default()
        }],
        active: Some(summary.digest.clone()),
        ..DeployedRule::named("tried", 1)
    });
    let set = RuleSet { revision: 1, rules: rules.collect() };
    node.engine.enforce(&Arc::new(set));
    let items = (0..1_000).map(|org| item(org, "count")).collect();
    let routed = node.engine.route(NOON, items).await;
    assert!(routed.iter().all(|one| words(one) == ["abstain/n_1"]), "each counts for itself");
}

#[tokio::test]
async fn a_set_that_can_not_be_put_in_force_leaves_the_one_before_and_does_not_start_a_node() {
    let shelf: Arc<Memory> = Arc::default();
    let (one, other) = (node(&shelf).await, node(&shelf).await);
    let denying = component("hooks", "1.0.0", "required = true");
    one.deploy(None, denying, "active").await.unwrap();
    other.deployments.refresh().await.unwrap();
    one.deploy(None, component("quiet-hours", "1.1.0", ""), "active").await.unwrap();
    shelf.components.lock().clear();
    let missing = other.deployments.refresh().await.unwrap_err();
    assert!(matches!(missing, DeployError::Damaged { .. }), "{missing}");
    assert_eq!(other.versions(vec![item(1, "x")]).await, ["1.0.0"]);
    let (engine, shelf) = (start(Vec::new()), shelf as Arc<dyn Shelf>);
    let opened = Deployments::open(engine, shelf, None, Arc::new(SystemClock), &[]).await;
    assert!(matches!(opened, Err(DeployError::Damaged { .. })), "nobody is let in unjudged");
}

#[tokio::test]
async fn an_organization_sets_values_of_everybodys_rule_for_itself() {
    let node = node(&Arc::default()).await;
    let rest = "[config]\nword = \"general\"";
    node.deploy(None, component("hooks", "1.0.0", rest), "active").await.unwrap();
    let set = |org, value: Option<&str>| {
        let settings = BTreeMap::from([("word".to_owned(), value.map(str::to_owned))]);
        RuleChange::Configure { org: OrganizationId(org), settings }
    };
    let said = async || {
        let items = vec![item(1, "config"), item(2, "config")];
        let routed = node.engine.route(NOON, items).await;
        routed.iter().map(|one| one.decisions[0].code.clone()).collect::<Vec<_>>()
    };
    node.change(set(2, Some("own"))).await.unwrap();
    assert_eq!(said().await, ["general", "own"]);
    node.deploy(None, component("hooks", "1.0.1", rest), "active").await.unwrap();
    assert_eq!(said().await, ["general", "own"], "they outlive versions");
    let secret = node.change(set(2, Some("xoxb-1"))).await.unwrap_err();
    assert!(secret.to_string().contains("looks like a secret"), "{secret}");
    node.change(set(2, None)).await.unwrap();
    assert_eq!(said().await, ["general", "general"]);
    assert!(node.deployments.set().rules[0].settings.is_empty());
}
