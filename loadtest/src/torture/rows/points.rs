//! Crashes at exact stages of a notification's way, in a binary that was built with crash points.

use std::time::{Duration, Instant};

use super::{Need, Order, Row, Shape, Stage, Suite, Trouble};
use crate::jsonl;
use crate::ledger::Outcome;
use crate::torture::ask;
use crate::twins::Receipt;

/// How long a stage may take to be reached.
const REACH_MAX: Duration = Duration::from_secs(30);

/// How soon a gateway is ready again.
const READY_MAX: Duration = Duration::from_secs(2);
/// File operations of two rolls; the first ones are those of a start.
const OPERATIONS: std::ops::Range<u64> = 14..40;
const NEEDS: &[Need] = &[Need::CrashPoints];

const fn point(
    id: &'static str,
    what: &'static str,
    inject: for<'a> fn(&'a mut Stage) -> super::Injecting<'a>,
) -> Row {
    Row::new(id, what, shape, inject).needs(NEEDS)
}

fn shape(shape: Shape) -> Shape {
    let keys = true;
    Shape { keys, ..shape }.order(Order::InFlight)
}

pub(super) const ROWS: &[Row] = &[
    point("F2", "crash before the append (C1)", |stage| Box::pin(singly(stage, &["C1"]))),
    point("F3", "crash before fsync (C2)", |stage| Box::pin(at(stage, &["C2"]))),
    point("F4", "crash before the reply; the key sent again (C3)", |stage| Box::pin(key(stage))),
    point("F5", "crash before dispatch (C4)", |stage| Box::pin(singly(stage, &["C4"]))),
    point("F6", "crash before the attempt (C5, C6)", |stage| {
        Box::pin(singly(stage, &["C5", "C6"]))
    }),
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
        |stage| Box::pin(each_file_operation(stage)),
    )
    .needs(NEEDS),
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
    let most = if stage.shape.suite == Suite::Long { 2_000 } else { 60 };
    let nth = stage.draw(1..most);
    if crash_at_passing(stage, point, nth).await? {
        return Ok(());
    }
    Err(Trouble::Setup(format!("BUGLER_CRASH={point}:{nth} is not reached: no such work")))
}

/// Crashes at one passing, and starts again; false if it is not reached.
async fn crash_at_passing(stage: &mut Stage, point: &str, nth: u64) -> Result<bool, Trouble> {
    // Stopped in order first, so that this crash alone explains what is repeated.
    let is_up = start_armed(stage, point, nth).await?;
    let ended = if is_up { stage.gateway.ended(REACH_MAX).await } else { None };
    disarm(stage);
    if is_up && ended.is_none() {
        // It would strike later, where nobody expects it.
        stage.stop().await?;
        stage.restart().await?;
        return Ok(false);
    }
    stage.note(format_args!("crashed with {ended:?}"));
    stage.gateway.kill();
    stage.restart().await?;
    Ok(true)
}

/// Stops the gateway in order and starts it armed; false if it ended before it was ready.
pub(super) async fn start_armed(stage: &mut Stage, point: &str, nth: u64) -> Result<bool, Trouble> {
    stage.stop().await?;
    arm(stage, point, nth);
    stage.note(format_args!("armed {point}:{nth}"));
    stage.is_first_life = false;
    match stage.launch.attempt().await? {
        Ok(gateway) => {
            stage.gateway = gateway;
            Ok(true)
        }
        Err(ended) => {
            stage.note(format_args!("ended at its start: {:?}", ended.code));
            Ok(false)
        }
    }
}

/// Every file operation of a start and of rolling segments, one after another.
async fn each_file_operation(stage: &mut Stage) -> Result<(), Trouble> {
    let mut reached = 0;
    for nth in 1..OPERATIONS.end {
        if !crash_at_passing(stage, "C10", nth).await? {
            break;
        }
        stage.crashes += 1;
        reached = nth;
    }
    stage.remarks.push(format!("crashed at each of the first {reached} file operations"));
    stage.expect(reached >= OPERATIONS.start, || {
        format!("only {reached} file operations were reached: no segment was rolled")
    });
    stage.wait(300..600).await;
    Ok(())
}

