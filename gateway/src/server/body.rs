//! Request bodies: read whole or as a stream, with a size limit and a least speed.
//!
//! Only waiting for the peer is timed. A service that applies backpressure to a streamed body
//! does not make its caller look slow.

use super::{BodyLimits, Refusal};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the rest of a short body may take to arrive behind its answer.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Why a body could not be read. Each is an answer the caller gets.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the request body took too long to arrive")]
    Timeout,
    #[error("the request body is malformed or was cut off")]
    Malformed(#[source] hyper::Error),
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { .. } => Self::TooLarge,
            BodyError::Timeout => Self::Timeout,
            BodyError::Malformed(_) => Self::BadRequest("the request body is malformed or cut off"),
        }
    }
}

/// An unread request body.
///
/// Dropped unread on HTTP/1, a short one is read to its end behind the answer, so that the
/// connection lives on; for any other the answer has to say that the connection ends.
#[derive(Debug)]
pub struct Body {
    source: Source,
    limits: BodyLimits,
    max: u64,
    unread: Unread,
}

/// What becomes of a body that nobody reads.
#[derive(Debug)]
pub(super) enum Unread {
    /// The library does what is right: the stream ends, not the connection.
    Leave,
    Drain,
    /// Tells the exchange that this connection ends with the answer.
    Close(Arc<AtomicBool>),
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.source.is_ended() {
            return;
        }
        match std::mem::replace(&mut self.unread, Unread::Leave) {
            Unread::Leave => {}
            Unread::Close(close) => close.store(true, Ordering::Relaxed),
            Unread::Drain => {
                let mut rest = std::mem::replace(&mut self.source, Source::Given(None));
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        let drain = async { while let Some(Ok(_)) = rest.frame().await {} };
                        // A caller that does not send what it announced loses its connection.
                        timeout(DRAIN_TIME, drain).await.ok();
                    });
                }
            }
        }
    }
}

#[derive(Debug)]
enum Source {
    Incoming(Incoming),
    Given(Option<Bytes>),
}

impl Source {
    fn is_ended(&self) -> bool {
        match self {
            Self::Incoming(incoming) => incoming.is_end_stream(),
            Self::Given(bytes) => bytes.is_none(),
        }
    }

    async fn frame(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        match self {
            Self::Given(bytes) => bytes.take().map(Ok),
            Self::Incoming(incoming) => loop {
                match incoming.frame().await? {
                    // Trailers of requests carry nothing any dialect defines.
                    Ok(frame) => {
                        if let Ok(data) = frame.into_data() {
                            return Some(Ok(data));
                        }
                    }
                    Err(error) => return Some(Err(error)),
                }
            },
        }
    }
}

impl Body {
    pub(super) fn new(incoming: Incoming, limits: BodyLimits, max: u64, unread: Unread) -> Self {
        Self { source: Source::Incoming(incoming), limits, max, unread }
    }

    /// A body that is already here; for tests of services.
    #[must_use]
    pub fn given(bytes: impl Into<Bytes>) -> Self {
        let source = Source::Given(Some(bytes.into()));
        Self { source, limits: BodyLimits::default(), max: u64::MAX, unread: Unread::Leave }
    }

    /// The length the caller announced, if it did.
    #[must_use]
    pub fn declared_len(&self) -> Option<u64> {
        match &self.source {
            Source::Incoming(incoming) => incoming.size_hint().exact(),
            Source::Given(bytes) => {
                Some(bytes.as_ref().map_or(0, |b| u64::try_from(b.len()).unwrap_or(u64::MAX)))
            }
        }
    }

    /// Reads everything, at most `limit` bytes and never more than the server's own limit.
    ///
    /// A body that announces more is refused unread, so a caller that waits for 100-continue
    /// never sends it. Dropping the future abandons the body.
    ///
    /// # Errors
    /// See [`BodyError`]. After one an HTTP/1 connection ends with the answer, unless the rest of
    /// the body is already here.
    pub async fn read(self, limit: u64) -> Result<Bytes, BodyError> {
        let total = self.limits.total;
        let mut stream = self.into_stream(limit)?;
        stream.total = Some(total);
        let Some(first) = stream.next().await.transpose()? else { return Ok(Bytes::new()) };
        let Some(second) = stream.next().await.transpose()? else { return Ok(first) };
        let mut whole = BytesMut::with_capacity((first.len() + second.len()) * 2);
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        while let Some(more) = stream.next().await.transpose()? {
            whole.extend_from_slice(&more);
        }
        Ok(whole.freeze())
    }

