//! Lets the API judge URLs, exchange Slack codes and send test deliveries with the real providers.

use crate::BoxFuture;
use crate::api::{ExchangeError, Hooks, SlackHook, Trial};
use crate::clock::Clock;
use crate::model::{
    Attempt, Delivery, DeliveryId, Notification, OrganizationId, Outcome, Priority, Target,
};
use crate::providers::Provider;
use crate::providers::slack::{GrantError, Slack, SlackApp};
use crate::providers::webhook::Webhook;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Requests to the outside that callers may be waiting for at once: of one organization, so that
/// its slow targets delay nobody else, and of all.
const OWN_AT_ONCE_MAX: usize = 4;
const AT_ONCE_MAX: usize = 64;
/// Longest wait of a caller, whatever a provider's own time-outs are.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// A test is worth nothing later.
const TTL_MS: u64 = 60_000;

/// The providers of subscriptions, for calls that wait for their answer.
#[derive(Debug)]
pub(super) struct ProviderHooks {
    slack: Arc<Slack>,
    /// `None` where no Slack app is configured.
    app: Option<SlackApp>,
    webhook: Arc<Webhook>,
    clock: Arc<dyn Clock>,
    places: Places,
}

/// Who waits for the outside at the moment.
#[derive(Debug, Default)]
struct Places(Mutex<HashMap<OrganizationId, usize>>);

/// One of the places, until it is dropped.
struct Place<'a> {
    places: &'a Places,
    org: OrganizationId,
}

impl Places {
    fn take(&self, org: OrganizationId) -> Option<Place<'_>> {
        let mut taken = self.0.lock();
        let all: usize = taken.values().sum();
        let own = taken.entry(org).or_default();
        if *own >= OWN_AT_ONCE_MAX || all >= AT_ONCE_MAX {
            if *own == 0 {
                taken.remove(&org);
            }
            return None;
        }
        *own += 1;
        Some(Place { places: self, org })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        if let Some(own) = taken.get_mut(&self.org) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.remove(&self.org);
            }
        }
    }
}

impl ProviderHooks {
    pub(super) fn new(
        slack: Arc<Slack>,
        app: Option<SlackApp>,
        webhook: Arc<Webhook>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { slack, app, webhook, clock, places: Places::default() }
    }

    async fn attempt(&self, delivery: Delivery) -> Option<Attempt> {
        let provider: &dyn Provider = match &delivery.target {
            Target::Slack { .. } => self.slack.as_ref(),
            Target::Webhook { .. } => self.webhook.as_ref(),
            Target::Apns { .. } | Target::Fcm { .. } | Target::Email { .. } => return None,
        };
        let ended = Mutex::new(None);
        let batch = [delivery];
        let report = |_, attempt| *ended.lock() = Some(attempt);
        let sending = provider.send(&batch, &report);
        // What is left of a try that takes too long is dropped with it.
        tokio::time::timeout(WAIT_MAX, sending).await.ok();
        ended.into_inner()
    }
}

impl Hooks for ProviderHooks {
    fn check_url(&self, url: &str) -> Result<(), String> {
        self.webhook.check_url(url).map_err(|error| error.to_string())
    }

    fn check_host<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(
            async move { self.webhook.check_host(url).await.map_err(|error| error.to_string()) },
        )
    }

    fn exchange<'a>(
        &'a self,
        org: OrganizationId,
        code: &'a str,
        redirect_uri: &'a str,
    ) -> BoxFuture<'a, Result<SlackHook, ExchangeError>> {
        Box::pin(async move {
            let app = self.app.as_ref().ok_or(ExchangeError::NotConfigured)?;
            let _place = self.places.take(org).ok_or(ExchangeError::Busy)?;
            let asked = tokio::time::timeout(WAIT_MAX, app.exchange(code, redirect_uri)).await;
            let grant = asked.map_err(|_| ExchangeError::Failed)?.map_err(|error| match error {
                GrantError::Redirect => ExchangeError::Redirect,
                GrantError::Refused(word) => ExchangeError::Refused(word),
                GrantError::Failed => ExchangeError::Failed,
            })?;
            Ok(SlackHook { url: grant.url, team: grant.team, channel: grant.channel })
        })
    }

    fn send_once(
        &self,
        notification: Notification,
        target: Target,
    ) -> BoxFuture<'_, Option<Trial>> {
        Box::pin(async move {
            let _place = self.places.take(notification.org)?;
            let delivery = Delivery {
                id: DeliveryId::derive(notification.id, &target.key()),
                notification: Arc::new(notification),
                target,
                attempt: 1,
                priority: Priority::default(),
                collapse_key: None,
                expires_at: self.clock.now().plus(TTL_MS),
            };
            let attempt = self.attempt(delivery).await;
            let delivered = attempt.as_ref().is_some_and(|a| a.outcome == Outcome::Delivered);
            Some(Trial { delivered, status: attempt.and_then(|attempt| attempt.status) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_for_one_and_for_all_and_come_back() {
        let places = Places::default();
        let one = OrganizationId(1);
        let own: Vec<_> = (0..OWN_AT_ONCE_MAX).map(|_| places.take(one).expect("free")).collect();
        assert!(places.take(one).is_none());
        let others: Vec<_> = (2..).map_while(|id| places.take(OrganizationId(id))).collect();
        assert_eq!(own.len() + others.len(), AT_ONCE_MAX);
        drop(own);
        assert!(places.take(one).is_some());
        drop(others);
        assert!(places.0.lock().is_empty(), "nobody is remembered for nothing");
    }
}
