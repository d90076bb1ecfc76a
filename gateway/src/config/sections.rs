//! The sections of `bugler.toml` as types, each with its defaults. Keys are documented in
//! `docs/configuration.md`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::redis::RedisSettings;
use super::value::{
    Backend, ByteSize, Durability, Fsync, LogFormat, OnError, Rate, RelaySecurity, Role, WebPage,
};
use crate::model::{ProviderName, Secret};

const MIB: u64 = 1 << 20;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// All settings, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub store: StoreSettings,
    pub dispatch: Dispatch,
    pub auth: Auth,
    pub accounts: Accounts,
    pub limits: Limits,
    pub idempotency: Idempotency,
    pub rules: Rules,
    pub providers: Providers,
    pub observability: Observability,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub role: Role,
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub max_body: ByteSize,
    pub bulk_max_body: ByteSize,
    pub max_inflight: usize,
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    pub first_byte_timeout: Duration,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    pub tls: ServerTls,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            role: Role::All,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 2845)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 2846)),
            max_body: ByteSize(256 << 10),
            bulk_max_body: ByteSize(16 * MIB),
            max_inflight: 4096,
            max_connections: 10_000,
            max_connections_per_ip: 256,
            first_byte_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(20),
            tls: ServerTls::default(),
        }
    }
}

