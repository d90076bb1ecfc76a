//! Tells HTTP/2 with prior knowledge from HTTP/1 by the first bytes, which are then read again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// RFC 9113 section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol a connection is served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// Metric label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// Reads until the protocol is certain: up to the whole preface, or the first byte that differs
/// from it. `first_byte` bounds the wait for the first byte, and again the rest of the preface.
///
/// # Errors
/// `TimedOut` when the peer is too slow, `UnexpectedEof` when it closes, or its own error.
pub(super) async fn sniff<IO>(
    mut io: IO,
    first_byte: Duration,
) -> io::Result<(Protocol, Rewind<IO>)>
where
    IO: AsyncRead + Unpin,
{
    let mut prefix = [0; PREFACE.len()];
    let mut length = timeout(first_byte, read_some(&mut io, &mut prefix)).await??;
    let rest = async {
        loop {
            let read = prefix.get(..length).unwrap_or_default();
            if !PREFACE.starts_with(read) {
                return Ok(Protocol::Http1);
            }
            let Some(more) = prefix.get_mut(length..).filter(|more| !more.is_empty()) else {
                return Ok(Protocol::Http2);
            };
            length += read_some(&mut io, more).await?;
        }
    };
    let protocol = timeout(first_byte, rest).await.map_err(io::Error::from).flatten()?;
    Ok((protocol, Rewind { prefix, length, given: 0, io }))
}

async fn read_some<IO: AsyncRead + Unpin>(io: &mut IO, into: &mut [u8]) -> io::Result<usize> {
    match io.read(into).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// A stream whose first bytes were read already and are given again.
#[derive(Debug)]
pub(super) struct Rewind<IO> {
    prefix: [u8; PREFACE.len()],
    length: usize,
    given: usize,
    io: IO,
}

impl<IO> Rewind<IO> {
    /// A stream of which nothing was read.
    pub(super) fn untouched(io: IO) -> Self {
        Self { prefix: [0; PREFACE.len()], length: 0, given: 0, io }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewind<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.given == this.length {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let left = this.prefix.get(this.given..this.length).unwrap_or_default();
        let count = left.len().min(buf.remaining());
        buf.put_slice(left.get(..count).unwrap_or_default());
        this.given += count;
        // The rest of the first segment usually waits in the socket: one read gives both. An end
        // or error shows again on the next read.
        if buf.remaining() > 0 && this.given == this.length {
            let _more = Pin::new(&mut this.io).poll_read(cx, buf)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewind<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(60);

    async fn sniffed(first: &[u8], rest: &[u8], wait: Duration) -> io::Result<(Protocol, Vec<u8>)> {
        let (mut peer, io) = tokio::io::duplex(64);
        peer.write_all(first).await?;
        let late = async {
            tokio::task::yield_now().await;
            peer.write_all(rest).await
        };
        let (found, written) = tokio::join!(sniff(io, wait), late);
        let (protocol, mut io) = found?;
        written?;
        let mut seen = vec![0; first.len() + rest.len()];
        io.read_exact(&mut seen).await?;
        Ok((protocol, seen))
    }

    #[tokio::test]
    async fn tells_the_protocols_apart_and_gives_every_byte_again() {
        let preface = PREFACE.as_slice();
        for (input, expected) in [
            (preface, Protocol::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Protocol::Http2),
            (b"POST / HTTP/1.1\r\n\r\n", Protocol::Http1),
            (b"PRI / HTTP/1.1\r\n\r\n", Protocol::Http1),
            (b"G / HTTP/1.1\r\n\r\n", Protocol::Http1),
        ] {
            for cut in 1..input.len() {
                let (first, rest) = input.split_at(cut);
                let (protocol, seen) = sniffed(first, rest, LATE).await.unwrap();
                assert_eq!((protocol, seen.as_slice()), (expected, input), "cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn gives_up_on_silence_and_on_half_a_preface() {
        for input in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n"] {
            let (mut peer, io) = tokio::io::duplex(64);
            peer.write_all(input).await.unwrap();
            let error = sniff(io, SOON).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{input:?}");
        }
    }

    #[tokio::test]
    async fn notices_a_peer_that_leaves() {
        let (peer, io) = tokio::io::duplex(64);
        drop(peer);
        let error = sniff(io, LATE).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
