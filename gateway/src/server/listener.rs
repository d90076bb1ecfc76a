//! The accept loop: a permit before each accept, a cap for each peer, and one deadline at the end.

use super::admission::Admission;
use super::connection::{Entry, serve_connection};
use super::exchange::Front;
use super::peers::Peers;
use super::{ServerLimits, Service};
use crate::lifecycle::Shutdown;
use crate::telemetry::metrics;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// Bounds of the pause after a failed accept, which doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often the in-flight gauge is set.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);

/// Serves `listener` until `shutdown` drains and all connections have ended.
///
/// With `tls` every connection must speak TLS; without it HTTP/1.1 and HTTP/2 with prior knowledge
/// are told apart by their first bytes. At the drain the listener closes, HTTP/1 connections end
/// after their current request, HTTP/2 connections get GOAWAY, and what is left after
/// `limits.drain`, or at an abort, is closed by force. Accept errors never end the loop.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    limits: ServerLimits,
    service: Arc<dyn Service>,
    shutdown: Shutdown,
) {
    let name = limits.name;
    let deadline = limits.drain;
    let gate = Gate {
        slots: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
        peers: Peers::new(limits.connections_per_peer),
        inflight: metrics::InflightMetrics::new(name),
        entry: Arc::new(Entry {
            handshakes: Semaphore::new(limits.handshakes.min(Semaphore::MAX_PERMITS)),
            tls: tls.map(TlsAcceptor::from),
            shutdown: shutdown.clone(),
            front: Arc::new(Front {
                admission: Admission::new(limits.max_inflight),
                limits,
                service,
            }),
        }),
    };
    let mut connections = JoinSet::new();
    tokio::select! {
        () = shutdown.draining() => {}
        () = accept_all(&listener, &gate, &mut connections) => {}
    }
    drop(listener);
    tracing::info!(listener = name, connections = connections.len(), "draining");
    end_all(connections, Instant::now() + deadline, &shutdown).await;
    gate.inflight.set(0);
}

/// What a new connection passes.
struct Gate {
    slots: Arc<Semaphore>,
    peers: Peers,
    inflight: metrics::InflightMetrics,
    entry: Arc<Entry>,
}

/// Accepts until dropped.
async fn accept_all(listener: &TcpListener, gate: &Gate, connections: &mut JoinSet<()>) {
    let mut pause = PAUSE_MIN;
    let mut ticks = interval(GAUGE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(ended) = connections.join_next() => report(&ended),
            _ = ticks.tick() => gate.inflight.set(gate.entry.front.admission.inflight()),
            (stream, peer, slot) = accept_next(listener, &gate.slots, &mut pause) => {
                let Some(place) = gate.peers.try_place(peer.ip()) else {
                    metrics::connection_refused("per_peer");
                    continue;
                };
                let entry = Arc::clone(&gate.entry);
                connections.spawn(async move {
                    serve_connection(entry, stream, peer).await;
                    drop((place, slot));
                });
            }
        }
    }
}

/// The next connection, with the permit it holds until its end. Safe to drop.
async fn accept_next(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    pause: &mut Duration,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
        // Nothing closes the semaphore.
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                *pause = PAUSE_MIN;
                return (stream, peer, slot);
            }
            Err(error) if is_of_one_connection(&error) => metrics::accept_failed(),
            Err(error) => {
                metrics::accept_failed();
                tracing::warn!(%error, "cannot accept connections, retrying");
                sleep(*pause).await;
                *pause = (*pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// True if the error concerns only the connection that was about to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Waits for the connections to end, then ends them.
async fn end_all(mut connections: JoinSet<()>, deadline: Instant, shutdown: &Shutdown) {
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(&ended);
        }
    };
    let is_drained = tokio::select! {
        biased;
        drained = timeout_at(deadline, drained) => drained.is_ok(),
        () = shutdown.aborted() => false,
    };
    if !is_drained {
        tracing::warn!(connections = connections.len(), "closing connections by force");
        connections.shutdown().await;
    }
}

fn report(ended: &Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        metrics::panicked("connection");
        tracing::error!(%error, "connection panicked");
    }
}
