//! What is asked and done about deliveries that have ended: outcomes, dead letters, replays.

use super::{Books, DeadLetter, Entry, Resolution};
use crate::model::{DeliveryId, FinalState, Millis, NotificationId, OrganizationId};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;
use uuid::Uuid;

/// What a part of the log adds to the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    pub accepted: u64,
    /// By the state they are in now; may be negative for a part of the log.
    pub finals: [i64; 6],
    pub dead_letters: u64,
    pub reopened: [u64; 6],
    pub discarded: u64,
}

impl Sums {
    /// Counts a settlement: what became of deliveries, and the dead letters it made.
    pub fn settle(&mut self, resolved: &[(DeliveryId, Resolution)], dead: usize) {
        self.dead_letters += dead as u64;
        for (_, resolution) in resolved {
            if let Resolution::Final(state) = resolution {
                self.end(*state);
            }
        }
    }

    /// Counts a delivery that ended.
    pub fn end(&mut self, state: FinalState) {
        if let Some(count) = self.finals.get_mut(state as usize) {
            *count += 1;
        }
    }

    /// Counts an amendment of a delivery that had ended in `from`.
    pub fn amend(&mut self, from: FinalState, is_reopened: bool) {
        let slot = from as usize;
        if !is_reopened {
            self.discarded += 1;
        } else if let (Some(is), Some(was)) =
            (self.finals.get_mut(slot), self.reopened.get_mut(slot))
        {
            *is -= 1;
            *was += 1;
        }
    }

    /// Both parts together.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.dead_letters += other.dead_letters;
        self.discarded += other.discarded;
        for (to, from) in self.finals.iter_mut().zip(other.finals) {
            *to += from;
        }
        for (to, from) in self.reopened.iter_mut().zip(other.reopened) {
            *to += from;
        }
    }

    /// As the books say it; `None` if a state has fewer than none.
    #[must_use]
    pub fn books(&self) -> Option<Books> {
        let mut finals = [0; 6];
        for (to, from) in finals.iter_mut().zip(self.finals) {
            *to = u64::try_from(from).ok()?;
        }
        let Self { accepted, dead_letters, reopened, discarded, .. } = *self;
        Some(Books { accepted, finals, dead_letters, reopened, discarded })
    }
}

impl Books {
    /// Counts a further part of the log.
    pub fn add(&mut self, part: &Sums) {
        self.accepted += part.accepted;
        self.dead_letters += part.dead_letters;
        self.discarded += part.discarded;
        for (to, from) in self.finals.iter_mut().zip(part.finals) {
            *to = to.saturating_add_signed(from);
        }
        for (to, from) in self.reopened.iter_mut().zip(part.reopened) {
            *to += from;
        }
    }
}

/// Where deliveries that were settled together stand; later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SettledPlace {
    pub at: Millis,
    pub position: u64,
}

/// Which deliveries that ended are wanted.
#[derive(Clone, Copy, Debug)]
pub struct SettledQuery {
    pub org: OrganizationId,
    pub from: Millis,
    /// Not after this instant.
    pub to: Millis,
    /// One bit for each of `FinalState::ALL`.
    pub states: u8,
    /// Where the page before ended: this place and older ones.
    pub before: Option<SettledPlace>,
}

impl SettledQuery {
    /// The bit of a state.
    #[must_use]
    pub fn bit(state: FinalState) -> u8 {
        let slot = FinalState::ALL.iter().position(|s| *s == state);
        slot.map_or(0, |slot| 1 << slot)
    }
}

/// One settlement: the deliveries it ended, and all it says about them.
#[derive(Clone, Debug)]
pub struct Settled {
    pub notification: NotificationId,
    pub finals: Vec<(DeliveryId, FinalState)>,
    pub events: Vec<Bytes>,
}

/// What was settled in one commit, in its order.
#[derive(Clone, Debug)]
pub struct SettledBlock {
    pub place: SettledPlace,
    pub settled: Vec<Settled>,
}

#[derive(Clone, Debug, Default)]
pub struct SettledPage {
    pub blocks: Vec<SettledBlock>,
    /// Where to go on; `None` at the end.
    pub next: Option<SettledPlace>,
}

/// Where a dead letter stands; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadPlace {
    pub position: u64,
    pub ordinal: u32,
}

/// A dead letter with what its last settlement said, unless retention has dropped that.
#[derive(Clone, Debug)]
pub struct DeadRow {
    pub place: DeadPlace,
    pub at: Millis,
    pub letter: DeadLetter,
    pub events: Vec<Bytes>,
}

#[derive(Clone, Debug, Default)]
pub struct DeadPage {
    pub rows: Vec<DeadRow>,
    /// Where to go on; `None` at the end.
    pub next: Option<DeadPlace>,
}

/// The right to amend one delivery; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    delivery: DeliveryId,
    among: Arc<Mutex<HashSet<DeliveryId>>>,
}

impl Reserved {
    /// Takes the right out of `among`, if nobody has it.
    #[must_use]
    pub fn take(delivery: DeliveryId, among: &Arc<Mutex<HashSet<DeliveryId>>>) -> Option<Self> {
        let is_free = among.lock().insert(delivery);
        is_free.then(|| Self { delivery, among: Arc::clone(among) })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.among.lock().remove(&self.delivery);
    }
}

/// What is done to a delivery that has ended in `from`.
#[derive(Debug)]
pub struct Amendment {
    pub delivery: DeliveryId,
    pub notification: NotificationId,
    pub org: OrganizationId,
    pub from: FinalState,
    /// Where it was sent again last ([`Journal::reopened`](super::Journal::reopened)), as read before
    /// its state was: if that is another place by now, another process amended it.
    pub last: Option<u64>,
    /// Carries the delivery on; without one its dead letter is discarded and it stays dead.
    pub carrier: Option<Entry>,
    /// For the timeline.
    pub event: Bytes,
    pub held: Reserved,
}

/// A notification can be planned for a year ahead; later nothing of it waits.
const WAITS_MAX_MS: u64 = 400 * 86_400_000;

/// Notifications with smaller ids are so old that nothing of them can wait.
pub(super) fn oldest_waiting(now: Millis) -> NotificationId {
    // A version 7 UUID starts with 48 bits of milliseconds.
    NotificationId(Uuid::from_u64_pair(now.0.saturating_sub(WAITS_MAX_MS) << 16, 0))
}

/// The wish that nothing of a notification is sent any more.
#[derive(Clone, Debug)]
pub struct Cancellation {
    pub notification: NotificationId,
    pub org: OrganizationId,
    /// For the timeline.
    pub event: Bytes,
}
