//! Decides, bytes in and bytes out, what of a connection's input may be passed on.

use super::ConnectionState;
use super::chunked::{ChunkScan, Followed};
use super::head::{Framing, HeadLimits, HeadScan, Scanned};
use crate::server::ServerLimits;
use std::sync::Arc;

/// Longest path shown to the renderer of a refusal; dialects are told apart by their prefix.
const SHOWN_PATH: usize = 256;

#[derive(Clone, Copy, Debug)]
enum Phase {
    Head(HeadScan),
    Length(u64),
    Chunked(ChunkScan),
    /// A chunked body broke its grammar: its reader gets an error.
    Broken,
    /// A head was refused: nothing more is read.
    Refused,
}

/// What the reader may do after the bytes at hand were passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Read,
    /// The body is malformed.
    Fail,
    /// Wait for the connection to be closed from our side.
    Stop,
}

/// Follows one HTTP/1 connection's input.
#[derive(Debug)]
pub(in crate::server) struct Scanner {
    phase: Phase,
    /// Bytes not yet passed on: `held[..passed]` may be, the rest is an incomplete head.
    held: Vec<u8>,
    passed: usize,
    heads: u64,
    limits: HeadLimits,
    state: Arc<ConnectionState>,
}

impl Scanner {
    pub(in crate::server) fn new(limits: &ServerLimits, state: Arc<ConnectionState>) -> Self {
        Self {
            phase: Phase::Head(HeadScan::default()),
            held: Vec::new(),
            passed: 0,
            heads: 0,
            limits: HeadLimits::of(limits),
            state,
        }
    }

    /// Takes new input. Returns how many of its first bytes may be passed on at once; the rest is
    /// kept here or dropped. Must only be called when [`Scanner::ready`] is empty.
    pub(super) fn take(&mut self, new: &[u8]) -> usize {
        if self.held.is_empty() {
            let passed = self.follow(new);
            self.held.extend_from_slice(new.get(passed..).unwrap_or_default());
            self.settle(0);
            passed
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(new);
            let passed = self.follow(&held);
            self.held = held;
            self.settle(passed);
            0
        }
    }

    /// Bytes to pass on before anything else is read.
    pub(super) fn ready(&self) -> &[u8] {
        self.held.get(..self.passed).unwrap_or_default()
    }

    /// Forgets the first `count` bytes of [`Scanner::ready`].
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.passed);
        self.held.drain(..count);
        self.passed -= count;
    }

    pub(super) fn next(&self) -> Next {
        match self.phase {
            Phase::Broken => Next::Fail,
            Phase::Refused => Next::Stop,
            Phase::Head(_) | Phase::Length(_) | Phase::Chunked(_) => Next::Read,
        }
    }

    /// True if a head has begun and not ended.
    pub(super) fn is_mid_head(&self) -> bool {
        self.held.len() > self.passed
    }

    /// Moves through `bytes` and returns how many of them are valid so far.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return at;
            }
            match &mut self.phase {
                Phase::Length(left) => {
                    let all = u64::try_from(rest.len()).unwrap_or(u64::MAX);
                    if *left > all {
                        *left -= all;
                        return bytes.len();
                    }
                    at += usize::try_from(*left).unwrap_or(rest.len());
                    self.phase = Phase::Head(HeadScan::default());
                }
                Phase::Chunked(chunks) => match chunks.follow(rest) {
                    Followed::More => return bytes.len(),
                    Followed::Ended(length) => {
                        at += length;
                        self.phase = Phase::Head(HeadScan::default());
                    }
                    Followed::Broken(good) => {
                        self.phase = Phase::Broken;
                        return at + good;
                    }
                },
                // RFC 9112 section 2.2: empty lines before a request line are ignored.
                Phase::Head(_) if rest.starts_with(b"\r\n") => at += 2,
                Phase::Head(scan) => match scan.scan(rest, &self.limits) {
                    Scanned::Incomplete => return at,
                    Scanned::Complete { len, framing } => {
                        at += len;
                        self.heads += 1;
                        self.phase = match framing {
                            Framing::Length(0) => Phase::Head(HeadScan::default()),
                            Framing::Length(length) => Phase::Length(length),
                            Framing::Chunked => Phase::Chunked(ChunkScan::new()),
                        };
                    }
                    Scanned::Refused(refusal) => {
                        self.heads += 1;
                        self.state.refuse(self.heads, refusal);
                        self.phase = Phase::Refused;
                        return at;
                    }
                },
                Phase::Broken | Phase::Refused => return at,
            }
        }
    }

    /// Fixes what is held after a step: a refused head becomes its stand-in, broken input goes.
    fn settle(&mut self, passed: usize) {
        self.passed = passed;
        match self.phase {
            Phase::Refused => {
                let stand_in = stand_in(self.held.get(passed..).unwrap_or_default());
                self.held.truncate(passed);
                self.held.extend_from_slice(&stand_in);
                self.passed = self.held.len();
            }
            Phase::Broken => self.held.truncate(passed),
            Phase::Head(_) | Phase::Length(_) | Phase::Chunked(_) => {}
        }
    }
}

