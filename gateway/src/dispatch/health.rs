//! Hooks that fail: since when, and who heads their line, kept in the records across restarts.
//!
//! A record is written once a hook has failed for ten minutes and when it is well again, not for each
//! try; for a line in strict order also when its first delivery gets another time.

use crate::model::{Attempt, Delivery, Millis, Outcome, SubscriptionId, TargetRef};
use crate::store::{Change, Failing};
use parking_lot::Mutex;
use std::collections::HashMap;

/// A subscription that had no success for this long is disabled.
const FAILING_MAX_MS: u64 = 120 * 60 * 60 * 1_000;
/// Failing for less than this is not worth a write: a restart then starts counting anew.
const NOTED_AFTER_MS: u64 = 10 * 60 * 1_000;

/// What a try changes.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) changes: Vec<Change>,
    /// The hook failed for too long: it is disabled with these changes.
    pub(super) is_over: bool,
}

/// A failing hook, and what the records say of it.
#[derive(Clone, Copy, Debug)]
struct Known {
    failing: Failing,
    noted: Option<Failing>,
}

/// Every failing hook of this process.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<HashMap<SubscriptionId, Known>>);

impl Health {
    /// Takes over what the records say.
    pub(super) fn restore(&self, all: &[Failing]) {
        let known = |one: &Failing| Known { failing: *one, noted: Some(*one) };
        self.0.lock().extend(all.iter().map(|one| (one.subscription, known(one))));
    }

    /// Notes the end of a try of `delivery`, which goes on at `again`.
    pub(super) fn note(
        &self,
        delivery: &Delivery,
        attempt: &Attempt,
        again: Option<Millis>,
        now: Millis,
    ) -> Noted {
        let TargetRef::Subscription { subscription, .. } = delivery.target.reference() else {
            return Noted::default();
        };
        let mut all = self.0.lock();
        match attempt.outcome {
            Outcome::Delivered => match all.remove(&subscription) {
                Some(Known { noted: Some(_), .. }) => {
                    Noted::of(Change::NoteFailing(subscription, None))
                }
                Some(_) | None => Noted::default(),
            },
            // It goes with its subscription.
            Outcome::Gone { .. } => {
                all.remove(&subscription);
                Noted::default()
            }
            Outcome::Rejected { .. } | Outcome::Withheld { .. } | Outcome::Hold { .. } => {
                Noted::default()
            }
            Outcome::Retry { .. } | Outcome::Unknown { .. } => {
                let before = all.get(&subscription).copied();
                let since = before.map_or(now, |known| known.failing.since);
                if now.since(since) >= FAILING_MAX_MS {
                    all.remove(&subscription);
                    tracing::warn!(target = %delivery.target.key(), "a hook had no success for 120 hours; it is disabled");
                    let changes = vec![
                        Change::NoteFailing(subscription, None),
                        Change::DisableSubscription(subscription),
                    ];
                    return Noted { changes, is_over: true };
                }
                let keeps_order = delivery.target.policy().keeps_order;
                let head = again.filter(|_| keeps_order).map(|at| (delivery.id, at));
                let org = delivery.notification.org;
                let failing = Failing { subscription, org, since, head };
                let noted = before.and_then(|known| known.noted);
                let is_worth_it =
                    head.is_some() || noted.is_some() || now.since(since) >= NOTED_AFTER_MS;
                let is_new = is_worth_it && noted != Some(failing);
                let noted = if is_new { Some(failing) } else { noted };
                all.insert(subscription, Known { failing, noted });
                if is_new {
                    Noted::of(Change::NoteFailing(subscription, Some(failing)))
                } else {
                    Noted::default()
                }
            }
        }
    }
}

impl Noted {
    fn of(change: Change) -> Self {
        Self { changes: vec![change], is_over: false }
    }
}
