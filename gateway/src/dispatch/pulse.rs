//! Ticks for the scheduler, made from a clock that may be set back.

use crate::dispatch::sched::Now;
use crate::model::Millis;

/// Ticks that never go back, made from a clock that may.
#[derive(Debug)]
pub(super) struct Pulse {
    last: Millis,
    tick: u64,
}

impl Pulse {
    pub(super) fn new(at: Millis) -> Self {
        Self { last: at, tick: 1 }
    }

    /// The instant `at`. A clock set back stands still for as long as it took to notice.
    pub(super) fn now(&mut self, at: Millis) -> Now {
        self.tick += at.since(self.last);
        self.last = at;
        Now { at, tick: self.tick }
    }

    /// The present tick.
    pub(super) fn tick(&self) -> u64 {
        self.tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_never_go_back_and_do_not_wait_for_a_clock_that_was_set_back() {
        let mut pulse = Pulse::new(Millis(1_000_000));
        assert_eq!(pulse.now(Millis(1_000_100)).tick, 101);
        assert_eq!(pulse.now(Millis(900_000)).tick, 101, "an hour back is no time");
        assert_eq!(pulse.now(Millis(900_050)).tick, 151, "and it goes on from there");
    }
}
