//! HTTP/2 connections of a twin: one loop that accepts streams and sends what the book asks for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::frames::ShapedIo;
use super::socket::SocketControl;
use super::streams::{Admission, StreamBook, WINDOW_BYTES};
use super::{BODY_BYTES_MAX, Link, Port, Traffic};
use crate::twins::reply::{BodyStyle, Call, Reply};

const HEADER_LIST_BYTES_MAX: u32 = 64 << 10;
/// How long the peer may take to close after GOAWAY and the last answer.
const LEAVE_MAX: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(5);
const CHUNK: Bytes = Bytes::from_static(&[b'x'; 8192]);

pub(super) async fn serve<S>(
    io: S,
    port: Arc<Port>,
    traffic: Arc<Traffic>,
    control: &Arc<SocketControl>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let book = Arc::new(StreamBook::new(port.streams));
    let mut builder = Builder::new();
    builder.max_header_list_size(HEADER_LIST_BYTES_MAX).initial_window_size(WINDOW_BYTES);
    let shaped = ShapedIo::new(io, Arc::clone(&book));
    let Ok(mut connection) = builder.handshake::<_, Bytes>(shaped).await else { return };
    let mut leave = None;
    loop {
        let waits = leave.is_some() || book.has_unsent_limit();
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, mut respond))) = accepted else { return };
                let stream = respond.stream_id().as_u32();
                match book.admit(stream) {
                    Admission::Serve => {
                        let link = Link {
                            socket: Arc::clone(control),
                            stream: Some((Arc::clone(&book), stream)),
                        };
                        tokio::spawn(serve_stream(request, respond, Arc::clone(&port), link));
                    }
                    Admission::Refuse => {
                        traffic.streams_refused.fetch_add(1, Ordering::Relaxed);
                        respond.send_reset(Reason::REFUSED_STREAM);
                    }
                    Admission::Ignore => {
                        let control = Arc::clone(control);
                        tokio::spawn(async move { keep(&control, (request, respond)).await });
                    }
                }
            }
            () = book.changed() => {}
            () = tokio::time::sleep(TICK), if waits => {}
        }
        if steer(&mut connection, &book, &mut leave) {
            return;
        }
    }
}

/// Sends what the book asks for; true when the connection is to be closed now.
fn steer<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<ShapedIo<S>, Bytes>,
    book: &StreamBook,
    leave: &mut Option<Instant>,
) -> bool {
    if book.has_unsent_limit() {
        // Fails while the last SETTINGS is not acknowledged; the next tick tries again.
        connection.set_initial_window_size(book.window()).ok();
    }
    if leave.is_none() && book.leaving().is_some() {
        connection.graceful_shutdown();
        *leave = Some(Instant::now() + LEAVE_MAX);
    }
    match leave {
        Some(_) if !book.is_idle() => {
            *leave = Some(Instant::now() + LEAVE_MAX);
            false
        }
        Some(at) => Instant::now() >= *at,
        None => false,
    }
}

/// Holds a stream open, unanswered, for as long as its connection lives.
async fn keep<T: Send>(control: &SocketControl, streams: T) {
    control.closed().await;
    drop(streams);
}

async fn serve_stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    port: Arc<Port>,
    link: Link,
) {
    let (parts, mut body) = request.into_parts();
    let (bytes, is_whole) = read_stream(&mut body).await;
    let call = Call::new(parts, bytes, is_whole);
    let reply = port.stage.answer(&*port.twin, call, &link).await;
    // Before the last frame: once the peer has it, it may open its next stream.
    if let Some((book, _)) = &link.stream {
        book.release();
    }
    match reply {
        Reply::Answer(response, style) => {
            // Fails only when the peer is gone.
            send(&mut respond, response, style).await.ok();
        }
        Reply::StreamReset { refused: true } => respond.send_reset(Reason::REFUSED_STREAM),
        Reply::StreamReset { refused: false } => respond.send_reset(Reason::INTERNAL_ERROR),
        Reply::Nothing => tokio::select! {
            () = keep(&link.socket, body) => {}
            _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {}
        },
    }
}

async fn read_stream(body: &mut RecvStream) -> (Bytes, bool) {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else { return (bytes.into(), false) };
        // Fails only for more than was received.
        body.flow_control().release_capacity(chunk.len()).ok();
        if bytes.len() + chunk.len() > BODY_BYTES_MAX {
            return (bytes.into(), true);
        }
        bytes.extend_from_slice(&chunk);
    }
    (bytes.into(), true)
}

async fn send(
    respond: &mut SendResponse<Bytes>,
    response: Response<Bytes>,
    style: BodyStyle,
) -> Result<(), h2::Error> {
    let (parts, body) = response.into_parts();
    let ends = body.is_empty() && style == BodyStyle::Whole;
    let mut stream = respond.send_response(Response::from_parts(parts, ()), ends)?;
    match style {
        BodyStyle::Whole if ends => {}
        BodyStyle::Whole => stream.send_data(body, true)?,
        BodyStyle::Cut => {
            stream.send_data(body.slice(..body.len() / 2), false)?;
            // Lets the half go out, so that the reset does not overtake it.
            tokio::time::sleep(TICK).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        BodyStyle::Drip { ms_per_byte } => loop {
            stream.send_data(Bytes::from_static(b" "), false)?;
            let pause = tokio::time::sleep(Duration::from_millis(ms_per_byte));
            tokio::select! {
                () = pause => {}
                reset = std::future::poll_fn(|cx| stream.poll_reset(cx)) => return reset.map(drop),
            }
        },
        BodyStyle::Endless | BodyStyle::Huge { .. } => {
            let mut left = if let BodyStyle::Huge { bytes } = style { bytes } else { u64::MAX };
            while left > 0 {
                stream.reserve_capacity(CHUNK.len());
                let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                let Some(granted) = granted.transpose()? else { return Ok(()) };
                let piece = granted.min(CHUNK.len());
                let piece = piece.min(usize::try_from(left).unwrap_or(usize::MAX));
                left -= piece as u64;
                stream.send_data(CHUNK.slice(..piece), left == 0)?;
            }
        }
    }
    Ok(())
}
