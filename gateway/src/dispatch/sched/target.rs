//! One target as the scheduler knows it: what waits for it, and what it can take now.

use super::SOON_MS;
use super::away::{Away, PATIENCE_MS};
use super::breaker::{Breaker, BreakerState};
use super::limiter::Limiter;
use crate::model::{
    DeliveryId, Millis, NotificationId, OrganizationId, ProviderName, TargetPolicy, TargetRef,
};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Targets without work that are remembered: what was learned of them is worth keeping for a while.
const IDLE_MAX: usize = 10_000;
/// Milliseconds between two messages of a target that counts as quick.
const QUICK_MS: f64 = 10.0;
/// Weight of one answer in a target's service time.
const SERVICE_WEIGHT: f64 = 0.1;

/// An organization's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TargetKey(pub(super) OrganizationId, pub(super) TargetRef);

/// What the scheduler has to know of a delivery.
#[derive(Clone, Debug)]
pub struct About {
    pub id: DeliveryId,
    /// Sorts by acceptance: of two with the same collapse key the later one is sent.
    pub notification: NotificationId,
    pub expires_at: Millis,
    pub collapse: Option<Box<str>>,
    /// Tried before: it may be overtaken, and first tries go first.
    pub is_retry: bool,
    /// It was here before and was sent back to the journal, or tried.
    pub came_back: bool,
}

#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) item: T,
    pub(super) about: About,
    pub(super) since: u64,
}

/// One message a second with bursts: the instant kept is when the bucket is full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    full_at: u64,
}

const PACE_MS: u64 = 1_000;
const PACE_BURST: u64 = 3;

impl Pace {
    /// The tick from which one more may go.
    fn next(self) -> u64 {
        self.full_at.saturating_sub(PACE_MS * (PACE_BURST - 1))
    }

    /// True if the next message is the last of the burst.
    fn is_last(self, tick: u64) -> bool {
        self.full_at.max(tick) >= tick + PACE_MS * (PACE_BURST - 1)
    }

    fn spend(&mut self, tick: u64) {
        self.full_at = self.full_at.max(tick) + PACE_MS;
    }
}

/// Who has to end before anybody else of a line in strict order starts.
#[derive(Clone, Copy, Debug)]
struct Head {
    id: DeliveryId,
    /// When it comes back from the journal.
    due: u64,
    is_away: bool,
}

/// What only hooks have: somebody's own server behind them.
#[derive(Debug, Default)]
pub(super) struct Hook {
    pub(super) breaker: Breaker,
    pub(super) pace: Option<Pace>,
}

#[derive(Debug)]
pub(super) struct Target<T> {
    pub(super) key: TargetKey,
    pub(super) lane: usize,
    /// First tries, and repeats.
    pub(super) waiting: [VecDeque<Waiting<T>>; 2],
    pub(super) listed: [bool; 2],
    pub(super) in_flight: u32,
    pub(super) limiter: Limiter,
    pub(super) hook: Option<Box<Hook>>,
    /// Nothing goes out before this tick.
    pub(super) gate: u64,
    /// First tries sent back to the journal and not seen again: later ones wait for them.
    pub(super) away: Away,
    pub(super) service_ms: f64,
    pub(super) policy: TargetPolicy,
    head: Option<Head>,
    pub(super) wake_at: u64,
    is_idle_listed: bool,
}

impl<T> Target<T> {
    fn new(key: TargetKey, lane: usize, service_ms: f64, hook_max: u32) -> Self {
        let (limiter, hook) = match key.1.provider() {
            // One at a time keeps first tries to a device in order, whatever connection they take.
            ProviderName::Apns | ProviderName::Fcm | ProviderName::Email => {
                (Limiter::new(1, 1), None)
            }
            ProviderName::Slack => {
                let pace = Some(Pace::default());
                (Limiter::new(1, 1), Some(Hook { pace, ..Hook::default() }))
            }
            ProviderName::Webhook => (Limiter::new(4, hook_max), Some(Hook::default())),
        };
        Self {
            key,
            lane,
            waiting: Default::default(),
            listed: [false; 2],
            in_flight: 0,
            limiter,
            hook: hook.map(Box::new),
            gate: 0,
            away: Away::default(),
            service_ms,
            policy: TargetPolicy::default(),
            head: None,
            wake_at: 0,
            is_idle_listed: false,
        }
    }

