//! Constructors for a rule's answer. The code is a stable machine word: a-z, 0-9, `_`, at most 64 bytes.

use crate::bindings::authorizer;
use crate::bindings::bugler::rules::types::{Plan, Reason};
use crate::bindings::router::{self, Decision, Routed};
use crate::bindings::transformer::{self, Edit, Transformed};

/// Answer of an authorize rule.
pub type Authorized = authorizer::Decision;

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

/// Collects this recipient's items under `key`; they go out as one at `flush_at` (milliseconds since
/// the Unix epoch), or once there are `max_items`.
#[must_use]
pub fn digest(key: &str, flush_at: u64, max_items: u16, code: &str) -> Routed {
    let digest = router::Digest { key: key.to_owned(), flush_at, max_items };
    answer(Decision::Digest(digest), code)
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

/// Says yes, unless another rule says no. Lifts a baseline deny only with `may_grant`.
#[must_use]
pub fn allow(code: &str) -> Authorized {
    Authorized::Allow(reason(code))
}

/// Says no; nothing overrides it.
#[must_use]
pub fn deny(code: &str) -> Authorized {
    Authorized::Deny(reason(code))
}

/// Leaves the decision to the other rules and the built-in check.
#[must_use]
pub fn no_opinion() -> Authorized {
    Authorized::Abstain
}

impl Authorized {
    /// Adds free text for people, at most 256 bytes.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        if let Self::Allow(why) | Self::Deny(why) = &mut self {
            why.detail = Some(text.into());
        }
        self
    }
}

/// Leaves the payload as it is.
#[must_use]
pub fn keep() -> Transformed {
    Transformed { decision: transformer::Decision::Keep, why: None }
}

/// Changes parts of the payload, in this order.
#[must_use]
pub fn patch(edits: Vec<Edit>, code: &str) -> Transformed {
    transformed(transformer::Decision::Patch(edits), code)
}

/// Replaces the payload; `json` is an object with the members the item's payload has.
#[must_use]
pub fn replace(json: String, code: &str) -> Transformed {
    transformed(transformer::Decision::Replace(json), code)
}

/// Does not send this payload on this channel.
#[must_use]
pub fn drop_payload(code: &str) -> Transformed {
    transformed(transformer::Decision::Drop, code)
}

/// Sets what `pointer` (RFC 6901) names to `json`.
#[must_use]
pub fn set(pointer: &str, json: impl Into<String>) -> Edit {
    Edit { pointer: pointer.to_owned(), value_json: Some(json.into()) }
}

/// Removes what `pointer` (RFC 6901) names.
#[must_use]
pub fn remove(pointer: &str) -> Edit {
    Edit { pointer: pointer.to_owned(), value_json: None }
}

impl Transformed {
    /// Adds free text for people, at most 256 bytes; nothing where there is no code.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        if let Some(why) = &mut self.why {
            why.detail = Some(text.into());
        }
        self
    }
}

fn answer(decision: Decision, code: &str) -> Routed {
    Routed { decision, why: reason(code) }
}

fn transformed(decision: transformer::Decision, code: &str) -> Transformed {
    Transformed { decision, why: Some(reason(code)) }
}

fn reason(code: &str) -> Reason {
    Reason { code: code.to_owned(), detail: None }
}
