//! Where a customer's URL may lead: the guard against requests into our own network.
//!
//! A URL is parsed once (WHATWG rules, so that `127.1`, `0x7f000001` or `①②⑦.⓪.⓪.①` are what a
//! resolver would make of them), its names are resolved here, every address is judged, and the
//! connection goes to exactly the judged addresses. Each new connection is judged again, so a
//! name that changes its mind between check and use gains nothing.

mod address;
#[cfg(test)]
mod tests;

pub use address::{Reach, reach};

use crate::BoxFuture;
use crate::providers::transport::{NameCache, Resolve, ResolveError, SystemResolver};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use url::{Host, Url};

/// Longest URL accepted, in bytes.
pub const URL_BYTES_MAX: usize = 2048;

/// Ports above 1023 where services listen that must never get a request of ours.
const PORTS_DENIED: [u16; 44] = [
    1433, 1434, 1521, 1719, 1720, 1723, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 3659, 4045,
    4190, 4369, 5060, 5061, 5432, 5672, 5984, 6000, 6379, 6380, 6443, 6566, 7000, 7001, 9042, 9092,
    9200, 9300, 10250, 10255, 11211, 15672, 26379, 27017, 27018, 27019, 50070, 61616,
];

/// Name endings that only resolve inside somebody's network, and services whose names spell the
/// address they lead to.
const SUFFIXES_DENIED: [&str; 17] = [
    "localhost",
    "localdomain",
    "local",
    "lan",
    "internal",
    "intranet",
    "home.arpa",
    "onion",
    "nip.io",
    "sslip.io",
    "xip.io",
    "localtest.me",
    "lvh.me",
    "vcap.me",
    "lacolhost.com",
    "localho.st",
    "rbndr.us",
];

/// What a provider allows beyond the default of public `https` targets.
#[derive(Clone, Debug, Default)]
pub struct GuardPolicy {
    /// Also `http`.
    pub allow_http: bool,
    /// Also this machine (127.0.0.0/8, ::1, `localhost`), on any port. Other private ranges stay
    /// blocked.
    pub allow_loopback: bool,
    /// Our own public names, so that a webhook cannot point back at us.
    pub own_hosts: Vec<String>,
    /// Ports that we listen on: closed on every address of this machine.
    pub own_ports: Vec<u16>,
}

/// Why a target is refused. The texts are fixed: they reach customers and tell nothing about what
/// an address is or whether something listens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    #[error("the URL is longer than 2048 bytes")]
    TooLong,
    #[error("the URL cannot be parsed")]
    Malformed,
    #[error("the URL must use https")]
    Scheme,
    #[error("the URL must not carry a user name or password")]
    Userinfo,
    #[error("the port is not allowed: use 443 or one above 1023 that no other protocol owns")]
    Port,
    #[error("the host name is not a public one")]
    Name,
    #[error("the host is not a public address")]
    Address,
    #[error("the host name cannot be resolved")]
    Unresolved,
}

/// Judges URLs and the addresses behind them.
#[derive(Clone, Debug)]
pub struct Guard {
    policy: Arc<GuardPolicy>,
    resolver: Arc<dyn Resolve>,
}

impl Guard {
    /// A guard that asks the machine's resolver.
    #[must_use]
    pub fn new(policy: GuardPolicy) -> Self {
        Self::with_resolver(policy, Arc::new(NameCache::fresh(Arc::new(SystemResolver))))
    }

    /// A guard that asks `resolver`.
    #[must_use]
    pub fn with_resolver(policy: GuardPolicy, resolver: Arc<dyn Resolve>) -> Self {
        Self { policy: Arc::new(policy), resolver }
    }

    /// Judges everything about `text` that needs no resolver. For subscription time, and again
    /// before each send: the policy may have changed since.
    pub fn check_url(&self, text: &str) -> Result<Url, GuardError> {
        if text.len() > URL_BYTES_MAX {
            return Err(GuardError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| GuardError::Malformed)?;
        match url.scheme() {
            "https" => {}
            "http" if self.policy.allow_http => {}
            _ => return Err(GuardError::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(GuardError::Userinfo);
        }
        let port = url.port_or_known_default().ok_or(GuardError::Port)?;
        let address: Option<IpAddr> = match url.host().ok_or(GuardError::Malformed)? {
            Host::Domain(_) => None,
            Host::Ipv4(v4) => Some(v4.into()),
            Host::Ipv6(v6) => Some(v6.into()),
        };
        let reach = match (address, url.host_str()) {
            (Some(address), _) if !self.admits(SocketAddr::new(address, port)) => Reach::Blocked,
            (Some(address), _) => reach(address),
            (None, name) => self.judge_name(name.unwrap_or_default())?,
        };
        if !self.allows(reach) {
            return Err(GuardError::Address);
        }
        if reach != Reach::Loopback && !port_allowed(port) {
            return Err(GuardError::Port);
        }
        Ok(url)
    }

    /// The addresses a connection to `url` may use: all that its host has now, if all are allowed.
    pub async fn resolve_pinned(&self, url: &Url) -> Result<Vec<SocketAddr>, GuardError> {
        let url = self.check_url(url.as_str())?;
        let port = url.port_or_known_default().ok_or(GuardError::Port)?;
        let host = match url.host().ok_or(GuardError::Malformed)? {
            Host::Ipv4(v4) => return Ok(vec![SocketAddr::new(v4.into(), port)]),
            Host::Ipv6(v6) => return Ok(vec![SocketAddr::new(v6.into(), port)]),
            Host::Domain(name) => name.to_owned(),
        };
        self.resolve(&host, port).await.map_err(|e| match e {
            ResolveError::Blocked => GuardError::Address,
            ResolveError::Failed(_) => GuardError::Unresolved,
        })
    }

    fn allows(&self, reach: Reach) -> bool {
        match reach {
            Reach::Public => true,
            Reach::Loopback => self.policy.allow_loopback,
            Reach::Blocked => false,
        }
    }

    fn admits(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        self.allows(reach(ip)) && !(self.policy.own_ports.contains(&address.port()) && is_here(ip))
    }

    /// `Loopback` for this machine's own names, `Public` for names that may be resolved.
    fn judge_name(&self, name: &str) -> Result<Reach, GuardError> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let under = |suffix: &str| {
            name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if self.policy.allow_loopback && under("localhost") {
            return Ok(Reach::Loopback);
        }
        let denied = !name.contains('.')
            || SUFFIXES_DENIED.iter().any(|suffix| under(suffix))
            || self.policy.own_hosts.iter().any(|own| own.eq_ignore_ascii_case(&name));
        if denied { Err(GuardError::Name) } else { Ok(Reach::Public) }
    }
}

impl Resolve for Guard {
    /// Resolves `host` and refuses the whole answer if any address in it is not allowed: a mixed
    /// answer is what a rebinding attack looks like.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        Box::pin(async move {
            let addresses = self.resolver.resolve(host, port).await?;
            if !addresses.iter().all(|address| self.admits(*address)) {
                return Err(ResolveError::Blocked);
            }
            Ok(addresses)
        })
    }
}

/// True for an address of this machine: only such an address can be bound.
fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

fn port_allowed(port: u16) -> bool {
    match port {
        80 | 443 => true,
        0..1024 => false,
        _ => !PORTS_DENIED.contains(&port),
    }
}
