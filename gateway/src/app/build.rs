//! From settings to parts: the only place that chooses backends and builds providers and rules.

use crate::api::Hooks;
use crate::app::AppError;
use crate::app::descriptors;
use crate::app::hooks::ProviderHooks;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::dispatch::retry::RetryPolicy;
use crate::dispatch::{DispatchSettings, Providers};
use crate::journal::disk::{DiskJournal, DiskOptions, FsyncPolicy};
use crate::journal::redis::{OutboxOptions, RedisJournalOptions};
use crate::model::{ProviderName, Secret, ShardId};
use crate::providers::Provider;
use crate::providers::apns::{Apns, ApnsConfig, TokenShelf};
use crate::providers::email::{Email, EmailConfig, Security};
use crate::providers::fcm::{Fcm, FcmConfig};
use crate::providers::slack::{ACCESS_ENDPOINT, Slack, SlackApp, SlackAppConfig, SlackConfig};
use crate::providers::swap::Swap;
use crate::providers::transport::Deadlines;
use crate::providers::webhook::{Webhook, WebhookConfig};
use crate::redis::owners::OwnerOptions;
use crate::redis::{Class, Redis, RedisOptions};
use crate::rules::{
    CodeKey, OnError, Probe, RecipientKind, Recorder, RuleConfig, RuleError, RuleLimits, RuleMatch,
    RuleSettings, WasmRules,
};
use crate::server::ServerLimits;
use crate::vault::Vault;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn journal_options(config: &Config) -> DiskOptions {
    DiskOptions {
        shards: config.store.shards,
        segment_bytes: config.store.segment.0,
        fsync: match config.store.fsync {
            config::Fsync::Commit => FsyncPolicy::Commit,
            config::Fsync::Interval(every) => FsyncPolicy::Interval(every),
            config::Fsync::Never => FsyncPolicy::Never,
        },
        lease: config.dispatch.lease,
        retention: config.store.retention,
        dead_letter_retention: config.store.dead_letter_retention,
        keys_ttl: config.idempotency.ttl,
        disk_bytes_max: config.store.max_disk.0,
        ..DiskOptions::default()
    }
}

/// Where Redis is, and what is asked of it.
pub(super) fn redis_options(config: &Config) -> Result<RedisOptions, AppError> {
    let settings = &config.store.redis;
    if settings.urls.iter().any(|url| url.starts_with("rediss:")) {
        crate::providers::tls::install_default();
    }
    let require = match config.store.require_durability {
        // An outbox needs nothing of Redis.
        config::Durability::D0 | config::Durability::D3 => None,
        config::Durability::D1 => Some(Class::D1),
        config::Durability::D2 => Some(Class::D2),
        config::Durability::D2R => Some(Class::D2R),
    };
    Ok(RedisOptions {
        urls: settings.urls.clone(),
        is_cluster: config.store.backend == config::Backend::RedisCluster,
        user: settings.user.clone(),
        password: settings.password.clone(),
        ca_pem: read_ca(settings.ca_file.as_deref())?,
        prefix: settings.prefix.clone(),
        connect_timeout: settings.connect_timeout,
        timeout: settings.timeout,
        replicas: settings.replicas,
        replicas_timeout: settings.replicas_timeout,
        require,
    })
}

pub(super) fn redis_journal_options(config: &Config, redis: &Redis) -> RedisJournalOptions {
    RedisJournalOptions {
        shards: config.store.shards,
        lease: config.dispatch.lease,
        retention: config.store.retention,
        dead_letter_retention: config.store.dead_letter_retention,
        keys_ttl: config.idempotency.ttl,
        patience: config.store.redis.timeout,
        home: Some(ShardId::of),
        tracks: config.store.redis.outbox,
        durability: redis.class().as_str(),
        ..RedisJournalOptions::default()
    }
}