    /// Reads piece by piece, at most `limit` bytes together, without a total time.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] when the announced length is over the limit.
    pub fn into_stream(mut self, limit: u64) -> Result<BodyStream, BodyError> {
        let limit = limit.min(self.max);
        if self.declared_len().is_some_and(|length| length > limit) {
            return Err(BodyError::TooLarge { limit });
        }
        Ok(BodyStream {
            source: std::mem::replace(&mut self.source, Source::Given(None)),
            limits: self.limits,
            limit,
            total: None,
            received: 0,
            waited: Duration::ZERO,
        })
    }
}

/// A body being read.
#[derive(Debug)]
pub struct BodyStream {
    source: Source,
    limits: BodyLimits,
    limit: u64,
    total: Option<Duration>,
    received: u64,
    waited: Duration,
}

impl BodyStream {
    /// The next bytes, never empty, or `None` at the end. Safe to drop between calls.
    ///
    /// # Errors
    /// See [`BodyError`]; after an error the stream is over.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        while !self.source.is_ended() {
            let patience = self.patience();
            let mut frame = pin!(self.source.frame());
            let frame = match at_hand(frame.as_mut()).await {
                Some(frame) => frame,
                None => {
                    let asked = Instant::now();
                    let frame = timeout(patience, frame).await;
                    self.waited += asked.elapsed();
                    match frame {
                        Ok(frame) => frame,
                        Err(_) => return Some(Err(BodyError::Timeout)),
                    }
                }
            };
            let data = match frame? {
                Ok(data) => data,
                Err(error) => return Some(Err(BodyError::Malformed(error))),
            };
            self.received += u64::try_from(data.len()).unwrap_or(u64::MAX);
            if self.received > self.limit {
                return Some(Err(BodyError::TooLarge { limit: self.limit }));
            }
            if !data.is_empty() {
                return Some(Ok(data));
            }
        }
        None
    }

    /// How much longer the next bytes may take: what was received buys time at the least rate.
    fn patience(&self) -> Duration {
        let rate = u64::from(self.limits.bytes_per_s.max(1));
        let earned = Duration::from_millis(self.received.saturating_mul(1_000) / rate);
        let allowed = self.limits.grace.saturating_add(earned);
        let allowed = self.total.map_or(allowed, |total| allowed.min(total));
        allowed.saturating_sub(self.waited)
    }
}

/// The output of `future` if it comes at once or after one turn of its task. Most bodies arrive
/// with their head and need that one turn to get here; a timer for each would be for nothing.
async fn at_hand<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    let mut turned = false;
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if turned => Poll::Ready(None),
        Poll::Pending => {
            turned = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(received: u64, waited: u64, total: Option<u64>) -> BodyStream {
        BodyStream {
            source: Source::Given(None),
            limits: BodyLimits::default(),
            limit: 10,
            total: total.map(Duration::from_secs),
            received,
            waited: Duration::from_secs(waited),
        }
    }

    #[test]
    fn patience_grows_with_what_arrived_and_ends_at_the_total() {
        let patience = |received, waited, total| stream(received, waited, total).patience();
        assert_eq!(patience(0, 0, None), Duration::from_secs(2));
        assert_eq!(patience(0, 3, None), Duration::ZERO);
        assert_eq!(patience(10 * 1024, 3, None), Duration::from_secs(9));
        assert_eq!(patience(100 * 1024, 3, Some(10)), Duration::from_secs(7));
    }

    #[tokio::test]
    async fn reads_up_to_the_limit_and_not_one_byte_more() {
        assert_eq!(Body::given("12345").read(5).await.unwrap(), "12345");
        assert_eq!(Body::given("").read(5).await.unwrap(), "");
        let error = Body::given("123456").read(5).await.unwrap_err();
        assert!(matches!(error, BodyError::TooLarge { limit: 5 }));
    }
}
