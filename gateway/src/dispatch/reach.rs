//! How targets answered of late, for rules that ask: as this process saw it, bounded, forgotten with it.

use crate::model::{Attempt, Millis, Outcome, TargetRef};
use crate::rules::TargetView;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Targets of one generation; two are kept.
const TARGETS_MAX: usize = 32_768;
/// Failures older than this are not recent: whoever leaves a dead target out tries it again then.
const RECENT_MS: u64 = 60 * 60 * 1_000;

/// One target.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    ok_at: Option<Millis>,
    /// Since the last success, the last of them at `failed_at`.
    failures: u16,
    failed_at: Millis,
}

/// Targets that were tried since the process started, those tried last.
#[derive(Debug, Default)]
pub(super) struct Reach(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<TargetRef, Known>,
    old: HashMap<TargetRef, Known>,
}

impl Reach {
    /// Notes how a try ended; one that sent nothing says nothing.
    pub(super) fn note(&self, target: TargetRef, attempt: &Attempt, now: Millis) {
        let is_success = match attempt.outcome {
            Outcome::Delivered => true,
            Outcome::Retry { .. }
            | Outcome::Unknown { .. }
            | Outcome::Gone { .. }
            | Outcome::Rejected { .. } => false,
            Outcome::Withheld { .. } | Outcome::Hold { .. } => return,
        };
        let mut both = self.0.lock();
        let before = both.of(target).unwrap_or_default();
        let known = if is_success {
            Known { ok_at: Some(now), failures: 0, failed_at: Millis(0) }
        } else {
            let failures = before.recent(now).saturating_add(1);
            Known { failures, failed_at: now, ..before }
        };
        if both.young.len() >= TARGETS_MAX && !both.young.contains_key(&target) {
            both.old = std::mem::take(&mut both.young);
        }
        both.young.insert(target, known);
    }

    /// Fills in what is known of the targets of `views`, which belong to `targets` one by one.
    pub(super) fn tell(
        &self,
        targets: impl Iterator<Item = TargetRef>,
        views: &mut [TargetView],
        now: Millis,
    ) {
        let both = self.0.lock();
        for (target, view) in targets.zip(views) {
            let Some(known) = both.of(target) else { continue };
            view.last_ok_at = known.ok_at;
            view.recent_failures = known.recent(now);
        }
    }
}

impl Generations {
    fn of(&self, target: TargetRef) -> Option<Known> {
        self.young.get(&target).or_else(|| self.old.get(&target)).copied()
    }
}

impl Known {
    fn recent(&self, now: Millis) -> u16 {
        if now.since(self.failed_at) < RECENT_MS { self.failures } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ProviderName, UserId};
    use std::time::Duration;

    fn target(user: i64) -> TargetRef {
        TargetRef::Mailbox { provider: ProviderName::Email, user: UserId(user) }
    }

    fn ended(outcome: Outcome) -> Attempt {
        let elapsed = Duration::from_millis(1);
        Attempt { outcome, status: Some(200), reason: None, provider_id: None, elapsed }
    }

    fn told(reach: &Reach, user: i64, now: u64) -> (Option<u64>, u16) {
        let provider = ProviderName::Email;
        let (handle, app) = (String::new(), String::new());
        let view = TargetView { provider, handle, app, last_ok_at: None, recent_failures: 0 };
        let mut views = [view];
        reach.tell([target(user)].into_iter(), &mut views, Millis(now));
        let [view] = views;
        (view.last_ok_at.map(|at| at.0), view.recent_failures)
    }

    #[test]
    fn failures_since_the_last_success_are_counted_for_an_hour_after_the_last() {
        let reach = Reach::default();
        assert_eq!(told(&reach, 1, 0), (None, 0));
        let failed = ended(Outcome::Rejected { cause: "x" });
        reach.note(target(1), &ended(Outcome::Delivered), Millis(5));
        reach.note(target(1), &failed, Millis(10));
        reach.note(target(1), &failed, Millis(20));
        reach.note(target(1), &ended(Outcome::Hold { cause: "ours" }), Millis(30));
        assert_eq!(told(&reach, 1, 40), (Some(5), 2));
        assert_eq!(told(&reach, 2, 40), (None, 0), "another target");
        assert_eq!(told(&reach, 1, 20 + RECENT_MS), (Some(5), 0));
        reach.note(target(1), &failed, Millis(20 + RECENT_MS));
        assert_eq!(told(&reach, 1, 20 + RECENT_MS), (Some(5), 1), "the count begins anew");
        reach.note(target(1), &ended(Outcome::Delivered), Millis(30 + RECENT_MS));
        assert_eq!(told(&reach, 1, 30 + RECENT_MS), (Some(30 + RECENT_MS), 0));
    }

    #[test]
    fn only_so_many_targets_are_known_and_those_tried_last_stay() {
        let reach = Reach::default();
        let users = i64::try_from(TARGETS_MAX).unwrap() * 5 / 2;
        (0..users).for_each(|user| reach.note(target(user), &ended(Outcome::Delivered), Millis(7)));
        assert_eq!(told(&reach, users - 1, 8), (Some(7), 0));
        assert_eq!(told(&reach, 0, 8), (None, 0));
        let both = reach.0.lock();
        assert!(both.young.len() + both.old.len() <= 2 * TARGETS_MAX);
    }
}
