//! A wall clock that is set forward and back under a running gateway.

use std::time::Duration;

use super::{Need, Order, Row, Shape, Stage, Trouble};
use crate::jsonl;
use crate::twins::Receipt;

/// So far off, receivers refuse our credentials and signatures until the clock is right again.
const LEAP_MS: i64 = 3_600_000;
/// Tries at providers for each notification beyond which retries have run wild.
const TRIES_MAX: u64 = 30;

pub(super) const ROWS: &[Row] = &[Row::new(
    "F77",
    "the wall clock leaps an hour back and forward, and creeps back by seconds",
    leaping,
    |stage| Box::pin(leap(stage)),
)
.needs(&[Need::CrashPoints])];

fn leaping(mut shape: Shape) -> Shape {
    // What was refused for a wrong date is held for a minute, which takes two while time goes on at
    // half its pace.
    shape.drain_goal = shape.drain_goal.max(Duration::from_secs(180));
    shape.order(Order::Unjudged)
}

async fn leap(stage: &mut Stage) -> Result<(), Trouble> {
    let file = stage.dir.join("clock-offset");
    set(stage, &file, 0)?;
    stage.stop().await?;
    let variable = (String::from("BUGLER_CLOCK_OFFSET"), file.display().to_string());
    stage.launch.env.push(variable);
    stage.restart().await?;
    // Something that is tried again must be on its way at each leap.
    stage
        .faults("webhook:status=500:20%;fcm:status=503:20%;apns:status=503:20%&reason=Shutdown")?;
    let mut windows = Vec::new();
    for offset in [-LEAP_MS, 0, LEAP_MS, 0] {
        let (accepted, tries) = (stage.progress().0, received(stage));
        set(stage, &file, offset)?;
        let from = Stage::now_ms();
        stage.dwell().await;
        windows.push((offset, from..Stage::now_ms()));
        let accepted = stage.progress().0 - accepted;
        let tries = received(stage) - tries;
        stage.expect(accepted > 0, || format!("at {offset} ms nothing was accepted"));
        stage.expect(tries <= accepted.max(1) * TRIES_MAX, || {
            format!("at {offset} ms {tries} tries for {accepted} notifications")
        });
        stage.remarks.push(format!("at {offset} ms: {accepted} accepted, {tries} tries"));
    }
    for step in 1..=stage.shape.times(5, 60) {
        set(stage, &file, -1_000 * i64::try_from(step).unwrap_or(0))?;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    set(stage, &file, 0)?;
    stage.faults("")?;
    stage.wait(300..600).await;
    judge_repeats(stage, &windows)
}

fn received(stage: &Stage) -> u64 {
    stage.twins.counts().values().map(|count| count.received).sum()
}

/// What was timed does not wait as long as the leap: repeats come while the clock is off.
fn judge_repeats(
    stage: &mut Stage,
    windows: &[(i64, std::ops::Range<u64>)],
) -> Result<(), Trouble> {
    stage.sync()?;
    let mut repeats = vec![0u64; windows.len()];
    jsonl::each(&stage.receipts_path(), |receipt: Receipt| {
        let window = windows.iter().position(|(_, window)| window.contains(&receipt.at_ms));
        if let Some(count) = window.and_then(|window| repeats.get_mut(window)) {
            *count += u64::from(receipt.attempt > 1);
        }
    })
    .map_err(Trouble::io("the twins' ledger"))?;
    for ((offset, _), count) in windows.iter().zip(&repeats) {
        stage.expect(*count > 0, || format!("at {offset} ms nothing was tried again"));
    }
    stage.remarks.push(format!("repeats in each stretch: {repeats:?}"));
    Ok(())
}

/// By a rename, so that no half of it is read.
fn set(stage: &mut Stage, file: &std::path::Path, offset: i64) -> Result<(), Trouble> {
    let new = file.with_extension("new");
    std::fs::write(&new, offset.to_string())
        .and_then(|()| std::fs::rename(&new, file))
        .map_err(Trouble::io("the clock's offset"))?;
    stage.note(format_args!("the clock is off by {offset} ms"));
    Ok(())
}
