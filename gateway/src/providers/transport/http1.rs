//! Keep-alive HTTP/1.1 connections to many origins, for webhooks, Slack and token endpoints.

use super::dial::Wire;
use super::meter::{Meter, Metered};
use super::origin::OriginKey;
use super::{ANSWER_BYTES_MAX, Answer, Body, Dialer, Failure, LATE, Origin, answer};
use http::Request;
use http::header::HOST;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};

/// How long a connection may take to become idle again after its answer was read.
const READY_WAIT: Duration = Duration::from_millis(100);
/// How long saying goodbye on a connection may take.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);

/// Bounds of the idle connections a pool keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleLimits {
    pub per_origin_max: usize,
    pub total_max: usize,
    /// An idle connection is closed after this long.
    pub idle_max: Duration,
    /// A connection is not used again once it is this old, so that the name behind it is resolved
    /// and judged again.
    pub age_max: Duration,
}

impl Default for IdleLimits {
    fn default() -> Self {
        Self {
            per_origin_max: 64,
            total_max: 1024,
            idle_max: Duration::from_secs(30),
            age_max: Duration::from_secs(300),
        }
    }
}

/// Idle connections of many origins, and the way to open more.
#[derive(Clone, Debug)]
pub struct Http1Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    limits: IdleLimits,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Origins without a connection stay until the next sweep: most get one back at once.
    by_origin: HashMap<Arc<OriginKey>, Vec<Parked>>,
    total: usize,
    /// A task is closing what has been idle for too long.
    swept: bool,
}

#[derive(Debug)]
struct Parked {
    live: Live,
    since: Instant,
}

/// What a connection reads and writes.
type Io = TokioIo<Metered<Box<dyn Wire>>>;

/// A connection and the handle to it. Whoever uses it moves both: with a task for each connection
/// every request would wake two tasks three times, often across threads.
#[derive(Debug)]
struct Live {
    sender: SendRequest<Body>,
    /// `None` once it has ended: then it answers whoever still waits.
    connection: Option<Box<Connection<Io, Body>>>,
    opened: Instant,
    meter: Arc<Meter>,
}

impl Live {
    /// Reads and writes what can be.
    fn advance(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        if let Poll::Ready(ended) = Pin::new(connection).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
            self.connection = None;
        }
    }

    /// True if a request can go out at once. Learns what came meanwhile, and waits for nothing.
    fn is_free(&mut self) -> bool {
        // Whoever sends wakes whoever looked last: nobody.
        self.advance(&mut Context::from_waker(Waker::noop()));
        self.sender.is_ready()
    }

    /// What `work` comes to while the connection moves; `None` if that takes too long.
    async fn until<T>(
        &mut self,
        mut late: Pin<&mut Sleep>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            // Before the connection moves, so that it knows what is wanted, and with what it got.
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            self.advance(cx);
            match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                // Also where the peer keeps it so busy that it has to give way.
                Poll::Pending => pin!(unconstrained(late.as_mut())).poll(cx).map(|()| None),
            }
        })
        .await
    }

    /// Ends the connection as its protocols ask for.
    fn close(self) {
        let Self { sender, connection, .. } = self;
        drop(sender);
        if let Some(connection) = connection {
            drop(tokio::spawn(timeout(GOODBYE_WAIT, connection)));
        }
    }
}

impl Http1Pool {
    /// A pool without connections; opens none until the first request.
    #[must_use]
    pub fn new(dialer: Dialer, limits: IdleLimits) -> Self {
        Self(Arc::new(Shared { dialer, limits, idle: Mutex::default() }))
    }

    /// Sends `request` (origin-form URI; `Host` is set here) to `origin` and reads the whole
    /// answer within the total deadline. Redirects are answers like any other.
    pub async fn send(&self, origin: &Origin, request: Request<Body>) -> Result<Answer, Failure> {
        self.send_while(origin, request, || true).await
    }

