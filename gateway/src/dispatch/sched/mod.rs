//! The scheduler: which of the deliveries that wait goes out next. A plain data structure.
//!
//! ```text
//! lanes (provider and credential, with the provider's own limit)
//!   └─ first tries │ repeats
//!        └─ organizations, deficit round robin by cost
//!             └─ targets, the same again; each a line with a limit, a breaker and a gate
//! ```
//!
//! It knows no clock, no task and no socket: time is passed in, so that a simulation can run it. A
//! pick costs the same however much waits; who has nothing here takes no memory.
//! What cannot go out soon is handed back for the journal, with the time at which to try again.

mod away;
mod breaker;
mod finish;
mod lane;
mod limiter;
mod pick;
mod plane;
mod ramp;
mod target;
#[cfg(test)]
mod tests;
mod throttle;

pub use self::breaker::BreakerState;
pub use self::finish::{Finished, Signal, UNTRIED};
pub use self::pick::{Picked, Ticket};
pub use self::target::About;

use self::lane::Lane;
use self::ramp::Release;
use self::target::{Target, TargetKey, Targets, Waiting};
use crate::model::{
    DeliveryId, Millis, NotificationId, OrganizationId, ProviderName, TargetPolicy, TargetRef,
};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

const FIRST: usize = 0;
const RETRY: usize = 1;
/// What cannot start within this goes back to the journal instead of sitting in memory.
const SOON_MS: u64 = 1_500;
/// How long what finds no room stays in the journal.
const CROWDED_MS: u64 = 1_000;
/// Deliveries that an organization may always have here while there is room at all.
const SHARE_MIN: usize = 16;
/// Deliveries that are claimed at once although there is no room, to find those who are overdue.
const OVERDUE: usize = 64;
/// Deliveries that one target may always have here. More only up to half of what its organization
/// has room for, so that one target leaves room to the others; a line in strict order is as long
/// as it is.
const LINE_MIN: usize = 256;

/// If no line of an organization is longer, so many deliveries as there are slots can nearly all be
/// in flight at once.
const SPREAD: usize = 2;
/// However few slots there are.
const ENOUGH_MIN: usize = 1_024;

/// What to claim where `most` deliveries are enough and `here` are there: nothing before a quarter is
/// missing, since many at once cost less than many times a few, and what waits long falls out of the
/// processor's caches.
fn refill(most: usize, here: usize) -> usize {
    let missing = most.saturating_sub(here);
    if missing < most.div_ceil(4) { 0 } else { missing }
}

/// One instant: of records, and of a clock that never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub at: Millis,
    /// Milliseconds.
    pub tick: u64,
}

impl Now {
    /// The instant of records that lies `tick` away, if that is ahead.
    fn due(self, tick: u64) -> Millis {
        self.at.plus(tick.saturating_sub(self.tick))
    }
}

/// A provider and one of its credentials; hooks share one lane each for Slack and webhooks.
pub type LaneKey = (ProviderName, String);

/// What bounds a scheduler.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Tries in flight at once.
    pub slots: usize,
    /// Deliveries waiting here.
    pub queue: usize,
    /// The most tries in flight at one webhook, however quick it is.
    pub hook_max: u32,
}

/// A delivery that wants to go out.
#[derive(Debug)]
pub struct Offer<T> {
    pub lane: LaneKey,
    pub org: OrganizationId,
    pub target: TargetRef,
    pub policy: TargetPolicy,
    pub about: About,
    pub item: T,
}

/// What became of an offer.
#[derive(Debug)]
pub enum Offered<T> {
    /// It waits here; `replaced` is an older one with its collapse key that will not go out.
    Queued { replaced: Option<T> },
    /// One with its collapse key that was accepted later waits already.
    Collapsed(T),
    /// Not now: back to the journal until then. No try was made.
    Later { parked: Parked<T>, replaced: Option<T> },
}

/// A delivery on its way back to the journal.
#[derive(Debug)]
pub struct Parked<T> {
    pub item: T,
    pub due: Millis,
}

/// A delivery that was sent back to the journal.
#[derive(Clone, Copy, Debug)]
pub struct Absent {
    pub org: OrganizationId,
    pub target: TargetRef,
    pub id: DeliveryId,
    pub notification: NotificationId,
    /// It was never tried.
    pub is_first: bool,
}

/// How one provider's known targets do.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The smallest limit.
    pub limit: Option<f64>,
    pub open: u32,
    pub half_open: u32,
    /// How long the one that waits longest has waited.
    pub oldest_ms: u64,
}

