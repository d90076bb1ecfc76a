//! How long each of many calls took.

use std::time::{Duration, Instant};

/// Times of single calls.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// The times of `rounds` calls of `work` with the number of the round.
    pub fn of(rounds: u32, mut work: impl FnMut(u32)) -> Self {
        let time = |round| {
            let started = Instant::now();
            work(round);
            started.elapsed()
        };
        Self((0..rounds).map(time).collect())
    }

    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Milliseconds that this share of the calls, in percent, did not exceed; 0 without calls.
    #[must_use]
    pub fn percentile(&self, share: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((sorted.len() * share / 100).min(last))
            .map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}
