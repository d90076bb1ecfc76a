//! The shipped rules, switched on by name: what is in the program, and how it lives with what is deployed.

use super::deploying::{Memory, Node, component};
use super::guests::shipped;
use super::*;
use crate::clock::SystemClock;

async fn node(shelf: &Arc<Memory>, builtin: &[&str]) -> Node {
    let engine = start(Vec::new());
    let (own, shelf) = (Arc::clone(&engine), Arc::clone(shelf) as Arc<dyn Shelf>);
    let builtin: Vec<_> = builtin.iter().map(|name| (*name).to_owned()).collect();
    let opened = Deployments::open(own, shelf, None, Arc::new(SystemClock), &builtin).await;
    Node { engine, deployments: opened.unwrap() }
}

fn names(node: &Node) -> Vec<(String, Option<String>)> {
    let set = node.deployments.set();
    let mut rules: Vec<_> = set.rules.iter().collect();
    rules.sort_by_key(|rule| rule.order);
    let version = |rule: &DeployedRule| {
        let active = rule.active.as_deref();
        let mut versions = rule.versions.iter();
        versions.find(|one| active == Some(&one.digest)).map(|one| one.version.clone())
    };
    rules.into_iter().map(|rule| (rule.name.clone(), version(rule))).collect()
}

/// Which rules were asked, in order.
async fn asked(node: &Node) -> Vec<String> {
    let routed = ask_one(&node.engine, item(1, "x")).await;
    routed.decisions.into_iter().map(|one| one.rule.to_string()).collect()
}

async fn configure(node: &Node, name: &str, org: i32, settings: &[(&str, &str)]) {
    let setting = |(key, value): &(&str, &str)| ((*key).to_owned(), Some((*value).to_owned()));
    let settings = settings.iter().map(setting).collect();
    let change = RuleChange::Configure { org: OrganizationId(org), settings };
    let by = (String::from("user:1"), String::new());
    node.deployments.change((None, name), change, by).await.unwrap();
}

#[test]
fn what_is_in_the_program_is_what_its_sources_build_to() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for name in shipped_rules() {
        let core = std::fs::read(shipped(name)).unwrap();
        let text =
            std::fs::read_to_string(root.join("rules").join(name).join("rule.toml")).unwrap();
        let built = embed_manifest(&wrap_component(&core).unwrap(), &text).unwrap();
        let kept = std::fs::read(root.join(format!("gateway/shipped/{name}.wasm"))).unwrap();
        assert!(built == kept, "{name} changed: run scripts/ship-rules");
    }
}

#[tokio::test]
async fn names_are_enough_and_say_the_order() {
    let node = node(&Arc::default(), &["fallback", "event-routing"]).await;
    let version = || Some(String::from("0.1.0"));
    let expected = [("fallback".to_owned(), version()), ("event-routing".to_owned(), version())];
    assert_eq!(names(&node), expected);
    assert_eq!(asked(&node).await, ["fallback", "event-routing"]);
    node.deploy(None, component("hooks", "1.0.0", "order = 0"), "active").await.unwrap();
    assert_eq!(asked(&node).await, ["fallback", "event-routing", "tried"], "deployed ones follow");
}

#[tokio::test]
async fn settings_of_an_organization_pauses_and_places_are_as_those_of_others() {
    let node = node(&Arc::default(), &["event-routing"]).await;
    configure(&node, "event-routing", 1, &[("route.*", "slack")]).await;
    let routed = node.engine.route(NOON, vec![item(1, "x"), item(2, "x")]).await;
    assert_eq!(routed.iter().map(steps).collect::<Vec<_>>(), [vec![vec![1]], vec![vec![0, 1]]]);
    let change = async |change| {
        let by = (String::from("user:1"), String::new());
        node.deployments.change((None, "event-routing"), change, by).await
    };
    change(RuleChange::Pause { is_forced: false, until: None }).await.unwrap();
    assert_eq!(asked(&node).await, [""; 0]);
    change(RuleChange::Resume).await.unwrap();
    assert_eq!(asked(&node).await, ["event-routing"]);
    let refused = change(RuleChange::Order(7)).await.unwrap_err();
    assert!(refused.to_string().contains("rules.builtin"), "{refused}");
}

#[tokio::test]
async fn a_newer_version_may_be_deployed_over_a_shipped_one_and_taken_back() {
    let shelf = Arc::default();
    let node = node(&shelf, &["quiet-hours", "event-routing"]).await;
    let text = "[rule]\nname = \"event-routing\"\nversion = \"9.0.0\"\norder = 400";
    let newer = embed_manifest(&guests::component_bytes("hooks"), text).unwrap();
    node.deploy(None, newer, "active").await.unwrap();
    assert_eq!(asked(&node).await, ["quiet-hours", "event-routing"], "in the same place");
    assert_eq!(names(&node)[1].1.as_deref(), Some("9.0.0"));
    let by = || (String::from("user:1"), String::new());
    let again = builtin::node(&shelf, &["quiet-hours", "event-routing"]).await;
    assert_eq!(names(&again), names(&node), "another node, another start");
    node.deployments.change((None, "event-routing"), RuleChange::RollBack, by()).await.unwrap();
    assert_eq!(names(&node)[1].1.as_deref(), Some("0.1.0"));
    let without = builtin::node(&shelf, &[]).await;
    assert_eq!(asked(&without).await, [""; 0], "what is switched off is asked no more");
}
