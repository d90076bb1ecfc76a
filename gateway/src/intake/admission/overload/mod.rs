//! Whether the journal falls behind, and who is refused then: CoDel on the wait for commits.
//!
//! The least wait of a window shows a standing queue and not a burst. While there is one, a level
//! rises by one each window; it says how hard organizations above their fair share are refused
//! and how long the refused are sent away. What even fair shares bring too much is refused down
//! to the rate at which commits came back, lower classes first. Time is passed in: nothing here
//! reads a clock.

use std::time::{Duration, Instant};

use super::Class;
use super::shares::Shares;
use crate::model::OrganizationId;

const WINDOW: Duration = Duration::from_millis(100);
/// A shorter wait is never a standing queue.
const TARGET_MIN: Duration = Duration::from_millis(20);
/// Neither is one of this many syncs: one under way, one's own, and one of slack.
const TARGET_SYNCS: u32 = 3;
/// Fewer commits that wait at once are no queue, whatever the disk does: refusing helps nobody.
const QUEUE_MIN: u32 = 16;
/// The level at which an organization with twice its fair share is refused always.
const LEVEL_FULL: f64 = 8.0;
/// Bounds `Retry-After` at 11 s.
const LEVEL_MAX: u32 = 40;
/// Windows over which the rate of commits is averaged.
const RATE_WINDOWS: usize = 4;
/// Weight of the newest rate in their moving average.
const RATE_WEIGHT: f64 = 0.3;
/// What is let in is never cut to less than this of the rate in one window.
const CUT_MAX: f64 = 0.7;
/// Growth of what is let in per window, near the target and far below it.
const GROWTH: f64 = 1.01;
const GROWTH_IDLE: f64 = 1.1;
/// Share of the rate that is let in at least while there is no standing queue.
const FLOOR: f64 = 0.95;
/// Windows without any event that are looked at one by one.
const CATCH_UP_MAX: u32 = 64;

const CLASSES: usize = Class::ALL.len();
/// Organizations of a class in the order in which they are refused.
const OVER: usize = 0;
const FAIR: usize = 1;

/// What is let in per window while there is a standing queue.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Requests whose commits came back per window.
    rate: f64,
    allowed: f64,
}

/// The state of overload. One for the journal.
#[derive(Debug)]
pub(super) struct Overload {
    window: Instant,
    least: Option<Duration>,
    served: u32,
    begun: u32,
    recent: [f64; RATE_WINDOWS],
    /// Requests that wait for their commit.
    waiting: u32,
    /// Their commits, and the most of them in this window.
    commits: u32,
    deepest: u32,
    /// When a commit came back last, or when the first that waits began to.
    progress: Instant,
    sync: Duration,
    level: u32,
    plan: Option<Plan>,
    offered: [[u32; 2]; CLASSES],
    shed: [[f64; 2]; CLASSES],
    /// Classes whose organizations above their fair share are refused by level.
    exposed: [bool; CLASSES],
    pub(super) shares: Shares,
}

