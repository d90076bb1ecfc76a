//! Ticks for the scheduler, made from a clock that cannot be set.

use crate::clock::Clock;
use crate::dispatch::sched::Now;
use crate::model::Millis;

/// Milliseconds that passed, beside the time that records are given.
#[derive(Debug)]
pub(super) struct Pulse {
    /// By the steady clock.
    last: Millis,
    tick: u64,
}

impl Pulse {
    pub(super) fn new(clock: &dyn Clock) -> Self {
        Self { last: clock.steady(), tick: 1 }
    }

    /// The present instant.
    pub(super) fn now(&mut self, clock: &dyn Clock) -> Now {
        let steady = clock.steady();
        self.tick += steady.since(self.last);
        self.last = self.last.max(steady);
        Now { at: clock.now(), tick: self.tick }
    }

    /// The present tick.
    pub(super) fn tick(&self) -> u64 {
        self.tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Wall time and steady time, set one by one.
    #[derive(Debug, Default)]
    struct Two(AtomicU64, AtomicU64);

    impl Clock for Two {
        fn now(&self) -> Millis {
            Millis(self.0.load(Ordering::Relaxed))
        }

        fn steady(&self) -> Millis {
            Millis(self.1.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn ticks_count_what_passed_however_the_clock_is_set() {
        let clock = Two(AtomicU64::new(1_000_000), AtomicU64::new(50));
        let mut pulse = Pulse::new(&clock);
        let mut at = |wall, steady| {
            clock.0.store(wall, Ordering::Relaxed);
            clock.1.store(steady, Ordering::Relaxed);
            let now = pulse.now(&clock);
            (now.at.0, now.tick)
        };
        assert_eq!(at(1_000_100, 150), (1_000_100, 101));
        assert_eq!(at(900_000, 150), (900_000, 101), "back");
        assert_eq!(at(9_000_000, 200), (9_000_000, 151), "forward");
    }
}