/// Certificate and key of the listener; checked to be both set or both unset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerTls {
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl ServerTls {
    /// Certificate chain and key, if TLS is on.
    #[must_use]
    pub fn files(&self) -> Option<(&Path, &Path)> {
        self.cert_file.as_deref().zip(self.key_file.as_deref())
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admin {
    pub allow_public: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoreSettings {
    pub backend: Backend,
    /// The start is refused if the store gives less.
    pub require_durability: Durability,
    pub dir: PathBuf,
    /// The keys that seal secrets in records.
    pub vault_file: Option<PathBuf>,
    pub shards: u16,
    pub segment: ByteSize,
    pub fsync: Fsync,
    pub retention: Duration,
    pub dead_letter_retention: Duration,
    pub max_disk: ByteSize,
    /// New work is refused while the file system has less free.
    pub min_free: ByteSize,
    /// The same as a share of the file system's size.
    pub min_free_percent: u32,
    pub redis: RedisSettings,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            backend: Backend::Embedded,
            require_durability: Durability::D0,
            dir: PathBuf::from("./bugler-data"),
            vault_file: None,
            shards: 8,
            segment: ByteSize(32 * MIB),
            fsync: Fsync::Commit,
            retention: Duration::from_secs(7 * DAY),
            dead_letter_retention: Duration::from_secs(30 * DAY),
            max_disk: ByteSize(20 << 30),
            min_free: ByteSize(512 * MIB),
            min_free_percent: 5,
            redis: RedisSettings::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    pub max_in_flight: usize,
    pub claim_batch: usize,
    pub lease: Duration,
    pub queue: usize,
    pub retry: Retry,
    pub ttl: Ttl,
}

impl Default for Dispatch {
    fn default() -> Self {
        Self {
            max_in_flight: 1024,
            claim_batch: 256,
            lease: Duration::from_secs(60),
            queue: 8192,
            retry: Retry::default(),
            ttl: Ttl::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Share of each wait that is drawn at random, 0 to 1.
    pub jitter: f64,
    pub push: PushRetry,
    pub webhook: ScheduledRetry,
    pub email: ScheduledRetry,
}

impl Default for Retry {
    fn default() -> Self {
        let seconds = |waits: &[u64]| ScheduledRetry {
            schedule: waits.iter().copied().map(Duration::from_secs).collect(),
        };
        let webhook = [2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
        Self {
            jitter: 0.2,
            push: PushRetry::default(),
            webhook: seconds(&[&[5, 5 * 60, 30 * 60][..], &webhook].concat()),
            email: seconds(&[30, 120, 600, 1800, HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR]),
        }
    }
}

/// Doubling waits from `base` up to `cap`, for APNs, FCM and Slack.
#[derive(Clone, Debug, PartialEq)]
pub struct PushRetry {
    pub base: Duration,
    pub cap: Duration,
    /// Tries in all, the first one included.
    pub attempts_max: u16,
    /// After a 5xx of APNs, doubling up to an hour, and after a certificate that is not right.
    pub outage: Duration,
}

impl Default for PushRetry {
    fn default() -> Self {
        let quarter = Duration::from_secs(15 * 60);
        Self { base: Duration::from_secs(1), cap: quarter, attempts_max: 8, outage: quarter }
    }
}

/// The wait before each repetition; after the last one the delivery is dead.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledRetry {
    pub schedule: Vec<Duration>,
}

/// How long a delivery is worth trying, from acceptance on, unless the caller said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Ttl {
    pub push: Duration,
    pub slack: Duration,
    pub webhook: Duration,
    pub email: Duration,
}

impl Default for Ttl {
    fn default() -> Self {
        Self {
            push: Duration::from_secs(DAY),
            slack: Duration::from_secs(HOUR),
            webhook: Duration::from_secs(4 * DAY),
            email: Duration::from_secs(DAY),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    pub issuer: String,
    pub audience: String,
    /// See [`Config::keys_path`].
    pub keys_file: Option<PathBuf>,
    pub token_ttl: Duration,
    pub client_failures: u32,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            issuer: String::from("https://bugler.local"),
            audience: String::from("bugler"),
            keys_file: None,
            token_ttl: Duration::from_secs(DAY),
            client_failures: 5,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Requests the callers of one organization may make; `None` is no limit.
    pub per_org: Option<Rate>,
    /// Journal entries of one organization that may wait; 0 is no limit.
    pub backlog_per_org: u64,
    /// Their bytes; 0 is no limit.
    pub backlog_bytes_per_org: ByteSize,
    /// Requests one organization may make of Blynk's paths; `None` is no limit.
    pub blynk_requests: Option<Rate>,
    /// Users of one organization; 0 is no limit. Imports are not limited.
    pub users_per_org: u32,
    /// Invitations one organization sends a day; 0 is no limit.
    pub invites_per_day: u32,
    /// Invitations one address gets an hour; 0 is no limit.
    pub invites_per_address: u32,
    /// Depth of the tree of organizations.
    pub organization_levels: u32,
    /// Organizations directly below one; 0 is no limit. Personal ones are not counted.
    pub sub_organizations: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_org: None,
            backlog_per_org: 1_000_000,
            backlog_bytes_per_org: ByteSize(1 << 30),
            blynk_requests: Some(Rate { count: 10_000, per: Duration::from_mins(1) }),
            users_per_org: 50,
            invites_per_day: 25,
            invites_per_address: 3,
            organization_levels: 4,
            sub_organizations: 200,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Accounts {
    /// The page where the invited choose a password; without one no link is sent.
    pub public_url: WebPage,
    pub invitation_ttl: Duration,
}

impl Default for Accounts {
    fn default() -> Self {
        Self { public_url: WebPage(None), invitation_ttl: Duration::from_secs(30 * DAY) }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Idempotency {
    pub ttl: Duration,
}

impl Default for Idempotency {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(DAY) }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub threads: usize,
    /// Shipped rules that are switched on, in the order they are asked.
    pub builtin: Vec<String>,
    /// In the order they are asked, after the shipped ones.
    pub chain: Vec<ChainRule>,
    pub limits: RuleLimits,
}

impl Default for Rules {
    fn default() -> Self {
        Self { threads: 2, builtin: Vec::new(), chain: Vec::new(), limits: RuleLimits::default() }
    }
}

/// One rule of the chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChainRule {
    pub name: String,
    pub version: String,
    /// The component file.
    pub path: PathBuf,
    /// Unset: as the manifest in the component says, else `default-plan`; for authorize rules `closed`.
    pub on_error: Option<OnError>,
    /// If the rule cannot be loaded, the server does not start.
    pub required: bool,
    /// Handed to the rule as it is.
    pub config: BTreeMap<String, String>,
    pub matches: RuleMatch,
}

/// What a rule is asked about; an empty list is everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleMatch {
    pub events: Vec<String>,
    pub channels: Vec<ProviderName>,
    /// `user`, `subscription`.
    pub recipients: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RuleLimits {
    pub fuel_per_item: u64,
    pub memory: ByteSize,
    pub deadline_per_batch: Duration,
    pub component: ByteSize,
}

impl Default for RuleLimits {
    fn default() -> Self {
        Self {
            fuel_per_item: 1_000_000,
            memory: ByteSize(16 * MIB),
            deadline_per_batch: Duration::from_millis(50),
            component: ByteSize(8 * MIB),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Providers {
    /// For every provider: TCP and TLS together.
    pub connect_timeout: Duration,
    /// By the name devices carry in `app`.
    pub apns: BTreeMap<String, ApnsApp>,
    pub fcm: BTreeMap<String, FcmApp>,
    pub slack: HookSettings,
    /// Absent: no Slack channel can be added through the API.
    pub slack_app: Option<SlackApp>,
    pub webhook: HookSettings,
    /// Absent: nobody gets mail.
    pub email: Option<EmailRelay>,
}

impl Default for Providers {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            apns: BTreeMap::new(),
            fcm: BTreeMap::new(),
            slack: HookSettings { timeout: Duration::from_secs(10), ..HookSettings::default() },
            slack_app: None,
            webhook: HookSettings::default(),
            email: None,
        }
    }
}

/// One APNs credential.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApnsApp {
    /// `None` is Apple's production service.
    pub endpoint: Option<Url>,
    pub team_id: String,
    pub key_id: String,
    /// The PKCS #8 signing key in PEM; filled from `key_file`.
    pub key: Option<Secret>,
    pub key_file: Option<PathBuf>,
    pub topic: String,
    pub ca_file: Option<PathBuf>,
    pub pool: PushPool,
}

/// One FCM credential.
#[derive(Clone, Debug, PartialEq)]
pub struct FcmApp {
    /// `None` is Google's production service.
    pub endpoint: Option<Url>,
    /// The service account's JSON document; filled from `service_account_file`.
    pub service_account: Option<Secret>,
    pub service_account_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    /// At full speed, which a minute of sending leads up to; 0 is without bound.
    pub messages_per_second: u32,
    pub pool: PushPool,
}

impl Default for FcmApp {
    fn default() -> Self {
        Self {
            endpoint: None,
            service_account: None,
            service_account_file: None,
            ca_file: None,
            messages_per_second: 8_000,
            pool: PushPool::default(),
        }
    }
}

/// How one push credential uses the network.
#[derive(Clone, Debug, PartialEq)]
pub struct PushPool {
    /// HTTP/2 connections at most.
    pub connections: usize,
    /// From sending a request to the end of its answer.
    pub timeout: Duration,
}

impl Default for PushPool {
    fn default() -> Self {
        Self { connections: 2, timeout: Duration::from_secs(10) }
    }
}

/// How Slack hooks or webhooks are called.
#[derive(Clone, Debug, PartialEq)]
pub struct HookSettings {
    /// Also call `http:` URLs.
    pub allow_http: bool,
    /// Also call this machine itself; other private addresses stay forbidden.
    pub allow_private: bool,
    /// Trusted besides the public authorities.
    pub ca_file: Option<PathBuf>,
    /// From sending a request to the end of its answer.
    pub timeout: Duration,
}

impl Default for HookSettings {
    fn default() -> Self {
        Self {
            allow_http: false,
            allow_private: false,
            ca_file: None,
            timeout: Duration::from_secs(15),
        }
    }
}

/// The Slack app whose authorization codes are exchanged for hooks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlackApp {
    pub client_id: String,
    /// Filled from `client_secret_file`, without the line break at its end.
    pub client_secret: Option<Secret>,
    pub client_secret_file: Option<PathBuf>,
    /// `None` is Slack itself.
    pub endpoint: Option<Url>,
    /// The redirect URIs that may be named; empty leaves the judgement to Slack.
    pub allowed_redirects: Vec<String>,
}

/// The SMTP relay that takes all mail.
#[derive(Clone, Debug, PartialEq)]
pub struct EmailRelay {
    pub host: String,
    pub port: u16,
    pub tls: RelaySecurity,
    pub ca_file: Option<PathBuf>,
    /// For AUTH, if the relay asks for it.
    pub user: Option<String>,
    /// Filled from `password_file`, without the line break at its end.
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    /// The sender's address.
    pub from: String,
    /// Shown beside it.
    pub from_name: Option<String>,
    /// Sessions at once.
    pub connections: usize,
    /// One mail, from connecting to the relay's answer.
    pub timeout: Duration,
}

impl Default for EmailRelay {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 587,
            tls: RelaySecurity::default(),
            ca_file: None,
            user: None,
            password: None,
            password_file: None,
            from: String::new(),
            from_name: None,
            connections: 4,
            timeout: Duration::from_secs(30),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Observability {
    pub log_format: LogFormat,
    /// Filter directives, as `info,bugler_gateway::rules=debug`.
    pub log_level: String,
}

impl Default for Observability {
    fn default() -> Self {
        Self { log_format: LogFormat::Auto, log_level: String::from("info") }
    }
}
