//! Subscriptions of Slack channels and webhooks: made, changed, and told of every event.

mod changes;
mod deliveries;
mod rights;
mod slack;

use serde_json::{Value, json};

use crate::support::client::{Ask, Reply};
use crate::support::gateway::{Gateway, Home};
use crate::support::world;

const ALL: &str = "/v1/organizations/acme/notifications";
const EVENTS: &str = "/bugler/v1/organizations/acme/events";

/// A gateway that may send to this machine.
struct World {
    home: Home,
    gateway: Gateway,
    token: String,
}

impl World {
    async fn new(settings: &[&str]) -> Self {
        Self::of(Home::new(world::directory()), settings).await
    }

    async fn of(home: Home, settings: &[&str]) -> Self {
        let mut home = home
            .set("store.segment=4MiB")
            .set("providers.webhook.allow_http=true")
            .set("providers.webhook.allow_private=true")
            .set("dispatch.retry.webhook.schedule=[\"50ms\", \"100ms\", \"100ms\"]");
        for setting in settings {
            home = home.set(setting);
        }
        let gateway = home.start().await;
        let token = home.token(101).await;
        Self { home, gateway, token }
    }

    async fn restart(self) -> Self {
        let Self { home, gateway, token } = self;
        gateway.kill();
        let gateway = home.start().await;
        Self { home, gateway, token }
    }

    async fn ask(&self, ask: Ask) -> Reply {
        self.gateway.ask(&ask.bearer(&self.token)).await
    }

    /// Makes a subscription, which must work; answers its `data`.
    async fn subscribe(&self, url: &str, events: &Value) -> Value {
        let body =
            json!({ "type": "webhook", "events": events, "setup": { "webhook": { "url": url } } });
        let reply = self.ask(Ask::post(ALL).json(body.to_string())).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["data"].clone()
    }

    /// Raises an event; answers the notification's id.
    async fn raise(&self, body: &Value) -> String {
        let reply = self.ask(Ask::post(EVENTS).json(body.to_string())).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        assert_eq!(reply.json()["id"], reply.id());
        reply.id()
    }

    async fn done(&self, id: &str) -> Value {
        self.gateway.done(&self.token, id).await
    }

    async fn test(&self, subscription: &Value) -> Value {
        let reply = self.ask(Ask::post(format!("{}/test", path(subscription)))).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["status"], true);
        reply.json()["data"].clone()
    }
}

fn path(subscription: &Value) -> String {
    format!("{ALL}/{}", subscription["id"].as_str().expect("an id"))
}