    /// True if its next delivery of `plane` may start now, with `share` of its limit in force.
    pub(super) fn is_ready(&self, plane: usize, tick: u64, share: f64) -> bool {
        let Some(first) = self.waiting[plane].front() else { return false };
        if self.gate > tick || !self.limiter.allows(self.in_flight, share) {
            return false;
        }
        if self.policy.keeps_order
            && (self.in_flight > 0 || self.is_behind_head(first.about.id, tick))
        {
            return false;
        }
        if plane == 0 && self.waits_for_away(&first.about, tick) {
            return false;
        }
        self.hook.as_ref().is_none_or(|hook| {
            hook.breaker.allows(self.in_flight, tick)
                && hook.pace.is_none_or(|pace| pace.next() <= tick)
        })
    }

    /// The tick before which its own state lets nothing out, 0 if there is none.
    pub(super) fn closed_until(&self) -> u64 {
        let hook = self.hook.as_ref();
        let paced = hook.and_then(|hook| hook.pace).map_or(0, Pace::next);
        self.gate.max(hook.map_or(0, |hook| hook.breaker.opens_at())).max(paced)
    }

    /// As `closed_until`, or when a line stops waiting for its head.
    pub(super) fn wakes_at(&self, tick: u64) -> Option<u64> {
        let closed = self.closed_until();
        let head = self.head_due(tick).map_or(0, |due| due + PATIENCE_MS);
        let away = self.away.until().unwrap_or(0);
        [closed, head, away].into_iter().filter(|at| *at > tick).min()
    }

    /// A hook that takes several messages in one, when this is the last it takes for a while.
    pub(super) fn merges_now(&self, tick: u64) -> bool {
        let pace = self.hook.as_ref().and_then(|hook| hook.pace);
        self.policy.merges_overflow && pace.is_some_and(|pace| pace.is_last(tick))
    }

    pub(super) fn started(&mut self, tick: u64) {
        self.in_flight += 1;
        if let Some(pace) = self.hook.as_mut().and_then(|hook| hook.pace.as_mut()) {
            pace.spend(tick);
        }
    }

    pub(super) fn served(&mut self, service_ms: u32) {
        self.service_ms += SERVICE_WEIGHT * (f64::from(service_ms) - self.service_ms);
    }

    /// The rest of the line waits until `id` is back, due at `tick`.
    pub(super) fn waits_for(&mut self, id: DeliveryId, tick: u64) {
        self.head = Some(Head { id, due: tick, is_away: true });
        self.gate = self.gate.max(tick);
    }

    pub(super) fn is_head(&self, id: DeliveryId) -> bool {
        self.head.is_some_and(|head| head.id == id)
    }

    /// When the head of the line comes back, while it is in the journal and waited for.
    pub(super) fn head_due(&self, tick: u64) -> Option<u64> {
        let head = self.head.filter(|head| head.is_away && head.due + PATIENCE_MS > tick)?;
        Some(head.due)
    }

    /// True if `id` may not start because the head of the line is in the journal.
    pub(super) fn is_behind_head(&self, id: DeliveryId, tick: u64) -> bool {
        self.head_due(tick).is_some() && !self.is_head(id)
    }

    /// Nobody waits for `id` any more.
    pub(super) fn drop_head(&mut self, id: DeliveryId) {
        self.head = self.head.filter(|head| head.id != id);
    }

