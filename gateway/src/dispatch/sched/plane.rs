//! Two-level deficit round robin: organizations in a ring, each with a ring of its targets.
//!
//! Cost is charged after the fact: a visit adds a quantum to a balance that is spent, and whoever's
//! is positive then may send. No cost exceeds two quanta, so nobody that waits is passed over
//! more than twice, and a pick looks at each organization at most twice.

use crate::model::OrganizationId;
use std::collections::{HashMap, VecDeque};

/// What one visit adds. In tenths: see [`cost`].
pub(super) const QUANTUM: i32 = 160;
/// The dearest delivery: two quanta, so that the slowest target is visited twice at most.
const COST_MAX: f64 = 320.0;

/// What a delivery costs, in tenths: 1 and a tenth of its target's usual milliseconds.
pub(super) fn cost(service_ms: f64) -> i32 {
    let tenths = (10.0 + service_ms).clamp(10.0, COST_MAX);
    #[expect(clippy::cast_possible_truncation, reason = "clamped to 10..=320 above")]
    let tenths = tenths as i32;
    tenths
}

/// One organization's place in a ring.
#[derive(Debug)]
struct Member {
    balance: i32,
    targets: VecDeque<(u32, i32)>,
    /// The round in which it joined or was last served.
    since: u64,
    is_capped: bool,
}

/// One lane's deliveries of one kind (first tries, or repeats).
#[derive(Debug, Default)]
pub(super) struct Plane {
    ring: VecDeque<OrganizationId>,
    /// Those with as much in flight as they may have, while others wait.
    capped: VecDeque<OrganizationId>,
    members: HashMap<OrganizationId, Member>,
    round: u64,
    left: usize,
    longest: u64,
}

impl Plane {
    /// Adds a target that has become ready. Answers whether its organization is new here.
    pub(super) fn list(&mut self, org: OrganizationId, target: u32) -> bool {
        if let Some(member) = self.members.get_mut(&org) {
            member.targets.push_back((target, QUANTUM));
            return false;
        }
        let targets = VecDeque::from([(target, QUANTUM)]);
        let member = Member { balance: QUANTUM, targets, since: self.round, is_capped: false };
        self.members.insert(org, member);
        self.ring.push_back(org);
        true
    }

    /// Nobody waits here.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The organization whose turn it is.
    pub(super) fn front(&self) -> Option<OrganizationId> {
        self.ring.front().copied()
    }

    /// How many visits one pick may need: each organization twice.
    pub(super) fn visits(&self) -> usize {
        self.ring.len() * 2 + 1
    }

    /// One visit of the organization in front: its next target, or `None` if it has to wait for
    /// its next turn.
    pub(super) fn visit(&mut self) -> Option<u32> {
        let org = self.front()?;
        let member = self.members.get_mut(&org)?;
        if member.balance <= 0 {
            member.balance += QUANTUM;
            if member.balance <= 0 {
                self.turn();
                return None;
            }
        }
        member.next_target()
    }

    /// Sets the organization in front aside: it has its share in flight.
    pub(super) fn cap(&mut self) {
        if let Some(org) = self.ring.pop_front() {
            if let Some(member) = self.members.get_mut(&org) {
                member.is_capped = true;
            }
            self.capped.push_back(org);
            self.passed();
        }
    }

    /// Brings back `org`, or whoever waited longest, now that something ended.
    pub(super) fn uncap(&mut self, org: Option<OrganizationId>) {
        let found = match org {
            Some(org) if self.members.get(&org).is_some_and(|member| member.is_capped) => {
                self.capped.retain(|other| *other != org);
                Some(org)
            }
            Some(_) => None,
            None => self.capped.pop_front(),
        };
        let Some(org) = found else { return };
        if let Some(member) = self.members.get_mut(&org) {
            member.is_capped = false;
            // What it waited for was its own work in flight.
            member.since = self.round;
            self.ring.push_back(org);
        }
    }

    /// Capped organizations, for the case that nobody else can be served.
    pub(super) fn capped(&self) -> usize {
        self.capped.len()
    }

    /// Takes the front target of the front organization out: it is not ready after all. Answers
    /// the organization if that was its last target.
    pub(super) fn unlist(&mut self) -> Option<OrganizationId> {
        let org = self.front()?;
        let member = self.members.get_mut(&org)?;
        member.targets.pop_front();
        if !member.targets.is_empty() {
            return None;
        }
        self.members.remove(&org);
        self.ring.pop_front();
        self.passed();
        Some(org)
    }

    /// Charges the front organization and its front target.
    pub(super) fn charge(&mut self, cost: i32) {
        let Some(org) = self.front() else { return };
        let round = self.round;
        let Some(member) = self.members.get_mut(&org) else { return };
        member.balance -= cost;
        if let Some((_, balance)) = member.targets.front_mut() {
            *balance -= cost;
        }
        self.longest = self.longest.max(round - member.since);
        member.since = round;
    }

    /// Ends the front target's turn if it has spent what it had.
    pub(super) fn rest_target(&mut self) {
        let front = self.front().and_then(|org| self.members.get_mut(&org));
        if let Some(member) = front
            && member.targets.front().is_some_and(|(_, balance)| *balance <= 0)
        {
            member.targets.rotate_left(1);
        }
    }

    /// Ends the front organization's turn if it has spent what it had.
    pub(super) fn rest(&mut self) {
        let spent = self.front().and_then(|org| self.members.get(&org));
        if spent.is_some_and(|member| member.balance <= 0) {
            self.turn();
        }
    }

    /// The most rounds that anybody with ready work and free share has waited.
    pub(super) fn longest_wait(&self) -> u64 {
        self.longest
    }

    fn turn(&mut self) {
        if let Some(org) = self.ring.pop_front() {
            self.ring.push_back(org);
            self.passed();
        }
    }

    fn passed(&mut self) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.round += 1;
            self.left = self.ring.len();
        }
    }
}

impl Member {
    fn next_target(&mut self) -> Option<u32> {
        for _ in 0..self.targets.len() * 2 + 1 {
            let (target, balance) = self.targets.front_mut()?;
            if *balance <= 0 {
                *balance += QUANTUM;
            }
            if *balance > 0 {
                return Some(*target);
            }
            self.targets.rotate_left(1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_costs_one_and_a_tenth_of_its_targets_milliseconds() {
        assert_eq!(cost(0.0), 10);
        assert_eq!(cost(50.0), 60, "6 in units");
        assert_eq!(cost(1e9), 320, "two quanta at most");
    }

    #[test]
    fn who_spends_more_is_served_less_often() {
        let (cheap, dear) = (OrganizationId(1), OrganizationId(2));
        let mut plane = Plane::default();
        plane.list(cheap, 1);
        plane.list(dear, 2);
        let mut served = HashMap::new();
        for _ in 0..10_000 {
            let Some(target) = plane.visit() else { continue };
            plane.charge(if target == 1 { 10 } else { 320 });
            plane.rest();
            *served.entry(target).or_insert(0u32) += 1;
        }
        let (cheap, dear) = (served[&1], served[&2]);
        assert!(cheap.abs_diff(dear * 32) <= 64, "{cheap} and {dear}: the same cost for both");
        assert!(plane.longest_wait() <= 2);
    }
}
