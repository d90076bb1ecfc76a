//! A request as a twin sees it, and the answer as the wire is told to send it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::Sleep;

const CHUNK: Bytes = Bytes::from_static(&[b'x'; 8192]);

/// A whole request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// False when the sender broke off before the end of the body.
    pub(crate) is_whole: bool,
}

impl Call {
    pub(crate) fn new(parts: Parts, body: Bytes, is_whole: bool) -> Self {
        let Parts { method, uri, headers, .. } = parts;
        Self { method, uri, headers, body, is_whole }
    }

    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    /// The value of a header that is there once and is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    /// Whether the content type is this one, parameters aside.
    pub(crate) fn has_content_type(&self, wanted: &str) -> bool {
        let value = self.header("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted)
    }
}

/// Reads a body up to `bytes_max`; false when the sender broke off.
pub(crate) async fn read_body<B>(mut body: B, bytes_max: usize) -> (Bytes, bool)
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (bytes.into(), false) };
        let Ok(chunk) = frame.into_data() else { continue };
        if bytes.len() + chunk.len() > bytes_max {
            break;
        }
        bytes.extend_from_slice(&chunk);
    }
    (bytes.into(), true)
}

/// How the body of an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyStyle {
    Whole,
    /// Half of it, then the connection or stream breaks.
    Cut,
    /// One blank in each so many milliseconds, for ever.
    Drip {
        ms_per_byte: u64,
    },
    /// As much as is read, for ever.
    Endless,
    /// So many bytes, announced beforehand where the protocol can.
    Huge {
        bytes: u64,
    },
}

/// What the wire does with a request.
#[derive(Debug)]
pub(crate) enum Reply {
    Answer(Response<Bytes>, BodyStyle),
    /// Resets the stream, or the HTTP/1 connection.
    StreamReset {
        refused: bool,
    },
    /// Leaves the stream open without an answer.
    Nothing,
}

/// An answer with a body of a media type.
pub(crate) fn answer(status: u16, media_type: &'static str, body: Vec<u8>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let media_type = header::HeaderValue::from_static(media_type);
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

/// An answer with a JSON body.
pub(crate) fn json(status: u16, body: &serde_json::Value) -> Response<Bytes> {
    answer(status, "application/json", body.to_string().into_bytes())
}

/// An answer in plain text.
pub(crate) fn text(status: u16, body: &str) -> Response<Bytes> {
    answer(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

/// The body of an HTTP/1 answer.
pub(crate) struct ReplyBody {
    body: Option<Bytes>,
    style: BodyStyle,
    pause: Option<Pin<Box<Sleep>>>,
}

impl ReplyBody {
    pub(crate) fn new(body: Bytes, style: BodyStyle) -> Self {
        Self { body: Some(body), style, pause: None }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        match this.style {
            BodyStyle::Whole => Poll::Ready(this.body.take().map(|body| Ok(Frame::data(body)))),
            BodyStyle::Cut => Poll::Ready(Some(match this.body.take() {
                Some(body) => Ok(Frame::data(body.slice(..body.len() / 2))),
                None => Err(io::ErrorKind::ConnectionAborted.into()),
            })),
            BodyStyle::Endless => Poll::Ready(Some(Ok(Frame::data(CHUNK)))),
            BodyStyle::Huge { bytes: 0 } => Poll::Ready(None),
            BodyStyle::Huge { bytes } => {
                let piece = CHUNK.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
                this.style = BodyStyle::Huge { bytes: bytes - piece as u64 };
                Poll::Ready(Some(Ok(Frame::data(CHUNK.slice(..piece)))))
            }
            BodyStyle::Drip { ms_per_byte } => {
                if let Some(pause) = &mut this.pause {
                    ready!(pause.as_mut().poll(cx));
                }
                let pause = tokio::time::sleep(Duration::from_millis(ms_per_byte));
                this.pause = Some(Box::pin(pause));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.style == BodyStyle::Whole && self.body.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let body_bytes = || self.body.as_ref().map_or(0, Bytes::len) as u64;
        match self.style {
            BodyStyle::Whole | BodyStyle::Cut => http_body::SizeHint::with_exact(body_bytes()),
            BodyStyle::Huge { bytes } => http_body::SizeHint::with_exact(bytes),
            BodyStyle::Drip { .. } | BodyStyle::Endless => http_body::SizeHint::default(),
        }
    }
}
