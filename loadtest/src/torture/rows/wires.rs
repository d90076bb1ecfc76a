//! Faults of the wire between gateway and providers, by proxies: late, half open, cut.

use std::time::Duration;

use super::{Order, Row, Shape, Stage, Trouble};
use crate::torture::proxy::Way;

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
            let part = stage.shape.dwell / 2;
            tokio::time::sleep(part).await;
            stage.way(Way::Clear);
        }
    }
    stage.wait(300..800).await;
    let cuts: u64 = stage.proxies.iter().map(crate::torture::proxy::Proxy::cuts).sum();
    stage.remarks.push(format!("{cuts} connections cut by the proxies"));
    // An answer that a cut swallowed is an attempt of unknown outcome, on every stream of it; so is
    // one that was half open.
    stage.shape.repeats_extra = (cuts + 3) * stage.shape.max_in_flight;
    Ok(())
}
