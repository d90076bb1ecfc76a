//! A TCP stream that can be told to reset on close and to send byte by byte.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::Sleep;

/// Our side's buffer on a connection that is flooded.
const SEND_BUFFER_BYTES: usize = 16 << 10;

/// What a connection is told from outside its task.
#[derive(Debug)]
pub(super) struct SocketControl {
    reset: AtomicBool,
    reset_asked: Notify,
    ms_per_byte: AtomicU64,
    is_flooding: AtomicBool,
    flooded: AtomicU64,
    closed: watch::Sender<bool>,
}

impl Default for SocketControl {
    fn default() -> Self {
        Self {
            reset: AtomicBool::new(false),
            reset_asked: Notify::new(),
            ms_per_byte: AtomicU64::new(0),
            is_flooding: AtomicBool::new(false),
            flooded: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        }
    }
}

impl SocketControl {
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
        self.reset_asked.notify_one();
    }

    pub(super) async fn reset_asked(&self) {
        self.reset_asked.notified().await;
    }

    pub(super) fn drip(&self, ms_per_byte: u64) {
        self.ms_per_byte.store(ms_per_byte.max(1), Ordering::Release);
    }

    pub(super) fn flood(&self) {
        self.is_flooding.store(true, Ordering::Release);
    }

    /// Bytes written since `flood`.
    pub(super) fn flooded(&self) -> u64 {
        self.flooded.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(super) async fn closed(&self) {
        // The sender lives in `self`, so the only way out is the value itself.
        self.closed.subscribe().wait_for(|closed| *closed).await.ok();
    }
}

pub(super) struct Socket {
    tcp: TcpStream,
    control: Arc<SocketControl>,
    pause: Option<Pin<Box<Sleep>>>,
    is_narrow: bool,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream, control: Arc<SocketControl>) -> Self {
        Self { tcp, control, pause: None, is_narrow: false }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.control.reset.load(Ordering::Acquire) {
            // A socket that does not take the option closes with FIN, which the peer survives too.
            self.tcp.set_zero_linger().ok();
        }
        self.control.close();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let ms_per_byte = this.control.ms_per_byte.load(Ordering::Acquire);
        if this.control.is_flooding.load(Ordering::Acquire) {
            if !std::mem::replace(&mut this.is_narrow, true) {
                // What the kernel keeps for us was not read by anybody; one that keeps more only
                // makes the count larger.
                SockRef::from(&this.tcp).set_send_buffer_size(SEND_BUFFER_BYTES).ok();
            }
            let written = ready!(Pin::new(&mut this.tcp).poll_write(cx, buf))?;
            this.control.flooded.fetch_add(written as u64, Ordering::Relaxed);
            return Poll::Ready(Ok(written));
        }
        if ms_per_byte == 0 {
            return Pin::new(&mut this.tcp).poll_write(cx, buf);
        }
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let one = buf.get(..1).unwrap_or_default();
        let written = ready!(Pin::new(&mut this.tcp).poll_write(cx, one))?;
        this.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(ms_per_byte))));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
