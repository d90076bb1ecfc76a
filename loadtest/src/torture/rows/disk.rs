//! Faults of the disk under a running gateway: full, failing, slow, read-only.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Need, Order, Row, Shape, Stage, Trouble};
use crate::torture::ask;

/// The exit code of a gateway whose disk failed it.
const EXIT_DISK: i32 = 74;
/// What F22 leaves of the disk: less than the next segment of 1 MiB takes.
const LEFT: u64 = 700 << 10;
const NEEDS: &[Need] = &[Need::Strace];

/// How much later a sync of F25 ends, in seconds, and the least share of such a disk's rate.
const DELAY_S: f64 = 0.2;
const GOODPUT_MIN: f64 = 0.8;

/// How a disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// What the gateway frees is taken again.
    Kept,
    /// It is filled once, but for a little.
    Once,
}

pub(super) const ROWS: &[Row] = &[
    Row::new(
        "F21",
        "disk full on append, and kept full",
        |shape| small_disk(shape, 96),
        |stage| Box::pin(fill(stage, Full::Kept)),
    ),
    Row::new(
        "F22",
        "disk with room for two thirds of a segment, once",
        |shape| small_disk(shape, 96),
        |stage| Box::pin(fill(stage, Full::Once)),
    ),
    Row::new("F23", "fdatasync fails once (EIO)", Shape::traced, |stage| {
        Box::pin(fail_calls(stage, "fdatasync", "error=EIO"))
    })
    .needs(NEEDS),
    Row::new(
        "F24",
        "pwrite fails once (EIO, ENOSPC), is short, interrupted",
        Shape::traced,
        |stage| Box::pin(fail_writes(stage)),
    )
    .needs(NEEDS),
    Row::new("F25", "slow disk: fdatasync takes 200 ms more", Shape::traced, |stage| {
        Box::pin(slow(stage))
    })
    .needs(NEEDS),
    Row::new(
        "F27",
        "the file system turns read-only (every write is EROFS)",
        Shape::traced,
        |stage| Box::pin(read_only(stage)),
    )
    .needs(NEEDS),
];

impl Shape {
    /// The fault strikes in a second life, under `strace`.
    fn traced(self) -> Self {
        self.order(Order::InFlight)
    }
}

fn small_disk(mut shape: Shape, mib: u64) -> Shape {
    shape.tmpfs_mib = Some(mib);
    shape.size.strict = true;
    shape.rate = shape.rate.min(400.0);
    // The end of the disk itself is to be met, not the reserve before it.
    shape
        .set("store.segment=1MiB")
        .set("store.max_disk=1GiB")
        .set("store.min_free=1KiB")
        .set("store.min_free_percent=0")
}

