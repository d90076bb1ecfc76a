//! Crashes at exact stages of a notification's way, in a binary that was built with crash points.

use std::time::Duration;

use super::{Order, Row, Shape, Stage, Suite, Trouble};

/// How long a stage may take to be reached before the binary counts as built without points.
const REACH_MAX: Duration = Duration::from_secs(6);

const fn point(
    id: &'static str,
    what: &'static str,
    inject: for<'a> fn(&'a mut Stage) -> super::Injecting<'a>,
) -> Row {
    Row::new(id, what, shape, inject)
}

fn shape(shape: Shape) -> Shape {
    let keys = true;
    Shape { keys, ..shape }.order(Order::InFlight)
}

pub(super) const ROWS: &[Row] = &[
    point("F2", "crash before the append (C1)", |stage| Box::pin(at(stage, &["C1"]))),
    point("F3", "crash before fsync (C2)", |stage| Box::pin(at(stage, &["C2"]))),
    point("F4", "crash before the reply; the key sent again (C3)", |stage| Box::pin(key(stage))),
    point("F5", "crash before dispatch (C4)", |stage| Box::pin(at(stage, &["C4"]))),
    point("F6", "crash before the attempt (C5, C6)", |stage| Box::pin(at(stage, &["C5", "C6"]))),
    point("F7", "crash with half a request written (C7)", |stage| Box::pin(at(stage, &["C7"]))),
    point("F8", "crash before the outcome is recorded (C8)", |stage| Box::pin(at(stage, &["C8"]))),
    point("F9", "crash before the outcome is synced (C9)", |stage| Box::pin(at(stage, &["C9"]))),
    Row::new(
        "F10",
        "crash while a segment is rolled or dropped (C10)",
        |base| {
            let mut rolling = shape(base).set("store.segment=1MiB");
            rolling.rate *= 4.0;
            rolling
        },
        |stage| Box::pin(at(stage, &["C10"])),
    ),
    Row::lacking(
        "F11",
        "crash while a rule is published (C11)",
        "rules are published by configuration and restart",
    ),
    point("F12", "crash in recovery, ten times in a row (C12)", |stage| Box::pin(recovery(stage))),
];

/// Restarts the gateway so that it crashes at a stage, and once more without.
async fn at(stage: &mut Stage, points: &[&str]) -> Result<(), Trouble> {
    for point in points {
        for _ in 0..stage.shape.times(2, 20) {
            crash_at(stage, point).await?;
            // Other notifications are on their way whatever stage one has come to.
            stage.crashes += 1;
        }
    }
    stage.wait(300..600).await;
    Ok(())
}

async fn crash_at(stage: &mut Stage, point: &str) -> Result<(), Trouble> {
    // Stopped in order first, so that this crash alone explains what is repeated.
    stage.gateway.signal("TERM").await?;
    stage.gateway.ended(Duration::from_secs(20)).await;
    stage.gateway.kill();
    // Files are rolled now and then only.
    let most = match (stage.shape.suite, point) {
        (_, "C10") => 8,
        (Suite::Long, _) => 2_000,
        (Suite::Short, _) => 60,
    };
    let nth = stage.draw(1..most);
    arm(stage, point, nth);
    stage.note(format_args!("armed {point}:{nth}"));
    match stage.launch.attempt().await? {
        Ok(gateway) => stage.gateway = gateway,
        Err(ended) => stage.note(format_args!("ended at its start: {:?}", ended.code)),
    }
    stage.is_first_life = false;
    let ended = stage.gateway.ended(REACH_MAX).await;
    disarm(stage);
    if ended.is_none() {
        let why =
            "BUGLER_CRASH={point} is not reached: built without crash points, or no such work";
        return Err(Trouble::Missing(why.replace("{point}", point)));
    }
    stage.note(format_args!("crashed with {ended:?}"));
    stage.gateway.kill();
    stage.restart().await
}

fn arm(stage: &mut Stage, point: &str, nth: u64) {
    disarm(stage);
    stage.launch.env.push((String::from("BUGLER_CRASH"), format!("{point}:{nth}")));
}

fn disarm(stage: &mut Stage) {
    stage.launch.env.retain(|(name, _)| name != "BUGLER_CRASH");
}

async fn key(stage: &mut Stage) -> Result<(), Trouble> {
    at(stage, &["C3"]).await?;
    let sent = stage.end_traffic().await;
    let unknown = sent.unknown_seqs.clone();
    let pace = stage.pace();
    let answered = stage.clients.repeat(&stage.world, &pace, &unknown).await?;
    stage.note(format_args!("{} requests sent again under their keys", unknown.len()));
    stage.expect(answered == unknown.len() as u64, || {
        format!("{answered} of {} repeated requests were accepted", unknown.len())
    });
    Ok(())
}

async fn recovery(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(500..1_000).await;
    stage.crash();
    for _ in 0..10 {
        arm(stage, "C12", 1);
        if stage.launch.attempt().await?.is_ok() {
            disarm(stage);
            return Err(Trouble::Missing(String::from(
                "BUGLER_CRASH=C12 is not reached: built without crash points",
            )));
        }
        stage.note("crashed in recovery");
    }
    disarm(stage);
    stage.restart().await?;
    stage.wait(300..600).await;
    Ok(())
}
