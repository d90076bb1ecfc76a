//! Slow start: limits begin at a quarter and double each second; due work rises by a fifth each.

/// Share of every limit in the first second.
const FIRST: f64 = 0.25;
/// Due items a second that are always let go.
const FLOOR: f64 = 500.0;
/// A second's due items, as a multiple of what the second before got done.
const GROWTH: f64 = 1.2;

/// Share of the limits in force `ms` after the start.
#[must_use]
pub(super) fn share(ms: u64) -> f64 {
    let seconds = i32::try_from(ms / 1_000).unwrap_or(i32::MAX).min(10);
    (FIRST * 2f64.powi(seconds)).min(1.0)
}

/// How many due items (retries, what waited out a gate) may start: at most 1.2 times as many in a
/// second as ended in the one before it.
#[derive(Clone, Debug)]
pub(super) struct Release {
    second: u64,
    /// Allowed and started in this second, ended in it.
    allowed: f64,
    started: f64,
    ended: f64,
}

impl Default for Release {
    fn default() -> Self {
        Self { second: 0, allowed: FLOOR, started: 0.0, ended: 0.0 }
    }
}

impl Release {
    /// True if one more may start at `tick`.
    pub(super) fn allows(&mut self, tick: u64) -> bool {
        self.roll(tick);
        self.started < self.allowed
    }

    /// One started.
    pub(super) fn start(&mut self, tick: u64) {
        self.roll(tick);
        self.started += 1.0;
    }

    /// Any try ended with an answer.
    pub(super) fn end(&mut self, tick: u64) {
        self.roll(tick);
        self.ended += 1.0;
    }

    /// The tick at which more may start.
    #[must_use]
    pub(super) fn next(&self) -> u64 {
        (self.second + 1) * 1_000
    }

    fn roll(&mut self, tick: u64) {
        let second = tick / 1_000;
        if second > self.second {
            let ended = if second == self.second + 1 { self.ended } else { 0.0 };
            *self = Self { second, allowed: allowed(ended), started: 0.0, ended: 0.0 };
        }
    }
}

fn allowed(ended: f64) -> f64 {
    (GROWTH * ended).max(FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_double_each_second_from_a_quarter() {
        let shares: Vec<_> =
            [0, 999, 1_000, 2_000, 60_000].into_iter().map(|ms| format!("{}", share(ms))).collect();
        assert_eq!(shares, ["0.25", "0.25", "0.5", "1", "1"]);
    }

    #[test]
    fn due_work_rises_by_a_fifth_each_second() {
        let mut release = Release::default();
        let mut per_second = Vec::new();
        for second in 0..8u64 {
            let tick = second * 1_000;
            let mut started = 0u32;
            while release.allows(tick) {
                release.start(tick);
                release.end(tick);
                started += 1;
            }
            per_second.push(started);
        }
        assert_eq!(per_second, [500, 600, 720, 864, 1037, 1245, 1494, 1793]);
        assert!(release.allows(60_000), "after a pause it starts again");
    }
}