    /// As `send`, unless `in_time` says no once there is a connection to send on.
    pub async fn send_while(
        &self,
        origin: &Origin,
        mut request: Request<Body>,
        in_time: impl Fn() -> bool,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.0.dialer.deadlines.total;
        request.headers_mut().insert(HOST, origin.shown().clone());
        loop {
            let (mut live, reused) = match self.parked(origin).await {
                Some(live) => (live, true),
                None => (self.open(origin, deadline).await?, false),
            };
            if !in_time() {
                self.park(origin, live);
                return Err(Failure::not_sent(LATE));
            }
            live.meter.grant(ANSWER_BYTES_MAX);
            let mut late = pin!(sleep_until(deadline));
            let sent = live.sender.try_send_request(request);
            let response = match live.until(late.as_mut(), sent).await {
                Some(Ok(response)) => response,
                Some(Err(mut refused)) => match refused.take_message() {
                    // A parked connection had ended meanwhile: nothing was written. The pool is
                    // finite and a fresh connection ends the loop.
                    Some(back) if reused => {
                        request = back;
                        continue;
                    }
                    Some(_) => return Err(Failure::not_sent("connect")),
                    // A head without end is an answer we will not read, not a lost connection.
                    None if live.meter.is_spent() => {
                        return Err(Failure::unanswered("bad_answer", None));
                    }
                    None => return Err(lost(&refused.into_error())),
                },
                None => return Err(Failure::unanswered("timeout", None)),
            };
            let (head, body) = response.into_parts();
            let meter = Arc::clone(&live.meter);
            let (body, truncated) = match live.until(late, answer::read(body, &meter)).await {
                Some(Ok(read)) => read,
                Some(Err(_)) => return Err(Failure::unanswered("body_lost", Some(head.status))),
                None => return Err(Failure::unanswered("body_timeout", Some(head.status))),
            };
            if !truncated {
                self.park(origin, live);
            }
            return Ok(Answer { status: head.status, headers: head.headers, body, truncated });
        }
    }

    async fn open(&self, origin: &Origin, deadline: Instant) -> Result<Live, Failure> {
        let io = timeout_at(deadline, self.0.dialer.dial(origin, 0))
            .await
            .unwrap_or_else(|_| Err(Failure::not_sent("connect")))?;
        let meter = Meter::new();
        meter.grant(ANSWER_BYTES_MAX);
        let (sender, connection) = Builder::new()
            .max_headers(64)
            .max_buf_size(ANSWER_BYTES_MAX)
            .handshake(TokioIo::new(Metered::new(io, Arc::clone(&meter))))
            .await
            .map_err(|e| Failure::not_sent_because("connect", &e))?;
        let connection = Some(Box::new(connection));
        Ok(Live { sender, connection, opened: Instant::now(), meter })
    }

    /// The most recently used idle connection that still lives.
    async fn parked(&self, origin: &Origin) -> Option<Live> {
        loop {
            let mut live = self.0.take(origin)?;
            if live.is_free() {
                return Some(live);
            }
            if live.connection.is_none() {
                continue;
            }
            let mut late = pin!(sleep(READY_WAIT));
            let freed = poll_fn(|cx| {
                live.advance(cx);
                let freed = live.sender.poll_ready(cx).map(|ready| ready.is_ok());
                if freed.is_pending() { late.as_mut().poll(cx).map(|()| false) } else { freed }
            });
            if freed.await {
                return Some(live);
            }
        }
    }

    fn park(&self, origin: &Origin, mut live: Live) {
        let limits = &self.0.limits;
        live.is_free();
        if live.connection.is_none() {
            return;
        }
        let mut idle = self.0.idle.lock();
        if idle.total >= limits.total_max || live.opened.elapsed() >= limits.age_max {
            return live.close();
        }
        if idle.by_origin.len() >= limits.total_max {
            idle.by_origin.retain(|_, parked| !parked.is_empty());
        }
        let parked = idle.by_origin.entry(Arc::clone(origin.key())).or_default();
        if parked.len() >= limits.per_origin_max {
            return live.close();
        }
        parked.push(Parked { live, since: Instant::now() });
        idle.total += 1;
        if !std::mem::replace(&mut idle.swept, true) {
            let period = limits.idle_max / 2;
            drop(tokio::spawn(sweep(Arc::downgrade(&self.0), period)));
        }
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.0.idle.lock().total
    }
}

impl Shared {
    fn take(&self, origin: &Origin) -> Option<Live> {
        let mut idle = self.idle.lock();
        let found = idle.by_origin.get_mut(origin.key())?.pop()?;
        idle.total = idle.total.saturating_sub(1);
        Some(found.live)
    }

    /// Closes what has been idle or alive for too long; true if anything is left to watch.
    fn purge(&self) -> bool {
        let mut idle = self.idle.lock();
        let limits = &self.limits;
        idle.by_origin.retain(|_, parked| {
            let is_over = |p: &mut Parked| {
                // Nobody else looks whether the peer closed it.
                p.live.is_free();
                p.live.connection.is_none()
                    || p.since.elapsed() >= limits.idle_max
                    || p.live.opened.elapsed() >= limits.age_max
            };
            parked.extract_if(.., is_over).for_each(|p| p.live.close());
            !parked.is_empty()
        });
        idle.total = idle.by_origin.values().map(Vec::len).sum();
        idle.swept = idle.total > 0;
        idle.swept
    }
}

async fn sweep(pool: Weak<Shared>, period: Duration) {
    loop {
        sleep(period).await;
        if !pool.upgrade().is_some_and(|pool| pool.purge()) {
            return;
        }
    }
}

fn lost(error: &hyper::Error) -> Failure {
    tracing::debug!(%error, "exchange broken off");
    let cause = if error.is_parse() { "bad_answer" } else { "connection_lost" };
    Failure::unanswered(cause, None)
}
