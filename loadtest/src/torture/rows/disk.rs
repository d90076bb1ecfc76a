//! Faults of the disk under a running gateway: full, failing, slow, read-only.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Order, Row, Shape, Stage, Trouble};

const STOP_MAX: Duration = Duration::from_secs(20);
/// The exit code of a gateway whose disk failed it.
const EXIT_DISK: i32 = 74;

pub(super) const ROWS: &[Row] = &[
    Row::lacking(
        "F18",
        "power loss under the file system",
        "xfs_io, which shuts ext4 down, is not installed",
    ),
    Row::new(
        "F21",
        "disk full on append",
        |shape| small_disk(shape, 96),
        |stage| Box::pin(fill(stage, 0)),
    ),
    Row::new(
        "F22",
        "disk full when a segment is made",
        |shape| small_disk(shape, 96),
        |stage| Box::pin(fill(stage, 700)),
    ),
    Row::new("F23", "fdatasync fails once (EIO)", Shape::traced, |stage| {
        Box::pin(fail_calls(stage, "fdatasync", "error=EIO"))
    }),
    Row::new("F24", "pwrite fails once (EIO, then ENOSPC)", Shape::traced, |stage| {
        Box::pin(fail_writes(stage))
    }),
    Row::new("F25", "slow disk: fdatasync takes 200 ms more", Shape::traced, |stage| {
        Box::pin(slow(stage))
    }),
    Row::lacking("F26", "a new directory entry is not durable", "needs the power loss of F18"),
    Row::new(
        "F27",
        "the file system turns read-only (every write is EROFS)",
        Shape::traced,
        |stage| Box::pin(read_only(stage)),
    ),
];

impl Shape {
    /// The fault strikes in a second life, under `strace`.
    fn traced(self) -> Self {
        self.order(Order::InFlight)
    }
}

fn small_disk(mut shape: Shape, mib: u64) -> Shape {
    shape.tmpfs_mib = Some(mib);
    shape.rate = shape.rate.min(400.0);
    // The end of the disk itself is to be met, not the reserve before it.
    shape
        .set("store.segment=1MiB")
        .set("store.max_disk=1GiB")
        .set("store.min_free=1KiB")
        .set("store.min_free_percent=0")
}

async fn fill(stage: &mut Stage, left_kib: u64) -> Result<(), Trouble> {
    stage.wait(400..1_000).await;
    let filler = stage.launch.store.join("filler.bin");
    fill_up(&filler, left_kib << 10)?;
    stage.note(format_args!("disk full but for {left_kib} KiB"));
    let begun = Instant::now();
    let (_, refused_before) = stage.progress();
    // Until the gateway has met the end of the disk, or a while.
    let patience = stage.shape.dwell * 4;
    while begun.elapsed() < patience && stage.progress().1 == refused_before {
        let is_alive = stage.gateway.is_alive();
        if !is_alive {
            break;
        }
        // What the gateway freed is taken again.
        fill_up(&filler, left_kib << 10)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.dwell().await;
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
    resumes(stage).await
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
    crate::torture::gateway::tool(&["strace", "-V"]).await?;
    stage.gateway.signal("TERM").await?;
    stage.gateway.ended(STOP_MAX).await;
    stage.gateway.kill();
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
    let ended = stage.gateway.ended(stage.shape.dwell).await;
    stage.note(format_args!("after ENOSPC: {ended:?}"));
    stage.gateway.kill();
    stage.crashes += 1;
    stage.restart().await
}

async fn slow(stage: &mut Stage) -> Result<(), Trouble> {
    let (before, _) = stage.progress();
    traced_life(stage, "fdatasync", "delay_exit=200000").await?;
    stage.dwell().await;
    stage.dwell().await;
    let (after, refused) = stage.progress();
    stage.expect(after > before, || String::from("nothing was accepted on a slow disk"));
    stage.remarks.push(format!("{} accepted, {refused} refused on the slow disk", after - before));
    // Its end is a kill: the tracer holds the process too tightly for an orderly stop in time.
    stage.crash();
    stage.restart().await
}
