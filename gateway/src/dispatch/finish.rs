//! What follows from a try: a final state, a retry in the journal, a target removed.

use crate::crash::{self, Stage};
use crate::dispatch::counters::word;
use crate::dispatch::health::Health;
use crate::dispatch::line::{Queued, Slot};
use crate::dispatch::notices::Notice;
use crate::dispatch::retry::{Next, Tried};
use crate::dispatch::sched::{Finished, Signal, Ticket};
use crate::dispatch::settle::{Report, Settler, Tracker};
use crate::dispatch::shard::STORE_PAUSE;
use crate::dispatch::{Context, inbox};
use crate::journal::{Journal, JournalError, Resolution};
use crate::model::{
    Attempt, Content, Delivery, DeliveryId, FinalState, Millis, Notification, NotificationId,
    OnUnknown, Outcome, ProviderName, Target, TargetRef, TimelineEvent,
};
use crate::store::Change;
use crate::work::{Work, decode_event};
use std::collections::HashSet;
use std::sync::Arc;

/// Bytes of a provider's own words kept in the timeline.
const REASON_MAX: usize = 256;
/// A try that ended in a panic; a delivery that does it three times is given up.
pub(super) const PANICKED: &str = "panicked";
/// Cause of deliveries that were taken back before they went out.
pub(super) const CANCELED: &str = "canceled";
/// Why a hook is disabled that had no success for 120 hours.
const FAILING: &str = "failing";
/// Titles shown of the messages that go out within another.
const MERGED_SHOWN: usize = 20;
pub(super) const MERGED_CHARS: usize = 120;

/// A try that ended, with everything that went out in it.
pub(super) struct Ended {
    pub(super) queued: Queued,
    pub(super) merged: Vec<Queued>,
    pub(super) ticket: Ticket,
    pub(super) slot: Slot,
    pub(super) attempt: Attempt,
    /// What the transform rules said of it, if they did more than look.
    pub(super) ruled: Option<TimelineEvent>,
}

/// What follows from it.
pub(super) struct Judged {
    pub(super) ticket: Ticket,
    pub(super) finished: Finished,
    /// Those that went out within it and are to be as if they had not, and after how long.
    pub(super) put_away: Vec<(NotificationId, u64)>,
    /// That of the try's own delivery is the last.
    reports: Vec<(Settler, Arc<Tracker>, Report)>,
    changes: Vec<Change>,
    /// Its target is given up.
    notice: Option<Notice>,
}

/// How one delivery goes on.
#[derive(Clone, Copy, Debug)]
struct Course {
    state: Option<FinalState>,
    again: Option<Millis>,
    /// A copy is kept for replay.
    is_kept: bool,
    is_gone: bool,
}

#[derive(Debug)]
pub(super) struct Finisher {
    context: Arc<Context>,
    health: Arc<Health>,
}

impl Finisher {
    pub(super) fn new(context: Arc<Context>, health: Arc<Health>) -> Self {
        Self { context, health }
    }

    /// Decides what becomes of a try's deliveries.
    pub(super) fn judge(&self, ended: Ended) -> Judged {
        crash::point(Stage::Answered);
        let Ended { queued, merged, ticket, slot, attempt, ruled } = ended;
        let now = self.context.clock.now();
        let course = self.course(&queued.delivery, &attempt, now);
        // Only rules ask for it.
        if !is_unsent(&attempt) && self.context.rules.routes(queued.delivery.notification.org) {
            self.context.reach.note(queued.delivery.target.reference(), &attempt, now);
        }
        let mut changes = Vec::new();
        if course.is_gone {
            changes.extend(removal(&queued.delivery.target));
        }
        let health = self.health.note(&queued.delivery, &attempt, course.again, now);
        changes.extend(health.changes);
        let course = if health.is_over {
            Course { state: Some(FinalState::Rejected), again: None, ..course }
        } else {
            course
        };
        let why = if health.is_over { Some(FAILING) } else { cause(&attempt) };
        let is_given_up = course.is_gone || health.is_over;
        let notice = why.filter(|_| is_given_up).map(|why| Notice::of(&queued.delivery, why));
        let finished = Finished {
            again_ms: course.again.map(|at| at.since(now)),
            stays_first: course.again.is_some() && self.stays_first(&queued, &attempt),
            ..finished(queued.delivery.target.provider(), &attempt)
        };
        let mut put_away = Vec::new();
        let mut reports = Vec::with_capacity(1 + merged.len());
        for other in merged {
            // Each draws its own wait, so that they do not come back as one.
            let own = self.course(&other.delivery, &attempt, now);
            let own = if course.again.is_some() { own } else { course };
            let is_first = other.delivery.attempt == 1 && self.stays_first(&other, &attempt);
            if let Some(again) = own.again.filter(|_| is_first) {
                put_away.push((other.delivery.notification.id, again.since(now)));
            }
            reports.push(self.report(other, &attempt, own, None, now));
        }
        let mut own = self.report(queued, &attempt, course, Some(slot), now);
        if let Some(ruled) = ruled {
            own.2.events.insert(0, ruled);
        }
        reports.push(own);
        Judged { ticket, finished, put_away, reports, changes, notice }
    }

