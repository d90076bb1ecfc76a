//! Reads one HTTP/1 request head strictly, as its bytes arrive, and says where it ends.
//!
//! RFC 9112 lets a recipient repair many malformed heads; every repair is a chance for two servers
//! to disagree on where a message ends. Here nothing is repaired: one spelling passes.

use crate::server::Refusal;

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes, 0 without a body.
    Length(u64),
    Chunked,
}

/// What is known about a head so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// Valid so far; call again with more bytes appended.
    Incomplete,
    /// Valid and `len` bytes long.
    Complete {
        len: usize,
        framing: Framing,
    },
    Refused(Refusal),
}

/// Limits of one head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub(super) bytes: usize,
    pub(super) uri: usize,
    pub(super) fields: usize,
}

/// Longest method and version around a target; anything longer is no request line.
const REQUEST_LINE_SLACK: usize = 48;

/// The state of reading one head; positions count from the head's first byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadScan {
    line_start: usize,
    /// Bytes before this hold no control character that was not looked at.
    searched: usize,
    in_fields: bool,
    is_http_10: bool,
    fields: usize,
    length: Option<u64>,
    is_chunked: bool,
}

impl HeadScan {
    /// Goes on with `head`, which starts with the bytes of the earlier calls.
    pub(super) fn scan(&mut self, head: &[u8], limits: &HeadLimits) -> Scanned {
        loop {
            let end = match self.line_end(head) {
                Ok(Some(end)) => end,
                Ok(None) => return self.incomplete(head, limits),
                Err(refusal) => return Scanned::Refused(refusal),
            };
            if end + 2 > limits.bytes {
                return Scanned::Refused(self.too_large(head, limits));
            }
            let line = head.get(self.line_start..end).unwrap_or_default();
            self.line_start = end + 2;
            self.searched = end + 2;
            let checked = if !self.in_fields {
                self.in_fields = true;
                self.request_line(line, limits)
            } else if line.is_empty() {
                return self.complete();
            } else {
                self.field(line, limits)
            };
            if let Err(refusal) = checked {
                return Scanned::Refused(refusal);
            }
        }
    }

    /// The position of the line's CR LF, or `None` when it is not there yet.
    fn line_end(&mut self, head: &[u8]) -> Result<Option<usize>, Refusal> {
        loop {
            let rest = head.get(self.searched..).unwrap_or_default();
            let Some(offset) = first_control(rest) else {
                self.searched = head.len();
                return Ok(None);
            };
            let at = self.searched + offset;
            match (head.get(at), head.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => return Ok(Some(at)),
                (Some(b'\r'), None) => {
                    self.searched = at;
                    return Ok(None);
                }
                (Some(b'\t'), _) if self.in_fields => self.searched = at + 1,
                (Some(b'\r'), _) => return refuse("bare carriage return in the request head"),
                (Some(b'\n'), _) => return refuse("bare line feed in the request head"),
                _ => return refuse("control character in the request head"),
            }
        }
    }

    fn incomplete(&self, head: &[u8], limits: &HeadLimits) -> Scanned {
        let line_is_long = !self.in_fields && head.len() > limits.uri + REQUEST_LINE_SLACK;
        if line_is_long || head.len() > limits.bytes {
            return Scanned::Refused(self.too_large(head, limits));
        }
        Scanned::Incomplete
    }

    fn too_large(&self, head: &[u8], limits: &HeadLimits) -> Refusal {
        let starts_like_a_request = head.iter().take(REQUEST_LINE_SLACK).any(|b| *b == b' ');
        if self.in_fields {
            Refusal::HeadersTooLarge
        } else if starts_like_a_request && head.len() > limits.uri {
            Refusal::UriTooLong
        } else {
            Refusal::BadRequest("the request line is malformed")
        }
    }