/// What an organization has here. Gone when it is nothing.
#[derive(Debug, Default)]
struct Org {
    queued: usize,
    in_flight: usize,
    /// Rings it stands in.
    rings: usize,
    /// Its target with the most deliveries, when one last came in.
    longest: Option<u32>,
}

/// Every delivery that waits, and every try in flight.
#[derive(Debug)]
pub struct Scheduler<T> {
    bounds: Bounds,
    started: u64,
    lanes: Vec<Lane>,
    lane_places: HashMap<LaneKey, usize>,
    targets: Targets<T>,
    orgs: HashMap<OrganizationId, Org>,
    /// When a target's gate opens: tick and place.
    wakes: BinaryHeap<Reverse<(u64, u32)>>,
    parked: Vec<Parked<T>>,
    /// Found expired beside what was picked.
    expired: Vec<T>,
    queued: usize,
    in_flight: usize,
    retries_in_flight: usize,
    /// First tries picked since the last repeat while repeats waited.
    firsts: u32,
    ready_orgs: usize,
    turn: usize,
    release: Release,
    random: u64,
}

impl<T> Scheduler<T> {
    /// An empty one that starts slowly at `tick`. `seed` decides its jitter.
    #[must_use]
    pub fn new(bounds: Bounds, seed: u64, tick: u64) -> Self {
        Self {
            bounds,
            started: tick,
            lanes: Vec::new(),
            lane_places: HashMap::new(),
            targets: Targets::new(bounds.hook_max),
            orgs: HashMap::new(),
            wakes: BinaryHeap::new(),
            parked: Vec::new(),
            expired: Vec::new(),
            queued: 0,
            in_flight: 0,
            retries_in_flight: 0,
            firsts: 0,
            ready_orgs: 0,
            turn: 0,
            release: Release::default(),
            random: seed,
        }
    }

    /// Takes a delivery in, or says why not.
    pub fn offer(&mut self, offer: Offer<T>, now: Now) -> Offered<T> {
        let Offer { lane, org, target, policy, about, item } = offer;
        let lane = self.lane(&lane);
        let (lane_gate, service_ms) =
            self.lanes.get(lane).map_or((0, 0.0), |l| (l.closed_until(), l.service_ms));
        let place = self.targets.place(TargetKey(org, target), lane, service_ms);
        let plane = usize::from(about.is_retry && !policy.keeps_order);
        let room = self.room_for(org);
        let Some(state) = self.targets.get_mut(place) else {
            let parked = Parked { item, due: now.at.plus(CROWDED_MS) };
            return Offered::Later { parked, replaced: None };
        };
        state.policy = policy;
        if !about.is_retry {
            state.away.returned(about.notification, about.came_back);
        }
        let twin = about.collapse.as_deref().and_then(|key| state.twin(key));
        if twin.is_some_and(|(_, _, id)| id > about.notification) {
            state.drop_head(about.id);
            self.list(place, now.tick);
            return Offered::Collapsed(item);
        }
        let replaced = twin.and_then(|(plane, index, _)| state.waiting[plane].remove(index));
        if let Some(older) = &replaced {
            state.drop_head(older.about.id);
        }
        let closed = lane_gate.max(state.closed_until());
        let is_newcomer = !about.came_back && !state.is_head(about.id);
        let is_in_the_way = state.is_in_the_way(&about, room, now.tick);
        // What was accepted together may be claimed in another order: it must not go where those
        // that are here already would have to wait for it.
        let is_long = !policy.keeps_order
            && state.waits() >= LINE_MIN.max(room / 2)
            && !state.is_overtaken(about.notification);
        let later = if closed > now.tick + SOON_MS {
            Some(closed)
        } else if is_newcomer && replaced.is_none() && room == 0 {
            Some(now.tick + CROWDED_MS)
        } else if is_newcomer && (is_long || is_in_the_way) {
            Some(now.tick + state.drain_ms())
        } else {
            None
        };
        if let Some(tick) = later {
            let tick = if about.came_back { tick } else { state.away_due(tick) };
            let tick = state.sent_back(&about, tick);
            let replaced = replaced.map(|waiting| self.unqueued(org, waiting));
            self.targets.rest(place, now.tick);
            return Offered::Later { parked: Parked { item, due: now.due(tick) }, replaced };
        }
        state.enqueue(plane, Waiting { item, about, since: now.tick });
        let replaced = replaced.map(|waiting| self.unqueued(org, waiting));
        self.lengthened(org, place);
        self.list(place, now.tick);
        Offered::Queued { replaced }
    }

    /// Deliveries of `org` that may be offered now.
    #[must_use]
    pub fn room_for(&self, org: OrganizationId) -> usize {
        let free = self.bounds.queue.saturating_sub(self.queued);
        let queued = self.orgs.get(&org).map_or(0, |org| org.queued);
        // As much as is free: the more others have here, the less each may take.
        free.max(SHARE_MIN).saturating_sub(queued).min(free)
    }

