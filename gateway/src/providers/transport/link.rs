//! One HTTP/2 connection: exchanges on it, and the task that drives and watches it.

use super::dial::Wire;
use super::gauge::{Gauge, LIMIT_UNKNOWN};
use super::http2::PoolLimits;
use super::meter::{Meter, Metered};
use super::{Answer, Failure, SATURATED, answer, failure};
use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Bytes of an answer's head we take.
const HEAD_BYTES_MAX: u32 = 16 * 1024;
/// How long a connection nobody uses any more may take to say goodbye.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Called when a connection's limit or trust changed, or the connection ended.
pub(super) type OnChange = Box<dyn Fn(&Arc<Gauge>) + Send + Sync>;

/// A usable connection; it ends after the last exchange once this is dropped.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) gauge: Arc<Gauge>,
    sender: SendRequest<Bytes>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.gauge.close();
    }
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
        request: Request<Bytes>,
        deadline: Instant,
    ) -> Result<Answer, Broken> {
        let (response, _stream) = self.start(request, deadline).await?;
        let response = match timeout_at(deadline, response).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(broken(&error)),
            Err(_) => return Err(Broken::Failed(Failure::unanswered("timeout", None))),
        };
        let (head, body) = response.into_parts();
        let lost = |cause| Broken::Failed(Failure::unanswered(cause, Some(head.status)));
        match timeout_at(deadline, answer::receive(body)).await {
            Ok(Ok((body, truncated))) => {
                Ok(Answer { status: head.status, headers: head.headers, body, truncated })
            }
            Ok(Err(_)) => Err(lost("body_lost")),
            Err(_) => Err(lost("body_timeout")),
        }
    }

    async fn start(
        &self,
        request: Request<Bytes>,
        deadline: Instant,
    ) -> Result<(ResponseFuture, h2::SendStream<Bytes>), Broken> {
        let mut sender = self.sender.clone();
        match timeout_at(deadline, poll_fn(|cx| sender.poll_ready(cx))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Broken::Resend { ended: true }),
            Err(_) => return Err(Broken::Failed(Failure::not_sent(SATURATED))),
        }
        let (mut parts, body) = request.into_parts();
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        // What is refused here never became a frame.
        let sent = sender.send_request(Request::from_parts(parts, ()), body.is_empty());
        let (response, mut stream) = sent.map_err(|_| Broken::Resend { ended: true })?;
        if !body.is_empty() {
            // Fails only for a stream the peer has ended already; the response says how.
            stream.send_data(body, true).ok();
        }
        Ok((response, stream))
    }
}

fn broken(error: &h2::Error) -> Broken {
    if failure::proves_unprocessed(error) {
        return Broken::Resend { ended: error.is_go_away() };
    }
    tracing::debug!(%error, "exchange broken off");
    Broken::Failed(Failure::unanswered("connection_lost", None))
}

/// Starts HTTP/2 on `io`. `Driver::run` must be spawned; nothing moves without it.
pub(super) async fn open(
    io: Box<dyn Wire>,
    limits: PoolLimits,
    on_change: OnChange,
) -> Result<(Link, Driver), Failure> {
    let meter = Meter::new();
    let (sender, mut connection) = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(LIMIT_UNKNOWN)
        .initial_window_size(u32::from(u16::MAX))
        .initial_connection_window_size(1024 * 1024)
        .max_header_list_size(HEAD_BYTES_MAX)
        .handshake(Metered::new(io, Arc::clone(&meter)))
        .await
        .map_err(|e| Failure::not_sent_because("connect", &e))?;
    let gauge = Gauge::new(meter);
    let pings = connection.ping_pong().ok_or_else(|| Failure::not_sent("connect"))?;
    let driver = Driver {
        connection,
        sender: Some(sender.clone()),
        pings,
        gauge: Arc::clone(&gauge),
        limits,
        on_change,
    };
    Ok((Link { gauge, sender }, driver))
}

/// Drives one connection to its end and takes SETTINGS and GOAWAY to heart when they arrive.
pub(super) struct Driver {
    connection: Connection<Metered<Box<dyn Wire>>, Bytes>,
    /// Tells whether the peer takes new streams; given up with the connection.
    sender: Option<SendRequest<Bytes>>,
    pings: PingPong,
    gauge: Arc<Gauge>,
    limits: PoolLimits,
    on_change: OnChange,
}

impl Driver {
    pub(super) async fn run(self) {
        let Self { mut connection, mut sender, pings, gauge, limits, on_change } = self;
        let mut watching = pin!(watch(pings, &gauge, &limits));
        let mut doubted = false;
        poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx).is_ready();
            let leaving =
                sender.as_mut().is_some_and(|s| matches!(s.poll_ready(cx), Poll::Ready(Err(_))));
            if (ended || leaving) && gauge.close() {
                on_change(&gauge);
            }
            if gauge.is_closed() {
                sender = None;
            } else if gauge.follow(connection.max_concurrent_send_streams(), limits.streams_max) {
                on_change(&gauge);
            }
            let dead = !ended && watching.as_mut().poll(cx).is_ready();
            if dead && gauge.close() {
                on_change(&gauge);
            }
            let is_doubted = gauge.is_doubted();
            if std::mem::replace(&mut doubted, is_doubted) && !is_doubted {
                on_change(&gauge);
            }
            if ended || dead { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Asks with a PING whether the peer still lives, when nothing was heard of it for too long.
/// Returns when it does not, or when the connection is closed and nobody uses it any more.
async fn watch(mut pings: PingPong, gauge: &Gauge, limits: &PoolLimits) {
    loop {
        let busy = gauge.in_flight() > 0;
        if gauge.is_closed() && !busy {
            return sleep(LEAVE_MAX).await;
        }
        let patience = if busy { limits.ping_busy } else { limits.ping_idle };
        let wait = patience.saturating_sub(gauge.meter.quiet());
        if !wait.is_zero() && !gauge.is_doubted() {
            // A notification cuts the wait short: what is waited for has changed. None tells that the
            // last answer came, so that is looked for.
            let wait = wait.min(limits.ping_idle);
            timeout(wait, gauge.stirred.notified()).await.ok();
            continue;
        }
        match timeout(limits.ping_timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => gauge.trust(),
            Ok(Err(_)) | Err(_) => {
                tracing::debug!("a connection answers no PING; it is given up");
                return;
            }
        }
    }
}
