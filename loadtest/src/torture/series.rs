//! What happened second by second, read from the ledgers.

use std::ops::Range;

use super::Trouble;
use super::books::{self, Books, Ledgers};
use super::stage::Stage;

/// One stretch of time, in milliseconds since 1970, and what fell into it.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) window: Range<u64>,
    pub(super) seconds: Vec<Second>,
}

/// One second. Latencies in milliseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Second {
    pub(super) offered: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    /// Deliveries that reached a device's provider.
    pub(super) goodput: u64,
    /// From sending a request to its 2xx.
    pub(super) latency: Vec<u64>,
    /// From sending a request to the first attempt at the device's provider.
    pub(super) first_attempt: Vec<u64>,
    /// The same of the hot organization.
    pub(super) first_attempt_hot: Vec<u64>,
}

impl Stretch {
    pub(super) fn of(window: Range<u64>) -> Self {
        let seconds = usize::try_from((window.end - window.start).div_ceil(1000)).unwrap_or(0);
        Self { window, seconds: vec![Second::default(); seconds] }
    }

    fn second(&mut self, at_ms: u64) -> Option<&mut Second> {
        if !self.window.contains(&at_ms) {
            return None;
        }
        self.seconds.get_mut(usize::try_from((at_ms - self.window.start) / 1000).ok()?)
    }

    fn take(&mut self, books: &Books<'_>, hot: Option<usize>) {
        books.each(|org, entry, tallies| {
            let device = tallies.first().copied().unwrap_or_default();
            if let Some(second) = self.second(entry.intent_ms) {
                second.offered += 1;
                second.refused += u64::from(entry.is_refused());
                if entry.is_accepted() && device.first_ms > 0 {
                    let took = device.first_ms.saturating_sub(entry.intent_ms);
                    if Some(org) == hot {
                        second.first_attempt_hot.push(took);
                    } else {
                        second.first_attempt.push(took);
                    }
                }
            }
            if entry.is_accepted()
                && let Some(second) = self.second(entry.answered_ms)
            {
                second.accepted += 1;
                second.latency.push(entry.answered_ms.saturating_sub(entry.intent_ms));
            }
            if device.success_ms > 0
                && let Some(second) = self.second(device.success_ms)
            {
                second.goodput += 1;
            }
        });
    }

    /// A percentile over the whole stretch.
    pub(super) fn quantile(&self, of: impl Fn(&Second) -> &Vec<u64>, share: f64) -> u64 {
        let mut all: Vec<u64> = self.seconds.iter().flat_map(|s| of(s).iter().copied()).collect();
        quantile(&mut all, share)
    }

    /// The mean of a count for each second, the first and the last second apart.
    pub(super) fn mean(&self, of: impl Fn(&Second) -> u64) -> f64 {
        let inner = self.seconds.get(1..self.seconds.len().saturating_sub(1)).unwrap_or_default();
        let inner = if inner.is_empty() { self.seconds.as_slice() } else { inner };
        #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
        let mean = inner.iter().map(of).sum::<u64>() as f64 / inner.len().max(1) as f64;
        mean
    }
}

/// The value at a share of the sorted values; 0 of none.
pub(super) fn quantile(values: &mut [u64], share: f64) -> u64 {
    values.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index below the length"
    )]
    let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0)
}

/// Reads the ledgers of a stage that is quiet, and fills the stretches.
pub(super) async fn read(
    stage: &Stage,
    windows: Vec<Range<u64>>,
    hot: Option<usize>,
) -> Result<Vec<Stretch>, Trouble> {
    stage.sync()?;
    let (client, receipts) = (stage.dir.join("client.jsonl"), stage.receipts_path());
    let states = stage.dir.join("no-states.jsonl");
    std::fs::write(&states, "").map_err(Trouble::io("an empty ledger"))?;
    let world = stage.world.clone();
    let total = stage.sent.accepted + stage.sent.refused + stage.sent.unknown;
    let reading = tokio::task::spawn_blocking(move || {
        let mut stretches: Vec<_> = windows.into_iter().map(Stretch::of).collect();
        let ledgers = Ledgers { client: &client, receipts: &receipts, states: &states };
        books::audit(&world, ledgers, total, &[], |books| {
            for stretch in &mut stretches {
                stretch.take(books, hot);
            }
        })?;
        Ok(stretches)
    });
    let read: std::io::Result<_> =
        reading.await.map_err(|error| Trouble::Setup(error.to_string()))?;
    read.map_err(Trouble::io("a ledger cannot be read back"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_of_the_list() {
        let mut values = (1..=100).rev().collect::<Vec<_>>();
        assert_eq!(quantile(&mut values, 0.5), 51);
        assert_eq!(quantile(&mut values, 0.99), 100);
        assert_eq!(quantile(&mut [], 0.99), 0);
    }

    #[test]
    fn a_stretch_counts_only_what_falls_into_it() {
        let mut stretch = Stretch::of(1_000..3_500);
        assert_eq!(stretch.seconds.len(), 3);
        assert!(stretch.second(999).is_none() && stretch.second(3_500).is_none());
        stretch.second(3_499).expect("the last second").goodput = 7;
        assert_eq!(stretch.seconds.last().map(|second| second.goodput), Some(7));
    }
}
