//! Reads a mail as its receiver does: headers unfolded and decoded, text and HTML parts decoded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Parts of parts that are looked into.
const DEPTH_MAX: usize = 4;

/// A mail as its reader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedMail {
    /// Names as sent, values unfolded and decoded (RFC 2047), in their order.
    pub headers: Vec<(String, String)>,
    /// The first `text/plain` part.
    pub text: Option<String>,
    /// The first `text/html` part.
    pub html: Option<String>,
}

impl ReceivedMail {
    pub(crate) fn parse(message: &[u8]) -> Self {
        let (head, body) = split(message);
        let mut mail = Self { headers: headers(head), ..Self::default() };
        let content = Content::of(&mail.headers);
        mail.take(&content, body, 0);
        mail
    }

    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The first link of the text part: where a reader without HTML would go.
    #[must_use]
    pub fn link(&self) -> Option<&str> {
        let words = self.text.as_deref()?.split_whitespace();
        words.into_iter().find(|word| word.starts_with("http://") || word.starts_with("https://"))
    }

    fn take(&mut self, content: &Content, body: &[u8], depth: usize) {
        if let Some(boundary) = &content.boundary {
            if depth < DEPTH_MAX {
                for part in parts(body, boundary) {
                    let (head, body) = split(part);
                    self.take(&Content::of(&headers(head)), body, depth + 1);
                }
            }
            return;
        }
        let place = match content.kind.as_str() {
            "text/plain" => &mut self.text,
            "text/html" => &mut self.html,
            _ => return,
        };
        if place.is_none() {
            *place = Some(String::from_utf8_lossy(&content.decode(body)).replace("\r\n", "\n"));
        }
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

/// What a part's own headers say about its body.
struct Content {
    kind: String,
    boundary: Option<String>,
    encoding: String,
}

impl Content {
    fn of(headers: &[(String, String)]) -> Self {
        let value = find(headers, "content-type").unwrap_or("text/plain");
        let mut fields = value.split(';').map(str::trim);
        let kind = fields.next().unwrap_or_default().to_ascii_lowercase();
        let boundary = fields.find_map(|field| {
            let (name, value) = field.split_once('=')?;
            name.eq_ignore_ascii_case("boundary").then(|| value.trim_matches('"').to_owned())
        });
        let boundary = boundary.filter(|_| kind.starts_with("multipart/"));
        let encoding = find(headers, "content-transfer-encoding").unwrap_or_default();
        Self { kind, boundary, encoding: encoding.to_ascii_lowercase() }
    }

    fn decode(&self, body: &[u8]) -> Vec<u8> {
        match self.encoding.as_str() {
            "base64" => from_base64(body),
            "quoted-printable" => from_quoted(body, false),
            _ => body.to_vec(),
        }
    }
}

/// Head and body, parted at the first empty line.
fn split(message: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = message.strip_prefix(b"\r\n") {
        return (&[], body);
    }
    let end = message.windows(4).position(|four| four == b"\r\n\r\n");
    match end.and_then(|at| Some((message.get(..at)?, message.get(at + 4..)?))) {
        Some(parts) => parts,
        None => (message, &[]),
    }
}

fn headers(head: &[u8]) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in String::from_utf8_lossy(head).split("\r\n") {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = headers.last_mut() {
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    for (_, value) in &mut headers {
        *value = decode_words(value.trim());
    }
    headers
}

/// The parts of a multipart body; what stands before the first and after the last is dropped.
fn parts<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let marker = format!("\r\n--{boundary}");
    let marker = marker.as_bytes();
    let starts_at_once = body.starts_with(marker.get(2..).unwrap_or_default());
    let mut ends: Vec<usize> = if starts_at_once { vec![0] } else { Vec::new() };
    ends.extend(
        body.windows(marker.len()).enumerate().filter(|(_, w)| *w == marker).map(|(n, _)| n),
    );
    let part = |pair: &[usize]| {
        let (from, to) = (*pair.first()?, *pair.get(1)?);
        let part = body.get(from..to)?;
        let line = part.windows(2).skip(1).position(|two| two == b"\r\n")?;
        // Past the line of the boundary itself.
        part.get(line + 3..)
    };
    ends.windows(2).filter_map(part).collect()
}

/// RFC 2047 encoded words; blanks between two of them do not count.
fn decode_words(value: &str) -> String {
    let mut decoded = String::new();
    let mut rest = value;
    let mut after_word = false;
    while let Some((before, from)) = rest.split_once("=?") {
        let mut fields = from.splitn(4, '?');
        let word = (fields.next(), fields.next(), fields.next(), fields.next());
        let (Some(_charset), Some(kind), Some(text), Some(tail)) = word else { break };
        let Some(tail) = tail.strip_prefix('=') else { break };
        if !(after_word && before.trim().is_empty()) {
            decoded.push_str(before);
        }
        let bytes = match kind {
            "b" | "B" => from_base64(text.as_bytes()),
            _ => from_quoted(text.as_bytes(), true),
        };
        decoded.push_str(&String::from_utf8_lossy(&bytes));
        (rest, after_word) = (tail, true);
    }
    decoded.push_str(rest);
    decoded
}

fn from_base64(text: &[u8]) -> Vec<u8> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).unwrap_or_default()
}

