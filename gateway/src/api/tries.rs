//! How often a name may fail to prove itself: guesses are counted, and too many wait.

use crate::api::failure::{Failure, FailureClass};
use crate::auth::hash_of;
use crate::model::SecretHash;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The time failures are counted over.
const WINDOW: Duration = Duration::from_mins(1);
/// Names counted at once.
const NAMES_MAX: usize = 50_000;

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    since: Instant,
}

/// Failed tries by name: of a client, or of a user. Known and unknown names count alike.
#[derive(Debug)]
pub(crate) struct Tries {
    allowed: u32,
    failures: Mutex<HashMap<SecretHash, Failures>>,
}

impl Tries {
    /// `allowed` failures a minute; 0 is no limit.
    pub(crate) fn new(allowed: u32) -> Self {
        Self { allowed, failures: Mutex::default() }
    }

    /// Refuses a name that failed too often, even if it could prove itself now.
    pub(crate) fn check(&self, name: &str, now: Instant) -> Result<(), Failure> {
        let failures = self.failures.lock();
        let Some(found) = failures.get(&hash_of(name)) else { return Ok(()) };
        let left = WINDOW.saturating_sub(now.saturating_duration_since(found.since));
        if self.allowed == 0 || found.count < self.allowed || left.is_zero() {
            return Ok(());
        }
        let mut failure = Failure::new(FailureClass::Throttled, "too many failed tries");
        failure.retry_after_s = Some(u32::try_from(left.as_secs() + 1).unwrap_or(u32::MAX));
        Err(failure)
    }

    /// Counts a failure of `name`.
    pub(crate) fn failed(&self, name: &str, now: Instant) {
        let mut failures = self.failures.lock();
        let is_over = |f: &Failures| now.saturating_duration_since(f.since) >= WINDOW;
        if failures.len() >= NAMES_MAX {
            failures.retain(|_, failures| !is_over(failures));
        }
        if failures.len() >= NAMES_MAX {
            // Somebody tries many names once; those tried often stay counted.
            failures.retain(|_, failures| failures.count > 1);
        }
        let name = hash_of(name);
        let start = Failures { count: 0, since: now };
        if failures.len() >= NAMES_MAX && !failures.contains_key(&name) {
            return;
        }
        let entry = failures.entry(name).or_insert(start);
        if is_over(entry) {
            *entry = start;
        }
        entry.count = entry.count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_a_minute_and_then_a_wait() {
        let tries = Tries::new(5);
        let start = Instant::now();
        for _ in 0..5 {
            tries.check("a", start).expect("still allowed");
            tries.failed("a", start);
        }
        let refused = tries.check("a", start).expect_err("the sixth");
        assert_eq!((refused.class, refused.retry_after_s), (FailureClass::Throttled, Some(61)));
        tries.check("b", start).expect("another name");
        let later = start + Duration::from_secs(59);
        assert_eq!(tries.check("a", later).expect_err("not yet").retry_after_s, Some(2));
        tries.check("a", start + WINDOW).expect("the minute is over");
        tries.failed("a", start + WINDOW);
        tries.check("a", start + WINDOW).expect("and counts from one again");
    }

    #[test]
    fn many_names_cost_no_more_than_the_bound_and_free_nobody() {
        let tries = Tries::new(2);
        let now = Instant::now();
        tries.failed("guessed", now);
        tries.failed("guessed", now);
        for i in 0..NAMES_MAX + 10 {
            tries.failed(&i.to_string(), now);
        }
        assert!(tries.failures.lock().len() <= NAMES_MAX);
        tries.check("guessed", now).expect_err("still counted");
    }
}
