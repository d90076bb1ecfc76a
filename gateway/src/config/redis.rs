//! `[store.redis]`: where the servers are, and how patient we are with them.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::check::Broken;
use super::read::Walk;
use super::sections::Config;
use super::value::{Backend, ByteSize, Durability, Fsync, Role};
use crate::model::Secret;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The Redis server or cluster; read only where `store.backend` names it.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisSettings {
    pub urls: Vec<String>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    /// Authorities for `rediss://`; the usual ones if unset.
    pub ca_file: Option<PathBuf>,
    /// In front of every key.
    pub prefix: String,
    pub connect_timeout: Duration,
    /// For one operation.
    pub timeout: Duration,
    /// Copies that a write must have before it is answered.
    pub replicas: u32,
    pub replicas_timeout: Duration,
    /// A node that is silent for this long loses its shards to the others.
    pub lease: Duration,
    /// What is accepted is kept in `store.dir`, too, until it is settled.
    pub outbox: bool,
    /// Bytes of what is not settled; beyond it new notifications are refused.
    pub outbox_max: ByteSize,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            urls: vec![String::from("redis://127.0.0.1:6379")],
            user: None,
            password: None,
            password_file: None,
            ca_file: None,
            prefix: String::from("bugler:"),
            connect_timeout: SECOND,
            timeout: 2 * SECOND,
            replicas: 0,
            replicas_timeout: 200 * MS,
            lease: 5 * SECOND,
            outbox: false,
            outbox_max: ByteSize(1 << 30),
        }
    }
}

pub(super) fn keys(redis: &mut RedisSettings, walk: &mut Walk<'_>) {
    walk.checked("urls", &mut redis.urls, |urls| urls.iter().find_map(|url| problem_of(url)));
    walk.value("user", &mut redis.user);
    let keys = ("password", "password_file");
    walk.optional_secret(keys, &mut redis.password, &mut redis.password_file);
    walk.value("ca_file", &mut redis.ca_file);
    walk.checked("prefix", &mut redis.prefix, |prefix| {
        let is_fine = prefix.len() <= 64 && prefix.bytes().all(|b| b.is_ascii_graphic());
        let is_plain = is_fine && !prefix.contains(['{', '}']);
        (!is_plain).then(|| String::from("must be at most 64 visible characters without braces"))
    });
    walk.ranged("connect_timeout", &mut redis.connect_timeout, 10 * MS..=MINUTE);
    walk.ranged("timeout", &mut redis.timeout, 10 * MS..=MINUTE);
    walk.ranged("replicas", &mut redis.replicas, 0..=9);
    walk.ranged("replicas_timeout", &mut redis.replicas_timeout, MS..=MINUTE);
    walk.ranged("lease", &mut redis.lease, 500 * MS..=10 * MINUTE);
    walk.value("outbox", &mut redis.outbox);
    walk.ranged("outbox_max", &mut redis.outbox_max, ByteSize(1 << 20)..=ByteSize(1 << 40));
}

/// What is wrong with a URL; never the URL itself, it may hold a password.
fn problem_of(url: &str) -> Option<String> {
    const FORM: &str = "must be URLs such as \"redis://10.0.0.1:6379\", or rediss:// for TLS";
    let Ok(url) = Url::parse(url) else { return Some(String::from(FORM)) };
    if !matches!(url.scheme(), "redis" | "rediss") || !url.has_host() {
        return Some(String::from(FORM));
    }
    let is_named = !url.username().is_empty() || url.password().is_some();
    is_named.then(|| String::from("must not hold user or password: these have their own keys"))
}

/// Rules between the store's settings and others.
pub(super) fn check(config: &Config, broken: &mut Broken<'_>) {
    let store = &config.store;
    if store.backend == Backend::Embedded {
        if config.server.role != Role::All {
            let hint =
                "set store.backend to \"redis\" or \"redis-cluster\", or the role to \"all\"";
            broken.note("server.role", "needs records that other processes share", hint);
        }
        if matches!(store.require_durability, Durability::D2R | Durability::D3) {
            let hint = "lower it, or use Redis with replicas or an outbox";
            broken.note("store.require_durability", "is more than one disk can give", hint);
        }
        let is_weak = match store.require_durability {
            Durability::D0 => false,
            Durability::D1 => store.fsync == Fsync::Never,
            _ => store.fsync != Fsync::Commit,
        };
        if is_weak {
            let hint = "set it to \"commit\", or lower store.require_durability";
            broken.note("store.fsync", "gives less than store.require_durability asks for", hint);
        }
        return;
    }
    let redis = &store.redis;
    if redis.urls.is_empty() {
        broken.note("store.redis.urls", "is empty", "name the server, or nodes of the cluster");
    }
    if store.backend == Backend::Redis && redis.urls.len() > 1 {
        let hint = "name one, or set store.backend to \"redis-cluster\"";
        broken.note("store.redis.urls", "names several servers", hint);
    }
    if redis.user.is_some() && redis.password.is_none() {
        broken.note("store.redis.password_file", "is missing", "set it with the user, or neither");
    }
    let is_tls = |url: &String| url.starts_with("rediss:");
    if redis.urls.iter().any(is_tls) && !redis.urls.iter().all(is_tls) {
        broken.note("store.redis.urls", "mixes redis:// and rediss://", "use one of them");
    }
    super::check::pem("store.redis.ca_file", redis.ca_file.as_deref(), "CERTIFICATE", broken);
    let is_keeping = redis.outbox || config.server.role == Role::Dispatch;
    if store.require_durability == Durability::D3 && !is_keeping {
        let hint = "set store.redis.outbox = true";
        broken.note("store.require_durability", "needs an outbox", hint);
    }
    if store.require_durability == Durability::D2R && redis.replicas == 0 {
        let hint = "set store.redis.replicas = 1";
        broken.note("store.require_durability", "needs replicas", hint);
    }
}
