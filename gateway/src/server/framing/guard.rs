//! The guard as a stream: passes input through the scanner and closes what is too slow.

use super::scanner::{Next, Scanner};
use super::{ConnectionState, Deadlines};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Longest the guard reads on after our last byte, so that the peer can read it: closing a socket
/// with unread input resets it and may take the answer along.
const LINGER: Duration = Duration::from_secs(1);
/// Most bytes read and dropped while lingering.
const LINGER_BYTES: usize = 1024 * 1024;

/// The idle time is counted in this many ticks of the alarm, so that a request needs no clock: a
/// connection is closed after the idle time and at most one tick more.
const IDLE_TICKS: u32 = 8;

/// A connection's stream with strict framing (HTTP/1 only) and deadlines.
#[derive(Debug)]
pub(in crate::server) struct Guard<IO> {
    io: IO,
    /// `None` on HTTP/2, where the library checks framing and the connection keeps the idle time.
    scanner: Option<Scanner>,
    state: Arc<ConnectionState>,
    deadlines: Deadlines,
    alarm: Alarm,
    mid_head_since: Option<Instant>,
    /// Something was read or written since the alarm last rang.
    is_used: bool,
    quiet_ticks: u32,
    stalled_since: Option<Instant>,
    peer_ended: bool,
    closing: Closing,
}

#[derive(Clone, Copy, Debug)]
enum Closing {
    Open,
    Lingering { until: Instant, left: usize },
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    /// Guards `io`; without a scanner only writes are timed.
    pub(in crate::server) fn new(
        io: IO,
        scanner: Option<Scanner>,
        state: Arc<ConnectionState>,
        deadlines: Deadlines,
    ) -> Self {
        Self {
            io,
            scanner,
            state,
            deadlines,
            alarm: Alarm::new(deadlines.idle / IDLE_TICKS),
            mid_head_since: None,
            is_used: false,
            quiet_ticks: 0,
            stalled_since: None,
            peer_ended: false,
            closing: Closing::Open,
        }
    }

    /// Called when no input is at hand: fails if that has lasted too long.
    fn wait_for_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(scanner) = &self.scanner else { return Poll::Pending };
        if scanner.is_mid_head() {
            loop {
                let since = *self.mid_head_since.get_or_insert_with(Instant::now);
                ready!(self.alarm.poll(since + self.deadlines.header, cx));
                if !self.state.is_busy() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                // An earlier request is still being answered; the head behind it starts anew.
                self.mid_head_since = None;
            }
        }
        loop {
            ready!(self.alarm.poll_set(cx));
            let was_used = std::mem::take(&mut self.is_used) || self.state.is_busy();
            self.quiet_ticks = if was_used { 0 } else { self.quiet_ticks + 1 };
            if self.quiet_ticks >= IDLE_TICKS {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.set(self.deadlines.idle / IDLE_TICKS);
        }
    }

    fn poll_io_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }

    fn wrote<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.stalled_since = None;
            self.is_used = true;
            return done;
        }
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        ready!(self.alarm.poll(since + self.deadlines.write_stall, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            if let Some(scanner) = &mut this.scanner {
                let ready = scanner.ready();
                if !ready.is_empty() {
                    let count = ready.len().min(buf.remaining());
                    buf.put_slice(ready.get(..count).unwrap_or_default());
                    scanner.consume(count);
                    return Poll::Ready(Ok(()));
                }
                match scanner.next() {
                    Next::Read => {}
                    Next::Fail => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                    Next::Stop => return this.wait_for_input(cx),
                }
            }
            match this.poll_io_read(cx, buf) {
                Poll::Ready(result) => result?,
                Poll::Pending => return this.wait_for_input(cx),
            }
            let new = buf.filled().get(before..).unwrap_or_default();
            if new.is_empty() {
                this.peer_ended = true;
                return Poll::Ready(Ok(()));
            }
            let Some(scanner) = &mut this.scanner else { return Poll::Ready(Ok(())) };
            let passed = scanner.take(new);
            this.is_used = true;
            if passed > 0 || !scanner.ready().is_empty() {
                // What is incomplete now is another head than the one that was waited for.
                this.mid_head_since = None;
            }
            buf.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.wrote(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.io).poll_flush(cx);
        if done.is_pending() { self.wrote(cx, done) } else { done }
    }

    /// Ends our side, then reads and drops what the peer still sends until it closes too.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match this.closing {
                Closing::Open => {
                    let ended = Pin::new(&mut this.io).poll_shutdown(cx);
                    ready!(this.wrote(cx, ended))?;
                    if this.peer_ended {
                        return Poll::Ready(Ok(()));
                    }
                    let until = Instant::now() + LINGER;
                    this.closing = Closing::Lingering { until, left: LINGER_BYTES };
                }
                Closing::Lingering { until, left } => {
                    let mut scratch = [0; 4096];
                    let mut dropped = ReadBuf::new(&mut scratch);
                    if this.poll_io_read(cx, &mut dropped).is_pending() {
                        return this.alarm.poll(until, cx).map(Ok);
                    }
                    // An error leaves nothing in the buffer and ends the wait like an end does.
                    let count = dropped.filled().len();
                    if count == 0 || count >= left {
                        return Poll::Ready(Ok(()));
                    }
                    this.closing = Closing::Lingering { until, left: left - count };
                }
            }
        }
    }
}

/// One timer for all deadlines of a connection. Deadlines mostly move later, and a timer that
/// rings too early is cheaper than one set anew for every request.
#[derive(Debug)]
struct Alarm {
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    fn new(first: Duration) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(first)) }
    }

    /// Ready once `due` has passed; otherwise the task is woken by then.
    fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
        loop {
            ready!(self.poll_set(cx));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
    }

    /// Ready once the time it was last set to has passed.
    fn poll_set(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }

    fn set(&mut self, after: Duration) {
        self.sleep.as_mut().reset(Instant::now() + after);
    }
}
