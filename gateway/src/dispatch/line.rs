//! The scheduler at work: what waits goes out as slots become free, and what ends is settled.
//!
//! Two loops serve the whole process: `drive` picks and hands batches to providers, `finish` takes
//! ended tries in batches. A slot comes back only after its result is committed, so that repeats
//! after a crash stay within `max_in_flight`.

use crate::clock::Clock;
use crate::dispatch::finish::{self, Ended, Finisher, Judged};
use crate::dispatch::pulse::Pulse;
use crate::dispatch::sched::{
    About, Absent, Bounds, LaneKey, Offer, Offered, Parked, Picked, Scheduler, Ticket, UNTRIED,
};
use crate::dispatch::settle::{Settler, Tracker};
use crate::dispatch::{Context, attempt, counters, step_back};
use crate::journal::{Journal, Room};
use crate::model::{
    Delivery, DeliveryId, Millis, OrganizationId, ProviderName, ShardId, Target, TargetRef,
};
use crate::providers::Provider;
use crate::telemetry::metrics::{ProviderMetrics, SchedulerMetrics};
use crate::work::Overrides;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::MissedTickBehavior;

/// Picks under one lock.
const ROUND_MAX: usize = 512;
/// While nothing may begin, the journal is asked again after this long.
const PAUSED_LOOK: Duration = Duration::from_millis(20);
/// While something waits, the scheduler is asked again after this long at the latest.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// How often gauges are set.
const SHOWN_EVERY: Duration = Duration::from_secs(1);
/// Deliveries that leave the queue between two looks for organizations waiting for room.
const RELIEF_EVERY: usize = 32;
/// As well after this long, if any left.
const RELIEF_PAUSE_MS: u64 = 20;

/// A delivery that waits or is on its way, with what settling it needs.
pub(super) struct Queued {
    pub(super) delivery: Delivery,
    pub(super) overrides: Overrides,
    pub(super) tracker: Arc<Tracker>,
    pub(super) settler: Settler,
    /// It waited in the journal before.
    pub(super) came_back: bool,
    pub(super) channel: Arc<Channel>,
}

impl Queued {
    /// It was never tried.
    fn is_first(&self) -> bool {
        self.delivery.attempt == 1
    }

    /// What the scheduler has to know of it once it was sent back.
    fn absent(&self) -> Absent {
        let notification = &self.delivery.notification;
        Absent {
            org: notification.org,
            target: self.delivery.target.reference(),
            id: self.delivery.id,
            notification: notification.id,
            is_first: self.is_first(),
        }
    }
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued").field("delivery", &self.delivery.id).finish_non_exhaustive()
    }
}

/// One lane's provider.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) key: LaneKey,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) metrics: ProviderMetrics,
}

/// One of `max_in_flight`; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    work: Arc<Notify>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.work.notify_one();
    }
}

#[derive(Debug)]
struct Core {
    scheduler: Scheduler<Queued>,
    pulse: Pulse,
    /// Who found no room, and the shard that asked.
    refused: BTreeMap<OrganizationId, ShardId>,
    left: usize,
    relieved_at: u64,
}

/// Everything between the shards and the providers.
#[derive(Debug)]
pub(super) struct Line {
    core: Mutex<Core>,
    channels: Mutex<BTreeMap<LaneKey, Arc<Channel>>>,
    slots: Arc<Semaphore>,
    work: Arc<Notify>,
    pub(super) results: mpsc::Sender<Ended>,
    clock: Arc<dyn Clock>,
    journal: Arc<dyn Journal>,
    pub(super) context: Arc<Context>,
    metrics: SchedulerMetrics,
}

/// What one look at the scheduler gave.
#[derive(Default)]
struct Round {
    batches: Vec<(Arc<Channel>, Vec<Going>)>,
    expired: Vec<Queued>,
    canceled: Vec<Queued>,
    parked: Vec<Parked<Queued>>,
    relieved: Vec<ShardId>,
    next: Option<u64>,
}

/// A delivery chosen to go out, with those that go in the same message.
pub(super) struct Going {
    pub(super) queued: Queued,
    pub(super) merged: Vec<Queued>,
    pub(super) ticket: Ticket,
    pub(super) slot: Slot,
}

