//! The rule seam: a batch of recipients in, one routing decision each out, with the reasons.
//!
//! A rule is a WIT component without WASI: no network, files, ambient clock or randomness. A trap,
//! an endless loop or a memory hog hits only the evaluation that caused it.

use crate::BoxFuture;
use crate::model::{Millis, Notification, OrganizationId, Priority, ProviderName, RuleDecision};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

mod abi;
mod answer;
mod asking;
mod at;
mod attrs;
mod bench;
mod breaker;
mod chain;
mod compiled;
mod component;
mod deployed;
mod deployments;
mod engine;
mod error;
mod gates;
mod groups;
mod hooks;
mod host;
pub mod input;
mod items;
mod judging;
mod keeping;
mod limits;
mod localtime;
mod manifest;
mod packed;
mod patch;
mod payload;
mod probe;
mod queue;
pub mod record;
mod recorder;
mod registry;
mod requests;
mod seen;
mod settings;
mod shadow;
mod shipped;
mod slot;
mod spool;
mod stage;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod trail;
mod worker;

pub use at::{At, AtError};
pub use bench::{Batch, Bench, BenchRule, Question, Report};
pub use compiled::CodeKey;
pub use component::{
    ComponentSummary, embed_manifest, inspect, manifest_of, with_section, wrap_component,
};
pub use deployed::{DeployedRule, RuleChange, RuleSet, RuleVersion, SetError, Transition};
pub use deployments::{DeployError, Deployment, Deployments, Shelf, ShelfError};
pub use error::RuleError;
pub use hooks::{
    Answer, AuthorizeItem, Decision, Digest, Hook, PrincipalKind, PrincipalView, TransformItem,
};
pub use host::{HostCall, LogLevel, LogLine};
pub use judging::Withdrawal;
pub use limits::{Breach, BreachKind, RuleLimits, counting_limits};
pub use manifest::{Build, Caps, Deploy, Gates, Manifest, ManifestError, Promote, Sticky};
pub use patch::Edit;
pub use payload::{payload, showing};
pub use probe::Probe;
pub use recorder::{Capture, CaptureError, Kept, Recorder, Search};
pub use registry::check_component;
pub use seen::Seen;
pub use settings::{OnError, RuleConfig, RuleMatch, RuleSettings};
pub use shipped::{shipped_component, shipped_rules};
pub use stage::Stage;
pub use state::State;
pub use stats::Counts;
pub use trail::{Page, Place};
pub use worker::WasmRules;

/// One target as a rule sees it: an opaque handle, never a token, URL or secret.
#[derive(Clone, Debug)]
pub struct TargetView {
    pub provider: ProviderName,
    /// `Target::key` of the target.
    pub handle: String,
    /// APNs/FCM credential name, Slack team, webhook host.
    pub app: String,
    pub last_ok_at: Option<Millis>,
    pub recent_failures: u16,
}

/// How the try before ended, as a rule sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LastOutcome {
    Accepted,
    Rejected,
    TimedOut,
    Unregistered,
    Throttled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientKind {
    User,
    Subscription,
}

/// One recipient of one notification, as a rule sees it.
#[derive(Clone, Debug)]
pub struct RecipientView {
    pub kind: RecipientKind,
    pub id: String,
    pub org: String,
    pub email: Option<String>,
    pub tz: Option<String>,
    pub locale: Option<String>,
    /// `active`, `pending` or `suspended`.
    pub status: &'static str,
    pub roles: Vec<String>,
    pub prefs: Vec<(String, String)>,
    pub targets: Vec<TargetView>,
}

/// One question to the rule chain.
#[derive(Clone, Debug)]
pub struct RouteItem {
    pub notification: Arc<Notification>,
    pub recipient: RecipientView,
    /// 1 for the first try.
    pub attempt: u16,
    pub last_outcome: Option<LastOutcome>,
}

