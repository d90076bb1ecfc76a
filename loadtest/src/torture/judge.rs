//! The end of a row: drain, export, stop, and the nine invariants.

use std::process::Command;
use std::time::{Duration, Instant};

use super::Trouble;
use super::books::{self, Ledgers};
use super::export;
use super::findings::{Count, Findings, Invariant};
use super::gateway::{self, Residue};
use super::redis::RedisShape;
use super::report::{RowReport, Verdict};
use super::shape::Order;
use super::stage::Stage;

/// What a process may keep of a run, beyond a tenth: connections to providers, allocator pools.
const FILES_SLACK: usize = 64;
const THREADS_SLACK: usize = 8;
const RSS_SLACK: u64 = 96 << 20;
/// What the books say of deliveries that ended more than once.
pub(super) const SECOND_STATE: &str = "deliveries with a second final state";
const STOP_MAX: Duration = Duration::from_secs(30);
/// How long pools may take to let go: hooks' connections are kept for half a minute.
const RESIDUE_MAX: Duration = Duration::from_secs(60);

/// Judges a row whose fault has healed and whose load has ended.
pub(super) async fn judge(mut stage: Box<Stage>, report: &mut RowReport) {
    if let Err(trouble) = weigh(&mut stage, report).await {
        report.fail(&trouble);
    }
    report.schedule = std::mem::take(&mut stage.schedule);
    report.remarks = std::mem::take(&mut stage.remarks);
    report.plots = std::mem::take(&mut stage.plots);
    if !stage.breaches.is_empty() {
        let breaches = std::mem::take(&mut stage.breaches).join("; ");
        report.verdict.add(&breaches);
    }
}

async fn weigh(stage: &mut Stage, report: &mut RowReport) -> Result<(), Trouble> {
    let healed = stage.healed.unwrap_or_else(Instant::now);
    let drained = stage.drained(stage.shape.drain_goal).await?;
    report.drain = drained.map(|_| healed.elapsed());
    // Before the export, which is load of the harness's own.
    let residue = residue(stage).await;
    stage.sync()?;
    let states = export::export(stage).await?;
    let (client, receipts) = (stage.dir.join("client.jsonl"), stage.receipts_path());
    let world = stage.world.clone();
    let notifications = stage.sent.accepted + stage.sent.unknown + stage.sent.refused;
    let gaps = stage.gaps.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let ledgers = Ledgers { client: &client, receipts: &receipts, states: &states };
        books::audit(&world, ledgers, notifications, &gaps, |_| {})
    });
    let findings = reading.await.map_err(|error| Trouble::Setup(error.to_string()))?;
    let findings = findings.map_err(Trouble::io("a ledger cannot be read back"))?;
    let counters = counters(stage, &findings).await?;
    let stopped = stop(stage).await?;
    report.take(&findings);
    report.ready_max = stage.ready_max;
    report.invariants = invariants(stage, &findings, drained);
    report.invariants.push(with_counters(&findings, counters, stopped.books));
    tell_gaps(stage, &findings);
    report.invariants.push(with_residue(stage, residue, stopped.orphans));
    let broken: Vec<_> = report.invariants.iter().filter(|line| !line.holds()).collect();
    if !broken.is_empty() {
        let names: Vec<_> = broken.iter().map(|line| line.name).collect();
        let text = names.join(", ");
        report.verdict = Verdict::Passed;
        report.verdict.add(&text);
    }
    if findings.accepted == 0 {
        report.verdict.add("nothing was accepted, so nothing was proved");
    }
    Ok(())
}

/// What the class let go of, and in how long a time; what else is lost is judged as ever.
fn tell_gaps(stage: &mut Stage, findings: &Findings) {
    let widest = stage.gaps.iter().map(|gap| gap.to_ms - gap.from_ms).max();
    let Some(widest) = widest else { return };
    let class = stage.shape.redis.as_ref().map_or("", RedisShape::class);
    let found = findings.let_go.found;
    stage.remarks.push(format!(
        "class {class}: {found} deliveries of what was accepted within {widest} ms are lost as it \
         says; {} outcomes of then may be forgotten",
        findings.forgotten,
    ));
    let must_lose = stage.shape.loses;
    stage
        .expect(!must_lose || found > 0, || String::from("nothing was lost, so nothing was shown"));
}