impl Line {
    /// The line and its loop for ended tries, which the caller runs.
    pub(super) fn new(
        context: &Arc<Context>,
        finisher: Finisher,
    ) -> (Arc<Self>, impl Future<Output = ()> + use<>) {
        let settings = &context.settings;
        let bounds = Bounds {
            slots: settings.max_in_flight,
            queue: settings.queue,
            hook_max: settings.webhook_in_flight,
        };
        let pulse = Pulse::new(context.clock.as_ref());
        let scheduler = Scheduler::new(bounds, context.clock.chance().to_bits(), pulse.tick());
        let (results, from) = mpsc::channel(settings.max_in_flight.max(1));
        let line = Arc::new(Self {
            core: Mutex::new(Core {
                scheduler,
                pulse,
                refused: BTreeMap::new(),
                left: 0,
                relieved_at: 0,
            }),
            channels: Mutex::default(),
            slots: Arc::clone(&context.in_flight),
            work: Arc::default(),
            results,
            clock: Arc::clone(&context.clock),
            journal: Arc::clone(&context.journal),
            context: Arc::clone(context),
            metrics: SchedulerMetrics::default(),
        });
        let finishing = attempt::finish_all(Arc::downgrade(&line), finisher, from);
        (line, finishing)
    }

    /// Deliveries waiting in memory.
    pub(super) fn waiting(&self) -> usize {
        self.core.lock().scheduler.queued()
    }

