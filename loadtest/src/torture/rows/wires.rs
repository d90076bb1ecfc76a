//! Faults of the wire between gateway and providers, by proxies: late, half open, cut.

use std::time::Duration;

use super::{Order, Row, Shape, Stage, Trouble};
use crate::torture::proxy::Way;

/// A ping after 10 s, 5 s for its answer, and a moment.
const HALF_OPEN: Duration = Duration::from_secs(17);
pub(super) const ROWS: &[Row] = &[Row::new(
    "F57",
    "the wire: late, dripping, half open, cut in the middle",
    |shape| Shape { is_proxied: true, ..shape }.order(Order::Unjudged),
    |stage| Box::pin(spoil(stage)),
)];

async fn spoil(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(1, 10) {
        for way in [
            Way::Delay(Duration::from_millis(150)),
            Way::Drip(Duration::from_millis(5)),
            Way::HalfOpen,
            Way::CutAfter(20_000),
            Way::Reset,
        ] {
            stage.wait(300..800).await;
            stage.way(way);
            // Silence is found out by a ping that nobody answers, and only then.
            let part = stage.shape.dwell / 2;
            let part = if way == Way::HalfOpen { part.max(HALF_OPEN) } else { part };
            tokio::time::sleep(part).await;
            stage.way(Way::Clear);
        }
    }
    stage.wait(300..800).await;
    let cuts: u64 = stage.proxies.iter().map(crate::torture::proxy::Proxy::cuts).sum();
    stage.remarks.push(format!("{cuts} connections cut by the proxies"));
    // A repeat follows a try of which the gateway could not know the outcome.
    let metrics = stage.gateway.metrics().await?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let unknown = metrics.sum("bugler_provider_requests_total", "\"unknown\"") as u64;
    stage.shape.repeats_extra = unknown;
    stage.remarks.push(format!("{unknown} tries of unknown outcome"));
    Ok(())
}
