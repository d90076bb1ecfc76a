//! One shard's loop: claim, expand, ask the rules, hand to lanes.

use crate::dispatch::expand::{self, Expanded, Expansion, Sources};
use crate::dispatch::job::Job;
use crate::dispatch::lane::{Lanes, Queued};
use crate::dispatch::settle::{Report, Settler, Tracker};
use crate::dispatch::{Context, finish, inbox};
use crate::journal::{Claim, EntryKind, JournalError, Resolution, Unlimited};
use crate::model::{
    Delivery, DeliveryId, FinalState, Millis, Notification, Part, ShardId, Target, TargetRef,
    TimelineEvent, UserId,
};
use crate::rules::{Plan, RouteItem, Routed, Step, Verdict};
use crate::store::{Change, InboxChange, StoreError};
use crate::work::{Overrides, RecipientRef, Work, decode_changes};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Cause of deliveries that were taken back before they went out.
const CANCELED: &str = "canceled";
const STORE_PAUSE: Duration = Duration::from_millis(200);
/// A delivery that found its lane full and stuck comes back after this long.
const FULL_LANE_MS: u64 = 2_000;
/// A required rule that failed is asked again after this long.
const FAILED_RULE_MS: u64 = 30_000;

/// Runs until told to stop.
pub(super) async fn run(
    context: Arc<Context>,
    lanes: Arc<Lanes>,
    shard: ShardId,
    mut stop: watch::Receiver<bool>,
) {
    let capacity = context.settings.max_in_flight + context.settings.claim_batch;
    let (settler, settling) = Settler::new(&context, shard, capacity);
    let settling = tokio::spawn(settling);
    // Owned, so that a panic ends it: leases that nobody works under must run out.
    let mut renewing = JoinSet::new();
    renewing.spawn(renew(Arc::clone(&context), shard, settler.clone()));
    let mut worker = Shard { context, lanes, settler, shard };
    while !*stop.borrow() {
        let max = worker.context.settings.claim_batch;
        let claims = tokio::select! {
            claims = worker.context.journal.claim(shard, max, &Unlimited) => claims,
            _ = stop.changed() => break,
        };
        match claims {
            Ok(claims) => worker.work(claims).await,
            Err(JournalError::Closed) => break,
            Err(error) => {
                tracing::error!(shard = shard.0, %error, "nothing can be claimed");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    }
    renewing.shutdown().await;
    // The settling loop ends when the last delivery in flight has reported.
    drop(worker);
    settling.await.ok();
}

async fn renew(context: Arc<Context>, shard: ShardId, settler: Settler) {
    loop {
        tokio::time::sleep(context.settings.lease / 3).await;
        context.journal.renew(shard, &settler.held());
    }
}

struct Shard {
    context: Arc<Context>,
    lanes: Arc<Lanes>,
    settler: Settler,
    shard: ShardId,
}

impl Shard {
    async fn work(&mut self, claims: Vec<Claim>) {
        let (changes, claims): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|claim| claim.kind == EntryKind::Change);
        self.changes(changes).await;
        let mut asking = Vec::new();
        for claim in claims {
            self.settler.hold(claim.id);
            match Work::decode(&claim.payload) {
                Some(Work::Retry { notification, target, attempts, overrides }) => {
                    let mut job = Job::new(&claim, notification);
                    self.retry(&mut job, target, attempts, overrides).await;
                    self.close(job).await;
                }
                Some(Work::Step { notification, unless, steps, overrides }) => {
                    let job = Job::new(&claim, notification);
                    self.step(job, unless, steps, overrides).await;
                }
                Some(work) => asking.push(self.expand(&claim, work).await),
                None => self.quarantine(&claim).await,
            }
        }
        self.route(asking).await;
    }

    /// Lets the journal forget changes once the records hold them durably.
    async fn changes(&self, claims: Vec<Claim>) {
        if claims.is_empty() {
            return;
        }
        let mut logged = Vec::with_capacity(claims.len());
        let mut kept = Vec::with_capacity(claims.len());
        for claim in claims {
            self.settler.hold(claim.id);
            match decode_changes(&claim.payload) {
                Some(change) => {
                    logged.push(change);
                    kept.push(claim);
                }
                None => self.quarantine(&claim).await,
            }
        }
        while let Err(error) = self.context.store.redo(logged.clone()).await {
            self.store_failed(&error).await;
        }
        for claim in kept {
            self.settler.report(Tracker::new(&claim), Report::default()).await;
        }
    }

    /// Reports the job's own unit: its events, follow-ups and what it settled without sending.
    async fn close(&self, job: Job) {
        self.settler.report(job.tracker, job.report).await;
    }

    /// An entry nobody can read is put with the dead letters, so that the rest goes on.
    async fn quarantine(&self, claim: &Claim) {
        tracing::error!(shard = self.shard.0, notification.id = %claim.notification, "an entry cannot be read by this version; it is kept as a dead letter");
        let delivery = DeliveryId::derive(claim.notification, "entry");
        let report = Report {
            resolved: vec![(delivery, Resolution::Final(FinalState::Dead))],
            events: vec![TimelineEvent::Settled {
                at: self.context.clock.now(),
                delivery,
                target: String::from("entry"),
                state: FinalState::Dead,
                cause: String::from("unreadable"),
            }],
            dead: vec![(delivery, claim.payload.clone())],
            ..Report::default()
        };
        self.settler.report(Tracker::new(claim), report).await;
    }

    async fn expand(&self, claim: &Claim, work: Work) -> Job {
        let (part, after, only) = match &work {
            Work::Chunk { after, .. } => (Part::Chunk, Some(*after), None),
            Work::Recipient { recipient, .. } => (Part::Resumed, None, Some(*recipient)),
            Work::Notification(_) | Work::Step { .. } | Work::Retry { .. } => {
                (Part::Root, None, None)
            }
        };
        let mut job = Job::new(claim, work.notification().clone());
        let Expansion { recipients, unknown, no_device, next } =
            self.resolve(&job.notification, after, only).await;
        let marker = job.marker("expanded");
        if !job.settled.contains(&marker) {
            let deliveries: usize = recipients.iter().map(|r| r.targets.len()).sum();
            job.report.resolved.push((marker, Resolution::Moved));
            job.report.events.push(TimelineEvent::Expanded {
                at: self.context.clock.now(),
                part,
                deliveries: u32::try_from(deliveries).unwrap_or(u32::MAX),
                unknown_recipients: unknown,
                no_device,
                more: next.is_some(),
            });
            if let Some(after) = next {
                let chunk = Work::Chunk { notification: (*job.notification).clone(), after };
                job.report.follow_ups.push(chunk.follow_up(self.context.clock.now()));
            }
        }
        let held = |r: &Expanded| job.marker(&format!("hold:{}", r.recipient.key()));
        let open: Vec<_> =
            recipients.into_iter().filter(|r| !job.settled.contains(&held(r))).collect();
        job.recipients = open;
        job
    }

    /// Asks the store until it answers: an entry is never given up because records are away.
    async fn resolve(
        &self,
        notification: &Notification,
        after: Option<UserId>,
        only: Option<RecipientRef>,
    ) -> Expansion {
        let store = self.context.store.as_ref();
        let sources = Sources { store, can_mail: self.context.providers.email.is_some() };
        loop {
            let answer = match only {
                None => expand::page(sources, notification, after).await,
                Some(recipient) => expand::only(sources, notification, recipient).await,
            };
            match answer {
                Ok(expansion) => return expansion,
                Err(error) => self.store_failed(&error).await,
            }
        }
    }

    async fn store_failed(&self, error: &StoreError) {
        tracing::error!(shard = self.shard.0, error = %crate::telemetry::chain(error), "records cannot be read; trying again");
        tokio::time::sleep(STORE_PAUSE).await;
    }

    /// One question to the rules for everything that was claimed together.
    async fn route(&self, mut jobs: Vec<Job>) {
        let items = questions(&jobs);
        let now = self.context.clock.now();
        let answers =
            if items.is_empty() { Vec::new() } else { self.context.rules.route(now, items).await };
        // Before anything is sent: a result must find its entry.
        let entries = inbox::entries(&mut jobs, &answers, now);
        self.put_entries(entries).await;
        let mut answers = answers.into_iter();
        for mut job in jobs {
            for recipient in std::mem::take(&mut job.recipients) {
                if let Some(routed) = answers.next() {
                    self.follow(&mut job, recipient, routed, now).await;
                }
            }
            self.close(job).await;
        }
    }

    async fn put_entries(&self, changes: Vec<InboxChange>) {
        for change in changes {
            let apply = || self.context.store.apply(vec![Change::Inbox(change.clone())]);
            while let Err(error) = apply().await {
                self.store_failed(&error).await;
            }
        }
    }

    async fn follow(&self, job: &mut Job, recipient: Expanded, routed: Routed, now: Millis) {
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
            Verdict::Deliver(plan) => self.deliver(job, recipient, plan, now).await,
            Verdict::HoldUntil(until) => {
                job.hold(now, &recipient, until.max(now.plus(1)), String::from("rule"));
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
    async fn deliver(&self, job: &mut Job, mut recipient: Expanded, plan: Plan, now: Millis) {
        let overrides = Overrides {
            priority: plan.priority,
            collapse_key: plan.collapse_key,
            expires_at: plan.expires_at,
        };
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
                self.send(job, target, 1, overrides.clone()).await;
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
    async fn step(
        &self,
        mut job: Job,
        unless: Vec<TargetRef>,
        mut steps: Steps,
        overrides: Overrides,
    ) {
        let now = self.context.clock.now();
        let is_canceled = self.context.journal.is_canceled(job.notification.id);
        let reached =
            is_canceled || finish::any_delivered(&self.context, &job.notification, &unless).await;
        let all: Vec<_> = steps.iter().flat_map(|(targets, _)| targets.clone()).collect();
        if job.settled.insert(job.marker("expanded")) {
            let marker = job.marker("expanded");
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
                self.retry(&mut job, target, 0, overrides.clone()).await;
            }
        }
        self.close(job).await;
    }

    /// A delivery whose time has come again, to the target as it is now.
    async fn retry(&self, job: &mut Job, target: TargetRef, attempts: u16, overrides: Overrides) {
        let store = self.context.store.as_ref();
        let found = loop {
            match expand::target(store, &job.notification, target).await {
                Ok(found) => break found,
                Err(error) => self.store_failed(&error).await,
            }
        };
        match found {
            Some(target) => self.send(job, target, attempts + 1, overrides).await,
            None => {
                let now = self.context.clock.now();
                job.settle(target, now, FinalState::Rejected, "target_removed");
            }
        }
    }

    /// Puts one delivery into its lane, or settles it if it cannot or must not go out.
    async fn send(&self, job: &mut Job, target: Target, attempt: u16, overrides: Overrides) {
        let id = DeliveryId::derive(job.notification.id, &target.key());
        if !job.settled.insert(id) {
            return;
        }
        let now = self.context.clock.now();
        let expires_at = self.context.expiry(&job.notification, target.provider());
        let expires_at = overrides.expires_at.map_or(expires_at, |at| at.min(expires_at));
        let provider = self.context.providers.of(&target).cloned();
        let end = match &provider {
            _ if self.context.journal.is_canceled(job.notification.id) => {
                Some((FinalState::Suppressed, CANCELED))
            }
            _ if expires_at <= now => Some((FinalState::Expired, "ttl")),
            None => Some((FinalState::Rejected, "provider_not_configured")),
            Some(_) => None,
        };
        if let Some((state, cause)) = end {
            job.end(id, target.reference(), now, state, cause);
            return;
        }
        let (Some(provider), Ok(permit)) =
            (provider, Arc::clone(&self.context.in_flight).acquire_owned().await)
        else {
            return;
        };
        job.tracker.expect();
        let delivery = Delivery {
            id,
            notification: Arc::clone(&job.notification),
            target,
            attempt,
            priority: overrides.priority.unwrap_or(job.notification.priority),
            collapse_key: overrides
                .collapse_key
                .clone()
                .or_else(|| job.notification.collapse_key.clone()),
            expires_at,
        };
        let queued = Queued {
            delivery,
            overrides,
            tracker: Arc::clone(&job.tracker),
            settler: self.settler.clone(),
            permit,
        };
        let in_flight_max = self.context.lane_in_flight(provider.name());
        if let Err(back) = self.lanes.put(&provider, in_flight_max, queued).await {
            finish::push_back(*back, now.plus(FULL_LANE_MS)).await;
        }
    }
}

fn questions(jobs: &[Job]) -> Vec<RouteItem> {
    let mut items = Vec::new();
    for job in jobs {
        items.extend(job.recipients.iter().map(|recipient| RouteItem {
            notification: Arc::clone(&job.notification),
            recipient: recipient.view.clone(),
            attempt: 1,
        }));
    }
    items
}

/// A plan's steps: their targets, and how long each waits before the next.
type Steps = Vec<(Vec<TargetRef>, u32)>;

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
