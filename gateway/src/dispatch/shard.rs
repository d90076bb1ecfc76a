//! One shard's loop: claim, expand, ask the rules, line up.

use crate::crash::{self, Stage};
use crate::dispatch::digest::Digests;
use crate::dispatch::expand::{self, Expanded, Expansion, Sources};
use crate::dispatch::job::{EXPANDED, Job, Outgoing, PLANNED, Portion};
use crate::dispatch::line::{Line, Queued, Share};
use crate::dispatch::settle::{Report, Settler, Tracker};
use crate::dispatch::{Context, finish, inbox};
use crate::journal::{Claim, EntryKind, EventPlace, Journal, JournalError, Resolution};
use crate::lifecycle::{Caught, report_panic};
use crate::model::{
    Delivery, DeliveryId, FinalState, Millis, Notification, Part, ShardId, Target, TargetRef,
    TimelineEvent, UserId,
};
use crate::rules::{Plan, RouteItem, Routed};
use crate::store::{Change, InboxChange, StoreError};
use crate::work::{ENTRY_TARGET, Overrides, RecipientRef, Work, decode_changes, decode_event};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(super) const STORE_PAUSE: Duration = Duration::from_millis(200);
/// An entry that makes its loop panic this often is given up.
const PANICS_MAX: usize = 3;
/// How often a plan is looked for, a pause apart: for as long as an index may be behind.
const PLAN_LOOKS: usize = 300;
const EVENTS_PAGE: usize = 1024;
/// Claims read side by side in one place; more of them would each get a place and a waker of its own.
const TOGETHER: usize = 16;

/// Deliveries lined up together; for all of a claim at once the kernel would have to clear new memory.
const PUT_TOGETHER: usize = 64;

