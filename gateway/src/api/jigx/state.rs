//! What became of a notification as a whole: summed up from its timeline, each event read once.

use crate::api::failure::{Failure, FailureClass};
use crate::journal::{EventPlace, Journal};
use crate::model::{
    FinalState, Millis, Notification, NotificationId, Part, ProviderName, TimelineEvent,
};
use crate::work::{CANCELED_TARGET, decode_event};
use parking_lot::Mutex;
use std::collections::HashMap;

/// Notifications whose sums are remembered.
const KNOWN_MAX: usize = 16_384;
/// Events read at once, and in one request for one notification: a longer timeline is read on by
/// the next request.
const EVENTS_AT_ONCE: usize = 2_000;
const EVENTS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    Sent,
    Retry,
    Failed,
    /// Before it was sent: nobody is shown it any more.
    Canceled,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Sent => "SENT",
            Self::Retry => "RETRY",
            Self::Failed | Self::Canceled => "FAILED",
        }
    }

    fn is_final(self) -> bool {
        matches!(self, Self::Sent | Self::Failed | Self::Canceled)
    }
}

/// The events of one notification, summed up.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    is_expanded: bool,
    is_canceled: bool,
    /// Chunks and held recipients announced and not yet worked on.
    open: i64,
    /// Deliveries to users.
    expected: u64,
    ended: u64,
    delivered: u64,
    /// Users for whom the entry in the inbox is all there was.
    alone: u64,
    /// Deliveries whose first try failed and that have not ended.
    retried: i64,
    changed_at: Millis,
    read_to: Option<EventPlace>,
}

impl Sums {
    fn state(&self) -> State {
        if self.is_canceled {
            State::Canceled
        } else if self.is_expanded && self.open <= 0 && self.ended >= self.expected {
            if self.delivered + self.alone > 0 { State::Sent } else { State::Failed }
        } else if self.retried > 0 {
            State::Retry
        } else {
            State::Queued
        }
    }

    fn add(&mut self, event: &TimelineEvent) {
        let before = self.state();
        let at = match event {
            TimelineEvent::Expanded { at, part, more, .. } => {
                self.is_expanded = true;
                self.open += i64::from(*more) - i64::from(*part != Part::Root);
                at
            }
            TimelineEvent::Held { at, .. } => {
                self.open += 1;
                at
            }
            TimelineEvent::Noted { at, alone, deliveries, .. } => {
                self.alone += u64::from(*alone);
                self.expected += u64::from(*deliveries);
                at
            }
            TimelineEvent::Attempted { at, target, attempt, retry_at, state, .. } => {
                if is_user(target) {
                    self.retried += i64::from(*attempt == 1 && retry_at.is_some());
                    self.retried -= i64::from(*attempt > 1 && state.is_some());
                    self.end(*state);
                }
                at
            }
            TimelineEvent::Settled { at, target, state, .. } => {
                if target == CANCELED_TARGET {
                    self.is_canceled = true;
                } else if is_user(target) {
                    self.end(Some(*state));
                }
                at
            }
            TimelineEvent::Replayed { at, target, from, .. } => {
                if is_user(target) {
                    self.ended = self.ended.saturating_sub(1);
                    let was = u64::from(*from == FinalState::Delivered);
                    self.delivered = self.delivered.saturating_sub(was);
                }
                at
            }
            TimelineEvent::FirstRuled { at, .. }
            | TimelineEvent::Ruled { at, .. }
            | TimelineEvent::Discarded { at, .. }
            | TimelineEvent::Canceled { at, .. } => at,
            TimelineEvent::Planned { .. } => return,
        };
        if self.state() != before {
            self.changed_at = *at;
        }
    }

    fn end(&mut self, state: Option<FinalState>) {
        self.ended += u64::from(state.is_some());
        self.delivered += u64::from(state == Some(FinalState::Delivered));
    }
}

/// Subscriptions get the event as well, but they are nobody's inbox.
fn is_user(target: &str) -> bool {
    let provider = target.split_once(':').map_or(target, |(provider, _)| provider);
    ![ProviderName::Slack, ProviderName::Webhook].iter().any(|hook| hook.as_str() == provider)
}

/// The sums so far, by notification.
#[derive(Debug, Default)]
pub struct States {
    known: Mutex<HashMap<NotificationId, Sums>>,
}

