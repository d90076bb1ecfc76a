//! The scheduler at work: what waits goes out as slots become free, and what ends is settled.
//!
//! Two loops serve the whole process: `drive` picks and hands batches to providers, `finish` takes
//! ended tries in batches. A slot comes back only after its result is committed, so that repeats
//! after a crash stay within `max_in_flight`.

use crate::clock::Clock;
use crate::crash::{self, Stage};
use crate::dispatch::finish::{self, Ended, Finisher};
use crate::dispatch::sched::{
    About, Bounds, LaneKey, Now, Offer, Offered, Parked, Picked, Scheduler, Ticket,
};
use crate::dispatch::settle::{Settler, Tracker};
use crate::dispatch::{Context, counters};
use crate::journal::{Journal, Room};
use crate::lifecycle::{Caught, report_panic};
use crate::model::{
    Attempt, Delivery, DeliveryId, Millis, OrganizationId, Outcome, ProviderName, ShardId, Target,
    TargetRef,
};
use crate::providers::Provider;
use crate::telemetry::metrics::ProviderMetrics;
use crate::work::Overrides;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// Picks under one lock.
const ROUND_MAX: usize = 512;
/// Ended tries settled together.
const ENDED_MAX: usize = 256;
/// While something waits, the scheduler is asked again after this long at the latest.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// Deliveries that leave the queue between two looks for organizations waiting for room.
const RELIEF_EVERY: usize = 32;

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

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued").field("delivery", &self.delivery.id).finish_non_exhaustive()
    }
}

/// One lane's provider.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) key: LaneKey,
    provider: Arc<dyn Provider>,
    metrics: ProviderMetrics,
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

/// Ticks that never go back, made from a clock that may.
#[derive(Debug)]
pub(super) struct Pulse {
    last: Millis,
    tick: u64,
}

impl Pulse {
    fn new(at: Millis) -> Self {
        Self { last: at, tick: 1 }
    }

    /// The instant `at`. A clock set back stands still for as long as it took to notice.
    fn now(&mut self, at: Millis) -> Now {
        self.tick += at.since(self.last);
        self.last = at;
        Now { at, tick: self.tick }
    }
}

#[derive(Debug)]
struct Core {
    scheduler: Scheduler<Queued>,
    pulse: Pulse,
    /// Who found no room, and the shard that asked.
    refused: BTreeMap<OrganizationId, ShardId>,
    left: usize,
}

/// Everything between the shards and the providers.
#[derive(Debug)]
pub(super) struct Line {
    core: Mutex<Core>,
    channels: Mutex<BTreeMap<LaneKey, Arc<Channel>>>,
    slots: Arc<Semaphore>,
    work: Arc<Notify>,
    ended: mpsc::Sender<Ended>,
    clock: Arc<dyn Clock>,
    journal: Arc<dyn Journal>,
}

/// What one look at the scheduler gave.
#[derive(Default)]
struct Round {
    batches: Vec<(Arc<Channel>, Vec<Going>)>,
    expired: Vec<Queued>,
    parked: Vec<Parked<Queued>>,
    relieved: Vec<ShardId>,
    next: Option<u64>,
}

/// A delivery chosen to go out, with those that go in the same message.
struct Going {
    queued: Queued,
    merged: Vec<Queued>,
    ticket: Ticket,
    slot: Slot,
}

impl Line {
    /// The line and its loop for ended tries, which the caller runs.
    pub(super) fn new(
        context: &Context,
        finisher: Finisher,
    ) -> (Arc<Self>, impl Future<Output = ()> + use<>) {
        let settings = &context.settings;
        let bounds = Bounds {
            slots: settings.max_in_flight,
            queue: settings.queue,
            hook_max: settings.webhook_in_flight,
        };
        let pulse = Pulse::new(context.clock.now());
        let scheduler = Scheduler::new(bounds, context.clock.chance().to_bits(), pulse.tick);
        let (ended, from) = mpsc::channel(settings.max_in_flight.max(1));
        let line = Arc::new(Self {
            core: Mutex::new(Core { scheduler, pulse, refused: BTreeMap::new(), left: 0 }),
            channels: Mutex::default(),
            slots: Arc::clone(&context.in_flight),
            work: Arc::default(),
            ended,
            clock: Arc::clone(&context.clock),
            journal: Arc::clone(&context.journal),
        });
        let finishing = finish_all(Arc::downgrade(&line), finisher, from);
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
            let now = core.pulse.now(self.clock.now());
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
        let at = self.clock.now();
        for queued in collapsed {
            finish::collapse(queued, at).await;
        }
        for Parked { item, due } in back {
            finish::push_back(item, due).await;
        }
    }

    /// Holds back a line in strict order whose first is still to come, as the records say.
    pub(super) fn restore(
        &self,
        provider: ProviderName,
        target: (OrganizationId, TargetRef),
        head: (DeliveryId, Millis),
    ) {
        let mut core = self.core.lock();
        let now = core.pulse.now(self.clock.now());
        core.scheduler.restore_head(&(provider, String::new()), target, head, now);
    }

