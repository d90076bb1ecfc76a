//! The dispatcher: claims entries, expands them, asks the rules, schedules, sends, settles.
//!
//! One loop per shard, and two for the whole process: one picks what goes out next (`sched` decides,
//! `line` does it), one takes what ended. What bounds it: `max_in_flight` tries over the process
//! (their slots come back after the settling commit), `queue` deliveries waiting in memory, of
//! which each organization has a share, and `claim_batch` entries per claim. Everything else stays
//! in the journal, unclaimed.

pub mod retry;
pub mod sched;

mod attempt;
mod counters;
mod digest;
mod expand;
mod finish;
mod health;
mod inbox;
mod job;
mod line;
mod notices;
mod pulse;
mod reach;
mod route;
mod settle;
mod shape;
mod shard;

#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::dispatch::counters::Counters;
use crate::dispatch::finish::Finisher;
use crate::dispatch::health::Health;
use crate::dispatch::line::Line;
use crate::dispatch::reach::Reach;
use crate::dispatch::retry::RetryPolicy;
use crate::journal::Journal;
use crate::lifecycle::{Caught, report_panic};
use crate::model::{Millis, Notification, ProviderName, ShardId, Target, TargetRef};
use crate::providers::Provider;
use crate::rules::RuleEngine;
use crate::store::Store;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Before a shard that panicked goes on, so that a panic in a loop does not spin.
const PANIC_PAUSE: Duration = Duration::from_millis(200);

/// How the dispatcher runs.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    /// Tries between "handed to a provider" and "result committed", over the whole process.
    pub max_in_flight: usize,
    /// Entries claimed at once per shard.
    pub claim_batch: usize,
    /// Deliveries that may wait in memory, over the whole process.
    pub queue: usize,
    /// The journal's lease; renewed at a third of it.
    pub lease: Duration,
    pub retry: RetryPolicy,
    /// How long a delivery is worth sending, by provider.
    pub ttl_push: Duration,
    pub ttl_slack: Duration,
    pub ttl_webhook: Duration,
    pub ttl_email: Duration,
    /// The most tries in flight at once to one webhook subscription, however quick it is.
    pub webhook_in_flight: u32,
}

impl Default for DispatchSettings {
    fn default() -> Self {
        Self {
            max_in_flight: 1024,
            claim_batch: 256,
            queue: 8192,
            lease: Duration::from_mins(1),
            retry: RetryPolicy::default(),
            ttl_push: Duration::from_hours(24),
            ttl_slack: Duration::from_hours(1),
            ttl_webhook: Duration::from_hours(96),
            ttl_email: Duration::from_hours(24),
            webhook_in_flight: 64,
        }
    }
}

/// The configured providers: push by app, the others once.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    pub push: HashMap<(ProviderName, String), Arc<dyn Provider>>,
    pub slack: Option<Arc<dyn Provider>>,
    pub webhook: Option<Arc<dyn Provider>>,
    /// Without a relay nobody gets mail, and no delivery says so.
    pub email: Option<Arc<dyn Provider>>,
}

impl Providers {
    /// The provider that serves `target`, if one is configured.
    fn of(&self, target: &Target) -> Option<&Arc<dyn Provider>> {
        match target {
            Target::Apns { app, .. } | Target::Fcm { app, .. } => {
                self.push.get(&(target.provider(), app.clone()))
            }
            Target::Slack { .. } => self.slack.as_ref(),
            Target::Webhook { .. } => self.webhook.as_ref(),
            Target::Email { .. } => self.email.as_ref(),
        }
    }
}

/// What every part of the dispatcher uses.
#[derive(Debug)]
struct Context {
    journal: Arc<dyn Journal>,
    store: Arc<dyn Store>,
    rules: Arc<dyn RuleEngine>,
    providers: Providers,
    clock: Arc<dyn Clock>,
    settings: DispatchSettings,
    in_flight: Arc<Semaphore>,
    counters: Arc<Counters>,
    reach: Reach,
}

impl Context {
    /// When a delivery of `notification` by `provider` is no longer worth sending.
    fn expiry(&self, notification: &Notification, provider: ProviderName) -> Millis {
        let ttl = match provider {
            ProviderName::Apns | ProviderName::Fcm => self.settings.ttl_push,
            ProviderName::Slack => self.settings.ttl_slack,
            ProviderName::Webhook => self.settings.ttl_webhook,
            ProviderName::Email => self.settings.ttl_email,
        };
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        notification.expires_at.unwrap_or_else(|| notification.start_at.plus(ttl))
    }
}

