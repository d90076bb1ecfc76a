//! The life of one connection: handshake or sniff, then HTTP/1 or HTTP/2 until it ends or drains.

use super::exchange::{Exchange, Front};
use super::framing::{ConnectionState, Deadlines, Guard, Scanner};
use super::sniff::{Protocol, Rewind, sniff};
use crate::lifecycle::Shutdown;
use crate::telemetry::metrics;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// What connections need besides the front.
pub(super) struct Entry {
    pub(super) front: Arc<Front>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) handshakes: Semaphore,
    pub(super) shutdown: Shutdown,
}

/// Serves `stream` until it ends. Dropping the future closes the connection and drops its requests.
pub(super) async fn serve_connection(entry: Arc<Entry>, stream: TcpStream, peer: SocketAddr) {
    // Answers are written whole; waiting to fill a segment would only delay them.
    let _set = stream.set_nodelay(true).is_ok();
    let result = match &entry.tls {
        None => serve_sniffed(&entry, stream, peer).await,
        // Boxed, here and below, so that a connection holds the memory of its own protocol only.
        Some(tls) => Box::pin(serve_tls(&entry, tls, stream, peer)).await,
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection closed");
    }
}

async fn serve_tls(
    entry: &Entry,
    tls: &TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
) -> io::Result<()> {
    let handshake = async {
        let _permit = entry.handshakes.acquire().await.map_err(io::Error::other)?;
        tls.accept(stream).await
    };
    let limit = entry.front.limits.handshake;
    let stream = tokio::select! {
        biased;
        () = entry.shutdown.draining() => return Ok(()),
        shaken = timeout(limit, handshake) => {
            shaken.map_err(io::Error::from).flatten().inspect_err(|_| {
                metrics::connection_refused("handshake");
            })?
        }
    };
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => serve_as(entry, Protocol::Http2, Rewind::untouched(stream), peer).await,
        Some(b"http/1.1") => {
            serve_as(entry, Protocol::Http1, Rewind::untouched(stream), peer).await
        }
        _ => serve_sniffed(entry, stream, peer).await,
    }
}

async fn serve_sniffed<IO>(entry: &Entry, io: IO, peer: SocketAddr) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let sniffed = tokio::select! {
        biased;
        sniffed = sniff(io, entry.front.limits.first_byte) => sniffed,
        () = entry.shutdown.draining() => return Ok(()),
    };
    match sniffed {
        Ok((protocol, io)) => serve_as(entry, protocol, io, peer).await,
        Err(error) => {
            let is_silent = error.kind() == io::ErrorKind::TimedOut;
            metrics::connection_refused(if is_silent { "silent" } else { "reset" });
            Err(error)
        }
    }
}

async fn serve_as<IO>(
    entry: &Entry,
    protocol: Protocol,
    io: Rewind<IO>,
    peer: SocketAddr,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _open = OpenConnection::new(protocol);
    let state = Arc::new(ConnectionState::default());
    let exchange = Exchange::new(Arc::clone(&entry.front), Arc::clone(&state), peer);
    let limits = &entry.front.limits;
    let scanner = (protocol == Protocol::Http1).then(|| Scanner::new(limits, Arc::clone(&state)));
    let guard = Guard::new(io, scanner, Arc::clone(&state), Deadlines::of(limits));
    match protocol {
        Protocol::Http1 => Box::pin(serve_http1(entry, guard, exchange)).await,
        Protocol::Http2 => Box::pin(serve_http2(entry, guard, exchange, &state)).await,
    }
    .map_err(io::Error::other)
}

async fn serve_http1<IO>(entry: &Entry, io: Guard<IO>, exchange: Exchange) -> hyper::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // The guard passes complete heads only and times the wait for them; the library would set
        // a second timer for every request.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), exchange);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = entry.shutdown.draining() => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

async fn serve_http2<IO>(
    entry: &Entry,
    io: Guard<IO>,
    exchange: Exchange,
    state: &ConnectionState,
) -> hyper::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &entry.front.limits;
    let header_bytes = u32::try_from(limits.header_bytes).unwrap_or(u32::MAX);
    let connection = http2::Builder::new(Streams::default())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(header_bytes)
        .keep_alive_interval(limits.h2_ping_interval)
        .keep_alive_timeout(limits.h2_ping_timeout)
        .serve_connection(TokioIo::new(io), exchange);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = entry.shutdown.draining() => {}
        () = idle(state, limits.idle) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        // A peer that keeps a stream's window shut would hold its answer for ever.
        () = idle(state, limits.idle) => Ok(()),
    }
}

/// Resolves after a whole `period` without a request or one being answered.
async fn idle(state: &ConnectionState, period: Duration) {
    loop {
        let before = state.requests();
        tokio::time::sleep(period).await;
        if state.requests() == before && !state.is_busy() {
            return;
        }
    }
}

/// The tasks of one connection's streams: they end with it.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut streams = self.0.lock();
        // A finished stream's result says nothing: its answer went to the connection.
        while let Some(_ended) = streams.try_join_next() {}
        streams.spawn(stream);
    }
}

/// Counts the connection as open while it lives.
struct OpenConnection(&'static str);

impl OpenConnection {
    fn new(protocol: Protocol) -> Self {
        metrics::connection_opened(protocol.as_str());
        Self(protocol.as_str())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        metrics::connection_closed(self.0);
    }
}
