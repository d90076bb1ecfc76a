//! Bodies of answers: complete bytes, bytes with trailers, or a bounded stream.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// The body of an answer.
#[derive(Debug)]
pub enum ReplyBody {
    Full(Bytes),
    /// Bytes and then trailers, as gRPC answers.
    Trailed(Bytes, Option<Box<HeaderMap>>),
    /// Frames as they are made; the channel's bound is the stream's memory. Ends when the senders
    /// are dropped. The connection closes if no frame is sent for the idle time.
    Stream(mpsc::Receiver<Frame<Bytes>>),
}

impl Default for ReplyBody {
    fn default() -> Self {
        Self::Full(Bytes::new())
    }
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> Self {
        Self::Full(bytes)
    }
}

impl From<Vec<u8>> for ReplyBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Full(bytes.into())
    }
}

impl From<String> for ReplyBody {
    fn from(text: String) -> Self {
        Self::Full(text.into())
    }
}

impl From<&'static str> for ReplyBody {
    fn from(text: &'static str) -> Self {
        Self::Full(Bytes::from_static(text.as_bytes()))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(take_bytes(bytes)),
            Self::Trailed(bytes, trailers) => Poll::Ready(
                take_bytes(bytes).or_else(|| Some(Ok(Frame::trailers(*trailers.take()?)))),
            ),
            Self::Stream(frames) => frames.poll_recv(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Trailed(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) | Self::Trailed(bytes, None) => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            Self::Trailed(..) | Self::Stream(_) => SizeHint::default(),
        }
    }
}

fn take_bytes(bytes: &mut Bytes) -> Option<Result<Frame<Bytes>, Infallible>> {
    (!bytes.is_empty()).then(|| Ok(Frame::data(std::mem::take(bytes))))
}
