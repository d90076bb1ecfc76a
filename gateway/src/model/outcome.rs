//! How tries end and how deliveries end.

use super::{DeliveryId, Millis, Overrides, TargetRef, UserId, Word};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What one try came to. `cause` words are stable: metric label, timeline and dead-letter group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// Try again: after the provider's own wait if it named one, else by the retry policy.
    Retry {
        after: Option<Duration>,
        cause: &'static str,
    },
    /// The request left and no answer came: the receiver may have it.
    Unknown {
        cause: &'static str,
    },
    /// The target no longer exists: remove the device or disable the subscription.
    Gone {
        cause: &'static str,
    },
    /// The provider refuses this delivery for good.
    Rejected {
        cause: &'static str,
    },
    /// A transform rule drops it: nothing was sent, and nothing will be.
    Withheld {
        cause: &'static str,
    },
    /// Our credential or configuration is wrong: wait long, nothing is the target's fault.
    Hold {
        cause: &'static str,
    },
}

/// One try as a provider reports it.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub outcome: Outcome,
    /// HTTP status or SMTP reply code, when an answer came.
    pub status: Option<u16>,
    /// The provider's own word for it (APNs `reason`, FCM `errorCode`, …), at most 256 bytes.
    pub reason: Option<String>,
    /// The provider's id of the message.
    pub provider_id: Option<String>,
    pub elapsed: Duration,
}

/// The one state a delivery ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinalState {
    Delivered,
    Rejected,
    Expired,
    Suppressed,
    Canceled,
    Dead,
}

impl FinalState {
    pub const ALL: [Self; 6] = [
        Self::Delivered,
        Self::Rejected,
        Self::Expired,
        Self::Suppressed,
        Self::Canceled,
        Self::Dead,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
            Self::Canceled => "canceled",
            Self::Dead => "dead",
        }
    }
}

/// One answer of one rule about one recipient, as the timeline shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleDecision {
    /// `authorize`, `route` or `transform`.
    pub hook: Word,
    pub rule: Word,
    pub version: Word,
    /// SHA-256 of the component, lower-case hex; empty in what releases before rules had it wrote.
    pub digest: Word,
    /// `active` or `canary`.
    pub stage: Word,
    /// `allow`, `deny`, `abstain`, `deliver`, `hold-until`, `digest`, `drop`, `keep`, `patch`, `replace`,
    /// `error` or `skipped`.
    pub decision: Word,
    /// The rule's stable machine word; for `error` the kind: `trap`, `deadline`, `fuel`, `memory`,
    /// `output`, `breaker`.
    pub code: String,
    pub detail: Option<String>,
    pub fuel: u64,
    pub micros: u32,
    /// Items the rule was asked about together.
    pub batch: u16,
}

/// A rule's answer as the first releases wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FirstDecision {
    pub rule: String,
    pub version: String,
    pub decision: String,
    pub code: String,
    pub detail: Option<String>,
    pub fuel: u64,
    pub micros: u32,
}

impl From<FirstDecision> for RuleDecision {
    fn from(first: FirstDecision) -> Self {
        let FirstDecision { rule, version, decision, code, detail, fuel, micros } = first;
        Self {
            hook: Word::from("route"),
            rule: rule.into(),
            version: version.into(),
            stage: Word::from("active"),
            decision: decision.into(),
            code,
            detail,
            fuel,
            micros,
            ..Self::default()
        }
    }
}

/// Which part of a notification's audience an expansion covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    Root,
    /// A later page of a long recipient list.
    Chunk,
    /// A recipient that a rule had held.
    Resumed,
    /// A later step of a rule's plan.
    Step,
}

/// One line of a notification's timeline, stored with the settlement that caused it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum TimelineEvent {
    /// Part of the audience resolved: how many deliveries that gave, who was not found or has no
    /// device, and whether a further chunk follows.
    Expanded {
        at: Millis,
        part: Part,
        deliveries: u32,
        unknown_recipients: u32,
        no_device: u32,
        more: bool,
    },
    /// What the first releases wrote for `Ruled`; read as that, and never written.
    #[serde(rename = "ruledBefore")]
    FirstRuled { at: Millis, recipient: String, decisions: Vec<FirstDecision> },
    /// One try; `state` is set when it was the last.
    Attempted {
        at: Millis,
        delivery: DeliveryId,
        target: String,
        attempt: u16,
        /// `delivered`, `retry`, `unknown`, `gone`, `rejected`, `withheld`, `hold`.
        outcome: String,
        cause: Option<String>,
        status: Option<u16>,
        reason: Option<String>,
        provider_id: Option<String>,
        elapsed_ms: u32,
        retry_at: Option<Millis>,
        state: Option<FinalState>,
    },
    /// A delivery reached its final state without a further try.
    Settled { at: Millis, delivery: DeliveryId, target: String, state: FinalState, cause: String },
    /// A rule set a recipient, or a later step of its plan, aside until `until`.
    Held { at: Millis, recipient: String, until: Millis, cause: String },
    /// Part of the audience got `entries` in the in-app inbox. For `alone` of these users the
    /// entry is all there is; `deliveries` to users of this part will end some day.
    Noted { at: Millis, entries: u32, alone: u32, deliveries: u32 },
    /// A delivery that had ended in `from` is sent again at `due`, its tries counted anew.
    Replayed {
        at: Millis,
        delivery: DeliveryId,
        target: String,
        from: FinalState,
        by: String,
        due: Millis,
    },
    /// The dead letter of a delivery was given up; it stays dead.
    Discarded { at: Millis, delivery: DeliveryId, target: String, by: String },
    /// From here on nothing more of the notification is sent.
    Canceled { at: Millis, by: String },
    /// What the first claim of a part of the audience was about to send: a later claim of it, after
    /// a crash, sends just this. Shown to nobody.
    Planned {
        part: Part,
        /// Of a chunk, the user it starts after.
        after: Option<UserId>,
        /// Those with the same overrides that stand together share them.
        to: Vec<(Overrides, Vec<TargetRef>)>,
    },
    /// The rules' answers for one recipient, or for one payload to a target.
    Ruled { at: Millis, recipient: String, decisions: Vec<RuleDecision> },
}

impl TimelineEvent {
    /// The event as this release would have written it.
    #[must_use]
    pub fn renewed(self) -> Self {
        match self {
            Self::FirstRuled { at, recipient, decisions } => {
                let decisions = decisions.into_iter().map(RuleDecision::from).collect();
                Self::Ruled { at, recipient, decisions }
            }
            other => other,
        }
    }

    /// The event as one JSON object with its kind in `type`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let tagged = serde_json::to_value(self).unwrap_or_default();
        let serde_json::Value::Object(tagged) = tagged else { return tagged };
        let mut flat = serde_json::Map::new();
        for (kind, fields) in tagged {
            flat.insert(String::from("type"), kind.into());
            if let serde_json::Value::Object(fields) = fields {
                flat.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
            }
        }
        flat.into()
    }

    /// The delivery this event finished, and how.
    #[must_use]
    pub fn finished(&self) -> Option<(DeliveryId, FinalState)> {
        match self {
            Self::Attempted { delivery, state: Some(state), .. }
            | Self::Settled { delivery, state, .. } => Some((*delivery, *state)),
            Self::Attempted { .. }
            | Self::Expanded { .. }
            | Self::FirstRuled { .. }
            | Self::Ruled { .. }
            | Self::Held { .. }
            | Self::Noted { .. }
            | Self::Replayed { .. }
            | Self::Discarded { .. }
            | Self::Canceled { .. }
            | Self::Planned { .. } => None,
        }
    }
}
