//! The dispatcher's metrics, taken from the same events that the timeline gets.

use crate::model::{Attempt, Delivery, FinalState, Millis, Outcome, ProviderName, TimelineEvent};
use crate::telemetry::metrics::{DeliveryMetrics, ProviderMetrics};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Handles of every counter the dispatcher moves.
#[derive(Debug)]
pub(super) struct Counters {
    deliveries: HashMap<ProviderName, DeliveryMetrics>,
}

impl Counters {
    pub(super) fn new() -> Arc<Self> {
        let deliveries =
            ProviderName::ALL.map(|provider| (provider, DeliveryMetrics::new(provider.as_str())));
        Arc::new(Self { deliveries: deliveries.into_iter().collect() })
    }

    /// False for events that `count` passes over.
    pub(super) fn has_use_for(event: &TimelineEvent) -> bool {
        matches!(event, TimelineEvent::Attempted { .. } | TimelineEvent::Settled { .. })
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
            TimelineEvent::Expanded { .. }
            | TimelineEvent::Ruled { .. }
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