fn invariants(stage: &Stage, findings: &Findings, drained: Option<Duration>) -> Vec<Invariant> {
    let shape = &stage.shape;
    let repeats_max = stage.crashes * shape.max_in_flight
        + findings.ambiguous
        + findings.forgotten
        + shape.repeats_extra;
    let inverted_max = match shape.order {
        Order::Strict => Some(0),
        Order::InFlight => Some(stage.crashes * shape.max_in_flight),
        Order::Unjudged => None,
    };
    let mut duplicated = Invariant::of("I3 duplicate", &findings.duplicated, Some(repeats_max));
    if findings.other_id.found > 0 {
        duplicated.found += repeats_max + 1;
        duplicated.note = format!(
            "{} repeats under another id: {}",
            findings.other_id.found,
            findings.other_id.examples.join("; ")
        );
    }
    let late = Count {
        found: findings.pending.found + u64::from(drained.is_none()),
        examples: findings.pending.examples.clone(),
    };
    let mut late = Invariant::of("I7 not drained", &late, Some(0));
    late.note = match drained {
        Some(_) => format!("goal {} s {}", shape.drain_goal.as_secs(), late.note),
        None => format!("work is left after {} s {}", shape.drain_goal.as_secs(), late.note),
    };
    vec![
        Invariant::of("I1 lost", &findings.lost, Some(0)),
        Invariant::of("I2 phantom", &findings.phantom, Some(0)),
        duplicated,
        Invariant::of("I4 corrupt", &findings.corrupt, Some(0)),
        Invariant::of("I5 cross-tenant", &findings.foreign, Some(0)),
        Invariant::of("I6 order", &findings.inverted, inverted_max),
        late,
    ]
}

/// Where the gateway's own counters differ from the ledgers; none when a crash reset them.
async fn counters(stage: &Stage, findings: &Findings) -> Result<Option<Vec<String>>, Trouble> {
    if !stage.is_first_life {
        return Ok(None);
    }
    let metrics = stage.gateway.metrics().await?;
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let differs = |name: &str, part: &str, expected: u64, slack: u64| {
        let found = metrics.sum(name, part);
        let is_wrong = found < expected as f64 || found > (expected + slack) as f64;
        is_wrong.then(|| format!("{name} {part} is {found}, the ledgers say {expected}"))
    };
    // What was stored without an answer to the client counts as accepted only if one was written.
    let accepted = findings.accepted;
    let delivered = findings.delivered;
    let checks = [
        differs("bugler_notifications_accepted_total", "", accepted, findings.unknown),
        differs(
            "bugler_deliveries_total",
            "outcome=\"delivered\"",
            delivered.saturating_sub(findings.ambiguous),
            findings.ambiguous,
        ),
    ];
    Ok(Some(checks.into_iter().flatten().collect()))
}

fn with_counters(
    findings: &Findings,
    counters: Option<Vec<String>>,
    audit: Option<Result<(), String>>,
) -> Invariant {
    let mut count = findings.books.clone();
    let mut compared = vec!["export"];
    match counters {
        Some(differences) => {
            compared.push("metrics");
            for difference in differences {
                count.add(1, || difference);
            }
        }
        None => compared.push("without counters"),
    }
    match audit {
        Some(Ok(())) => compared.push("bugler audit"),
        Some(Err(error)) => count.add(1, || format!("bugler audit: {error}")),
        None => {}
    }
    let mut line = Invariant::of("I8 books", &count, Some(0));
    let found = if line.note.is_empty() { String::new() } else { format!("; {}", line.note) };
    let twice = match findings.twice {
        0 => String::new(),
        count => format!(", {count} {SECOND_STATE}"),
    };
    line.note = format!("by {}{twice}{found}", compared.join(", "));
    line
}

