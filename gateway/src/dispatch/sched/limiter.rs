//! How many tries one target takes at once: grows while answers stay quick, shrinks when it struggles.
//!
//! ```text
//! answered, at least half in use   limit += 0.2 (limit · g + √limit − limit),  g = clamp(½, 1, 1.5 · long/short)
//! struggling (429, 502, 503, 504, silence, reset)   limit = max(1, 0.7 · limit), at most once per round trip
//! told to wait (Retry-After)                        limit = max(1, limit / 2)
//! ```
//!
//! The growth is Netflix' Gradient2 with the square root as the queue it allows itself.

/// Weights of the two averages of the service time: about 10 and about 600 answers.
const SHORT: f64 = 0.2;
const LONG: f64 = 1.0 / 300.0;

/// One target's limit.
#[derive(Clone, Debug)]
pub(super) struct Limiter {
    limit: f64,
    max: f64,
    long_ms: f64,
    short_ms: f64,
    /// Cuts before this tick are the same trouble seen twice.
    cut_again_at: u64,
}

impl Limiter {
    /// Starts at `limit` and never grows beyond `max`.
    #[must_use]
    pub(super) fn new(limit: u32, max: u32) -> Self {
        let max = f64::from(max.max(1));
        let limit = f64::from(limit.max(1)).min(max);
        Self { limit, max, long_ms: 0.0, short_ms: 0.0, cut_again_at: 0 }
    }

    /// The limit before rounding.
    #[must_use]
    pub(super) fn exact(&self) -> f64 {
        self.limit
    }

    /// Tries that may be in flight, at least 1, with `share` (0 to 1) of the limit in force.
    #[must_use]
    pub(super) fn allows(&self, in_flight: u32, share: f64) -> bool {
        f64::from(in_flight) + 1.0 <= (self.limit * share).max(1.0)
    }

    /// An answer came after `rtt_ms` while `in_flight` tries, that one included, were out.
    pub(super) fn answered(&mut self, in_flight: u32, rtt_ms: u32) {
        let rtt = f64::from(rtt_ms.max(1));
        if self.long_ms == 0.0 {
            (self.long_ms, self.short_ms) = (rtt, rtt);
        }
        self.long_ms += LONG * (rtt - self.long_ms);
        self.short_ms += SHORT * (rtt - self.short_ms);
        if f64::from(in_flight) * 2.0 >= self.limit {
            self.limit = grown(self.limit, self.long_ms, self.short_ms).clamp(1.0, self.max);
        }
    }

    /// The target struggles; counted at most once per round trip.
    pub(super) fn struggled(&mut self, tick: u64, rtt_ms: u32) {
        if tick >= self.cut_again_at {
            self.limit = (0.7 * self.limit).max(1.0);
            self.cut_again_at = tick + u64::from(rtt_ms.max(1));
        }
    }

    /// The target named a time to stay away for.
    pub(super) fn halve(&mut self) {
        self.limit = (self.limit / 2.0).max(1.0);
    }
}

/// The limit after one answer.
fn grown(limit: f64, long_ms: f64, short_ms: f64) -> f64 {
    let gradient = (1.5 * long_ms / short_ms).clamp(0.5, 1.0);
    limit + 0.2 * (limit * gradient + limit.sqrt() - limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn growth_is_the_formula() {
        assert!(near(grown(4.0, 10.0, 10.0), 4.0 + 0.2 * 2.0), "as quick as ever: only the root");
        assert!(near(grown(16.0, 10.0, 30.0), 16.0 + 0.2 * (16.0 * 0.5 + 4.0 - 16.0)), "half");
        assert!(near(grown(16.0, 10.0, 20.0), 16.0 + 0.2 * (16.0 * 0.75 + 4.0 - 16.0)));
        assert!(near(grown(9.0, 10.0, 1_000.0), 9.0 + 0.2 * (4.5 + 3.0 - 9.0)), "never below half");
    }

    #[test]
    fn a_limit_grows_only_while_it_is_used() {
        let mut limiter = Limiter::new(4, 64);
        limiter.answered(1, 10);
        assert!(near(limiter.exact(), 4.0));
        limiter.answered(2, 10);
        assert!(near(limiter.exact(), 4.4));
        (0..10_000).for_each(|_| limiter.answered(64, 10));
        assert!(near(limiter.exact(), 64.0), "and not beyond its maximum");
    }

    #[test]
    fn trouble_cuts_it_once_per_round_trip_and_never_below_one() {
        let mut limiter = Limiter::new(10, 64);
        limiter.struggled(1_000, 50);
        limiter.struggled(1_049, 50);
        assert!(near(limiter.exact(), 7.0));
        limiter.struggled(1_050, 50);
        assert!(near(limiter.exact(), 4.9));
        limiter.halve();
        assert!(near(limiter.exact(), 2.45));
        (0..20).for_each(|_| limiter.halve());
        assert!(near(limiter.exact(), 1.0));
        assert!(limiter.allows(0, 0.25));
        assert!(!limiter.allows(1, 1.0));
    }

    #[test]
    fn a_part_of_the_limit_is_never_less_than_one() {
        let limiter = Limiter::new(8, 64);
        assert!(limiter.allows(1, 0.25));
        assert!(!limiter.allows(2, 0.25));
        assert!(limiter.allows(7, 1.0));
    }
}