impl States {
    /// The state of a notification, and since when it has it. Adds the events read
    /// for it to `read_in_all`.
    pub(super) async fn of(
        &self,
        journal: &dyn Journal,
        notification: &Notification,
        read_in_all: &mut usize,
    ) -> Result<(State, Millis), Failure> {
        let id = notification.id;
        let mut sums = self.known.lock().get(&id).copied().unwrap_or_default();
        let mut read = 0;
        while !sums.state().is_final() && read < EVENTS_MAX {
            let events =
                journal.events_after(notification.org, id, sums.read_to, EVENTS_AT_ONCE).await;
            let events = events.map_err(|_| unreadable())?;
            read += EVENTS_AT_ONCE;
            *read_in_all += events.len();
            let is_last = events.len() < EVENTS_AT_ONCE;
            for (place, event) in events {
                sums.read_to = Some(place);
                if let Some(event) = decode_event(&event) {
                    sums.add(&event);
                }
            }
            if is_last {
                break;
            }
        }
        if sums.read_to.is_some() {
            self.remember(id, sums);
        }
        Ok((sums.state(), sums.changed_at.max(notification.created_at)))
    }

    fn remember(&self, id: NotificationId, sums: Sums) {
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX && !known.contains_key(&id) {
            // The older half goes; ids are in order of time.
            let mut ids: Vec<_> = known.keys().copied().collect();
            let (_, middle, _) = ids.select_nth_unstable(KNOWN_MAX / 2);
            let middle = *middle;
            known.retain(|id, _| *id >= middle);
        }
        known.insert(id, sums);
    }
}

pub(super) fn unreadable() -> Failure {
    Failure::new(FailureClass::Internal, "the journal cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeliveryId;
    use uuid::Uuid;

    const AT: Millis = Millis(5);

    fn expanded(part: Part, more: bool) -> TimelineEvent {
        let (deliveries, unknown_recipients, no_device) = (0, 0, 0);
        TimelineEvent::Expanded { at: AT, part, deliveries, unknown_recipients, no_device, more }
    }

    fn noted(alone: u32, deliveries: u32) -> TimelineEvent {
        TimelineEvent::Noted { at: AT, entries: 0, alone, deliveries }
    }

    fn tried(target: &str, attempt: u16, state: Option<FinalState>) -> TimelineEvent {
        TimelineEvent::Attempted {
            at: AT,
            delivery: DeliveryId(Uuid::nil()),
            target: target.to_owned(),
            attempt,
            outcome: String::new(),
            cause: None,
            status: None,
            reason: None,
            provider_id: None,
            elapsed_ms: 0,
            retry_at: state.is_none().then_some(AT),
            state,
        }
    }

    fn states(events: &[TimelineEvent]) -> Vec<State> {
        let mut sums = Sums::default();
        let each = events.iter().map(|event| {
            sums.add(event);
            sums.state()
        });
        each.collect()
    }

    #[test]
    fn sent_needs_every_end_and_one_success() {
        use FinalState::{Delivered, Rejected};
        use State::{Failed, Queued, Retry, Sent};
        let root = || expanded(Part::Root, false);
        assert_eq!(states(&[noted(0, 0), root()]), [Queued, Failed], "nobody is there");
        assert_eq!(states(&[noted(1, 0), root()]), [Queued, Sent], "an inbox is a success");
        let two = [
            noted(0, 2),
            root(),
            tried("apns:a", 1, None),
            tried("fcm:b", 1, Some(Rejected)),
            tried("apns:a", 2, None),
            tried("apns:a", 3, Some(Delivered)),
        ];
        assert_eq!(states(&two), [Queued, Queued, Retry, Retry, Retry, Sent]);
        let bad = [noted(0, 1), root(), tried("apns:a", 1, Some(Rejected))];
        assert_eq!(states(&bad).last(), Some(&Failed));
        let hook = [noted(0, 0), root(), tried("webhook:x", 1, Some(Delivered))];
        assert_eq!(states(&hook).last(), Some(&Failed), "a hook is no recipient");
    }

    #[test]
    fn chunks_and_held_recipients_keep_it_queued() {
        use State::{Queued, Sent};
        let held = TimelineEvent::Held {
            at: AT,
            recipient: String::new(),
            until: AT,
            cause: String::new(),
        };
        let events = [
            noted(3, 0),
            expanded(Part::Root, true),
            noted(0, 0),
            held,
            expanded(Part::Chunk, false),
            noted(0, 0),
            expanded(Part::Resumed, false),
        ];
        assert_eq!(states(&events), [Queued, Queued, Queued, Queued, Queued, Queued, Sent]);
    }
}
