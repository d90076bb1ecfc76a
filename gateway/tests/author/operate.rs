//! A running gateway and the commands that change its rules.

use super::{Said, said, shipped_rule, target};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_bugler");

/// A gateway of one organization, ended when dropped.
struct Served {
    process: Child,
    url: String,
    token: String,
    _dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn serve() -> Served {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let seed = dir.path().join("directory.json");
    let directory = json!({
        "organizations": [{ "id": 101, "name": "Acme", "tz": "Europe/Kyiv" }],
        "users": [{ "id": 7, "organization": 101, "role": 1, "status": "active",
                    "email": "ann@example.com", "name": "Ann" }],
        "subscriptions": [], "clients": [],
    });
    std::fs::write(&seed, directory.to_string()).expect("the directory is written");
    let store = format!("store.dir={}", dir.path().join("store").display());
    let mut command = Command::new(BINARY);
    command.args(["serve", "--seed"]).arg(&seed).args(["--set", &store]);
    command.args(["--set", "server.listen=127.0.0.1:0"]);
    command.args(["--set", "server.admin_listen=127.0.0.1:0"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("the binary can be started");
    let mut lines = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
    let ready = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let line: Value = serde_json::from_str(&line).ok()?;
        (line["message"] == "ready").then(|| line["api"].as_str().map(str::to_owned)).flatten()
    });
    let api = ready.expect("the gateway says where it serves");
    // Nobody reads on; a full pipe would stop it.
    std::thread::spawn(move || lines.map_while(Result::ok).count());
    let mut mint = Command::new(BINARY);
    let minted = mint.args(["token", "--org", "101", "--set", &store]).output();
    let minted = said(&minted.expect("the binary can be started"));
    assert_eq!(minted.code, Some(0), "{minted:?}");
    Served { process, url: format!("http://{api}"), token: minted.out.trim().to_owned(), _dir: dir }
}

impl Served {
    fn run(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(BINARY);
        command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
        command.env("CARGO_TARGET_DIR", target()).env("BUGLER_ORG", "101");
        command.env("BUGLER_URL", &self.url).env("BUGLER_TOKEN", &self.token);
        said(&command.output().expect("the binary can be started"))
    }
}

#[test]
fn a_rule_goes_from_its_shadow_into_force_and_back_by_command() {
    let served = serve();
    let rule = shipped_rule("fallback");
    let rule = rule.to_str().expect("a path of plain letters");
    let deployed = served.run(&["rule", "deploy", rule, "--stage", "shadow", "-m", "first"]);
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    assert!(deployed.out.contains("shadow 0.1.0"), "{deployed:?}");
    let watched = served.run(&["rule", "watch", "fallback", "--lines", "1"]);
    let shown =
        ["shadow: 0 items, 0 errors", "0 compared, 0 changed", "gates: min_items: 0 of 10000"];
    assert!(shown.iter().all(|part| watched.out.contains(part)), "{watched:?}");
    for (arguments, word) in [
        (["promote", "fallback", "--to", "canary:5%"].as_slice(), "canary 0.1.0"),
        (&["promote", "fallback", "--to", "active"], "active 0.1.0"),
        (&["pause", "fallback"], "PAUSED"),
        (&["resume", "fallback"], "active 0.1.0"),
        (&["list"], "active 0.1.0"),
    ] {
        let said = served.run(&[&["rule"], arguments].concat());
        assert_eq!((said.code, said.out.contains(word)), (Some(0), true), "{arguments:?} {said:?}");
    }
    for (arguments, line) in [
        (["after=5s"].as_slice(), "after = \"5s\""),
        (&[], "after = \"5s\""),
        (&["--unset", "after"], "after = \"30s\"  (rule.toml)"),
    ] {
        let said = served.run(&[&["rule", "config", "fallback"], arguments].concat());
        let has_line = said.out.lines().any(|said| said == line);
        assert_eq!((said.code, has_line), (Some(0), true), "{arguments:?} {said:?}");
    }
    let shown = served.run(&["rule", "show", "fallback", "-o", "json"]);
    assert_eq!(shown.json()["active"]["version"], "0.1.0");
    assert_eq!(served.run(&["rule", "show", "nobody"]).code, Some(6));
}

#[test]
fn a_version_is_compared_with_the_one_in_force() {
    let served = serve();
    let (before, after) = (shipped_rule("fallback"), shipped_rule("fallback"));
    let [before, after] = [&before, &after].map(|path| path.to_str().expect("plain letters"));
    let bench = ["rule", "bench", after, "--rounds", "2", "--against", "active"];
    assert_eq!(served.run(&bench).code, Some(6), "nothing of it is deployed");
    assert_eq!(served.run(&["rule", "deploy", before, "--stage", "shadow"]).code, Some(0));
    assert_eq!(served.run(&bench).code, Some(6), "nothing of it is in force");
    assert_eq!(served.run(&["rule", "promote", "fallback", "--to", "active"]).code, Some(0));
    let within = served.run(&[&bench[..], &["--fail-if", "fuel>+20%"]].concat());
    assert_eq!(within.code, Some(0), "{within:?}");
    assert!(
        within.out.contains("against fallback 0.1.0") && within.out.contains("fuel +0.0 %"),
        "{within:?}"
    );
    let diff =
        served.run(&["rule", "diff", "active", after, "--generate", "50", "--max-changed", "0"]);
    assert_eq!((diff.code, diff.out.starts_with("same 50")), (Some(0), true), "{diff:?}");
}

#[test]
fn decisions_are_records_of_one_schema_wherever_they_come_from() {
    let served = serve();
    let dir = shipped_rule("fallback");
    let dir = dir.to_str().expect("a path of plain letters");
    let tested = served.run(&["rule", "test", dir, "-o", "jsonl"]);
    assert_eq!(tested.code, Some(0), "{tested:?}");
    let evaluated = served.run(&[
        "rule",
        "eval",
        dir,
        "--set",
        "recipient.targets=[\"apns:1\", \"slack:1\"]",
        "-o",
        "jsonl",
    ]);
    assert_eq!(evaluated.code, Some(0), "{evaluated:?}");
    let diff = ["rule", "diff", "event-routing", dir, "--generate", "20", "-o", "jsonl"];
    let diff = served.run(&diff);
    let mut stages = std::collections::BTreeSet::new();
    for line in [&tested.out, &evaluated.out, &diff.out].into_iter().flat_map(|out| out.lines()) {
        let record: Value = serde_json::from_str(line).expect("a line is JSON");
        assert_eq!((&record["v"], &record["rule"]), (&1.into(), &"fallback".into()), "{line}");
        assert!(record["digest"].as_str().is_some_and(|d| d.starts_with("sha256:")), "{line}");
        for name in ["ts", "id", "org", "hook", "version", "stage", "decision", "code"] {
            assert!(record[name].is_string(), "{name}: {line}");
        }
        stages.insert(record["stage"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(stages.into_iter().collect::<Vec<_>>(), ["diff", "eval", "test"]);
}

#[test]
fn gates_said_at_a_deploy_hold_the_version_until_they_are_met() {
    let served = serve();
    let dir = shipped_rule("fallback");
    let dir = dir.to_str().expect("a path of plain letters");
    let deploy = [
        "rule",
        "deploy",
        dir,
        "--min-items",
        "5",
        "--min-minutes",
        "0",
        "--max-diff",
        "2%",
        "--expect-change",
    ];
    assert_eq!(served.run(&deploy).code, Some(0));
    let promote = ["rule", "promote", "fallback", "--to", "active"];
    let held = served.run(&promote);
    assert_eq!(held.code, Some(7), "{held:?}");
    assert!(held.err.contains("min_items: 0 of 5"), "{held:?}");
    assert_eq!(served.run(&[&promote[..], &["--force"]].concat()).code, Some(0));
    let shown = served.run(&["rule", "show", "fallback", "-o", "json"]).json();
    let version = &shown["versions"][0];
    assert_eq!(version["gates"], json!({ "min_items": 5, "min_minutes": 0, "max_diff": "2%" }));
    assert_eq!(version["expectsChange"], true);
    let wrong = served.run(&["rule", "deploy", dir, "--max-diff", "much"]);
    assert_eq!((wrong.code, wrong.err.contains("gates")), (Some(11), true), "{wrong:?}");
}

#[test]
fn what_the_gateway_refuses_says_so_and_a_token_that_is_none_is_not_allowed() {
    let served = serve();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("none.wasm");
    std::fs::write(&file, "no component").unwrap();
    let refused = served.run(&["rule", "deploy", file.to_str().unwrap()]);
    assert_eq!(refused.code, Some(11), "{refused:?}");
    let stranger = served.run(&["rule", "list", "--token", "none"]);
    assert_eq!(stranger.code, Some(5), "{stranger:?}");
}

#[test]
fn real_traffic_is_captured_and_asked_again_and_decisions_are_listed_by_command() {
    let served = serve();
    let rule = shipped_rule("permissions");
    let rule = rule.to_str().expect("a path of plain letters");
    let deployed = served.run(&["rule", "deploy", rule, "--stage", "active"]);
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("captured.jsonl");
    let path = file.to_str().expect("a path of plain letters");
    let capture = ["rule", "capture", "permissions", "--rate", "100%", "--for", "2s", "-o", path];
    let captured = std::thread::scope(|scope| {
        let captured = scope.spawn(|| served.run(&capture));
        while !captured.is_finished() {
            // The rule is asked whether the caller may list rules.
            assert_eq!(served.run(&["rule", "list"]).code, Some(0));
        }
        captured.join().expect("the capture ends")
    });
    assert_eq!(captured.code, Some(0), "{captured:?}");
    let lines = std::fs::read_to_string(&file).unwrap();
    assert!(!lines.is_empty(), "{captured:?}");
    for from in [["--file", path], ["--since", "-1h"]] {
        let replayed = served.run(&[&["rule", "replay", rule, "-o", "json"], &from[..]].concat());
        assert_eq!(replayed.code, Some(0), "{replayed:?}");
        assert_eq!(replayed.json()["changed"], 0);
        let items = replayed.json()["items"].as_u64().unwrap_or_default();
        let count = lines.lines().count() as u64;
        // The gateway may have begun to judge something when the capture began, and has it recorded since.
        let is_whole = if from[0] == "--file" { items == count } else { items >= count };
        assert!(is_whole, "{from:?}: {items} of {count}");
    }
    let decisions = ["rule", "decisions", "permissions", "--since", "-1h", "-o", "jsonl"];
    assert_eq!(served.run(&decisions).code, Some(0));
    let logs = served.run(&["rule", "logs", "permissions", "--level", "warn"]);
    assert_eq!((logs.code, logs.out.as_str()), (Some(0), ""), "{logs:?}");
    assert_eq!(served.run(&["rule", "decisions", "nobody"]).code, Some(6));
    let unknown = served.run(&["rule", "capture", "nobody", "--rate", "1%", "-o", path]);
    assert_eq!(unknown.code, Some(6), "{unknown:?}");
}
