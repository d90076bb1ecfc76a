//! A small HTTP/1.1 client connection: writes prepared requests, parses answers, nothing else.
//!
//! It must cost far less than the server it loads, so it copies a body once and allocates nothing
//! in steady state. Bounds: 64 KiB of head, 256 MiB of body.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use uuid::Uuid;

const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 256 << 20;
/// A request up to this size fits the socket buffers, so it is written before reading begins.
const WRITE_FIRST_BYTES_MAX: usize = 16 << 10;

pub(crate) struct Connection {
    tcp: TcpStream,
    reader: Reader,
}

/// One answer; the body is borrowed from the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    /// From `Bugler-Notification-Id`.
    pub(super) id: Option<Uuid>,
    /// From `Bugler-Outcome`: whether the request was stored is not known.
    pub(super) is_unknown: bool,
    /// Whether there is a `Retry-After`.
    pub(super) says_when: bool,
    pub(super) closes: bool,
    pub(crate) body: &'a [u8],
}

#[derive(Default)]
struct Reader {
    buffer: BytesMut,
    body: Vec<u8>,
}

/// What a head says about what follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    status: u16,
    id: Option<Uuid>,
    length: Option<usize>,
    is_chunked: bool,
    is_unknown: bool,
    says_when: bool,
    closes: bool,
    bytes: usize,
}

impl Connection {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, reader: Reader::default() }
    }

    /// Sends a request and reads its answer. After an error or being dropped half way, the
    /// connection is of no more use.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        let (mut read, mut write) = self.tcp.split();
        let head = if request.len() <= WRITE_FIRST_BYTES_MAX {
            write.write_all(request).await?;
            self.reader.read(&mut read).await?
        } else {
            exchange_large(&mut self.reader, &mut read, &mut write, request).await?
        };
        let Head { status, id, is_unknown, says_when, closes, .. } = head;
        Ok(Answer { status, id, is_unknown, says_when, closes, body: &self.reader.body })
    }
}

/// Writes and reads at once: a server may answer while it still reads, and stop reading then.
async fn exchange_large(
    reader: &mut Reader,
    read: &mut ReadHalf<'_>,
    write: &mut WriteHalf<'_>,
    request: &[u8],
) -> io::Result<Head> {
    let reading = reader.read(read);
    let writing = write.write_all(request);
    tokio::pin!(reading, writing);
    tokio::select! {
        // The server answered before it had it all: what is left unsaid spoils the connection.
        head = &mut reading => head.map(|head| Head { closes: true, ..head }),
        written = &mut writing => match written {
            Ok(()) => reading.await,
            // An early refusal may still be readable.
            Err(error) => reading.await.map_or(Err(error), |head| Ok(Head { closes: true, ..head })),
        },
    }
}

impl Reader {
    async fn read(&mut self, tcp: &mut ReadHalf<'_>) -> io::Result<Head> {
        self.body.clear();
        loop {
            let Some(head) = parse_head(&self.buffer)? else {
                if self.buffer.len() > HEAD_BYTES_MAX {
                    return Err(invalid("the head is too long"));
                }
                self.fill(tcp).await?;
                continue;
            };
            self.buffer.advance(head.bytes);
            // Interim answers come before the real one.
            if !(100..200).contains(&head.status) {
                return self.read_body(tcp, head).await;
            }
        }
    }

    async fn read_body(&mut self, tcp: &mut ReadHalf<'_>, mut head: Head) -> io::Result<Head> {
        if matches!(head.status, 204 | 304) {
            return Ok(head);
        }
        if head.is_chunked {
            self.read_chunks(tcp).await?;
        } else if let Some(length) = head.length {
            self.take(tcp, length).await?;
        } else {
            head.closes = true;
            while self.fill(tcp).await.is_ok() && self.buffer.len() <= BODY_BYTES_MAX {}
            let length = self.buffer.len();
            self.take(tcp, length).await?;
        }
        Ok(head)
    }

    async fn read_chunks(&mut self, tcp: &mut ReadHalf<'_>) -> io::Result<()> {
        loop {
            let line = self.line(tcp).await?;
            let size = line.as_ref().split(|byte: &u8| *byte == b';').next().unwrap_or_default();
            let size = std::str::from_utf8(size).ok().map(str::trim);
            let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
            let size = size.ok_or_else(|| invalid("a chunk has no size"))?;
            if size == 0 {
                // Trailers, up to an empty line.
                while !self.line(tcp).await?.is_empty() {}
                return Ok(());
            }
            self.take(tcp, size).await?;
            self.line(tcp).await?;
        }
    }

    /// Moves `length` bytes to the end of the body.
    async fn take(&mut self, tcp: &mut ReadHalf<'_>, length: usize) -> io::Result<()> {
        if self.body.len().saturating_add(length) > BODY_BYTES_MAX {
            return Err(invalid("the body is too long"));
        }
        let mut left = length;
        loop {
            let part = left.min(self.buffer.len());
            self.body.extend_from_slice(self.buffer.get(..part).unwrap_or_default());
            self.buffer.advance(part);
            left -= part;
            if left == 0 {
                return Ok(());
            }
            self.fill(tcp).await?;
        }
    }

    async fn line(&mut self, tcp: &mut ReadHalf<'_>) -> io::Result<BytesMut> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Ok(line);
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(invalid("a line is too long"));
            }
            self.fill(tcp).await?;
        }
    }

    async fn fill(&mut self, tcp: &mut ReadHalf<'_>) -> io::Result<()> {
        self.buffer.reserve(8 << 10);
        match tcp.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Parses a whole head, or none when its end has not come yet.
fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = bytes.get(..end).and_then(|head| std::str::from_utf8(head).ok());
    let text = text.ok_or_else(|| invalid("the head is not text"))?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let version = words.next().filter(|version| version.starts_with("HTTP/1."));
    let status = words.next().and_then(|status| status.parse().ok());
    let (Some(version), Some(status)) = (version, status) else {
        return Err(invalid("the status line is not HTTP/1"));
    };
    let mut head =
        Head { status, closes: version == "HTTP/1.0", bytes: end + 4, ..Head::default() };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| invalid("the length is no number"))?;
            head.length = Some(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            head.is_chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            head.closes |= value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("bugler-notification-id") {
            head.id = Uuid::try_parse(value).ok();
        } else if name.eq_ignore_ascii_case("bugler-outcome") {
            head.is_unknown = value == "unknown";
        } else if name.eq_ignore_ascii_case("retry-after") {
            head.says_when = value.parse::<u32>().is_ok();
        }
    }
    Ok(Some(head))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_status_id_and_length_in_any_letter_case() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 7\r\nCONNECTION: close\r\n\
            Bugler-Notification-Id: 00000000-0000-0000-0000-000000000007\r\n\
            Bugler-Outcome: unknown\r\n\r\nbody";
        let head = parse_head(text).expect("it is HTTP").expect("it is whole");
        assert_eq!((head.status, head.length, head.closes), (201, Some(7), true));
        assert_eq!(head.id, Some(Uuid::from_u128(7)));
        assert!(head.is_unknown);
        assert_eq!(head.bytes, text.len() - 4);
    }

    #[test]
    fn a_head_is_awaited_whole_and_must_be_http() {
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nfoo: b").expect("so far"), None);
        for wrong in ["SMTP 200\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "\r\n\r\n"] {
            assert!(parse_head(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n").is_err());
    }
}
