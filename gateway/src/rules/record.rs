//! The decision record: one line of JSON for audit, capture, replay and tests.

use crate::model::Millis;
use crate::rules::at::At;
use crate::rules::hooks::{Answer, Decision, Hook};
use crate::rules::input::{Input, PlanText};
use crate::rules::limits::Breach;
use crate::rules::patch::{Edit, apply};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a rule decided about one item, as far as it counts when two are compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decided {
    /// As in `RuleDecision::decision`.
    pub decision: String,
    pub code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Until when it is held, or when the digest goes out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    /// The digest's key and its most items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_after: Option<PlanText>,
    /// The payload after a patch or replacement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_after: Option<Value>,
}

/// What the version in force decided, where a record is that of its shadow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    pub decision: String,
    pub code: String,
}

/// Version 1 of the record. Members may be added to it; none changes its meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    pub v: u8,
    pub ts: At,
    /// The notification's id; of a request its own, or empty.
    pub id: String,
    /// Number of the item in its batch.
    pub item: u32,
    pub org: String,
    pub hook: Hook,
    pub rule: String,
    pub version: String,
    /// `sha256:` and lower-case hex.
    pub digest: String,
    pub stage: String,
    #[serde(flatten)]
    pub decided: Decided,
    /// Of the item's even share of its batch.
    pub fuel: u64,
    pub us: u32,
    /// Items asked together.
    pub batch: u32,
    /// Share of such decisions that are recorded.
    pub sampled: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_before: Option<PlanText>,
    /// Of a shadow: what the version in force decided about the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<InForce>,
    /// Only in captures: the call it was asked in. Those of one call are asked again together, on what
    /// its first record says was counted and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// JSON pointers into `input` that were masked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked: Vec<String>,
    /// Only in captures: everything the rule saw, so that it can be asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
}

impl Decided {
    /// The words for a rule that its `[match]` leaves out.
    #[must_use]
    pub fn skipped() -> Self {
        Self { decision: "skipped".into(), code: "no_match".into(), ..Self::default() }
    }

    /// The words for `answer`; `payload` is what a transform rule was shown.
    #[must_use]
    pub fn of(answer: Option<&Result<Answer, Breach>>, payload: Option<&str>) -> Self {
        let answer = match answer {
            None => return Self::skipped(),
            Some(Err(breach)) => {
                return Self {
                    decision: "error".into(),
                    code: breach.kind.as_str().into(),
                    detail: Some(breach.text.clone()),
                    ..Self::default()
                };
            }
            Some(Ok(answer)) => answer,
        };
        let mut decided = Self {
            decision: answer.decision.as_str().to_owned(),
            code: answer.code.clone(),
            detail: answer.detail.clone(),
            ..Self::default()
        };
        match &answer.decision {
            Decision::Deliver(plan) => decided.plan_after = Some(PlanText::of(plan)),
            Decision::HoldUntil(at) => decided.at = Some(At(*at)),
            Decision::Digest(digest) => {
                decided.at = Some(At(digest.flush_at));
                decided.key = Some(digest.key.clone());
                decided.max_items = Some(digest.max_items);
            }
            Decision::Patch(edits) => decided.payload_after = patched(payload, edits),
            Decision::Replace(json) => decided.payload_after = serde_json::from_str(json).ok(),
            Decision::Abstain
            | Decision::Allow
            | Decision::Deny
            | Decision::Drop
            | Decision::Keep => {}
        }
        decided
    }

    /// `deliver routed`: what people compare first.
    #[must_use]
    pub fn words(&self) -> String {
        format!("{} {}", self.decision, self.code)
    }
}

fn patched(payload: Option<&str>, edits: &[Edit]) -> Option<Value> {
    let after = apply(payload?, edits).ok()?;
    serde_json::from_str(&after).ok()
}

impl DecisionRecord {
    pub const VERSION: u8 = 1;

    /// A record of `now` with everything that is not known left plain.
    #[must_use]
    pub fn new(now: Millis, hook: Hook, decided: Decided) -> Self {
        Self {
            v: Self::VERSION,
            ts: At(now),
            id: String::new(),
            item: 0,
            org: String::new(),
            hook,
            rule: String::new(),
            version: String::new(),
            digest: String::new(),
            stage: String::from("active"),
            decided,
            fuel: 0,
            us: 0,
            batch: 1,
            sampled: 1.0,
            plan_before: None,
            active: None,
            call: None,
            masked: Vec::new(),
            input: None,
        }
    }
}
