//! How much of one organization may wait in the journal, and when to come back beyond that.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::journal::Backlog;
use crate::model::OrganizationId;

/// Organizations at their quota remembered at once. Those beyond are refused all the same, only
/// later: once their request was read.
const FULL_MAX: usize = 4_096;
/// A drain measured over less is noise.
const MEASURE_MIN: Duration = Duration::from_secs(1);
/// A backlog that long at its quota may drain at another pace now.
const MEASURE_MAX: Duration = Duration::from_secs(30);
/// An organization not heard of for so long is told what it may once it comes back.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// What is said as long as the pace of the drain is not known, and at most.
const WAIT_UNKNOWN_S: f64 = 5.0;
const WAIT_MAX_S: f64 = 300.0;

/// How much of one organization may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogQuota {
    /// Entries not yet done, timers included; 0 is no limit.
    pub entries: u64,
    /// Their bytes; 0 is no limit.
    pub bytes: u64,
}

impl Default for BacklogQuota {
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: 1 << 30 }
    }
}

impl BacklogQuota {
    /// How many of entries of these sizes there is room for besides `backlog`.
    pub(super) fn fitting(&self, backlog: Backlog, sizes: impl Iterator<Item = u64>) -> usize {
        let mut more = Backlog::default();
        sizes
            .take_while(|bytes| {
                more.pending += 1;
                more.bytes = more.bytes.saturating_add(*bytes);
                self.excess(backlog, more).is_none()
            })
            .count()
    }

    /// What is too much of `backlog` with `more` added: as a share of the quota and, in the unit
    /// of the quota that is broken, as a number.
    fn excess(&self, backlog: Backlog, more: Backlog) -> Option<u64> {
        let over = |quota: u64, now: u64, more: u64| {
            let excess = now.saturating_add(more).saturating_sub(quota);
            (quota > 0 && excess > 0).then_some(excess)
        };
        let entries = over(self.entries, backlog.pending, more.pending);
        // Entries go one by one: what bytes are too much is that many entries of average size.
        let average = (backlog.bytes / backlog.pending.max(1)).max(1);
        let bytes =
            over(self.bytes, backlog.bytes, more.bytes).map(|bytes| bytes.div_ceil(average));
        entries.max(bytes)
    }
}

/// The organizations that are at their quota.
#[derive(Debug, Default)]
pub(super) struct Full {
    since: HashMap<OrganizationId, Seen>,
}

/// A backlog at its quota.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    pending: u64,
    /// Entries done per second, once measured.
    pace: Option<f64>,
}

impl Full {
    pub(super) fn len(&self) -> usize {
        self.since.len()
    }

    pub(super) fn has(&self, org: OrganizationId) -> bool {
        self.since.contains_key(&org)
    }

    /// Forgets who did not ask for long: while anybody is known here, every request is screened.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        self.since.retain(|_, seen| now.saturating_duration_since(seen.at) < IDLE_MAX);
    }

    /// Whether `more` of `org` may come in; else the seconds after which there is room, as far as
    /// the pace of the drain tells, and up to a fifth more by `draw` from 0 to 1.
    pub(super) fn check(
        &mut self,
        quota: BacklogQuota,
        org: OrganizationId,
        (backlog, more): (Backlog, Backlog),
        (now, draw): (Instant, f64),
    ) -> Result<(), u32> {
        let Some(excess) = quota.excess(backlog, more) else {
            self.since.remove(&org);
            return Ok(());
        };
        let pending = backlog.pending;
        let fresh = Seen { at: now, pending, pace: None };
        let pace = match self.since.get_mut(&org) {
            None => {
                if self.since.len() < FULL_MAX {
                    self.since.insert(org, fresh);
                }
                None
            }
            Some(seen) => {
                let gone = now.saturating_duration_since(seen.at);
                if gone >= MEASURE_MIN {
                    #[expect(clippy::cast_precision_loss, reason = "entries are below 2^52")]
                    let done = seen.pending.saturating_sub(pending) as f64;
                    seen.pace = Some(done / gone.as_secs_f64()).filter(|pace| *pace > 0.0);
                }
                let pace = seen.pace;
                if gone >= MEASURE_MAX {
                    *seen = Seen { pace, ..fresh };
                }
                pace
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "entries are below 2^52")]
        let wait = pace.map_or(WAIT_UNKNOWN_S, |pace| excess as f64 / pace);
        Err(seconds(wait, draw))
    }
}

