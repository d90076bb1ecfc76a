//! Rewrites the HTTP/2 frames that the h2 crate gives no hold on: the stream limit in SETTINGS, and
//! the last stream and debug data in GOAWAY.
//!
//! Outgoing bytes are cut into frames; these two kinds are held until whole, all others pass as
//! they come. Incoming bytes are only watched, for acknowledged SETTINGS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::streams::StreamBook;

const HEADER_BYTES: usize = 9;
const CLIENT_PREFACE_BYTES: usize = 24;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const HELD_BYTES_MAX: usize = 64 << 10;

pub(super) struct ShapedIo<S> {
    inner: S,
    book: Arc<StreamBook>,
    out: BytesMut,
    outgoing: Cutter,
    incoming: Cutter,
}

impl<S> ShapedIo<S> {
    pub(super) fn new(inner: S, book: Arc<StreamBook>) -> Self {
        Self {
            inner,
            book,
            out: BytesMut::new(),
            outgoing: Cutter::default(),
            incoming: Cutter { skip: CLIENT_PREFACE_BYTES, ..Cutter::default() },
        }
    }
}

/// Cuts a byte stream into frames.
#[derive(Default)]
struct Cutter {
    /// Bytes that belong to no header: the rest of a payload, or the preface.
    skip: usize,
    /// The header being read, or a whole frame being held.
    held: Vec<u8>,
}

/// What the next bytes are.
enum Piece<'a> {
    /// Bytes of a payload nobody looks at.
    Passing(&'a [u8]),
    /// A header and, if asked for, its payload.
    Frame(&'a [u8]),
}

impl Cutter {
    /// Takes all of `bytes`; `holds` says for a header whether the payload is wanted with it.
    fn feed(
        &mut self,
        mut bytes: &[u8],
        holds: impl Fn(&[u8]) -> bool,
        mut seen: impl FnMut(Piece<'_>),
    ) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let (passing, rest) = bytes.split_at(self.skip.min(bytes.len()));
                self.skip -= passing.len();
                seen(Piece::Passing(passing));
                bytes = rest;
                continue;
            }
            let wanted = self.wanted(&holds);
            let (taken, rest) = bytes.split_at((wanted - self.held.len()).min(bytes.len()));
            self.held.extend_from_slice(taken);
            bytes = rest;
            if self.held.len() == self.wanted(&holds) {
                if !holds(&self.held) {
                    self.skip = payload_bytes(&self.held);
                }
                seen(Piece::Frame(&self.held));
                self.held.clear();
            }
        }
    }

    fn wanted(&self, holds: &impl Fn(&[u8]) -> bool) -> usize {
        if self.held.len() >= HEADER_BYTES && holds(&self.held) {
            HEADER_BYTES + payload_bytes(&self.held)
        } else {
            HEADER_BYTES
        }
    }
}

fn payload_bytes(header: &[u8]) -> usize {
    header.iter().take(3).fold(0, |length, byte| length << 8 | usize::from(*byte))
}

fn kind(header: &[u8]) -> (u8, u8) {
    (header.get(3).copied().unwrap_or(0), header.get(4).copied().unwrap_or(0))
}

fn is_rewritten(header: &[u8]) -> bool {
    let (kind, flags) = kind(header);
    kind == GOAWAY || kind == SETTINGS && flags & ACK == 0
}

/// The frame with the book's values in it.
fn rewrite(frame: &[u8], book: &StreamBook) -> Vec<u8> {
    let Some((header, payload)) = frame.split_at_checked(HEADER_BYTES) else {
        return frame.to_vec();
    };
    let payload = if kind(header).0 == GOAWAY {
        goaway_payload(payload, book)
    } else {
        settings_payload(payload, book)
    };
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    // A length of more than three bytes cannot come up: both payloads are a few dozen bytes.
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&header[3..]);
    out.extend_from_slice(&payload);
    out
}

