//! `bugler torture` on a small scale: rows pass, sabotage is caught, and what proves nothing is no
//! success.

use std::process::Command;

use serde_json::Value;

use crate::support::gateway::{Failure, run};

fn rules_target() -> std::path::PathBuf {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_bugler"));
    binary.ancestors().nth(2).expect("a binary in a target directory").join("author")
}

async fn torture(arguments: &[&str]) -> (Failure, Value) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let report = dir.path().join("report.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bugler"));
    command.arg("torture").args(arguments).arg("--dir").arg(dir.path().join("run"));
    // Rules are built where those of other tests are, so that a second run finds them.
    command.env("CARGO_TARGET_DIR", rules_target());
    command.arg("--json").arg(&report);
    let ended = run(command).await;
    let report = std::fs::read(report).unwrap_or_default();
    (ended, serde_json::from_slice(&report).unwrap_or_default())
}

/// Plays rows with a seed of their own; each must pass and must have judged all nine invariants.
async fn passes(rows: &str) {
    passes_on("embedded", rows).await;
}

async fn passes_on(backend: &str, rows: &str) {
    let arguments = ["--backend", backend, "--rows", rows, "--seed", "4"];
    let (ended, report) = torture(&arguments).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    for row in report["rows"].as_array().expect("a report has rows") {
        assert_eq!(row["verdict"], "passed", "{row:#}");
        assert_eq!(row["invariants"].as_array().map(Vec::len), Some(9), "{row:#}");
        assert!(row["accepted"].as_u64() > Some(0), "{row:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_random_times_lose_nothing() {
    passes("F1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_in_order_lose_and_repeat_nothing() {
    passes("F13").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_that_fail_for_a_while_get_everything_in_the_end() {
    passes("F53,F58").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_rules_and_rules_that_change_under_load_cost_nobody_a_delivery() {
    passes("F68,F72").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_dies_or_forgets_its_scripts_loses_nothing() {
    passes_on("redis", "F31,F43").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_fails_over_loses_nothing() {
    passes_on("cluster", "F35").await;
}

/// The binary of these tests has the feature that reads `BUGLER_SABOTAGE`.
async fn catches(sabotage: &str) {
    let (ended, _) = torture(&["--self-test", "--sabotage", sabotage, "--seed", "4"]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("caught: "), "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_before_the_write_are_caught() {
    catches("ack-before-fsync").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_outcomes_are_caught() {
    catches("drop-outcome").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settlements_of_a_lost_lease_are_caught() {
    catches("no-fence").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_not_run_is_named_with_its_reason_and_is_no_success() {
    let (ended, report) = torture(&["--rows", "F17"]).await;
    assert_eq!(ended.code, Some(2), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(report["rows"][0]["verdict"], "skipped");
    assert!(report["rows"][0]["reason"].as_str().is_some_and(|reason| reason.contains("Redis")));
    let (ended, _) = torture(&["--rows", "F999"]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("F999"), "{}", ended.stderr);
}
