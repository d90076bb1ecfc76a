//! From the rules' answers to deliveries: plans, their later steps, and what is held or dropped.

use crate::dispatch::expand::{self, Expanded};
use crate::dispatch::finish::{self, CANCELED};
use crate::dispatch::job::{EXPANDED, Job, Outgoing};
use crate::dispatch::line::Line;
use crate::dispatch::shard::Shard;
use crate::journal::Resolution;
use crate::model::{DeliveryId, FinalState, Millis, Part, Target, TargetRef, TimelineEvent};
use crate::rules::{Plan, Routed, Step, Verdict};
use crate::work::{Overrides, Work};
use std::collections::HashSet;

/// A required rule that failed is asked again after this long.
const FAILED_RULE_MS: u64 = 30_000;

/// A plan's steps: their targets, and how long each waits before the next.
pub(super) type Steps = Vec<(Vec<TargetRef>, u32)>;

impl Shard {
    pub(super) fn follow(
        &self,
        job: &mut Job,
        line: &Line,
        recipient: Expanded,
        (routed, now): (Routed, Millis),
    ) {
        if !routed.decisions.is_empty() {
            job.report.events.push(TimelineEvent::Ruled {
                at: now,
                recipient: recipient.recipient.key(),
                decisions: routed.decisions,
            });
        }
        match routed.verdict {
            _ if self.context.journal.is_canceled(job.notification.id) => {
                job.finish_all(now, &recipient, FinalState::Suppressed, CANCELED);
            }
            Verdict::Deliver(plan) => self.deliver(job, line, recipient, (plan, now)),
            Verdict::HoldUntil(until) => {
                job.hold(now, &recipient, until.max(now.plus(1)), String::from("rule"));
            }
            Verdict::Digest(digest) => {
                self.collect(job, &recipient, (digest, now));
            }
            Verdict::Drop { rule, code } => {
                let cause = format!("{rule}:{code}");
                job.finish_all(now, &recipient, FinalState::Suppressed, &cause);
            }
            Verdict::Failed { rule, kind } => {
                let until = now.plus(FAILED_RULE_MS);
                job.hold(now, &recipient, until, format!("{rule}:{kind}"));
            }
        }
    }

    /// Sends the first step of a plan and leaves the later ones to a timer.
    pub(super) fn deliver(
        &self,
        job: &mut Job,
        line: &Line,
        mut recipient: Expanded,
        (plan, now): (Plan, Millis),
    ) {
        let overrides = Overrides {
            priority: plan.priority,
            collapse_key: plan.collapse_key,
            expires_at: plan.expires_at,
        };
        if takes_all(&plan.steps, recipient.targets.len()) {
            for target in recipient.targets {
                self.send(job, line, (target, 1, false), overrides.clone());
            }
            return;
        }
        let (mut steps, chosen, left_out) =
            split(&plan.steps, std::mem::take(&mut recipient.targets));
        recipient.targets = left_out;
        job.finish_all(now, &recipient, FinalState::Suppressed, "not_routed");
        if steps.is_empty() {
            return;
        }
        let (first, within_ms) = steps.remove(0);
        if !steps.is_empty() {
            let until = now.plus(u64::from(within_ms));
            self.later_steps(job, &first, steps, until, overrides.clone());
        }
        for target in chosen {
            if first.contains(&target.reference()) {
                self.send(job, line, (target, 1, false), overrides.clone());
            }
        }
    }

    fn later_steps(
        &self,
        job: &mut Job,
        before: &[TargetRef],
        steps: Steps,
        until: Millis,
        overrides: Overrides,
    ) {
        let named = before.iter().map(TargetRef::key).collect::<Vec<_>>().join("+");
        let marker = job.marker(&format!("step:{named}"));
        if !job.settled.insert(marker) {
            return;
        }
        job.report.resolved.push((marker, Resolution::Moved));
        let recipient = steps.first().and_then(|(targets, _)| targets.first()).map(TargetRef::key);
        job.report.events.push(TimelineEvent::Held {
            at: self.context.clock.now(),
            recipient: recipient.unwrap_or_default(),
            until,
            cause: String::from("later_step"),
        });
        let work = Work::Step {
            notification: (*job.notification).clone(),
            unless: before.to_vec(),
            steps,
            overrides,
        };
        job.report.follow_ups.push(work.follow_up(until));
    }

