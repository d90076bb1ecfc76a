//! The front door: accepts connections, refuses what must not pass, and hands requests to a service.
//!
//! ```text
//! accept (permit, per-peer cap) → TLS handshake or preface sniff → framing guard → hyper
//!        → gate (generic refusals) → admission → Service::call
//! ```
//!
//! Everything before the gate is decided on raw bytes and timers, so a hostile peer costs a
//! connection slot for a bounded time and nothing else. Refusals are rendered by the service, in
//! the envelope of the dialect that owns the path.

use crate::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Uri};
use std::net::SocketAddr;

mod admission;
mod body;
mod connection;
mod exchange;
mod framing;
mod gate;
mod limits;
mod listener;
mod peers;
mod refusal;
mod reply;
mod request_id;
mod sniff;
pub mod tls;

#[cfg(test)]
mod tests;

pub use body::{Body, BodyError, BodyStream};
pub use limits::{BodyLimits, ServerLimits};
pub use listener::serve;
pub use refusal::Refusal;
pub use reply::ReplyBody;
pub use request_id::RequestId;

/// What a service answers with.
pub type Response = http::Response<ReplyBody>;

/// One admitted request. Method, authority, framing and sizes of the head are already checked.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    /// Origin or absolute form; use [`Request::path`] and [`Request::query`].
    pub uri: Uri,
    pub headers: HeaderMap,
    /// Unread.
    pub body: Body,
    pub id: RequestId,
    pub peer: SocketAddr,
}

impl Request {
    /// The path as sent, not percent-decoded; `/` at least.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The query as sent, without `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }
}

/// What the server serves. Implemented by `api` and `admin`.
pub trait Service: Send + Sync + 'static {
    /// Answers one admitted request.
    ///
    /// The future outlives `&self`, so it owns what it needs. It is dropped when the peer goes
    /// away or the process aborts, and must be safe to drop; a panic in it is answered with
    /// [`Refusal::Internal`].
    fn call(&self, request: Request) -> BoxFuture<'static, Response>;

    /// Renders a refusal the server decided, in the envelope of the dialect that owns `path`, or
    /// in gRPC's if `media`, the request's media type, says that it is such a call.
    ///
    /// The server adds request id, `Allow`, `Retry-After` and `Connection` itself.
    fn refuse(&self, path: &str, media: Option<&HeaderValue>, refusal: &Refusal) -> Response;
}