/// The outbox of this process: a journal of its own, which forgets what is settled.
pub(super) fn outbox_options(config: &Config) -> (DiskOptions, OutboxOptions) {
    let (bytes_max, segment_bytes) = (config.store.redis.outbox_max.0, config.store.segment.0);
    let local = DiskOptions {
        shards: 1,
        segment_bytes,
        retention: Duration::ZERO,
        // What is settled goes in whole segments.
        disk_bytes_max: bytes_max.saturating_mul(4).saturating_add(8 * segment_bytes),
        ..DiskOptions::default()
    };
    (local, OutboxOptions { bytes_max, retention: config.store.retention })
}

pub(super) fn owner_options(config: &Config) -> OwnerOptions {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    OwnerOptions {
        shards: config.store.shards,
        lease: config.store.redis.lease,
        name: format!("{}/{}", host.trim(), std::process::id()),
    }
}

/// Audits a running journal, one audit at a time.
pub(super) fn audit(journal: Arc<DiskJournal>) -> crate::admin::Audit {
    let is_running = Mutex::new(());
    Arc::new(move || {
        let busy = || String::from("an audit is running; ask again when it is done");
        let _only = is_running.try_lock().ok_or_else(busy)?;
        let view = journal.view().map_err(|error| crate::telemetry::chain(&error))?;
        let report = crate::audit::audit(&view).map_err(|error| crate::telemetry::chain(&error))?;
        Ok(report.to_json().to_string())
    })
}

pub(super) fn dispatch_settings(config: &Config) -> DispatchSettings {
    let dispatch = &config.dispatch;
    DispatchSettings {
        max_in_flight: dispatch.max_in_flight,
        claim_batch: dispatch.claim_batch,
        queue: dispatch.queue,
        lease: dispatch.lease,
        retry: RetryPolicy {
            base: dispatch.retry.push.base,
            cap: dispatch.retry.push.cap,
            attempts_max: dispatch.retry.push.attempts_max,
            outage: dispatch.retry.push.outage,
            webhook: dispatch.retry.webhook.schedule.clone(),
            email: dispatch.retry.email.schedule.clone(),
            jitter: dispatch.retry.jitter,
        },
        ttl_push: dispatch.ttl.push,
        ttl_slack: dispatch.ttl.slack,
        ttl_webhook: dispatch.ttl.webhook,
        ttl_email: dispatch.ttl.email,
        ..DispatchSettings::default()
    }
}

pub(super) fn server_limits(config: &Config) -> ServerLimits {
    let server = &config.server;
    let mut limits = ServerLimits {
        name: "api",
        connections: descriptors::connections(server.max_connections),
        connections_per_peer: u32::try_from(server.max_connections_per_ip).unwrap_or(u32::MAX),
        max_inflight: server.max_inflight,
        first_byte: server.first_byte_timeout,
        header: server.header_timeout,
        idle: server.idle_timeout,
        drain: server.drain_timeout,
        max_body: server.bulk_max_body.0.max(server.max_body.0).max(crate::api::BLYNK_BODY_MAX),
        ..ServerLimits::default()
    };
    limits.body.total = server.body_timeout;
    limits
}

/// How a component that is deployed is compiled first: by this program, in a process of its own.
pub(super) fn probe() -> Option<Probe> {
    let program = std::env::current_exe().ok()?;
    Some(Probe { program, args: vec!["rule".into(), "probe".into()] })
}

/// The rule engine with the chain of the configuration, compiled and started.
pub(super) fn rules(config: &Config) -> Result<Arc<WasmRules>, AppError> {
    let limits = &config.rules.limits;
    let threads = config.rules.threads;
    let recorder = Recorder::start(config.store.dir.join("rules")).map_err(RuleError::Thread)?;
    let settings = RuleSettings {
        rules: config.rules.chain.iter().map(rule).collect(),
        limits: RuleLimits {
            component_bytes: limits.component.as_usize(),
            memory_bytes: limits.memory.as_usize(),
            fuel_per_item: limits.fuel_per_item,
            deadline: limits.deadline_per_batch,
            ..RuleLimits::default()
        },
        threads,
        queue: 2 * threads,
        recorder: Some(recorder),
        state_dir: Some(config.store.dir.join("rules").join("state")),
        code: Some((config.store.dir.join("rules").join("compiled"), code_key(config)?)),
    };
    Ok(WasmRules::start(settings)?)
}

