//! The shipped rules: their own tests, what they cost, and a replay that finds nothing changed.

use super::{rule, shipped_rule};
use std::path::Path;

const RULES: [&str; 6] =
    ["permissions", "event-routing", "quiet-hours", "throttle-digest", "fallback", "pii-redaction"];

#[test]
fn every_shipped_rule_passes_its_own_tests() {
    for name in RULES {
        let said = rule(&shipped_rule(name), &["test", "-o", "json"]);
        assert_eq!(said.code, Some(0), "{name}: {said:?}");
        let passed = said.json()["passed"].as_u64().unwrap();
        assert!(passed >= 5, "{name}: {passed} cases");
    }
}

#[test]
fn the_gateway_would_load_every_shipped_rule_and_it_says_what_it_was_built_of() {
    for name in RULES {
        let said = rule(&shipped_rule(name), &["check"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        for word in ["manifest inside", "built    bugler 0.1.0 sdk 0.1.0 source sha256:"] {
            assert!(said.out.contains(word), "{name}: {}", said.out);
        }
    }
}

#[test]
fn a_build_is_the_same_twice() {
    let dir = tempfile::tempdir().unwrap();
    let build = |file: &str| {
        let path = dir.path().join(file);
        let said = rule(&shipped_rule("fallback"), &["build", "--out", path.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{said:?}");
        std::fs::read(path).unwrap()
    };
    assert!(build("one.wasm") == build("two.wasm"));
}

#[test]
fn fuel_stays_within_a_gate_and_past_it_the_exit_code_is_12() {
    let bench = |most: &str| {
        let dir = shipped_rule("fallback");
        rule(&dir, &["bench", "--rounds", "2", "--max-fuel", most, "-o", "json"])
    };
    let within = bench("40000");
    assert_eq!(within.code, Some(0), "{within:?}");
    let rows = within.json()["rows"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row["fuelPerItem"].as_u64() > Some(100)), "{rows:?}");
    assert_eq!(bench("100").code, Some(12));
}

#[test]
fn a_version_is_measured_beside_another_and_a_condition_in_percent_needs_one() {
    let other = shipped_rule("event-routing");
    let other = other.to_str().expect("a path of plain letters");
    let bench = |more: &[&str]| {
        let dir = shipped_rule("fallback");
        rule(&dir, &[&["bench", "--rounds", "2", "-o", "json"], more].concat())
    };
    let within = bench(&["--against", other, "--fail-if", "fuel>+100000%"]);
    assert_eq!(within.code, Some(0), "{within:?}");
    let against = within.json()["against"].clone();
    assert_eq!(
        (&against["name"], against["rows"].as_array().map(Vec::len)),
        (&"event-routing".into(), Some(4))
    );
    let beyond = bench(&["--against", ".", "--fail-if", "fuel>+20%", "--fail-if", "memory>1KiB"]);
    assert_eq!(beyond.code, Some(12), "{beyond:?}");
    let misses = beyond.json()["misses"].clone();
    assert_eq!(
        misses.as_array().map(Vec::len),
        Some(1),
        "it takes as much fuel as itself: {misses}"
    );
    assert_eq!(bench(&["--fail-if", "fuel>+20%"]).code, Some(2));
    assert_eq!(bench(&["--fail-if", "fuel"]).code, Some(2));
}

/// Captures `count` decisions of `name`, which replay without a difference; answers where they are.
fn replayed(name: &str, count: u64, dir: &Path) -> std::path::PathBuf {
    let file = dir.join(format!("{name}.jsonl"));
    let path = file.to_str().expect("a path of plain letters");
    let number = count.to_string();
    let rules = shipped_rule(name);
    let captured = rule(&rules, &["capture", ".", "--generate", &number, "-o", path]);
    assert_eq!(captured.code, Some(0), "{captured:?}");
    let replay = ["replay", ".", "--file", path, "--max-changed", "0", "-o", "json"];
    let replayed = rule(&rules, &replay);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let changes = replayed.json();
    let found = (&changes["items"], &changes["changed"], &changes["errors"]);
    assert_eq!(
        (found.0.as_u64(), found.1.as_u64(), found.2.as_u64()),
        (Some(count), Some(0), Some(0))
    );
    file
}

#[test]
fn replaying_an_unchanged_rule_finds_no_difference_in_a_hundred_thousand_decisions() {
    let dir = tempfile::tempdir().unwrap();
    // The throttle counts, so each decision depends on those before.
    for (name, count) in
        [("throttle-digest", 40_000), ("quiet-hours", 40_000), ("fallback", 20_000)]
    {
        replayed(name, count, dir.path());
    }
}

#[test]
fn replay_of_every_hook_works_and_another_rule_is_a_difference() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["permissions", "pii-redaction", "event-routing"] {
        replayed(name, 1_000, dir.path());
    }
    let file = replayed("fallback", 1_000, dir.path());
    let other = shipped_rule("event-routing");
    let path = file.to_str().unwrap();
    let said = rule(&other, &["replay", ".", "--file", path, "--max-changed", "0.1"]);
    assert_eq!(said.code, Some(12), "{said:?}");
    assert!(said.out.contains("deliver push_first → abstain no_rule"), "{}", said.out);
}

#[test]
fn two_versions_are_compared_by_what_they_answer() {
    let (one, other) = (shipped_rule("fallback"), shipped_rule("event-routing"));
    let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());
    let same = rule(Path::new("."), &["diff", one, one, "--generate", "50", "--max-changed", "0"]);
    assert_eq!(
        (same.code, same.out.starts_with("same 50   changed 0")),
        (Some(0), true),
        "{same:?}"
    );
    let changed =
        rule(Path::new("."), &["diff", one, other, "--generate", "50", "--max-changed", "1"]);
    assert_eq!(changed.code, Some(12), "{changed:?}");
}

#[test]
fn what_is_no_rule_is_refused_with_exit_code_11() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text.wasm"), "hello").unwrap();
    let said = rule(dir.path(), &["check", "text.wasm"]);
    assert_eq!(said.code, Some(11), "{said:?}");
    std::fs::write(dir.path().join("rule.toml"), "[rule]\nname = \"A\"\nversion = \"1\"").unwrap();
    let said = rule(dir.path(), &["build"]);
    assert_eq!((said.code, said.err.contains("rule.name")), (Some(11), true), "{said:?}");
}
