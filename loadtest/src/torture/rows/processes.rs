//! Faults of the process: killed, stopped, paused, started twice, with nobody reading its log.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Need, Order, Row, Stage, Trouble};
use crate::jsonl;
use crate::load::{Mode, Stop};
use crate::torture::gateway::Ended;
use crate::torture::traffic::Pace;
use crate::twins::Receipt;

/// What a stop may take, and a second for the machine.
const STOP_MAX: Duration = Duration::from_secs(11);
/// How soon a gateway is ready again.
const READY_MAX: Duration = Duration::from_secs(2);
/// Longest that clients may take to come back.
const ACCEPTING_MAX: Duration = Duration::from_secs(10);
/// `SIGKILL`.
const KILLED: i32 = 9;
/// Notifications of each organization in a burst.
const BURST: u64 = 5_000;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        "F1",
        "kill -9 at random times",
        |shape| shape.order(Order::InFlight),
        |stage| Box::pin(kill_again_and_again(stage)),
    ),
    Row::new(
        "F13",
        "SIGTERM under load, twice, with a provider that never answers",
        |shape| shape.order(Order::Unjudged).set("server.drain_timeout=10s"),
        |stage| Box::pin(terminate(stage)),
    ),
    Row::new(
        "F14",
        "pause: SIGSTOP and SIGCONT past the lease",
        |mut shape| {
            // A pause longer than a provider's patience: what was on its way is unknown.
            shape.repeats_extra = shape.max_in_flight * shape.times(2, 10);
            shape
                .order(Order::Unjudged)
                .set("providers.connect_timeout=500ms")
                .set("dispatch.lease=2600ms")
        },
        |stage| Box::pin(pause(stage)),
    ),
    Row::new(
        "F16",
        "out of memory in a burst",
        |mut shape| {
            shape.drain_goal *= 4;
            // A Slack channel takes one message a second, and would hold a burst for an hour.
            shape.devices_only().order(Order::InFlight)
        },
        |stage| Box::pin(starve(stage)),
    )
    .needs(&[Need::MemoryGroup]),
    Row::lacking(
        "F17",
        "rolling restart of three gateways",
        "scale-out needs Redis, which there is none of",
    ),
    Row::new(
        "F28",
        "two processes on one data directory",
        |shape| shape.order(Order::InFlight),
        |stage| Box::pin(start_twice(stage)),
    ),
    Row::new(
        "F30",
        "nobody reads standard error",
        |mut shape| {
            shape.mutes_gateway = true;
            shape.set("observability.log_level=debug")
        },
        |stage| Box::pin(dwell(stage)),
    ),
];

async fn kill_again_and_again(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(4, 200) {
        // A kill while nobody is answered shows nothing: clients may still be on their way back.
        accepting(stage).await;
        stage.wait(200..1_400).await;
        stage.crash();
        // Sometimes at once again, while it still recovers.
        if stage.draw(0..4) == 0 {
            stage.restart().await?;
            stage.crash();
        }
        stage.restart().await?;
    }
    stage.wait(300..600).await;
    stage.expect_fast_starts(READY_MAX);
    Ok(())
}

