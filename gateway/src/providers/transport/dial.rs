//! Opens one connection: resolve, connect to exactly those addresses, TLS, each with a deadline.

use super::{Deadlines, Failure, Origin, Resolve, ResolveError};
use crate::providers::tls::Protocol;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

/// A connection in clear text or TLS.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}
pub(super) type Io = TokioIo<Box<dyn Wire>>;

/// How to reach servers: resolver, TLS settings, protocol and deadlines.
#[derive(Clone, Debug)]
pub struct Dialer {
    pub resolver: Arc<dyn Resolve>,
    pub tls: Arc<ClientConfig>,
    pub protocol: Protocol,
    pub deadlines: Deadlines,
}

impl Dialer {
    /// Connects to `origin`. `turn` rotates the address list, so that several connections spread
    /// over what the name offers.
    pub(super) async fn dial(&self, origin: &Origin, turn: usize) -> Result<Io, Failure> {
        let by = Instant::now() + self.deadlines.connect;
        let mut addresses = self.addresses(origin, by).await?;
        let turns = turn.checked_rem(addresses.len()).unwrap_or(0);
        addresses.rotate_left(turns);
        let tcp = connect(&addresses, by).await?;
        if tcp.set_nodelay(true).is_err() {
            return Err(Failure::not_sent("connect"));
        }
        if !origin.is_secure() {
            return Ok(TokioIo::new(Box::new(tcp)));
        }
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let handshake = connector.connect(origin.server_name(), tcp);
        let stream = timeout(self.deadlines.tls, handshake)
            .await
            .map_err(|_| Failure::not_sent("tls"))?
            .map_err(|e| Failure::not_sent_because("tls", &e))?;
        let chosen = stream.get_ref().1.alpn_protocol();
        // HTTP/2 needs the peer's word; HTTP/1.1 is what a peer without ALPN speaks.
        if self.protocol == Protocol::Http2 && chosen != Some(self.protocol.alpn()) {
            let detail = Some(String::from("the server does not offer HTTP/2"));
            return Err(Failure::NotSent { cause: "tls", detail });
        }
        Ok(TokioIo::new(Box::new(stream)))
    }

    async fn addresses(&self, origin: &Origin, by: Instant) -> Result<Vec<SocketAddr>, Failure> {
        match timeout_at(by, self.resolver.resolve(origin.host(), origin.port())).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(ResolveError::Blocked)) => Err(Failure::Blocked),
            Ok(Err(ResolveError::Failed(e))) => Err(Failure::not_sent_because("dns", &e)),
            Err(_) => Err(Failure::not_sent("dns")),
        }
    }
}

/// The first address that answers; each gets its share of what is left of the time.
pub(in crate::providers) async fn connect(
    addresses: &[SocketAddr],
    by: Instant,
) -> Result<TcpStream, Failure> {
    let mut last = Failure::not_sent("connect");
    for (tried, address) in addresses.iter().enumerate() {
        let left = addresses.len().saturating_sub(tried);
        let share = by.saturating_duration_since(Instant::now())
            / u32::try_from(left).unwrap_or(u32::MAX).max(1);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(e)) => last = Failure::not_sent_because("connect", &e),
            Err(_) => last = Failure::not_sent("connect"),
        }
    }
    Err(last)
}
