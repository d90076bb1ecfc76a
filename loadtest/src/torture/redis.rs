//! The Redis servers behind a gateway under torture, and the way there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Trouble;
use super::mount::Mount;
use super::proxy::{Proxy, Way};
use crate::redis::{Cluster, Persistence, RedisTrouble, Reply, Server, ServerOptions};

/// Shards of a run: few, so that every one has work.
const SHARDS: u64 = 16;

/// How Redis is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RedisShape {
    pub(super) is_cluster: bool,
    pub(super) persistence: Persistence,
    pub(super) lines: Vec<String>,
    /// `store.redis.replicas`.
    pub(super) replicas: u32,
    /// Size of a small file system of its own for its files.
    pub(super) tmpfs_mib: Option<u64>,
    /// Size of an ext4 of its own, whose power can be cut, for its files.
    pub(super) ext4_mib: Option<u64>,
}

/// Servers at work; killed when dropped.
pub(super) struct RedisSite {
    single: Option<Server>,
    cluster: Option<Cluster>,
    /// Before a single server.
    proxy: Option<Proxy>,
    replicas: u32,
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
        let options = ServerOptions {
            persistence: shape.persistence,
            lines: shape.lines.clone(),
            place,
            ..ServerOptions::default()
        };
        let mut site =
            Self { single: None, cluster: None, proxy: None, replicas: shape.replicas, mount };
        if shape.is_cluster {
            site.cluster = Some(waiting(|| Cluster::start(&options))?);
        } else {
            let server = waiting(|| Server::start(options))?;
            let to = SocketAddr::from(([127, 0, 0, 1], server.port()));
            site.proxy = Some(Proxy::before(&to.to_string(), seed).await?);
            site.single = Some(server);
        }
        Ok(site)
    }

    /// What the gateway is started with.
    pub(super) fn settings(&self) -> Vec<String> {
        let (backend, urls) = match (&self.cluster, &self.proxy) {
            (Some(cluster), _) => ("redis-cluster", cluster.urls()),
            (None, proxy) => {
                let urls = proxy.iter().map(|proxy| proxy.url().replace("https://", "redis://"));
                ("redis", urls.collect())
            }
        };
        let urls: Vec<_> = urls.iter().map(|url| format!("\"{url}\"")).collect();
        vec![
            format!("store.backend={backend}"),
            format!("store.redis.urls=[{}]", urls.join(", ")),
            format!("store.redis.replicas={}", self.replicas),
            format!("store.shards={SHARDS}"),
            String::from("store.redis.lease=2s"),
        ]
    }

    /// Spoils the way to a single server, or clears it.
    pub(super) fn way(&self, way: Way) {
        if let Some(proxy) = &self.proxy {
            proxy.set(way);
        }
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

    /// Asks the one server, or each of a cluster that runs; answers the last reply.
    pub(super) fn ask(&self, parts: &[&str]) -> Result<Reply, Trouble> {
        let nodes = self.cluster.as_ref().map_or(&[][..], Cluster::nodes);
        let servers = self.single.iter().chain(nodes).filter(|node| node.pid().is_some());
        let mut last = Reply::Nil;
        waiting(|| {
            for server in servers {
                last = server.ask(parts)?;
            }
            Ok(last)
        })
    }

    pub(super) fn kill(&mut self) -> Result<(), Trouble> {
        self.server()?.kill();
        Ok(())
    }

    /// Starts the one server again.
    pub(super) fn restart(&mut self) -> Result<(), Trouble> {
        let server = self.server()?;
        waiting(|| server.restart()).map_err(Trouble::from)
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

    /// The power fails under the one server.
    pub(super) async fn cut_power(&mut self) -> Result<(), Trouble> {
        let Some(mount) = &self.mount else {
            return Err(Trouble::Setup(String::from("the row has no disk of its own")));
        };
        mount.shut_down().await?;
        if let Some(server) = &mut self.single {
            server.kill();
        }
        mount.again().await
    }
}
