//! A remote answer, read within bounds.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// After this many bytes of an answer's body reading stops and the stream is reset.
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
    /// The body was longer than [`ANSWER_BYTES_MAX`] and was not read to its end.
    pub truncated: bool,
}

impl Answer {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Reads `body` within the bounds above. Never decompresses: we do not ask for an encoding.
pub(super) async fn read(mut body: Incoming) -> Result<(Bytes, bool), hyper::Error> {
    let mut kept = BytesMut::new();
    let mut seen = 0usize;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame?.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        let room = ANSWER_BYTES_KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if seen > ANSWER_BYTES_MAX {
            return Ok((kept.freeze(), true));
        }
    }
    Ok((kept.freeze(), false))
}
