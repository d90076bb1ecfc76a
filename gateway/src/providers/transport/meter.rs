//! What comes in on a connection: when it was last heard, and how much an answer may still send.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Bytes read at once near the end of the allowance.
const LAST_PIECE: usize = 1024;

/// What a connection's reader and its owner share.
#[derive(Debug)]
pub(super) struct Meter {
    born: Instant,
    heard_ms: AtomicU64,
    left: AtomicUsize,
}

impl Meter {
    /// A meter that allows everything.
    pub(super) fn new() -> Arc<Self> {
        let left = AtomicUsize::new(usize::MAX);
        Arc::new(Self { born: Instant::now(), heard_ms: AtomicU64::new(0), left })
    }

    /// From now on so many bytes may come in, heads, chunk sizes and trailers included.
    pub(super) fn grant(&self, bytes: usize) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// True if the peer sent all that was allowed: reading has stopped.
    pub(super) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Milliseconds since this meter began.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long nothing has come in.
    pub(super) fn quiet(&self) -> Duration {
        let heard = self.heard_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.now_ms().saturating_sub(heard))
    }

    fn count(&self, bytes: usize) {
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
        let left = self.left.load(Ordering::Relaxed);
        if left != usize::MAX {
            self.left.store(left.saturating_sub(bytes), Ordering::Relaxed);
        }
    }
}

/// A stream whose reads are metered.
#[derive(Debug)]
pub(super) struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.meter.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::Error::other("the answer is longer than allowed")));
        }
        if left >= buf.remaining() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            this.meter.count(buf.filled().len() - before);
            return Poll::Ready(Ok(()));
        }
        let mut piece = [0; LAST_PIECE];
        let mut limited = ReadBuf::new(&mut piece[..left.min(LAST_PIECE)]);
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut limited))?;
        this.meter.count(limited.filled().len());
        buf.put_slice(limited.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn no_byte_beyond_the_allowance_is_read() {
        let meter = Meter::new();
        let sent = vec![7; 5000];
        let mut metered = Metered::new(sent.as_slice(), Arc::clone(&meter));
        meter.grant(2500);
        let mut got = Vec::new();
        assert!(metered.read_to_end(&mut got).await.is_err());
        assert_eq!((got.len(), meter.is_spent()), (2500, true));
        meter.grant(1);
        assert_eq!(metered.read(&mut [0; 100]).await.unwrap(), 1, "the rest was left alone");
        meter.grant(usize::MAX);
        assert_eq!(metered.read(&mut [0; 10_000]).await.unwrap(), 2499);
    }
}
