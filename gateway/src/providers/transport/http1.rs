//! Keep-alive HTTP/1.1 connections to many origins, for webhooks, Slack and token endpoints.
//!
//! Whoever finds no idle connection stands in line at its origin, and each connection that is opened
//! or becomes idle goes to the first in line: who asked first sends first, however long a handshake
//! takes.

use super::meter::{Meter, Metered};
use super::{ANSWER_BYTES_MAX, Answer, Body, Dialer, Failure, LATE, Origin, answer};
use crate::BoxFuture;
use http::header::{HOST, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a connection may take to become idle again after its answer was read.
const READY_WAIT: Duration = Duration::from_millis(100);

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
    by_origin: HashMap<(bool, String, u16), Place>,
    total: usize,
    /// A task is closing what has been idle for too long.
    swept: bool,
}

/// One origin's connections, and who waits for one. For each of these one is on its way.
#[derive(Debug, Default)]
struct Place {
    parked: Vec<Parked>,
    line: VecDeque<oneshot::Sender<Result<Live, Failure>>>,
}

#[derive(Debug)]
struct Parked {
    live: Live,
    since: Instant,
}

#[derive(Debug)]
struct Live {
    sender: SendRequest<Body>,
    opened: Instant,
    meter: Arc<Meter>,
    /// A request was sent on it before.
    was_used: bool,
    driver: Driver,
}

