//! Constructors for a rule's answer. The code is a stable machine word: a-z, 0-9, `_`, at most 64 bytes.

use crate::bindings::bugler::rules::types::{Plan, Reason};
use crate::bindings::exports::bugler::rules::router::{Decision, Routed};

/// Keeps the plan as it is.
#[must_use]
pub fn abstain(code: &str) -> Routed {
    answer(Decision::Abstain, code)
}

/// Replaces the plan. It must name at least one target; to send nothing, answer [`drop_`].
#[must_use]
pub fn deliver(plan: Plan, code: &str) -> Routed {
    answer(Decision::Deliver(plan), code)
}

/// Asks again at `until` (milliseconds since the Unix epoch), which must lie in the future.
#[must_use]
pub fn hold(until: u64, code: &str) -> Routed {
    answer(Decision::HoldUntil(until), code)
}

/// Sends nothing, for good.
#[must_use]
pub fn drop_(code: &str) -> Routed {
    answer(Decision::Drop, code)
}

impl Routed {
    /// Adds free text for people, at most 256 bytes.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        self.why.detail = Some(text.into());
        self
    }
}

fn answer(decision: Decision, code: &str) -> Routed {
    Routed { decision, why: Reason { code: code.to_owned(), detail: None } }
}
