//! Has the transform rules look at deliveries just before they go out.

use crate::dispatch::Context;
use crate::dispatch::expand::{self, Sources};
use crate::model::{Attempt, Delivery, Outcome, ProviderName, RuleDecision};
use crate::rules::{Hook, RecipientKind, RecipientView, Shown, TransformItem, payload, showing};
use crate::work::RecipientRef;
use std::sync::Arc;
use std::time::Duration;

/// Cause of deliveries that a transform rule drops, and of those that wait because one failed.
const DROPPED: &str = "dropped_by_rule";
pub(super) const FAILED: &str = "rule_failed";

/// A delivery as it goes out, or what became of it instead, and what the rules said of it.
#[derive(Debug)]
pub(super) struct Shaped {
    pub(super) delivery: Result<Delivery, Attempt>,
    pub(super) decisions: Vec<RuleDecision>,
}

/// What each of `deliveries` is to show. Without rules that is what it shows.
pub(super) async fn shape(context: &Context, deliveries: Vec<Delivery>) -> Vec<Shaped> {
    let concerns =
        |delivery: &Delivery| context.rules.has(Hook::Transform, delivery.notification.org);
    let mut shaped = Vec::with_capacity(deliveries.len());
    let mut asked = Vec::new();
    let mut items = Vec::new();
    for (at, delivery) in deliveries.into_iter().enumerate() {
        if concerns(&delivery) {
            match question(context, &delivery).await {
                Ok(Some(item)) => {
                    asked.push(at);
                    items.push(item);
                }
                Ok(None) => {}
                Err(attempt) => {
                    shaped.push(Shaped { delivery: Err(attempt), decisions: Vec::new() });
                    continue;
                }
            }
        }
        shaped.push(Shaped { delivery: Ok(delivery), decisions: Vec::new() });
    }
    if items.is_empty() {
        return shaped;
    }
    let answers = context.rules.transform(context.clock.now(), items).await;
    for (at, answer) in asked.into_iter().zip(answers) {
        let Some(place) = shaped.get_mut(at) else { continue };
        let Ok(delivery) = &mut place.delivery else { continue };
        let channel = delivery.target.provider();
        match answer.shown {
            Shown::Keep => {}
            Shown::Payload(payload) => match showing(&delivery.notification, channel, &payload) {
                Ok(shown) => delivery.notification = Arc::new(shown),
                Err(breach) => place.delivery = Err(held("engine", breach.kind.as_str())),
            },
            Shown::Drop { rule, code } => {
                let outcome = Outcome::Withheld { cause: DROPPED };
                place.delivery = Err(unsent(outcome, format!("{rule}:{code}")));
            }
            Shown::Failed { rule, kind } => place.delivery = Err(held(&rule, kind)),
        }
        place.decisions = answer.decisions;
    }
    shaped
}

async fn question(
    context: &Context,
    delivery: &Delivery,
) -> Result<Option<TransformItem>, Attempt> {
    let channel = delivery.target.provider();
    let Some(payload) = payload(&delivery.notification, channel) else { return Ok(None) };
    let notification = Arc::clone(&delivery.notification);
    let recipient = RecipientRef::of(delivery.target.reference());
    let sources = Sources { store: context.store.as_ref(), can_mail: true, for_rules: true };
    let found = expand::one(sources, &notification, recipient).await.map_err(|error| {
        tracing::warn!(error = %crate::telemetry::chain(&error), "a recipient cannot be read for the transform rules; its delivery waits");
        held("store", "unreadable")
    })?;
    let recipient = found
        .and_then(|found| found.view)
        .unwrap_or_else(|| unknown(&delivery.notification.org.to_string(), channel));
    Ok(Some(TransformItem { notification, recipient, channel, payload }))
}

/// Whoever was removed meanwhile: the delivery goes its way.
fn unknown(org: &str, channel: ProviderName) -> RecipientView {
    let kind = match channel {
        ProviderName::Slack | ProviderName::Webhook => RecipientKind::Subscription,
        ProviderName::Apns | ProviderName::Fcm | ProviderName::Email => RecipientKind::User,
    };
    RecipientView {
        kind,
        id: String::new(),
        org: org.to_owned(),
        email: None,
        tz: None,
        locale: None,
        status: "inactive",
        roles: Vec::new(),
        prefs: Vec::new(),
        targets: Vec::new(),
    }
}

fn held(rule: &str, kind: &str) -> Attempt {
    unsent(Outcome::Hold { cause: FAILED }, format!("{rule}:{kind}"))
}

fn unsent(outcome: Outcome, reason: String) -> Attempt {
    Attempt {
        outcome,
        status: None,
        reason: Some(reason),
        provider_id: None,
        elapsed: Duration::ZERO,
    }
}