/// What the process still holds once it is quiet, and what it may hold.
async fn residue(stage: &Stage) -> Option<(Residue, Residue)> {
    let before = stage.residue_before;
    let bound = Residue {
        rss_bytes: before.rss_bytes + before.rss_bytes / 10 + RSS_SLACK,
        files: before.files + before.files / 10 + FILES_SLACK,
        threads: before.threads + before.threads / 10 + THREADS_SLACK,
    };
    let begun = Instant::now();
    let mut found = stage.gateway.residue()?;
    while begun.elapsed() < RESIDUE_MAX && !is_within(found, bound) {
        tokio::time::sleep(Duration::from_millis(250)).await;
        found = stage.gateway.residue()?;
    }
    Some((found, bound))
}

fn is_within(found: Residue, bound: Residue) -> bool {
    found.rss_bytes <= bound.rss_bytes
        && found.files <= bound.files
        && found.threads <= bound.threads
}

fn with_residue(
    stage: &Stage,
    residue: Option<(Residue, Residue)>,
    orphans: Vec<String>,
) -> Invariant {
    let mut count = Count::default();
    let note = match residue {
        Some((found, bound)) => {
            count.found += u64::from(!is_within(found, bound));
            let mib = |bytes: u64| bytes >> 20;
            format!(
                "rss {} MiB (before {}, bound {}), files {} ({}, {}), threads {} ({}, {})",
                mib(found.rss_bytes),
                mib(stage.residue_before.rss_bytes),
                mib(bound.rss_bytes),
                found.files,
                stage.residue_before.files,
                bound.files,
                found.threads,
                stage.residue_before.threads,
                bound.threads,
            )
        }
        None => {
            count.found += 1;
            String::from("the process could not be read")
        }
    };
    for orphan in orphans {
        count.add(1, || format!("left behind: {orphan}"));
    }
    let mut line = Invariant::of("I9 residue", &count, Some(0));
    line.note = if line.note.is_empty() { note } else { format!("{note}; {}", line.note) };
    line
}

/// How a gateway ended.
struct Stopped {
    orphans: Vec<String>,
    /// What `bugler audit` said of the stopped data directory or of Redis, where the binary has it.
    books: Option<Result<(), String>>,
}

/// Every row ends with an orderly stop, and a look at what lies on the disk.
async fn stop(stage: &mut Stage) -> Result<Stopped, Trouble> {
    stage.gateway.signal("TERM").await?;
    let ended = stage.gateway.ended(STOP_MAX).await;
    stage.expect(ended.is_some_and(|status| status.code() == Some(0)), || {
        format!("the last stop ended with {ended:?}")
    });
    let books = audit(stage).await?;
    Ok(Stopped { orphans: orphans(&stage.launch.store), books })
}

async fn audit(stage: &Stage) -> Result<Option<Result<(), String>>, Trouble> {
    let cannot = Trouble::io("the binary cannot be started");
    let mut help = Command::new(&stage.launch.binary);
    help.env_clear().args(["audit", "--help"]);
    if gateway::run(help).await.map_err(cannot)?.code != Some(0) {
        return Ok(None);
    }
    let mut audit = Command::new(&stage.launch.binary);
    audit.env_clear().arg("audit").arg("--config").arg(&stage.launch.config);
    audit.args(["--set", &format!("store.dir={}", stage.launch.store.display())]);
    for setting in &stage.launch.settings {
        audit.args(["--set", setting]);
    }
    let cannot = Trouble::io("the binary cannot be started");
    let ended = gateway::run(audit).await.map_err(cannot)?;
    let last = || format!("exit {:?}: {} {}", ended.code, ended.stdout.trim(), ended.last_words());
    Ok(Some(if ended.code == Some(0) { Ok(()) } else { Err(last()) }))
}

/// Files that a stopped gateway should not leave: half-made ones.
fn orphans(store: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if [".tmp", ".new", ".part"].iter().any(|ending| name.ends_with(ending)) {
                found.push(name);
            }
        }
    }
    found
}
