//! What the end of a try teaches about its target and its lane.

use super::lane::REFUSED_MS;
use super::pick::Ticket;
use super::{FIRST, Now, Parked, RETRY, SOON_MS, Scheduler};
use crate::dispatch::sched::breaker::BreakerState;
use crate::model::ProviderName;

/// The longest time a provider may ask us to stay away.
const GATE_MAX_MS: u64 = 3_600_000;

/// What a try says about who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// An answer: delivered, refused or gone. The target is well.
    Answered,
    /// 429: less, please.
    Throttled,
    /// 502, 503, 504, silence or a reset.
    Overloaded,
    /// Another 5xx.
    Failed,
    /// Not even a connection.
    Unreachable,
    /// Our credential is wrong: nothing is the target's fault.
    Refused,
    /// Nothing left this machine, or it says nothing about the target.
    Nothing,
}

/// The end of a try.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    pub signal: Signal,
    /// Milliseconds the provider asked us to stay away.
    pub wait_ms: Option<u64>,
    /// That wait is for everybody who uses this credential, not for the target alone.
    pub is_lane_wait: bool,
    pub service_ms: u32,
    /// The delivery will be tried again after this many milliseconds.
    pub again_ms: Option<u64>,
    /// It is as if it had not been tried: a first try comes back as one.
    pub stays_first: bool,
}

/// The end of a try that was taken back before it began.
pub const UNTRIED: Finished = Finished {
    signal: Signal::Nothing,
    wait_ms: None,
    is_lane_wait: false,
    service_ms: 0,
    again_ms: None,
    stays_first: false,
};

impl<T> Scheduler<T> {
    /// Takes a try back. What cannot go out soon any more is among `take_parked` afterwards.
    pub fn finish(&mut self, ticket: Ticket, finished: Finished, now: Now) {
        let Ticket { place, lane, org, is_retry, id, notification, is_first, .. } = ticket;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.retries_in_flight -= usize::from(is_retry).min(self.retries_in_flight);
        if let Some(org) = self.orgs.get_mut(&org) {
            org.in_flight = org.in_flight.saturating_sub(1);
        }
        if finished.signal == Signal::Answered {
            self.release.end(now.tick);
        }
        let closed = self.judge_lane(lane, finished, now.tick);
        let random = self.random();
        if let Some(target) = self.targets.get_mut(place) {
            judge(target, finished, now.tick, random);
            if let (true, Some(ms)) = (is_first && finished.stays_first, finished.again_ms) {
                target.away.sent(notification, now.tick + ms);
            }
            match finished.again_ms {
                Some(ms) if target.policy.keeps_order => target.waits_for(id, now.tick + ms),
                _ => target.drop_head(id),
            }
            target.in_flight = target.in_flight.saturating_sub(1);
        }
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.ended(org, now.tick);
            for plane in &mut lane.planes {
                plane.uncap(Some(org));
                plane.uncap(None);
            }
        }
        if closed {
            let until = self.lanes.get(lane).map_or(0, super::lane::Lane::closed_until);
            self.clear_lane(lane, until, now);
        }
        self.settle_target(place, now);
        self.forget(org);
    }

    /// Takes back a try that did not begin because the lease of its claim ran out: the journal gives
    /// it out again, and a line in strict order waits for it.
    pub fn lost(&mut self, ticket: Ticket, now: Now) {
        let stays_first = ticket.came_back;
        self.finish(ticket, Finished { again_ms: Some(1), stays_first, ..UNTRIED }, now);
    }

    /// Answers whether the lane closed for longer than it is worth waiting here.
    fn judge_lane(&mut self, place: usize, finished: Finished, tick: u64) -> bool {
        let random = self.random();
        let Some(lane) = self.lanes.get_mut(place) else { return false };
        let was_open = lane.closed_until() <= tick + SOON_MS;
        match finished.signal {
            Signal::Answered => {
                lane.served(finished.service_ms);
                lane.throttle.tried(tick, true);
                lane.refusal.good(tick);
            }
            Signal::Throttled => lane.throttle.tried(tick, true),
            Signal::Overloaded | Signal::Failed | Signal::Unreachable => {
                lane.throttle.tried(tick, false);
            }
            Signal::Refused if !lane.has_own_servers() && lane.provider != ProviderName::Email => {
                if lane.refusal.state(tick) != BreakerState::Open {
                    lane.refusal.open(tick, random);
                    lane.gate = lane.gate.max(tick + REFUSED_MS);
                }
            }
            Signal::Refused | Signal::Nothing => {}
        }
        if let (Some(ms), true) = (finished.wait_ms, finished.is_lane_wait) {
            lane.gate = lane.gate.max(tick + ms.min(GATE_MAX_MS));
        }
        was_open && lane.closed_until() > tick + SOON_MS
    }

    /// After something changed: back into the rings, or back to the journal.
    fn settle_target(&mut self, place: u32, now: Now) {
        let Some(target) = self.targets.get_mut(place) else { return };
        let closed = target.closed_until();
        // Whoever waited here for a head that is in the journal would take the room that it needs.
        let is_closed = closed > now.tick + SOON_MS || target.head_due(now.tick).is_some();
        if is_closed && target.waits() > 0 {
            self.clear_target(place, closed, now);
        }
        self.list(place, now.tick);
        self.targets.rest(place, now.tick);
    }

    /// Sends everything that waits for a target back to the journal until `tick`.
    fn clear_target(&mut self, place: u32, tick: u64, now: Now) {
        let Some(target) = self.targets.get_mut(place) else { return };
        let org = target.key.0;
        let mut cleared = Vec::new();
        for plane in [FIRST, RETRY] {
            for waiting in std::mem::take(&mut target.waiting[plane]) {
                let tick = target.sent_back(&waiting.about, tick);
                cleared.push((waiting, tick));
            }
        }
        for (waiting, tick) in cleared {
            let item = self.unqueued(org, waiting);
            self.parked.push(Parked { item, due: now.due(tick) });
        }
    }

    /// Sends everything that waits for a lane back to the journal until `tick`.
    pub(super) fn clear_lane(&mut self, lane: usize, tick: u64, now: Now) {
        for place in self.targets.waiting_in(lane) {
            self.clear_target(place, tick, now);
        }
    }
}

fn judge<T>(target: &mut super::target::Target<T>, finished: Finished, tick: u64, random: f64) {
    let in_flight = target.in_flight;
    let rtt = finished.service_ms;
    if finished.signal != Signal::Nothing {
        target.served(rtt);
    }
    match finished.signal {
        Signal::Answered => target.limiter.answered(in_flight, rtt),
        Signal::Throttled | Signal::Overloaded => target.limiter.struggled(tick, rtt),
        Signal::Failed | Signal::Unreachable | Signal::Refused | Signal::Nothing => {}
    }
    if let Some(hook) = target.hook.as_mut() {
        match finished.signal {
            Signal::Answered => hook.breaker.good(tick),
            Signal::Overloaded | Signal::Failed => {
                hook.breaker.bad(tick, false, random);
            }
            Signal::Unreachable => {
                hook.breaker.bad(tick, true, random);
            }
            Signal::Refused => target.gate = target.gate.max(tick + REFUSED_MS),
            Signal::Throttled | Signal::Nothing => {}
        }
    }
    if let (Some(ms), false) = (finished.wait_ms, finished.is_lane_wait) {
        target.gate = target.gate.max(tick + ms.min(GATE_MAX_MS));
        target.limiter.halve();
    }
}
