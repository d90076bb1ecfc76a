//! Journal and records of this process: files of its own, or Redis servers shared with others.

use super::nodes::Nodes;
use super::{AppError, auditing, build, pressure, shelf};
use crate::clock::Clock;
use crate::config::{Backend, Config, StoreSettings};
use crate::intake::{Admission, Vitals};
use crate::journal::Journal;
use crate::journal::disk::{DiskJournal, DiskOptions};
use crate::journal::redis::RedisJournal;
use crate::lifecycle::{Readiness, Shutdown, TaskKind, Tasks};
use crate::model::ShardId;
use crate::redis::Redis;
use crate::rules::Shelf;
use crate::store::Store;
use crate::store::disk::DiskStore;
use crate::store::redis::RedisStore;
use crate::telemetry::metrics;
use crate::vault::Vault;
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What keeps notifications and records.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) store: Arc<dyn Store>,
    own: Own,
}

/// What only one of the backends has.
#[derive(Clone, Debug)]
enum Own {
    Disk(Arc<DiskJournal>),
    Redis {
        redis: Redis,
        journal: Arc<RedisJournal>,
        /// Once this process sends.
        nodes: Option<Nodes>,
    },
}

impl Kept {
    /// Opens what `store.backend` names.
    pub(super) async fn open(
        config: &Config,
        salvages: bool,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        match config.store.backend {
            Backend::Embedded => Self::open_disk(config.clone(), salvages, Arc::clone(clock)).await,
            Backend::Redis | Backend::RedisCluster => Self::open_redis(config, clock).await,
        }
    }

    async fn open_disk(
        config: Config,
        salvages: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        tokio::task::spawn_blocking(move || {
            let dir = config.store.dir.as_path();
            let options = DiskOptions { salvages, ..build::journal_options(&config) };
            let journal = Arc::new(DiskJournal::open(&dir.join("journal"), options, clock)?);
            let vault = Vault::load_or_create(&config.vault_path())?;
            let store = Arc::new(DiskStore::open_with(dir, vault)?);
            Ok(Self { journal: Arc::clone(&journal) as _, store, own: Own::Disk(journal) })
        })
        .await?
    }

    async fn open_redis(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, AppError> {
        // The journal on disk makes it otherwise; keys and tokens of providers lie there too.
        let dir = config.store.dir.clone();
        std::fs::create_dir_all(&dir).map_err(|source| AppError::Dir { dir, source })?;
        let redis = Redis::open(&build::redis_options(config)?).await?;
        redis.settle_layout(config.store.shards).await?;
        let options = build::redis_journal_options(config, &redis);
        let journal = RedisJournal::open(redis.clone(), options, Arc::clone(clock)).await?;
        let journal = Arc::new(journal);
        let path = config.vault_path();
        let vault = tokio::task::spawn_blocking(move || Vault::load_or_create(&path)).await??;
        let store = RedisStore::open(redis.clone(), config.store.shards, vault).await?;
        let kept = Arc::clone(&journal) as _;
        let own = Own::Redis { redis, journal, nodes: None };
        Ok(Self { journal: kept, store: Arc::new(store), own })
    }

    /// Keeps what is accepted on this process's disk, too, if the configuration says so.
    pub(super) async fn keep(
        &self,
        config: &Config,
        clock: &Arc<dyn Clock>,
    ) -> Result<(), AppError> {
        if let Own::Redis { journal, .. } = &self.own
            && config.store.redis.outbox
        {
            let (dir, clock) = (config.store.dir.join("outbox"), Arc::clone(clock));
            let (local, options) = build::outbox_options(config);
            let open = move || DiskJournal::open(&dir, local, clock);
            journal.keep_in(tokio::task::spawn_blocking(open).await??, options);
        }
        Ok(())
    }

    /// Where deployed rules are kept.
    pub(super) fn shelf(&self, config: &Config) -> Arc<dyn Shelf> {
        match &self.own {
            Own::Disk(_) => Arc::new(shelf::Files::under(config.store.dir.join("rules"))),
            Own::Redis { redis, .. } => Arc::new(shelf::Shared::on(redis.clone())),
        }
    }

    /// Takes this process's share of the work from now on.
    pub(super) fn join(&mut self, config: &Config) {
        if let Own::Redis { redis, journal, nodes } = &mut self.own {
            let options = build::owner_options(config);
            *nodes = Some(Nodes::join(redis, journal, options));
        }
    }

    /// What the operator may audit while the process runs.
    pub(super) fn audit(&self) -> Option<crate::admin::Audit> {
        match &self.own {
            Own::Disk(journal) => Some(build::audit(Arc::clone(journal))),
            Own::Redis { redis, journal, .. } => {
                Some(auditing::while_running(redis.clone(), journal.shards()))
            }
        }
    }

    /// The durability class now: on Redis its settings can change while we run.
    pub(super) fn durability(&self) -> &'static str {
        match &self.own {
            Own::Disk(journal) => journal.durability(),
            Own::Redis { redis, journal, .. } => match journal.durability() {
                "D3" => "D3",
                _ => redis.class().as_str(),
            },
        }
    }