/// Where to send, and with what: the chain's answer when nothing holds or drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Targets of one step go out together; indexes into `RecipientView::targets`. A later step
    /// starts only if no target of the earlier one accepted within `within_ms`.
    pub steps: Vec<Step>,
    pub priority: Option<Priority>,
    pub collapse_key: Option<String>,
    pub expires_at: Option<Millis>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub targets: Vec<usize>,
    pub within_ms: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Deliver(Plan),
    HoldUntil(Millis),
    /// Collected with others of its key.
    Digest(Digest),
    /// Final state suppressed, with the code of the rule that dropped it.
    Drop {
        rule: String,
        code: String,
    },
    /// A required rule failed: the item must not go out, and this is why.
    Failed {
        rule: String,
        kind: &'static str,
    },
}

/// The chain's answer for one item and every rule's part in it.
#[derive(Clone, Debug)]
pub struct Routed {
    pub verdict: Verdict,
    pub decisions: Vec<RuleDecision>,
}

/// What the authorize rules and the built-in check together say to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorized {
    pub is_allowed: bool,
    /// The rule that said no, and its code; `None` where only the built-in check did.
    pub denied: Option<(String, String)>,
    pub decisions: Vec<RuleDecision>,
}

/// What the transform rules left of one payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing was changed.
    Keep,
    Payload(String),
    Drop {
        rule: String,
        code: String,
    },
    /// A rule that fails closed failed: the payload must not go out, and this is why.
    Failed {
        rule: String,
        kind: &'static str,
    },
}

/// The transform chain's answer for one payload and every rule's part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transformed {
    pub shown: Shown,
    pub decisions: Vec<RuleDecision>,
}

/// Evaluates the active rule chain.
pub trait RuleEngine: Send + Sync + std::fmt::Debug {
    /// Answers every item, in order. `now` is frozen for the batch. Never fails as a whole: an
    /// item whose rule broke gets that rule's declared failure mode and an `error` decision.
    fn route(&self, now: Millis, items: Vec<RouteItem>) -> BoxFuture<'_, Vec<Routed>>;

    /// False if it answers [`Routed::unruled`] whatever it is asked of `_org`, and so need not be.
    fn routes(&self, _org: OrganizationId) -> bool {
        true
    }

    /// False if no rule with this hook can apply to this organization: then it need not be asked.
    fn has(&self, _hook: Hook, _org: OrganizationId) -> bool {
        false
    }

    /// Answers every request, in order, within the deadline of authorize rules and what waits
    /// before them. Without rules the built-in check stands.
    fn authorize(&self, _now: Millis, items: Vec<AuthorizeItem>) -> BoxFuture<'_, Vec<Authorized>> {
        let baseline = |item: AuthorizeItem| Authorized {
            is_allowed: item.is_allowed,
            denied: None,
            decisions: Vec::new(),
        };
        Box::pin(std::future::ready(items.into_iter().map(baseline).collect()))
    }

    /// Answers every payload, in order. Never fails as a whole, like `route`.
    fn transform(
        &self,
        _now: Millis,
        items: Vec<TransformItem>,
    ) -> BoxFuture<'_, Vec<Transformed>> {
        let keep = |_| Transformed { shown: Shown::Keep, decisions: Vec::new() };
        Box::pin(std::future::ready(items.into_iter().map(keep).collect()))
    }
}

/// The engine of a gateway without rules: every target at once, and nothing to record.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRules;

impl RuleEngine for NoRules {
    fn route(&self, _now: Millis, items: Vec<RouteItem>) -> BoxFuture<'_, Vec<Routed>> {
        let all = items.iter().map(|item| Routed::unruled(item.recipient.targets.len()));
        Box::pin(std::future::ready(all.collect()))
    }

    fn routes(&self, _org: OrganizationId) -> bool {
        false
    }
}

impl Routed {
    /// What becomes of a recipient with so many targets where there are no rules.
    #[must_use]
    pub fn unruled(targets: usize) -> Self {
        Self { verdict: Verdict::Deliver(Plan::all_targets(targets)), decisions: Vec::new() }
    }
}

impl Plan {
    /// Every target at once: what happens when no rule says otherwise.
    #[must_use]
    pub fn all_targets(count: usize) -> Self {
        Self {
            steps: vec![Step { targets: (0..count).collect(), within_ms: 0 }],
            priority: None,
            collapse_key: None,
            expires_at: None,
        }
    }
}
