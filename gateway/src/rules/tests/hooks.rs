//! Every hook, what rules remember, and one rule on the bench.

use super::guests::component_bytes;
use super::*;

fn all_hooks() -> RuleConfig {
    rule("hooks", &[])
}

pub(super) fn request(action: &str, is_allowed: bool) -> AuthorizeItem {
    AuthorizeItem {
        principal: PrincipalView {
            kind: PrincipalKind::User,
            id: "7".into(),
            org: "1".into(),
            roles: Vec::new(),
            permissions: Vec::new(),
        },
        action: action.into(),
        org: OrganizationId(1),
        resource: None,
        required: Vec::new(),
        is_allowed,
    }
}

async fn may(rules: &WasmRules, action: &str, is_allowed: bool) -> bool {
    let answers = rules.authorize(NOON, vec![request(action, is_allowed)]).await;
    answers[0].is_allowed
}

pub(super) fn shown(title: &str) -> TransformItem {
    let mut asked = item(1, title);
    let notification = Arc::get_mut(&mut asked.notification).unwrap();
    notification.content.body = "call 555 0100".into();
    notification.content.data = r#"{"secret":"x","kept":1}"#.into();
    let payload = payload(&asked.notification, ProviderName::Apns).unwrap();
    let RouteItem { notification, recipient, .. } = asked;
    TransformItem { notification, recipient, channel: ProviderName::Apns, payload }
}

async fn show(rules: &WasmRules, title: &str) -> Transformed {
    rules.transform(NOON, vec![shown(title)]).await.swap_remove(0)
}

#[tokio::test]
async fn a_deny_wins_and_an_allow_grants_only_by_declaration() {
    let rules = start(vec![all_hooks()]);
    assert!(may(&rules, "other", true).await && !may(&rules, "other", false).await);
    assert!(!may(&rules, "deny", true).await);
    assert!(!may(&rules, "grant", false).await, "it may not grant");
    let granting = RuleConfig { may_grant: true, ..all_hooks() };
    assert!(may(&start(vec![granting.clone()]), "grant", false).await);
    // Whoever denies wins, whatever others grant, in any order.
    let second = RuleConfig { name: "second".into(), ..granting.clone() };
    for chain in [vec![granting.clone(), second.clone()], vec![second, granting]] {
        assert!(!may(&start(chain), "deny", true).await);
    }
}

#[tokio::test]
async fn an_authorize_rule_that_breaks_denies_unless_it_declares_otherwise() {
    let rules = start(vec![all_hooks()]);
    let answer = rules.authorize(NOON, vec![request("trap", true)]).await.swap_remove(0);
    assert_eq!((answer.is_allowed, answer.denied), (false, Some(("hooks".into(), "trap".into()))));
    assert!(!may(&rules, "spin", true).await);
    let open = RuleConfig { on_error: Some(OnError::Open), ..all_hooks() };
    assert!(may(&start(vec![open.clone()]), "trap", true).await);
    let required = RuleConfig { required: true, ..open };
    assert!(!may(&start(vec![required]), "trap", true).await);
}

