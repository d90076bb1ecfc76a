//! What an organization's part of the log adds up to.

use crate::model::FinalState;
use serde_json::{Map, Value, json};

/// Counts of one organization, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Notifications accepted in the log that is there, and in what retention dropped.
    pub accepted: u64,
    pub accepted_before: u64,
    /// Deliveries announced, in the log that is there.
    pub expanded: u64,
    /// Deliveries of entries that retention dropped, settled in the log that is there.
    pub inherited: u64,
    /// By present state, in the order of `FinalState::ALL`; negative where the end itself was
    /// dropped and the replay was not.
    pub finals: [i64; 6],
    pub finals_before: [i64; 6],
    /// Deliveries without an end yet, of entries that have begun.
    pub pending: u64,
    pub reopened: u64,
    pub discarded: u64,
}

impl Account {
    pub(super) fn end(&mut self, state: FinalState, by: i64) {
        if let Some(count) = self.finals.get_mut(state as usize) {
            *count += by;
        }
    }

    /// Deliveries that ended, and are there to be counted.
    #[must_use]
    pub fn ended(&self) -> i64 {
        self.finals.iter().sum()
    }

    /// True if everything announced has ended or is still pending.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let due = i64::try_from(self.expanded + self.inherited).unwrap_or(i64::MAX);
        due == self.ended() + i64::try_from(self.pending).unwrap_or(i64::MAX)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.accepted_before += other.accepted_before;
        self.expanded += other.expanded;
        self.inherited += other.inherited;
        self.pending += other.pending;
        self.reopened += other.reopened;
        self.discarded += other.discarded;
        for (to, from) in self.finals.iter_mut().zip(other.finals) {
            *to += from;
        }
        for (to, from) in self.finals_before.iter_mut().zip(other.finals_before) {
            *to += from;
        }
    }

    pub(super) fn to_json(self) -> Value {
        let states = |counts: [i64; 6]| -> Map<String, Value> {
            let named = FinalState::ALL.iter().zip(counts);
            named.map(|(state, count)| (state.as_str().to_owned(), count.into())).collect()
        };
        json!({
            "accepted": self.accepted,
            "expanded": self.expanded,
            "inherited": self.inherited,
            "ended": states(self.finals),
            "pending": self.pending,
            "replayed": self.reopened,
            "discarded": self.discarded,
            "dropped": { "accepted": self.accepted_before, "ended": states(self.finals_before) },
        })
    }
}
