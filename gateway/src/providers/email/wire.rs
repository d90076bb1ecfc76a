//! The stream under an SMTP connection: gives back a greeting that was read before TLS, and bounds
//! each answer.

use bytes::{Buf, Bytes};
use lettre::transport::smtp::client::AsyncTokioStream;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest answer read, in bytes. A relay that never ends its line must not fill the memory.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A connection in clear text or TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// See the module.
pub(super) struct Wire {
    io: Box<dyn Io>,
    peer: SocketAddr,
    /// Read before all else. After STARTTLS a relay does not greet again (RFC 3207, 4.2), and the
    /// connection above wants to be greeted.
    greeting: Bytes,
    /// Bytes of the answer so far.
    answered: usize,
}

impl Wire {
    pub(super) fn new(io: Box<dyn Io>, peer: SocketAddr, greeting: Bytes) -> Self {
        Self { io, peer, greeting, answered: 0 }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.greeting.has_remaining() {
            let length = self.greeting.len().min(buf.remaining());
            buf.put_slice(&self.greeting.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.answered = self.answered.saturating_add(buf.filled().len() - before);
        if self.answered > ANSWER_BYTES_MAX {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answered = 0;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
