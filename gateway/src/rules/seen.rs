//! What a call of a rule found counted and kept, so that a replay can ask it the same again.

use crate::rules::state::{Counter, Key, Own, Value};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Counters and values as one call of a rule found them. What is not in it was not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seen {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    windows: Vec<SeenWindow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    buckets: Vec<SeenBucket>,
    /// Values as base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    values: BTreeMap<String, String>,
}

/// The window with this number, and the count of it and of the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenWindow {
    key: String,
    window_ms: u32,
    number: u64,
    now: u64,
    before: u64,
}

/// Millionths of tokens missing at an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenBucket {
    key: String,
    missing: u64,
    at: u64,
}

/// Every counter and value that a call looked up and that was there before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) counters: HashMap<Key, Counter>,
    pub(super) values: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    pub(super) fn of(found: &Found) -> Self {
        let mut seen = Self::default();
        for (key, counter) in &found.counters {
            let Key { name: key, window_ms } = key.clone();
            match *counter {
                Counter::Window { number, now, before } => {
                    seen.windows.push(SeenWindow { key, window_ms, number, now, before });
                }
                Counter::Bucket { missing, at, .. } => {
                    seen.buckets.push(SeenBucket { key, missing, at });
                }
            }
        }
        seen.windows.sort_by_cached_key(|one| (one.key.clone(), one.window_ms));
        seen.buckets.sort_by_cached_key(|one| one.key.clone());
        let text = |(name, bytes): (&String, &Vec<u8>)| (name.clone(), STANDARD.encode(bytes));
        seen.values = found.values.iter().map(text).collect();
        seen
    }

    /// As it was, for as long as a question takes. Values that are no base64 are left out.
    pub(super) fn own(&self) -> Own {
        let mut own = Own::default();
        for SeenWindow { key, window_ms, number, now, before } in self.windows.clone() {
            let counter = Counter::Window { number, now, before };
            own.counters.insert(Key { name: key, window_ms }, counter);
        }
        for SeenBucket { key, missing, at } in self.buckets.clone() {
            let counter = Counter::Bucket { missing, at, until: u64::MAX };
            own.counters.insert(Key { name: key, window_ms: 0 }, counter);
        }
        for (name, text) in &self.values {
            if let Ok(bytes) = STANDARD.decode(text) {
                own.values.insert(name.clone(), Value { bytes, until: u64::MAX });
            }
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::state::{Effects, RuleState, State};
    use std::sync::Arc;

    const MINUTE: u32 = 60_000;

    fn call(state: &Arc<RuleState>, org: &str, now: u64) -> Effects {
        Effects::new(Arc::clone(state), org.into(), now, 10)
    }

    #[test]
    fn what_a_call_found_can_be_found_again() {
        let state = Arc::new(RuleState::default());
        let mut earlier = call(&state, "1", 30_000);
        earlier.add("k", 60, MINUTE).unwrap();
        assert_eq!(earlier.take("b", (1, MINUTE, 1)), Ok(true));
        earlier.set("v", vec![0, 255], MINUTE).unwrap();
        earlier.commit();
        let ask = |state: &Arc<RuleState>| {
            let mut one = call(state, "1", 80_000).noting(true);
            let said = (one.peek("k", MINUTE), one.add("k", 1, MINUTE), one.add("new", 1, MINUTE));
            let said = (said, one.take("b", (1, MINUTE, 1)), one.get("v"), one.get("none"));
            (said, *one.seen().unwrap())
        };
        let (said, seen) = ask(&state);
        assert_eq!(said.0, (Ok(40), Ok(41), Ok(1)));
        let text = serde_json::to_string(&seen).unwrap();
        let seen_again: Seen = serde_json::from_str(&text).unwrap();
        assert_eq!(seen_again, seen);
        let before = State { seen: seen_again, ..State::default() };
        let again = Arc::new(RuleState::starting_with(before, "1"));
        assert_eq!(ask(&again), (said, seen));
        assert_eq!(call(&state, "1", 80_000).seen(), None, "nobody wanted it");
    }
}