    /// True if it comes back as if it had not been tried. Without its lease it comes back as it was.
    fn stays_first(&self, queued: &Queued, attempt: &Attempt) -> bool {
        let journal = self.context.journal.as_ref();
        !counts(&queued.delivery, attempt)
            && (queued.came_back || queued.settler.still_holds(journal, &queued.tracker))
    }

    /// Makes the changes of all, in one commit, and reports every delivery.
    pub(super) async fn settle(&self, judged: Vec<Judged>) {
        let mut changes = Vec::new();
        let mut reports = Vec::new();
        let (mut notices, mut told) = (Vec::new(), HashSet::new());
        for one in judged {
            changes.extend(one.changes);
            reports.extend(one.reports);
            if let Some(notice) = one.notice
                && notice.is_news(&self.context).await
                && told.insert(notice.target())
            {
                notices.push((reports.len().saturating_sub(1), notice));
            }
        }
        if !changes.is_empty()
            && let Err(error) = self.context.store.apply(changes).await
        {
            // The next delivery to a gone target gets the same answer and tries again.
            tracing::warn!(error = %crate::telemetry::chain(&error), "gone or failing targets could not be noted");
        }
        // With the settlement of the delivery that found it out, and so exactly as often.
        for (at, notice) in notices {
            let entry = notice.entry(&self.context).await;
            if let Some((.., report)) = reports.get_mut(at) {
                report.follow_ups.extend(entry);
            }
        }
        for (settler, tracker, report) in reports {
            settler.report(tracker, report).await;
        }
    }

    fn course(&self, delivery: &Delivery, attempt: &Attempt, now: Millis) -> Course {
        let end =
            |state, is_kept| Course { state: Some(state), again: None, is_kept, is_gone: false };
        let is_unknown = matches!(attempt.outcome, Outcome::Unknown { .. });
        match delivery.target.policy().on_unknown {
            OnUnknown::Hold if is_unknown => return end(FinalState::Dead, true),
            OnUnknown::GiveUp if is_unknown => return end(FinalState::Dead, false),
            OnUnknown::Resend | OnUnknown::Hold | OnUnknown::GiveUp => {}
        }
        let provider = delivery.target.provider();
        // What was kept back uses up no tries.
        let made = if is_unsent(attempt) { 1 } else { delivery.attempt };
        let tried = Tried { provider, made, expires_at: delivery.expires_at };
        match self.context.settings.retry.after(tried, attempt, now, self.context.clock.chance()) {
            Next::Final(state) => end(state, state == FinalState::Dead),
            Next::Gone => Course { is_gone: true, ..end(FinalState::Rejected, false) },
            Next::Again(at) => {
                Course { state: None, again: Some(at), is_kept: false, is_gone: false }
            }
        }
    }

    fn report(
        &self,
        queued: Queued,
        attempt: &Attempt,
        course: Course,
        slot: Option<Slot>,
        now: Millis,
    ) -> (Settler, Arc<Tracker>, Report) {
        let Queued { delivery, overrides, tracker, settler, .. } = queued;
        let Course { state, again, is_kept, .. } = course;
        let events = vec![event(&delivery, attempt, now, again, state)];
        let mut report = Report { slot, events, ..Report::default() };
        let outcome = inbox::outcome(state);
        let target = delivery.target.reference();
        report.inbox.extend(inbox::step(&delivery.notification, target, delivery.id, outcome, now));
        let resolution = state.map_or(Resolution::Moved, Resolution::Final);
        report.resolved = vec![(delivery.id, resolution)];
        if state == Some(FinalState::Delivered) {
            self.context.counters.delivered(&delivery, now);
        }
        if again.is_some() || is_kept {
            let uncounted = u16::from(again.is_some() && !counts(&delivery, attempt));
            let work = Work::Retry {
                notification: (*delivery.notification).clone(),
                target,
                attempts: delivery.attempt - uncounted,
                overrides,
            };
            let is_first = delivery.attempt == 1 && uncounted == 1;
            match again {
                Some(at) if is_first => report.follow_ups.push(work.deferred(at)),
                Some(at) => report.follow_ups.push(work.follow_up(at)),
                None => report.dead.push((delivery.id, work.encode())),
            }
        }
        (settler, tracker, report)
    }
}