    /// The lane of `target`, made if it is new.
    pub(super) fn channel(&self, target: &Target, provider: &Arc<dyn Provider>) -> Arc<Channel> {
        let name = provider.name();
        let credential = match name {
            ProviderName::Apns | ProviderName::Fcm => target.credential(),
            // Hooks are told apart as targets.
            ProviderName::Slack | ProviderName::Webhook | ProviderName::Email => String::new(),
        };
        let key = (name, credential);
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&key) {
            return Arc::clone(channel);
        }
        let metrics = counters::lane(name, &key.1);
        let channel = Channel { key: key.clone(), provider: Arc::clone(provider), metrics };
        let channel = Arc::new(channel);
        channels.insert(key, Arc::clone(&channel));
        channel
    }

    /// Lines deliveries up; what has no place goes back to the journal, what a newer one replaces
    /// ends here.
    pub(super) async fn put(&self, all: Vec<Queued>) {
        let mut back = Vec::new();
        let mut collapsed = Vec::new();
        {
            let mut core = self.core.lock();
            let now = core.pulse.now(self.clock.as_ref());
            for queued in all {
                match core.scheduler.offer(offer(queued), now) {
                    Offered::Queued { replaced } => collapsed.extend(replaced),
                    Offered::Collapsed(older) => collapsed.push(older),
                    Offered::Later { parked, replaced } => {
                        back.push(parked);
                        collapsed.extend(replaced);
                    }
                }
            }
        }
        self.work.notify_one();
        self.metrics.collapsed(collapsed.len());
        self.send_back(back).await;
        let at = self.clock.now();
        for queued in collapsed {
            finish::collapse(queued, at).await;
        }
    }

    /// Returns deliveries to the journal. Those whose lease ran out it gives out again as they were.
    async fn send_back(&self, back: Vec<Parked<Queued>>) {
        let journal = self.journal.as_ref();
        let is_held =
            |one: &Parked<Queued>| one.item.settler.still_holds(journal, &one.item.tracker);
        let (held, lost): (Vec<_>, Vec<_>) = back.into_iter().partition(is_held);
        // What came back before comes back once more.
        let lost: Vec<_> = lost.iter().filter(|one| !one.item.came_back).collect();
        if !lost.is_empty() {
            let mut core = self.core.lock();
            let now = core.pulse.now(self.clock.as_ref());
            lost.iter().for_each(|one| core.scheduler.fenced(one.item.absent(), now));
        }
        self.metrics.sent_back(held.len());
        for Parked { item, due } in held {
            finish::push_back(item, due).await;
        }
    }

    /// Nobody waits any more for deliveries that ended in the journal.
    pub(super) fn gone(&self, all: Vec<Absent>) {
        if all.is_empty() {
            return;
        }
        let mut core = self.core.lock();
        let now = core.pulse.now(self.clock.as_ref());
        all.into_iter().for_each(|absent| core.scheduler.gone(absent, now));
        drop(core);
        self.work.notify_one();
    }

    /// Holds back a line in strict order whose first is still to come, as the records say.
    pub(super) fn restore(
        &self,
        provider: ProviderName,
        target: (OrganizationId, TargetRef),
        head: (DeliveryId, Millis),
    ) {
        let mut core = self.core.lock();
        let now = core.pulse.now(self.clock.as_ref());
        core.scheduler.restore_head(&(provider, String::new()), target, head, now);
    }

    /// Sends until told to stop; what waits then stays leased in the journal.
    pub(super) async fn drive(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut shown = tokio::time::interval(SHOWN_EVERY);
        shown.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stop.borrow() {
            if !self.journal.may_begin() {
                tokio::time::sleep(PAUSED_LOOK).await;
                continue;
            }
            // Whoever is about to free a slot does so first: many go out for little more than one.
            step_back().await;
            let work = self.work.notified();
            let mut round = self.round();
            self.recall(&mut round);
            let Round { batches, expired, canceled, parked, relieved, next } = round;
            for (channel, batch) in batches.into_iter().filter(|(_, batch)| !batch.is_empty()) {
                tokio::spawn(attempt::send(Arc::clone(&self), channel, batch));
            }
            self.send_back(parked).await;
            let at = self.clock.now();
            for queued in expired {
                finish::expire(queued, at).await;
            }
            for queued in canceled {
                finish::cancel(queued, at).await;
            }
            relieved.into_iter().for_each(|shard| self.journal.nudge(shard));
            let look = async {
                match next {
                    Some(ms) => tokio::time::sleep(LOOK_MAX.min(Duration::from_millis(ms))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = stop.changed() => {}
                () = work => {}
                () = look => {}
                _ = shown.tick() => self.show(),
            }
        }
    }

    /// Tells the scheduler of tries that ended.
    pub(super) fn ended(&self, judged: &[Judged]) {
        let mut core = self.core.lock();
        let now = core.pulse.now(self.clock.as_ref());
        for one in judged {
            for (notification, again_ms) in &one.put_away {
                core.scheduler.put_away(&one.ticket, *notification, now.tick + again_ms);
            }
            core.scheduler.finish(one.ticket, one.finished, now);
        }
        drop(core);
        self.work.notify_one();
    }

    /// Takes back what was canceled while it waited, also within another, and forgets what waited longer than its lease
    /// lasted: it is claimed again, and would go out twice. Not under the scheduler's lock, which the
    /// journal may wait for while it holds its own.
    fn recall(&self, round: &mut Round) {
        let journal = self.journal.as_ref();
        let is_held = |one: &Queued| one.settler.still_holds(journal, &one.tracker);
        let is_canceled = |one: &Queued| journal.is_canceled(one.delivery.notification.id);
        let mut recalled = Vec::new();
        let mut lost = Vec::new();
        let Round { batches, canceled, parked, .. } = round;
        for going in batches.iter_mut().flat_map(|(_, batch)| batch) {
            let Going { merged, ticket, .. } = going;
            lost.extend(merged.extract_if(.., |one| !is_held(one)).map(|one| (*ticket, one)));
            canceled.extend(merged.extract_if(.., |one| is_canceled(one)));
        }
        for (_, batch) in batches {
            let is_back = |one: &mut Going| !is_held(&one.queued) || is_canceled(&one.queued);
            let back = batch.extract_if(.., is_back);
            recalled.extend(back.map(|one| (is_held(&one.queued), one)));
        }
        if recalled.is_empty() && lost.is_empty() {
            return;
        }
        let mut core = self.core.lock();
        let now = core.pulse.now(self.clock.as_ref());
        for (ticket, one) in lost {
            // It comes back as what it is, see `send_back`.
            if one.is_first() && one.came_back {
                let notification = one.delivery.notification.id;
                core.scheduler.put_away(&ticket, notification, now.tick + 1);
            }
        }
        for (is_ours, Going { queued, merged, ticket, slot }) in recalled {
            // They lose their place, and come back as messages of their own.
            for item in merged {
                if item.is_first() {
                    let notification = item.delivery.notification.id;
                    core.scheduler.put_away(&ticket, notification, now.tick + 1);
                }
                parked.push(Parked { item, due: now.at.plus(1) });
            }
            if is_ours {
                core.scheduler.finish(ticket, UNTRIED, now);
                canceled.push(queued);
            } else {
                core.scheduler.lost(ticket, now);
            }
            drop(slot);
        }
        parked.extend(core.scheduler.take_parked());
    }

    fn show(&self) {
        let mut core = self.core.lock();
        let tick = core.pulse.now(self.clock.as_ref()).tick;
        let scheduler = &core.scheduler;
        let in_flight = scheduler.in_flight();
        self.metrics.load(scheduler.queued(), in_flight, scheduler.remembered().0);
        let mut oldest_ms = 0;
        for provider in ProviderName::ALL {
            let sample = scheduler.sample(provider, tick);
            oldest_ms = oldest_ms.max(sample.oldest_ms);
            if let Some(limit) = sample.limit {
                let channel = provider.as_str();
                self.metrics.targets(channel, limit, sample.open, sample.half_open);
            }
        }
        let oldest = Duration::from_millis(oldest_ms);
        self.metrics.waits(scheduler.longest_wait(), oldest);
    }

    fn round(&self) -> Round {
        let mut round = Round::default();
        let limits: Vec<_> = {
            let channels = self.channels.lock();
            let all = channels.values();
            all.map(|channel| (Arc::clone(channel), channel.provider.in_flight_max())).collect()
        };
        let mut core = self.core.lock();
        let now = core.pulse.now(self.clock.as_ref());
        for (channel, limit) in limits {
            core.scheduler.set_limit(&channel.key, limit);
        }
        let before = core.scheduler.queued();
        // What cannot be settled any more would only be sent again.
        let can_settle = self.journal.is_healthy();
        for _ in 0..if can_settle { ROUND_MAX } else { 0 } {
            let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else { break };
            let free = self.slots.available_permits() + 1;
            match core.scheduler.pick(now, free) {
                None => break,
                Some(Picked::Expired(queued)) => round.expired.push(queued),
                Some(Picked::Send { ticket, item, merged }) => {
                    self.metrics.merged(merged.len());
                    let slot = Slot { permit: Some(permit), work: Arc::clone(&self.work) };
                    round.add(Going { queued: item, merged, ticket, slot });
                }
            }
        }
        if round.batches.iter().map(|(_, batch)| batch.len()).sum::<usize>() >= ROUND_MAX {
            self.work.notify_one();
        }
        round.parked.extend(core.scheduler.take_parked());
        let queued = core.scheduler.queued();
        core.left += before.saturating_sub(queued) + round.parked.len();
        // Somebody overdue may be let in although nobody left.
        let is_asked = core.left > 0 || !core.refused.is_empty();
        let is_time = is_asked && now.tick >= core.relieved_at + RELIEF_PAUSE_MS;
        if core.left >= RELIEF_EVERY || queued == 0 || is_time {
            core.left = 0;
            core.relieved_at = now.tick;
            round.relieved = core.relieved(now.tick);
        }
        if queued > 0 {
            let wake = core.scheduler.next_wake(now.tick);
            round.next = Some(wake.map_or(u64::MAX, |tick| tick - now.tick));
        }
        round
    }
}

impl Round {
    fn add(&mut self, going: Going) {
        let channel = Arc::clone(&going.queued.channel);
        let max = channel.provider.batch_max().max(1);
        let open = self
            .batches
            .iter_mut()
            .rev()
            .find(|(other, batch)| Arc::ptr_eq(other, &channel) && batch.len() < max);
        match open {
            Some((_, batch)) => batch.push(going),
            None => self.batches.push((channel, vec![going])),
        }
    }
}

impl Core {
    /// Shards whose organizations have room again.
    fn relieved(&mut self, tick: u64) -> Vec<ShardId> {
        let scheduler = &self.scheduler;
        let mut shards = Vec::new();
        self.refused.retain(|org, shard| {
            let has_room = scheduler.claims_for(*org, tick) > 0;
            if has_room && !shards.contains(shard) {
                shards.push(*shard);
            }
            !has_room
        });
        shards
    }
}

/// An organization's free share of the queue, for one shard's claims.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) line: Arc<Line>,
    pub(super) shard: ShardId,
    /// Deliveries that an entry of this shard came to lately.
    pub(super) per_entry: usize,
}

impl Room for Share {
    fn room(&self, org: OrganizationId) -> usize {
        let mut core = self.line.core.lock();
        let tick = core.pulse.now(self.line.clock.as_ref()).tick;
        let room = core.scheduler.claims_for(org, tick) / self.per_entry.max(1);
        if room == 0 && core.scheduler.queued_of(org) == 0 {
            // One entry that is larger than all the room there is must go on, too.
            return 1;
        }
        if room == 0 {
            core.refused.insert(org, self.shard);
        }
        room
    }
}

fn offer(queued: Queued) -> Offer<Queued> {
    let delivery = &queued.delivery;
    let about = About {
        id: delivery.id,
        notification: delivery.notification.id,
        expires_at: delivery.expires_at,
        collapse: delivery.collapse_key.as_deref().map(Into::into),
        is_retry: delivery.attempt > 1,
        came_back: queued.came_back,
    };
    Offer {
        lane: queued.channel.key.clone(),
        org: delivery.notification.org,
        target: delivery.target.reference(),
        policy: delivery.target.policy(),
        about,
        item: queued,
    }
}
