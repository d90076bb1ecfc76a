//! A rule that breaks hits only the item that broke it.

use super::*;
use crate::rules::abi::log::{Host as _, Level};
use crate::rules::chain::Chain;
use crate::rules::engine::Sandbox;
use crate::rules::host::{Host, Setting};
use crate::rules::localtime::Zones;
use crate::rules::registry::Memories;
use std::time::Duration;

/// Title of the notification, and the kind of breach it makes of the rule.
const BREACHES: [(&str, &str); 19] = [
    ("loop", "fuel"),
    ("call_storm", "fuel"),
    ("memory_fill", "fuel"),
    ("trap", "trap"),
    ("recursion", "trap"),
    ("memory", "memory"),
    ("too_few", "output"),
    ("too_many", "output"),
    ("digest", "output"),
    ("past_hold", "output"),
    ("far_hold", "output"),
    ("bad_code", "output"),
    ("no_code", "output"),
    ("long_detail", "output"),
    ("bad_index", "output"),
    ("twice", "output"),
    ("no_target", "output"),
    ("huge", "output"),
    ("many_steps", "output"),
];

fn hostile() -> RuleConfig {
    rule("hostile", &[])
}

#[tokio::test]
async fn a_breach_hits_only_the_item_that_caused_it() {
    let rules = start(vec![hostile()]);
    for (title, kind) in BREACHES {
        let items = vec![item(1, "a"), item(2, "b"), item(1, title), item(1, "c")];
        let routed = rules.route(NOON, items).await;
        for neighbour in [0, 1, 3] {
            assert_eq!(words(&routed[neighbour]), ["abstain/calls_1"], "{title}");
        }
        assert_eq!(words(&routed[2]), [format!("error/{kind}")], "{title}: {routed:?}");
        assert_eq!(steps(&routed[2]), [[0, 1]], "{title}");
        assert!(routed[2].decisions[0].detail.is_some(), "{title}");
    }
}

/// Fuel without end leaves the deadline as the only thing that stops a loop.
fn only_deadline() -> Arc<WasmRules> {
    let deadline = Duration::from_millis(10);
    let limits = RuleLimits { fuel_per_item: 1 << 48, deadline, ..RuleLimits::default() };
    let rules = vec![hostile()];
    WasmRules::start(RuleSettings {
        rules,
        limits,
        threads: 2,
        queue: 4,
        ..RuleSettings::default()
    })
    .unwrap()
}

#[tokio::test]
async fn a_loop_ends_at_the_deadline_and_hits_only_its_own_item() {
    let rules = only_deadline();
    let items = vec![item(1, "a"), item(1, "loop"), item(2, "b"), item(1, "c")];
    let routed = rules.route(NOON, items).await;
    assert_eq!(words(&routed[1]), ["error/deadline"]);
    for neighbour in [0, 2, 3] {
        assert_eq!(words(&routed[neighbour]), ["abstain/calls_1"]);
    }
}

#[tokio::test]
async fn a_batch_of_nothing_but_poison_is_given_up() {
    let rules = only_deadline();
    let mut items: Vec<RouteItem> = (0..100).map(|_| item(1, "loop")).collect();
    items.push(item(2, "fine"));
    let routed = rules.route(NOON, items).await;
    let gave_up =
        |routed: &Routed| matches!(words(routed)[0].as_str(), "error/deadline" | "error/breaker");
    assert!(routed[..100].iter().all(gave_up));
    assert_eq!(routed[99].decisions[0].fuel, 0, "the last was not asked any more");
    assert_eq!(words(&routed[100]), ["abstain/calls_1"], "another organization");
}

#[tokio::test]
async fn three_items_that_break_a_rule_alike_open_its_breaker_for_their_organization() {
    // With a deadline that no load of the machine reaches.
    let limits = RuleLimits { deadline: Duration::from_secs(60), ..RuleLimits::default() };
    let settings =
        RuleSettings { rules: vec![hostile()], limits, threads: 2, ..RuleSettings::default() };
    let rules = WasmRules::start(settings).unwrap();
    let routed = rules.route(NOON, (0..10).map(|_| item(1, "trap")).collect()).await;
    assert!(routed[..3].iter().all(|r| words(r) == ["error/trap"]));
    assert!(routed[3..].iter().all(|r| words(r) == ["error/breaker"]));
    assert_eq!(words(&ask_one(&rules, item(1, "fine")).await), ["error/breaker"]);
    assert_eq!(words(&ask_one(&rules, item(2, "fine")).await), ["abstain/calls_1"]);
    let later = rules.route(NOON.plus(60_000), vec![item(1, "fine")]).await;
    assert_eq!(words(&later[0]), ["abstain/calls_1"]);
}

#[tokio::test]
async fn a_rule_that_fails_closed_keeps_its_item_from_going_out() {
    let closed = RuleConfig { on_error: Some(OnError::Closed), ..hostile() };
    let required = RuleConfig { required: true, on_error: Some(OnError::Open), ..hostile() };
    for config in [closed, required] {
        let rules = start(vec![config]);
        let routed = rules.route(NOON, vec![item(1, "trap"), item(1, "fine")]).await;
        let failed = Verdict::Failed { rule: "hostile".into(), kind: "trap" };
        assert_eq!(routed[0].verdict, failed);
        assert_eq!(steps(&routed[1]), [[0, 1]]);
    }
}

#[tokio::test]
async fn the_chain_goes_on_with_the_plan_before_the_rule_that_broke() {
    let routing = rule("event-routing", &[("route.build", "slack")]);
    let rules = start(vec![routing, hostile()]);
    let routed = ask_one(&rules, item(1, "trap")).await;
    assert_eq!(words(&routed), ["deliver/routed", "error/trap"]);
    assert_eq!(steps(&routed), [[1]]);
}