fn cause(attempt: &Attempt) -> Option<&'static str> {
    match attempt.outcome {
        Outcome::Delivered => None,
        Outcome::Retry { cause, .. }
        | Outcome::Unknown { cause }
        | Outcome::Gone { cause }
        | Outcome::Rejected { cause }
        | Outcome::Withheld { cause }
        | Outcome::Hold { cause } => Some(cause),
    }
}

/// False for what says nothing about the delivery: nothing was sent, or the credential is ours.
fn counts(delivery: &Delivery, attempt: &Attempt) -> bool {
    match attempt.outcome {
        // A relay refuses senders and letters one by one.
        Outcome::Hold { .. } => delivery.target.provider() == ProviderName::Email,
        _ => !is_unsent(attempt),
    }
}

/// True if the provider itself kept a delivery back for a while: a pace, a quota.
fn is_unsent(attempt: &Attempt) -> bool {
    matches!(attempt.outcome, Outcome::Retry { after: Some(_), .. })
        && attempt.status.is_none()
        && attempt.elapsed.is_zero()
}

/// Forgets a target that its provider calls gone.
fn removal(target: &Target) -> Option<Change> {
    tracing::info!(target = %target.key(), "the provider says this target is gone; it is removed");
    match target {
        Target::Apns { device, .. } | Target::Fcm { device, .. } => {
            Some(Change::RemoveDevice(*device))
        }
        Target::Slack { subscription, .. } | Target::Webhook { subscription, .. } => {
            Some(Change::DisableSubscription(*subscription))
        }
        // A mailbox may come back, and the user is more than it.
        Target::Email { .. } => None,
    }
}

/// What a try says about its target and its lane.
fn finished(provider: ProviderName, attempt: &Attempt) -> Finished {
    let is_hook = matches!(provider, ProviderName::Slack | ProviderName::Webhook);
    let wait = match attempt.outcome {
        Outcome::Retry { after: Some(wait), .. } if is_hook => Some(wait),
        Outcome::Retry { after: Some(wait), .. }
            if is_unsent(attempt) || provider == ProviderName::Fcm =>
        {
            Some(wait)
        }
        _ => None,
    };
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Finished {
        signal: signal(provider, attempt),
        wait_ms: wait.map(ms),
        is_lane_wait: !is_hook,
        service_ms: u32::try_from(ms(attempt.elapsed)).unwrap_or(u32::MAX),
        again_ms: None,
        stays_first: false,
    }
}

fn signal(provider: ProviderName, attempt: &Attempt) -> Signal {
    match (attempt.outcome, attempt.status) {
        (Outcome::Delivered | Outcome::Gone { .. } | Outcome::Rejected { .. }, Some(_)) => {
            Signal::Answered
        }
        (Outcome::Delivered | Outcome::Gone { .. } | Outcome::Rejected { .. }, None) => {
            Signal::Nothing
        }
        (Outcome::Withheld { .. }, _) => Signal::Nothing,
        // The credential is well: a rule of ours failed.
        (Outcome::Hold { cause: crate::dispatch::shape::FAILED }, None) => Signal::Nothing,
        (Outcome::Hold { .. }, _) => Signal::Refused,
        (Outcome::Unknown { .. }, _) => Signal::Overloaded,
        (Outcome::Retry { .. }, None) if is_unsent(attempt) => Signal::Nothing,
        (Outcome::Retry { .. }, None) => Signal::Unreachable,
        // A relay that refuses one mailbox for now is well.
        (Outcome::Retry { .. }, Some(_)) if provider == ProviderName::Email => Signal::Answered,
        (Outcome::Retry { .. }, Some(429)) => Signal::Throttled,
        (Outcome::Retry { .. }, Some(408 | 502..=504)) => Signal::Overloaded,
        (Outcome::Retry { .. }, Some(_)) => Signal::Failed,
    }
}

