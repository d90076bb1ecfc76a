//! Choosing what goes out next.

use super::lane::{HUNG_PAUSE_MS, THROTTLE_PAUSE_MS};
use super::plane::cost;
use super::{FIRST, Now, RETRY, Scheduler};
use crate::model::{DeliveryId, NotificationId, OrganizationId};
use std::cmp::Reverse;

/// An organization may always have this many in flight.
const ORG_MIN: usize = 4;
/// While both wait, one pick of five is a repeat.
const FIRSTS_PER_RETRY: u32 = 4;
/// Messages that go out as one.
const MERGED_MAX: usize = 100;
/// Organizations over their share that a pick looks at when nobody else waits.
const CAPPED_VISITS: usize = 8;

/// A try in flight: `Scheduler::finish` takes it back.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub(super) place: u32,
    pub(super) lane: usize,
    pub(super) org: OrganizationId,
    pub(super) is_retry: bool,
    pub(super) id: DeliveryId,
    pub(super) notification: NotificationId,
    /// It was never tried before.
    pub(super) is_first: bool,
    /// It was here before and was sent back to the journal.
    pub(super) came_back: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum Picked<T> {
    /// Send it, and `merged` within it, as one try.
    Send { ticket: Ticket, item: T, merged: Vec<T> },
    /// Its time was up while it waited: it takes no slot.
    Expired(T),
}

/// Who may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Who has less than a quarter of the slots.
    Fair,
    /// Anybody: nobody else can use the slot.
    Spare,
}

impl<T> Scheduler<T> {
    /// The next delivery, or `None` if nothing can go with `free` slots left in the process.
    pub fn pick(&mut self, now: Now, free: usize) -> Option<Picked<T>> {
        self.wake(now);
        if let Some(item) = self.expired.pop() {
            return Some(Picked::Expired(item));
        }
        let share = self.share(now.tick);
        let free = self.in_force(free, share);
        if free == 0 || self.queued == 0 {
            return None;
        }
        for pass in [Pass::Fair, Pass::Spare] {
            if self.firsts >= FIRSTS_PER_RETRY
                && let Some(found) = self.pick_plane(RETRY, pass, now, free)
            {
                return Some(found);
            }
            if let Some(found) = self.pick_plane(FIRST, pass, now, free) {
                self.firsts = self.firsts.saturating_add(1);
                return Some(found);
            }
            if let Some(found) = self.pick_plane(RETRY, pass, now, free) {
                return Some(found);
            }
        }
        None
    }

