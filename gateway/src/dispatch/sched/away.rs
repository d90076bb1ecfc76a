//! First tries of one target that were sent back to the journal: later ones wait for them.

use crate::model::NotificationId;
use std::collections::BTreeMap;

/// A line stops waiting for what it misses this long after that was due back.
pub(super) const PATIENCE_MS: u64 = 60_000;
/// Of so many it is known which they are; of the others, which come after those, how many.
const KNOWN_MAX: usize = 256;

/// Who is away, and until when that is waited for.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// With the tick at which each is due.
    known: BTreeMap<NotificationId, u64>,
    more: u32,
    /// Nobody among those unknown was accepted before this one.
    floor: Option<NotificationId>,
    until: u64,
}

impl Away {
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.known.len()).unwrap_or(u32::MAX).saturating_add(self.more)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.more == 0
    }

    /// The tick at which it is waited for no longer.
    pub(super) fn until(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.until)
    }

    /// When the last of them is due back.
    pub(super) fn due(&self) -> Option<u64> {
        self.until().map(|until| until.saturating_sub(PATIENCE_MS))
    }

    /// True if the first of them is due, or nobody knows who that is.
    pub(super) fn is_overdue(&self, tick: u64) -> bool {
        !self.is_empty() && self.known.first_key_value().is_none_or(|(_, due)| *due <= tick)
    }

    /// `notification` goes away until `tick`.
    pub(super) fn sent(&mut self, notification: NotificationId, tick: u64) {
        self.until = self.until.max(tick + PATIENCE_MS);
        self.known.insert(notification, tick);
        if self.known.len() > KNOWN_MAX
            && let Some((last, _)) = self.known.pop_last()
        {
            self.floor = Some(self.floor.filter(|_| self.more > 0).map_or(last, |f| f.min(last)));
            self.more += 1;
        }
    }

    /// `notification` is here: one of those away if it says so, or if it is known to be.
    pub(super) fn returned(&mut self, notification: NotificationId, came_back: bool) {
        if self.known.remove(&notification).is_some() || !came_back {
            return;
        }
        self.more = self.more.saturating_sub(1);
        // They come back in the order they went in.
        self.floor = self.floor.map(|floor| floor.max(notification));
    }

    /// True if somebody who was accepted before `notification` is away and still waited for.
    pub(super) fn is_before(&self, notification: NotificationId, tick: u64) -> bool {
        let unknown = self.floor.filter(|_| self.more > 0);
        let known = self.known.first_key_value().map(|(first, _)| *first);
        let first = known.into_iter().chain(unknown).min();
        self.until > tick && first.is_some_and(|first| first < notification)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn number(number: u64) -> NotificationId {
        NotificationId(Uuid::from_u128(u128::from(number)))
    }

    #[test]
    fn only_who_was_accepted_before_is_waited_for() {
        let mut away = Away::default();
        away.sent(number(5), 1_000);
        away.sent(number(7), 1_000);
        assert!(!away.is_before(number(5), 0) && away.is_before(number(6), 0));
        assert!(!away.is_overdue(999) && away.is_overdue(1_000));
        away.returned(number(5), false);
        assert!(!away.is_before(number(6), 0), "it was claimed anew");
        assert!(away.is_before(number(8), 0));
        assert!(!away.is_before(number(8), 1_000 + PATIENCE_MS), "not for ever");
        away.returned(number(7), true);
        assert!(away.is_empty());
    }

    #[test]
    fn of_very_many_only_their_number_and_the_first_is_kept() {
        let mut away = Away::default();
        let all = 2 * KNOWN_MAX as u64;
        (1..=all).for_each(|n| away.sent(number(n), 1_000));
        assert_eq!(u64::from(away.count()), all);
        assert_eq!(away.known.len(), KNOWN_MAX);
        for n in 1..=all {
            let is_known = n <= KNOWN_MAX as u64;
            assert!(!(is_known && away.is_before(number(n), 0)), "{n} is the next");
            assert!(away.is_before(number(all + 1), 0), "{n} is still away");
            away.returned(number(n), true);
        }
        assert!(away.is_empty() && !away.is_before(number(all + 1), 0));
    }
}