fn event(
    delivery: &Delivery,
    attempt: &Attempt,
    now: Millis,
    retry_at: Option<Millis>,
    state: Option<FinalState>,
) -> TimelineEvent {
    let cause = cause(attempt);
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

/// The message that goes out for `first` and everything merged into it.
pub(super) fn merged(first: &Delivery, merged: &[Queued]) -> Delivery {
    if merged.is_empty() {
        return first.clone();
    }
    let shown = merged.iter().map(|other| {
        let content = &other.delivery.notification.content;
        let text = if content.title.is_empty() { &content.body } else { &content.title };
        text.lines().next().unwrap_or_default().chars().take(MERGED_CHARS).collect()
    });
    let others: Vec<_> = shown.collect();
    let body = merged_body(&first.notification.content.body, &others);
    let content = Content { body, ..first.notification.content.clone() };
    let notification = Notification { content, ..(*first.notification).clone() };
    Delivery { notification: Arc::new(notification), ..first.clone() }
}

/// `body` and a line for each of the first `others`.
pub(super) fn merged_body(body: &str, others: &[String]) -> String {
    let mut text = format!("{body}\n\n{} more:", others.len());
    for other in others.iter().take(MERGED_SHOWN) {
        text.push_str("\n• ");
        text.push_str(other);
    }
    if others.len() > MERGED_SHOWN {
        text.push_str("\n… and ");
        text.push_str(&(others.len() - MERGED_SHOWN).to_string());
        text.push_str(" others");
    }
    text
}

/// Returns a delivery to the journal without counting a try: it cannot go out soon.
pub(super) async fn push_back(queued: Queued, due: Millis) {
    let Queued { delivery, overrides, tracker, settler, .. } = queued;
    let work = Work::Retry {
        notification: (*delivery.notification).clone(),
        target: delivery.target.reference(),
        attempts: delivery.attempt - 1,
        overrides,
    };
    let entry = if delivery.attempt == 1 { work.deferred(due) } else { work.follow_up(due) };
    let report = Report {
        resolved: vec![(delivery.id, Resolution::Moved)],
        follow_ups: vec![entry],
        ..Report::default()
    };
    settler.report(tracker, report).await;
}

/// Ends a delivery whose time was up while it waited.
pub(super) async fn expire(queued: Queued, at: Millis) {
    end(queued, at, FinalState::Expired, "ttl").await;
}

/// Ends a delivery that a newer one with its collapse key replaces.
pub(super) async fn collapse(queued: Queued, at: Millis) {
    end(queued, at, FinalState::Suppressed, "collapsed").await;
}

/// Ends a delivery that was taken back while it waited.
pub(super) async fn cancel(queued: Queued, at: Millis) {
    end(queued, at, FinalState::Suppressed, CANCELED).await;
}

async fn end(queued: Queued, at: Millis, state: FinalState, cause: &str) {
    let Queued { delivery, tracker, settler, .. } = queued;
    let mut report =
        Report { resolved: vec![(delivery.id, Resolution::Final(state))], ..Report::default() };
    report.events.push(TimelineEvent::Settled {
        at,
        delivery: delivery.id,
        target: delivery.target.key(),
        state,
        cause: cause.to_owned(),
    });
    let outcome = inbox::outcome(Some(state));
    let target = delivery.target.reference();
    report.inbox.extend(inbox::step(&delivery.notification, target, delivery.id, outcome, at));
    settler.report(tracker, report).await;
}

/// True if the timeline says that one of `targets` was delivered. Asks until it can be read, since a
/// later step must not go out in vain; one that never can be says nothing.
pub(super) async fn any_delivered(
    journal: &dyn Journal,
    notification: &Notification,
    targets: &[TargetRef],
) -> bool {
    let wanted: Vec<_> =
        targets.iter().map(|t| DeliveryId::derive(notification.id, &t.key())).collect();
    let timeline = loop {
        match journal.timeline(notification.org, notification.id).await {
            Ok(Some(timeline)) => break timeline,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!(notification.id = %notification.id, %error, "a timeline cannot be read");
                if error == JournalError::Unreadable {
                    return false;
                }
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    };
    timeline.events.iter().filter_map(|event| decode_event(event)).any(|event| {
        let finished = event.finished();
        finished.is_some_and(|(id, state)| state == FinalState::Delivered && wanted.contains(&id))
    })
}
