//! A claim being worked on: what is left of it, and what its report will say.

use crate::dispatch::expand::Expanded;
use crate::dispatch::inbox;
use crate::dispatch::line::Channel;
use crate::dispatch::sched::Absent;
use crate::dispatch::settle::{Report, Tracker};
use crate::journal::{Claim, Resolution};
use crate::model::{
    DeliveryId, FinalState, InboxOutcome, Millis, Notification, NotificationId, Part, Target,
    TargetRef, TimelineEvent, UserId,
};
use crate::work::{Overrides, Work};
use std::collections::HashSet;
use std::sync::Arc;

/// A delivery that is to go out.
pub(super) struct Outgoing {
    pub(super) id: DeliveryId,
    pub(super) target: Target,
    /// 1 for the first try.
    pub(super) attempt: u16,
    pub(super) overrides: Overrides,
    pub(super) expires_at: Millis,
    pub(super) channel: Arc<Channel>,
    /// It waited in the journal before.
    pub(super) came_back: bool,
}

/// A claim with what is left of it to do.
pub(super) struct Job {
    pub(super) tracker: Arc<Tracker>,
    pub(super) settled: HashSet<DeliveryId>,
    pub(super) notification: Arc<Notification>,
    pub(super) report: Report,
    pub(super) recipients: Vec<Expanded>,
    pub(super) outgoing: Vec<Outgoing>,
    /// Deliveries that came back from the journal and go out no more.
    pub(super) gone: Vec<Absent>,
    /// What part of the audience this is the first claim of.
    pub(super) first_of: Option<Portion>,
}

/// A part of an audience, and the user a chunk starts after.
pub(super) type Portion = (Part, Option<UserId>);

/// A stand-in delivery that marks a step of a claim as done, should its entry be claimed again.
pub(super) fn marker(notification: NotificationId, step: &str) -> DeliveryId {
    DeliveryId::derive(notification, &format!("marker:{step}"))
}

/// Marks an expansion after which nothing is left to send, or whose plan found no room in a commit.
pub(super) const EXPANDED: &str = "expanded";
/// Marks an expansion whose plan is in the timeline.
pub(super) const PLANNED: &str = "planned";

impl Job {
    pub(super) fn new(claim: &Claim, notification: Notification) -> Self {
        Self {
            tracker: Tracker::new(claim),
            settled: claim.settled.iter().copied().collect(),
            notification: Arc::new(notification),
            report: Report::default(),
            recipients: Vec::new(),
            outgoing: Vec::new(),
            gone: Vec::new(),
            first_of: None,
        }
    }

    pub(super) fn marker(&self, step: &str) -> DeliveryId {
        marker(self.notification.id, step)
    }

    /// True if an earlier claim did this step. Costs nothing for an entry claimed for the first time.
    pub(super) fn has_done(&self, step: &str) -> bool {
        !self.settled.is_empty() && self.settled.contains(&self.marker(step))
    }

    /// Notes what is about to be sent, for whoever claims the entry again: by then the records and
    /// the rules may say something else, and what was announced must come to its end.
    pub(super) fn plan(&mut self) {
        let Some((part, after)) = self.first_of.take() else { return };
        let step = if self.outgoing.is_empty() { EXPANDED } else { PLANNED };
        // Before what moved with an entry: see `settle::split`.
        self.report.resolved.insert(0, (self.marker(step), Resolution::Moved));
        let mut to: Vec<(Overrides, Vec<TargetRef>)> = Vec::new();
        for Outgoing { target, overrides, .. } in &self.outgoing {
            match to.last_mut() {
                Some((last, targets)) if last == overrides => targets.push(target.reference()),
                _ => to.push((overrides.clone(), vec![target.reference()])),
            }
        }
        if !to.is_empty() {
            self.report.events.push(TimelineEvent::Planned { part, after, to });
        }
    }

    pub(super) fn finish_all(
        &mut self,
        now: Millis,
        recipient: &Expanded,
        state: FinalState,
        cause: &str,
    ) {
        for target in &recipient.targets {
            self.settle(target.reference(), now, state, cause);
        }
    }

    /// Sets a whole recipient aside until `until`.
    pub(super) fn hold(&mut self, now: Millis, recipient: &Expanded, until: Millis, cause: String) {
        let work = Work::Recipient {
            notification: (*self.notification).clone(),
            recipient: recipient.recipient,
        };
        self.hold_as(now, recipient, (until, cause), &work);
    }

    /// Sets a whole recipient aside until an instant, when it is to be gone on with as `work`.
    pub(super) fn hold_as(
        &mut self,
        now: Millis,
        recipient: &Expanded,
        (until, cause): (Millis, String),
        work: &Work,
    ) {
        let key = recipient.recipient.key();
        // Counted when it is resumed, with the targets it has then.
        let held = u32::try_from(recipient.targets.len()).unwrap_or(u32::MAX);
        for event in &mut self.report.events {
            if let TimelineEvent::Expanded { deliveries, .. } = event {
                *deliveries = deliveries.saturating_sub(held);
            }
        }
        let marker = self.marker(&format!("hold:{key}"));
        self.report.resolved.push((marker, Resolution::Moved));
        self.report.events.push(TimelineEvent::Held { at: now, recipient: key, until, cause });
        self.report.follow_ups.push(work.follow_up(until));
    }

    /// Settles a target that no step of the plan needs any more.
    pub(super) fn suppress(&mut self, target: TargetRef, now: Millis, cause: &str) {
        self.settle(target, now, FinalState::Suppressed, cause);
    }

    /// Settles a delivery without a try, unless an earlier claim did.
    pub(super) fn settle(
        &mut self,
        target: TargetRef,
        now: Millis,
        state: FinalState,
        cause: &str,
    ) {
        let delivery = DeliveryId::derive(self.notification.id, &target.key());
        if self.settled.insert(delivery) {
            self.end(delivery, target, now, state, cause);
        }
    }

    /// Notes that a delivery ended which the scheduler had sent back after `attempts`.
    pub(super) fn leave(&mut self, target: TargetRef, attempts: u16) {
        let (org, notification) = (self.notification.org, self.notification.id);
        let id = DeliveryId::derive(notification, &target.key());
        self.gone.push(Absent { org, target, id, notification, is_first: attempts == 0 });
    }

    /// Notes the end of a delivery.
    pub(super) fn end(
        &mut self,
        delivery: DeliveryId,
        target: TargetRef,
        at: Millis,
        state: FinalState,
        cause: &str,
    ) {
        self.report.resolved.push((delivery, Resolution::Final(state)));
        let step = inbox::step(&self.notification, target, delivery, InboxOutcome::Failed, at);
        self.report.inbox.extend(step);
        let (target, cause) = (target.key(), cause.to_owned());
        self.report.events.push(TimelineEvent::Settled { at, delivery, target, state, cause });
    }
}