/// What moves a connection. Begun with its first request or when it is kept: one that was begun
/// before would end where a server speaks unasked, and nobody would learn that.
struct Driver(Option<BoxFuture<'static, ()>>);

impl Driver {
    fn begin(&mut self) {
        if let Some(driver) = self.0.take() {
            drop(tokio::spawn(driver));
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
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
        let host = HeaderValue::from_maybe_shared(bytes::Bytes::copy_from_slice(
            origin.authority().as_str().as_bytes(),
        ));
        request.headers_mut().insert(HOST, host.map_err(|_| Failure::not_sent("bad_url"))?);
        let mut is_again = false;
        loop {
            let mut live = self.connection(origin, deadline, is_again).await?;
            let reused = std::mem::replace(&mut live.was_used, true);
            if !in_time() {
                self.0.supply(origin, Ok(live), false);
                return Err(Failure::not_sent(LATE));
            }
            live.driver.begin();
            live.meter.grant(ANSWER_BYTES_MAX);
            match timeout_at(deadline, live.sender.try_send_request(request)).await {
                Ok(Ok(response)) => {
                    let answer = finish(response, &live.meter, deadline).await?;
                    if !answer.truncated {
                        self.0.supply(origin, Ok(live), false);
                    }
                    return Ok(answer);
                }
                Ok(Err(mut refused)) => match refused.take_message() {
                    // A parked connection had ended meanwhile: nothing was written. The pool is
                    // finite and a fresh connection ends the loop.
                    Some(back) if reused => {
                        request = back;
                        is_again = true;
                    }
                    Some(_) => return Err(Failure::not_sent("connect")),
                    // A head without end is an answer we will not read, not a lost connection.
                    None if live.meter.is_spent() => {
                        return Err(Failure::unanswered("bad_answer", None));
                    }
                    None => return Err(lost(&refused.into_error())),
                },
                Err(_) => return Err(Failure::unanswered("timeout", None)),
            }
        }
    }

    /// An idle connection, or the next one there is; `is_again` is for who had one that was of no
    /// use, and goes before everybody else.
    async fn connection(
        &self,
        origin: &Origin,
        deadline: Instant,
        is_again: bool,
    ) -> Result<Live, Failure> {
        let (next, idle) = {
            let mut idle = self.0.idle.lock();
            let place = idle.by_origin.entry(origin.key()).or_default();
            let found = place.parked.pop();
            let is_free = place.line.is_empty() || is_again;
            let taken = usize::from(found.is_some());
            let found = match found.map(|parked| parked.live) {
                Some(live) if is_free && live.sender.is_ready() => {
                    idle.total = idle.total.saturating_sub(1);
                    return Ok(live);
                }
                found => found,
            };
            let (to, next) = oneshot::channel();
            if is_again {
                place.line.push_front(to)
            } else {
                place.line.push_back(to)
            }
            idle.total = idle.total.saturating_sub(taken);
            (next, found)
        };
        let (shared, at) = (Arc::clone(&self.0), origin.clone());
        drop(tokio::spawn(async move {
            let live = match idle {
                Some(live) => live.again().await,
                None => None,
            };
            let made = match live {
                Some(live) => Ok(live),
                None => shared.open(&at).await,
            };
            shared.supply(&at, made, true);
        }));
        let lost = || Failure::not_sent("connect");
        match timeout_at(deadline, next).await {
            Ok(given) => given.unwrap_or_else(|_| Err(lost())),
            Err(_) => Err(lost()),
        }
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.0.idle.lock().total
    }
}

impl Live {
    /// The connection once its last exchange is over; `None` if it ended.
    async fn again(mut self) -> Option<Self> {
        matches!(timeout(READY_WAIT, self.sender.ready()).await, Ok(Ok(()))).then_some(self)
    }
}

impl Shared {
    async fn open(&self, origin: &Origin) -> Result<Live, Failure> {
        let io = self.dialer.dial(origin, 0).await?;
        let meter = Meter::new();
        meter.grant(ANSWER_BYTES_MAX);
        let (sender, connection) = Builder::new()
            .max_headers(64)
            .max_buf_size(ANSWER_BYTES_MAX)
            .handshake(TokioIo::new(Metered::new(io, Arc::clone(&meter))))
            .await
            .map_err(|e| Failure::not_sent_because("connect", &e))?;
        let driver: BoxFuture<'static, ()> = Box::pin(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        let driver = Driver(Some(driver));
        Ok(Live { sender, opened: Instant::now(), meter, was_used: false, driver })
    }

    /// Gives a connection, or why there is none, to the first in line; where nobody waits, a
    /// connection is kept. `is_owed` says that it was made for somebody in line, who must not be
    /// left with nothing.
    fn supply(self: &Arc<Self>, origin: &Origin, mut made: Result<Live, Failure>, is_owed: bool) {
        let is_over =
            |live: &Live| live.sender.is_closed() || live.opened.elapsed() >= self.limits.age_max;
        if made.as_ref().is_ok_and(is_over) {
            if !is_owed {
                return;
            }
            made = Err(Failure::not_sent("connect"));
        }
        let mut idle = self.idle.lock();
        let Idle { by_origin, total, swept } = &mut *idle;
        let place = by_origin.entry(origin.key()).or_default();
        if !place.line.is_empty()
            && made.as_ref().is_ok_and(|live| live.was_used && !live.sender.is_ready())
        {
            drop(idle);
            return self.supply_later(origin, made, is_owed);
        }
        while let Some(first) = place.line.pop_front() {
            match first.send(made) {
                Ok(()) => return,
                // It waits no longer.
                Err(back) => made = back,
            }
        }
        match made {
            Ok(mut live)
                if !is_over(&live)
                    && *total < self.limits.total_max
                    && place.parked.len() < self.limits.per_origin_max =>
            {
                live.driver.begin();
                place.parked.push(Parked { live, since: Instant::now() });
                *total += 1;
                if !std::mem::replace(swept, true) {
                    let period = self.limits.idle_max / 2;
                    drop(tokio::spawn(sweep(Arc::downgrade(self), period)));
                }
            }
            Ok(_) | Err(_) => {
                if place.parked.is_empty() && place.line.is_empty() {
                    by_origin.remove(&origin.key());
                }
            }
        }
    }

    /// As `supply`, once the connection has begun, or is done with its last answer.
    fn supply_later(self: &Arc<Self>, origin: &Origin, made: Result<Live, Failure>, is_owed: bool) {
        let (shared, origin) = (Arc::clone(self), origin.clone());
        drop(tokio::spawn(async move {
            let ready = match made {
                Ok(live) => live.again().await.ok_or_else(|| Failure::not_sent("connect")),
                Err(failure) => Err(failure),
            };
            if ready.is_ok() || is_owed {
                shared.supply(&origin, ready, is_owed);
            }
        }));
    }

    /// Closes what has been idle or alive for too long; true if anything is left to watch.
    fn purge(&self) -> bool {
        let mut idle = self.idle.lock();
        let limits = &self.limits;
        idle.by_origin.retain(|_, place| {
            place.parked.retain(|p| {
                !p.live.sender.is_closed()
                    && p.since.elapsed() < limits.idle_max
                    && p.live.opened.elapsed() < limits.age_max
            });
            place.line.retain(|waiting| !waiting.is_closed());
            !place.parked.is_empty() || !place.line.is_empty()
        });
        idle.total = idle.by_origin.values().map(|place| place.parked.len()).sum();
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

/// Reads the body of `response` before `deadline`.
async fn finish(
    response: Response<Incoming>,
    meter: &Meter,
    deadline: Instant,
) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    match timeout_at(deadline, answer::read(body, meter)).await {
        Ok(Ok((body, truncated))) => {
            Ok(Answer { status: head.status, headers: head.headers, body, truncated })
        }
        Ok(Err(_)) => Err(Failure::unanswered("body_lost", Some(head.status))),
        Err(_) => Err(Failure::unanswered("body_timeout", Some(head.status))),
    }
}

fn lost(error: &hyper::Error) -> Failure {
    tracing::debug!(%error, "exchange broken off");
    let cause = if error.is_parse() { "bad_answer" } else { "connection_lost" };
    Failure::unanswered(cause, None)
}
