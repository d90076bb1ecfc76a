//! The Redis servers behind a gateway under torture, and the way there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::clock::Clock;
use super::gateway::tool;
use super::mount::Mount;
use super::proxy::{Proxy, Way};
use super::stage::Stage;
use super::{Trouble, ask};
use crate::redis::{Cluster, Persistence, RedisTrouble, Reply, Server, ServerOptions};

/// Shards of a run: few, so that every one has work.
const SHARDS: u64 = 16;
/// Without it a primary that lost its replica goes on alone.
pub(super) const FLOOR: &str = "min-replicas-to-write 1";

/// How Redis is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RedisShape {
    pub(super) is_cluster: bool,
    pub(super) persistence: Persistence,
    pub(super) lines: Vec<String>,
    /// `store.redis.replicas`.
    pub(super) replicas: u32,
    /// `store.redis.outbox`: class D3.
    pub(super) has_outbox: bool,
    /// Whether a proxy stands before each node of a cluster, for clients and replicas alike; there
    /// is always one before a single server.
    pub(super) is_proxied: bool,
    /// Size of a small file system of its own for its files.
    pub(super) tmpfs_mib: Option<u64>,
    /// Size of an ext4 of its own, whose power can be cut, for its files.
    pub(super) ext4_mib: Option<u64>,
    /// Whether it has a wall clock of its own.
    pub(super) has_clock: bool,
}

impl RedisShape {
    /// The class that the gateway is to tell.
    pub(super) fn class(&self) -> &'static str {
        let has_floor = self.lines.iter().any(|line| line == FLOOR);
        match self.persistence {
            _ if self.has_outbox => "D3",
            Persistence::None | Persistence::Never => "D0",
            Persistence::EverySecond => "D1",
            Persistence::Always if self.replicas > 0 && has_floor => "D2+R",
            Persistence::Always => "D2",
        }
    }
}

/// Servers at work; killed when dropped.
pub(super) struct RedisSite {
    single: Option<Server>,
    cluster: Option<Cluster>,
    /// Before a single server, or each node of a cluster.
    proxies: Vec<Proxy>,
    settings: Vec<String>,
    clock: Option<Clock>,
    /// The last field: it goes after the servers.
    mount: Option<Mount>,
}

impl From<RedisTrouble> for Trouble {
    fn from(trouble: RedisTrouble) -> Self {
        match trouble {
            RedisTrouble::Start(_) => Self::Missing(trouble.to_string()),
            _ => Self::Setup(trouble.to_string()),
        }
    }
}

/// Servers are asked and started by calls that wait: nothing else of this thread does.
fn waiting<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// Readiness names the class that follows from how Redis is set.
pub(super) async fn expect_class(stage: &mut Stage) -> Result<(), Trouble> {
    let Some(redis) = &stage.shape.redis else { return Ok(()) };
    let class = redis.class();
    let told = ask::get(stage.gateway.admin, "/readyz", None).await;
    let (_, told) = told.map_err(Trouble::io("/readyz"))?;
    let told = String::from_utf8_lossy(&told).into_owned();
    let is_told = told.contains(&format!("\"durability\":\"{class}\""));
    stage.expect(is_told, || format!("readiness does not name class {class}: {told}"));
    stage.remarks.push(format!("class {class}"));
    Ok(())
}

fn takes_writes(node: &Server) -> bool {
    match node.ask(&["ROLE"]) {
        Ok(Reply::List(role)) => role.first().is_some_and(|word| word.text() == "master"),
        _ => false,
    }
}

impl RedisSite {
    pub(super) async fn start(shape: &RedisShape, dir: &Path, seed: u64) -> Result<Self, Trouble> {
        let at = dir.join("redis");
        let (mut mount, mut place) = (None, None::<PathBuf>);
        if let Some(mib) = shape.tmpfs_mib {
            mount = Some(Mount::tmpfs(at.clone(), mib).await?);
            place = Some(at);
        } else if let Some(mib) = shape.ext4_mib {
            std::fs::create_dir_all(&at).map_err(Trouble::io("the servers' directory"))?;
            mount = Some(Mount::ext4(&at, mib).await?);
            place = Some(at.join("store"));
        }
        let clock = match shape.has_clock {
            true => Some(Clock::build(&dir.join("clock")).await?),
            false => None,
        };
        let options = ServerOptions {
            persistence: shape.persistence,
            lines: shape.lines.clone(),
            place,
            env: clock.as_ref().map(Clock::variables).unwrap_or_default(),
            ..ServerOptions::default()
        };
        let (single, cluster, proxies, settings) = (None, None, Vec::new(), Vec::new());
        let mut site = Self { single, cluster, proxies, settings, clock, mount };
        let backend = if shape.is_cluster {
            site.cluster = Some(waiting(|| Cluster::start(&options))?);
            "redis-cluster"
        } else {
            site.single = Some(waiting(|| Server::start(options))?);
            "redis"
        };
        if shape.is_proxied || !shape.is_cluster {
            site.stand_before(seed).await?;
        }
        let urls = match &site.cluster {
            Some(cluster) => cluster.urls(),
            None => site.proxies.iter().map(|p| p.url().replace("https://", "redis://")).collect(),
        };
        let urls: Vec<_> = urls.iter().map(|url| format!("\"{url}\"")).collect();
        site.settings = vec![
            format!("store.backend={backend}"),
            format!("store.redis.urls=[{}]", urls.join(", ")),
            format!("store.redis.replicas={}", shape.replicas),
            format!("store.redis.outbox={}", shape.has_outbox),
            format!("store.shards={SHARDS}"),
            String::from("store.redis.lease=2s"),
        ];
        Ok(site)
    }