#[tokio::test]
async fn a_transform_rule_patches_replaces_drops_and_keeps() {
    let rules = start(vec![all_hooks()]);
    let redacted = show(&rules, "redact").await;
    let Shown::Payload(json) = &redacted.shown else { panic!("{redacted:?}") };
    assert_eq!(json, r#"{"title":"redact","body":"•••","data":{"kept":1}}"#);
    let notification = showing(&shown("redact").notification, ProviderName::Apns, json).unwrap();
    assert_eq!(notification.content.body, "•••");
    assert_eq!(notification.content.data, r#"{"kept":1}"#);
    assert_eq!(show(&rules, "other").await.shown, Shown::Keep);
    let dropped = Shown::Drop { rule: "hooks".into(), code: "told_to".into() };
    assert_eq!(show(&rules, "drop").await.shown, dropped);
    let replaced = show(&rules, "replace").await;
    assert_eq!(replaced.shown, Shown::Payload(r#"{"title":"t","body":"b"}"#.into()));
    assert_eq!(replaced.decisions[0].code, "replaced");
}

#[tokio::test]
async fn a_payload_out_of_bounds_is_the_rules_failure() {
    let open = start(vec![all_hooks()]);
    let required = start(vec![RuleConfig { required: true, ..all_hooks() }]);
    for title in ["strange", "list", "nowhere"] {
        let passed = show(&open, title).await;
        assert_eq!(passed.shown, Shown::Keep, "{title}");
        assert_eq!(passed.decisions[0].decision, "error", "{title}");
    }
    let failed = Shown::Failed { rule: "hooks".into(), kind: "trap" };
    assert_eq!(show(&required, "trap").await.shown, failed);
}

#[tokio::test]
async fn what_a_broken_batch_counted_counts_once() {
    let rules = start(vec![all_hooks()]);
    let items = ["count", "count_and_break", "count"].map(|title| item(1, title)).to_vec();
    let routed = rules.route(NOON, items).await;
    assert_eq!(words(&routed[0]), ["abstain/n_1"]);
    assert_eq!(words(&routed[1]), ["error/trap"]);
    assert_eq!(words(&routed[2]), ["abstain/n_2"]);
    assert_eq!(words(&ask_one(&rules, item(1, "peek")).await), ["abstain/n_2"]);
    assert_eq!(words(&ask_one(&rules, item(2, "peek")).await), ["abstain/n_0"], "another's");
}

#[tokio::test]
async fn a_rule_keeps_values_and_takes_tokens_within_its_quotas() {
    let rules = start(vec![all_hooks()]);
    for (title, code) in [
        ("keep", "kept"),
        ("keep", "was_there"),
        ("take", "taken"),
        ("take", "taken"),
        ("take", "empty"),
        ("flood", "refused_12"),
    ] {
        let routed = ask_one(&rules, item(1, title)).await;
        assert_eq!(words(&routed), [format!("abstain/{code}")], "{title}");
    }
    let minute_later = rules.route(NOON.plus(60_000), vec![item(1, "take")]).await;
    assert_eq!(words(&minute_later[0]), ["abstain/taken"]);
}

#[tokio::test]
async fn a_digest_ends_the_chain_and_names_its_terms() {
    let rules = start(vec![all_hooks(), rule("event-routing", &[("route.*", "none")])]);
    let routed = ask_one(&rules, item(1, "digest")).await;
    let digest = Digest { key: "build".into(), flush_at: NOON.plus(60_000), max_items: 3 };
    assert_eq!(routed.verdict, Verdict::Digest(digest));
    assert_eq!(words(&routed), ["digest/collected"]);
}

#[tokio::test]
async fn thirty_two_codes_of_a_rule_are_told_apart() {
    let rules = start(vec![all_hooks()]);
    let mut last = Vec::new();
    for n in 0..33 {
        let mut asked = item(1, "code");
        Arc::get_mut(&mut asked.notification).unwrap().content.body = n.to_string();
        last = ask_one(&rules, asked).await.decisions;
    }
    assert_eq!(last[0].code, "other");
    assert_eq!(last[0].detail.as_deref(), Some("code_32"));
    assert_eq!(words(&ask_one(&rules, item(1, "other")).await), ["abstain/other"]);
}

#[tokio::test]
async fn a_decision_names_the_component_that_made_it() {
    let rules = start(vec![all_hooks()]);
    let decision = ask_one(&rules, item(1, "x")).await.decisions.swap_remove(0);
    let summary = check_component(&component_bytes("hooks")).unwrap();
    assert_eq!(decision.digest, summary.digest);
    assert_eq!((decision.hook.as_str(), decision.stage.as_str()), ("route", "active"));
    assert_eq!(decision.batch, 1);
    assert_eq!(summary.hooks, Hook::ALL);
}

#[test]
fn the_bench_shows_what_one_question_took() {
    let bench = Bench::start(RuleLimits::default()).unwrap();
    let manifest = "[rule]\nname = \"hooks\"\nversion = \"1.0.0\"\n[config]\nword = \"own\"\n\
                    [match]\npriorities = [\"normal\"]";
    let whole = embed_manifest(&component_bytes("hooks"), manifest).unwrap();
    let rule = bench.load("hooks", &whole).unwrap();
    assert_eq!(rule.config().name, "hooks");
    let mut critical = item(1, "x");
    Arc::get_mut(&mut critical.notification).unwrap().priority = Priority::Critical;
    let items = [item(1, "count"), critical, item(1, "config")];
    let plans = items.map(|asked| (asked, Plan::all_targets(2))).to_vec();
    let mut question = Question {
        now: NOON,
        org: "1".into(),
        config: BTreeMap::new(),
        state: State { counts: BTreeMap::from([("n".into(), 4)]), ..State::default() },
        batch: Batch::Route(plans),
    };
    for _ in 0..2 {
        let report = bench.ask(&rule, &question);
        let code =
            |at: usize| report.answers[at].as_ref().map(|a| a.as_ref().unwrap().code.clone());
        assert_eq!([code(0), code(1), code(2)], [Some("n_5".into()), None, Some("own".into())]);
        assert!(report.fuel > 0 && report.fuel < report.fuel_limit);
        assert!(report.memory_bytes >= 65_536);
        let calls: Vec<_> =
            report.calls.iter().map(|call| (call.name, call.key.as_str())).collect();
        assert_eq!(calls, [("counters.add", "n"), ("config.get-for-org", "word")]);
    }
    question.config.insert("word".into(), "other".into());
    question.batch = Batch::Route(vec![(item(1, "config"), Plan::all_targets(2))]);
    let report = bench.ask(&rule, &question);
    assert_eq!(report.answers[0].as_ref().unwrap().as_ref().unwrap().code, "other");
    question.batch = Batch::Authorize(vec![request("trap", true)]);
    let report = bench.ask(&rule, &question);
    let breach = report.answers[0].as_ref().unwrap().as_ref().unwrap_err();
    assert_eq!(breach.kind, BreachKind::Trap);
    assert!(report.logs[0].text.contains("testdata/hooks.rs:"), "{:?}", report.logs);
}

#[test]
fn a_manifest_in_a_component_must_fit_it() {
    let component = component_bytes("quiet-hours");
    let embed = |hooks: &str| {
        let text = format!("[rule]\nname = \"a\"\nversion = \"1.0.0\"\nhooks = {hooks}");
        embed_manifest(&component, &text)
    };
    let whole = embed("[\"route\"]").unwrap();
    assert_eq!(check_component(&whole).unwrap().manifest.unwrap().name, "a");
    let error = embed("[\"route\", \"transform\"]").unwrap_err();
    assert!(matches!(&error, RuleError::OtherHooks { .. }), "{error}");
    let twice = embed_manifest(&whole, "[rule]\nname = \"b\"\nversion = \"1.0.0\"");
    assert!(matches!(twice, Err(RuleError::TwoManifests)));
    assert!(matches!(embed_manifest(&component, "name"), Err(RuleError::Manifest(_))));
}

#[test]
fn a_rule_may_tighten_its_limits_and_not_loosen_them() {
    let embed = |limits: &str| {
        let text = format!("[rule]\nname = \"a\"\nversion = \"1.0.0\"\n[limits]\n{limits}");
        embed_manifest(&component_bytes("hooks"), &text).unwrap()
    };
    for loose in ["fuel_per_item = 20_000_001", "memory = \"129MiB\"", "deadline = \"51ms\""] {
        let error = check_component(&embed(loose)).unwrap_err();
        assert!(matches!(error, RuleError::LooserLimit { .. }), "{loose}: {error}");
    }
    let bench = Bench::start(RuleLimits::default()).unwrap();
    // The tools grant what an interpreter needs, a gateway what its operator set.
    for loose in ["memory = \"17MiB\"", "component = \"9MiB\"", "fuel_per_item = 1_000_001"] {
        check_component(&embed(loose)).unwrap();
        let error = bench.load("a", &embed(loose)).unwrap_err();
        assert!(matches!(error, RuleError::LooserLimit { .. }), "{loose}: {error}");
    }
    let rule = bench.load("a", &embed("fuel_per_item = 10")).unwrap();
    let question = Question {
        now: NOON,
        org: "1".into(),
        config: BTreeMap::new(),
        state: State::default(),
        batch: Batch::Route(vec![(item(1, "flood"), Plan::all_targets(2))]),
    };
    assert_eq!(bench.ask(&rule, &question).fuel_limit, 50_010);
}

#[tokio::test]
async fn a_rule_of_some_organizations_is_asked_for_these_and_with_these_attributes() {
    let matches =
        RuleMatch { orgs: vec![1], attributes: vec!["a.b".into()], ..RuleMatch::default() };
    let rules = start(vec![RuleConfig { matches, ..all_hooks() }]);
    let with = |org: i32, data: &str| {
        let mut asked = item(org, "x");
        Arc::get_mut(&mut asked.notification).unwrap().content.data = data.into();
        asked
    };
    let some = r#"{"a":{"b":1}}"#;
    let items = vec![with(1, some), with(2, some), with(1, "{}"), with(1, "")];
    let routed = rules.route(NOON, items).await;
    let decisions: Vec<_> = routed.iter().map(|one| one.decisions[0].decision.as_str()).collect();
    assert_eq!(decisions, ["abstain", "skipped", "skipped", "skipped"]);
}
