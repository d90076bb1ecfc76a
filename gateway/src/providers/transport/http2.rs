//! A pool of HTTP/2 connections to one origin, with permits that follow each peer's live limit.
//!
//! Requests queue here, where a deadline and a count apply, and not inside hyper, whose own queue
//! is invisible and unbounded. Connections are opened one at a time: the first on demand, more when
//! every stream of the others is taken or nothing comes back on them. What the peer provably did
//! not process (GOAWAY, REFUSED_STREAM) goes out again on another connection and is no attempt of
//! its own.

use super::gauge::Gauge;
use super::link::{self, Broken, Link};
use super::{Answer, Dialer, Failure, LATE, Origin, REFUSED, SATURATED};
use bytes::Bytes;
use http::Request;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Times one request may go out again after the peer provably did not process it.
const RESENDS_MAX: u32 = 4;
/// First wait after a failed connect; doubles up to [`RECONNECT_WAIT_MAX`].
const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Bounds of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Connections to the origin.
    pub connections_max: usize,
    /// Streams we use per connection, however many more the peer allows.
    pub streams_max: usize,
    /// A connection without traffic for this long gets a PING; one that waits for answers, after
    /// `ping_busy`; one that was idle for `probe_after` gets one before it is used again.
    pub ping_idle: Duration,
    pub ping_busy: Duration,
    pub probe_after: Duration,
    /// A PING unanswered for this long ends the connection.
    pub ping_timeout: Duration,
    /// A connection that brought nothing for this long, although answers are due, is used only if
    /// there is no other, and another is opened.
    pub soft_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            connections_max: 4,
            streams_max: 1000,
            ping_idle: Duration::from_secs(60),
            ping_busy: Duration::from_secs(10),
            probe_after: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(5),
            soft_timeout: Duration::from_secs(3),
        }
    }
}

/// Connections to one origin, for one credential.
#[derive(Clone, Debug)]
pub struct Http2Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    origin: Origin,
    dialer: Dialer,
    limits: PoolLimits,
    state: Mutex<State>,
    /// A permit came back, a limit rose, a connection came or went, or a connect failed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<Arc<Link>>,
    dialing: bool,
    /// Connections opened so far: spreads them over the origin's addresses.
    dialed: usize,
    /// Connects failed so far; a waiter that saw it rise knows that its own wait is over.
    failures: u64,
    /// The last failure and when to try again; gone after a success.
    resting: Option<Resting>,
}

#[derive(Debug)]
struct Resting {
    failure: Failure,
    wait: Duration,
    until: Instant,
}

/// The right to use one stream of a link.
struct Permit<'a> {
    shared: &'a Shared,
    link: Arc<Link>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.link.gauge.give_back();
        self.shared.changed.notify_one();
    }
}

enum Try<'a> {
    Granted(Permit<'a>),
    Failed(Failure),
    Wait,
}