    /// When a delivery that goes back to the journal until `tick` is claimed again: the head of its
    /// line needs the room first.
    pub(super) fn sent_back(&mut self, about: &About, tick: u64) -> u64 {
        if self.is_head(about.id) {
            self.waits_for(about.id, tick);
            return tick;
        }
        let after_head = self.head.filter(|head| head.is_away).map_or(0, |head| head.due + 1);
        let tick = tick.max(after_head);
        if !about.is_retry {
            self.away.sent(about.notification, tick);
        }
        tick
    }

    /// `tick`, or later if somebody who was sent away before comes back later.
    pub(super) fn away_due(&self, tick: u64) -> u64 {
        self.away.due().map_or(tick, |last| last.max(tick))
    }

    /// True if `about` may not start because some that were accepted before it are in the journal.
    pub(super) fn waits_for_away(&self, about: &About, tick: u64) -> bool {
        let is_free = about.came_back || self.is_head(about.id);
        !is_free && self.away.is_before(about.notification, tick)
    }

    /// True if `about`, waiting here for others to come back, would take the room that they need for
    /// that. Those that are due soon are waited for here; in strict order only a few.
    pub(super) fn is_in_the_way(&self, about: &About, room: usize, tick: u64) -> bool {
        let are_few = usize::try_from(self.away.count()).is_ok_and(|away| away <= room / 2);
        let is_soon = self.away_due(tick) <= tick + SOON_MS;
        let is_short = is_soon && (are_few || !self.policy.keeps_order);
        self.is_behind_head(about.id, tick) || (self.waits_for_away(about, tick) && !is_short)
    }

    /// True if one that was accepted later waits here already.
    pub(super) fn is_overtaken(&self, notification: NotificationId) -> bool {
        self.waiting[0].back().is_some_and(|last| last.about.notification > notification)
    }

    /// Puts a delivery where it belongs: the head first, all others in the order of acceptance, which
    /// is not the order in which they come from the journal once some of them were there before.
    pub(super) fn enqueue(&mut self, plane: usize, waiting: Waiting<T>) {
        let is_head = self.is_head(waiting.about.id);
        if let Some(head) = self.head.as_mut().filter(|_| is_head) {
            head.is_away = false;
        }
        let line = &mut self.waiting[plane];
        let earlier = |other: &Waiting<T>| other.about.notification <= waiting.about.notification;
        let place = if is_head { 0 } else { line.iter().rposition(earlier).map_or(0, |at| at + 1) };
        line.insert(place, waiting);
    }

    /// How long its oldest delivery has waited.
    pub(super) fn oldest_ms(&self, tick: u64) -> u64 {
        let fronts = self.waiting.iter().filter_map(VecDeque::front);
        fronts.map(|waiting| tick.saturating_sub(waiting.since)).max().unwrap_or(0)
    }

    pub(super) fn breaker(&self, tick: u64) -> BreakerState {
        self.hook.as_ref().map_or(BreakerState::Closed, |hook| hook.breaker.state(tick))
    }

    /// Where the delivery with this collapse key waits: plane, index, and when it was accepted.
    pub(super) fn twin(&self, key: &str) -> Option<(usize, usize, NotificationId)> {
        self.waiting.iter().enumerate().find_map(|(plane, line)| {
            let index =
                line.iter().position(|other| other.about.collapse.as_deref() == Some(key))?;
            line.get(index).map(|other| (plane, index, other.about.notification))
        })
    }

    /// About half of what its line, with those sent away, takes to empty, within 0.2 to 10 s: back
    /// before there is nothing to do.
    pub(super) fn drain_ms(&self) -> u64 {
        let waits =
            u32::try_from(self.waits()).unwrap_or(u32::MAX).saturating_add(self.away.count());
        let seconds = (f64::from(waits) * self.each_ms() / 2_000.0).clamp(0.2, 10.0);
        u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(10_000)
    }

