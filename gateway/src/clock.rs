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
        Millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
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