/// A valid head that takes the place of the refused one which starts with `head`.
fn stand_in(head: &[u8]) -> Vec<u8> {
    let mut words = head.splitn(3, |b| *b == b' ');
    // The answer to HEAD has no body, so the method must survive.
    let method = if words.next() == Some(b"HEAD") { "HEAD" } else { "GET" };
    let target = words.next().unwrap_or_default();
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._~-".contains(b);
    let plain = target.iter().take(SHOWN_PATH).take_while(|b| is_plain(b)).count();
    let path = target.get(..plain).filter(|path| path.starts_with(b"/")).unwrap_or(b"/");
    let mut stand_in = format!("{method} ").into_bytes();
    stand_in.extend_from_slice(path);
    stand_in.extend_from_slice(b" HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n");
    stand_in
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Refusal;

    const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    const POST: &str = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &str =
        "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    const BOTH: &str = "POST /v2.0/tool/x?y HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\
                        Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

    /// Passes `input` in pieces of `size` bytes; returns what came out and what is next.
    fn pass(input: &str, size: usize) -> (String, Next, Option<(u64, Refusal)>) {
        let state = Arc::new(ConnectionState::default());
        let mut scanner = Scanner::new(&ServerLimits::default(), Arc::clone(&state));
        let mut out = Vec::new();
        for piece in input.as_bytes().chunks(size) {
            if scanner.next() != Next::Read {
                break;
            }
            let passed = scanner.take(piece);
            out.extend_from_slice(&piece[..passed]);
            while !scanner.ready().is_empty() {
                // One byte at a time, as a reader with a small buffer would.
                out.push(scanner.ready()[0]);
                scanner.consume(1);
            }
        }
        (String::from_utf8(out).unwrap(), scanner.next(), state.refused.get().copied())
    }

    #[test]
    fn valid_input_passes_unchanged_in_any_pieces() {
        let input = format!("{GET}{POST}\r\n{CHUNKED}{GET}");
        for size in 1..=input.len() {
            assert_eq!(pass(&input, size), (input.clone(), Next::Read, None), "pieces of {size}");
        }
    }

    #[test]
    fn an_incomplete_head_is_held_back() {
        let cut = GET.len() - 1;
        let input = format!("{GET}{}", GET.split_at(cut).0);
        for size in 1..=input.len() {
            assert_eq!(pass(&input, size).0, GET, "pieces of {size}");
        }
    }

    #[test]
    fn a_violation_becomes_a_stand_in_at_its_place_and_ends_the_input() {
        let input = format!("{POST}{CHUNKED}{BOTH}{GET}");
        let expected = format!(
            "{POST}{CHUNKED}GET /v2.0/tool/x HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n"
        );
        for size in 1..=input.len() {
            let (out, next, refused) = pass(&input, size);
            assert_eq!((out.as_str(), next), (expected.as_str(), Next::Stop), "pieces of {size}");
            assert!(matches!(refused, Some((3, Refusal::BadRequest(_)))), "{refused:?}");
        }
    }

    #[test]
    fn a_broken_chunk_ends_the_input_with_an_error() {
        let head = CHUNKED.split_at(CHUNKED.len() - 12).0;
        let input = format!("{head}2\r\nhiX{GET}");
        for size in 1..=input.len() {
            let (out, next, refused) = pass(&input, size);
            assert_eq!((out, next, refused), (format!("{head}2\r\nhi"), Next::Fail, None));
        }
    }

    #[test]
    fn a_stand_in_keeps_the_dialects_path_and_nothing_harmful() {
        let path = |head: &str| String::from_utf8(stand_in(head.as_bytes())).unwrap();
        assert!(path("HEAD /api/v1/x?a=b HTTP/1.1\r\n").starts_with("HEAD /api/v1/x HTTP/1.1\r\n"));
        assert!(path("POST http://h/x HTTP/1.1").starts_with("GET / HTTP/1.1\r\n"));
        assert!(path("\x16\x03\x01").starts_with("GET / HTTP/1.1\r\n"));
        assert!(path("GET /a\r\nEvil: b").starts_with("GET /a HTTP/1.1\r\n"));
    }
}
