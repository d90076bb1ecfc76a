//! Sessions kept for the next mail: opening one costs more round trips than using it.

use super::session::Session;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Unused for longer, a session is left: relays close theirs after some minutes.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Relays limit what one session may send; a hundred is common.
const MESSAGES_MAX: u32 = 100;

/// Idle sessions, the latest used last.
pub(super) struct Pool {
    idle: Mutex<Vec<(Session, Instant)>>,
    sessions_max: usize,
}

impl Pool {
    pub(super) fn new(sessions_max: usize) -> Self {
        Self { idle: Mutex::default(), sessions_max }
    }

    /// The session used last, if one is left.
    pub(super) fn take(&self, now: Instant) -> Option<Session> {
        let mut idle = self.idle.lock();
        idle.retain(|(_, since)| now.saturating_duration_since(*since) < IDLE_MAX);
        idle.pop().map(|(session, _)| session)
    }

    /// Keeps a session that is ready for another message, unless it has served enough.
    pub(super) fn keep(&self, session: Session, now: Instant) {
        let mut idle = self.idle.lock();
        if session.sent < MESSAGES_MAX && idle.len() < self.sessions_max {
            idle.push((session, now));
        }
    }
}
