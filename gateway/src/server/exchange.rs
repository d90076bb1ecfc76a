//! One request and its answer: gate, admission, the service's future, and what every answer carries.

use super::admission::Admission;
use super::body::Unread;
use super::framing::ConnectionState;
use super::request_id::{BUGLER_REQUEST_ID, X_REQUEST_ID};
use super::{Body, Refusal, Request, RequestId, Response, ServerLimits, Service, gate};
use crate::BoxFuture;
use crate::lifecycle::report_panic;
use crate::telemetry::metrics;
use http::{HeaderValue, Uri, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::OwnedSemaphorePermit;

/// Most bytes of an unread body for which a refused HTTP/1 connection is kept.
const DRAINED_BYTES: u64 = 16 * 1024;

/// What all connections of a listener share.
pub(super) struct Front {
    pub(super) service: Arc<dyn Service>,
    pub(super) limits: ServerLimits,
    pub(super) admission: Admission,
}

/// The library's view of one connection: turns its requests into answers.
#[derive(Clone)]
pub(super) struct Exchange {
    front: Arc<Front>,
    state: Arc<ConnectionState>,
    peer: SocketAddr,
}

impl Exchange {
    pub(super) fn new(front: Arc<Front>, state: Arc<ConnectionState>, peer: SocketAddr) -> Self {
        Self { front, state, peer }
    }

    fn refuse(&self, asked: &Asked, refusal: Refusal, close: bool) -> Response {
        metrics::request_refused(refusal.as_str());
        let (path, media) = (asked.uri.path(), asked.media.as_ref());
        let mut response = self.front.service.refuse(path, media, &refusal);
        finish(&mut response, &asked.id, Some(&refusal));
        if close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl hyper::service::Service<http::Request<Incoming>> for Exchange {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: http::Request<Incoming>) -> Answer {
        let (head, incoming) = request.into_parts();
        let asked = Asked {
            id: RequestId::of(&head.headers),
            uri: head.uri.clone(),
            media: head.headers.get(header::CONTENT_TYPE).cloned(),
        };
        if let Some(refusal) = self.state.next_request() {
            return Answer::known(self.refuse(&asked, refusal, true));
        }
        let limits = &self.front.limits;
        let declared = incoming.size_hint().exact();
        let permit = gate::check(&head, declared, limits).and_then(|()| {
            let retry_after_s = limits.retry_after_s;
            self.front.admission.try_admit().ok_or(Refusal::Overloaded { retry_after_s })
        });
        let permit = match permit {
            Ok(permit) => permit,
            Err(refusal) => {
                // Reading a body only to drop it would make refusals dear.
                let is_long = declared.is_none_or(|length| length > DRAINED_BYTES);
                let close = is_long && head.version < Version::HTTP_2;
                return Answer::known(self.refuse(&asked, refusal, close));
            }
        };
        self.state.request_started();
        let id = asked.id.clone();
        let is_waiting = head.headers.contains_key(header::EXPECT);
        let (unread, close) = match declared {
            _ if head.version >= Version::HTTP_2 => (Unread::Leave, None),
            // Reading would tell a caller that waits for 100 Continue to go on.
            Some(length) if length <= DRAINED_BYTES && !is_waiting => (Unread::Drain, None),
            _ => {
                let close = Arc::new(AtomicBool::new(false));
                (Unread::Close(Arc::clone(&close)), Some(close))
            }
        };
        let work = Work { asked, exchange: self.clone(), close, _permit: permit };
        let request = Request {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            body: Body::new(incoming, limits.body, limits.max_body, unread),
            id,
            peer: self.peer,
        };
        match caught(|| self.front.service.call(request)) {
            Some(future) => Answer::Working(future, work),
            None => Answer::known(work.fail()),
        }
    }
}

/// The future of one answer.
pub(super) enum Answer {
    Known(Option<Response>),
    Working(BoxFuture<'static, Response>, Work),
}

impl Answer {
    fn known(response: Response) -> Self {
        Self::Known(Some(response))
    }
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match &mut *self {
            Self::Known(response) => response.take().unwrap_or_default(),
            Self::Working(future, work) => match caught(|| future.as_mut().poll(cx)) {
                None => work.fail(),
                Some(polled) => {
                    let mut response = ready!(polled);
                    finish(&mut response, &work.asked.id, None);
                    if work.close.as_ref().is_some_and(|close| close.load(Ordering::Relaxed)) {
                        let close = HeaderValue::from_static("close");
                        response.headers_mut().insert(header::CONNECTION, close);
                    }
                    response
                }
            },
        };
        Poll::Ready(Ok(response))
    }
}

/// What of a request's head is needed to answer in its place.
struct Asked {
    id: RequestId,
    uri: Uri,
    media: Option<HeaderValue>,
}

/// What an admitted request holds until it is answered.
pub(super) struct Work {
    asked: Asked,
    exchange: Exchange,
    /// Set when the body was given up, so that an HTTP/1 connection ends with the answer.
    close: Option<Arc<AtomicBool>>,
    _permit: OwnedSemaphorePermit,
}

impl Work {
    fn fail(&self) -> Response {
        self.exchange.refuse(&self.asked, Refusal::Internal, false)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.exchange.state.request_ended();
    }
}

/// Runs `work`; a panic in it is logged and counted and costs this request only.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    // Unwind safe: after a panic the service's future is dropped, never polled again.
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .inspect_err(|panic| report_panic("request", panic.as_ref()))
        .ok()
}

/// Adds what every answer carries, and what a refusal must say.
fn finish(response: &mut Response, id: &RequestId, refusal: Option<&Refusal>) {
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.value());
    headers.insert(BUGLER_REQUEST_ID, id.value());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    match refusal {
        Some(Refusal::MethodNotAllowed) => {
            headers.entry(header::ALLOW).or_insert(gate::ALLOW);
        }
        Some(Refusal::Overloaded { retry_after_s }) => {
            headers.entry(header::RETRY_AFTER).or_insert((*retry_after_s).into());
        }
        _ => {}
    }
}
