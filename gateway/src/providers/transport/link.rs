//! One HTTP/2 connection: its live stream limit, and the task that drives it.

use super::dial::Io;
use super::http2::PoolLimits;
use super::{Answer, Body, Failure, answer, failure};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::time::{Instant, timeout_at};

/// What h2 reports as the peer's stream limit until its SETTINGS arrive. Our own permits keep to
/// one stream meanwhile; a real value instead of this one shows that the SETTINGS are in.
const LIMIT_UNKNOWN: usize = 0x7fff_fff1;

/// Called by the driver when a connection's limit changed or the connection ended.
pub(super) type OnChange = Box<dyn Fn(&Arc<Gauge>) + Send>;

/// What pool, permits and driver share about a connection.
#[derive(Debug)]
pub(super) struct Gauge {
    /// Streams the peer allows right now, at most our own maximum.
    limit: AtomicUsize,
    /// The peer's SETTINGS have arrived.
    settled: AtomicBool,
    in_flight: AtomicUsize,
    answers: AtomicU64,
    closed: AtomicBool,
}

impl Gauge {
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Streams in use, if there is room for one more.
    pub(super) fn load(&self) -> Option<usize> {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        (!self.is_closed() && in_flight < self.limit()).then_some(in_flight)
    }

    /// Only the pool calls this, under its lock, after `load`.
    pub(super) fn take(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Takes over h2's view of the peer's limit; true if it changed.
    fn follow(&self, seen: usize, streams_max: usize) -> bool {
        if seen == LIMIT_UNKNOWN {
            return false;
        }
        let limit = seen.min(streams_max);
        let first = !self.settled.swap(true, Ordering::Relaxed);
        self.limit.swap(limit, Ordering::Relaxed) != limit || first
    }
}

/// A usable connection. Dropping the last clone of its sender lets the connection end.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) gauge: Arc<Gauge>,
    sender: SendRequest<Body>,
}

/// How an exchange on a link failed.
pub(super) enum Broken {
    /// Not processed by the peer: send again. `ended` if this connection takes no more requests.
    Resend {
        ended: bool,
    },
    Failed(Failure),
}

impl Link {
    /// Sends `request` and reads the whole answer before `deadline`.
    pub(super) async fn exchange(
        &self,
        request: Request<Body>,
        deadline: Instant,
    ) -> Result<Answer, Broken> {
        let mut sender = self.sender.clone();
        let response = match timeout_at(deadline, sender.try_send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(mut refused)) => {
                let unsent = refused.take_message().is_some();
                return Err(broken(unsent, &refused.into_error()));
            }
            Err(_) => return Err(Broken::Failed(Failure::unanswered("timeout", None))),
        };
        self.gauge.answers.fetch_add(1, Ordering::Relaxed);
        finish(response, deadline).await.map_err(Broken::Failed)
    }
}

fn broken(unsent: bool, error: &hyper::Error) -> Broken {
    if unsent || failure::proves_unprocessed(error) {
        return Broken::Resend { ended: unsent || failure::is_go_away(error) };
    }
    tracing::debug!(%error, "exchange broken off");
    Broken::Failed(Failure::unanswered("connection_lost", None))
}

/// Reads the body of `response` before `deadline`.
pub(super) async fn finish(
    response: Response<Incoming>,
    deadline: Instant,
) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    match timeout_at(deadline, answer::read(body)).await {
        Ok(Ok((body, truncated))) => {
            Ok(Answer { status: head.status, headers: head.headers, body, truncated })
        }
        Ok(Err(_)) => Err(Failure::unanswered("body_lost", Some(head.status))),
        Err(_) => Err(Failure::unanswered("body_timeout", Some(head.status))),
    }
}

/// Starts HTTP/2 on `io`. `Driver` must be spawned; nothing moves without it.
pub(super) async fn open(
    io: Io,
    limits: &PoolLimits,
    on_change: OnChange,
) -> Result<(Link, Driver), Failure> {
    let tasks = Tasks::default();
    let (sender, client) = Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping_idle)
        .keep_alive_timeout(limits.ping_timeout)
        .keep_alive_while_idle(true)
        .initial_max_send_streams(LIMIT_UNKNOWN)
        .initial_stream_window_size(u32::from(u16::MAX))
        .initial_connection_window_size(1024 * 1024)
        .handshake(io)
        .await
        .map_err(|e| Failure::not_sent_because("connect", &e))?;
    let gauge = Arc::new(Gauge {
        limit: AtomicUsize::new(1),
        settled: AtomicBool::new(false),
        in_flight: AtomicUsize::new(0),
        answers: AtomicU64::new(0),
        closed: AtomicBool::new(false),
    });
    let frames = tasks.first.lock().take();
    let driver = Driver {
        frames,
        client: Some(client),
        gauge: Arc::clone(&gauge),
        streams_max: limits.streams_max,
        on_change,
    };
    Ok((Link { gauge, sender }, driver))
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// hyper's executor: keeps the connection's own task, which hyper starts first, for the driver.
#[derive(Clone, Default)]
struct Tasks {
    first: Arc<Mutex<Option<Task>>>,
    kept: Arc<AtomicBool>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        if self.kept.swap(true, Ordering::Relaxed) {
            drop(tokio::spawn(task));
        } else {
            *self.first.lock() = Some(Box::pin(task));
        }
    }
}

/// Drives one connection to its end.
///
/// hyper splits a connection into a task that reads and writes frames and one that takes requests;
/// only the latter knows the peer's stream limit, and it wakes on requests alone. Polling both
/// here, frames first, makes SETTINGS and GOAWAY take effect when they arrive.
pub(super) struct Driver {
    frames: Option<Task>,
    client: Option<Connection<Io, Body, Tasks>>,
    gauge: Arc<Gauge>,
    streams_max: usize,
    on_change: OnChange,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.frames.as_mut().is_some_and(|frames| frames.as_mut().poll(cx).is_ready()) {
            this.frames = None;
        }
        if let Some(client) = &mut this.client {
            if Pin::new(&mut *client).poll(cx).is_ready() {
                this.client = None;
                this.gauge.close();
                (this.on_change)(&this.gauge);
            } else if this.gauge.follow(client.current_max_send_streams(), this.streams_max) {
                (this.on_change)(&this.gauge);
            }
        }
        if this.frames.is_none() && this.client.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }
}
