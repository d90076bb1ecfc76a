//! One lane: what goes through one provider with one credential.

use super::breaker::Breaker;
use super::plane::Plane;
use super::throttle::Throttle;
use super::{FIRST, RETRY};
use crate::model::{OrganizationId, ProviderName};
use std::collections::HashMap;

/// Weight of one answer in a lane's service time, which a target nobody knows yet is charged by.
const SERVICE_WEIGHT: f64 = 0.01;
/// How long a lane pauses when its throttle holds a try back.
pub(super) const THROTTLE_PAUSE_MS: u64 = 20;
/// How long "our credential is wrong" closes a lane, at least.
pub(super) const REFUSED_MS: u64 = 60_000;

/// A lane in which nothing ended for this long hangs: what waits for it makes room for others.
const HUNG_MS: u64 = 3_000;
/// How long that then stays in the journal.
pub(super) const HUNG_PAUSE_MS: u64 = 5_000;

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) provider: ProviderName,
    pub(super) planes: [Plane; 2],
    pub(super) in_flight: usize,
    /// What the provider takes at once right now.
    pub(super) limit: usize,
    /// Nothing goes out before this tick.
    pub(super) gate: u64,
    /// Open while our credential is refused.
    pub(super) refusal: Breaker,
    pub(super) throttle: Throttle,
    pub(super) service_ms: f64,
    /// What each organization has in flight here, where its own targets can be slow.
    orgs: HashMap<OrganizationId, usize>,
    /// When a try ended, or started with nothing else in flight.
    pub(super) moved_at: u64,
}

impl Lane {
    pub(super) fn new(provider: ProviderName) -> Self {
        Self {
            provider,
            planes: Default::default(),
            in_flight: 0,
            limit: 1,
            gate: 0,
            refusal: Breaker::default(),
            throttle: Throttle::default(),
            service_ms: 10.0,
            orgs: HashMap::new(),
            moved_at: 0,
        }
    }

    /// True if its targets are servers of their own, each as slow as its owner lets it be.
    pub(super) fn has_own_servers(&self) -> bool {
        matches!(self.provider, ProviderName::Slack | ProviderName::Webhook)
    }

    /// The tick before which nothing may go out, 0 if there is none.
    pub(super) fn closed_until(&self) -> u64 {
        self.gate.max(self.refusal.opens_at())
    }

    /// True if one more may start with `free` slots left in the process, the limit being in force
    /// with `share`.
    ///
    /// A lane takes three times as much as it leaves free: one that hangs never has it all.
    pub(super) fn has_room(&self, tick: u64, free: usize, share: f64) -> bool {
        let limit = u32::try_from(self.limit).unwrap_or(u32::MAX);
        let used = u32::try_from(self.in_flight).unwrap_or(u32::MAX);
        self.gate <= tick
            && self.refusal.allows(used, tick)
            && f64::from(used) + 1.0 <= (f64::from(limit) * share).max(1.0)
            && (self.in_flight == 0 || self.in_flight < 3 * free.saturating_sub(1))
    }

    /// True if `org` leaves as much of the provider's limit to others as it takes, where its own
    /// targets can be slow, or has no more than `least`.
    pub(super) fn has_share(&self, org: OrganizationId, least: usize) -> bool {
        if !self.has_own_servers() {
            return true;
        }
        let used = self.orgs.get(&org).copied().unwrap_or(0);
        used < self.limit.saturating_sub(self.in_flight).max(least)
    }

    pub(super) fn started(&mut self, org: OrganizationId, tick: u64) {
        if self.in_flight == 0 {
            self.moved_at = tick;
        }
        self.in_flight += 1;
        if self.has_own_servers() {
            *self.orgs.entry(org).or_insert(0) += 1;
        }
    }

    pub(super) fn ended(&mut self, org: OrganizationId, tick: u64) {
        self.moved_at = tick;
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(used) = self.orgs.get_mut(&org) {
            *used -= 1;
            if *used == 0 {
                self.orgs.remove(&org);
            }
        }
    }

    /// The tick at which it counts as hung, if it does not move before.
    pub(super) fn hangs_at(&self) -> Option<u64> {
        (self.in_flight > 0 && self.has_waiting()).then(|| self.moved_at + HUNG_MS)
    }

    pub(super) fn served(&mut self, service_ms: u32) {
        self.service_ms += SERVICE_WEIGHT * (f64::from(service_ms) - self.service_ms);
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.planes[FIRST].is_empty() || !self.planes[RETRY].is_empty()
    }

    pub(super) fn has_repeats(&self) -> bool {
        !self.planes[RETRY].is_empty()
    }
}