    /// Deliveries of `org` that are worth claiming now: what is claimed beyond that only goes back.
    ///
    /// Each that comes takes one from what is free, and counts as one that `org` has. While the
    /// longest line of `org` is a quick one, what would make it too long stays where it is; so does
    /// what is more than all slots take while its work is spread over as many targets. And if others
    /// here wait for somebody who is due, some are let in although there is no room.
    #[must_use]
    pub fn claims_for(&self, org: OrganizationId, tick: u64) -> usize {
        let room = self.room_for(org);
        let place = self.orgs.get(&org).and_then(|state| state.longest);
        let longest = place.and_then(|place| self.targets.get(place));
        let claims = room.div_ceil(2);
        let Some(longest) = longest.filter(|target| target.key.0 == org) else { return claims };
        let waits = longest.waits();
        let enough = self.bounds.slots.max(ENOUGH_MIN);
        let most = if longest.policy.keeps_order {
            claims
        } else if waits <= SPREAD {
            claims.min(refill(enough, self.queued_of(org)))
        } else if longest.is_quick(tick) {
            let line = (room.saturating_sub(2 * waits) / 4).max(LINE_MIN.saturating_sub(waits));
            claims.min(line).min(refill(enough / 2, waits))
        } else {
            claims
        };
        let is_overdue = waits > 0 && longest.away.is_overdue(tick);
        if is_overdue { most.max(OVERDUE) } else { most }
    }

    /// What has to go back to the journal since the last call.
    pub fn take_parked(&mut self) -> Vec<Parked<T>> {
        std::mem::take(&mut self.parked)
    }

    /// The tick at which something may be able to go that cannot go now, if time alone decides.
    #[must_use]
    pub fn next_wake(&self, tick: u64) -> Option<u64> {
        let target = self.wakes.peek().map(|Reverse((at, _))| *at);
        let waiting = self.lanes.iter().filter(|lane| lane.has_waiting());
        let lanes = waiting.map(Lane::closed_until).filter(|at| *at > tick);
        let slow = (self.queued > 0 && ramp::share(tick - self.started.min(tick)) < 1.0)
            .then(|| tick + 250);
        let due = self.lanes.iter().any(|lane| lane.has_repeats()).then(|| self.release.next());
        let hung = self.lanes.iter().filter_map(Lane::hangs_at);
        lanes.chain(hung).chain(target).chain(slow).chain(due).min().map(|at| at.max(tick + 1))
    }

    /// Sets what `lane`'s provider takes at once right now.
    pub fn set_limit(&mut self, lane: &LaneKey, limit: usize) {
        let place = self.lane(lane);
        if let Some(lane) = self.lanes.get_mut(place) {
            lane.limit = limit.max(1);
        }
    }

    /// What records say of a line in strict order: `head` is due at `due`, and nobody goes before.
    pub fn restore_head(
        &mut self,
        lane: &LaneKey,
        target: (OrganizationId, TargetRef),
        head: (DeliveryId, Millis),
        now: Now,
    ) {
        let lane = self.lane(lane);
        let place = self.targets.place(TargetKey(target.0, target.1), lane, 0.0);
        if let Some(target) = self.targets.get_mut(place) {
            target.waits_for(head.0, now.tick + head.1.since(now.at));
        }
    }

    /// A delivery that was sent back to the journal ended there.
    pub fn gone(&mut self, absent: Absent, now: Now) {
        self.forget_absent(absent, true, now);
    }

    /// A delivery could not be sent back to the journal, which gives it out again as it was.
    pub fn fenced(&mut self, absent: Absent, now: Now) {
        self.forget_absent(absent, false, now);
    }

    fn forget_absent(&mut self, absent: Absent, has_ended: bool, now: Now) {
        let Absent { org, target, id, notification, is_first } = absent;
        let Some(place) = self.targets.find(TargetKey(org, target)) else { return };
        let Some(target) = self.targets.get_mut(place) else { return };
        if is_first {
            target.away.returned(notification, true);
        }
        if has_ended {
            target.drop_head(id);
        }
        self.list(place, now.tick);
        self.targets.rest(place, now.tick);
    }

    /// A first try that went out within the one of `ticket` goes back to the journal as it was, until
    /// `tick`. To be said before that one is finished.
    pub fn put_away(&mut self, ticket: &Ticket, notification: NotificationId, tick: u64) {
        if let Some(target) = self.targets.get_mut(ticket.place) {
            target.away.sent(notification, tick);
        }
    }

