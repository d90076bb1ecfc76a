//! The book a connection keeps of its HTTP/2 streams: how many may be open, and which were answered.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The protocol's own default: sending it again changes nothing but carries the stream limit.
pub(super) const WINDOW_BYTES: u32 = 65_535;

/// How many concurrent streams a connection announces, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamPolicy {
    /// From the first SETTINGS on.
    pub(crate) initial: u32,
    /// After a request with good credentials.
    pub(crate) authenticated: u32,
    /// After a request with bad credentials, until the next good one; unchanged when none.
    pub(crate) after_bad_credentials: Option<u32>,
}

impl Default for StreamPolicy {
    fn default() -> Self {
        Self { initial: 100, authenticated: 100, after_bad_credentials: None }
    }
}

/// What to do with a stream the peer opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Serve,
    /// Above the limit: `REFUSED_STREAM`.
    Refuse,
    /// Above the last stream of a GOAWAY: never looked at.
    Ignore,
}

pub(super) struct StreamBook {
    policy: StreamPolicy,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// The limit the next SETTINGS frame carries.
    wanted: u32,
    /// The window of new streams it carries.
    window: u32,
    /// Whether a SETTINGS frame must be sent for it.
    unsent: bool,
    /// Limits sent and not acknowledged yet.
    unacknowledged: VecDeque<u32>,
    /// The limit the peer is held to.
    enforced: u32,
    open: u32,
    answered_max: u32,
    leaving: Option<Leaving>,
}

/// A GOAWAY to send, or sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) last: u32,
    pub(super) reason: Option<String>,
}

impl StreamBook {
    pub(super) fn new(policy: StreamPolicy) -> Self {
        let state = State {
            wanted: policy.initial,
            window: WINDOW_BYTES,
            unsent: false,
            unacknowledged: VecDeque::new(),
            enforced: policy.initial,
            open: 0,
            answered_max: 0,
            leaving: None,
        };
        Self { policy, state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn admit(&self, stream: u32) -> Admission {
        let mut state = self.state.lock();
        if state.leaving.as_ref().is_some_and(|leaving| stream > leaving.last) {
            return Admission::Ignore;
        }
        if state.open >= state.enforced {
            return Admission::Refuse;
        }
        state.open += 1;
        Admission::Serve
    }

    pub(super) fn release(&self) {
        self.state.lock().open -= 1;
        self.changed.notify_one();
    }

    pub(super) fn commit(&self, stream: u32) -> bool {
        let mut state = self.state.lock();
        if state.leaving.as_ref().is_some_and(|leaving| stream > leaving.last) {
            return false;
        }
        state.answered_max = state.answered_max.max(stream);
        true
    }

    pub(super) fn leave(&self, reason: Option<String>) {
        let mut state = self.state.lock();
        if state.leaving.is_none() {
            state.leaving = Some(Leaving { last: state.answered_max, reason });
        }
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn leaving(&self) -> Option<Leaving> {
        self.state.lock().leaving.clone()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().open == 0
    }

    pub(super) fn credentials(&self, good: bool) {
        if good {
            self.want_limit(self.policy.authenticated);
        } else if let Some(streams) = self.policy.after_bad_credentials {
            self.want_limit(streams);
        }
    }

    pub(super) fn want_limit(&self, streams: u32) {
        let mut state = self.state.lock();
        if state.wanted == streams {
            return;
        }
        state.wanted = streams;
        state.unsent = true;
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn want_window(&self, bytes: u32) {
        let mut state = self.state.lock();
        (state.window, state.unsent) = (bytes, true);
        drop(state);
        self.changed.notify_one();
    }

    /// How much of each body the next SETTINGS frame lets come.
    pub(super) fn window(&self) -> u32 {
        self.state.lock().window
    }

    pub(super) fn has_unsent_limit(&self) -> bool {
        self.state.lock().unsent
    }

    /// The limit for a SETTINGS frame that is leaving now.
    pub(super) fn limit_to_send(&self) -> u32 {
        let mut state = self.state.lock();
        state.unsent = false;
        let wanted = state.wanted;
        state.unacknowledged.push_back(wanted);
        // The peer may use a higher limit at once, but knows of a lower one only when it says so.
        state.enforced = state.enforced.max(wanted);
        wanted
    }

    /// The peer acknowledged the oldest SETTINGS frame it had not.
    pub(super) fn acknowledged(&self) {
        let mut state = self.state.lock();
        if let Some(streams) = state.unacknowledged.pop_front() {
            let later = state.unacknowledged.iter().copied().max();
            state.enforced = streams.max(later.unwrap_or(0));
        }
    }

    /// Returns when something may have to be sent.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(initial: u32) -> StreamBook {
        let policy = StreamPolicy { initial, authenticated: 1000, after_bad_credentials: Some(1) };
        StreamBook::new(policy)
    }

    #[test]
    fn streams_above_the_limit_are_refused_until_one_is_released() {
        let book = book(1);
        assert_eq!(book.admit(1), Admission::Serve);
        assert_eq!(book.admit(3), Admission::Refuse);
        book.release();
        assert_eq!(book.admit(5), Admission::Serve);
    }

    #[test]
    fn a_higher_limit_holds_at_once_and_a_lower_one_when_acknowledged() {
        let book = book(1);
        assert_eq!(book.limit_to_send(), 1);
        book.acknowledged();
        book.credentials(true);
        assert!(book.has_unsent_limit());
        assert_eq!(book.limit_to_send(), 1000);
        assert_eq!(book.admit(1), Admission::Serve);
        assert_eq!(book.admit(3), Admission::Serve);
        book.acknowledged();

        book.credentials(false);
        assert_eq!(book.limit_to_send(), 1);
        assert_eq!(book.admit(5), Admission::Serve);
        book.acknowledged();
        assert_eq!(book.admit(7), Admission::Refuse);
    }

    #[test]
    fn goaway_leaves_out_what_was_not_answered() {
        let book = book(100);
        for stream in [1, 3, 5] {
            book.admit(stream);
        }
        assert!(book.commit(3));
        book.leave(Some("Shutdown".into()));
        book.leave(None);
        let leaving = Leaving { last: 3, reason: Some("Shutdown".into()) };
        assert_eq!(book.leaving(), Some(leaving), "the first reason stays");
        assert!(book.commit(1), "below the last stream is still answered");
        assert!(!book.commit(5));
        assert_eq!(book.admit(7), Admission::Ignore);
    }
}
