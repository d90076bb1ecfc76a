//! How much an organization may ask for: a token bucket each, refilled steadily.

use crate::api::failure::{Failure, FailureClass};
use crate::model::OrganizationId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Organizations remembered at once; full buckets are forgotten first.
const BUCKETS_MAX: usize = 100_000;
/// A bucket holds this much of its rate.
const BURST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// The buckets of all organizations.
#[derive(Debug)]
pub struct SendLimit {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<OrganizationId, Bucket>>,
}

impl SendLimit {
    /// `count` notifications in each `per`, and at once as many as two seconds of that.
    #[must_use]
    pub fn new(count: u64, per: Duration) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
        let per_second = count as f64 / per.as_secs_f64().max(0.001);
        let burst = (per_second * BURST.as_secs_f64()).max(1.0);
        Self { per_second, burst, buckets: Mutex::default() }
    }

    /// `count` in each `per`, all of them at once if the caller likes: what a documented number of
    /// requests a minute promises.
    #[must_use]
    pub fn whole(count: u64, per: Duration) -> Self {
        let steady = Self::new(count, per);
        #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
        let burst = (count as f64).max(1.0);
        Self { burst, ..steady }
    }

    /// Takes one of what is counted, or says when to come back.
    pub(crate) fn take(&self, org: OrganizationId, now: Instant) -> Result<(), Failure> {
        self.take_with(org, now, rand::random())
    }

    /// As `take`, with a random number from 0 to 1 that spreads those who are told to come back.
    fn take_with(&self, org: OrganizationId, now: Instant, draw: f64) -> Result<(), Failure> {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&org) {
            buckets.retain(|_, bucket| {
                let idle = now.saturating_duration_since(bucket.at).as_secs_f64();
                bucket.tokens + idle * self.per_second < self.burst
            });
        }
        let bucket = buckets.entry(org).or_insert(Bucket { tokens: self.burst, at: now });
        let idle = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + idle * self.per_second).min(self.burst);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - bucket.tokens) / self.per_second;
        let text = "the organization sends faster than its limit";
        let mut failure = Failure::new(FailureClass::Throttled, text);
        failure.retry_after_s = Some(seconds_up(wait, draw));
        Err(failure)
    }
}

/// The wait in whole seconds and up to a fifth more, so that not all come back at once.
fn seconds_up(wait: f64, draw: f64) -> u32 {
    let wait = wait.clamp(0.001, 86_400.0).ceil() * (1.0 + 0.2 * draw.clamp(0.0, 1.0));
    u32::try_from(Duration::from_secs_f64(wait).as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_refills_and_belongs_to_one_organization() {
        let limit = SendLimit::new(10, Duration::from_secs(1));
        let start = Instant::now();
        let (one, other) = (OrganizationId(1), OrganizationId(2));
        for _ in 0..20 {
            limit.take(one, start).expect("within the burst");
        }
        let refused = limit.take(one, start).expect_err("the bucket is empty");
        assert_eq!((refused.class, refused.retry_after_s), (FailureClass::Throttled, Some(1)));
        limit.take(other, start).expect("another organization's bucket is full");
        limit.take(one, start + Duration::from_millis(150)).expect("refilled by one");
        limit.take(one, start + Duration::from_millis(150)).expect_err("and no more");
    }

    #[test]
    fn a_whole_minute_may_come_at_once() {
        let limit = SendLimit::whole(100, Duration::from_mins(1));
        let (start, one) = (Instant::now(), OrganizationId(1));
        for _ in 0..100 {
            limit.take(one, start).expect("within the minute's number");
        }
        limit.take(one, start).expect_err("one more");
        limit.take(one, start + Duration::from_millis(700)).expect("refilled by one");
    }

    #[test]
    fn slow_rates_say_how_long_to_wait() {
        let limit = SendLimit::new(1, Duration::from_mins(1));
        let start = Instant::now();
        limit.take(OrganizationId(1), start).expect("first");
        let wait = |draw| {
            let refused = limit.take_with(OrganizationId(1), start, draw).expect_err("empty");
            refused.retry_after_s
        };
        assert_eq!((wait(0.0), wait(0.5), wait(1.0)), (Some(60), Some(66), Some(72)));
    }
}
