//! A panic in one task: the task goes on, and what panics again and again is given up.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Need, Order, Row, Stage, Trouble};
use crate::ledger::Outcome;
use crate::torture::ask;

pub(super) const ROWS: &[Row] = &[Row::new(
    "F15",
    "a panic in one task, and three on the same record",
    // What the task held comes back with its lease, behind what came later.
    |shape| {
        shape
            .order(Order::Unjudged)
            .set("providers.connect_timeout=500ms")
            .set("dispatch.lease=2600ms")
    },
    |stage| Box::pin(panic(stage)),
)
.needs(&[Need::CrashPoints])];

async fn panic(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(300..800).await;
    let nth = stage.draw(3..30);
    restart_with(stage, &format!("C5:{nth}:panic")).await?;
    let (before, _) = stage.progress();
    stage.dwell().await;
    let panics = panics(stage).await?;
    stage.expect(panics == 1, || format!("one panic was counted as {panics}"));
    let (after, _) = stage.progress();
    stage.expect(after > before, || String::from("after a panic nothing was accepted"));
    // A crowded machine may refuse for now, while it starts; the panic itself nobody may notice.
    let statuses = stage.end_traffic().await.statuses;
    stage.expect(statuses.keys().all(|status| *status == 503), || {
        format!("around a panic, requests were answered with {statuses:?}")
    });
    let drained = stage.drained(stage.shape.drain_goal).await?;
    stage.expect(drained.is_some(), || String::from("what the task held did not come back"));
    give_up(stage).await
}

/// A record that makes its task panic three times is kept as a dead letter, with the reason.
async fn give_up(stage: &mut Stage) -> Result<(), Trouble> {
    restart_with(stage, "C6:1:panic:3").await?;
    let outcome = stage.send_one(0).await?;
    let Some(Outcome::Accepted(Some(id))) = outcome else {
        return Err(Trouble::Broken(format!("a single request came to {outcome:?}")));
    };
    let path = format!("/bugler/v1/notifications/{id}");
    let begun = Instant::now();
    let ended = loop {
        let asked = ask::get(stage.gateway.api, &path, Some(stage.clients.token(0))).await;
        let body = asked.map(|(_, body)| body).unwrap_or_default();
        let timeline: Value = serde_json::from_slice(&body).unwrap_or_default();
        if timeline["state"] == "done" || begun.elapsed() > Duration::from_secs(10) {
            break timeline;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let is_dead = ended["deliveries"]["dead"] == 1 && ended.to_string().contains("panic");
    stage.expect(is_dead, || format!("after three panics its record is {ended}"));
    let panics = panics(stage).await?;
    stage.expect(panics == 3, || format!("three panics were counted as {panics}"));
    let is_alive = stage.gateway.is_alive();
    stage.expect(is_alive, || String::from("the process ended"));
    Ok(())
}

async fn restart_with(stage: &mut Stage, crash: &str) -> Result<(), Trouble> {
    stage.stop().await?;
    stage.launch.env.push((String::from("BUGLER_CRASH"), crash.to_owned()));
    stage.note(format_args!("armed {crash}"));
    let started = stage.restart().await;
    stage.launch.env.retain(|(name, _)| name != "BUGLER_CRASH");
    started
}

async fn panics(stage: &Stage) -> Result<u64, Trouble> {
    let found = stage.gateway.metrics().await?.sum("bugler_panics_total", "");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    Ok(found as u64)
}