    /// Milliseconds between two of its messages while it is busy.
    fn each_ms(&self) -> f64 {
        let paced = self.hook.as_ref().is_some_and(|hook| hook.pace.is_some());
        if paced { 1_000.0 } else { self.service_ms / self.limiter.exact() }
    }

    /// True if it takes so much that its line is better waited for than written down again.
    pub(super) fn is_quick(&self, tick: u64) -> bool {
        self.closed_until() <= tick && self.each_ms() <= QUICK_MS
    }

    pub(super) fn waits(&self) -> usize {
        self.waiting[0].len() + self.waiting[1].len()
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.waits() == 0 && self.listed == [false; 2]
    }

    /// Nothing was learned of it that a new one would not know.
    fn is_blank(&self, tick: u64) -> bool {
        self.hook.is_none() && self.gate <= tick && self.away.is_empty()
    }
}

/// Every target that has work or is worth remembering.
#[derive(Debug)]
pub(super) struct Targets<T> {
    slots: Vec<Option<Target<T>>>,
    free: Vec<u32>,
    by_key: HashMap<TargetKey, u32>,
    /// Those that ended up without work, oldest first.
    idle: VecDeque<u32>,
    hook_max: u32,
}

impl<T> Targets<T> {
    pub(super) fn new(hook_max: u32) -> Self {
        let (slots, free, idle) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { slots, free, by_key: HashMap::new(), idle, hook_max }
    }

    /// The target's number, made if it is new.
    pub(super) fn place(&mut self, key: TargetKey, lane: usize, service_ms: f64) -> u32 {
        if let Some(place) = self.by_key.get(&key) {
            return *place;
        }
        let target = Some(Target::new(key, lane, service_ms, self.hook_max));
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        if let Some(slot) = self.slots.get_mut(place as usize) {
            *slot = target;
        }
        self.by_key.insert(key, place);
        place
    }

    /// The target's number, if it is known.
    pub(super) fn find(&self, key: TargetKey) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn get(&self, place: u32) -> Option<&Target<T>> {
        self.slots.get(place as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Target<T>> {
        self.slots.get_mut(place as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Target<T>> {
        self.slots.iter().flatten()
    }

    /// Targets of `lane` for which something waits. Looks at every target.
    pub(super) fn waiting_in(&self, lane: usize) -> Vec<u32> {
        let waits = |target: &Target<T>| target.lane == lane && target.waits() > 0;
        let all = (0u32..).zip(&self.slots);
        all.filter(|(_, slot)| slot.as_ref().is_some_and(waits)).map(|(place, _)| place).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Forgets the target if it has no work and nothing is worth remembering, or remembers it
    /// until others need the room.
    pub(super) fn rest(&mut self, place: u32, tick: u64) {
        let Some(target) = self.get_mut(place) else { return };
        if !target.is_idle() {
            return;
        }
        if target.is_blank(tick) && !target.is_idle_listed {
            self.remove(place);
            return;
        }
        if !target.is_idle_listed {
            target.is_idle_listed = true;
            self.idle.push_back(place);
        }
        if self.idle.len() > IDLE_MAX
            && let Some(oldest) = self.idle.pop_front()
            && let Some(target) = self.get_mut(oldest)
        {
            target.is_idle_listed = false;
            if target.is_idle() {
                self.remove(oldest);
            }
        }
    }

    fn remove(&mut self, place: u32) {
        if let Some(target) = self.slots.get_mut(place as usize).and_then(Option::take) {
            self.by_key.remove(&target.key);
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_takes_three_at_once_and_then_one_a_second() {
        let mut pace = Pace::default();
        let tick = 50_000;
        let mut taken = Vec::new();
        for _ in 0..5 {
            let at = pace.next().max(tick);
            taken.push((at - tick, pace.is_last(at)));
            pace.spend(at);
        }
        assert_eq!(
            taken,
            [(0, false), (0, false), (0, true), (1_000, true), (2_000, true)],
            "from the third on each is the last for a while"
        );
    }
}
