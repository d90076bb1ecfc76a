//! A wall clock that is set forward and back under a running gateway.

use std::time::Duration;

use super::{Need, Order, Row, Stage, Trouble};

/// Further, and receivers refuse our credentials and signatures: webhooks after five minutes.
const LEAP_MS: i64 = 240_000;
/// Tries at providers for each notification beyond which retries have run wild.
const TRIES_MAX: u64 = 30;

pub(super) const ROWS: &[Row] = &[Row::new(
    "F77",
    "the wall clock leaps minutes back and forward, and creeps back by seconds",
    |shape| shape.order(Order::Unjudged),
    |stage| Box::pin(leap(stage)),
)
.needs(&[Need::CrashPoints])];

async fn leap(stage: &mut Stage) -> Result<(), Trouble> {
    let file = stage.dir.join("clock-offset");
    set(stage, &file, 0)?;
    stage.stop().await?;
    let variable = (String::from("BUGLER_CLOCK_OFFSET"), file.display().to_string());
    stage.launch.env.push(variable);
    stage.restart().await?;
    let received = |stage: &Stage| stage.twins.counts().values().map(|c| c.received).sum::<u64>();
    // Back first: what is due by the clock waits for it, and must not wait to the end.
    for offset in [-LEAP_MS, 0, LEAP_MS] {
        let (accepted, tries) = (stage.progress().0, received(stage));
        set(stage, &file, offset)?;
        stage.dwell().await;
        let accepted = stage.progress().0 - accepted;
        let tries = received(stage) - tries;
        stage.expect(accepted > 0, || format!("at {offset} ms nothing was accepted"));
        stage.expect(tries <= accepted.max(1) * TRIES_MAX, || {
            format!("at {offset} ms {tries} tries for {accepted} notifications")
        });
        stage.remarks.push(format!("at {offset} ms: {accepted} accepted, {tries} tries"));
    }
    for step in 1..=stage.shape.times(5, 60) {
        set(stage, &file, LEAP_MS - 1_000 * i64::try_from(step).unwrap_or(0))?;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    set(stage, &file, LEAP_MS)?;
    stage.wait(300..600).await;
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