/// One request at a time, each delivered before the next is sent: where no try was made before the
/// crash, nothing may be repeated after it, and no crash is reckoned with.
async fn singly(stage: &mut Stage, points: &[&str]) -> Result<(), Trouble> {
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    let mut own = Vec::new();
    for point in points {
        for _ in 0..stage.shape.times(3, 30) {
            let nth = stage.draw(1..6);
            start_armed(stage, point, nth).await?;
            let mut is_reached = false;
            for org in (0..stage.shape.size.organizations).cycle().take(40) {
                let outcome = stage.send_one(org).await?;
                is_reached = !is_done(stage, org, outcome).await?;
                if is_reached {
                    break;
                }
            }
            disarm(stage);
            if !is_reached {
                return Err(Trouble::Setup(format!("BUGLER_CRASH={point}:{nth} is not reached")));
            }
            if *point == "C1" {
                let last = stage.sent.unknown_seqs.last().copied();
                stage.expect(last.is_some(), || String::from("the request at C1 got an answer"));
                own.extend(last.map(|(_, seq)| seq));
            }
            stage.note("crashed");
            stage.gateway.kill();
            stage.restart().await?;
            // What the crash left is not to meet the next one.
            stage.drained(stage.shape.drain_goal).await?;
        }
    }
    stage.drained(stage.shape.drain_goal).await?;
    stay_absent(stage, &own)
}

/// Waits until what was just sent has ended; false if the gateway did first.
async fn is_done(stage: &mut Stage, org: usize, outcome: Option<Outcome>) -> Result<bool, Trouble> {
    let begun = Instant::now();
    while stage.gateway.is_alive() {
        let Some(Outcome::Accepted(Some(id))) = outcome else {
            // Its connection broke: the process is ending.
            if stage.gateway.ended(REACH_MAX).await.is_some() {
                return Ok(false);
            }
            return Err(Trouble::Broken(format!("a single request came to {outcome:?}")));
        };
        let path = format!("/bugler/v1/notifications/{id}");
        let asked = ask::get(stage.gateway.api, &path, Some(stage.clients.token(org))).await;
        let done: &[u8] = b"\"state\":\"done\"";
        if asked.is_ok_and(|(_, body)| body.windows(done.len()).any(|part| part == done)) {
            return Ok(true);
        }
        if begun.elapsed() > stage.shape.drain_goal {
            return Err(Trouble::Broken(String::from("a single notification does not end")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(false)
}

/// Nothing was stored before the crash, so nothing may arrive.
fn stay_absent(stage: &mut Stage, seqs: &[u64]) -> Result<(), Trouble> {
    stage.sync()?;
    let mut arrived = Vec::new();
    jsonl::each(&stage.receipts_path(), |receipt: Receipt| {
        arrived.extend(receipt.marker.filter(|seq| seqs.contains(seq)));
    })
    .map_err(Trouble::io("the twins' ledger cannot be read back"))?;
    stage.expect(arrived.is_empty(), || {
        format!("sent, though the crash came before they were stored: {arrived:?}")
    });
    Ok(())
}

fn arm(stage: &mut Stage, point: &str, nth: u64) {
    disarm(stage);
    stage.launch.env.push((String::from("BUGLER_CRASH"), format!("{point}:{nth}")));
}

pub(super) fn disarm(stage: &mut Stage) {
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
    // What a recovery takes that nobody disturbed.
    stage.restart().await?;
    let undisturbed = stage.gateway.ready_in;
    stage.wait(300..600).await;
    stage.crash();
    let mut crashed = 0;
    for nth in 1..=10 {
        arm(stage, "C12", nth);
        match stage.launch.attempt().await? {
            Err(_) => {
                crashed += 1;
                stage.note(format_args!("crashed in recovery, at its step {nth}"));
            }
            // It has fewer steps.
            Ok(mut gateway) => {
                gateway.kill();
                stage.crashes += 1;
                stage.note("killed after a whole recovery");
            }
        }
    }
    disarm(stage);
    if crashed == 0 {
        return Err(Trouble::Setup(String::from("BUGLER_CRASH=C12 is not reached")));
    }
    stage.restart().await?;
    let after = stage.gateway.ready_in;
    // A short run shares its machine, and its starts vary.
    let slack = Duration::from_millis(stage.shape.times(5_000, 500));
    let most = undisturbed * 2 + slack;
    stage.expect(after <= most, || {
        format!(
            "recovery grew: {} ms after {crashed} crashes in it, {} ms before",
            after.as_millis(),
            undisturbed.as_millis()
        )
    });
    stage.remarks.push(format!(
        "ready in {} ms, and in {} ms after {crashed} crashes in recovery",
        undisturbed.as_millis(),
        after.as_millis()
    ));
    stage.expect_fast_starts(READY_MAX);
    stage.wait(300..600).await;
    Ok(())
}
