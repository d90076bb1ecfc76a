//! A provider-wide throttle: the share of tries held back grows with the share that fails.
//!
//! Google's client-side throttling: `p = max(0, (requests − K · accepts) / (requests + 1))`, K = 2,
//! over about two minutes. What is held back waits here instead of failing. Ten answers in a row end
//! it: the window would remember an outage for two minutes after it.

const K: f64 = 2.0;
/// Two halves make the window: the older one is forgotten when the newer is full.
const HALF_MS: u64 = 60_000;
/// Some tries always get through, else nobody would see that the provider is back.
const HELD_MAX: f64 = 0.9;
/// Fewer tries than this prove nothing.
const REQUESTS_MIN: f64 = 20.0;

/// So many tries accepted in a row say that the provider is back.
const BACK: u32 = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Half {
    requests: f64,
    accepts: f64,
}

/// One provider's counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Throttle {
    epoch: u64,
    accepted_in_a_row: u32,
    now: Half,
    before: Half,
}

impl Throttle {
    /// Counts a try; `accepted` if the provider worked on it, whatever it thought of it.
    pub(super) fn tried(&mut self, tick: u64, accepted: bool) {
        self.roll(tick);
        self.now.requests += 1.0;
        self.now.accepts += f64::from(u8::from(accepted));
        self.accepted_in_a_row =
            if accepted { self.accepted_in_a_row.saturating_add(1) } else { 0 };
        if self.accepted_in_a_row >= BACK {
            self.now.requests = self.now.accepts;
            self.before.requests = self.before.accepts;
        }
    }

    /// The share of tries to hold back at `tick`.
    pub(super) fn held(&mut self, tick: u64) -> f64 {
        self.roll(tick);
        let requests = self.now.requests + self.before.requests;
        if requests < REQUESTS_MIN {
            return 0.0;
        }
        held(requests, self.now.accepts + self.before.accepts).min(HELD_MAX)
    }

    fn roll(&mut self, tick: u64) {
        let epoch = tick / HALF_MS;
        if epoch != self.epoch {
            self.before = if epoch == self.epoch + 1 { self.now } else { Half::default() };
            self.now = Half::default();
            self.epoch = epoch;
        }
    }
}

fn held(requests: f64, accepts: f64) -> f64 {
    ((requests - K * accepts) / (requests + 1.0)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_held_back_is_the_formula() {
        let near = |left: f64, right: f64| (left - right).abs() < 1e-9;
        assert!(near(held(100.0, 100.0), 0.0));
        assert!(near(held(100.0, 50.0), 0.0), "half may fail");
        assert!(near(held(100.0, 25.0), 50.0 / 101.0));
        assert!(near(held(100.0, 0.0), 100.0 / 101.0));
    }

    #[test]
    fn a_dead_provider_still_gets_a_tenth_and_a_window_later_all() {
        let mut throttle = Throttle::default();
        (0..19).for_each(|_| throttle.tried(0, false));
        assert!(throttle.held(0) < f64::EPSILON, "too few to judge");
        (0..100).for_each(|_| throttle.tried(0, false));
        assert!((throttle.held(59_999) - 0.9).abs() < 1e-9);
        assert!((throttle.held(60_000) - 0.9).abs() < 1e-9, "the older half counts");
        assert!(throttle.held(180_000) < f64::EPSILON);
    }

    #[test]
    fn ten_answers_in_a_row_open_it_and_nine_do_not() {
        let mut throttle = Throttle::default();
        (0..1_000).for_each(|_| throttle.tried(0, false));
        (0..9).for_each(|_| throttle.tried(0, true));
        throttle.tried(0, false);
        (0..9).for_each(|_| throttle.tried(0, true));
        assert!((throttle.held(0) - 0.9).abs() < 1e-9, "nine, twice");
        throttle.tried(0, true);
        assert!(throttle.held(0) < f64::EPSILON);
    }
}
