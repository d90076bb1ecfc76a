//! The composition root: opens the data directory, starts every part, and stops them in order.
//!
//! Start: lock and recover the journal, open the records, compile the rules, build the providers,
//! then dispatch, then listen. Stop, within one deadline: no new connections, requests finish,
//! attempts finish, the journal closes. What is not settled by then is sent again after the next
//! start.

mod auditing;
mod backend;
mod build;
mod client;
mod descriptors;
mod hooks;
mod moving;
mod nodes;
mod pressure;
mod reload;
mod shelf;

#[cfg(test)]
mod tests;

pub use auditing::audit_redis;
pub use build::BuildError;
pub use client::{CreatedClient, create_client};
pub use moving::{MoveError, MoveOptions, MoveReport, Place, carry, release};
pub use reload::{Reload, ReloadError};

use crate::admin::AdminService;
use crate::api::{
    Api, ApiSettings, Blynk, BlynkSettings, Hooks, Identity, IdentitySettings, NotificationStates,
    SendLimit, Shared,
};
use crate::audit::SharedError;
use crate::auth::{KeyError, KeyRing, PasswordPool, TokenMinter, TokenVerifier};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Role};
use crate::dispatch::{Dispatcher, DispatcherParts};
use crate::intake::Intake;
use crate::journal::Journal;
use crate::journal::disk::OpenError;
use crate::lifecycle::{Readiness, Shutdown, TaskKind, Tasks};
use crate::model::Millis;
use crate::openapi::Viewer;
use crate::redis::RedisError;
use crate::rules::{DeployError, Deployments, RuleEngine, RuleError, WasmRules};
use crate::server::{self, ServerLimits, Service};
use crate::store::directory::{self, DirectoryError};
use crate::store::disk::DiskError;
use crate::store::redis::RecordsError;
use crate::store::{Change, Store, StoreError};
use crate::telemetry::metrics::{self, PrometheusHandle};
use crate::vault::VaultError;
use crate::work::decode_changes;
use arc_swap::ArcSwapOption;
use backend::Kept;
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
    #[error("store.dir {} cannot be made", dir.display())]
    Dir {
        dir: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the store on redis cannot be used")]
    Redis(#[from] RedisError),
    #[error("there is no journal on redis under the prefix {prefix:?}")]
    NoJournal { prefix: String },
    #[error("the journal on redis cannot be audited")]
    Audit(#[from] SharedError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error("the token keys cannot be used")]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("a rule cannot be loaded")]
    Rules(#[from] RuleError),
    #[error("the deployed rules cannot be put in force")]
    Deployed(#[from] DeployError),
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
/// How often the versions of rules are judged.
const JUDGE_EVERY: Duration = Duration::from_secs(1);
const FORGET_EVERY: Duration = Duration::from_mins(1);
const FORGET_AFTER_MS: u64 = 24 * 60 * 60 * 1_000;

/// What a start does beside starting.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The directory document that is imported first.
    pub seed: Option<PathBuf>,
    /// Gives up what is damaged of the journal instead of refusing to start.
    pub salvages: bool,
}

/// A running gateway.
#[derive(Debug)]
pub struct App {
    /// `None` in the role that takes no requests.
    pub api: Option<SocketAddr>,
    pub admin: SocketAddr,
    tasks: Tasks,
    shutdown: Shutdown,
    /// Stops the operator's listener, which tells of the drain until its end.
    admin_shutdown: Shutdown,
    /// `None` in the role that sends nothing.
    dispatcher: Option<Dispatcher>,
    kept: Kept,
    grace: Duration,
    reload: Arc<Reload>,
}

impl App {
    /// Starts every part of the role; resolves when the gateway serves.
    pub async fn start(
        config: Config,
        Start { seed, salvages }: Start,
        metrics: PrometheusHandle,
    ) -> Result<Self, AppError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let started = Instant::now();
        let (api, admin) = listen(&config).await?;
        let tls = config.server.tls.files();
        let tls = tls.map(|(cert, key)| server::tls::server_config(cert, key)).transpose()?;
        // Before the data are touched: what is wrong with a credential is a matter of settings.
        let hooked = build::Hooked::new(&config, &clock)?;
        let apps = build::Apps::new(&config, &clock)?;
        let mut kept = Kept::open(&config, salvages, &clock).await?;
        let Compiled { rules, keys } = compile(config.clone()).await?;
        redo(kept.journal.as_ref(), kept.store.as_ref()).await?;
        if config.server.role != Role::Dispatch {
            kept.keep(&config, &clock).await?;
        }
        let (engine, shelf) = (Arc::clone(&rules), kept.shelf(&config));
        let (probe, builtin) = (build::probe(), &config.rules.builtin);
        let opened = Deployments::open(engine, shelf, probe, Arc::clone(&clock), builtin);
        let deployments = opened.await?;
        let rules: Arc<dyn RuleEngine> = rules;
        if let Some(path) = seed {
            apply_seed(&path, kept.store.as_ref(), clock.as_ref())
                .await
                .map_err(|source| AppError::Seed { path, source: Box::new(source) })?;
        }
        let parts = DispatcherParts {
            journal: Arc::clone(&kept.journal),
            store: Arc::clone(&kept.store),
            rules: Arc::clone(&rules),
            providers: build::providers(&config, &hooked, &apps)?,
            clock: Arc::clone(&clock),
            settings: build::dispatch_settings(&config),
        };
        let dispatcher = match config.server.role {
            Role::Ingest => None,
            Role::All | Role::Dispatch => {
                kept.join(&config);
                Some(Dispatcher::start(parts))
            }
        };
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let readiness = Readiness::new(shutdown.clone());
        let intake = intake(&config, &kept.journal, &clock);
        kept.watch(&tasks, &config.store, &readiness, Arc::clone(intake.admission()));
        let send_limit = Arc::new(ArcSwapOption::from(reload::send_limit(&config)));
        let admission = Arc::clone(intake.admission());
        let reload = Reload::new(&config, apps, (admission, Arc::clone(&send_limit)), &readiness);
        let addresses = (api.as_ref().map(local), local(&admin));
        let is_tls = tls.is_some();
        if let Some(api) = api {
            let hooks = hooked.for_api(&config, &clock)?;
            let records = (Arc::clone(&kept.store), keys);
            let judged = (hooks, rules, Arc::clone(&deployments));
            let service = service(&config, (intake, send_limit), records, judged, &clock);
            let limits = build::server_limits(&config);
            let serving = server::serve(api, tls, limits, service, shutdown.clone());
            tasks.spawn(TaskKind::Critical, "api", serving);
        }
        let viewer = Viewer::new(addresses.0.unwrap_or(config.server.listen), is_tls);
        let admin_shutdown =
            serve_admin(admin, admin_service(&kept, readiness, &metrics, viewer), &tasks);
        upkeep(&tasks, metrics);
        let following = follow(deployments, Arc::clone(&kept.store), shutdown.clone());
        tasks.spawn(TaskKind::Background, "rules", following);
        let forget = forget_ended(Arc::clone(&kept.store), Arc::clone(&clock), shutdown.clone());
        tasks.spawn(TaskKind::Background, "forget", forget);
        kept.log_opened();
        let (api, admin) = addresses;
        tracing::info!(
            api = %api.map_or_else(|| String::from("none"), |api| api.to_string()), %admin,
            durability = kept.durability(),
            started_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "ready"
        );
        let grace = config.server.drain_timeout;
        let reload = Arc::new(reload);
        Ok(Self { api, admin, tasks, shutdown, admin_shutdown, dispatcher, kept, grace, reload })
    }

    /// The signal that stops this gateway.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// What takes over another configuration while this gateway runs.
    #[must_use]
    pub fn reload(&self) -> &Arc<Reload> {
        &self.reload
    }

    /// Serves until told to stop, then drains; answers the process's exit code.
    pub async fn run(self) -> u8 {
        self.shutdown.draining().await;
        let deadline = Instant::now() + self.grace;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.kept.leave();
        let stopped = self.tasks.join(left()).await;
        if !stopped.is_empty() {
            tracing::warn!(?stopped, "stopped before they were done");
        }
        let aborted = self.shutdown.aborted();
        if let Some(dispatcher) = self.dispatcher {
            tokio::select! {
                _ = dispatcher.drain(left()) => {}
                () = aborted => tracing::warn!("aborted; what is in flight is sent again"),
            }
        }
        let is_healthy = self.kept.close().await;
        self.admin_shutdown.drain();
        tracing::info!("stopped");
        if is_healthy { 0 } else { EXIT_IO }
    }
}

fn admin_service(
    kept: &Kept,
    readiness: Readiness,
    metrics: &PrometheusHandle,
    viewer: Viewer,
) -> AdminService {
    let asked = kept.clone();
    let service = AdminService::new(readiness, metrics.clone(), viewer, move || asked.durability());
    match kept.audit() {
        Some(audit) => service.with_audit(audit),
        None => service,
    }
}

/// Follows what other nodes put in force, takes back what goes wrong, takes on what may go on by
/// itself and resumes what was paused for a time, until draining begins.
async fn follow(deployments: Arc<Deployments>, store: Arc<dyn Store>, shutdown: Shutdown) {
    tokio::select! {
        () = Arc::clone(&deployments).follow() => {}
        () = guard(deployments, store) => {}
        () = shutdown.draining() => {}
    }
}

async fn guard(deployments: Arc<Deployments>, store: Arc<dyn Store>) {
    loop {
        tokio::time::sleep(JUDGE_EVERY).await;
        let mut notes: Vec<_> = deployments.judge().await.into_iter().map(|one| one.note).collect();
        notes.extend(deployments.advance().await);
        notes.extend(deployments.resume().await);
        for note in notes {
            if let Err(error) = store.apply(vec![Change::Audit(note)]).await {
                tracing::error!(error = %crate::telemetry::chain(&error), "a change of the rules is missing in the audit trail");
            }
        }
    }
}

fn upkeep(tasks: &Tasks, metrics: PrometheusHandle) {
    let draining = tasks.shutdown().clone();
    tasks.spawn(TaskKind::Background, "metrics", async move {
        tokio::select! {
            () = metrics::upkeep(metrics) => {}
            () = draining.draining() => {}
        }
    });
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

async fn listen(config: &Config) -> Result<(Option<TcpListener>, TcpListener), AppError> {
    let bind = async |key, address| {
        let listener = TcpListener::bind(address).await;
        listener.map_err(|source| AppError::Listen { key, address, source })
    };
    let api = match config.server.role {
        Role::Dispatch => None,
        Role::All | Role::Ingest => Some(bind("server.listen", config.server.listen).await?),
    };
    Ok((api, bind("server.admin_listen", config.server.admin_listen).await?))
}

fn local(listener: &TcpListener) -> SocketAddr {
    // A bound listener has an address; the wildcard stands in if the kernel will not say.
    listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}

struct Compiled {
    rules: Arc<WasmRules>,
    keys: Arc<KeyRing>,
}

/// Compiles the rules and reads the keys, away from the reactor.
async fn compile(config: Config) -> Result<Compiled, AppError> {
    tokio::task::spawn_blocking(move || {
        let keys = Arc::new(KeyRing::load_or_create(&config.keys_path())?);
        Ok(Compiled { rules: build::rules(&config)?, keys })
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

fn intake(config: &Config, journal: &Arc<dyn Journal>, clock: &Arc<dyn Clock>) -> Intake {
    let limits = reload::admission_limits(config);
    Intake::limited(Arc::clone(journal), Arc::clone(clock), limits)
}

fn service(
    config: &Config,
    (intake, limit): (Intake, Arc<ArcSwapOption<SendLimit>>),
    (store, keys): (Arc<dyn Store>, Arc<KeyRing>),
    (hooks, rules, deployments): (Arc<dyn Hooks>, Arc<dyn RuleEngine>, Arc<Deployments>),
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
        rules,
        deployments: Some(deployments),
        jigx: NotificationStates::default(),
        limit,
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
