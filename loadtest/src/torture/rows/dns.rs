//! Names that cannot be resolved, or resolve to too much.

use std::time::Duration;

use super::{Need, Order, Row, Shape, Stage, Trouble};
use crate::jsonl;
use crate::torture::names::Naming;
use crate::twins::{Receipt, TwinName};

/// How long a failure is remembered, and a moment more.
const REMEMBERED: Duration = Duration::from_secs(31);
/// A look-up that hangs is left behind after five seconds.
const LOOK_UP_MAX: Duration = Duration::from_secs(6);
/// What was on its way when connections were cut.
const IN_FLIGHT_MS: u64 = 500;
const NAMED: [TwinName; 3] = [TwinName::Apns, TwinName::Fcm, TwinName::Webhook];

pub(super) const ROWS: &[Row] = &[Row::new(
    "F62",
    "names: missing, failing, silent, empty, a thousand records, flapping",
    shape,
    |stage| Box::pin(resolve(stage)),
)
.needs(&[Need::Root])];

fn shape(shape: Shape) -> Shape {
    let mut shape = Shape { is_named: true, rate: shape.rate.min(80.0), ..shape };
    // A hook that is not found for minutes is left alone for as long.
    shape.drain_goal = shape.drain_goal.max(Duration::from_secs(240));
    shape.order(Order::Unjudged)
}

async fn resolve(stage: &mut Stage) -> Result<(), Trouble> {
    let mut found = Vec::new();
    for naming in [Naming::Good, Naming::Many] {
        found.push((naming, window(stage, naming, Duration::ZERO).await?));
    }
    // Each failure is asked for anew once the one before is forgotten.
    for naming in [Naming::Missing, Naming::Failing, Naming::Silent, Naming::Empty] {
        let patience = if naming == Naming::Silent { LOOK_UP_MAX } else { Duration::ZERO };
        found.push((naming, window(stage, naming, patience).await?));
        heal(stage, Naming::Good).await;
    }
    found.push((Naming::Flapping, window(stage, Naming::Flapping, Duration::ZERO).await?));
    name(stage, Naming::Good);
    let asked = stage.names.as_ref().map_or(0, crate::torture::names::Names::asked);
    stage.remarks.push(format!("{asked} questions of the name server"));
    judge(stage, &found)
}

fn name(stage: &mut Stage, naming: Naming) {
    if let Some(names) = &stage.names {
        names.set(naming);
    }
    stage.note(format_args!("names: {naming:?}"));
}

/// Cuts all connections while names are answered so; answers the time that is judged.
async fn window(
    stage: &mut Stage,
    naming: Naming,
    patience: Duration,
) -> Result<std::ops::Range<u64>, Trouble> {
    stage.wait(300..600).await;
    name(stage, naming);
    for twin in NAMED {
        stage.twins.set_up(twin, false);
        stage.twins.set_up(twin, true);
        stage.shape.repeats_extra += stage.shape.max_in_flight;
    }
    tokio::time::sleep(patience).await;
    let from = Stage::now_ms() + IN_FLIGHT_MS;
    stage.dwell().await;
    Ok(from..Stage::now_ms())
}

async fn heal(stage: &mut Stage, naming: Naming) {
    name(stage, naming);
    tokio::time::sleep(REMEMBERED).await;
}

/// Push services are found by their last address; hooks are not, since their owner may have moved.
fn judge(stage: &mut Stage, windows: &[(Naming, std::ops::Range<u64>)]) -> Result<(), Trouble> {
    stage.sync()?;
    let mut counts = vec![[0u64; 3]; windows.len()];
    jsonl::each(&stage.receipts_path(), |receipt: Receipt| {
        let window = windows.iter().position(|(_, window)| window.contains(&receipt.at_ms));
        let twin = NAMED.iter().position(|twin| *twin == receipt.twin);
        if let Some(count) =
            window.zip(twin).and_then(|(window, twin)| counts.get_mut(window)?.get_mut(twin))
        {
            *count += 1;
        }
    })
    .map_err(Trouble::io("the twins' ledger"))?;
    for ((naming, _), [apns, fcm, hooks]) in windows.iter().zip(counts) {
        stage.remarks.push(format!("{naming:?}: {apns} at APNs, {fcm} at FCM, {hooks} at hooks"));
        stage.expect(apns > 0 && fcm > 0, || {
            format!("{naming:?}: pushes stopped, {apns} at APNs and {fcm} at FCM")
        });
        match naming {
            Naming::Good | Naming::Many => {
                stage.expect(hooks > 0, || format!("{naming:?}: hooks got nothing"));
            }
            // One failure keeps a hook from its turn for a while.
            Naming::Flapping => {}
            Naming::Missing | Naming::Failing | Naming::Silent | Naming::Empty => {
                stage.expect(hooks == 0, || {
                    format!("{naming:?}: {hooks} calls of hooks whose name led nowhere")
                });
            }
        }
    }
    Ok(())
}