    /// Free slots of the share that is in force.
    fn in_force(&self, free: usize, share: f64) -> usize {
        let slots = u32::try_from(self.bounds.slots).unwrap_or(u32::MAX);
        let used = self.bounds.slots.saturating_sub(free);
        let allowed = (f64::from(slots) * share).max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive share of a 32-bit number"
        )]
        let allowed = allowed as usize;
        allowed.saturating_sub(used)
    }

    /// Puts targets whose gates opened back into their rings, and what waits for a lane that hangs
    /// back into the journal: its organizations have other work, too.
    fn wake(&mut self, now: Now) {
        let tick = now.tick;
        for place in 0..self.lanes.len() {
            if let Some(lane) = self.lanes.get_mut(place)
                && lane.hangs_at().is_some_and(|at| at <= tick)
            {
                lane.moved_at = tick;
                self.clear_lane(place, tick + HUNG_PAUSE_MS, now);
            }
        }
        while let Some(Reverse((at, place))) = self.wakes.peek().copied() {
            if at > tick {
                return;
            }
            self.wakes.pop();
            if let Some(target) = self.targets.get_mut(place)
                && target.wake_at == at
            {
                target.wake_at = 0;
                self.list(place, tick);
            }
        }
    }

    fn pick_plane(&mut self, plane: usize, pass: Pass, now: Now, free: usize) -> Option<Picked<T>> {
        if plane == RETRY && !self.may_repeat(now.tick) {
            return None;
        }
        for step in 0..self.lanes.len() {
            let lane = (self.turn + step) % self.lanes.len();
            if self.lanes.get(lane)?.planes[plane].is_empty() || !self.is_open(lane, now, free) {
                continue;
            }
            let found = match pass {
                Pass::Fair => self.pick_fair(lane, plane, now, free),
                Pass::Spare => self.pick_spare(lane, plane, now, free),
            };
            if found.is_some() {
                self.turn = lane + 1;
                return found;
            }
        }
        None
    }

    /// Repeats take a fifth of the slots while first tries wait, half of them otherwise.
    fn may_repeat(&mut self, tick: u64) -> bool {
        let firsts_wait = self.lanes.iter().any(|lane| !lane.planes[FIRST].is_empty());
        let part = if firsts_wait { 5 } else { 2 };
        let budget = (self.bounds.slots / part).max(1);
        self.retries_in_flight < budget && self.release.allows(tick)
    }

    fn is_open(&mut self, place: usize, now: Now, free: usize) -> bool {
        let share = self.share(now.tick);
        let Some(lane) = self.lanes.get_mut(place) else { return false };
        if !lane.has_room(now.tick, free, share) {
            return false;
        }
        let held = if lane.has_own_servers() { 0.0 } else { lane.throttle.held(now.tick) };
        if held > 0.0 && self.random() < held {
            if let Some(lane) = self.lanes.get_mut(place) {
                lane.gate = now.tick + THROTTLE_PAUSE_MS;
            }
            return false;
        }
        true
    }

    fn pick_fair(&mut self, lane: usize, plane: usize, now: Now, free: usize) -> Option<Picked<T>> {
        let mut visits = self.lanes.get(lane)?.planes[plane].visits();
        while visits > 0 {
            let org = self.lanes.get(lane)?.planes[plane].front()?;
            if !self.has_share(lane, org, Pass::Fair, free) {
                self.lanes.get_mut(lane)?.planes[plane].cap();
                visits -= 1;
                continue;
            }
            let Some(place) = self.lanes.get_mut(lane)?.planes[plane].visit() else {
                visits -= 1;
                continue;
            };
            if let Some(found) = self.take(lane, plane, place, now) {
                return Some(found);
            }
        }
        None
    }

    /// Nobody within a share can use the slot: those over theirs may.
    fn pick_spare(
        &mut self,
        lane: usize,
        plane: usize,
        now: Now,
        free: usize,
    ) -> Option<Picked<T>> {
        let visits = self.lanes.get(lane)?.planes[plane].capped().min(CAPPED_VISITS);
        for _ in 0..visits {
            self.lanes.get_mut(lane)?.planes[plane].uncap(None);
            // Whoever is in the ring besides is one that has its share, too, or is not ready.
            for _ in 0..3 {
                let org = self.lanes.get(lane)?.planes[plane].front()?;
                if !self.has_share(lane, org, Pass::Spare, free) {
                    break;
                }
                let Some(place) = self.lanes.get_mut(lane)?.planes[plane].visit() else {
                    continue;
                };
                if let Some(found) = self.take(lane, plane, place, now) {
                    return Some(found);
                }
            }
            self.lanes.get_mut(lane)?.planes[plane].cap();
        }
        None
    }

    /// True if `org` may have one more in flight in `lane`.
    fn has_share(&self, lane: usize, org: OrganizationId, pass: Pass, free: usize) -> bool {
        let used = self.orgs.get(&org).map_or(0, |org| org.in_flight);
        let quarter = (self.bounds.slots / 4).max(ORG_MIN);
        let is_alone = self.ready_orgs <= 1 || pass == Pass::Spare;
        // Alone, it still leaves as much free as it uses: whoever comes next finds a slot.
        (is_alone || used < quarter)
            && used < free.max(ORG_MIN)
            && self.lanes.get(lane).is_some_and(|lane| lane.has_share(org, ORG_MIN))
    }

    /// Takes the next delivery of the target in front, which leaves the ring if it is not ready.
    fn take(&mut self, lane: usize, plane: usize, place: u32, now: Now) -> Option<Picked<T>> {
        let share = self.share(now.tick);
        let state = self.targets.get_mut(place)?;
        if !state.is_ready(plane, now.tick, share) {
            state.listed[plane] = false;
            self.unlist(lane, plane);
            self.list(place, now.tick);
            self.targets.rest(place, now.tick);
            return None;
        }
        let waiting = state.waiting[plane].pop_front()?;
        let org = state.key.0;
        let (id, is_retry) = (waiting.about.id, plane == RETRY);
        let notification = waiting.about.notification;
        let (is_first, came_back) = (!waiting.about.is_retry, waiting.about.came_back);
        if waiting.about.expires_at <= now.at {
            state.drop_head(id);
            return Some(Picked::Expired(self.unqueued(org, waiting)));
        }
        let price = cost(state.service_ms);
        let mut merged = Vec::new();
        if state.merges_now(now.tick) {
            let [firsts, repeats] = &mut state.waiting;
            while merged.len() < MERGED_MAX
                && let Some(next) = firsts.pop_front().or_else(|| repeats.pop_front())
            {
                merged.push(next);
            }
        }
        state.started(now.tick);
        let stays = state.is_ready(plane, now.tick, share);
        state.listed[plane] = stays;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.started(org, now.tick);
            lane.planes[plane].charge(price);
        }
        if stays {
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.planes[plane].rest_target();
                lane.planes[plane].rest();
            }
        } else {
            self.unlist(lane, plane);
            self.list(place, now.tick);
        }
        self.in_flight += 1;
        self.retries_in_flight += usize::from(is_retry);
        if is_retry {
            self.firsts = 0;
            self.release.start(now.tick);
        }
        self.orgs.entry(org).or_default().in_flight += 1;
        let item = self.unqueued(org, waiting);
        let (late, merged): (Vec<_>, Vec<_>) =
            merged.into_iter().partition(|waiting| waiting.about.expires_at <= now.at);
        for waiting in late {
            let item = self.unqueued(org, waiting);
            self.expired.push(item);
        }
        let merged = merged.into_iter().map(|waiting| self.unqueued(org, waiting)).collect();
        let ticket = Ticket { place, lane, org, is_retry, id, notification, is_first, came_back };
        Some(Picked::Send { ticket, item, merged })
    }

    fn unlist(&mut self, lane: usize, plane: usize) {
        let left = self.lanes.get_mut(lane).and_then(|lane| lane.planes[plane].unlist());
        if let Some(org) = left {
            self.left(org);
        } else if let Some(lane) = self.lanes.get_mut(lane) {
            lane.planes[plane].rest();
        }
    }
}
