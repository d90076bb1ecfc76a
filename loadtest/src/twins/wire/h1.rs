//! HTTP/1 connections of a twin.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::socket::SocketControl;
use super::{BODY_BYTES_MAX, Link, Port};
use crate::twins::reply::{BodyStyle, Call, Reply, ReplyBody, read_body};

/// Also the longest a kept-alive connection may idle.
const HEADERS_MAX: Duration = Duration::from_secs(120);

pub(super) async fn serve<S>(io: S, port: Arc<Port>, control: &Arc<SocketControl>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let link = Link { socket: Arc::clone(control), stream: None };
    let service = service_fn(|request| answer(request, Arc::clone(&port), link.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_MAX)
        .serve_connection(TokioIo::new(io), service);
    // A peer that breaks off is what these connections are for.
    connection.await.ok();
}

async fn answer(
    request: Request<Incoming>,
    port: Arc<Port>,
    link: Link,
) -> Result<Response<ReplyBody>, Infallible> {
    let (parts, body) = request.into_parts();
    let (body, is_whole) = read_body(body, BODY_BYTES_MAX).await;
    let call = Call::new(parts, body, is_whole);
    let of_task = link.clone();
    // A provider goes on with what it received when the sender goes away meanwhile; so do we.
    let judging = tokio::spawn(async move { port.stage.answer(&*port.twin, call, &of_task).await });
    match judging.await {
        Ok(Reply::Answer(response, style)) => {
            if matches!(style, BodyStyle::Endless | BodyStyle::Huge { .. }) {
                link.flood();
            }
            Ok(response.map(|body| ReplyBody::new(body, style)))
        }
        Ok(Reply::Nothing) => std::future::pending().await,
        Ok(Reply::StreamReset { .. }) | Err(_) => {
            link.reset();
            std::future::pending().await
        }
    }
}