fn from_quoted(text: &[u8], is_word: bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'_', _) if is_word => decoded.push(b' '),
            (b'=', [b'\r', b'\n', after @ ..]) => rest = after,
            (b'=', [high, low, after @ ..]) => {
                let digit = |digit: &u8| char::from(*digit).to_digit(16);
                let byte = digit(high).zip(digit(low)).map(|(high, low)| high * 16 + low);
                match byte.and_then(|byte| u8::try_from(byte).ok()) {
                    Some(byte) => {
                        decoded.push(byte);
                        rest = after;
                    }
                    None => decoded.push(b'='),
                }
            }
            (byte, _) => decoded.push(*byte),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_unfolded_and_their_words_decoded() {
        let mail = ReceivedMail::parse(
            b"Subject: =?utf-8?b?w4Q=?=\r\n =?utf-8?q?_=3D?= plain\r\nX: a\r\n b\r\n\r\nbody\r\n",
        );
        assert_eq!(mail.header("subject"), Some("\u{c4} = plain"));
        assert_eq!(mail.header("x"), Some("a b"));
        assert_eq!(mail.text.as_deref(), Some("body\n"));
    }

    #[test]
    fn both_alternatives_are_decoded_and_the_link_is_found() {
        let mail = ReceivedMail::parse(
            b"Content-Type: multipart/alternative;\r\n boundary=\"b1\"\r\n\r\n--b1\r\n\
              Content-Type: text/plain; charset=utf-8\r\n\
              Content-Transfer-Encoding: quoted-printable\r\n\r\n\
              Gr=C3=BC=\r\n=C3=9Fe https://example.com/?t=3D1\r\n--b1\r\n\
              Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n\
              PGI+\r\nPC9iPg==\r\n--b1--\r\n",
        );
        assert_eq!(mail.text.as_deref(), Some("Gr\u{fc}\u{df}e https://example.com/?t=1"));
        assert_eq!(mail.html.as_deref(), Some("<b></b>"));
        assert_eq!(mail.link(), Some("https://example.com/?t=1"));
    }

    #[test]
    fn damaged_mail_does_no_harm() {
        for mail in [&b""[..], b"\r\n", b"no header", b"A: =?x", b"A: =?u?b?!?=\r\n\r\n=?"] {
            ReceivedMail::parse(mail);
        }
        let endless = b"Content-Type: multipart/mixed; boundary=\r\n\r\n--\r\n--\r\n--";
        ReceivedMail::parse(endless);
    }
}