impl Http2Pool {
    /// A pool without connections; opens none until the first request.
    #[must_use]
    pub fn new(origin: Origin, dialer: Dialer, limits: PoolLimits) -> Self {
        Self(Arc::new(Shared {
            origin,
            dialer,
            limits,
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// The server this pool connects to.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// Streams that may be in use at once right now, over all connections; at least 1, which is
    /// also what a pool without a connection answers.
    #[must_use]
    pub fn permits(&self) -> usize {
        let state = self.0.state.lock();
        state.links.iter().map(|link| link.gauge.limit()).sum::<usize>().max(1)
    }

    /// Takes every connection out of use; the next request opens another.
    pub fn renew_connections(&self) {
        let links = std::mem::take(&mut self.0.state.lock().links);
        for link in links {
            link.gauge.close();
        }
        self.0.changed.notify_waiters();
    }

    /// Sends what `build` makes and reads the whole answer, all within the total deadline.
    ///
    /// `build` is called again for each resend, which is rare.
    pub async fn send<F>(&self, build: F) -> Result<Answer, Failure>
    where
        F: FnMut() -> Option<Request<Bytes>>,
    {
        self.send_unless(|_| false, build).await
    }

    /// As `send`, for a peer that also says in answers that it did not process a request and
    /// leaves: what `unprocessed` finds to be one goes out again on another connection.
    pub async fn send_unless<F>(
        &self,
        unprocessed: impl Fn(&Answer) -> bool,
        mut build: F,
    ) -> Result<Answer, Failure>
    where
        F: FnMut() -> Option<Request<Bytes>>,
    {
        let deadline = Instant::now() + self.0.dialer.deadlines.total;
        let mut avoid: Option<Arc<Gauge>> = None;
        for round in 0..=RESENDS_MAX {
            let permit = self.0.permit(deadline, avoid.as_ref()).await?;
            let gauge = Arc::clone(&permit.link.gauge);
            let answers = gauge.answers();
            let Some(request) = build() else { return Err(Failure::not_sent(LATE)) };
            let exchanged = permit.link.exchange(request, deadline).await;
            let answered =
                exchanged.is_ok() || matches!(&exchanged, Err(Broken::Failed(f)) if f.has_status());
            if answered && gauge.answered() {
                self.0.changed.notify_waiters();
            }
            match exchanged {
                Ok(answer) if unprocessed(&answer) => self.0.retire(&gauge),
                Ok(answer) => return Ok(answer),
                Err(Broken::Failed(failure)) => {
                    // A request timed out and nothing else came back meanwhile: the connection
                    // may be a black hole, and the next PING is far off.
                    if failure.is_timeout() && gauge.answers() == answers {
                        self.0.retire(&gauge);
                    }
                    return Err(failure);
                }
                Err(Broken::Resend { ended: true }) => self.0.retire(&gauge),
                Err(Broken::Resend { ended: false }) => {}
            }
            drop(permit);
            avoid = Some(gauge);
            // A peer that keeps refusing gets a growing pause, not a hot loop.
            if round > 0 {
                sleep(Duration::from_millis(5 << round)).await;
            }
        }
        Err(Failure::not_sent(REFUSED))
    }
}

impl Shared {
    async fn permit(
        self: &Arc<Self>,
        deadline: Instant,
        avoid: Option<&Arc<Gauge>>,
    ) -> Result<Permit<'_>, Failure> {
        let failures = self.state.lock().failures;
        // Uncontended, no waiter is registered.
        match self.try_permit(failures, avoid) {
            Try::Granted(permit) => return Ok(permit),
            Try::Failed(failure) => return Err(failure),
            Try::Wait => {}
        }
        loop {
            // Registered before the state is read, so that no change between falls through.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.try_permit(failures, avoid) {
                Try::Granted(permit) => return Ok(permit),
                Try::Failed(failure) => return Err(failure),
                Try::Wait => {}
            }
            // Silence is no change: it has to be looked for.
            let look_again = deadline.min(Instant::now() + self.limits.soft_timeout);
            if timeout_at(look_again, changed).await.is_err() && Instant::now() >= deadline {
                return Err(Failure::not_sent(SATURATED));
            }
        }
    }

    fn try_permit(self: &Arc<Self>, failures: u64, avoid: Option<&Arc<Gauge>>) -> Try<'_> {
        let soft = self.limits.soft_timeout;
        let mut state = self.state.lock();
        for link in &state.links {
            link.gauge.doubt_if_idle(self.limits.probe_after);
        }
        let pick = |shunned: Option<&Arc<Gauge>>| {
            state
                .links
                .iter()
                .filter(|link| shunned.is_none_or(|g| !Arc::ptr_eq(g, &link.gauge)))
                .filter_map(|link| link.gauge.load().map(|load| (load, link)))
                .min_by_key(|(load, link)| (link.gauge.is_slow(soft), *load))
                .map(|(_, link)| Arc::clone(link))
        };
        let found = pick(avoid).or_else(|| avoid.and_then(|_| pick(None)));
        if let Some(link) = &found {
            link.gauge.take();
        }
        // The last free stream is the sign to open the next connection, not the first wait:
        // a dispatcher that never overbooks would otherwise be held to one connection for ever.
        if state.links.iter().all(|link| link.gauge.wants_company(soft)) {
            self.dial_if_due(&mut state);
        }
        if let Some(link) = found {
            if !(state.dialing && link.gauge.is_slow(soft)) {
                return Try::Granted(Permit { shared: self, link });
            }
            // Nobody joins those who wait on it while another connection is on its way. Given
            // back in silence: a notification would come straight back here.
            link.gauge.give_back();
            return Try::Wait;
        }
        match &state.resting {
            Some(resting) if state.links.is_empty() && !state.dialing => {
                Try::Failed(resting.failure.clone())
            }
            Some(resting) if state.links.is_empty() && state.failures > failures => {
                Try::Failed(resting.failure.clone())
            }
            _ => Try::Wait,
        }
    }

    fn dial_if_due(self: &Arc<Self>, state: &mut State) {
        let resting = state.resting.as_ref().is_some_and(|r| Instant::now() < r.until);
        if state.dialing || resting || state.links.len() >= self.limits.connections_max.max(1) {
            return;
        }
        state.dialing = true;
        let turn = state.dialed;
        state.dialed = state.dialed.wrapping_add(1);
        // A task of its own: the request that asked for it may be dropped any time.
        let shared = Arc::clone(self);
        drop(tokio::spawn(async move { shared.dial(turn).await }));
    }

    async fn dial(self: Arc<Self>, turn: usize) {
        let opened = self.open(turn).await;
        let mut state = self.state.lock();
        state.dialing = false;
        match opened {
            Ok((link, driver)) => {
                state.resting = None;
                state.links.push(Arc::new(link));
                drop(tokio::spawn(driver.run()));
            }
            Err(failure) => {
                tracing::debug!(host = self.origin.host(), %failure, "cannot connect");
                let wait = state.resting.as_ref().map_or(RECONNECT_WAIT_MIN, |r| r.wait * 2);
                let wait = wait.min(RECONNECT_WAIT_MAX);
                // Spread, so that processes that lost the same peer do not return at once.
                let until = Instant::now() + wait.mul_f64(0.5 + rand::random::<f64>() / 2.0);
                state.failures += 1;
                state.resting = Some(Resting { failure, wait, until });
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    async fn open(self: &Arc<Self>, turn: usize) -> Result<(Link, link::Driver), Failure> {
        let io = self.dialer.dial(&self.origin, turn).await?;
        let pool = Arc::downgrade(self);
        let on_change = Box::new(move |gauge: &Arc<Gauge>| {
            let Some(pool) = pool.upgrade() else { return };
            if gauge.is_closed() {
                pool.retire(gauge);
            } else {
                pool.changed.notify_waiters();
            }
        });
        timeout(self.dialer.deadlines.tls, link::open(io, self.limits, on_change))
            .await
            .unwrap_or_else(|_| Err(Failure::not_sent("connect")))
    }

    /// Takes a connection out of use; what is in flight on it may still finish. If it was in use,
    /// the next one is opened before anybody asks for it.
    fn retire(self: &Arc<Self>, gauge: &Arc<Gauge>) {
        gauge.close();
        let mut state = self.state.lock();
        state.links.retain(|link| !Arc::ptr_eq(&link.gauge, gauge));
        if state.links.is_empty() && gauge.in_flight() > 0 {
            self.dial_if_due(&mut state);
        }
        drop(state);
        self.changed.notify_waiters();
    }
}
