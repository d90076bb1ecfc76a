//! Events about targets that were given up, for subscriptions of their organization that want them.

use crate::dispatch::Context;
use crate::dispatch::expand;
use crate::journal::Entry;
use crate::model::{
    Audience, Content, Delivery, Notification, NotificationId, Priority, Source, Target,
};
use crate::work::Work;
use serde_json::json;
use uuid::{NoContext, Timestamp, Uuid};

/// A device is removed since its provider calls its token gone.
const DEVICE_REMOVED: &str = "device.removed";
/// A hook is disabled: it is gone, or had no success for 120 hours.
const SUBSCRIPTION_DISABLED: &str = "subscription.disabled";
/// Who such notifications are of.
const AUTHOR: &str = "bugler";

/// A target that is about to be given up.
#[derive(Debug)]
pub(super) struct Notice {
    delivery: Delivery,
    cause: &'static str,
}

impl Notice {
    pub(super) fn of(delivery: &Delivery, cause: &'static str) -> Self {
        Self { delivery: delivery.clone(), cause }
    }

    /// What names its target: of many deliveries to one that is gone, the first says so.
    pub(super) fn target(&self) -> String {
        self.delivery.target.key()
    }

    /// False if somebody else gave the target up before. Records that are away say nothing of it.
    pub(super) async fn is_news(&self, context: &Context) -> bool {
        let Delivery { notification, target, .. } = &self.delivery;
        let found = expand::target(context.store.as_ref(), notification, target.reference()).await;
        found.is_ok_and(|target| target.is_some())
    }

    /// The notification that says so; `None` if no subscription wants it, or it is not worth one.
    pub(super) async fn entry(&self, context: &Context) -> Option<Entry> {
        let (event, content) = self.content()?;
        let org = self.delivery.notification.org;
        let wanted = context.store.subscriptions(org, event).await;
        let wanted = wanted.inspect_err(|error| {
            tracing::warn!(error = %crate::telemetry::chain(error), event, "nobody can be told that a target was given up");
        });
        if wanted.is_ok_and(|subscriptions| subscriptions.is_empty()) {
            return None;
        }
        let now = context.clock.now();
        let nanos = u32::try_from(now.0 % 1_000).unwrap_or(0) * 1_000_000;
        let id = Uuid::new_v7(Timestamp::from_unix(NoContext, now.0 / 1_000, nanos));
        Some(Work::root(Notification {
            id: NotificationId(id),
            org,
            source: Source::Native,
            event: event.to_owned(),
            audience: Audience::Subscriptions,
            content,
            priority: Priority::Normal,
            collapse_key: None,
            created_at: now,
            created_by: AUTHOR.to_owned(),
            start_at: now,
            expires_at: None,
            dialect_fields: String::new(),
            mail: None,
            inbox: false,
        }))
    }

    /// The event, and what is said with it. Tokens and addresses are no part of it.
    fn content(&self) -> Option<(&'static str, Content)> {
        let cause = self.cause;
        let provider = self.delivery.target.provider().as_str();
        let notification = self.delivery.notification.id.to_string();
        let (event, title, body, data) = match &self.delivery.target {
            Target::Apns { device, user, app, .. } | Target::Fcm { device, user, app, .. } => (
                DEVICE_REMOVED,
                "A device was removed",
                format!("{provider} no longer knows a device of user {user} ({cause})."),
                json!({ "device": device.to_string(), "user": user.to_string(), "app": app,
                        "provider": provider, "cause": cause, "notification": notification }),
            ),
            Target::Slack { subscription, .. } | Target::Webhook { subscription, .. } => (
                SUBSCRIPTION_DISABLED,
                "A subscription was disabled",
                format!("A {provider} subscription gets nothing any more ({cause})."),
                json!({ "subscription": subscription.to_string(), "provider": provider,
                        "cause": cause, "notification": notification }),
            ),
            Target::Email { .. } => return None,
        };
        let (title, data) = (title.to_owned(), data.to_string());
        Some((event, Content { title, body, image_url: None, data }))
    }
}
