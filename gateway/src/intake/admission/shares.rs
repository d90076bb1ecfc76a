//! Who brought how many bytes in the last second, organization by organization.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::OrganizationId;

const SECOND: Duration = Duration::from_secs(1);
/// Organizations told apart in one second; those beyond are held to be at their fair share.
const ORGANIZATIONS_MAX: usize = 16_384;

/// Bytes by organization, over a second that slides: the last full one counts less and less.
#[derive(Debug)]
pub(super) struct Shares {
    started: Instant,
    current: Second,
    previous: Second,
    /// Organizations in either second.
    active: usize,
}

#[derive(Debug, Default)]
struct Second {
    bytes: HashMap<OrganizationId, u64>,
    total: u64,
}

impl Second {
    fn of(&self, org: OrganizationId) -> u64 {
        self.bytes.get(&org).copied().unwrap_or(0)
    }
}

impl Shares {
    pub(super) fn new(now: Instant) -> Self {
        let (current, previous) = (Second::default(), Second::default());
        Self { started: now, current, previous, active: 0 }
    }

    /// Counts `bytes` of `org`.
    pub(super) fn add(&mut self, org: OrganizationId, bytes: u64, now: Instant) {
        self.roll(now);
        let is_known = self.current.bytes.contains_key(&org);
        if !is_known && self.current.bytes.len() >= ORGANIZATIONS_MAX {
            return;
        }
        *self.current.bytes.entry(org).or_insert(0) += bytes;
        self.current.total += bytes;
        self.active += usize::from(!is_known && !self.previous.bytes.contains_key(&org));
    }

    /// The share of `org` divided by the fair share, which is one of as many as there are. One
    /// is fair; an organization that brought nothing has 0.
    pub(super) fn ratio(&mut self, org: OrganizationId, now: Instant) -> f64 {
        self.roll(now);
        #[expect(clippy::cast_precision_loss, reason = "at most 2 * 16,384")]
        let active = self.active.max(1) as f64;
        self.share(self.current.of(org), self.previous.of(org), now) * active
    }

    /// The `count` largest shares, largest first.
    pub(super) fn largest(&mut self, count: usize, now: Instant) -> Vec<f64> {
        self.roll(now);
        let both =
            self.current.bytes.keys().chain(
                self.previous.bytes.keys().filter(|org| !self.current.bytes.contains_key(org)),
            );
        let share =
            |org: &OrganizationId| self.share(self.current.of(*org), self.previous.of(*org), now);
        let mut shares: Vec<f64> = both.map(share).collect();
        shares.sort_unstable_by(|a, b| b.total_cmp(a));
        shares.truncate(count);
        shares
    }

    fn share(&self, current: u64, previous: u64, now: Instant) -> f64 {
        let gone = now.saturating_duration_since(self.started).as_secs_f64().min(1.0);
        #[expect(clippy::cast_precision_loss, reason = "bytes of two seconds are far below 2^52")]
        let weighed = |current: u64, previous: u64| current as f64 + previous as f64 * (1.0 - gone);
        let total = weighed(self.current.total, self.previous.total);
        if total > 0.0 { weighed(current, previous) / total } else { 0.0 }
    }

    fn roll(&mut self, now: Instant) {
        let gone = now.saturating_duration_since(self.started);
        if gone < SECOND {
            return;
        }
        self.previous = std::mem::take(&mut self.current);
        self.started += SECOND;
        if gone >= 2 * SECOND {
            self.previous = Second::default();
            self.started = now;
        }
        self.active = self.previous.bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: OrganizationId = OrganizationId(1);
    const COLD: OrganizationId = OrganizationId(2);
    const NEW: OrganizationId = OrganizationId(3);

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn a_ratio_is_the_share_over_the_fair_share() {
        let start = Instant::now();
        let mut shares = Shares::new(start);
        assert!(near(shares.ratio(HOT, start), 0.0));
        shares.add(HOT, 300, start);
        assert!(near(shares.ratio(HOT, start), 1.0), "alone is fair");
        shares.add(COLD, 100, start);
        assert!(near(shares.ratio(HOT, start), 1.5));
        assert!(near(shares.ratio(COLD, start), 0.5));
        assert!(near(shares.ratio(NEW, start), 0.0));
    }

    #[test]
    fn the_last_second_fades_and_is_forgotten() {
        let start = Instant::now();
        let mut shares = Shares::new(start);
        shares.add(HOT, 800, start);
        let later = start + Duration::from_millis(1_500);
        shares.add(COLD, 400, later);
        // Half of the last second is left: 400 of 800 each, among two.
        assert!(near(shares.ratio(HOT, later), 1.0));
        assert!(near(shares.ratio(COLD, later), 1.0));
        let much_later = start + Duration::from_secs(9);
        assert!(near(shares.ratio(COLD, much_later), 0.0));
        shares.add(NEW, 1, much_later);
        assert!(near(shares.ratio(NEW, much_later), 1.0));
        assert_eq!(shares.largest(5, much_later).len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_who_is_beyond_counts_as_fair() {
        let start = Instant::now();
        let mut shares = Shares::new(start);
        for org in 0..40_000 {
            shares.add(OrganizationId(org), 10, start);
        }
        assert_eq!(shares.current.bytes.len(), ORGANIZATIONS_MAX);
        assert!(shares.ratio(OrganizationId(39_999), start) <= 1.0);
        assert!(near(shares.ratio(OrganizationId(0), start), 1.0));
    }
}
