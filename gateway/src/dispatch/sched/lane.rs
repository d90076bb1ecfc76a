//! One lane: what goes through one provider with one credential.

use super::breaker::Breaker;
use super::plane::Plane;
use super::throttle::Throttle;
use super::{FIRST, RETRY};
use crate::model::ProviderName;

/// Weight of one answer in a lane's service time, which a target nobody knows yet is charged by.
const SERVICE_WEIGHT: f64 = 0.01;
/// How long a lane pauses when its throttle holds a try back.
pub(super) const THROTTLE_PAUSE_MS: u64 = 100;
/// How long "our credential is wrong" closes a lane, at least.
pub(super) const REFUSED_MS: u64 = 60_000;

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

    /// What an organization may have in flight here while nobody else wants it.
    ///
    /// As much as it leaves to others, of what its own targets can block.
    pub(super) fn spare(&self, free: usize) -> usize {
        if self.has_own_servers() {
            free.min(self.limit.saturating_sub(self.in_flight))
        } else {
            free
        }
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
