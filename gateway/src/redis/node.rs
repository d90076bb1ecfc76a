//! One Redis node: its connections, made when needed and made anew with a growing pause.

use super::class::Class;
use super::error::RedisError;
use super::options::RedisOptions;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, Pipeline, TlsCertificates, Value,
};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Connections for writes that wait for copies or the disk: each is held up by one such write at a
/// time.
const WRITE_LANES: usize = 4;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(1_000);

/// Host and port of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// Reads `host:port`; a cluster writes an IPv6 address without brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }

    pub(super) fn of(info: &ConnectionInfo) -> Option<Self> {
        match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some(Self { host: host.clone(), port: *port })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What a request does: reads are never held up by writes that wait for copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Read,
    Write,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Address,
    /// The address as errors show it.
    pub(super) name: String,
    info: ConnectionInfo,
    ca_pem: Option<Vec<u8>>,
    connect_timeout: Duration,
    timeout: Duration,
    read: Lane,
    writes: Vec<Lane>,
    turn: AtomicUsize,
}

impl Node {
    /// The node at `address`, reached as `info` says otherwise. Nothing is sent yet.
    pub(super) fn new(address: Address, info: &ConnectionInfo, options: &RedisOptions) -> Self {
        // Copies, or the disk, where a class is required that a server may have to be asked for.
        let waits = options.replicas > 0 || options.require >= Some(Class::D2);
        let lanes = if waits { WRITE_LANES } else { 1 };
        let mut login = info.redis_settings().clone();
        if let Some(user) = &options.user {
            login = login.set_username(user);
        }
        if let Some(password) = &options.password {
            login = login.set_password(password.reveal().trim_end_matches(['\r', '\n']));
        }
        let info = info.clone().set_redis_settings(login);
        let addr = match info.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: address.host.clone(),
                port: address.port,
                insecure,
                tls_params,
            },
            _ => ConnectionAddr::Tcp(address.host.clone(), address.port),
        };
        let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(options.timeout * 2);
        Self {
            name: address.to_string(),
            address,
            info: info.set_addr(addr).set_tcp_settings(tcp),
            ca_pem: options.ca_pem.clone(),
            connect_timeout: options.connect_timeout,
            timeout: options.timeout,
            read: Lane::default(),
            writes: (0..lanes).map(|_| Lane::default()).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Sends `pipe` and waits for all its replies; errors are among them.
    pub(super) async fn send(
        &self,
        kind: Kind,
        pipe: &Pipeline,
        extra: Duration,
    ) -> Result<Vec<Value>, RedisError> {
        let lane = self.lane(kind);
        let live = self.connection(lane).await?;
        let mut connection = live.connection.clone();
        let replies = connection.send_packed_commands(pipe, 0, pipe.len());
        let replies = match tokio::time::timeout(self.timeout + extra, replies).await {
            Ok(Ok(replies)) if replies.len() == pipe.len() => return Ok(replies),
            Ok(Ok(_)) => Err(String::from("replies are missing")),
            Ok(Err(error)) => Err(RedisError::describe(&error)),
            Err(_) => Err(String::from("timed out")),
        };
        // Whatever still comes on this connection answers requests nobody waits for.
        lane.drop_connection(live.number);
        replies.map_err(|what| RedisError::Unknown { node: self.name.clone(), what })
    }

    fn lane(&self, kind: Kind) -> &Lane {
        match kind {
            Kind::Read => &self.read,
            Kind::Write => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.writes.len().max(1);
                self.writes.get(turn).unwrap_or(&self.read)
            }
        }
    }

    async fn connection(&self, lane: &Lane) -> Result<Live, RedisError> {
        if let Some(live) = lane.live() {
            return Ok(live);
        }
        let mut pause = lane.dial.lock().await;
        if let Some(live) = lane.live() {
            return Ok(live);
        }
        pause.check(&self.name)?;
        match self.dial(Some(self.timeout * 2)).await {
            Ok(connection) => {
                *pause = Pause::default();
                Ok(lane.put(connection))
            }
            Err(error) => {
                pause.fail(&error);
                Err(error)
            }
        }
    }

    /// A new connection; without `timeout` it waits for replies for ever.
    pub(super) async fn dial(
        &self,
        timeout: Option<Duration>,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(timeout)
            .set_pipeline_buffer_size(256)
            .set_write_backpressure_boundary(256 * 1024);
        let failed = |error: redis::RedisError| RedisError::of_dial(&self.name, &error);
        let client = match &self.ca_pem {
            Some(pem) => {
                let roots = Some(pem.clone());
                let certificates = TlsCertificates { client_tls: None, root_cert: roots };
                Client::build_with_tls(self.info.clone(), certificates)
            }
            None => Client::open(self.info.clone()),
        };
        let client = client.map_err(failed)?;
        let dialled = client.get_multiplexed_async_connection_with_config(&config);
        dialled.await.map_err(failed)
    }
}

/// One connection that is made anew when it broke.
#[derive(Debug, Default)]
struct Lane {
    live: Mutex<Option<Live>>,
    dial: tokio::sync::Mutex<Pause>,
    made: AtomicU64,
}

#[derive(Clone, Debug)]
struct Live {
    connection: MultiplexedConnection,
    number: u64,
}

impl Lane {
    fn live(&self) -> Option<Live> {
        self.live.lock().clone()
    }

    fn put(&self, connection: MultiplexedConnection) -> Live {
        let live = Live { connection, number: self.made.fetch_add(1, Ordering::Relaxed) };
        *self.live.lock() = Some(live.clone());
        live
    }

    fn drop_connection(&self, number: u64) {
        let mut live = self.live.lock();
        if live.as_ref().is_some_and(|live| live.number == number) {
            *live = None;
        }
    }
}

/// The time between attempts to connect: grows at random, so that many do not come at once.
#[derive(Debug, Default)]
struct Pause {
    last: Option<(Instant, Duration, String)>,
}

impl Pause {
    fn check(&self, node: &str) -> Result<(), RedisError> {
        match &self.last {
            Some((until, _, what)) if *until > Instant::now() => {
                Err(RedisError::Unreachable { node: node.to_owned(), what: what.clone() })
            }
            _ => Ok(()),
        }
    }

    fn fail(&mut self, error: &RedisError) {
        let last = self.last.as_ref().map_or(PAUSE_MIN, |(_, length, _)| *length);
        let length = rand::random_range(PAUSE_MIN..=last * 3).min(PAUSE_MAX);
        let what = match error {
            RedisError::Unreachable { what, .. } => what.clone(),
            other => other.to_string(),
        };
        self.last = Some((Instant::now() + length, length, what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_a_cluster_writes_them() {
        let read = |text| Address::parse(text).map(|address| address.to_string());
        assert_eq!(read("127.0.0.1:7000").as_deref(), Some("127.0.0.1:7000"));
        assert_eq!(read("::1:7000").as_deref(), Some("::1:7000"));
        assert_eq!(read("[::1]:7000").as_deref(), Some("::1:7000"));
        assert_eq!(read("nowhere"), None);
    }

    #[test]
    fn the_pause_grows_and_stays_below_its_limit() {
        let error = RedisError::Loading;
        let mut pause = Pause::default();
        for _ in 0..200 {
            pause.fail(&error);
            let (_, length, _) = pause.last.as_ref().expect("a failure was noted");
            assert!((PAUSE_MIN..=PAUSE_MAX).contains(length), "{length:?}");
        }
        assert!(pause.check("here").is_err());
    }
}
