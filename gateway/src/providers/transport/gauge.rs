//! What a pool, its permits and a connection's driver know of one HTTP/2 connection.

use super::meter::Meter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// What h2 reports as the peer's stream limit until its SETTINGS arrive; a real value instead of
/// this one shows that they are in.
pub(super) const LIMIT_UNKNOWN: usize = 0x7fff_fff1;

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Gauge {
    /// Streams the peer allows right now, at most our own maximum.
    limit: AtomicUsize,
    /// The peer's SETTINGS have arrived.
    settled: AtomicBool,
    /// An answer came back. Until then one stream is used, whatever SETTINGS say: APNs refuses
    /// more before the first request that proves who we are.
    primed: AtomicBool,
    /// Idle for so long that a PING must be answered before it is used again.
    doubted: AtomicBool,
    closed: AtomicBool,
    in_flight: AtomicUsize,
    /// When the first of the streams in flight was opened, on the meter's clock.
    busy_since_ms: AtomicU64,
    answers: AtomicU64,
    pub(super) meter: Arc<Meter>,
    /// Wakes the watch over the connection: it got busy, is doubted, or was closed.
    pub(super) stirred: Notify,
}

impl Gauge {
    pub(super) fn new(meter: Arc<Meter>) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(1),
            settled: AtomicBool::new(false),
            primed: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            busy_since_ms: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            meter,
            stirred: Notify::new(),
        })
    }

    /// Streams that may be used right now.
    pub(super) fn limit(&self) -> usize {
        let limit = self.limit.load(Ordering::Relaxed);
        if self.primed.load(Ordering::Relaxed) { limit } else { limit.min(1) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// True if this call closed it.
    pub(super) fn close(&self) -> bool {
        let first = !self.closed.swap(true, Ordering::Relaxed);
        self.stirred.notify_one();
        first
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Streams in use, if there is room for one more.
    pub(super) fn load(&self) -> Option<usize> {
        let in_flight = self.in_flight();
        let usable = !self.is_closed() && !self.is_doubted();
        (usable && in_flight < self.limit()).then_some(in_flight)
    }

    /// Only the pool calls this, under its lock, after `load`.
    pub(super) fn take(&self) {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.busy_since_ms.store(self.meter.now_ms(), Ordering::Relaxed);
            self.stirred.notify_one();
        }
    }

    pub(super) fn give_back(&self) {
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 && self.is_closed() {
            self.stirred.notify_one();
        }
    }

    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Counts an answer; true if it was the first.
    pub(super) fn answered(&self) -> bool {
        self.answers.fetch_add(1, Ordering::Relaxed);
        !self.primed.load(Ordering::Relaxed) && !self.primed.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// Asks for a PING if nothing was in flight and nothing was heard for `longer_than`.
    pub(super) fn doubt_if_idle(&self, longer_than: Duration) {
        let stale = self.in_flight() == 0 && self.meter.quiet() > longer_than;
        if stale && !self.is_closed() && !self.doubted.swap(true, Ordering::Relaxed) {
            self.stirred.notify_one();
        }
    }

    /// The peer answered a PING.
    pub(super) fn trust(&self) {
        self.doubted.store(false, Ordering::Relaxed);
    }

    /// True if requests are in flight and nothing at all came in for `longer_than`.
    pub(super) fn is_slow(&self, longer_than: Duration) -> bool {
        let busy_since = self.busy_since_ms.load(Ordering::Relaxed);
        let busy = Duration::from_millis(self.meter.now_ms().saturating_sub(busy_since));
        self.in_flight() > 0 && busy.min(self.meter.quiet()) > longer_than
    }

    /// True if another connection would help: this one is full, or slow.
    pub(super) fn wants_company(&self, soft: Duration) -> bool {
        let ready = self.settled.load(Ordering::Relaxed) && self.primed.load(Ordering::Relaxed);
        self.is_slow(soft) || (ready && !self.is_doubted() && self.load().is_none())
    }

    /// Takes over h2's view of the peer's limit; true if it changed.
    pub(super) fn follow(&self, seen: usize, streams_max: usize) -> bool {
        if seen == LIMIT_UNKNOWN {
            return false;
        }
        let limit = seen.min(streams_max);
        let first = !self.settled.swap(true, Ordering::Relaxed);
        self.limit.swap(limit, Ordering::Relaxed) != limit || first
    }
}