    /// Watches what keeps the notifications, for readiness and admission.
    pub(super) fn watch(
        &self,
        tasks: &Tasks,
        settings: &StoreSettings,
        readiness: &Readiness,
        admission: Arc<Admission>,
    ) {
        let (readiness, shutdown) = (readiness.clone(), tasks.shutdown().clone());
        match &self.own {
            Own::Disk(journal) => {
                let disk = watch_disk(Arc::clone(journal), readiness.clone(), shutdown.clone());
                tasks.spawn(TaskKind::Background, "journal-watch", disk);
                let (journal, settings) = (Arc::clone(journal), settings.clone());
                let pressure = pressure::watch(admission, journal, settings, readiness, shutdown);
                tasks.spawn(TaskKind::Background, "pressure", pressure);
            }
            Own::Redis { redis, nodes, .. } => {
                let watched = (redis.clone(), Arc::clone(&self.journal));
                let watch = watch_redis(watched, nodes.clone(), admission, readiness, shutdown);
                tasks.spawn(TaskKind::Background, "redis-watch", watch);
            }
        }
    }

    /// Takes up nothing new any more; what is under way goes on.
    pub(super) fn leave(&self) {
        if let Own::Redis { nodes: Some(nodes), .. } = &self.own {
            nodes.leave();
        }
    }

    /// Hands over, writes what is left, and closes; false if something of it may be missing.
    pub(super) async fn close(&self) -> bool {
        let is_healthy = match &self.own {
            Own::Disk(journal) => journal.is_healthy(),
            // What Redis has not confirmed was not answered either.
            Own::Redis { .. } => true,
        };
        if let Own::Redis { nodes: Some(nodes), .. } = &self.own {
            self.journal.close().await;
            nodes.stop().await;
        } else {
            self.journal.close().await;
        }
        is_healthy
    }

    /// What a start says of what it found.
    pub(super) fn log_opened(&self) {
        match &self.own {
            Own::Disk(journal) => {
                let found = journal.recovered();
                tracing::info!(
                    replayed_blocks = found.replayed_blocks,
                    cut_bytes = found.cut_bytes,
                    salvaged_bytes = found.salvaged_bytes,
                    "journal opened"
                );
            }
            Own::Redis { nodes, .. } => {
                let node = nodes.as_ref().map(Nodes::name);
                tracing::info!(node, durability = self.durability(), "journal on redis opened");
            }
        }
    }
}

/// Publishes the backlog, and ends the process when the journal can no longer be trusted.
async fn watch_disk(journal: Arc<DiskJournal>, readiness: Readiness, shutdown: Shutdown) {
    let shards: Vec<_> = (0..journal.shards()).map(metrics::ShardMetrics::new).collect();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.draining() => return,
        }
        publish_backlog(journal.as_ref(), &shards, |_| true);
        publish_dead(journal.as_ref()).await;
        match journal.shortage() {
            Some(reason) => readiness.block("room", reason),
            None => readiness.clear("room"),
        }
        if !journal.is_healthy() {
            readiness.block("journal", "a write or sync failed; restart to re-read the disk");
            tracing::error!("the journal failed; stopping, since nothing more can be acknowledged");
            shutdown.drain();
        }
    }
}

/// Publishes the backlog of the shards worked on here; refuses new work while Redis is in trouble.
async fn watch_redis(
    (redis, journal): (Redis, Arc<dyn Journal>),
    nodes: Option<Nodes>,
    admission: Arc<Admission>,
    readiness: Readiness,
    shutdown: Shutdown,
) {
    let shards: Vec<_> = (0..journal.shards()).map(metrics::ShardMetrics::new).collect();
    let watching = async {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.draining() => return,
            }
            // One node of a cluster that takes no writes stops its own shards only.
            let is_stopped = !redis.is_cluster() && !journal.is_healthy();
            let what = "nothing could be written to redis for a while";
            let trouble = redis.trouble().or_else(|| is_stopped.then(|| String::from(what)));
            admission.observe(Vitals { sync: Duration::ZERO, is_full: trouble.is_some() });
            let is_ours = |shard| nodes.as_ref().is_some_and(|nodes| nodes.has(shard));
            publish_backlog(journal.as_ref(), &shards, is_ours);
            match trouble {
                Some(what) => readiness.block("redis", what),
                None => readiness.clear("redis"),
            }
        }
    };
    // Books are read from Redis: nobody is to learn only after them that it is away.
    let counting = async {
        loop {
            publish_dead(journal.as_ref()).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = counting => {}
    }
}

fn publish_backlog(
    journal: &dyn Journal,
    shards: &[metrics::ShardMetrics],
    is_ours: impl Fn(ShardId) -> bool,
) {
    for (shard, metrics) in (0u16..).map(ShardId).zip(shards) {
        let backlog = if is_ours(shard) { journal.backlog(shard) } else { Default::default() };
        metrics.backlog(backlog.pending, backlog.bytes, backlog.timers);
        metrics.unreadable(backlog.unreadable);
    }
}

async fn publish_dead(journal: &dyn Journal) {
    let dead = journal.dead_kept().await.unwrap_or_default();
    metrics::dead_letters(u32::try_from(dead).unwrap_or(u32::MAX));
}
