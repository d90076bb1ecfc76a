//! The author's first five minutes: new, test, a failing case, the fix, eval, capture and replay.

use super::{Said, rule, said, target};
use std::path::{Path, PathBuf};
use std::process::Command;

fn new(dir: &Path, arguments: &[&str]) -> PathBuf {
    let made = rule(dir, &[&["new"], arguments].concat());
    assert_eq!(made.code, Some(0), "{made:?}");
    dir.join(arguments[0])
}

/// What an author writes after `bugler rule new weekend-hush`, with the mistake of the story.
const HUSH: &str = r#"//! Hushes marketing at weekends.

use bugler_rules_sdk::prelude::*;

#[route]
fn weekend_hush(item: &Item<'_>, cx: &Cx<'_>) -> Routed {
    if item.event() != "marketing" || item.priority() == Priority::Critical {
        return abstain("not_marketing");
    }
    let Ok(now) = cx.local("UTC") else { return abstain("bad_tz") };
    if now.weekday >= 6 { drop_("weekend") } else { abstain("weekday") }
}
"#;

const CASES: &str = r#"
[defaults]
now = "2026-02-28T10:00:00Z"
notification = { event_type = "marketing" }
recipient = { tz = "Europe/Kyiv", targets = ["apns:d1"] }

[[case]]
name = "drops marketing on Saturday"
expect = { decision = "drop", code = "weekend" }

[[case]]
name = "lets critical through"
notification.priority = "critical"
expect = { decision = "abstain" }

[[case]]
name = "keeps Monday, Auckland"
now = "2026-03-01T20:00:00Z"
recipient.tz = "Pacific/Auckland"
expect = { decision = "abstain" }
"#;

fn edit(project: &Path, file: &str, text: &str) {
    std::fs::write(project.join(file), text).expect("the project can be written");
}

fn lines_with<'a>(said: &'a Said, part: &str) -> Vec<&'a str> {
    said.out.lines().filter(|line| line.contains(part)).collect()
}

