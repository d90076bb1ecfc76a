//! The guard between socket and HTTP library: strict HTTP/1 framing and the deadlines of a connection.
//!
//! The library repairs what RFC 9112 calls malformed (both lengths, repeated Content-Length), so
//! it cannot be seen afterwards. The guard follows the raw bytes, holds back a head until it is
//! complete and valid, and replaces an invalid one by a stand-in that the exchange answers with the
//! refusal recorded in [`ConnectionState`]. So the library only ever sees valid heads, refusals
//! come in order behind pipelined answers, and nothing after a violation is read.

mod chunked;
mod guard;
mod head;
mod scanner;

pub(super) use guard::Guard;
pub(super) use scanner::Scanner;

use super::{Refusal, ServerLimits};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What guard and exchange of one connection tell each other.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    /// Requests handed to the exchange, and so the number of the latest.
    requests: AtomicU64,
    /// Requests without an answer yet.
    inflight: AtomicU32,
    /// The number of the head that was refused and why. Heads are numbered from 1.
    refused: OnceLock<(u64, Refusal)>,
}

impl ConnectionState {
    /// Numbers the next request and returns the refusal if it is the one the guard replaced.
    pub(super) fn next_request(&self) -> Option<Refusal> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        self.refused.get().filter(|(refused, _)| *refused == number).map(|(_, why)| *why)
    }

    pub(super) fn request_started(&self) {
        self.inflight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self) {
        self.inflight.fetch_sub(1, Ordering::Relaxed);
    }

    /// True while an answer is being worked out; no idle deadline runs then.
    pub(super) fn is_busy(&self) -> bool {
        self.inflight.load(Ordering::Relaxed) > 0
    }

    /// Requests seen so far; a change means the connection was used.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn refuse(&self, number: u64, refusal: Refusal) {
        // One head is refused on a connection, so the cell is empty here.
        let _first = self.refused.set((number, refusal)).is_ok();
    }
}

/// The deadlines the guard keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    header: Duration,
    idle: Duration,
    write_stall: Duration,
}

impl Deadlines {
    pub(super) fn of(limits: &ServerLimits) -> Self {
        // A deadline of nothing would never let the task rest.
        let header = limits.header.max(Duration::from_millis(1));
        let idle = limits.idle.max(Duration::from_millis(10));
        Self { header, idle, write_stall: limits.write_stall }
    }
}

impl head::HeadLimits {
    fn of(limits: &ServerLimits) -> Self {
        Self { bytes: limits.header_bytes, uri: limits.uri_bytes, fields: limits.header_count }
    }
}
