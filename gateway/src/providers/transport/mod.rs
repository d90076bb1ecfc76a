//! How a request leaves: an HTTP/2 pool for APNs and FCM, a keep-alive HTTP/1.1 pool for the rest.
//!
//! Both dial the same way (resolve, connect, TLS, each with a deadline), read at most 64 KiB of an
//! answer, and say of each failure whether the request can have reached the receiver. That
//! difference decides everything later: what never left may be sent again at once.

mod answer;
mod dial;
mod failure;
mod gauge;
mod http1;
mod http2;
mod link;
mod meter;
mod origin;
mod resolve;
#[cfg(test)]
mod tests;

pub use answer::{ANSWER_BYTES_KEPT, ANSWER_BYTES_MAX, Answer};
pub use dial::Dialer;
pub(in crate::providers) use dial::connect;
pub use failure::Failure;
use failure::{LATE, REFUSED, SATURATED};
pub use http1::{Http1Pool, IdleLimits};
pub use http2::{Http2Pool, PoolLimits};
pub(crate) use origin::path_of;
pub use origin::{Origin, OriginError};
pub use resolve::{NameCache, Resolve, ResolveError, SystemResolver};

use bytes::Bytes;
use http_body_util::Full;
use std::time::Duration;

/// A request body of HTTP/1.1: small and complete, so that it can be sent again without asking anybody.
pub type Body = Full<Bytes>;

/// How long each part of one attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Connecting, over all addresses of the name together; resolving it has a bound of its own.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// Everything: waiting for a permit, connecting, the answer and its body.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            tls: Duration::from_secs(5),
            total: Duration::from_secs(15),
        }
    }
}