#[test]
fn the_first_five_minutes_of_an_author() {
    let dir = tempfile::tempdir().unwrap();
    let project = new(dir.path(), &["weekend-hush", "--hook", "route"]);
    for file in
        ["rule.toml", "Cargo.toml", "src/lib.rs", "tests/route.toml", "README.md", ".gitignore"]
    {
        assert!(project.join(file).is_file(), "{file}");
    }
    let fresh = rule(&project, &["test"]);
    assert_eq!(fresh.code, Some(0), "{fresh:?}");

    edit(&project, "src/lib.rs", HUSH);
    edit(&project, "tests/route.toml", CASES);
    let wrong = rule(&project, &["test"]);
    assert_eq!(wrong.code, Some(10), "{wrong:?}");
    assert!(wrong.out.contains("2 passed, 1 failed"), "{}", wrong.out);
    assert_eq!(lines_with(&wrong, "FAIL keeps Monday, Auckland").len(), 1);
    assert_eq!(lines_with(&wrong, "expected abstain, got drop (weekend)").len(), 1);
    assert_eq!(lines_with(&wrong, "route.toml:17").len(), 1, "{}", wrong.out);
    let hint = "Monday 09:00 in Pacific/Auckland and Sunday 20:00 in UTC";
    assert_eq!(lines_with(&wrong, hint).len(), 1, "{}", wrong.out);
    let junit = rule(&project, &["test", "-o", "junit"]);
    assert_eq!(junit.code, Some(10));
    assert!(junit.out.contains("<testsuite name=\"weekend-hush\" tests=\"3\" failures=\"1\">"));

    // The line the failing case printed asks the same again.
    let again = lines_with(&wrong, "bugler rule eval").remove(0).trim().to_owned();
    let case = again.split('\'').nth(1).unwrap();
    let asked = rule(&project, &["eval", ".", "--case", case]);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    assert!(
        asked.out.contains("weekend") && asked.out.contains("clock.local UTC"),
        "{}",
        asked.out
    );

    let file = dir.path().join("capture.jsonl");
    let file = file.to_str().unwrap();
    let captured = rule(&project, &["capture", ".", "--generate", "3000", "-o", file]);
    assert_eq!(captured.code, Some(0), "{captured:?}");
    let fixed = HUSH.replace(
        "let Ok(now) = cx.local(\"UTC\")",
        "let tz = item.recipient().tz.as_deref().unwrap_or(\"UTC\");\n    let Ok(now) = cx.local(tz)",
    );
    edit(&project, "src/lib.rs", &fixed);
    let right = rule(&project, &["test"]);
    assert_eq!(
        (right.code, right.out.contains("3 passed, 0 failed")),
        (Some(0), true),
        "{right:?}"
    );
    let replayed = rule(&project, &["replay", ".", "--file", file]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert!(replayed.out.starts_with("replayed 3 000 decisions"), "{}", replayed.out);
    assert_eq!(
        lines_with(&replayed, "abstain weekday → drop weekend").len(),
        1,
        "{}",
        replayed.out
    );
}

const CHAIN: &str = r#"
[defaults]
now = "2026-02-28T23:00:00Z"
recipient = { tz = "Europe/Kyiv", targets = ["apns:d1", "slack:s1"] }

[chain]
rules = ["event-routing", "weekend-hush", "quiet-hours", "fallback"]
cases_from = "chain/*.jsonl"

[[chain.case]]
name = "marketing ends with the hush"
notification.event_type = "marketing"
expect = { decision = "drop", code = "weekend", by = "weekend-hush" }

[[chain.case]]
name = "the rest waits for the morning"
expect = { decision = "hold-until", by = "quiet-hours", at = "2026-03-01T05:00:00Z" }

[[chain.case]]
name = "by day it goes out in steps, on the channels that are chosen"
now = "2026-02-28T10:00:00Z"
config = { "route.*" = "apns,slack" }
expect = { decision = "deliver", by = "fallback", steps = [["apns:d1"], ["slack:s1"]] }
"#;

#[test]
fn a_chain_is_tested_with_the_shipped_rules_and_what_was_recorded_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let project = new(dir.path(), &["weekend-hush", "--hook", "route"]);
    edit(&project, "src/lib.rs", HUSH);
    std::fs::remove_file(project.join("tests/route.toml")).unwrap();
    edit(&project, "tests/chain.toml", CHAIN);
    std::fs::create_dir(project.join("tests/chain")).unwrap();
    let golden = project.join("tests/chain/recorded.jsonl");
    let path = golden.to_str().unwrap();
    let captured = rule(&project, &["capture", "quiet-hours", "--generate", "20", "-o", path]);
    assert_eq!(captured.code, Some(0), "{captured:?}");
    let before = rule(&project, &["test"]);
    assert_eq!(before.code, Some(10), "quiet-hours alone decides otherwise: {before:?}");
    for name in ["marketing ends", "the rest waits", "by day it goes out"] {
        assert_eq!(lines_with(&before, &format!("ok   {name}")).len(), 1, "{}", before.out);
    }
    let updated = rule(&project, &["test", "--update"]);
    assert_eq!(updated.code, Some(0), "{updated:?}");
    let after = rule(&project, &["test"]);
    assert_eq!(
        (after.code, after.out.contains("23 passed, 0 failed")),
        (Some(0), true),
        "{after:?}"
    );
    let text = std::fs::read_to_string(&golden).unwrap();
    std::fs::write(&golden, text.replacen("\"decision\":\"", "\"decision\":\"no-", 1)).unwrap();
    assert_eq!(rule(&project, &["test"]).code, Some(10));
}

#[test]
fn every_template_passes_its_tests_on_the_component_and_natively() {
    let dir = tempfile::tempdir().unwrap();
    for hook in ["authorize", "route", "transform"] {
        let project = new(dir.path(), &[&format!("new-{hook}"), "--hook", hook]);
        let tested = rule(&project, &["test"]);
        assert_eq!(tested.code, Some(0), "{tested:?}");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut native = Command::new(cargo);
        native.args(["test", "--offline", "--quiet"]).current_dir(&project);
        let native =
            said(&native.env("CARGO_TARGET_DIR", target().join("native")).output().unwrap());
        assert_eq!(native.code, Some(0), "{native:?}");
        assert!(native.out.contains("1 passed"), "{native:?}");
    }
}

#[test]
fn a_name_that_is_none_or_taken_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(rule(dir.path(), &["new", "Weekend"]).code, Some(1));
    new(dir.path(), &["taken"]);
    assert_eq!(rule(dir.path(), &["new", "taken"]).code, Some(7));
}
