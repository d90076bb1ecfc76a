//! The one source of time: a seam, so that retries, leases and expiry are tested without sleeping.

use crate::model::Millis;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Wall time for records and schedules.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since the Unix epoch, for what is timed and recorded here. They never go back:
    /// what comes after a leap of the machine's clock is said at [`SystemClock`].
    fn now(&self) -> Millis;

    /// What the machine's clock says, set back or not: for dates that others read.
    fn wall(&self) -> Millis {
        self.now()
    }

    /// An earlier process recorded `at`: time goes on from there, as after a leap.
    fn resume(&self, at: Millis) {
        let _not_needed_by_clocks_that_cannot_leap = at;
    }

    /// Milliseconds since some instant that never leap, however the wall clock is set: for leases.
    fn steady(&self) -> Millis {
        Millis(micros(steady()) / 1_000)
    }

    /// Uniform in 0..1: what spreads work over time. Here, so that a simulated world decides it.
    fn chance(&self) -> f64 {
        rand::random()
    }
}

/// The machine's clock. Set forward, it is followed at once. Set back by up to two hours, time goes
/// on at half its pace until the clock has caught up, so that nothing that was timed waits as long as
/// the leap; set back further, it is followed.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// One for the process: all parts live in the same time.
static GUARD: Mutex<Guard> = Mutex::new(Guard { now_us: 0, steady_us: 0 });

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        let steady_us = micros(steady());
        let mut guard = GUARD.lock();
        Millis(guard.at(machine_us(), steady_us) / 1_000)
    }

    fn wall(&self) -> Millis {
        Millis(machine_us() / 1_000)
    }

    fn resume(&self, at: Millis) {
        let steady_us = micros(steady());
        let mut guard = GUARD.lock();
        let machine_us = machine_us();
        guard.now_us = guard.at(machine_us, steady_us).max(at.0.saturating_mul(1_000));
        guard.steady_us = steady_us;
    }
}

/// Since some instant of this process.
fn steady() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn machine_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    micros(since.unwrap_or(Duration::ZERO)).saturating_add_signed(set_off().saturating_mul(1_000))
}

/// A leap back beyond this is no wrong setting that is put right: the clock is followed.
const LEAP_MAX_US: u64 = 2 * 60 * 60 * 1_000_000;

/// Time that does not go back. In microseconds: asked often, whole milliseconds would stand still.
#[derive(Debug)]
struct Guard {
    now_us: u64,
    /// When `now_us` was, by a clock that cannot be set.
    steady_us: u64,
}

impl Guard {
    /// The time when the machine's clock says `machine_us`, and the steady one `steady_us`.
    fn at(&mut self, machine_us: u64, steady_us: u64) -> u64 {
        let passed_us = steady_us.saturating_sub(self.steady_us);
        let behind_us = (self.now_us + passed_us).saturating_sub(machine_us);
        let before_us = self.now_us;
        self.steady_us = self.steady_us.max(steady_us);
        self.now_us = if behind_us > LEAP_MAX_US {
            tracing::error!(
                by_s = behind_us / 1_000_000,
                "the clock was set back by hours; what was timed before waits until it is that late again"
            );
            machine_us
        } else {
            machine_us.max(before_us + passed_us / 2)
        };
        self.now_us
    }
}

/// Milliseconds by which the machine's clock is set wrong: what the file named by
/// `BUGLER_CLOCK_OFFSET` holds now.
#[cfg(feature = "crash-points")]
fn set_off() -> i64 {
    static FILE: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("BUGLER_CLOCK_OFFSET").map(Into::into));
    let read = |path| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    file.as_ref().and_then(read).unwrap_or(0)
}

/// None: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline]
fn set_off() -> i64 {
    0
}

/// A clock that moves only when a test moves it.
#[derive(Clone, Debug)]
pub struct TestClock(Arc<Mutex<Millis>>);

impl TestClock {
    #[must_use]
    pub fn at(now: Millis) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock();
        *now = now.plus(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
    }
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        *self.0.lock()
    }

    fn steady(&self) -> Millis {
        self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;
    const HOUR: u64 = 3_600 * S;
    const DAY: u64 = 24 * HOUR;

    #[test]
    fn a_clock_that_runs_is_followed_and_so_is_one_set_forward() {
        let mut guard = Guard { now_us: 0, steady_us: 0 };
        assert_eq!(guard.at(DAY, 5 * S), DAY);
        assert_eq!(guard.at(DAY + S, 6 * S), DAY + S);
        assert_eq!(guard.at(DAY + HOUR, 7 * S), DAY + HOUR);
    }

    #[test]
    fn after_an_hour_back_time_goes_on_at_half_its_pace_until_the_clock_has_caught_up() {
        let mut guard = Guard { now_us: DAY, steady_us: 0 };
        let back = DAY - HOUR;
        assert_eq!(guard.at(back + 10 * S, 10 * S), DAY + 5 * S);
        // However often it is asked.
        let mut now = 0;
        for us in 1..=10_000 {
            now = guard.at(back + 10 * S + us * 1_000, 10 * S + us * 1_000);
        }
        assert_eq!(now, DAY + 10 * S);
        let late = 2 * HOUR + 60 * S;
        assert_eq!(guard.at(back + late, late), back + late, "two hours later both agree");
    }

    #[test]
    fn seconds_back_again_and_again_never_stop_it() {
        let mut guard = Guard { now_us: DAY, steady_us: 0 };
        let mut last = DAY;
        for step in 1..=100 {
            let (passed, lost) = (step * 10 * S, step * S);
            let now = guard.at(DAY + passed - lost, passed);
            assert!(now >= last + 5 * S, "{now} after {last}");
            last = now;
        }
    }

    #[test]
    fn a_clock_set_back_by_years_is_followed() {
        let mut guard = Guard { now_us: 20_000 * DAY, steady_us: 0 };
        assert_eq!(guard.at(19_000 * DAY, S), 19_000 * DAY);
        assert_eq!(guard.at(19_000 * DAY + S, 2 * S), 19_000 * DAY + S);
    }
}