/// Runs until told to stop.
pub(super) async fn run(
    context: Arc<Context>,
    line: Arc<Line>,
    shard: ShardId,
    mut stop: watch::Receiver<bool>,
) {
    let settings = &context.settings;
    let capacity = settings.max_in_flight + settings.queue + settings.claim_batch;
    let (settler, settling) = Settler::new(&context, shard, capacity);
    let settling = tokio::spawn(settling);
    // Owned, so that a panic ends it: leases that nobody works under must run out.
    let mut renewing = JoinSet::new();
    renewing.spawn(renew(Arc::clone(&context), shard, settler.clone()));
    let mut share = Share { line, shard, per_entry: 1 };
    let worker = Shard { context, settler, shard, digests: Mutex::default() };
    while !*stop.borrow() {
        let max = worker.context.settings.claim_batch;
        let claims = tokio::select! {
            biased;
            _ = stop.changed() => break,
            claims = worker.context.journal.claim(shard, max, &share) => claims,
        };
        match claims {
            Ok(claims) => {
                crash::point(Stage::Leased);
                let (entries, deliveries) = (claims.len(), worker.work(claims, &share.line).await);
                let per_entry = deliveries.div_ceil(entries.max(1));
                share.per_entry = (share.per_entry * 3 + per_entry).div_ceil(4);
            }
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
    drop(share);
    settling.await.ok();
}

async fn renew(context: Arc<Context>, shard: ShardId, settler: Settler) {
    loop {
        tokio::time::sleep(context.settings.lease / 3).await;
        context.journal.renew(shard, &settler.held());
    }
}

pub(super) struct Shard {
    pub(super) context: Arc<Context>,
    settler: Settler,
    shard: ShardId,
    pub(super) digests: Mutex<Digests>,
}

/// Claims that were read, and what they come to. Nothing of it has happened yet.
#[derive(Default)]
struct Planned {
    jobs: Vec<Job>,
    unreadable: Vec<Claim>,
}

/// What a claim was read as.
enum Read {
    /// To be lined up as it is.
    Ready(Job),
    /// The rules are asked first.
    Asking(Job),
    /// Of a digest of this recipient and key.
    Collected(RecipientRef, String, Job),
    Unreadable,
}

impl Shard {
    /// Plans and starts the work of `claims`; answers how many deliveries that is.
    async fn work(&self, claims: Vec<Claim>, line: &Arc<Line>) -> usize {
        let (changes, claims): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|claim| claim.kind == EntryKind::Change);
        self.changes(changes).await;
        if claims.is_empty() {
            return 0;
        }
        self.settler.hold(claims.iter().map(|claim| claim.id));
        if claims.len() > 1 {
            match Caught::new(self.plan(&claims, line)).await {
                Ok(planned) => return self.start(planned, line).await,
                Err(panic) => report_panic("shard", panic.as_ref()),
            }
        }
        // One of them did that, or there is only one: each on its own.
        let mut deliveries = 0;
        for claim in claims {
            deliveries += self.alone(claim, line).await;
        }
        deliveries
    }

    /// Works on one claim that may be what panics; after `PANICS_MAX` times it is given up.
    async fn alone(&self, claim: Claim, line: &Arc<Line>) -> usize {
        let claims = [claim];
        for _ in 0..PANICS_MAX {
            match Caught::new(self.plan(&claims, line)).await {
                Ok(planned) => return self.start(planned, line).await,
                Err(panic) => report_panic("shard", panic.as_ref()),
            }
        }
        let [claim] = claims;
        tracing::error!(shard = self.shard.0, notification.id = %claim.notification, "an entry made the dispatcher panic again and again; it is kept as a dead letter");
        if let Some(Work::Retry { notification, target, attempts, .. }) =
            Work::decode(&claim.payload)
        {
            let mut job = Job::new(&claim, notification);
            job.leave(target, attempts);
            line.gone(job.gone);
        }
        self.quarantine(&claim, finish::PANICKED).await;
        0
    }

    /// Reads, expands and routes claims. Done again after a panic, so it starts nothing.
    async fn plan(&self, claims: &[Claim], line: &Line) -> Planned {
        let mut planned = Planned::default();
        let mut asking = Vec::with_capacity(claims.len());
        let mut collected = Vec::new();
        // Together, so that records far away are read for all of them at once.
        let parts = claims.chunks(TOGETHER);
        let parts = parts.map(|some| join_all(some.iter().map(|claim| self.read(claim, line))));
        let read = join_all(parts).await;
        for (claim, read) in claims.iter().zip(read.into_iter().flatten()) {
            match read {
                Read::Ready(job) => planned.jobs.push(job),
                Read::Asking(job) => asking.push(job),
                Read::Collected(recipient, key, job) => collected.push((recipient, key, job)),
                Read::Unreadable => planned.unreadable.push(claim.clone()),
            }
        }
        planned.jobs.extend(self.flush(collected));
        let mut routed = self.route(asking, line).await;
        // Mostly they are all, and stay where they are.
        if !planned.jobs.is_empty() {
            routed.splice(..0, planned.jobs);
        }
        planned.jobs = routed;
        planned
    }

    async fn read(&self, claim: &Claim, line: &Line) -> Read {
        match Work::decode(&claim.payload) {
            Some(Work::Retry { notification, target, attempts, overrides }) => {
                let mut job = Job::new(claim, notification);
                self.retry(&mut job, line, (target, attempts, true), overrides).await;
                Read::Ready(job)
            }
            Some(Work::Step { notification, unless, steps, overrides }) => {
                let job = Job::new(claim, notification);
                Read::Ready(self.step(job, line, unless, (steps, overrides)).await)
            }
            Some(Work::Collected { notification, recipient, key }) => {
                let work = Work::Recipient { notification, recipient };
                Read::Collected(recipient, key, self.expand(claim, work, line).await)
            }
            Some(Work::Digested { notification, recipient }) => {
                let work = Work::Recipient { notification, recipient };
                let mut job = self.expand(claim, work, line).await;
                let now = self.context.clock.now();
                for one in std::mem::take(&mut job.recipients) {
                    let plan = Plan::all_targets(one.targets.len());
                    self.deliver(&mut job, line, one, (plan, now));
                }
                Read::Ready(job)
            }
            Some(work) => Read::Asking(self.expand(claim, work, line).await),
            None => Read::Unreadable,
        }
    }

    /// Lines up what was planned and reports what ended without a try.
    async fn start(&self, planned: Planned, line: &Arc<Line>) -> usize {
        for claim in &planned.unreadable {
            tracing::error!(shard = self.shard.0, notification.id = %claim.notification, "an entry cannot be read by this version; it is kept as a dead letter");
            self.quarantine(claim, "unreadable").await;
        }
        let (mut some, mut deliveries) = (Vec::with_capacity(PUT_TOGETHER), 0);
        for mut job in planned.jobs {
            job.plan();
            line.gone(std::mem::take(&mut job.gone));
            for outgoing in std::mem::take(&mut job.outgoing) {
                job.tracker.expect();
                some.push(self.queued(&job, outgoing));
                deliveries += 1;
            }
            self.close(job).await;
            if some.len() >= PUT_TOGETHER {
                line.put(std::mem::replace(&mut some, Vec::with_capacity(PUT_TOGETHER))).await;
            }
        }
        line.put(some).await;
        deliveries
    }

    fn queued(&self, job: &Job, outgoing: Outgoing) -> Queued {
        let Outgoing { id, target, attempt, overrides, expires_at, channel, came_back } = outgoing;
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
        Queued {
            delivery,
            overrides,
            tracker: Arc::clone(&job.tracker),
            settler: self.settler.clone(),
            came_back,
            channel,
        }
    }

    /// Lets the journal forget changes once the records hold them durably.
    async fn changes(&self, claims: Vec<Claim>) {
        if claims.is_empty() {
            return;
        }
        let mut logged = Vec::with_capacity(claims.len());
        let mut kept = Vec::with_capacity(claims.len());
        for claim in claims {
            self.settler.hold([claim.id]);
            match decode_changes(&claim.payload) {
                Some(change) => {
                    logged.push(change);
                    kept.push(claim);
                }
                None => self.quarantine(&claim, "unreadable").await,
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

    /// An entry nobody can work on is put with the dead letters, so that the rest goes on.
    async fn quarantine(&self, claim: &Claim, cause: &str) {
        let delivery = DeliveryId::derive(claim.notification, ENTRY_TARGET);
        let report = Report {
            resolved: vec![(delivery, Resolution::Final(FinalState::Dead))],
            events: vec![TimelineEvent::Settled {
                at: self.context.clock.now(),
                delivery,
                target: String::from(ENTRY_TARGET),
                state: FinalState::Dead,
                cause: cause.to_owned(),
            }],
            dead: vec![(delivery, claim.payload.clone())],
            ..Report::default()
        };
        self.settler.report(Tracker::new(claim), report).await;
    }

    /// From an entry to its recipients; one that was expanded before goes on as it was planned.
    async fn expand(&self, claim: &Claim, work: Work, line: &Line) -> Job {
        let (part, after, only) = match &work {
            Work::Chunk { after, .. } => (Part::Chunk, Some(*after), None),
            Work::Recipient { recipient, .. } => (Part::Resumed, None, Some(*recipient)),
            Work::Collected { recipient, .. } | Work::Digested { recipient, .. } => {
                (Part::Resumed, None, Some(*recipient))
            }
            Work::Notification(_) | Work::Step { .. } | Work::Retry { .. } => {
                (Part::Root, None, None)
            }
        };
        let mut job = Job::new(claim, work.into_notification());
        if job.has_done(PLANNED)
            && let Some(planned) =
                planned(self.context.journal.as_ref(), claim, ((part, after), only)).await
        {
            for (overrides, targets) in planned {
                for target in targets {
                    self.retry(&mut job, line, (target, 0, false), overrides.clone()).await;
                }
            }
            return job;
        }
        let Expansion { recipients, unknown, no_device, next } =
            self.resolve(&job.notification, after, only).await;
        if ![EXPANDED, PLANNED].iter().any(|step| job.has_done(step)) {
            let deliveries: usize = recipients.iter().map(|r| r.targets.len()).sum();
            job.first_of = Some((part, after));
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
        let is_held = |r: &Expanded| {
            !job.settled.is_empty() && job.has_done(&format!("hold:{}", r.recipient.key()))
        };
        let open = recipients.into_iter().filter(|recipient| !is_held(recipient)).collect();
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
        let can_mail = self.context.providers.email.is_some();
        let for_rules = self.context.rules.routes(notification.org);
        let sources = Sources { store, can_mail, for_rules };
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

    pub(super) async fn store_failed(&self, error: &StoreError) {
        tracing::error!(shard = self.shard.0, error = %crate::telemetry::chain(error), "records cannot be read; trying again");
        tokio::time::sleep(STORE_PAUSE).await;
    }

    /// One question to the rules for everything that was claimed together.
    async fn route(&self, mut jobs: Vec<Job>, line: &Line) -> Vec<Job> {
        let now = self.context.clock.now();
        let answers = self.ask(&mut jobs, now).await;
        if !answers.is_empty() {
            crash::point(Stage::Ruled);
        }
        // Before anything is sent: a result must find its entry.
        let entries = inbox::entries(&mut jobs, &answers, now);
        self.put_entries(entries).await;
        let mut answers = answers.into_iter();
        for job in &mut jobs {
            for recipient in std::mem::take(&mut job.recipients) {
                if let Some(routed) = answers.next() {
                    self.follow(job, line, recipient, (routed, now));
                }
            }
        }
        jobs
    }

    /// An answer for each recipient, in order.
    async fn ask(&self, jobs: &mut [Job], now: Millis) -> Vec<Routed> {
        // Who has no view is of an organization for which no rule routes.
        let recipients = jobs.iter().flat_map(|job| &job.recipients);
        let unasked = |one: &Expanded| one.view.is_none().then_some(one.targets.len());
        let unasked: Vec<_> = recipients.map(unasked).collect();
        for one in jobs.iter_mut().flat_map(|job| &mut job.recipients) {
            if let Some(view) = &mut one.view {
                let targets = one.targets.iter().map(Target::reference);
                self.context.reach.tell(targets, &mut view.targets, now);
            }
        }
        let items = questions(jobs);
        let answers =
            if items.is_empty() { Vec::new() } else { self.context.rules.route(now, items).await };
        let mut answers = answers.into_iter();
        let answer = |unasked| match unasked {
            None => answers.next(),
            Some(targets) => Some(Routed::unruled(targets)),
        };
        unasked.into_iter().map_while(answer).collect()
    }

    async fn put_entries(&self, changes: Vec<InboxChange>) {
        if changes.is_empty() {
            return;
        }
        let changes: Vec<_> = changes.into_iter().map(Change::Inbox).collect();
        while let Err(error) = self.context.store.apply(changes.clone()).await {
            self.store_failed(&error).await;
        }
    }
}

/// The deliveries of a plan, each with what its rule changed.
type PlannedTargets = Vec<(Overrides, Vec<TargetRef>)>;

/// What the first claim of this entry was about to send. It was committed with the marker that
/// asks for it, but reads may be behind; `None` if it is not there for long.
pub(super) async fn planned(
    journal: &dyn Journal,
    claim: &Claim,
    wanted: (Portion, Option<RecipientRef>),
) -> Option<PlannedTargets> {
    let mut looks = 0;
    while looks < PLAN_LOOKS {
        match find_plan(journal, claim, wanted).await {
            Ok(Some(plan)) => return Some(plan),
            Ok(None) if journal.reads_are_current() => break,
            Ok(None) => looks += 1,
            Err(error) => {
                tracing::error!(notification.id = %claim.notification, %error, "a timeline cannot be read; trying again");
                // What is damaged stays so; whoever is away comes back.
                looks += usize::from(error == JournalError::Unreadable);
            }
        }
        tokio::time::sleep(STORE_PAUSE).await;
    }
    tracing::error!(notification.id = %claim.notification, "what an entry was about to send is not found; it is expanded again");
    None
}

async fn find_plan(
    journal: &dyn Journal,
    claim: &Claim,
    (portion, only): (Portion, Option<RecipientRef>),
) -> Result<Option<PlannedTargets>, JournalError> {
    let (id, org) = (claim.notification, claim.org);
    // A plan is settled after its entry was written, and soon.
    let mut after = Some(EventPlace { position: claim.id.position, ordinal: 0 });
    loop {
        let page = journal.events_after(org, id, after, EVENTS_PAGE).await?;
        if let Some(plan) = page.iter().find_map(|(_, event)| plan_of(event, portion, only)) {
            return Ok(Some(plan));
        }
        if page.len() < EVENTS_PAGE {
            return Ok(None);
        }
        after = page.last().map(|(place, _)| *place);
    }
}

/// What `event` says of the plan for `portion` of an audience, or for the one recipient that was held.
fn plan_of(event: &[u8], portion: Portion, only: Option<RecipientRef>) -> Option<PlannedTargets> {
    let Some(TimelineEvent::Planned { part, after, to }) = decode_event(event) else {
        return None;
    };
    let first = to.first().and_then(|(_, targets)| targets.first()).copied();
    let is_it = only.is_none() || first.map(RecipientRef::of) == only;
    (is_it && (part, after) == portion).then_some(to)
}

fn questions(jobs: &mut [Job]) -> Vec<RouteItem> {
    let mut items = Vec::new();
    for job in jobs {
        let views = job.recipients.iter_mut().filter_map(|recipient| recipient.view.take());
        items.extend(views.map(|recipient| RouteItem {
            notification: Arc::clone(&job.notification),
            recipient,
            attempt: 1,
            last_outcome: None,
        }));
    }
    items
}
