//! A breaker for each rule and organization: what breaks a rule in the same way again and again is not tried for a while.

use crate::model::Millis;
use crate::rules::limits::Breach;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// So many different items with the same fingerprint within so long open it for so long.
const ITEMS: usize = 3;
const WITHIN_MS: u64 = 60_000;
const OPEN_MS: u64 = 60_000;
/// Breaches remembered for one organization, and organizations remembered.
const REMEMBERED: usize = 32;
const ORGS_MAX: usize = 10_000;

/// Organizations do not see each other's breaches: one cannot break a rule for another.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    orgs: Mutex<HashMap<String, Own>>,
}

#[derive(Debug, Default)]
struct Own {
    recent: VecDeque<Poison>,
    open_until: u64,
}

#[derive(Debug)]
struct Poison {
    at: u64,
    fingerprint: u64,
    item: u64,
}

/// An item that broke a rule.
pub(super) struct Trip<'a> {
    pub(super) org: &'a str,
    pub(super) item: u64,
    pub(super) breach: &'a Breach,
}

impl Breaker {
    pub(super) fn is_open(&self, org: &str, now: Millis) -> bool {
        let orgs = self.orgs.lock();
        orgs.get(org).is_some_and(|own| now.0 < own.open_until)
    }

    /// Notes a breach; true if this one opened the breaker.
    pub(super) fn note(&self, trip: Trip<'_>, now: Millis) -> bool {
        let mut orgs = self.orgs.lock();
        if orgs.len() >= ORGS_MAX && !orgs.contains_key(trip.org) {
            orgs.retain(|_, own| now.0 < own.open_until);
        }
        let own = orgs.entry(trip.org.to_owned()).or_default();
        own.recent.retain(|poison| now.0.saturating_sub(poison.at) < WITHIN_MS);
        let fingerprint = hash(&(trip.breach.kind, &trip.breach.text));
        let is_same = |p: &&Poison| p.fingerprint == fingerprint && p.item == trip.item;
        if own.recent.iter().any(|poison| is_same(&poison)) {
            return false;
        }
        if own.recent.len() >= REMEMBERED {
            own.recent.pop_front();
        }
        own.recent.push_back(Poison { at: now.0, fingerprint, item: trip.item });
        let alike = own.recent.iter().filter(|p| p.fingerprint == fingerprint).count();
        let opens = alike >= ITEMS && now.0 >= own.open_until;
        if opens {
            own.open_until = now.0.saturating_add(OPEN_MS);
        }
        opens
    }
}

pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(breaker: &Breaker, org: &str, item: u64, text: &str, at: u64) -> bool {
        let breach = Breach::output(text);
        breaker.note(Trip { org, item, breach: &breach }, Millis(at))
    }

    #[test]
    fn three_items_that_break_a_rule_alike_open_it_for_their_organization() {
        let breaker = Breaker::default();
        assert!(!note(&breaker, "1", 1, "x", 0));
        assert!(!note(&breaker, "1", 1, "x", 1), "the same item again");
        assert!(!note(&breaker, "1", 2, "y", 2), "another way");
        assert!(!note(&breaker, "1", 3, "x", 3));
        assert!(!breaker.is_open("1", Millis(3)));
        assert!(note(&breaker, "1", 4, "x", 4));
        assert!(breaker.is_open("1", Millis(60_003)) && !breaker.is_open("2", Millis(4)));
        assert!(!breaker.is_open("1", Millis(60_004)));
    }

    #[test]
    fn what_is_a_minute_old_does_not_count() {
        let breaker = Breaker::default();
        assert!(!note(&breaker, "1", 1, "x", 0) && !note(&breaker, "1", 2, "x", 30_000));
        assert!(!note(&breaker, "1", 3, "x", 60_000));
        assert!(note(&breaker, "1", 4, "x", 60_001));
    }
}
