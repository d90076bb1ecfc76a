//! The dispatcher's metrics, taken from the same events that the timeline gets.

use crate::model::{Attempt, Delivery, FinalState, Millis, Outcome, ProviderName, TimelineEvent};
use crate::telemetry::metrics::{DeliveryMetrics, ProviderMetrics, RuleMetrics};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The words of the rule ABI; labels come from here, never from a rule.
const DECISIONS: [&str; 10] = [
    "abstain",
    "deliver",
    "hold-until",
    "digest",
    "drop",
    "keep",
    "patch",
    "replace",
    "error",
    "skipped",
];
const RULE_FAULTS: [&str; 7] =
    ["trap", "deadline", "fuel", "memory", "output", "breaker", "engine"];
/// Rule versions counted one by one in the life of a process.
const RULES_MAX: usize = 256;

/// Handles of every counter the dispatcher moves.
#[derive(Debug)]
pub(super) struct Counters {
    deliveries: HashMap<ProviderName, DeliveryMetrics>,
    rules: RwLock<HashMap<(String, String), Arc<RuleMetrics>>>,
}

impl Counters {
    pub(super) fn new() -> Arc<Self> {
        let deliveries =
            ProviderName::ALL.map(|provider| (provider, DeliveryMetrics::new(provider.as_str())));
        Arc::new(Self { deliveries: deliveries.into_iter().collect(), rules: RwLock::default() })
    }

    /// False for events that `count` passes over.
    pub(super) fn has_use_for(event: &TimelineEvent) -> bool {
        matches!(
            event,
            TimelineEvent::Attempted { .. }
                | TimelineEvent::Settled { .. }
                | TimelineEvent::Ruled { .. }
        )
    }

    /// Counts a settled event.
    pub(super) fn count(&self, event: &TimelineEvent) {
        match event {
            TimelineEvent::Attempted { target, retry_at, state, .. } => {
                self.finished(target, *state);
                if retry_at.is_some() {
                    self.of(target).inspect(|metrics| metrics.retried());
                }
            }
            TimelineEvent::Settled { target, state, .. } => self.finished(target, Some(*state)),
            TimelineEvent::Ruled { decisions, .. } => {
                for decision in decisions {
                    let Some(rule) = self.rule(&decision.rule, &decision.version) else { continue };
                    let took = Duration::from_micros(u64::from(decision.micros));
                    rule.evaluated(1, decision.fuel, took);
                    let word = DECISIONS.into_iter().find(|word| *word == decision.decision);
                    rule.decided(word.unwrap_or("error"), 1);
                    if word == Some("error") {
                        let kind = RULE_FAULTS.into_iter().find(|kind| *kind == decision.code);
                        rule.broke(kind.unwrap_or("engine"));
                    }
                }
            }
            TimelineEvent::Expanded { .. }
            | TimelineEvent::FirstRuled { .. }
            | TimelineEvent::Held { .. }
            | TimelineEvent::Noted { .. }
            | TimelineEvent::Replayed { .. }
            | TimelineEvent::Discarded { .. }
            | TimelineEvent::Canceled { .. }
            | TimelineEvent::Planned { .. } => {}
        }
    }

    /// Notes how long a delivered notification took from its acceptance, or its start.
    pub(super) fn delivered(&self, delivery: &Delivery, now: Millis) {
        let since = now.since(delivery.notification.start_at);
        if let Some(metrics) = self.deliveries.get(&delivery.target.provider()) {
            metrics.delivered_after(Duration::from_millis(since));
        }
    }

    fn finished(&self, target: &str, state: Option<FinalState>) {
        if let (Some(metrics), Some(state)) = (self.of(target), state) {
            metrics.settled(state.as_str());
        }
    }

    /// The counters of the provider that a target's key names.
    fn of(&self, target: &str) -> Option<&DeliveryMetrics> {
        let (name, _) = target.split_once(':')?;
        let provider = ProviderName::ALL.into_iter().find(|p| p.as_str() == name)?;
        self.deliveries.get(&provider)
    }

    fn rule(&self, rule: &str, version: &str) -> Option<Arc<RuleMetrics>> {
        let key = (rule.to_owned(), version.to_owned());
        if let Some(known) = self.rules.read().get(&key) {
            return Some(Arc::clone(known));
        }
        let mut rules = self.rules.write();
        if rules.len() >= RULES_MAX {
            return None;
        }
        let metrics = rules.entry(key).or_insert_with(|| Arc::new(RuleMetrics::new(rule, version)));
        Some(Arc::clone(metrics))
    }
}

/// The counters of one lane. Slack hooks and webhooks share one set: a label per subscription
/// would grow with the customers. Mail has one lane.
pub(super) fn lane(provider: ProviderName, credential: &str) -> ProviderMetrics {
    let app = match provider {
        ProviderName::Apns | ProviderName::Fcm => credential,
        ProviderName::Slack | ProviderName::Webhook | ProviderName::Email => "all",
    };
    ProviderMetrics::new(provider.as_str(), app)
}

/// The word of a try's result, as the timeline and the metrics print it.
pub(super) fn word(attempt: &Attempt) -> &'static str {
    match attempt.outcome {
        Outcome::Delivered => "delivered",
        Outcome::Retry { .. } => "retry",
        Outcome::Unknown { .. } => "unknown",
        Outcome::Gone { .. } => "gone",
        Outcome::Rejected { .. } => "rejected",
        Outcome::Withheld { .. } => "withheld",
        Outcome::Hold { .. } => "hold",
    }
}