    async fn stand_before(&mut self, seed: u64) -> Result<(), Trouble> {
        let ports: Vec<_> = self.nodes().map(Server::port).collect();
        for port in ports {
            let to = SocketAddr::from(([127, 0, 0, 1], port));
            self.proxies.push(Proxy::before(&to.to_string(), seed).await?);
        }
        let Some(cluster) = &mut self.cluster else { return Ok(()) };
        for (node, proxy) in cluster.nodes_mut().iter_mut().zip(&self.proxies) {
            waiting(|| node.announce(proxy.port()))?;
        }
        waiting(|| cluster.wait_until_announced()).map_err(Trouble::from)
    }

    /// What the gateway is started with.
    pub(super) fn settings(&self) -> &[String] {
        &self.settings
    }

    /// The servers that run.
    fn nodes(&self) -> impl Iterator<Item = &Server> {
        let nodes = self.cluster.as_ref().map_or(&[][..], Cluster::nodes);
        self.single.iter().chain(nodes).filter(|node| node.pid().is_some())
    }

    fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Server> {
        let nodes = self.cluster.as_mut().map_or(&mut [][..], Cluster::nodes_mut);
        self.single.iter_mut().chain(nodes)
    }

    /// Spoils the way to every server, or clears it.
    pub(super) fn way(&self, way: Way) {
        for proxy in &self.proxies {
            proxy.set(way);
        }
    }

    /// Sets the wall clock of all servers off by so much.
    pub(super) fn set_clock(&self, offset_ms: i64) -> Result<(), Trouble> {
        let missing = || Trouble::Setup(String::from("the servers have no clock of their own"));
        self.clock.as_ref().ok_or_else(missing)?.set(offset_ms)
    }

    /// The one server.
    pub(super) fn server(&mut self) -> Result<&mut Server, Trouble> {
        let missing = || Trouble::Setup(String::from("the row has no single server"));
        self.single.as_mut().ok_or_else(missing)
    }

    pub(super) fn cluster(&mut self) -> Result<&mut Cluster, Trouble> {
        let missing = || Trouble::Setup(String::from("the row has no cluster"));
        self.cluster.as_mut().ok_or_else(missing)
    }

    /// Asks each server that runs; answers the last reply.
    pub(super) fn ask(&self, parts: &[&str]) -> Result<Reply, Trouble> {
        self.ask_those(parts, |_| true).map(|mut replies| replies.pop().unwrap_or(Reply::Nil))
    }

    /// Asks each server that takes writes.
    pub(super) fn ask_primaries(&self, parts: &[&str]) -> Result<Vec<Reply>, Trouble> {
        self.ask_those(parts, takes_writes)
    }

    fn ask_those(
        &self,
        parts: &[&str],
        is_meant: impl Fn(&Server) -> bool,
    ) -> Result<Vec<Reply>, Trouble> {
        waiting(|| {
            let meant = self.nodes().filter(|node| is_meant(node));
            meant.map(|node| node.ask(parts).map_err(Trouble::from)).collect()
        })
    }

    /// A server that takes writes: the single one, or the first that says so.
    pub(super) fn one_primary(&self) -> Result<&Server, Trouble> {
        let missing = || Trouble::Setup(String::from("no server takes writes"));
        waiting(|| self.nodes().find(|node| takes_writes(node))).ok_or_else(missing)
    }

    /// Where the servers keep their files.
    pub(super) fn place(&self) -> Result<PathBuf, Trouble> {
        Ok(self.one_primary()?.dir().to_owned())
    }

    /// Kills every server.
    pub(super) fn kill_all(&mut self) {
        self.nodes_mut().for_each(Server::kill);
    }

    /// Starts every server again.
    pub(super) fn restart_all(&mut self) -> Result<(), Trouble> {
        waiting(|| {
            self.nodes_mut().try_for_each(Server::restart_mended)?;
            match &self.cluster {
                Some(cluster) => cluster.wait_until_whole(),
                None => Ok(()),
            }
        })
        .map_err(Trouble::from)
    }

    pub(super) fn kill(&mut self) -> Result<(), Trouble> {
        self.server()?.kill();
        Ok(())
    }

    /// Starts the one server again.
    pub(super) fn restart(&mut self) -> Result<(), Trouble> {
        let server = self.server()?;
        waiting(|| server.restart_mended()).map_err(Trouble::from)
    }

    /// Whether the one server comes up with the files it has.
    pub(super) fn comes_up(&mut self) -> Result<bool, Trouble> {
        let server = self.server()?;
        match waiting(|| server.restart()) {
            Ok(()) => Ok(true),
            Err(RedisTrouble::Ended { .. } | RedisTrouble::NotReady { .. }) => Ok(false),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// What the servers have written is on their disk.
    pub(super) async fn sync(&self) -> Result<(), Trouble> {
        let place = self.place()?.to_string_lossy().into_owned();
        tool(&["sync", "-f", &place]).await.map(drop)
    }

    /// The power fails under all servers.
    pub(super) async fn cut_power(&mut self) -> Result<(), Trouble> {
        let Some(mount) = &self.mount else {
            return Err(Trouble::Setup(String::from("the row has no disk of its own")));
        };
        mount.shut_down().await?;
        let nodes = self.cluster.as_mut().map_or(&mut [][..], Cluster::nodes_mut);
        self.single.iter_mut().chain(nodes).for_each(Server::kill);
        mount.again().await
    }
}