#[tokio::test]
async fn nothing_of_one_evaluation_is_seen_by_the_next() {
    let rules = start(vec![hostile()]);
    for round in 0..500 {
        let org = round % 3;
        let routed = rules.route(NOON, vec![item(org, "x"), item(org + 1, "y")]).await;
        assert!(routed.iter().all(|r| words(r) == ["abstain/calls_1"]), "{routed:?}");
    }
}

#[tokio::test]
async fn a_rule_reads_the_settings_of_its_batchs_organization_only() {
    let mut config = hostile();
    config.config.insert("general".into(), "all".into());
    let own = BTreeMap::from([("word".to_owned(), "secret_word".to_owned())]);
    config.config_for_org.insert("202".into(), own);
    let rules = start(vec![config]);
    let items = vec![item(101, "foreign_setting"), item(202, "foreign_setting")];
    let routed = rules.route(NOON, items).await;
    assert_eq!(words(&routed[0]), ["abstain/nothing"]);
    assert_eq!(words(&routed[1]), ["abstain/secret_word"]);
}

#[tokio::test]
async fn a_plan_can_not_extend_the_life_of_a_notification() {
    let rules = start(vec![hostile()]);
    let asked = item(1, "longer_life");
    let end = asked.notification.expires_at;
    let Verdict::Deliver(plan) = ask_one(&rules, asked).await.verdict else { panic!() };
    assert_eq!(plan.expires_at, end);
}

/// Whoever can measure time can listen to what else the processor does.
#[tokio::test]
async fn a_rule_can_not_measure_time() {
    let rules = start(vec![hostile()]);
    let routed = rules.route(NOON, (0..4).map(|_| item(1, "stopwatch")).collect()).await;
    assert!(routed.iter().all(|r| words(r) == ["abstain/no_time"]), "{routed:?}");
}

#[tokio::test]
async fn a_detail_can_not_steer_a_terminal() {
    let rules = start(vec![hostile()]);
    let routed = ask_one(&rules, item(1, "control_detail")).await;
    assert_eq!(routed.decisions[0].detail.as_deref(), Some(" [2Jgone"));
}

#[tokio::test]
async fn a_flood_of_log_lines_is_no_breach() {
    let rules = start(vec![hostile()]);
    assert_eq!(words(&ask_one(&rules, item(1, "log_storm")).await), ["abstain/logged"]);
}

#[test]
fn the_log_of_a_batch_is_bounded_and_quoted() {
    let setting = Setting {
        rule: Arc::new(hostile()),
        limits: Arc::default(),
        state: Arc::default(),
        org: "1".into(),
        now: NOON,
        items: 1,
        is_recorded: false,
    };
    let mut host = Host::new(setting, Zones::bundled(), None);
    let (file, subscriber) = captured();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..40 {
            host.log(Level::Error, format!("two\nlines{}", "é".repeat(1000))).unwrap();
        }
    });
    let written = std::fs::read_to_string(file.path()).unwrap();
    assert_eq!(written.lines().count(), 16);
    assert!(written.lines().all(|line| line.len() < 1400 && line.contains(r"two\nlines")));
    assert!(written.lines().all(|line| line.contains("DEBUG") && line.contains("rules")));
}

#[test]
fn a_panic_is_logged_with_its_place_and_without_its_text() {
    let sandbox = Sandbox::start(RuleLimits::default(), 1).unwrap();
    let rules = registry::load(&sandbox, vec![hostile()], &mut Memories::new()).unwrap();
    let chain = Chain::fixed(&rules);
    let (file, subscriber) = captured();
    tracing::subscriber::with_default(subscriber, || {
        chain.route(&sandbox, NOON, &[item(1, "trap")]);
    });
    let written = std::fs::read_to_string(file.path()).unwrap();
    assert!(written.contains("testdata/hostile.rs:"), "{written}");
    assert!(!written.contains("on purpose"), "{written}");
}

#[test]
fn rules_run_without_a_memory_pool_where_address_space_is_short() {
    let (file, subscriber) = captured();
    let start = || Sandbox::start(RuleLimits::default(), 100_000).unwrap();
    let sandbox = tracing::subscriber::with_default(subscriber, start);
    let written = std::fs::read_to_string(file.path()).unwrap();
    assert!(written.contains("no memory pool"), "{written}");
    let rules = registry::load(&sandbox, vec![hostile()], &mut Memories::new()).unwrap();
    let chain = Chain::fixed(&rules);
    let items = [item(1, "a"), item(1, "memory"), item(1, "b")];
    let (routed, _) = chain.route(&sandbox, NOON, &items);
    assert_eq!(words(&routed[0]), ["abstain/calls_1"]);
    assert_eq!(words(&routed[1]), ["error/memory"]);
    assert_eq!(words(&routed[2]), ["abstain/calls_1"]);
}

fn captured() -> (tempfile::NamedTempFile, impl tracing::Subscriber + Send + Sync) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(Arc::new(file.reopen().unwrap()))
        .finish();
    (file, subscriber)
}

#[tokio::test]
async fn dropping_the_engine_answers_what_was_asked_before() {
    let rules = only_deadline();
    let asking = Arc::clone(&rules);
    let asked = tokio::spawn(async move { ask_one(&asking, item(1, "loop")).await });
    drop(rules);
    let routed = tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap().unwrap();
    assert_eq!(words(&routed), ["error/deadline"]);
}
