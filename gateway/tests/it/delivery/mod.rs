//! Deliveries seen from the providers' side and in the timeline.

mod again;
mod deployed;
mod hung;
mod inbox;
mod mail;
mod members;
mod outcomes;
mod rules;
mod shipped;
mod times;

use bugler_loadtest::twins::{FaultPlan, Receipt, TwinName, TwinSet};
use serde_json::{Value, json};

use crate::support::client::Ask;
use crate::support::gateway::{Gateway, Home};
use crate::support::world;

const EVENT: &str = "order.shipped";

/// A gateway with its providers.
struct World {
    twins: TwinSet,
    home: Home,
    gateway: Gateway,
    token: String,
}

impl World {
    /// `change` adds devices and hooks to the directory; `settings` are `--set`s.
    async fn new(change: impl FnOnce(&mut Value, &TwinSet), settings: &[&str]) -> Self {
        Self::with_rules(change, settings, "").await
    }

    async fn with_rules(
        change: impl FnOnce(&mut Value, &TwinSet),
        settings: &[&str],
        rules: &str,
    ) -> Self {
        let (twins, home, gateway, token) = world::start(change, settings, rules).await;
        Self { twins, home, gateway, token }
    }

    /// Kills the gateway and starts the next one.
    async fn restart(self) -> Self {
        let Self { twins, home, gateway, token } = self;
        gateway.kill();
        let gateway = home.start().await;
        Self { twins, home, gateway, token }
    }

    fn faults(&self, plan: &str) {
        self.twins.set_faults(FaultPlan::parse(plan).expect("a plan in its notation"));
    }

    /// Sends one notification; answers its id.
    async fn send(&self, body: &Value) -> String {
        let ask = Ask::post("/bugler/v1/notifications").bearer(&self.token).json(body.to_string());
        let reply = self.gateway.ask(&ask).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.id()
    }

    async fn send_to_user(&self, user: i64) -> String {
        self.send(&json!({ "to": { "users": [user] }, "title": "t", "body": "b" })).await
    }

    async fn send_to_hooks(&self) -> String {
        self.send(&json!({ "to": { "subscriptions": true }, "event": EVENT, "title": "t" })).await
    }

    async fn done(&self, id: &str) -> Value {
        self.gateway.done(&self.token, id).await
    }

    /// Receipts at a twin of the notification that `timeline` is about.
    fn receipts(&self, twin: TwinName, timeline: &Value) -> Vec<Receipt> {
        let deliveries: Vec<_> =
            attempts(timeline).into_iter().map(|event| event["delivery"].clone()).collect();
        let mut receipts = self.twins.receipts_since(Some(twin), 0);
        receipts.retain(|receipt| {
            // APNs is told the delivery, Slack nothing at all: there a test sends only once.
            deliveries.iter().any(|delivery| *delivery == *receipt.key)
                || twin == TwinName::Slack
                || receipt.notification.as_deref() == timeline["id"].as_str()
        });
        receipts
    }
}

/// The attempts in a timeline.
fn attempts(timeline: &Value) -> Vec<&Value> {
    let events = timeline["timeline"].as_array().expect("a timeline has events");
    events.iter().filter(|event| event["type"] == "attempted").collect()
}

fn millis(time: &Value) -> u64 {
    let time: jiff::Timestamp = time.as_str().and_then(|t| t.parse().ok()).expect("a time");
    u64::try_from(time.as_millisecond()).expect("after 1970")
}
