//! Faults of the process: killed, stopped, paused, started twice, with nobody reading its log.

use std::time::Duration;

use super::{Order, Row, Stage, Trouble};
use crate::torture::gateway::Ended;

const STOP_MAX: Duration = Duration::from_secs(20);

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
    Row::lacking("F15", "a panic in one task", "this gateway has no point to panic at"),
    Row::new(
        "F16",
        "out of memory",
        |shape| shape.order(Order::InFlight),
        |stage| Box::pin(starve(stage)),
    ),
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
    Ok(())
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

async fn starve(stage: &mut Stage) -> Result<(), Trouble> {
    let group = std::path::Path::new("/sys/fs/cgroup/memory")
        .join(format!("bugler-torture-{}", std::process::id()));
    let missing = |error: std::io::Error| {
        Trouble::Missing(format!("no memory cgroup of our own can be made: {error}"))
    };
    std::fs::create_dir(&group).map_err(missing)?;
    let starved = starve_in(stage, &group).await;
    // Nobody is in it any more.
    std::fs::remove_dir(&group).ok();
    starved
}

async fn starve_in(stage: &mut Stage, group: &std::path::Path) -> Result<(), Trouble> {
    let missing = |error: std::io::Error| Trouble::Missing(format!("the memory cgroup: {error}"));
    stage.wait(300..900).await;
    let rss = stage.gateway.residue().map_or(0, |residue| residue.rss_bytes);
    // Less than it held already: the kernel ends it sooner or later.
    let limit = (rss / 4 * 3).max(16 << 20);
    std::fs::write(group.join("memory.limit_in_bytes"), limit.to_string()).map_err(missing)?;
    graceful(stage, "the stop before the limit").await?;
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.display());
    stage.launch.wrap = ["sh", "-c", &enter, "sh"].map(str::to_owned).to_vec();
    stage.note(format_args!("memory limited to {} MiB of {}", limit >> 20, rss >> 20));
    stage.is_first_life = false;
    let started = stage.launch.attempt().await?;
    stage.launch.wrap.clear();
    let mut end = String::from("lived");
    match started {
        Ok(gateway) => {
            stage.gateway = gateway;
            let ended = stage.gateway.ended(stage.shape.dwell * 2).await;
            if let Some(status) = ended {
                end = status.to_string();
            }
        }
        Err(ended) => end = format!("ended at its start: {:?}", ended.code),
    }
    stage.note(&end);
    stage.remarks.push(format!("limit {} MiB of {} MiB: {end}", limit >> 20, rss >> 20));
    stage.crash();
    stage.restart().await?;
    stage.wait(300..800).await;
    Ok(())
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
