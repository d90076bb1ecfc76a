//! In-app inboxes: who gets an entry, and what a delivery's progress means for it.

use crate::dispatch::job::Job;
use crate::journal::Resolution;
use crate::model::{
    DeliveryId, FinalState, InboxMessage, InboxOutcome, InboxRecipient, InboxStep, Millis,
    Notification, TargetRef, TimelineEvent,
};
use crate::rules::{Plan, Routed, Verdict};
use crate::store::InboxChange;
use crate::work::RecipientRef;
use serde_json::{Value, json};
use uuid::Uuid;

/// The screen that a tap opens where the notification names none.
const SCREEN: &str = "jig";

/// The entries for everybody whom the rules let through, and a line of the timeline about them.
/// Costs nothing for notifications without an inbox.
pub(super) fn entries(jobs: &mut [Job], answers: &[Routed], now: Millis) -> Vec<InboxChange> {
    let mut changes = Vec::new();
    let mut answers = answers.iter();
    for job in jobs {
        if !job.notification.inbox {
            let count = job.recipients.len();
            if count > 0 {
                answers.nth(count - 1);
            }
            continue;
        }
        let (mut to, mut alone, mut deliveries) = (Vec::new(), 0u32, 0u32);
        for (recipient, routed) in job.recipients.iter().zip(answers.by_ref()) {
            let RecipientRef::User(user) = recipient.recipient else { continue };
            let targets: Vec<_> = recipient.targets.iter().map(|t| t.reference()).collect();
            let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
            match &routed.verdict {
                Verdict::Deliver(plan) => {
                    let open = planned(job, plan, &targets);
                    alone += u32::from(open.is_empty());
                    deliveries = deliveries.saturating_add(count);
                    to.push(InboxRecipient { user, open });
                }
                Verdict::Drop { .. } => deliveries = deliveries.saturating_add(count),
                Verdict::HoldUntil(_) | Verdict::Digest(_) | Verdict::Failed { .. } => {}
            }
        }
        note(job, now, to.len(), (alone, deliveries));
        if !to.is_empty() {
            changes.push(InboxChange::Put { message: message(&job.notification), to, at: now });
        }
    }
    changes
}

/// The deliveries of a plan.
fn planned(job: &Job, plan: &Plan, targets: &[TargetRef]) -> Vec<DeliveryId> {
    let chosen = plan.steps.iter().flat_map(|step| &step.targets);
    let keys = chosen.filter_map(|index| targets.get(*index)).map(TargetRef::key);
    keys.map(|key| DeliveryId::derive(job.notification.id, &key)).collect()
}

fn note(job: &mut Job, at: Millis, entries: usize, (alone, deliveries): (u32, u32)) {
    let marker = job.marker("noted");
    if !job.settled.insert(marker) {
        return;
    }
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    job.report.resolved.push((marker, Resolution::Moved));
    job.report.events.push(TimelineEvent::Noted { at, entries, alone, deliveries });
}

fn message(notification: &Notification) -> InboxMessage {
    let own: Option<Value> = serde_json::from_str(&notification.dialect_fields).ok();
    let own = own.and_then(|own| own.get("content").filter(|c| c.is_object()).cloned());
    let content = own.unwrap_or_else(|| {
        let shown = &notification.content;
        json!({ "text": shown.body, "title": shown.title, "screen": SCREEN, "inputs": {} })
    });
    InboxMessage {
        notification: notification.id,
        org: notification.org,
        content: content.to_string(),
        start_at: notification.start_at,
        created_at: notification.created_at,
        created_by: Uuid::try_parse(&notification.created_by).ok(),
    }
}

/// What the end of a try means.
pub(super) fn outcome(state: Option<FinalState>) -> InboxOutcome {
    match state {
        None => InboxOutcome::Retry,
        Some(FinalState::Delivered) => InboxOutcome::Delivered,
        Some(_) => InboxOutcome::Failed,
    }
}

/// What the entry of a delivery's user is told, if there can be one.
pub(super) fn step(
    notification: &Notification,
    target: TargetRef,
    delivery: DeliveryId,
    outcome: InboxOutcome,
    at: Millis,
) -> Option<InboxStep> {
    let (TargetRef::Device { user, .. } | TargetRef::Mailbox { user, .. }) = target else {
        return None;
    };
    let notification = notification.inbox.then_some(notification.id)?;
    Some(InboxStep { user, notification, delivery, outcome, at })
}
