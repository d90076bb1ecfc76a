//! The composition root: opens the data directory, starts every part, and stops them in order.
//!
//! Start: lock and recover the journal, open the records, compile the rules, build the providers,
//! then dispatch, then listen. Stop, within one deadline: no new connections, requests finish,
//! attempts finish, the journal closes. What is not settled by then is sent again after the next
//! start.

mod build;
mod client;
mod descriptors;
mod hooks;
mod pressure;

#[cfg(test)]
mod tests;

pub use build::BuildError;
pub use client::{CreatedClient, create_client};

use crate::admin::AdminService;
use crate::api::{
    Api, ApiSettings, Blynk, BlynkSettings, Hooks, Identity, IdentitySettings, NotificationStates,
    SendLimit, Shared,
};
use crate::auth::{KeyError, KeyRing, PasswordPool, TokenMinter, TokenVerifier};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::dispatch::{Dispatcher, DispatcherParts};
use crate::intake::{AdmissionLimits, BacklogQuota, Intake};
use crate::journal::Journal;
use crate::journal::disk::{DiskJournal, OpenError};
use crate::lifecycle::{Readiness, Shutdown, TaskKind, Tasks};
use crate::model::Millis;
use crate::openapi::Viewer;
use crate::rules::RuleError;
use crate::server::{self, ServerLimits, Service};
use crate::store::directory::{self, DirectoryError};
use crate::store::disk::{DiskError, DiskStore};
use crate::store::{Change, Store, StoreError};
use crate::telemetry::metrics::{self, PrometheusHandle};
use crate::work::decode_changes;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Exit code after a failed write or sync of the journal (`EX_IOERR`).
pub const EXIT_IO: u8 = 74;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Journal(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] DiskError),
    #[error("the token keys cannot be used")]
    Keys(#[from] KeyError),
    #[error("a rule cannot be loaded")]
    Rules(#[from] RuleError),
    #[error("[{section}] cannot be used")]
    Provider {
        section: String,
        #[source]
        source: Box<BuildError>,
    },
    #[error("the certificate of [server.tls] cannot be used")]
    Tls(#[from] server::tls::TlsError),
    #[error("cannot listen on {address}: choose another {key} or stop what uses it")]
    Listen {
        key: &'static str,
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the directory document {} cannot be applied", path.display())]
    Seed {
        path: PathBuf,
        #[source]
        source: Box<SeedError>,
    },
    #[error("accepted changes cannot be read from the journal")]
    Changes(#[from] crate::journal::JournalError),
    /// They may be of a newer release: made without them, the records would hide them for good.
    #[error(
        "{count} accepted changes of records in the journal cannot be read by this release: start \
         the release that wrote them and stop it once, or restore store.dir from a backup"
    )]
    UnreadableChanges { count: usize },
    #[error("accepted changes cannot be made")]
    Redo(#[from] StoreError),
    #[error("metrics could not be set up")]
    Metrics(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("a part of the start panicked")]
    Start(#[from] tokio::task::JoinError),
}

/// Why a directory document was not applied.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("it cannot be read")]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Document(#[from] DirectoryError),
    #[error("the records refused it")]
    Store(#[from] StoreError),
}

/// Connections of the operator's listener: a few tools, never more descriptors than are kept.
const ADMIN_CONNECTIONS: usize = 32;
const FORGET_EVERY: Duration = Duration::from_mins(1);
const FORGET_AFTER_MS: u64 = 24 * 60 * 60 * 1_000;

/// A running gateway.
#[derive(Debug)]
pub struct App {
    pub api: SocketAddr,
    pub admin: SocketAddr,
    tasks: Tasks,
    shutdown: Shutdown,
    /// Stops the operator's listener, which tells of the drain until its end.
    admin_shutdown: Shutdown,
    dispatcher: Dispatcher,
    journal: Arc<DiskJournal>,
    grace: Duration,
}

impl App {
    /// Starts every part; resolves when the gateway serves.
    pub async fn start(
        config: Config,
        seed: Option<PathBuf>,
        metrics: PrometheusHandle,
    ) -> Result<Self, AppError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let started = Instant::now();
        let (api, admin) = listen(&config).await?;
        let tls = config.server.tls.files();
        let tls = tls.map(|(cert, key)| server::tls::server_config(cert, key)).transpose()?;
        let opened = open(config.clone(), Arc::clone(&clock)).await?;
        let Opened { journal, store, rules, keys } = opened;
        redo(journal.as_ref(), store.as_ref()).await?;
        if let Some(path) = seed {
            apply_seed(&path, store.as_ref(), clock.as_ref())
                .await
                .map_err(|source| AppError::Seed { path, source: Box::new(source) })?;
        }
        let hooked = build::Hooked::new(&config, &clock)?;
        let dispatcher = Dispatcher::start(DispatcherParts {
            journal: Arc::clone(&journal) as Arc<dyn Journal>,
            store: Arc::clone(&store),
            rules,
            providers: build::providers(&config, &hooked, &clock)?,
            clock: Arc::clone(&clock),
            settings: build::dispatch_settings(&config),
        });
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let readiness = Readiness::new(shutdown.clone());
        let kept = Arc::clone(&store);
        let hooks = hooked.for_api(&config, &clock)?;
        let intake = intake(&config, &journal, &clock);
        let admission = Arc::clone(intake.admission());
        let service = service(&config, intake, (store, keys, hooks), &clock);
        let addresses = (local(&api), local(&admin));
        let admin_service = {
            let (audited, journal) = (Arc::clone(&journal), Arc::clone(&journal));
            let viewer = Viewer::new(addresses.0, tls.is_some());
            let durability = move || journal.durability();
            AdminService::new(readiness.clone(), metrics.clone(), viewer, durability)
                .with_audit(build::audit(audited))
        };
        let limits = build::server_limits(&config);
        tasks.spawn(
            TaskKind::Critical,
            "api",
            server::serve(api, tls, limits, service, shutdown.clone()),
        );
        let admin_shutdown = serve_admin(admin, admin_service, &tasks);
        let draining = shutdown.clone();
        tasks.spawn(TaskKind::Background, "metrics", async move {
            tokio::select! {
                () = metrics::upkeep(metrics) => {}
                () = draining.draining() => {}
            }
        });
        tasks.spawn(
            TaskKind::Background,
            "journal-watch",
            watch_journal(Arc::clone(&journal), readiness.clone(), shutdown.clone()),
        );
        let (watched, settings) = (Arc::clone(&journal), config.store.clone());
        tasks.spawn(
            TaskKind::Background,
            "pressure",
            pressure::watch(admission, watched, settings, readiness, shutdown.clone()),
        );
        tasks.spawn(
            TaskKind::Background,
            "forget",
            forget_ended(Arc::clone(&kept), Arc::clone(&clock), shutdown.clone()),
        );
        let recovered = journal.recovered();
        tracing::info!(
            api = %addresses.0, admin = %addresses.1, durability = journal.durability(),
            replayed_blocks = recovered.replayed_blocks, cut_bytes = recovered.cut_bytes,
            started_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "ready"
        );
        let grace = config.server.drain_timeout;
        let (api, admin) = addresses;
        Ok(Self { api, admin, tasks, shutdown, admin_shutdown, dispatcher, journal, grace })
    }

    /// The signal that stops this gateway.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Serves until told to stop, then drains; answers the process's exit code.
    pub async fn run(self) -> u8 {
        self.shutdown.draining().await;
        let deadline = Instant::now() + self.grace;
        let left = || deadline.saturating_duration_since(Instant::now());
        let stopped = self.tasks.join(left()).await;
        if !stopped.is_empty() {
            tracing::warn!(?stopped, "stopped before they were done");
        }
        let is_healthy = self.journal.is_healthy();
        let aborted = self.shutdown.aborted();
        tokio::select! {
            _ = self.dispatcher.drain(left()) => {}
            () = aborted => tracing::warn!("aborted; what is in flight is sent again"),
        }
        self.journal.close().await;
        self.admin_shutdown.drain();
        tracing::info!("stopped");
        if is_healthy { 0 } else { EXIT_IO }
    }
}

/// Serves the operator beyond the drain of everything else; answers what stops it.
fn serve_admin(listener: TcpListener, service: AdminService, tasks: &Tasks) -> Shutdown {
    let (name, connections) = ("admin", ADMIN_CONNECTIONS);
    let limits = ServerLimits { name, connections, ..ServerLimits::default() };
    let own_shutdown = Shutdown::new();
    let serving = server::serve(listener, None, limits, Arc::new(service), own_shutdown.clone());
    let serving = tokio::spawn(serving);
    let shutdown = tasks.shutdown().clone();
    tasks.spawn(TaskKind::Critical, "admin", async move {
        tokio::select! {
            ended = serving => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the operator's listener failed");
                }
            }
            () = shutdown.draining() => {}
        }
    });
    own_shutdown
}

async fn listen(config: &Config) -> Result<(TcpListener, TcpListener), AppError> {
    let bind = async |key, address| {
        let listener = TcpListener::bind(address).await;
        listener.map_err(|source| AppError::Listen { key, address, source })
    };
    Ok((
        bind("server.listen", config.server.listen).await?,
        bind("server.admin_listen", config.server.admin_listen).await?,
    ))
}

fn local(listener: &TcpListener) -> SocketAddr {
    // A bound listener has an address; the wildcard stands in if the kernel will not say.
    listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}

struct Opened {
    journal: Arc<DiskJournal>,
    store: Arc<dyn Store>,
    rules: Arc<dyn crate::rules::RuleEngine>,
    keys: Arc<KeyRing>,
}

/// Opens what lies on disk and compiles the rules, away from the reactor.
async fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Opened, AppError> {
    tokio::task::spawn_blocking(move || {
        let dir = config.store.dir.as_path();
        let journal_dir = dir.join("journal");
        let journal = DiskJournal::open(&journal_dir, build::journal_options(&config), clock)?;
        let store = DiskStore::open(dir)?;
        let keys = KeyRing::load_or_create(&config.keys_path())?;
        let rules = build::rules(&config)?;
        let (journal, store, keys) = (Arc::new(journal), Arc::new(store), Arc::new(keys));
        Ok(Opened { journal, store, rules, keys })
    })
    .await?
}

/// Makes changes again that were accepted before a crash and may be missing in the records.
async fn redo(journal: &dyn Journal, store: &dyn Store) -> Result<(), AppError> {
    let payloads = journal.unfinished_changes().await?;
    let changes: Vec<_> = payloads.iter().filter_map(|payload| decode_changes(payload)).collect();
    if changes.len() < payloads.len() {
        return Err(AppError::UnreadableChanges { count: payloads.len() - changes.len() });
    }
    if !changes.is_empty() {
        store.redo(changes).await?;
    }
    Ok(())
}

async fn apply_seed(path: &Path, store: &dyn Store, clock: &dyn Clock) -> Result<(), SeedError> {
    let document = std::fs::read(path)?;
    let changes = directory::changes(&document, store, clock.now()).await?;
    store.apply(changes).await?;
    Ok(())
}

fn intake(config: &Config, journal: &Arc<DiskJournal>, clock: &Arc<dyn Clock>) -> Intake {
    let backlog = BacklogQuota {
        entries: config.limits.backlog_per_org,
        bytes: config.limits.backlog_bytes_per_org.0,
    };
    let journal = Arc::clone(journal) as Arc<dyn Journal>;
    Intake::limited(journal, Arc::clone(clock), AdmissionLimits { backlog })
}

fn service(
    config: &Config,
    intake: Intake,
    (store, keys, hooks): (Arc<dyn Store>, Arc<KeyRing>, Arc<dyn Hooks>),
    clock: &Arc<dyn Clock>,
) -> Arc<dyn Service> {
    let (issuer, audience) = (&config.auth.issuer, &config.auth.audience);
    let minter = TokenMinter::new(Arc::clone(&keys), issuer, audience, Arc::clone(clock));
    let identity = IdentitySettings {
        token_ttl: config.auth.token_ttl,
        client_failures: config.auth.client_failures,
    };
    Arc::new(Api::new(Shared {
        intake,
        store,
        verifier: TokenVerifier::new(keys, issuer, audience, Arc::clone(clock)),
        settings: ApiSettings {
            max_body: config.server.max_body.0,
            bulk_max_body: config.server.bulk_max_body.0,
            region: String::from("us-east-1"),
            retention: config.store.retention,
        },
        hooks,
        identity: Identity::new(minter.ok(), identity),
        blynk: Blynk::new(blynk_settings(config)),
        passwords: PasswordPool::default(),
        jigx: NotificationStates::default(),
        limit: config.limits.per_org.map(|rate| SendLimit::new(rate.count, rate.per)),
    }))
}

fn blynk_settings(config: &Config) -> BlynkSettings {
    let limits = &config.limits;
    BlynkSettings {
        requests: limits.blynk_requests.map(|rate| (rate.count, rate.per)),
        users_per_org: limits.users_per_org,
        invites_per_day: limits.invites_per_day,
        invites_per_address: limits.invites_per_address,
        organization_levels: limits.organization_levels,
        sub_organizations: limits.sub_organizations,
        public_url: config.accounts.public_url.0.clone(),
        invitation_ttl: config.accounts.invitation_ttl,
    }
}

/// Removes tokens and invitations some time after they ended.
async fn forget_ended(store: Arc<dyn Store>, clock: Arc<dyn Clock>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FORGET_EVERY) => {}
            () = shutdown.draining() => return,
        }
        // A day late, so that a late repeat is still told apart from an unknown token.
        let before = Millis(clock.now().0.saturating_sub(FORGET_AFTER_MS));
        if let Err(error) = store.apply(vec![Change::Forget(before)]).await {
            tracing::warn!(error = %crate::telemetry::chain(&error), "ended tokens could not be removed");
        }
    }
}

/// Publishes the backlog, and ends the process when the journal can no longer be trusted.
async fn watch_journal(journal: Arc<DiskJournal>, readiness: Readiness, shutdown: Shutdown) {
    let shards: Vec<_> = (0..journal.shards()).map(metrics::ShardMetrics::new).collect();
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
            () = shutdown.draining() => return,
        }
        for (shard, metrics) in (0u16..).zip(&shards) {
            let backlog = journal.backlog(crate::model::ShardId(shard));
            metrics.backlog(backlog.pending, backlog.bytes, backlog.timers);
            metrics.unreadable(backlog.unreadable);
        }
        let dead = journal.dead_kept().await.unwrap_or_default();
        metrics::dead_letters(u32::try_from(dead).unwrap_or(u32::MAX));
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