/// Who can write the data directory and not read the file of record keys has no code run.
fn code_key(config: &Config) -> Result<CodeKey, AppError> {
    let vault = Vault::load_or_create(&config.vault_path())?;
    Ok(CodeKey::new(vault.subkey("compiled rules")))
}

fn rule(rule: &config::ChainRule) -> RuleConfig {
    let recipients = rule.matches.recipients.iter().map(|kind| match kind.as_str() {
        "subscription" => RecipientKind::Subscription,
        _ => RecipientKind::User,
    });
    RuleConfig {
        name: rule.name.clone(),
        version: rule.version.clone(),
        path: rule.path.clone(),
        on_error: rule.on_error.map(|mode| match mode {
            config::OnError::Closed => OnError::Closed,
            config::OnError::Open => OnError::Open,
            config::OnError::DefaultPlan => OnError::DefaultPlan,
        }),
        required: rule.required,
        matches: RuleMatch {
            events: rule.matches.events.clone(),
            channels: rule.matches.channels.clone(),
            recipients: recipients.collect(),
            ..RuleMatch::default()
        },
        config: rule.config.clone(),
        ..RuleConfig::default()
    }
}

/// Apps by provider and name, as devices know them.
type AppKey = (ProviderName, String);
/// An app, built and not used yet.
type BuiltApp = (AppKey, Arc<dyn Provider>);

/// The push apps at work, whose credentials may be replaced.
#[derive(Debug)]
pub(super) struct Apps {
    swaps: BTreeMap<AppKey, Arc<Swap>>,
    /// One for the process: a key's token outlives the app that asked for it first.
    tokens: TokenShelf,
    clock: Arc<dyn Clock>,
}