async fn fill(stage: &mut Stage, how: Full) -> Result<(), Trouble> {
    // Slower than what comes in, so that there is work left when the disk is full.
    stage.faults("apns:delay=600ms;fcm:delay=600ms")?;
    stage.wait(600..1_200).await;
    let filler = stage.launch.store.join("filler.bin");
    let left = if how == Full::Once { LEFT } else { 0 };
    fill_up(&filler, left)?;
    stage.note(format_args!("disk full but for {} KiB", left >> 10));
    let begun = Instant::now();
    let (_, refused_before) = stage.progress();
    // Until the gateway has met the end of the disk, or a while.
    let patience = stage.shape.dwell * 4;
    while begun.elapsed() < patience && stage.progress().1 == refused_before {
        if !stage.gateway.is_alive() {
            break;
        }
        if how == Full::Kept {
            fill_up(&filler, left)?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    goes_on(stage).await?;
    let refused = stage.progress().1 - refused_before;
    let is_alive = stage.gateway.is_alive();
    stage.expect(is_alive, || String::from("the gateway ended when its disk was full"));
    stage.expect(refused > 0, || String::from("a full disk refused nothing"));
    stage.remarks.push(format!("{refused} refused while the disk was full"));
    std::fs::remove_file(&filler).map_err(Trouble::io("the filler"))?;
    stage.note("disk free again");
    stage.healed = Some(Instant::now());
    if !is_alive {
        stage.gateway.kill();
        stage.crashes += 1;
        stage.restart().await?;
    }
    resumes(stage).await?;
    let sent = stage.end_traffic().await;
    let statuses = sent.statuses;
    stage.expect(statuses.keys().all(|status| *status == 503), || {
        format!("a full disk was answered with {statuses:?}, not with 503 alone")
    });
    stage.expect(sent.unhinted == 0, || format!("{} of 503 without Retry-After", sent.unhinted));
    Ok(())
}

/// While the disk is full: the readiness says so, what is stored can be read, and what was accepted
/// goes on to its providers.
async fn goes_on(stage: &mut Stage) -> Result<(), Trouble> {
    let delivered = |stage: &Stage| stage.twins.counts().values().map(|c| c.succeeded).sum::<u64>();
    let before = delivered(stage);
    stage.faults("")?;
    let begun = Instant::now();
    let (mut is_told, mut goes_on) = (false, false);
    while begun.elapsed() < stage.shape.dwell.max(Duration::from_secs(5)) {
        let ready = ask::get(stage.gateway.admin, "/readyz", None).await;
        is_told |= ready.is_ok_and(|(status, _)| status == 503);
        goes_on |= delivered(stage) > before;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.expect(is_told, || String::from("a full disk, and /readyz never said 503"));
    stage.expect(goes_on, || String::from("nothing was delivered while the disk was full"));
    let accepted = stage.accepted()?;
    let Some((org, id)) = accepted.last() else { return Ok(()) };
    let path = format!("/bugler/v1/notifications/{id}");
    let read = ask::get(stage.gateway.api, &path, Some(stage.clients.token(*org))).await;
    let status = read.map_or(0, |(status, _)| status);
    stage.expect(status == 200, || format!("a full disk, and a read was answered with {status}"));
    Ok(())
}

/// Accepting goes on by itself.
async fn resumes(stage: &mut Stage) -> Result<(), Trouble> {
    let (before, _) = stage.progress();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if stage.progress().0 > before {
            stage.note("accepting again");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.breaches.push(String::from("nothing was accepted within 20 s after the disk was free"));
    Ok(())
}

/// Writes until the disk is full, then gives some bytes back.
fn fill_up(filler: &PathBuf, left: u64) -> Result<(), Trouble> {
    use std::io::Write;
    let told = "the filler";
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(filler)
        .map_err(Trouble::io(told))?;
    let block = vec![0x55; 16 << 10];
    for size in [block.len(), 512] {
        while block.get(..size).is_some_and(|part| file.write_all(part).is_ok()) {}
    }
    let length = file.metadata().map_err(Trouble::io(told))?.len();
    file.set_len(length.saturating_sub(left)).map_err(Trouble::io(told))
}

/// Starts a life under `strace`, which spoils calls of one kind.
async fn traced_life(stage: &mut Stage, calls: &str, spoiled: &str) -> Result<(), Trouble> {
    stage.stop().await?;
    stage.note(format_args!("strace: {calls} {spoiled}"));
    stage.launch.wrap = [
        "strace",
        // The tracer is the grandchild, so that our child is the gateway itself.
        "-D",
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={calls}:{spoiled}"),
    ]
    .map(str::to_owned)
    .to_vec();
    let started = stage.launch.attempt().await?;
    stage.launch.wrap.clear();
    stage.is_first_life = false;
    match started {
        Ok(gateway) => stage.gateway = gateway,
        Err(ended) => {
            stage.note(format_args!("ended at its start: {:?}", ended.code));
            if ended.stderr.contains("ptrace") || ended.stderr.contains("strace:") {
                return Err(Trouble::Missing(ended.last_words()));
            }
        }
    }
    Ok(())
}

async fn fail_calls(stage: &mut Stage, calls: &str, error: &str) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(1, 10) {
        let nth = stage.draw(40..160);
        traced_life(stage, calls, &format!("{error}:when={nth}")).await?;
        let ended = stage.gateway.ended(Duration::from_secs(20)).await;
        stage.note(format_args!("ended with {ended:?}"));
        let code = ended.and_then(|status| status.code());
        stage.expect(code == Some(EXIT_DISK), || {
            format!("after {calls} {error} the gateway ended with {ended:?}, not {EXIT_DISK}")
        });
        stage.gateway.kill();
        // It stopped without the outcomes of what was on its way.
        stage.crashes += 1;
        stage.restart().await?;
    }
    stage.wait(300..800).await;
    Ok(())
}

/// It refuses, or stops by itself; it must not go on as if nothing were.
async fn read_only(stage: &mut Stage) -> Result<(), Trouble> {
    let nth = stage.draw(40..160);
    traced_life(stage, "pwrite64", &format!("error=EROFS:when={nth}+")).await?;
    let (_, refused_before) = stage.progress();
    stage.dwell().await;
    let refused = stage.progress().1 - refused_before;
    let ended = stage.gateway.ended(stage.shape.dwell).await;
    let code = ended.and_then(|status| status.code());
    stage.note(format_args!("{refused} refused, ended with {ended:?}"));
    stage.remarks.push(format!("{refused} refused on a read-only disk, ended with {ended:?}"));
    stage.expect(refused > 0 || code == Some(EXIT_DISK), || {
        format!("a read-only disk refused nothing, and the gateway ended with {ended:?}")
    });
    stage.crash();
    stage.restart().await?;
    stage.wait(300..800).await;
    Ok(())
}

async fn fail_writes(stage: &mut Stage) -> Result<(), Trouble> {
    fail_calls(stage, "pwrite64", "error=EIO").await?;
    let nth = stage.draw(40..160);
    traced_life(stage, "pwrite64", &format!("error=ENOSPC:when={nth}")).await?;
    lives_on(stage, "one ENOSPC").await;
    stage.crash();
    stage.restart().await?;
    if let Some(why) = Need::CrashPoints.is_missing(&stage.launch.binary).await {
        stage.remarks.push(format!("short and interrupted writes were not played: {why}"));
        return Ok(());
    }
    let orders = stage.dir.join("disk-faults");
    std::fs::write(&orders, "short").map_err(Trouble::io("the disk's faults"))?;
    stage.stop().await?;
    let variable = (String::from("BUGLER_DISK_FAULTS"), orders.display().to_string());
    stage.launch.env.push(variable);
    stage.note("every third write is interrupted, the others are cut in half");
    let started = stage.restart().await;
    stage.launch.env.retain(|(name, _)| name != "BUGLER_DISK_FAULTS");
    started?;
    lives_on(stage, "short writes").await;
    stage.crash();
    stage.restart().await
}

/// Accepts for a while as if nothing were.
async fn lives_on(stage: &mut Stage, what: &str) {
    let (before, refused_before) = stage.progress();
    stage.dwell().await;
    let (after, refused) = stage.progress();
    let is_alive = stage.gateway.is_alive();
    stage.expect(is_alive, || format!("{what} ended the process"));
    stage.expect(after > before, || format!("after {what} nothing was accepted"));
    let refused = refused - refused_before;
    stage.remarks.push(format!("{what}: {} accepted, {refused} refused", after - before));
}

/// Everybody who waits is answered by the next sync but one: so many each second the disk can take.
async fn slow(stage: &mut Stage) -> Result<(), Trouble> {
    traced_life(stage, "fdatasync", "delay_exit=200000").await?;
    let (before, refused_before) = stage.progress();
    let begun = Instant::now();
    stage.dwell().await;
    stage.dwell().await;
    let (after, refused) = stage.progress();
    let seconds = begun.elapsed().as_secs_f64();
    let connections = stage.connections();
    #[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
    let (took, can) = ((after - before) as f64 / seconds, connections as f64 / (2.0 * DELAY_S));
    stage.expect(took >= can * GOODPUT_MIN, || {
        format!("{took:.0} accepted a second where the slow disk takes {can:.0}")
    });
    stage.remarks.push(format!(
        "{took:.0} accepted a second ({can:.0} with {connections} connections and two syncs each), \
         {} refused on the slow disk",
        refused - refused_before
    ));
    // Its end is a kill: the tracer holds the process too tightly for an orderly stop in time.
    stage.crash();
    stage.restart().await
}
