//! A target's breaker: closed, open for a while, then one probe at a time until three succeed.
//!
//! Opens after at least 10 answers in 30 s of which half or more are failures, or after 5 failed
//! connections in a row; then for 5 s · 2ⁿ ± 50 %, at most 10 min.

const BUCKETS: usize = 6;
const BUCKET_MS: u64 = 5_000;
const SAMPLES_MIN: u32 = 10;
const CONNECTS_MAX: u32 = 5;
const PROBES: u32 = 3;
const FIRST_MS: u64 = 5_000;
const LONGEST_MS: u64 = 600_000;

/// Where a breaker stands; the numbers are those of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    HalfOpen,
    Open,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    epoch: u64,
    good: u32,
    bad: u32,
}

/// One target's breaker.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaker {
    buckets: [Bucket; BUCKETS],
    connects: u32,
    /// Times it opened since it was last closed.
    trips: u32,
    /// Open until this tick, then half open; `None` is closed.
    until: Option<u64>,
    probed: u32,
}

impl Breaker {
    /// Where it stands at `tick`.
    #[must_use]
    pub(super) fn state(&self, tick: u64) -> BreakerState {
        match self.until {
            None => BreakerState::Closed,
            Some(until) if until > tick => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// The tick before which nothing may go out; 0 if it is not open.
    #[must_use]
    pub(super) fn opens_at(&self) -> u64 {
        self.until.unwrap_or(0)
    }

    /// True if a try may start while `in_flight` others are out.
    #[must_use]
    pub(super) fn allows(&self, in_flight: u32, tick: u64) -> bool {
        match self.state(tick) {
            BreakerState::Closed => true,
            BreakerState::HalfOpen => in_flight == 0,
            BreakerState::Open => false,
        }
    }

    /// An answer that shows the target alive.
    pub(super) fn good(&mut self, tick: u64) {
        self.connects = 0;
        match self.state(tick) {
            BreakerState::Closed => self.bucket(tick).good += 1,
            BreakerState::HalfOpen => {
                self.probed += 1;
                if self.probed >= PROBES {
                    *self = Self::default();
                }
            }
            // A try from before it opened: one answer is not three.
            BreakerState::Open => {}
        }
    }

    /// A failure; `is_connect` if not even a connection came about. `random` is uniform in 0..1.
    /// Answers whether it opened.
    pub(super) fn bad(&mut self, tick: u64, is_connect: bool, random: f64) -> bool {
        self.connects = if is_connect { self.connects + 1 } else { 0 };
        match self.state(tick) {
            BreakerState::Open => false,
            BreakerState::HalfOpen => {
                self.open(tick, random);
                true
            }
            BreakerState::Closed => {
                self.bucket(tick).bad += 1;
                let (good, bad) = self.counts(tick);
                let is_bad = good + bad >= SAMPLES_MIN && bad * 2 >= good + bad;
                if is_bad || self.connects >= CONNECTS_MAX {
                    self.open(tick, random);
                    return true;
                }
                false
            }
        }
    }

    /// Opens now, whatever was counted, and for twice as long as the last time.
    pub(super) fn open(&mut self, tick: u64, random: f64) {
        self.until = Some(tick + open_ms(self.trips, random));
        self.trips = self.trips.saturating_add(1);
        self.probed = 0;
        self.connects = 0;
        self.buckets = Default::default();
    }

    fn bucket(&mut self, tick: u64) -> &mut Bucket {
        let epoch = tick / BUCKET_MS;
        let place = usize::try_from(epoch % BUCKETS as u64).unwrap_or(0);
        let bucket = &mut self.buckets[place];
        if bucket.epoch != epoch {
            *bucket = Bucket { epoch, ..Bucket::default() };
        }
        bucket
    }

    fn counts(&self, tick: u64) -> (u32, u32) {
        let oldest = (tick / BUCKET_MS).saturating_sub(BUCKETS as u64 - 1);
        let recent = self.buckets.iter().filter(|bucket| bucket.epoch >= oldest);
        recent.fold((0, 0), |(good, bad), bucket| (good + bucket.good, bad + bucket.bad))
    }
}

/// How long it stays open the `trips`-th time, counted from 0.
fn open_ms(trips: u32, random: f64) -> u64 {
    let whole = FIRST_MS.saturating_mul(1 << trips.min(20)).min(LONGEST_MS);
    // ± 50 %, so that a fleet of gateways does not probe in step.
    let spread = std::time::Duration::from_millis(whole).mul_f64(0.5 + random);
    u64::try_from(spread.as_millis()).unwrap_or(LONGEST_MS).min(LONGEST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_time_doubles_with_jitter_up_to_ten_minutes() {
        assert_eq!(open_ms(0, 0.5), 5_000);
        assert_eq!(open_ms(0, 0.0), 2_500);
        assert_eq!(open_ms(3, 0.5), 40_000);
        assert_eq!(open_ms(30, 1.0), 600_000);
    }

    #[test]
    fn half_failures_of_ten_open_it_and_nine_do_not() {
        let mut breaker = Breaker::default();
        (0..5).for_each(|_| breaker.good(1_000));
        let opened = (0..4).any(|_| breaker.bad(1_000, false, 0.5));
        assert!(!opened, "nine samples");
        assert!(breaker.bad(1_000, false, 0.5));
        assert_eq!(breaker.state(5_999), BreakerState::Open);
        assert_eq!(breaker.state(6_000), BreakerState::HalfOpen);
    }

    #[test]
    fn failures_older_than_thirty_seconds_do_not_count() {
        let mut breaker = Breaker::default();
        (0..9).for_each(|_| assert!(!breaker.bad(0, false, 0.5)));
        assert!(!breaker.bad(30_000, false, 0.5));
        assert_eq!(breaker.state(30_000), BreakerState::Closed);
    }

    #[test]
    fn five_failed_connections_in_a_row_open_it() {
        let mut breaker = Breaker::default();
        (0..4).for_each(|_| assert!(!breaker.bad(0, true, 0.5)));
        breaker.good(0);
        (0..4).for_each(|_| assert!(!breaker.bad(0, true, 0.5)));
        assert!(breaker.bad(0, true, 0.5));
    }

    #[test]
    fn one_probe_at_a_time_and_three_successes_close_it() {
        let mut breaker = Breaker::default();
        breaker.open(0, 0.5);
        assert!(!breaker.allows(0, 4_999));
        assert!(breaker.allows(0, 5_000));
        assert!(!breaker.allows(1, 5_000), "one probe");
        breaker.good(5_000);
        assert!(breaker.bad(5_001, false, 0.5), "a probe that fails opens it for longer");
        assert_eq!(breaker.opens_at(), 15_001);
        (0..2).for_each(|_| breaker.good(15_001));
        assert_eq!(breaker.state(15_001), BreakerState::HalfOpen);
        breaker.good(15_001);
        assert_eq!(breaker.state(15_001), BreakerState::Closed);
        breaker.open(20_000, 0.5);
        assert_eq!(breaker.opens_at(), 25_000, "a closed breaker starts anew");
    }
}