    /// Sends until told to stop; what waits then stays leased in the journal.
    pub(super) async fn drive(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let work = self.work.notified();
            let Round { batches, expired, parked, relieved, next } = self.round();
            for (channel, batch) in batches {
                tokio::spawn(send(Arc::clone(&self), channel, batch));
            }
            let at = self.clock.now();
            for queued in expired {
                finish::expire(queued, at).await;
            }
            for Parked { item, due } in parked {
                finish::push_back(item, due).await;
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
            }
        }
    }

    fn round(&self) -> Round {
        let mut round = Round::default();
        let limits: Vec<_> = {
            let channels = self.channels.lock();
            let all = channels.values();
            all.map(|channel| (Arc::clone(channel), channel.provider.in_flight_max())).collect()
        };
        let mut core = self.core.lock();
        let now = core.pulse.now(self.clock.now());
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
                    let slot = Slot { permit: Some(permit), work: Arc::clone(&self.work) };
                    round.add(Going { queued: item, merged, ticket, slot });
                }
            }
        }
        if round.batches.iter().map(|(_, batch)| batch.len()).sum::<usize>() >= ROUND_MAX {
            self.work.notify_one();
        }
        round.parked = core.scheduler.take_parked();
        let queued = core.scheduler.queued();
        core.left += before.saturating_sub(queued) + round.parked.len();
        if core.left >= RELIEF_EVERY || queued == 0 {
            core.left = 0;
            round.relieved = core.relieved();
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
    fn relieved(&mut self) -> Vec<ShardId> {
        let scheduler = &self.scheduler;
        let mut shards = Vec::new();
        self.refused.retain(|org, shard| {
            let has_room = scheduler.room_for(*org) > 0;
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
        let free = core.scheduler.room_for(org);
        if free == 0 {
            core.refused.insert(org, self.shard);
            return 0;
        }
        (free / self.per_entry.max(1)).max(1)
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

async fn send(line: Arc<Line>, channel: Arc<Channel>, batch: Vec<Going>) {
    let mut deliveries = Vec::with_capacity(batch.len());
    let mut rest = Vec::with_capacity(batch.len());
    for going in batch {
        deliveries.push(finish::merged(&going.queued.delivery, &going.merged));
        rest.push(Mutex::new(Some(going)));
        channel.metrics.started();
    }
    let report = |index: usize, attempt: Attempt| {
        let going = rest.get(index).and_then(|slot| slot.lock().take());
        let Some(Going { queued, merged, ticket, slot }) = going else { return };
        channel.metrics.ended(counters::word(&attempt), attempt.elapsed);
        let ended = Ended { queued, merged, ticket, slot, attempt };
        // There is room for every slot.
        if line.ended.try_send(ended).is_err() {
            tracing::debug!("a result came after the dispatcher stopped; it is sent again");
        }
    };
    let sending = channel.provider.send(&deliveries, &report);
    let cause = match Caught::new(crash::midway(Stage::HalfSent, sending)).await {
        Ok(()) => "not_reported",
        Err(panic) => {
            report_panic("provider", panic.as_ref());
            finish::PANICKED
        }
    };
    for index in 0..rest.len() {
        // The provider broke its promise to report; the receiver may have it.
        report(index, unreported(cause));
    }
}

fn unreported(cause: &'static str) -> Attempt {
    Attempt {
        outcome: Outcome::Unknown { cause },
        status: None,
        reason: None,
        provider_id: None,
        elapsed: Duration::ZERO,
    }
}

/// Settles ended tries until the line is gone.
async fn finish_all(
    line: std::sync::Weak<Line>,
    finisher: Finisher,
    mut from: mpsc::Receiver<Ended>,
) {
    let mut batch = Vec::with_capacity(ENDED_MAX);
    while from.recv_many(&mut batch, ENDED_MAX).await > 0 {
        let Some(line) = line.upgrade() else { return };
        let mut judged = Vec::with_capacity(batch.len());
        for ended in batch.drain(..) {
            judged.push(finisher.judge(ended));
        }
        {
            let mut core = line.core.lock();
            let now = core.pulse.now(line.clock.now());
            for one in &judged {
                core.scheduler.finish(one.ticket, one.finished, now);
            }
        }
        line.work.notify_one();
        finisher.settle(judged).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_never_go_back_and_do_not_wait_for_a_clock_that_was_set_back() {
        let mut pulse = Pulse::new(Millis(1_000_000));
        assert_eq!(pulse.now(Millis(1_000_100)).tick, 101);
        assert_eq!(pulse.now(Millis(900_000)).tick, 101, "an hour back is no time");
        assert_eq!(pulse.now(Millis(900_050)).tick, 151, "and it goes on from there");
    }
}