    /// How the known targets of `provider` do: looks at every target.
    #[must_use]
    pub fn sample(&self, provider: ProviderName, tick: u64) -> Sample {
        let of = |target: &&Target<T>| target.key.1.provider() == provider;
        let none = Sample { limit: None, open: 0, half_open: 0, oldest_ms: 0 };
        self.targets.iter().filter(of).fold(none, |sample, target| {
            let limit = target.limiter.exact();
            let state = target.breaker(tick);
            Sample {
                limit: Some(sample.limit.map_or(limit, |least: f64| least.min(limit))),
                open: sample.open + u32::from(state == BreakerState::Open),
                half_open: sample.half_open + u32::from(state == BreakerState::HalfOpen),
                oldest_ms: sample.oldest_ms.max(target.oldest_ms(tick)),
            }
        })
    }

    /// Deliveries waiting here.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Deliveries of `org` waiting here.
    #[must_use]
    pub fn queued_of(&self, org: OrganizationId) -> usize {
        self.orgs.get(&org).map_or(0, |org| org.queued)
    }

    /// Tries without an answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Organizations and targets with a place in memory.
    #[must_use]
    pub fn remembered(&self) -> (usize, usize) {
        (self.orgs.len(), self.targets.len())
    }

    /// The most rounds anybody waited that could have been served.
    #[must_use]
    pub fn longest_wait(&self) -> u64 {
        let planes = self.lanes.iter().flat_map(|lane| &lane.planes);
        planes.map(plane::Plane::longest_wait).max().unwrap_or(0)
    }

    fn lane(&mut self, key: &LaneKey) -> usize {
        if let Some(place) = self.lane_places.get(key) {
            return *place;
        }
        self.lanes.push(Lane::new(key.0));
        self.lane_places.insert(key.clone(), self.lanes.len() - 1);
        self.lanes.len() - 1
    }

    /// Puts a target into the rings it is ready for, or has it woken when time makes it ready.
    fn list(&mut self, place: u32, tick: u64) {
        let share = self.share(tick);
        let Some(target) = self.targets.get_mut(place) else { return };
        let Some(lane) = self.lanes.get_mut(target.lane) else { return };
        let org = target.key.0;
        for plane in [FIRST, RETRY] {
            if !target.listed[plane] && target.is_ready(plane, tick, share) {
                target.listed[plane] = true;
                if lane.planes[plane].list(org, place) {
                    let org = self.orgs.entry(org).or_default();
                    self.ready_orgs += usize::from(org.rings == 0);
                    org.rings += 1;
                }
            }
        }
        if target.waits() > 0
            && let Some(at) = target.wakes_at(tick)
            && (target.wake_at <= tick || at < target.wake_at)
        {
            target.wake_at = at;
            self.wakes.push(Reverse((at, place)));
        }
    }

    /// Notes that `org` left a ring.
    fn left(&mut self, org: OrganizationId) {
        if let Some(state) = self.orgs.get_mut(&org) {
            state.rings = state.rings.saturating_sub(1);
            self.ready_orgs -= usize::from(state.rings == 0);
        }
        self.forget(org);
    }

    fn forget(&mut self, org: OrganizationId) {
        let is_gone = self
            .orgs
            .get(&org)
            .is_some_and(|org| org.queued == 0 && org.in_flight == 0 && org.rings == 0);
        if is_gone {
            self.orgs.remove(&org);
        }
    }

    /// Counts one delivery into the queue, at the end of a line.
    fn lengthened(&mut self, org: OrganizationId, place: u32) {
        self.queued += 1;
        let waits =
            |place: u32| self.targets.get(place).filter(|t| t.key.0 == org).map(Target::waits);
        let longest = self.orgs.get(&org).and_then(|org| org.longest);
        let is_longest = longest.and_then(waits) <= waits(place);
        let state = self.orgs.entry(org).or_default();
        state.queued += 1;
        if is_longest {
            state.longest = Some(place);
        }
    }

    /// Counts one delivery out of the queue.
    fn unqueued(&mut self, org: OrganizationId, waiting: Waiting<T>) -> T {
        self.queued = self.queued.saturating_sub(1);
        if let Some(org) = self.orgs.get_mut(&org) {
            org.queued = org.queued.saturating_sub(1);
        }
        self.forget(org);
        waiting.item
    }

    /// Share of the limits in force: they start low after a restart.
    fn share(&self, tick: u64) -> f64 {
        ramp::share(tick.saturating_sub(self.started))
    }

    /// Uniform in 0..1, the same for the same seed.
    fn random(&mut self) -> f64 {
        // SplitMix64: one step, good enough for jitter.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let top = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(top) / (f64::from(u32::MAX) + 1.0)
    }
}