fn settings_payload(payload: &[u8], book: &StreamBook) -> Vec<u8> {
    let mut settings = Vec::with_capacity(payload.len() + 6);
    for setting in payload.chunks_exact(6) {
        if !setting.starts_with(&MAX_CONCURRENT_STREAMS.to_be_bytes()) {
            settings.extend_from_slice(setting);
        }
    }
    settings.extend_from_slice(&MAX_CONCURRENT_STREAMS.to_be_bytes());
    settings.extend_from_slice(&book.limit_to_send().to_be_bytes());
    settings
}

fn goaway_payload(payload: &[u8], book: &StreamBook) -> Vec<u8> {
    let Some(leaving) = book.leaving() else { return payload.to_vec() };
    let mut goaway = leaving.last.to_be_bytes().to_vec();
    goaway.extend_from_slice(payload.get(4..8).unwrap_or(&[0; 4]));
    if let Some(reason) = leaving.reason {
        // Apple's own form of the debug data.
        goaway.extend_from_slice(serde_json::json!({ "reason": reason }).to_string().as_bytes());
    }
    goaway
}

impl<S: AsyncWrite + Unpin> ShapedIo<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out.has_remaining() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ShapedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        let book = &this.book;
        this.incoming.feed(
            read,
            |_| false,
            |piece| {
                if let Piece::Frame(header) = piece {
                    let (kind, flags) = kind(header);
                    if kind == SETTINGS && flags & ACK != 0 {
                        book.acknowledged();
                    }
                }
            },
        );
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ShapedIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.out.len() >= HELD_BYTES_MAX {
            ready!(this.poll_drain(cx))?;
        }
        let Self { out, book, outgoing, .. } = this;
        outgoing.feed(buf, is_rewritten, |piece| match piece {
            Piece::Frame(frame) if is_rewritten(frame) => {
                out.extend_from_slice(&rewrite(frame, book));
            }
            Piece::Frame(bytes) | Piece::Passing(bytes) => out.extend_from_slice(bytes),
        });
        // What does not go out now goes out with the flush that follows every write of h2.
        if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::streams::StreamPolicy;
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend_from_slice(&[kind, flags, 0, 0, 0, 0]);
        frame.extend_from_slice(payload);
        frame
    }

    fn shaped(bytes: &[u8], step: usize, book: &StreamBook) -> Vec<u8> {
        let (mut cutter, mut out) = (Cutter::default(), Vec::new());
        for part in bytes.chunks(step) {
            cutter.feed(part, is_rewritten, |piece| match piece {
                Piece::Frame(frame) if is_rewritten(frame) => out.extend(rewrite(frame, book)),
                Piece::Frame(bytes) | Piece::Passing(bytes) => out.extend_from_slice(bytes),
            });
        }
        out
    }

    #[test]
    fn only_settings_and_goaway_change_however_the_bytes_are_cut() {
        let book = StreamBook::new(StreamPolicy { initial: 7, ..StreamPolicy::default() });
        book.leave(Some("Shutdown".into()));
        let sent = [
            frame(SETTINGS, 0, &[0, 4, 0, 0, 255, 255, 0, 3, 0, 0, 0, 9]),
            frame(SETTINGS, ACK, &[]),
            frame(0, 1, b"a body"),
            frame(GOAWAY, 0, &[127, 255, 255, 255, 0, 0, 0, 0]),
            frame(6, 0, &[0; 8]),
        ]
        .concat();
        let expected = [
            frame(SETTINGS, 0, &[0, 4, 0, 0, 255, 255, 0, 3, 0, 0, 0, 7]),
            frame(SETTINGS, ACK, &[]),
            frame(0, 1, b"a body"),
            frame(GOAWAY, 0, b"\0\0\0\0\0\0\0\0{\"reason\":\"Shutdown\"}"),
            frame(6, 0, &[0; 8]),
        ]
        .concat();
        for step in [1, 2, 5, 9, 10, 1000] {
            assert_eq!(shaped(&sent, step, &book), expected, "cut every {step} bytes");
        }
    }
}
