//! A remote answer, read within bounds.

use super::meter::Meter;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// After this many bytes of an answer reading stops and its stream or connection is given up.
/// HTTP/1.1 counts everything that comes in, HTTP/2 the body.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// This much of an answer's body is kept.
pub const ANSWER_BYTES_KEPT: usize = 16 * 1024;

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The first [`ANSWER_BYTES_KEPT`] bytes.
    pub body: Bytes,
    /// The answer was longer than [`ANSWER_BYTES_MAX`] and was not read to its end.
    pub truncated: bool,
}

impl Answer {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A body as far as it was read.
#[derive(Default)]
struct Kept {
    bytes: BytesMut,
    seen: usize,
}

impl Kept {
    /// Takes the next piece; false if it was one too many.
    fn take(&mut self, data: &[u8]) -> bool {
        self.seen = self.seen.saturating_add(data.len());
        let room = ANSWER_BYTES_KEPT.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&data[..data.len().min(room)]);
        self.seen <= ANSWER_BYTES_MAX
    }
}

/// Reads `body` within the bounds above. Never decompresses: we do not ask for an encoding.
pub(super) async fn read(mut body: Incoming, meter: &Meter) -> Result<(Bytes, bool), hyper::Error> {
    let mut kept = Kept::default();
    while !body.is_end_stream() {
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            // The connection may send no more than this: what came is what there is.
            Some(Err(_)) if meter.is_spent() => return Ok((kept.bytes.freeze(), true)),
            Some(Err(error)) => return Err(error),
            None => break,
        };
        let Ok(data) = frame.into_data() else { continue };
        if !kept.take(&data) {
            return Ok((kept.bytes.freeze(), true));
        }
    }
    Ok((kept.bytes.freeze(), false))
}

/// The same for a stream of HTTP/2.
pub(super) async fn receive(mut body: RecvStream) -> Result<(Bytes, bool), h2::Error> {
    let mut kept = Kept::default();
    while let Some(data) = body.data().await {
        let data = data?;
        if !kept.take(&data) {
            return Ok((kept.bytes.freeze(), true));
        }
        body.flow_control().release_capacity(data.len())?;
    }
    Ok((kept.bytes.freeze(), false))
}
