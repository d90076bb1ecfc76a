//! Who is told that a target was given up.

use super::*;

impl World {
    async fn subscribe(&self, path: &str, event: &str) {
        let document = json!({
            "organizations": [{"id": ORG.0, "name": "Acme"}],
            "subscriptions": [{
                "organization": ORG.0, "type": "webhook",
                "url": format!("https://example.com/{path}"), "events": [event],
                "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
            }],
        });
        let document = document.to_string();
        let changes = directory::changes(document.as_bytes(), self.store.as_ref(), START).await;
        self.store.apply(changes.expect("valid document")).await.expect("applied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_device_is_an_event_that_a_subscription_gets_once() {
    let world = World::new(1, Arc::new(NoRules), |_| Some(Outcome::Gone { cause: "gone" })).await;
    world.subscribe("gone", "device.removed").await;
    for _ in 0..3 {
        world.accept(users(&[1]), "x").await;
    }
    world.until("told", Duration::ZERO, async |w| !w.webhook.bodies.lock().is_empty()).await;
    world.settled().await;
    let told = world.webhook.bodies.lock().clone();
    assert_eq!(told, ["apns no longer knows a device of user 1 (gone)."]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_hook_is_an_event_for_others_and_nobody_is_told_who_does_not_ask() {
    let mut world = World::new(1, Arc::new(NoRules), |_| Some(Outcome::Delivered)).await;
    let is_told = |delivery: &Delivery| delivery.notification.event == "subscription.disabled";
    world.webhook = scripted(ProviderName::Webhook, move |delivery| {
        Some(if is_told(delivery) {
            Outcome::Delivered
        } else {
            Outcome::Gone { cause: "http_410" }
        })
    });
    world.crash().await;
    world.start(Arc::new(NoRules));
    world.accept(Audience::Subscriptions, "hooked").await;
    world.settled().await;
    let told = |world: &World| world.webhook.bodies.lock().len();
    assert_eq!(told(&world), 1, "the one that was refused");
    world.subscribe("other", "other").await;
    world.subscribe("disabled", "subscription.disabled").await;
    world.accept(Audience::Subscriptions, "other").await;
    world.until("told", Duration::ZERO, async |w| told(w) == 3).await;
    let last = world.webhook.bodies.lock().last().cloned();
    let text = "A webhook subscription gets nothing any more (http_410).";
    assert_eq!(last.as_deref(), Some(text));
}
