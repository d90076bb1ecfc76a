//! The mail relay's twin: RFC 5321 with STARTTLS, implicit TLS and AUTH, and each recipient's copy
//! on record.
//!
//! Fault rules without `match` hit the answer to a whole message, as do those that match a
//! recipient. `match=` and one of the words in [`STAGES`] hits that step of the dialogue instead.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::stage::Stage;

mod message;
mod session;

pub use message::ReceivedMail;

use session::{Io, Session};

const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Steps of the dialogue a fault can name. `body` is the middle of a message, before its final
/// dot; `dot` is the answer to the whole message.
pub(crate) const STAGES: [&str; 9] =
    ["connect", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body", "dot"];

/// What the relay offers and asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmtpOptions {
    /// The certificate behind STARTTLS and the TLS listener.
    pub certificate: super::Certificate,
    /// Whether STARTTLS is offered. Without it AUTH is offered in clear text.
    pub starttls: bool,
    /// Whether mail is refused before a good AUTH.
    pub auth_required: bool,
    /// Whether addresses outside ASCII are taken.
    pub utf8: bool,
}

impl Default for SmtpOptions {
    fn default() -> Self {
        let certificate = super::Certificate::Good;
        Self { certificate, starttls: true, auth_required: false, utf8: true }
    }
}

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) stage: Arc<Stage>,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) options: SmtpOptions,
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The relay at work; dropping it ends it and its sessions.
#[derive(Debug)]
pub(crate) struct SmtpSink {
    pub(crate) address: SocketAddr,
    pub(crate) tls_address: SocketAddr,
    pub(crate) connections: Arc<AtomicU64>,
    tasks: [AbortHandle; 2],
}

impl SmtpSink {
    /// Serves clear text with STARTTLS on `plain` and TLS from the first byte on `tls`.
    pub(crate) fn start(plain: TcpListener, tls: TcpListener, relay: Relay) -> io::Result<Self> {
        let (address, tls_address) = (plain.local_addr()?, tls.local_addr()?);
        let connections = Arc::<AtomicU64>::default();
        let relay = Arc::new(relay);
        let serve = |listener, is_secure| {
            let serving = serve(listener, Arc::clone(&relay), is_secure, Arc::clone(&connections));
            tokio::spawn(serving).abort_handle()
        };
        let tasks = [serve(plain, false), serve(tls, true)];
        Ok(Self { address, tls_address, connections, tasks })
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn serve(
    listener: TcpListener,
    relay: Arc<Relay>,
    is_secure: bool,
    connections: Arc<AtomicU64>,
) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    connections.fetch_add(1, Ordering::Relaxed);
                    let session = converse(tcp, Arc::clone(&relay), is_secure);
                    // A client that breaks off ends its session, nothing else.
                    sessions.spawn(async move { session.await.ok() });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

async fn converse(tcp: TcpStream, relay: Arc<Relay>, is_secure: bool) -> io::Result<()> {
    // Without it small answers wait for the peer's delayed acknowledgement.
    tcp.set_nodelay(true)?;
    let tls = Arc::clone(&relay.tls);
    let io: Box<dyn Io> = if is_secure { secure(Box::new(tcp), tls).await? } else { Box::new(tcp) };
    Session::new(io, relay, is_secure).run().await
}

async fn secure(io: Box<dyn Io>, config: Arc<ServerConfig>) -> io::Result<Box<dyn Io>> {
    let handshake = TlsAcceptor::from(config).accept(io);
    Ok(Box::new(timeout(HANDSHAKE_MAX, handshake).await??))
}
