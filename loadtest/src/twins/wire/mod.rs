//! The wire under the HTTP twins: listeners, TLS, and control over what a connection does next.
//!
//! One task owns a connection; a [`Link`] lets the judge of one request steer it (reset, drip,
//! GOAWAY, stream limit). Everything ends with the listener that accepted it.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::twins::stage::{Stage, Twin};

mod frames;
mod h1;
mod h2;
mod socket;
mod streams;

use socket::{Socket, SocketControl};
use streams::StreamBook;
pub(crate) use streams::StreamPolicy;

/// Most bytes of a request body that are read; providers refuse far smaller ones.
const BODY_BYTES_MAX: usize = 1 << 20;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const H2: &[u8] = b"h2";

/// What a listener serves.
pub(crate) struct Port {
    pub(crate) twin: Arc<dyn Twin>,
    pub(crate) stage: Arc<Stage>,
    /// May be replaced while connections come in.
    pub(crate) tls: Option<Arc<RwLock<Arc<ServerConfig>>>>,
    pub(crate) streams: StreamPolicy,
}

/// What happened on a listener below its requests.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) connections: AtomicU64,
    pub(crate) streams_refused: AtomicU64,
    /// Most bytes of an endless body that one connection took.
    pub(crate) flooded_max: AtomicU64,
}

/// A listener at work; dropping it ends it and its connections.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) traffic: Arc<Traffic>,
    state: watch::Sender<State>,
    tls: Option<Arc<RwLock<Arc<ServerConfig>>>>,
    task: AbortHandle,
}

/// How a listener treats its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    /// Connections are reset, those that exist too.
    Down,
    /// Connections are taken and kept, but nothing is read or sent any more.
    Frozen,
}

/// What the connections of a listener watch.
#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// How often the listener went down: a connection of before is gone, also if the listener is up
    /// again before its task looks.
    downs: u64,
}

impl Listener {
    /// Serves `port` on a bound listener.
    pub(crate) fn start(listener: TcpListener, port: Port) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let traffic = Arc::<Traffic>::default();
        let (state, watched) = watch::channel(State { mode: Mode::Up, downs: 0 });
        let tls = port.tls.clone();
        let serving = serve(listener, Arc::new(port), Arc::clone(&traffic), watched);
        let task = tokio::spawn(serving).abort_handle();
        Ok(Self { address, traffic, state, tls, task })
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.downs += u64::from(mode == Mode::Down);
        });
    }

    /// From the next connection on; a listener in clear text has no certificate.
    pub(crate) fn set_tls(&self, config: Arc<ServerConfig>) {
        if let Some(tls) = &self.tls {
            *tls.write() = config;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    port: Arc<Port>,
    traffic: Arc<Traffic>,
    state: watch::Receiver<State>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    traffic.connections.fetch_add(1, Ordering::Relaxed);
                    let (port, traffic) = (Arc::clone(&port), Arc::clone(&traffic));
                    connections.spawn(serve_connection(tcp, port, traffic, state.clone()));
                }
                // Out of descriptors: without a pause this would spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(
    tcp: TcpStream,
    port: Arc<Port>,
    traffic: Arc<Traffic>,
    mut state: watch::Receiver<State>,
) {
    let downs = state.borrow().downs;
    // Without it small answers wait for the peer's delayed acknowledgement.
    tcp.set_nodelay(true).ok();
    let control = Arc::<SocketControl>::default();
    let socket = Socket::new(tcp, Arc::clone(&control));
    let counted = Arc::clone(&traffic);
    let mut serving = pin!(serve_socket(socket, port, traffic, &control));
    loop {
        let now = *state.borrow_and_update();
        match now.mode {
            _ if now.downs != downs => {
                control.reset();
                break;
            }
            Mode::Down => {
                control.reset();
                break;
            }
            // Not polled, so that nothing moves. An error means that the listener is gone.
            Mode::Frozen => {
                if state.changed().await.is_err() {
                    control.reset();
                    break;
                }
            }
            Mode::Up => tokio::select! {
                () = &mut serving => break,
                () = control.reset_asked() => break,
                changed = state.changed() => if changed.is_err() {
                    control.reset();
                    break;
                },
            },
        }
    }
    counted.flooded_max.fetch_max(control.flooded(), Ordering::Relaxed);
    control.close();
}

async fn serve_socket(
    socket: Socket,
    port: Arc<Port>,
    traffic: Arc<Traffic>,
    control: &Arc<SocketControl>,
) {
    let Some(config) = &port.tls else {
        return h1::serve(socket, port, control).await;
    };
    let config = Arc::clone(&config.read());
    let handshake = TlsAcceptor::from(config).accept(socket);
    let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE_MAX, handshake).await else { return };
    if tls.get_ref().1.alpn_protocol() == Some(H2) {
        h2::serve(tls, port, traffic, control).await;
    } else {
        h1::serve(tls, port, control).await;
    }
}

/// The judge's hold on the connection, and the stream, that a request came by.
#[derive(Clone)]
pub(crate) struct Link {
    socket: Arc<SocketControl>,
    stream: Option<(Arc<StreamBook>, u32)>,
}

impl Link {
    /// Resets the TCP connection.
    pub(crate) fn reset(&self) {
        self.socket.reset();
    }

    /// From now on sends one byte in each so many milliseconds.
    pub(crate) fn drip(&self, ms_per_byte: u64) {
        self.socket.drip(ms_per_byte);
    }

    /// Announces GOAWAY after the last answered stream; an HTTP/1 connection is reset.
    pub(crate) fn go_away(&self, reason: Option<String>) {
        match &self.stream {
            Some((book, _)) => book.leave(reason),
            None => self.reset(),
        }
    }

    /// Announces a number of concurrent streams; HTTP/1 has none.
    pub(crate) fn limit_streams(&self, streams: u32) {
        if let Some((book, _)) = &self.stream {
            book.want_limit(streams);
        }
    }

    /// Announces how much of each body may come; HTTP/1 has no such limit.
    pub(crate) fn limit_window(&self, bytes: u32) {
        if let Some((book, _)) = &self.stream {
            book.want_window(bytes);
        }
    }

    /// From now on counts what the peer lets us write, with a small buffer of our own before it.
    pub(crate) fn flood(&self) {
        self.socket.flood();
    }

    /// Tells whether the request proved who sent it, which may change the stream limit.
    pub(crate) fn credentials(&self, good: bool) {
        if let Some((book, _)) = &self.stream {
            book.credentials(good);
        }
    }

    /// Claims the request as processed; false when a GOAWAY already said that it is not.
    pub(crate) fn commit(&self) -> bool {
        self.stream.as_ref().is_none_or(|(book, stream)| book.commit(*stream))
    }
}
