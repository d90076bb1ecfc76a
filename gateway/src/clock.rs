//! The one source of time: a seam, so that retries, leases and expiry are tested without sleeping.

use crate::model::Millis;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Wall time for records and schedules.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since the Unix epoch.
    fn now(&self) -> Millis;

    /// Milliseconds since some instant that never leap, however the wall clock is set: for leases.
    fn steady(&self) -> Millis {
        static START: OnceLock<Instant> = OnceLock::new();
        let elapsed = START.get_or_init(Instant::now).elapsed();
        Millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    /// Uniform in 0..1: what spreads work over time. Here, so that a simulated world decides it.
    fn chance(&self) -> f64 {
        rand::random()
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        let elapsed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Millis(millis.saturating_add_signed(set_off()))
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