impl Overload {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            window: now,
            least: None,
            served: 0,
            begun: 0,
            recent: [0.0; RATE_WINDOWS],
            waiting: 0,
            commits: 0,
            deepest: 0,
            progress: now,
            sync: Duration::ZERO,
            level: 0,
            plan: None,
            offered: [[0; 2]; CLASSES],
            shed: [[0.0; 2]; CLASSES],
            exposed: [true, false, false],
            shares: Shares::new(now),
        }
    }

    /// The moving average of the time of one sync.
    pub(super) fn set_sync(&mut self, sync: Duration) {
        self.sync = sync;
    }

    pub(super) fn is_overloaded(&self) -> bool {
        self.plan.is_some()
    }

    pub(super) fn level(&self) -> u32 {
        self.level
    }

    /// `requests` of `org` with together `bytes` begin to wait for one commit.
    pub(super) fn begin(&mut self, org: OrganizationId, requests: u32, bytes: u64, now: Instant) {
        self.advance(now);
        self.shares.add(org, bytes, now);
        if self.waiting == 0 {
            self.progress = now;
        }
        self.waiting = self.waiting.saturating_add(requests);
        self.begun = self.begun.saturating_add(requests);
        self.commits = self.commits.saturating_add(1);
        self.deepest = self.deepest.max(self.commits);
    }

    /// They were answered after `wait`; with none, nobody waits for them any more.
    pub(super) fn end(&mut self, requests: u32, wait: Option<Duration>, now: Instant) {
        self.advance(now);
        self.waiting = self.waiting.saturating_sub(requests);
        self.commits = self.commits.saturating_sub(1);
        if let Some(wait) = wait {
            self.served = self.served.saturating_add(requests);
            self.least = Some(self.least.map_or(wait, |least| least.min(wait)));
            self.progress = now;
        }
    }

    /// Whether one more request may come in; else the seconds after which to ask again. `draw`
    /// gives random numbers from 0 to 1.
    pub(super) fn ask(
        &mut self,
        org: OrganizationId,
        class: Class,
        now: Instant,
        mut draw: impl FnMut() -> f64,
    ) -> Result<(), u32> {
        self.advance(now);
        if self.plan.is_none() {
            return Ok(());
        }
        let ratio = self.shares.ratio(org, now);
        let (class, group) = (class as usize, if ratio > 1.0 + 1e-9 { OVER } else { FAIR });
        self.offered[class][group] = self.offered[class][group].saturating_add(1);
        let by_level = if self.exposed[class] { refusal(ratio, self.level) } else { 0.0 };
        if draw() < by_level.max(self.shed[class][group]) {
            return Err(retry_after(self.level, draw()));
        }
        Ok(())
    }

    /// Closes the windows that have ended by `now`.
    pub(super) fn advance(&mut self, now: Instant) {
        for _ in 0..CATCH_UP_MAX {
            if now.saturating_duration_since(self.window) < WINDOW {
                return;
            }
            let end = self.window + WINDOW;
            self.close(end);
            self.window = end;
        }
        // Nobody asked for seconds: what was is no guide.
        if self.waiting == 0 {
            (self.level, self.plan) = (0, None);
            self.shed = [[0.0; 2]; CLASSES];
        }
        self.window = now;
    }

    fn target(&self) -> Duration {
        TARGET_MIN.max(self.sync * TARGET_SYNCS)
    }

    /// The least wait of the window that ends, as far as it is known.
    fn standing(&self, end: Instant) -> Duration {
        match self.least {
            _ if self.deepest < QUEUE_MIN => Duration::ZERO,
            Some(least) => least,
            // Nothing came back: somebody has waited for at least as long.
            None if self.waiting > 0 => end.saturating_duration_since(self.progress),
            None => Duration::ZERO,
        }
    }

    fn close(&mut self, end: Instant) {
        let (standing, target) = (self.standing(end), self.target());
        self.recent.rotate_right(1);
        self.recent[0] = f64::from(self.served);
        #[expect(clippy::cast_precision_loss, reason = "four")]
        let served = self.recent.iter().sum::<f64>() / RATE_WINDOWS as f64;
        if self.plan.is_none() {
            // Nobody was asked for a class: take all that came in for ordinary.
            self.offered[Class::Normal as usize][FAIR] = self.begun;
        }
        let offered: u32 = self.offered.iter().flatten().sum();
        if standing > target {
            self.level = (self.level + 1).min(LEVEL_MAX);
            let rate =
                self.plan.map_or(served, |plan| plan.rate + RATE_WEIGHT * (served - plan.rate));
            let cut = (target.as_secs_f64() / standing.as_secs_f64()).clamp(CUT_MAX, 1.0);
            self.plan = Some(Plan { rate, allowed: rate * cut });
        } else {
            self.level = self.level.saturating_sub(1);
            let growth = if standing < target / 2 { GROWTH_IDLE } else { GROWTH };
            self.plan = self.plan.and_then(|plan| {
                let rate = plan.rate.max(served);
                let allowed = (plan.allowed * growth + 1.0).max(rate * FLOOR);
                let is_over = self.level == 0 && f64::from(offered) <= allowed;
                (!is_over).then_some(Plan { rate, allowed })
            });
        }
        // A window in which nobody could ask tells nothing of how many will.
        if offered > 0 || standing <= target {
            self.spread();
        }
        (self.served, self.begun, self.deepest) = (0, 0, self.commits);
        (self.least, self.offered) = (None, [[0; 2]; CLASSES]);
    }

    /// Spreads what the window brought too much over those who are refused first.
    fn spread(&mut self) {
        self.shed = [[0.0; 2]; CLASSES];
        self.exposed = [true, false, false];
        let Some(plan) = self.plan else { return };
        let offered: u32 = self.offered.iter().flatten().sum();
        let mut excess = f64::from(offered) - plan.allowed;
        let mut is_exposed = offered > 0;
        for (class, groups) in self.offered.iter().enumerate() {
            self.exposed[class] |= is_exposed;
            for (group, offered) in groups.iter().enumerate() {
                // Who brought nothing yet is refused before those behind it are.
                let part = if excess > 0.0 { excess / f64::from((*offered).max(1)) } else { 0.0 };
                let part = part.min(1.0);
                self.shed[class][group] = part;
                excess -= part * f64::from(*offered);
                is_exposed &= *offered == 0 || self.shed[class][group] >= 1.0;
            }
        }
    }
}

/// The probability with which an organization is refused by its share.
fn refusal(ratio: f64, level: u32) -> f64 {
    ((ratio - 1.0) * f64::from(level) / LEVEL_FULL).clamp(0.0, 1.0)
}

/// 1 + level/4 + a random part of a second, in whole seconds.
fn retry_after(level: u32, draw: f64) -> u32 {
    1 + level / 4 + u32::from(f64::from(level % 4) / 4.0 + draw >= 1.0)
}

#[cfg(test)]
mod tests;