/// Runs a shard's loop, and again after a panic: what was claimed comes back with its lease.
async fn watched(
    context: Arc<Context>,
    line: Arc<Line>,
    shard: ShardId,
    stop: watch::Receiver<bool>,
) {
    loop {
        let run = shard::run(Arc::clone(&context), Arc::clone(&line), shard, stop.clone());
        match Caught::new(run).await {
            Ok(()) => return,
            Err(panic) => report_panic("shard", panic.as_ref()),
        }
        tokio::time::sleep(PANIC_PAUSE).await;
    }
}

/// Reads which hooks were failing when the process ended, then sends until told to stop.
async fn send(
    context: Arc<Context>,
    line: Arc<Line>,
    health: Arc<Health>,
    stop: watch::Receiver<bool>,
) {
    loop {
        match context.store.failing().await {
            Ok(failing) => {
                for one in &failing {
                    let Some((id, due)) = one.head else { continue };
                    for provider in [ProviderName::Slack, ProviderName::Webhook] {
                        let subscription = one.subscription;
                        let target = TargetRef::Subscription { provider, subscription };
                        line.restore(provider, (one.org, target), (id, due));
                    }
                }
                health.restore(&failing);
                break;
            }
            Err(error) => {
                tracing::error!(error = %crate::telemetry::chain(&error), "records cannot be read; trying again");
            }
        }
        tokio::time::sleep(PANIC_PAUSE).await;
    }
    loop {
        match Caught::new(Arc::clone(&line).drive(stop.clone())).await {
            Ok(()) => return,
            Err(panic) => report_panic("sending", panic.as_ref()),
        }
        tokio::time::sleep(PANIC_PAUSE).await;
    }
}

/// Lets every other task that is ready go first. The runtime's own `yield_now` leaves a task to the
/// worker it ran on, which may be busy for milliseconds while others have nothing to do.
async fn step_back() {
    let mut is_back = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_back, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What the dispatcher is built from.
#[derive(Debug)]
pub struct DispatcherParts {
    pub journal: Arc<dyn Journal>,
    pub store: Arc<dyn Store>,
    pub rules: Arc<dyn RuleEngine>,
    pub providers: Providers,
    pub clock: Arc<dyn Clock>,
    pub settings: DispatchSettings,
}

/// The running loops.
#[derive(Debug)]
pub struct Dispatcher {
    stop: watch::Sender<bool>,
    loops: JoinSet<()>,
    /// Takes ended tries, until the last is settled.
    finishing: JoinSet<()>,
    context: Arc<Context>,
    line: Arc<Line>,
}

impl Dispatcher {
    /// Starts one loop per shard.
    #[must_use]
    pub fn start(parts: DispatcherParts) -> Self {
        let DispatcherParts { journal, store, rules, providers, clock, settings } = parts;
        let in_flight = Arc::new(Semaphore::new(settings.max_in_flight));
        let context = Arc::new(Context {
            journal,
            store,
            rules,
            providers,
            clock,
            settings,
            in_flight,
            counters: Counters::new(),
            reach: Reach::default(),
        });
        let health = Arc::<Health>::default();
        let finisher = Finisher::new(Arc::clone(&context), Arc::clone(&health));
        let (line, finish) = Line::new(&context, finisher);
        let mut finishing = JoinSet::new();
        finishing.spawn(finish);
        let (stop, stopped) = watch::channel(false);
        let mut loops = JoinSet::new();
        loops.spawn(send(Arc::clone(&context), Arc::clone(&line), health, stopped.clone()));
        for shard in 0..context.journal.shards() {
            loops.spawn(watched(
                Arc::clone(&context),
                Arc::clone(&line),
                ShardId(shard),
                stopped.clone(),
            ));
        }
        Self { stop, loops, finishing, context, line }
    }

    /// Tries handed to providers and not yet settled.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.context.settings.max_in_flight - self.context.in_flight.available_permits()
    }

    /// Deliveries waiting in memory.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.waiting()
    }

    /// Stops claiming and sending, then waits up to `deadline` for what is in flight. What is not settled by
    /// then stays leased in the journal and is claimed again after the next start.
    /// Answers how many are not.
    pub async fn drain(mut self, deadline: Duration) -> usize {
        self.stop.send_replace(true);
        let all = u32::try_from(self.context.settings.max_in_flight).unwrap_or(u32::MAX);
        let settled = self.context.in_flight.acquire_many(all);
        if tokio::time::timeout(deadline, settled).await.is_err() {
            tracing::warn!(
                in_flight = self.in_flight(),
                "the grace period ended before every attempt did; these are sent again"
            );
        }
        let left = self.in_flight();
        self.loops.shutdown().await;
        self.finishing.shutdown().await;
        left
    }
}
