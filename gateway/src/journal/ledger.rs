//! What is asked and done about deliveries that have ended: outcomes, dead letters, replays.

use super::{Books, DeadLetter, Entry};
use crate::model::{DeliveryId, FinalState, Millis, NotificationId, OrganizationId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

impl Books {
    /// Counts a delivery that ended.
    pub fn ended(&mut self, state: FinalState) {
        let slot = FinalState::ALL.iter().position(|s| *s == state);
        if let Some(count) = slot.and_then(|slot| self.finals.get_mut(slot)) {
            *count += 1;
        }
    }

    /// Counts an amendment of a delivery that had ended in `from`.
    pub fn amended(&mut self, from: FinalState, is_reopened: bool) {
        if !is_reopened {
            self.discarded += 1;
            return;
        }
        let Some(slot) = FinalState::ALL.iter().position(|s| *s == from) else { return };
        if let Some(count) = self.finals.get_mut(slot) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.reopened.get_mut(slot) {
            *count += 1;
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
    /// Carries the delivery on; without one its dead letter is discarded and it stays dead.
    pub carrier: Option<Entry>,
    /// For the timeline.
    pub event: Bytes,
    pub held: Reserved,
}

/// The wish that nothing of a notification is sent any more.
#[derive(Clone, Debug)]
pub struct Cancellation {
    pub notification: NotificationId,
    pub org: OrganizationId,
    /// For the timeline.
    pub event: Bytes,
}
