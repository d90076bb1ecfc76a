//! Lets the API judge URLs, exchange Slack codes and send test deliveries with the real providers.

use crate::BoxFuture;
use crate::api::{ExchangeError, Hooks, SlackHook, Trial};
use crate::clock::Clock;
use crate::model::{Attempt, Delivery, DeliveryId, Notification, Outcome, Priority, Target};
use crate::providers::Provider;
use crate::providers::slack::{GrantError, Slack, SlackApp};
use crate::providers::webhook::Webhook;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Requests to the outside that callers may be waiting for at once, of all organizations.
const AT_ONCE_MAX: usize = 32;
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
    at_once: Semaphore,
}

impl ProviderHooks {
    pub(super) fn new(
        slack: Arc<Slack>,
        app: Option<SlackApp>,
        webhook: Arc<Webhook>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { slack, app, webhook, clock, at_once: Semaphore::new(AT_ONCE_MAX) }
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

    fn exchange<'a>(
        &'a self,
        code: &'a str,
        redirect_uri: &'a str,
    ) -> BoxFuture<'a, Result<SlackHook, ExchangeError>> {
        Box::pin(async move {
            let app = self.app.as_ref().ok_or(ExchangeError::NotConfigured)?;
            let _permit = self.at_once.try_acquire().map_err(|_| ExchangeError::Busy)?;
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
            let _permit = self.at_once.try_acquire().ok()?;
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