/// `wait` and up to a fifth of it, in whole seconds.
fn seconds(wait: f64, draw: f64) -> u32 {
    let wait = wait.clamp(0.0, WAIT_MAX_S).ceil().max(1.0);
    let whole = Duration::from_secs_f64(wait * (1.0 + 0.2 * draw.clamp(0.0, 1.0))).as_secs();
    u32::try_from(whole).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: OrganizationId = OrganizationId(1);
    const QUOTA: BacklogQuota = BacklogQuota { entries: 100, bytes: 10_000 };

    fn backlog(pending: u64, bytes: u64) -> Backlog {
        Backlog { pending, bytes, ..Backlog::default() }
    }

    fn check(full: &mut Full, now: Instant, pending: u64, bytes: u64) -> Result<(), u32> {
        full.check(QUOTA, ORG, (backlog(pending, bytes), backlog(1, 100)), (now, 0.0))
    }

    #[test]
    fn the_quota_holds_for_entries_and_for_bytes() {
        let (mut full, now) = (Full::default(), Instant::now());
        assert_eq!(check(&mut full, now, 99, 9_900), Ok(()));
        assert!(check(&mut full, now, 100, 0).is_err());
        assert!(check(&mut full, now, 0, 9_901).is_err());
        assert!(full.has(ORG));
        assert_eq!(check(&mut full, now, 50, 5_000), Ok(()));
        assert!(!full.has(ORG), "room makes the organization forgotten");
        let none = BacklogQuota { entries: 0, bytes: 0 };
        let all = (backlog(u64::MAX, u64::MAX), backlog(1, 1));
        assert_eq!(full.check(none, ORG, all, (now, 0.0)), Ok(()));
    }

    #[test]
    fn what_is_said_follows_the_pace_of_the_drain() {
        let (mut full, start) = (Full::default(), Instant::now());
        assert_eq!(check(&mut full, start, 150, 0), Err(5), "not known yet");
        let later = start + Duration::from_secs(2);
        // 20 of 150 went in two seconds; 31 must go before one more has room.
        assert_eq!(check(&mut full, later, 130, 0), Err(4));
        let stuck = start + Duration::from_secs(100);
        assert_eq!(check(&mut full, stuck, 150, 0), Err(5), "a backlog that stands says nothing");
    }

    #[test]
    fn who_met_the_quota_and_went_silent_is_forgotten() {
        let (mut full, start) = (Full::default(), Instant::now());
        assert!(check(&mut full, start, 100, 0).is_err());
        full.forget_idle(start + IDLE_MAX.checked_sub(Duration::from_millis(1)).unwrap());
        assert!(full.has(ORG));
        // Who asks again and again is remembered, with the pace of its drain.
        let asking = start + MEASURE_MAX;
        assert!(check(&mut full, asking, 100, 0).is_err());
        full.forget_idle(start + IDLE_MAX);
        assert!(full.has(ORG));
        full.forget_idle(asking + IDLE_MAX);
        assert_eq!(full.len(), 0);
    }

    #[test]
    fn what_fits_is_the_longest_start_within_the_quota() {
        let sizes = || [10, 20, 30].into_iter();
        assert_eq!(QUOTA.fitting(backlog(0, 0), sizes()), 3);
        assert_eq!(QUOTA.fitting(backlog(98, 0), sizes()), 2);
        assert_eq!(QUOTA.fitting(backlog(0, 9_970), sizes()), 2);
        assert_eq!(QUOTA.fitting(backlog(100, 0), sizes()), 0);
        let none = BacklogQuota { entries: 0, bytes: 0 };
        assert_eq!(none.fitting(backlog(u64::MAX, u64::MAX), sizes()), 3);
    }

    #[test]
    fn callers_are_spread_and_never_sent_away_for_long() {
        assert_eq!((seconds(10.0, 0.0), seconds(10.0, 1.0)), (10, 12));
        assert_eq!((seconds(0.0, 0.0), seconds(1e9, 0.0)), (1, 300));
    }
}