    /// A later step of a plan: sent if none of the targets before it was delivered.
    pub(super) async fn step(
        &self,
        mut job: Job,
        line: &Line,
        unless: Vec<TargetRef>,
        (mut steps, overrides): (Steps, Overrides),
    ) -> Job {
        let now = self.context.clock.now();
        let journal = self.context.journal.as_ref();
        let is_canceled = journal.is_canceled(job.notification.id);
        let marker = job.marker(EXPANDED);
        let is_first = job.settled.insert(marker);
        if !is_first {
            // An earlier claim decided to send, and left the steps after this one to the journal.
            steps.truncate(1);
        }
        let reached = is_canceled
            || (is_first && finish::any_delivered(journal, &job.notification, &unless).await);
        let all: Vec<_> = steps.iter().flat_map(|(targets, _)| targets.clone()).collect();
        if is_first {
            job.report.resolved.push((marker, Resolution::Moved));
            job.report.events.push(TimelineEvent::Expanded {
                at: now,
                part: Part::Step,
                deliveries: 0,
                unknown_recipients: 0,
                no_device: 0,
                more: false,
            });
        }
        if reached {
            for target in all {
                let cause = if is_canceled { CANCELED } else { "earlier_step_delivered" };
                job.suppress(target, now, cause);
            }
        } else if !steps.is_empty() {
            let (first, within_ms) = steps.remove(0);
            if !steps.is_empty() {
                let mut before = unless;
                before.extend(&first);
                let until = now.plus(u64::from(within_ms));
                self.later_steps(&mut job, &before, steps, until, overrides.clone());
            }
            for target in first {
                self.retry(&mut job, line, (target, 0, false), overrides.clone()).await;
            }
        }
        job
    }

    /// A delivery whose time has come again, to the target as it is now.
    pub(super) async fn retry(
        &self,
        job: &mut Job,
        line: &Line,
        (target, attempts, came_back): (TargetRef, u16, bool),
        overrides: Overrides,
    ) {
        let store = self.context.store.as_ref();
        let found = loop {
            match expand::target(store, &job.notification, target).await {
                Ok(found) => break found,
                Err(error) => self.store_failed(&error).await,
            }
        };
        match found {
            Some(target) => self.send(job, line, (target, attempts + 1, came_back), overrides),
            None => {
                let now = self.context.clock.now();
                job.settle(target, now, FinalState::Rejected, "target_removed");
                if came_back {
                    job.leave(target, attempts);
                }
            }
        }
    }

    /// Notes a delivery that is to go out, or settles it if it cannot or must not.
    fn send(
        &self,
        job: &mut Job,
        line: &Line,
        (target, attempt, came_back): (Target, u16, bool),
        overrides: Overrides,
    ) {
        let id = DeliveryId::derive(job.notification.id, &target.key());
        if !job.settled.insert(id) {
            return;
        }
        let now = self.context.clock.now();
        let expires_at = self.context.expiry(&job.notification, target.provider());
        let expires_at = overrides.expires_at.map_or(expires_at, |at| at.min(expires_at));
        let ended = match self.context.providers.of(&target) {
            _ if self.context.journal.is_canceled(job.notification.id) => {
                (FinalState::Suppressed, CANCELED)
            }
            _ if expires_at <= now => (FinalState::Expired, "ttl"),
            None => (FinalState::Rejected, "provider_not_configured"),
            Some(provider) => {
                let channel = line.channel(&target, provider);
                job.outgoing.push(Outgoing {
                    id,
                    target,
                    attempt,
                    overrides,
                    expires_at,
                    channel,
                    came_back,
                });
                return;
            }
        };
        let (state, cause) = ended;
        job.end(id, target.reference(), now, state, cause);
        if came_back {
            job.leave(target.reference(), attempt - 1);
        }
    }
}

/// True if the plan is to send to all `targets` at once, as they are.
fn takes_all(steps: &[Step], targets: usize) -> bool {
    matches!(steps, [all] if all.targets.iter().copied().eq(0..targets))
}

/// The plan's steps by target, the targets it names, and those it leaves out.
fn split(plan: &[Step], targets: Vec<Target>) -> (Steps, Vec<Target>, Vec<Target>) {
    let named: Vec<_> = targets.iter().map(Target::reference).collect();
    let reference = |index: &usize| named.get(*index).copied();
    let steps: Steps = plan
        .iter()
        .map(|step| (step.targets.iter().filter_map(reference).collect(), step.within_ms))
        .collect();
    let mentioned: HashSet<_> = steps.iter().flat_map(|(targets, _)| targets.clone()).collect();
    let (chosen, left_out) = targets.into_iter().partition(|t| mentioned.contains(&t.reference()));
    (steps, chosen, left_out)
}
