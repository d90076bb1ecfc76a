//! The rule seam: a batch of recipients in, one routing decision each out, with the reasons.
//!
//! A rule is a WIT component without WASI: no network, files, ambient clock or randomness. A trap,
//! an endless loop or a memory hog hits only the evaluation that caused it.

use crate::BoxFuture;
use crate::model::{Millis, Notification, Priority, ProviderName, RuleDecision};
use serde::Deserialize;
use std::sync::Arc;

mod abi;
mod answer;
mod chain;
mod component;
mod engine;
mod error;
mod host;
mod limits;
mod localtime;
mod registry;
mod settings;
#[cfg(test)]
mod tests;
mod worker;

pub use component::{ComponentSummary, wrap_component};
pub use error::RuleError;
pub use limits::RuleLimits;
pub use registry::check_component;
pub use settings::{OnError, RuleConfig, RuleMatch, RuleSettings};
pub use worker::WasmRules;

/// One target as a rule sees it: an opaque handle, never a token, URL or secret.
#[derive(Clone, Debug)]
pub struct TargetView {
    pub provider: ProviderName,
    /// `Target::key` of the target.
    pub handle: String,
    /// APNs/FCM credential name, Slack team, webhook host.
    pub app: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
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

/// Evaluates the active rule chain.
pub trait RuleEngine: Send + Sync + std::fmt::Debug {
    /// Answers every item, in order. `now` is frozen for the batch. Never fails as a whole: an
    /// item whose rule broke gets that rule's declared failure mode and an `error` decision.
    fn route(&self, now: Millis, items: Vec<RouteItem>) -> BoxFuture<'_, Vec<Routed>>;

    /// True if it answers [`Routed::unruled`] whatever it is asked, and so need not be.
    fn is_empty(&self) -> bool {
        false
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

    fn is_empty(&self) -> bool {
        true
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
