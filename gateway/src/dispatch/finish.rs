//! What follows from a try: a final state, a retry in the journal, a target removed.

use crate::BoxFuture;
use crate::dispatch::counters::word;
use crate::dispatch::lane::{Finish, Queued};
use crate::dispatch::retry::{Next, Tried};
use crate::dispatch::settle::Report;
use crate::dispatch::{Context, inbox};
use crate::journal::Resolution;
use crate::model::{
    Attempt, DeliveryId, FinalState, Millis, Notification, Outcome, Target, TargetRef,
    TimelineEvent,
};
use crate::store::Change;
use crate::work::{Work, decode_event};
use std::sync::Arc;

/// Bytes of a provider's own words kept in the timeline.
const REASON_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Finisher {
    context: Arc<Context>,
}

impl Finisher {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn settle(self: Arc<Self>, queued: Queued, attempt: Attempt) {
        let Queued { delivery, overrides, tracker, settler, permit } = queued;
        let now = self.context.clock.now();
        let provider = delivery.target.provider();
        let tried = Tried { provider, made: delivery.attempt, expires_at: delivery.expires_at };
        let next =
            self.context.settings.retry.after(tried, &attempt, now, self.context.clock.chance());
        let (state, retry_at) = match next {
            Next::Final(state) => (Some(state), None),
            Next::Gone => (Some(FinalState::Rejected), None),
            Next::Again(at) => (None, Some(at)),
        };
        if next == Next::Gone {
            self.remove(&delivery.target).await;
        }
        let mut report = Report { permit: Some(permit), ..Report::default() };
        report.events.push(event(&delivery, &attempt, now, retry_at, state));
        let outcome = inbox::outcome(state);
        let target = delivery.target.reference();
        report.inbox.extend(inbox::step(&delivery.notification, target, delivery.id, outcome, now));
        let resolution = state.map_or(Resolution::Moved, Resolution::Final);
        report.resolved.push((delivery.id, resolution));
        if state == Some(FinalState::Delivered) {
            self.context.counters.delivered(&delivery, now);
        }
        let again = || Work::Retry {
            notification: (*delivery.notification).clone(),
            target: delivery.target.reference(),
            attempts: delivery.attempt,
            overrides: overrides.clone(),
        };
        if let Some(at) = retry_at {
            report.follow_ups.push(again().follow_up(at));
        }
        if state == Some(FinalState::Dead) {
            report.dead.push((delivery.id, again().encode()));
        }
        settler.report(tracker, report).await;
    }

    /// Forgets a target that its provider calls gone.
    async fn remove(&self, target: &Target) {
        let change = match target {
            Target::Apns { device, .. } | Target::Fcm { device, .. } => {
                Change::RemoveDevice(*device)
            }
            Target::Slack { subscription, .. } | Target::Webhook { subscription, .. } => {
                Change::DisableSubscription(*subscription)
            }
            // A mailbox may come back, and the user is more than it.
            Target::Email { .. } => return,
        };
        tracing::info!(target = %target.key(), "the provider says this target is gone; it is removed");
        if let Err(error) = self.context.store.apply(vec![change]).await {
            // The next delivery to it gets the same answer and tries again.
            tracing::warn!(error = %crate::telemetry::chain(&error), "a gone target could not be removed");
        }
    }
}

impl Finish for Finisher {
    fn finish(self: Arc<Self>, queued: Queued, attempt: Attempt) -> BoxFuture<'static, ()> {
        Box::pin(self.settle(queued, attempt))
    }
}

fn event(
    delivery: &crate::model::Delivery,
    attempt: &Attempt,
    now: Millis,
    retry_at: Option<Millis>,
    state: Option<FinalState>,
) -> TimelineEvent {
    let cause = match attempt.outcome {
        Outcome::Delivered => None,
        Outcome::Retry { cause, .. }
        | Outcome::Unknown { cause }
        | Outcome::Gone { cause }
        | Outcome::Rejected { cause }
        | Outcome::Hold { cause } => Some(cause),
    };
    let reason = attempt.reason.clone().map(|mut reason| {
        let end = reason.floor_char_boundary(REASON_MAX);
        reason.truncate(end);
        reason
    });
    TimelineEvent::Attempted {
        at: now,
        delivery: delivery.id,
        target: delivery.target.key(),
        attempt: delivery.attempt,
        outcome: word(attempt).to_owned(),
        cause: cause.map(str::to_owned),
        status: attempt.status,
        reason,
        provider_id: attempt.provider_id.clone(),
        elapsed_ms: u32::try_from(attempt.elapsed.as_millis()).unwrap_or(u32::MAX),
        retry_at,
        state,
    }
}

/// Returns a delivery to the journal without counting a try: its lane was full and stood still.
pub(super) async fn push_back(queued: Queued, due: Millis) {
    let Queued { delivery, overrides, tracker, settler, permit } = queued;
    let work = Work::Retry {
        notification: (*delivery.notification).clone(),
        target: delivery.target.reference(),
        attempts: delivery.attempt - 1,
        overrides,
    };
    let report = Report {
        resolved: vec![(delivery.id, Resolution::Moved)],
        follow_ups: vec![work.follow_up(due)],
        permit: Some(permit),
        ..Report::default()
    };
    settler.report(tracker, report).await;
}

/// True if the timeline says that one of `targets` was delivered.
pub(super) async fn any_delivered(
    context: &Context,
    notification: &Notification,
    targets: &[TargetRef],
) -> bool {
    let wanted: Vec<_> =
        targets.iter().map(|t| DeliveryId::derive(notification.id, &t.key())).collect();
    let timeline = context.journal.timeline(notification.org, notification.id).await;
    let Ok(Some(timeline)) = timeline else { return false };
    timeline.events.iter().filter_map(|event| decode_event(event)).any(|event| {
        let finished = event.finished();
        finished.is_some_and(|(id, state)| state == FinalState::Delivered && wanted.contains(&id))
    })
}
