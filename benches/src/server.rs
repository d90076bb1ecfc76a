//! Servers for benches: one that answers a constant, and the whole API without a dispatcher.

use bugler_gateway::BoxFuture;
use bugler_gateway::api::{
    Api, ApiSettings, Blynk, BlynkSettings, Identity, IdentitySettings, NoHooks,
    NotificationStates, Shared,
};
use bugler_gateway::auth::{
    Grant, KeyRing, Origin, PasswordPool, Scope, TokenMinter, TokenVerifier,
};
use bugler_gateway::clock::{Clock, SystemClock};
use bugler_gateway::intake::{AdmissionLimits, BacklogQuota, Intake, Vitals};
use bugler_gateway::journal::Journal;
use bugler_gateway::journal::disk::{DiskJournal, DiskOptions};
use bugler_gateway::lifecycle::Shutdown;
use bugler_gateway::model::OrganizationId;
use bugler_gateway::rules::NoRules;
use bugler_gateway::server::{self, Refusal, ReplyBody, Request, Response, ServerLimits, Service};
use bugler_gateway::store::Store;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

pub type Failed = Box<dyn Error + Send + Sync>;

/// Nothing is delivered here, so a round may leave more behind than an organization is let.
const NO_QUOTA: AdmissionLimits =
    AdmissionLimits { backlog: BacklogQuota { entries: 0, bytes: 0 } };
/// What is measured is what a notification costs, on a machine that does more than this: a commit
/// that takes longer than usual must not have some of them refused.
const SLOW_DISK: Vitals = Vitals { sync: Duration::from_secs(10), is_full: false };

/// Reads the body, does nothing with it, and answers with this text.
#[derive(Debug)]
pub struct Constant(pub &'static str);

impl Service for Constant {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let answer = self.0;
        Box::pin(async move {
            let read = request.body.read(1 << 20).await;
            Response::new(ReplyBody::from(if read.is_ok() { answer } else { "{}" }))
        })
    }

    fn refuse(&self, _: &str, _: Option<&http::HeaderValue>, _: &Refusal) -> Response {
        Response::new(ReplyBody::default())
    }
}

/// The whole API over `store` and a journal in `home`. Prints `token <token>` for each organization.
///
/// # Errors
/// What the disk or the keys refuse.
pub fn api(
    home: &Path,
    store: Arc<dyn Store>,
    organizations: &[OrganizationId],
) -> Result<Arc<dyn Service>, Failed> {
    let options = DiskOptions::default();
    let journal = DiskJournal::open(&home.join("journal"), options, Arc::new(SystemClock))?;
    api_over(home, Arc::new(journal), store, organizations)
}

/// The whole API over `journal` and `store`, with keys in `home`. Prints `token <token>` for each
/// organization.
///
/// # Errors
/// What the keys refuse.
pub fn api_over(
    home: &Path,
    journal: Arc<dyn Journal>,
    store: Arc<dyn Store>,
    organizations: &[OrganizationId],
) -> Result<Arc<dyn Service>, Failed> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let keys = Arc::new(KeyRing::load_or_create(&home.join("keys.json"))?);
    let minter = TokenMinter::new(Arc::clone(&keys), "bench", "bench", Arc::clone(&clock))?;
    for organization in organizations {
        let grant = Grant {
            organization: *organization,
            scope: Scope::Organization,
            subject: String::from("bench"),
            lifetime: Duration::from_hours(1),
            limited_to: None,
            origin: Origin::default(),
        };
        writeln!(std::io::stdout(), "token {}", minter.mint(&grant)?)?;
    }
    let intake = Intake::limited(journal, Arc::clone(&clock), NO_QUOTA);
    intake.admission().observe(SLOW_DISK);
    let identity = IdentitySettings { token_ttl: Duration::from_hours(1), client_failures: 5 };
    Ok(Arc::new(Api::new(Shared {
        intake,
        store,
        verifier: TokenVerifier::new(keys, "bench", "bench", clock),
        settings: ApiSettings {
            max_body: 256 << 10,
            bulk_max_body: 16 << 20,
            region: String::from("us-east-1"),
            retention: Duration::from_hours(7 * 24),
        },
        limit: Arc::default(),
        jigx: NotificationStates::default(),
        hooks: Arc::new(NoHooks),
        blynk: Blynk::new(BlynkSettings::default()),
        identity: Identity::new(Some(minter), identity),
        passwords: PasswordPool::default(),
        rules: Arc::new(NoRules),
        deployments: None,
    })))
}

/// Serves on a free loopback port until the process ends. Prints `address <address>` first.
///
/// # Errors
/// When no port is free.
pub async fn serve(service: Arc<dyn Service>) -> Result<(), Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut out = std::io::stdout();
    writeln!(out, "address {}", listener.local_addr()?)?;
    out.flush()?;
    let limits = ServerLimits { connections_per_peer: 4096, ..ServerLimits::default() };
    server::serve(listener, None, limits, service, Shutdown::new()).await;
    Ok(())
}
