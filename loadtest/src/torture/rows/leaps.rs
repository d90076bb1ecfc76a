//! The wall clock of Redis leaps: the same for one server and for a cluster.

use super::refusals::{recovers, site};
use super::{Stage, Trouble};
use crate::redis::Reply;

const HOUR_MS: i64 = 3_600_000;
/// What Redis says may be this much off what its clock was set to.
const OFF_MAX_MS: u64 = 60_000;

/// Stream ids go on where they were, and who holds what does not hang on Redis' clock: nothing is lost,
/// and at most what is in flight at a leap is sent twice.
pub(super) async fn leap(stage: &mut Stage) -> Result<(), Trouble> {
    stage
        .faults("webhook:status=500:20%;fcm:status=503:20%;apns:status=503:20%&reason=Shutdown")?;
    for offset in [-HOUR_MS, 0, HOUR_MS, 0] {
        stage.wait(300..900).await;
        site(stage)?.set_clock(offset)?;
        stage.note(format_args!("the clock of Redis is off by {offset} ms"));
        stage.shape.repeats_extra += stage.shape.max_in_flight;
        let told = site(stage)?.one_primary()?.ask(&["TIME"]).map_err(Trouble::from)?;
        let first = if let Reply::List(parts) = &told { parts.first() } else { None };
        let seconds = first.and_then(|part| part.text().parse().ok()).unwrap_or(0_u64);
        let expected = Stage::now_ms().saturating_add_signed(offset);
        let is_off = |ms: u64| ms.abs_diff(expected) <= OFF_MAX_MS;
        stage.expect(is_off(seconds * 1_000), || {
            format!("Redis says {seconds} s, and was set to {expected} ms")
        });
        recovers(stage, "a leap of its clock").await;
        stage.dwell().await;
    }
    stage.faults("")
}