/// Waits until something is accepted, or a while.
async fn accepting(stage: &Stage) {
    let (before, _) = stage.progress();
    let begun = Instant::now();
    while stage.progress().0 == before && begun.elapsed() < ACCEPTING_MAX {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn terminate(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(400..1_500).await;
    graceful(stage, "the first stop").await?;
    stage.restart().await?;
    stage.wait(400..1_000).await;
    // A provider that hangs must not hold the process beyond its time.
    stage.faults("webhook:freeze;fcm:freeze=20%")?;
    stage.wait(300..800).await;
    graceful(stage, "the stop with a hung provider").await?;
    stage.faults("")?;
    stage.restart().await?;
    // What hung is tried again first, so that its repeats would be among these.
    stage.wait(2_500..3_500).await;
    let repeats = repeats(stage)?;
    stage.expect(repeats == 0, || format!("{repeats} repeats after two stops in order"));
    stage.wait(400..1_000).await;
    stage.faults("apns:delay=1500ms")?;
    stage.wait(300..800).await;
    stage.gateway.signal("TERM").await?;
    stage.gateway.signal("TERM").await?;
    stage.note("SIGTERM twice");
    // The second stop is at once: what was on its way is unknown.
    stage.crashes += 1;
    let ended = stage.gateway.ended(Duration::from_secs(5)).await;
    stage.expect(ended.is_some(), || {
        String::from("a second SIGTERM did not end the process in 5 s")
    });
    stage.gateway.kill();
    stage.faults("")?;
    stage.restart().await
}

async fn graceful(stage: &mut Stage, which: &str) -> Result<(), Trouble> {
    stage.gateway.signal("TERM").await?;
    stage.note("SIGTERM");
    let ended = stage.gateway.ended(STOP_MAX).await;
    let is_clean = ended.is_some_and(|status| status.code() == Some(0));
    stage.expect(is_clean, || format!("{which} ended with {ended:?}"));
    stage.gateway.kill();
    Ok(())
}

/// Successes beyond the first of a notification at a target, whose answer was not cut off.
fn repeats(stage: &Stage) -> Result<u64, Trouble> {
    stage.sync()?;
    let mut successes: HashMap<(u64, String), u64> = HashMap::new();
    jsonl::each(&stage.receipts_path(), |receipt: Receipt| {
        if let Some(seq) = receipt.marker
            && receipt.succeeded()
            && receipt.reason.is_none()
        {
            *successes.entry((seq, receipt.target)).or_default() += 1;
        }
    })
    .map_err(Trouble::io("the twins' ledger cannot be read back"))?;
    Ok(successes.values().map(|count| count - 1).sum())
}

async fn pause(stage: &mut Stage) -> Result<(), Trouble> {
    // Parts of a notification end at different times, so that some end before and some after.
    stage.faults("apns:delay=400ms:50;webhook:delay=900ms:50;fcm:delay=600ms:50")?;
    for _ in 0..stage.shape.times(2, 10) {
        stage.wait(800..1_600).await;
        stage.gateway.signal("STOP").await?;
        stage.note("SIGSTOP");
        let seconds = stage.shape.times(3, 30);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        stage.gateway.signal("CONT").await?;
        stage.note("SIGCONT");
    }
    stage.wait(500..1_500).await;
    stage.faults("")
}

/// Where a memory cgroup of ours is, by the version of cgroups there is.
pub(super) fn memory_group() -> PathBuf {
    let name = format!("bugler-torture-{}", std::process::id());
    let root = Path::new("/sys/fs/cgroup");
    let first = root.join("memory");
    if first.is_dir() { first.join(name) } else { root.join(name) }
}

async fn starve(stage: &mut Stage) -> Result<(), Trouble> {
    let group = memory_group();
    let missing = |error: std::io::Error| {
        Trouble::Missing(format!("no memory cgroup of our own can be made: {error}"))
    };
    std::fs::create_dir(&group).map_err(missing)?;
    let starved = starve_in(stage, &group).await;
    // Nobody is in it any more.
    std::fs::remove_dir(&group).ok();
    starved
}

async fn starve_in(stage: &mut Stage, group: &Path) -> Result<(), Trouble> {
    let missing = |error: std::io::Error| Trouble::Missing(format!("the memory cgroup: {error}"));
    stage.wait(300..900).await;
    stage.end_traffic().await;
    let rss = stage.gateway.residue().map_or(0, |residue| residue.rss_bytes);
    // Less than it held already: enough to start, not for a burst.
    let limit = (rss / 4 * 3).max(16 << 20);
    let is_first = group.join("memory.limit_in_bytes").exists();
    let file = if is_first { "memory.limit_in_bytes" } else { "memory.max" };
    std::fs::write(group.join(file), limit.to_string()).map_err(missing)?;
    graceful(stage, "the stop before the limit").await?;
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.display());
    stage.launch.wrap = ["sh", "-c", &enter, "sh"].map(str::to_owned).to_vec();
    stage.note(format_args!("memory limited to {} MiB of {}", limit >> 20, rss >> 20));
    stage.is_first_life = false;
    let started = stage.launch.attempt().await?;
    stage.launch.wrap.clear();
    let (mut killed_by, mut refused) = (None, 0);
    match started {
        Ok(gateway) => {
            stage.gateway = gateway;
            burst(stage)?;
            let ended = stage.gateway.ended(stage.shape.dwell * 4).await;
            killed_by = ended.and_then(|status| status.signal());
            let sent = stage.end_traffic().await;
            refused = sent.statuses.get(&503).copied().unwrap_or(0);
            stage.note(format_args!("ended with {ended:?}"));
        }
        // A process that a signal ended has no code.
        Err(ended) if ended.code.is_none() => killed_by = Some(KILLED),
        Err(ended) => stage.breaches.push(format!("ended at its start: {:?}", ended.code)),
    }
    let end = format!(
        "limit {} MiB of {} MiB: killed by {killed_by:?}, {refused} answers of 503",
        limit >> 20,
        rss >> 20
    );
    stage.expect(killed_by == Some(KILLED) || refused > 0, || {
        format!("the burst did not reach the limit, so nothing was shown: {end}")
    });
    stage.remarks.push(end);
    stage.crash();
    stage.restart().await?;
    stage.begin_traffic()?;
    stage.wait(300..800).await;
    Ok(())
}

/// More than is delivered meanwhile, from everybody at once, until it is stopped.
fn burst(stage: &mut Stage) -> Result<(), Trouble> {
    let pace = stage.pace();
    let mode = Mode::Bulk { lines_per_request: 500 };
    let rates = pace.rates.iter().map(|_| 5_000.0).collect();
    stage.begin(&Pace { mode, rates, stop: Stop::Total(BURST), keys: false, ..pace })
}

async fn start_twice(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(400..1_200).await;
    let mut second = stage.launch.clone();
    (second.api, second.admin) = crate::torture::gateway::free_ports()?;
    match second.attempt().await? {
        Ok(_) => stage.breaches.push(String::from("a second process took the same data directory")),
        Err(Ended { code, stderr, .. }) => {
            let first = stage.gateway.pid().to_string();
            stage.expect(code == Some(1), || format!("the second process ended with {code:?}"));
            stage.expect(stderr.contains(&first), || {
                format!("the second process does not name the first: {stderr}")
            });
            stage.note("the second process was turned away");
        }
    }
    stage.wait(400..1_200).await;
    let is_alive = stage.gateway.is_alive();
    stage.expect(is_alive, || String::from("the first process was harmed"));
    stage.crash();
    stage.restart().await?;
    stage.wait(300..600).await;
    Ok(())
}

async fn dwell(stage: &mut Stage) -> Result<(), Trouble> {
    let (before, _) = stage.progress();
    stage.dwell().await;
    let (after, refused) = stage.progress();
    stage.expect(after > before, || format!("nothing is accepted any more, {refused} refused"));
    Ok(())
}
