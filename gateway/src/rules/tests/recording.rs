//! What rules decide and log is kept: what withholds always, the rest as a sample, inputs on request.

use super::*;
use crate::rules::record::DecisionRecord;
use std::time::{Duration, Instant};

struct Recorded {
    rules: Arc<WasmRules>,
    recorder: Arc<Recorder>,
    _dir: tempfile::TempDir,
}

fn recorded(rules: Vec<RuleConfig>) -> Recorded {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path().to_owned()).unwrap();
    let settings = RuleSettings {
        rules,
        threads: 2,
        recorder: Some(Arc::clone(&recorder)),
        ..RuleSettings::default()
    };
    Recorded { rules: WasmRules::start(settings).unwrap(), recorder, _dir: dir }
}

fn search(org: i32, rule: &str) -> Search {
    Search {
        org: OrganizationId(org),
        rule: rule.into(),
        after: Place::default(),
        since: Millis(0),
        decisions: Vec::new(),
        level: LogLevel::Debug,
        limit: 1_000,
    }
}

impl Recorded {
    /// Lines are written by a thread of their own.
    fn wait(&self, kept: Kept, search: &Search, count: usize) -> Vec<serde_json::Value> {
        let begun = Instant::now();
        loop {
            let page = self.recorder.read(kept, search).unwrap();
            if page.lines.len() >= count {
                return page.lines;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{} lines", page.lines.len());
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn what_withholds_is_always_recorded_and_what_does_not_as_a_sample() {
    let mut routing = rule("event-routing", &[("route.*", "slack")]);
    routing.config_for_org =
        BTreeMap::from([("2".into(), BTreeMap::from([("route.*".into(), "none".into())]))]);
    let recorded = recorded(vec![routing]);
    let items = |org| (0..2_000).map(|_| item(org, "x")).collect::<Vec<_>>();
    recorded.rules.route(NOON, items(1)).await;
    recorded.rules.route(NOON, items(2)[..200].to_vec()).await;
    let dropped = recorded.wait(Kept::Decisions, &search(2, "event-routing"), 200);
    assert_eq!(dropped.len(), 200);
    let record: DecisionRecord = serde_json::from_value(dropped[0].clone()).unwrap();
    assert_eq!((record.decided.decision.as_str(), record.stage.as_str()), ("drop", "active"));
    assert!(record.sampled > 0.99 && record.digest.starts_with("sha256:") && record.fuel > 0);
    assert!(record.plan_before.is_some() && record.input.is_none());
    let sampled = recorded.recorder.read(Kept::Decisions, &search(1, "event-routing")).unwrap();
    assert!((2..80).contains(&sampled.lines.len()), "{} of 2000", sampled.lines.len());
    assert!(
        sampled.lines.iter().all(|line| line["sampled"] == 0.01 && line["decision"] == "deliver")
    );
    let drops = Search { decisions: vec!["hold".into()], ..search(2, "event-routing") };
    assert_eq!(recorded.recorder.read(Kept::Decisions, &drops).unwrap().lines.len(), 0);
    let later = Search { since: NOON.plus(1), ..search(2, "event-routing") };
    assert_eq!(recorded.recorder.read(Kept::Decisions, &later).unwrap().lines.len(), 0);
}

#[tokio::test]
async fn an_error_is_recorded_and_the_place_of_the_panic_is_in_the_log() {
    let recorded = recorded(vec![rule("hostile", &[])]);
    recorded.rules.route(NOON, vec![item(1, "trap")]).await;
    let errors = recorded.wait(Kept::Decisions, &search(1, "hostile"), 1);
    assert_eq!((&errors[0]["decision"], &errors[0]["code"]), (&"error".into(), &"trap".into()));
    let warned = Search { level: LogLevel::Warn, ..search(1, "hostile") };
    let lines = recorded.wait(Kept::Logs, &warned, 1);
    assert!(lines[0]["text"].as_str().unwrap().contains("hostile.rs"), "{lines:?}");
    assert_eq!(recorded.recorder.read(Kept::Logs, &search(2, "hostile")).unwrap().lines.len(), 0);
}

#[test]
fn a_rule_that_logs_too_much_loses_lines_and_they_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path().to_owned()).unwrap();
    let line = "x".repeat(1024);
    for _ in 0..100 {
        recorder.log(("loud", "1.0.0", "1"), NOON, (LogLevel::Info, &line));
    }
    recorder.log(("quiet", "1.0.0", "1"), NOON, (LogLevel::Info, &line));
    assert_eq!((recorder.lost(Kept::Logs, "loud"), recorder.lost(Kept::Logs, "quiet")), (36, 0));
    recorder.log(("loud", "1.0.0", "1"), NOON.plus(1_000), (LogLevel::Info, &line));
    assert_eq!(recorder.lost(Kept::Logs, "loud"), 36);
}

#[tokio::test]
async fn a_capture_holds_what_is_needed_to_ask_again() {
    let recorded = recorded(vec![rule("quiet-hours", &[("from", "20:00")])]);
    let night = NOON.plus(8 * HOUR);
    let org = OrganizationId(1);
    let capture =
        |share, seconds| recorded.recorder.capture((org, "quiet-hours"), share, (NOON, seconds));
    assert_eq!(capture("0%", 60), Err(CaptureError::Share));
    assert_eq!(capture("1%", 0), Err(CaptureError::Length));
    capture("100%", 12 * 3_600).unwrap();
    let mut asked = item(1, "x");
    asked.recipient.email = Some("ann@example.com".into());
    let before = recorded.rules.route(night, vec![asked.clone(), asked]).await;
    recorded.rules.route(night, vec![item(2, "another organization's")]).await;
    let lines = recorded.wait(Kept::Captures, &search(1, "quiet-hours"), 2);
    assert!(lines.iter().all(|line| !line.to_string().contains("ann@")), "{lines:?}");
    let record: DecisionRecord = serde_json::from_value(lines[0].clone()).unwrap();
    let input = record.input.unwrap();
    assert_eq!(record.decided.words(), words(&before[0])[0].replace('/', " "));
    assert_eq!(input.settings()["from"], "20:00");
    let Batch::Route(items) = input::Input::batch(Hook::Route, [&input]).unwrap() else {
        panic!("a route");
    };
    let again = recorded.rules.route(input.now(), vec![items[0].0.clone()]).await;
    assert_eq!(words(&again[0]), words(&before[0]));
    recorded.recorder.end_capture(org, "quiet-hours");
    assert_eq!(recorded.recorder.captured(org, "quiet-hours", NOON), None);
    let page = recorded.recorder.read(Kept::Captures, &search(2, "quiet-hours")).unwrap();
    assert_eq!(page.lines.len(), 0);
}

#[tokio::test]
async fn what_a_rule_that_counts_was_asked_is_answered_the_same_again() {
    let settings = [("max", "3"), ("burst", "3")];
    let bytes = shipped_component("throttle-digest").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("throttle-digest.wasm");
    std::fs::write(&path, bytes).unwrap();
    let name = String::from("throttle-digest");
    let throttle = RuleConfig { name, path, ..rule("quiet-hours", &settings) };
    let recorded = recorded(vec![throttle]);
    let org = OrganizationId(1);
    // What it counts before the capture counts later.
    recorded.rules.route(NOON, vec![item(1, "x"), item(1, "x")]).await;
    recorded.recorder.capture((org, "throttle-digest"), "100%", (NOON, 3_600)).unwrap();
    for n in 1..4 {
        recorded.rules.route(NOON.plus(n), vec![item(1, "x"), item(1, "x")]).await;
    }
    let lines = recorded.wait(Kept::Captures, &search(1, "throttle-digest"), 6);
    let records: Vec<DecisionRecord> =
        lines.into_iter().map(|line| serde_json::from_value(line).unwrap()).collect();
    let codes: Vec<_> = records.iter().map(|one| one.decided.code.as_str()).collect();
    assert_eq!(codes.iter().filter(|code| **code == "under_limit").count(), 1, "{codes:?}");
    let bench = Bench::start(RuleLimits::default()).unwrap();
    let again = bench.load("throttle-digest", bytes).unwrap();
    // Whichever comes first: each call says itself what was there.
    for call in records.chunk_by(|one, other| one.call == other.call).rev() {
        assert_eq!((call.len(), call[0].batch), (2, 2));
        let inputs: Vec<_> = call.iter().map(|one| one.input.clone().unwrap()).collect();
        let question = Question {
            now: inputs[0].now(),
            org: inputs[0].org(),
            config: inputs[0].settings(),
            state: inputs[0].state(),
            batch: input::Input::batch(Hook::Route, &inputs).unwrap(),
        };
        let answers = bench.ask(&again, &question).answers;
        for (record, answer) in call.iter().zip(&answers) {
            assert_eq!(record::Decided::of(answer.as_ref(), None), record.decided);
        }
    }
}

#[tokio::test]
async fn where_a_shadow_says_something_else_is_always_recorded_with_what_is_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path().to_owned()).unwrap();
    let settings = RuleSettings {
        threads: 2,
        recorder: Some(Arc::clone(&recorder)),
        ..RuleSettings::default()
    };
    let node = deploying::node_of(WasmRules::start(settings).unwrap(), &Arc::default()).await;
    let component = |guest, version| deploying::component(guest, version, "");
    node.deploy(None, component("hooks", "1.0.0"), "active").await.unwrap();
    node.deploy(None, component("quiet-hours", "1.1.0"), "shadow").await.unwrap();
    let count = 50;
    node.engine.route(NOON, (0..count).map(|_| item(1, "x")).collect()).await;
    let recorded = Recorded { rules: node.engine, recorder, _dir: dir };
    let search = Search { decisions: vec!["abstain".into()], ..search(1, "tried") };
    let is_shadow = |line: &&serde_json::Value| line["stage"] == "shadow";
    let begun = Instant::now();
    let lines = loop {
        let lines = recorded.recorder.read(Kept::Decisions, &search).unwrap().lines;
        if lines.iter().filter(is_shadow).count() == count {
            break lines;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{} lines", lines.len());
        std::thread::yield_now();
    };
    let shadow = lines.iter().find(is_shadow).unwrap();
    assert_eq!((&shadow["version"], &shadow["code"]), (&"1.1.0".into(), &"awake".into()));
    assert_eq!(shadow["sampled"], 1.0);
    assert!(shadow["active"]["decision"].is_string() && shadow["active"]["code"] != "awake");
}
