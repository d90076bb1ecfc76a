//! Opens one connection: resolve, connect to exactly those addresses, TLS, each with a deadline.

use super::{Deadlines, Failure, Origin, Resolve, ResolveError};
use crate::providers::tls::Protocol;
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

/// A connection in clear text or TLS.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl fmt::Debug for dyn Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

/// Longest a name may take to resolve.
const RESOLVE_MAX: Duration = Duration::from_secs(5);
/// Addresses of a name that are tried, however many it has.
const ADDRESSES_MAX: usize = 8;
/// Bytes the peer does not acknowledge for this long end the connection (RFC 5482).
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);
/// An idle connection is asked by TCP whether it still exists.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

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
    pub(super) async fn dial(
        &self,
        origin: &Origin,
        turn: usize,
    ) -> Result<Box<dyn Wire>, Failure> {
        let mut addresses = self.addresses(origin).await?;
        let turns = turn.checked_rem(addresses.len()).unwrap_or(0);
        addresses.rotate_left(turns);
        addresses.truncate(ADDRESSES_MAX);
        let tcp = connect(&addresses, Instant::now() + self.deadlines.connect).await?;
        tune(&tcp).map_err(|e| Failure::not_sent_because("connect", &e))?;
        if !origin.is_secure() {
            return Ok(Box::new(tcp));
        }
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let handshake = connector.connect(origin.server_name(), tcp);
        let stream = timeout(self.deadlines.tls, handshake)
            .await
            .map_err(|_| Failure::not_sent("tls"))?
            .map_err(|e| Failure::not_sent_because(tls_cause(&e), &e))?;
        let chosen = stream.get_ref().1.alpn_protocol();
        // HTTP/2 needs the peer's word; HTTP/1.1 is what a peer without ALPN speaks.
        if self.protocol == Protocol::Http2 && chosen != Some(self.protocol.alpn()) {
            let detail = Some(String::from("the server does not offer HTTP/2"));
            return Err(Failure::NotSent { cause: "tls", detail });
        }
        Ok(Box::new(stream))
    }

    async fn addresses(&self, origin: &Origin) -> Result<Vec<SocketAddr>, Failure> {
        match timeout(RESOLVE_MAX, self.resolver.resolve(origin.host(), origin.port())).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(ResolveError::Blocked)) => Err(Failure::Blocked),
            Ok(Err(ResolveError::Failed(e))) => Err(Failure::not_sent_because("dns", &e)),
            Err(_) => Err(Failure::not_sent("dns")),
        }
    }
}

fn tune(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE))
}

/// A certificate that is not right stays so for hours; a handshake may fail for many reasons.
fn tls_cause(error: &std::io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_)) => "tls_certificate",
        _ => "tls",
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