impl Apps {
    pub(super) fn new(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, AppError> {
        let tokens = TokenShelf::kept_in(config.store.dir.join("provider-tokens"));
        let mut apps = Self { swaps: BTreeMap::new(), tokens, clock: Arc::clone(clock) };
        let keys = app_keys(config);
        for (key, app) in apps.build(config, keys)? {
            apps.swaps.insert(key, Arc::new(Swap::new(app)));
        }
        Ok(apps)
    }

    /// Builds those of `keys` anew, as `config` has them.
    pub(super) fn build(
        &self,
        config: &Config,
        keys: impl IntoIterator<Item = AppKey>,
    ) -> Result<Vec<BuiltApp>, AppError> {
        let settings = &config.providers;
        let mut built: Vec<BuiltApp> = Vec::new();
        for (name, app) in keys {
            if let Some(apns) = settings.apns.get(&app).filter(|_| name == ProviderName::Apns) {
                let made = self::apns((settings, &self.tokens), apns, &self.clock);
                built.push(((name, app.clone()), Arc::new(made.map_err(|e| e.of(name, &app))?)));
            } else if let Some(fcm) = settings.fcm.get(&app).filter(|_| name == ProviderName::Fcm) {
                let made = self::fcm(settings, fcm, &self.clock);
                built.push(((name, app.clone()), Arc::new(made.map_err(|e| e.of(name, &app))?)));
            }
        }
        Ok(built)
    }

    /// Uses `app` from now on.
    pub(super) fn replace(&self, key: &AppKey, app: Arc<dyn Provider>) {
        if let Some(swap) = self.swaps.get(key) {
            swap.replace(app);
        }
    }
}

/// Every push app that `config` names.
pub(super) fn app_keys(config: &Config) -> Vec<AppKey> {
    let apns = config.providers.apns.keys().map(|app| (ProviderName::Apns, app.clone()));
    apns.chain(config.providers.fcm.keys().map(|app| (ProviderName::Fcm, app.clone()))).collect()
}

/// Every configured provider, ready and without an open socket.
pub(super) fn providers(
    config: &Config,
    hooked: &Hooked,
    apps: &Apps,
) -> Result<Providers, AppError> {
    let settings = &config.providers;
    let mut providers = Providers::default();
    for (key, swap) in &apps.swaps {
        providers.push.insert(key.clone(), Arc::clone(swap) as Arc<dyn Provider>);
    }
    providers.slack = Some(Arc::clone(&hooked.slack) as Arc<dyn Provider>);
    providers.webhook = Some(Arc::clone(&hooked.webhook) as Arc<dyn Provider>);
    if let Some(relay) = &settings.email {
        let built = email(settings, relay).map_err(|e| e.of(ProviderName::Email, ""))?;
        providers.email = Some(Arc::new(built) as Arc<dyn Provider>);
    }
    Ok(providers)
}

/// The providers of subscriptions: both the dispatcher and the API send with them.
#[derive(Debug)]
pub(super) struct Hooked {
    slack: Arc<Slack>,
    webhook: Arc<Webhook>,
}

impl Hooked {
    pub(super) fn new(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, AppError> {
        let settings = &config.providers;
        let slack = SlackConfig {
            allow_http: settings.slack.allow_http,
            allow_private: settings.slack.allow_private,
            ca_pem: read_ca(settings.slack.ca_file.as_deref())?,
            deadlines: deadlines(settings.connect_timeout, settings.slack.timeout),
            ..SlackConfig::default()
        };
        let slack = Slack::new(slack, Arc::clone(clock))
            .map_err(|e| BuildError::from(e).of(ProviderName::Slack, ""))?;
        let webhook = WebhookConfig {
            allow_http: settings.webhook.allow_http,
            allow_private: settings.webhook.allow_private,
            ca_pem: read_ca(settings.webhook.ca_file.as_deref())?,
            deadlines: deadlines(settings.connect_timeout, settings.webhook.timeout),
            own_hosts: own_host(config).into_iter().collect(),
            own_ports: vec![config.server.listen.port(), config.server.admin_listen.port()],
            ..WebhookConfig::default()
        };
        let webhook = Webhook::new(webhook, Arc::clone(clock))
            .map_err(|e| BuildError::from(e).of(ProviderName::Webhook, ""))?;
        Ok(Self { slack: Arc::new(slack), webhook: Arc::new(webhook) })
    }

    /// What the API may ask of them.
    pub(super) fn for_api(
        self,
        config: &Config,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn Hooks>, AppError> {
        let settings = &config.providers;
        let app = settings.slack_app.as_ref().map(|app| slack_app(settings, app)).transpose();
        let app = app.map_err(|e| e.of(ProviderName::Slack, "oauth"))?;
        Ok(Arc::new(ProviderHooks::new(self.slack, app, self.webhook, Arc::clone(clock))))
    }
}

/// The name under which people reach us, where it is known.
fn own_host(config: &Config) -> Option<String> {
    let page = config.accounts.public_url.0.as_ref()?;
    page.host_str().map(str::to_owned)
}

fn slack_app(settings: &config::Providers, app: &config::SlackApp) -> Result<SlackApp, BuildError> {
    Ok(SlackApp::new(SlackAppConfig {
        endpoint: match &app.endpoint {
            Some(url) => url.clone(),
            None => ACCESS_ENDPOINT.parse().expect("the constant is a URL"),
        },
        client_id: app.client_id.clone(),
        client_secret: without_line_end(app.client_secret.as_ref()).unwrap_or(Secret::new("")),
        allowed_redirects: app.allowed_redirects.clone(),
        allow_http: settings.slack.allow_http,
        allow_private: settings.slack.allow_private,
        ca_pem: read_ca(settings.slack.ca_file.as_deref())?,
        deadlines: deadlines(settings.connect_timeout, settings.slack.timeout),
    })?)
}

/// An editor's line break at the end of the file is no part of a secret.
fn without_line_end(secret: Option<&Secret>) -> Option<Secret> {
    secret.map(|secret| Secret::new(secret.reveal().trim_end_matches(['\r', '\n'])))
}

fn deadlines(connect: Duration, total: Duration) -> Deadlines {
    Deadlines { connect, total, ..Deadlines::default() }
}

fn apns(
    (settings, tokens): (&config::Providers, &TokenShelf),
    app: &config::ApnsApp,
    clock: &Arc<dyn Clock>,
) -> Result<Apns, BuildError> {
    let key = app.key.clone().unwrap_or_else(|| Secret::new(""));
    let mut apns = ApnsConfig::new(app.team_id.clone(), app.key_id.clone(), key, app.topic.clone());
    if let Some(endpoint) = &app.endpoint {
        apns.endpoint = endpoint.to_string();
    }
    apns.ca_pem = read_ca(app.ca_file.as_deref())?;
    apns.tokens = tokens.clone();
    apns.limits.connections_max = app.pool.connections;
    apns.deadlines = deadlines(settings.connect_timeout, app.pool.timeout);
    Ok(Apns::new(apns, Arc::clone(clock))?)
}

fn fcm(
    settings: &config::Providers,
    app: &config::FcmApp,
    clock: &Arc<dyn Clock>,
) -> Result<Fcm, BuildError> {
    let account = app.service_account.clone().unwrap_or_else(|| Secret::new(""));
    let mut fcm = FcmConfig::new(account);
    if let Some(endpoint) = &app.endpoint {
        fcm.endpoint = endpoint.to_string();
    }
    fcm.ca_pem = read_ca(app.ca_file.as_deref())?;
    fcm.per_second = (app.messages_per_second > 0).then_some(app.messages_per_second);
    fcm.limits.connections_max = app.pool.connections;
    fcm.deadlines = deadlines(settings.connect_timeout, app.pool.timeout);
    Ok(Fcm::new(fcm, Arc::clone(clock))?)
}

fn email(settings: &config::Providers, relay: &config::EmailRelay) -> Result<Email, BuildError> {
    let password = without_line_end(relay.password.as_ref());
    let config = EmailConfig {
        host: relay.host.clone(),
        port: relay.port,
        security: match relay.tls {
            config::RelaySecurity::Starttls => Security::Starttls,
            config::RelaySecurity::Implicit => Security::Implicit,
            config::RelaySecurity::None => Security::None,
        },
        ca_pem: read_ca(relay.ca_file.as_deref())?,
        credentials: relay.user.clone().zip(password),
        from: relay.from.clone(),
        from_name: relay.from_name.clone().unwrap_or_default(),
        sessions_max: relay.connections,
        deadlines: deadlines(settings.connect_timeout, relay.timeout),
    };
    Ok(Email::new(config)?)
}

fn read_ca(path: Option<&Path>) -> Result<Option<Vec<u8>>, BuildError> {
    let Some(path) = path else { return Ok(None) };
    let read = std::fs::read(path);
    read.map(Some).map_err(|source| BuildError::Read { path: path.to_path_buf(), source })
}

/// Why one provider could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read {}", path.display())]
    Read {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Provider(#[from] crate::providers::ProviderError),
}

impl BuildError {
    fn of(self, provider: ProviderName, app: &str) -> AppError {
        let section = if app.is_empty() {
            format!("providers.{}", provider.as_str())
        } else {
            format!("providers.{}.{app}", provider.as_str())
        };
        AppError::Provider { section, source: Box::new(self) }
    }
}

impl From<BuildError> for AppError {
    fn from(error: BuildError) -> Self {
        Self::Provider { section: String::from("providers"), source: Box::new(error) }
    }
}