    fn request_line(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Refusal> {
        let (method, rest) = line.split_at(token_len(line));
        let (target, version) = rest.split_at(rest.len().saturating_sub(b" HTTP/1.1".len()));
        let ([b' ', target @ ..], [b' ', version @ ..]) = (target, version) else {
            return refuse("the request line is malformed");
        };
        if !(1..=32).contains(&method.len()) {
            return refuse("the method is malformed");
        }
        if target.len() > limits.uri {
            return Err(Refusal::UriTooLong);
        }
        if target.is_empty() || !is_graphic(target) {
            return refuse("the request target is malformed");
        }
        match version {
            b"HTTP/1.1" => {}
            b"HTTP/1.0" => self.is_http_10 = true,
            _ => return refuse("the HTTP version is not supported"),
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Refusal> {
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(Refusal::HeadersTooLarge);
        }
        if let [b' ' | b'\t', ..] = line {
            return refuse("folded header lines are not supported");
        }
        let (name, value) = line.split_at(token_len(line));
        let (1.., [b':', value @ ..]) = (name.len(), value) else {
            return refuse("a header name is malformed");
        };
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() {
            return refuse("more than one Content-Length");
        }
        let digits = value.trim_ascii();
        if !(1..=18).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
            return refuse("Content-Length is malformed");
        }
        self.length = Some(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')));
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.is_chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return refuse("Transfer-Encoding must be exactly `chunked`");
        }
        self.is_chunked = true;
        Ok(())
    }

    fn complete(&self) -> Scanned {
        let framing = match (self.is_chunked, self.length) {
            (true, Some(_)) => {
                let text = "both Content-Length and Transfer-Encoding";
                return Scanned::Refused(Refusal::BadRequest(text));
            }
            (true, None) if self.is_http_10 => {
                let text = "Transfer-Encoding is not part of HTTP/1.0";
                return Scanned::Refused(Refusal::BadRequest(text));
            }
            (true, None) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        Scanned::Complete { len: self.line_start, framing }
    }
}

fn refuse<T>(text: &'static str) -> Result<T, Refusal> {
    Err(Refusal::BadRequest(text))
}

/// RFC 9110 `tchar`.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let extra = b"!#$%&'*+-.^_`|~";
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut i = 0;
    while i < extra.len() {
        table[extra[i] as usize] = true;
        i += 1;
    }
    table
};

/// Length of the token `bytes` start with.
fn token_len(bytes: &[u8]) -> usize {
    let is_token = |b: &u8| TOKEN.get(usize::from(*b)) == Some(&true);
    bytes.iter().position(|b| !is_token(b)).unwrap_or(bytes.len())
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = ONES * 0x80;

/// Not zero if a byte of `word` is below `limit` (at most 0x80) or 0x7f.
fn below_or_delete(word: u64, limit: u64) -> u64 {
    let below = word.wrapping_sub(ONES * limit) & !word;
    let delete = word ^ (ONES * 0x7f);
    (below | delete.wrapping_sub(ONES) & !delete) & HIGH
}

/// The first byte below 0x20 or equal to 0x7f, found eight bytes at a time.
fn first_control(bytes: &[u8]) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<8>();
    let is_control = |b: &u8| *b < 0x20 || *b == 0x7f;
    for (i, word) in words.iter().enumerate() {
        if below_or_delete(u64::from_le_bytes(*word), 0x20) != 0 {
            return word.iter().position(is_control).map(|at| i * 8 + at);
        }
    }
    tail.iter().position(is_control).map(|at| words.len() * 8 + at)
}

/// True if all bytes are visible ASCII.
fn is_graphic(bytes: &[u8]) -> bool {
    let (words, tail) = bytes.as_chunks::<8>();
    let is_plain = |word: u64| below_or_delete(word, 0x21) | (word & HIGH) == 0;
    words.iter().all(|word| is_plain(u64::from_le_bytes(*word)))
        && tail.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, uri: 256, fields: 8 };

    fn scan(head: &str) -> Scanned {
        HeadScan::default().scan(head.as_bytes(), &LIMITS)
    }

    /// Feeds `head` byte by byte; must come to the same end as in one piece.
    fn scan_dripped(head: &str) -> Scanned {
        let mut scan = HeadScan::default();
        let bytes = head.as_bytes();
        for end in 1..=bytes.len() {
            match scan.scan(&bytes[..end], &LIMITS) {
                Scanned::Incomplete => {}
                done => return done,
            }
        }
        Scanned::Incomplete
    }

    fn check(head: &str, expected: Scanned) {
        assert_eq!(scan(head), expected, "{head:?}");
        assert_eq!(scan_dripped(head), expected, "dripped {head:?}");
    }

    #[test]
    fn finds_the_end_and_the_framing() {
        for (head, framing) in [
            ("GET / HTTP/1.1\r\n\r\n", Framing::Length(0)),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Framing::Length(0)),
            ("POST /a?b HTTP/1.1\r\nContent-Length:  12 \r\nX: a\tb\r\n\r\n", Framing::Length(12)),
            ("POST / HTTP/1.1\r\ntransfer-ENCODING: Chunked\r\n\r\n", Framing::Chunked),
        ] {
            check(head, Scanned::Complete { len: head.len(), framing });
        }
        let pipelined = "GET / HTTP/1.1\r\n\r\nGET / HT";
        assert_eq!(scan(pipelined), Scanned::Complete { len: 18, framing: Framing::Length(0) });
    }

    #[test]
    fn refuses_every_ambiguous_head() {
        for head in [
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: identity, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\n A: b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
            "GET / HTTP/1.1\nA: b\n\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\n: empty\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "GET\t/ HTTP/1.1\r\n\r\n",
            "GET /ä HTTP/1.1\r\n\r\n",
            "G@T / HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\x02\0\x01",
        ] {
            assert!(matches!(scan(head), Scanned::Refused(Refusal::BadRequest(_))), "{head:?}");
            let dripped = scan_dripped(head);
            assert!(matches!(dripped, Scanned::Refused(Refusal::BadRequest(_))), "{head:?}");
        }
    }

    #[test]
    fn refuses_what_is_too_large_as_soon_as_it_is_known() {
        check(&format!("GET /{}", "a".repeat(400)), Scanned::Refused(Refusal::UriTooLong));
        let target = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(256));
        check(&target, Scanned::Refused(Refusal::UriTooLong));
        let field = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(1024));
        check(&field, Scanned::Refused(Refusal::HeadersTooLarge));
        let fields = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(9));
        check(&fields, Scanned::Refused(Refusal::HeadersTooLarge));
        let line = "a".repeat(400);
        assert!(matches!(scan(&line), Scanned::Refused(Refusal::BadRequest(_))));
    }

    #[test]
    fn finds_the_first_control_character_at_every_offset() {
        for control in [0u8, 9, 10, 13, 31, 127] {
            for at in 0..40 {
                let mut text: Vec<u8> = (0..40).map(|i| 0x20 + i * 2).collect();
                text.extend([0x80, 0xff, b'~', b' ']);
                text[at] = control;
                assert_eq!(first_control(&text), Some(at));
            }
        }
        assert_eq!(first_control(&[0x80, 0xff, b' ', b'~', 0x9f, 0xa0, 0xe0, 0x7e, 0x80]), None);
    }
}
