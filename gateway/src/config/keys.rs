//! Every key of `bugler.toml`, named once, with the range of its value.

use std::time::Duration;

use url::Url;

use super::read::Walk;
use super::sections::{
    Accounts, Admin, ApnsApp, Auth, ChainRule, Config, Dispatch, EmailRelay, FcmApp, HookSettings,
    Idempotency, Limits, Observability, Providers, PushPool, Retry, RuleLimits, RuleMatch, Rules,
    ScheduledRetry, Server, SlackApp, StoreSettings,
};
use super::value::ByteSize;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Walks over all keys.
pub(super) fn config(config: &mut Config, walk: &mut Walk<'_>) {
    walk.section("server", |walk| server(&mut config.server, walk));
    walk.section("admin", |walk| admin(&mut config.admin, walk));
    walk.section("store", |walk| store(&mut config.store, walk));
    walk.section("dispatch", |walk| dispatch(&mut config.dispatch, walk));
    walk.section("auth", |walk| auth(&mut config.auth, walk));
    walk.section("accounts", |walk| accounts(&mut config.accounts, walk));
    walk.section("limits", |walk| limits(&mut config.limits, walk));
    walk.section("idempotency", |walk| idempotency(&mut config.idempotency, walk));
    walk.section("rules", |walk| rules(&mut config.rules, walk));
    walk.section("providers", |walk| providers(&mut config.providers, walk));
    walk.section("observability", |walk| observability(&mut config.observability, walk));
    walk.note_unknown();
}

fn server(server: &mut Server, walk: &mut Walk<'_>) {
    walk.value("role", &mut server.role);
    walk.value("listen", &mut server.listen);
    walk.value("admin_listen", &mut server.admin_listen);
    walk.ranged("max_body", &mut server.max_body, ByteSize(KIB)..=ByteSize(64 * MIB));
    walk.ranged("bulk_max_body", &mut server.bulk_max_body, ByteSize(KIB)..=ByteSize(GIB));
    walk.ranged("max_inflight", &mut server.max_inflight, 1..=1_000_000);
    walk.ranged("max_connections", &mut server.max_connections, 1..=1_000_000);
    walk.ranged("max_connections_per_ip", &mut server.max_connections_per_ip, 1..=1_000_000);
    walk.ranged("first_byte_timeout", &mut server.first_byte_timeout, 10 * MS..=HOUR);
    walk.ranged("header_timeout", &mut server.header_timeout, 10 * MS..=HOUR);
    walk.ranged("body_timeout", &mut server.body_timeout, 10 * MS..=HOUR);
    walk.ranged("idle_timeout", &mut server.idle_timeout, 10 * MS..=HOUR);
    walk.ranged("drain_timeout", &mut server.drain_timeout, 10 * MS..=HOUR);
    walk.section("tls", |walk| {
        walk.value("cert_file", &mut server.tls.cert_file);
        walk.value("key_file", &mut server.tls.key_file);
    });
}

fn admin(admin: &mut Admin, walk: &mut Walk<'_>) {
    walk.value("allow_public", &mut admin.allow_public);
}

fn store(store: &mut StoreSettings, walk: &mut Walk<'_>) {
    walk.value("backend", &mut store.backend);
    walk.value("require_durability", &mut store.require_durability);
    walk.value("dir", &mut store.dir);
    walk.value("vault_file", &mut store.vault_file);
    walk.ranged("shards", &mut store.shards, 1..=256);
    walk.ranged("segment", &mut store.segment, ByteSize(MIB)..=ByteSize(GIB));
    walk.value("fsync", &mut store.fsync);
    walk.ranged("retention", &mut store.retention, MINUTE..=YEAR);
    let dead = &mut store.dead_letter_retention;
    walk.ranged("dead_letter_retention", dead, MINUTE..=YEAR);
    walk.ranged("max_disk", &mut store.max_disk, ByteSize(16 * MIB)..=ByteSize(1024 * TIB));
    walk.value("min_free", &mut store.min_free);
    walk.ranged("min_free_percent", &mut store.min_free_percent, 0..=99);
    walk.section("redis", |walk| super::redis::keys(&mut store.redis, walk));
}

fn dispatch(dispatch: &mut Dispatch, walk: &mut Walk<'_>) {
    walk.ranged("max_in_flight", &mut dispatch.max_in_flight, 1..=100_000);
    walk.ranged("claim_batch", &mut dispatch.claim_batch, 1..=10_000);
    walk.ranged("lease", &mut dispatch.lease, 100 * MS..=HOUR);
    walk.ranged("queue", &mut dispatch.queue, 16..=1_000_000);
    walk.section("retry", |walk| retry(&mut dispatch.retry, walk));
    walk.section("ttl", |walk| {
        walk.ranged("push", &mut dispatch.ttl.push, SECOND..=28 * DAY);
        walk.ranged("slack", &mut dispatch.ttl.slack, SECOND..=28 * DAY);
        walk.ranged("webhook", &mut dispatch.ttl.webhook, SECOND..=28 * DAY);
        walk.ranged("email", &mut dispatch.ttl.email, SECOND..=28 * DAY);
    });
}

fn retry(retry: &mut Retry, walk: &mut Walk<'_>) {
    walk.ranged("jitter", &mut retry.jitter, 0.0..=1.0);
    walk.section("push", |walk| {
        walk.ranged("base", &mut retry.push.base, MS..=DAY);
        walk.ranged("cap", &mut retry.push.cap, MS..=DAY);
        walk.ranged("attempts_max", &mut retry.push.attempts_max, 1..=100);
        walk.ranged("outage", &mut retry.push.outage, MS..=DAY);
    });
    walk.section("webhook", |walk| schedule(&mut retry.webhook, walk));
    walk.section("email", |walk| schedule(&mut retry.email, walk));
}

fn schedule(retry: &mut ScheduledRetry, walk: &mut Walk<'_>) {
    walk.checked("schedule", &mut retry.schedule, |schedule| {
        let valid =
            schedule.len() <= 100 && schedule.iter().all(|wait| (MS..=7 * DAY).contains(wait));
        (!valid).then(|| String::from("must be at most 100 waits from 1ms to 7d"))
    });
}

fn auth(auth: &mut Auth, walk: &mut Walk<'_>) {
    walk.value("issuer", &mut auth.issuer);
    walk.value("audience", &mut auth.audience);
    walk.value("keys_file", &mut auth.keys_file);
    walk.ranged("token_ttl", &mut auth.token_ttl, SECOND..=YEAR);
    walk.ranged("client_failures", &mut auth.client_failures, 0..=1_000_000);
}

fn accounts(accounts: &mut Accounts, walk: &mut Walk<'_>) {
    walk.value("public_url", &mut accounts.public_url);
    walk.ranged("invitation_ttl", &mut accounts.invitation_ttl, MINUTE..=YEAR);
}

fn limits(limits: &mut Limits, walk: &mut Walk<'_>) {
    walk.value("per_org", &mut limits.per_org);
    walk.value("backlog_per_org", &mut limits.backlog_per_org);
    walk.value("backlog_bytes_per_org", &mut limits.backlog_bytes_per_org);
    walk.value("blynk_requests", &mut limits.blynk_requests);
    walk.value("users_per_org", &mut limits.users_per_org);
    walk.value("invites_per_day", &mut limits.invites_per_day);
    walk.value("invites_per_address", &mut limits.invites_per_address);
    walk.ranged("organization_levels", &mut limits.organization_levels, 1..=12);
    walk.value("sub_organizations", &mut limits.sub_organizations);
}

fn idempotency(idempotency: &mut Idempotency, walk: &mut Walk<'_>) {
    walk.ranged("ttl", &mut idempotency.ttl, SECOND..=30 * DAY);
}

/// Names that `rules.builtin` takes.
pub const SHIPPED_RULES: [&str; 6] =
    ["permissions", "event-routing", "quiet-hours", "throttle-digest", "fallback", "pii-redaction"];

fn rules(rules: &mut Rules, walk: &mut Walk<'_>) {
    walk.ranged("threads", &mut rules.threads, 1..=256);
    walk.checked("builtin", &mut rules.builtin, |names| {
        let is_known = |name: &String| SHIPPED_RULES.contains(&name.as_str());
        let is_once =
            |(at, name): (usize, &String)| names.iter().position(|n| n == name) == Some(at);
        let is_fine = names.iter().all(is_known) && names.iter().enumerate().all(is_once);
        (!is_fine).then(|| format!("must be a list of {}, each once", SHIPPED_RULES.join(", ")))
    });
    walk.list("chain", &mut rules.chain, chain_rule);
    walk.section("limits", |walk| rule_limits(&mut rules.limits, walk));
}

fn chain_rule(rule: &mut ChainRule, walk: &mut Walk<'_>) {
    walk.value("name", &mut rule.name);
    walk.value("version", &mut rule.version);
    walk.value("path", &mut rule.path);
    walk.value("on_error", &mut rule.on_error);
    walk.value("required", &mut rule.required);
    walk.value("config", &mut rule.config);
    walk.section("match", |walk| rule_match(&mut rule.matches, walk));
}

fn rule_match(matches: &mut RuleMatch, walk: &mut Walk<'_>) {
    walk.value("events", &mut matches.events);
    walk.value("channels", &mut matches.channels);
    walk.checked("recipients", &mut matches.recipients, |recipients| {
        let known = recipients.iter().all(|kind| matches!(kind.as_str(), "user" | "subscription"));
        (!known).then(|| String::from(r#"must be a list of "user", "subscription""#))
    });
}

fn rule_limits(limits: &mut RuleLimits, walk: &mut Walk<'_>) {
    walk.ranged("fuel_per_item", &mut limits.fuel_per_item, 1_000..=1_000_000_000_000);
    walk.ranged("memory", &mut limits.memory, ByteSize(64 * KIB)..=ByteSize(4 * GIB));
    walk.ranged("deadline_per_batch", &mut limits.deadline_per_batch, MS..=MINUTE);
    walk.ranged("component", &mut limits.component, ByteSize(KIB)..=ByteSize(GIB));
}

fn providers(providers: &mut Providers, walk: &mut Walk<'_>) {
    walk.ranged("connect_timeout", &mut providers.connect_timeout, MS..=MINUTE);
    walk.named("apns", &mut providers.apns, apns);
    walk.named("fcm", &mut providers.fcm, fcm);
    walk.section("slack", |walk| {
        hooks(&mut providers.slack, walk);
        walk.optional("oauth", &mut providers.slack_app, slack_app);
    });
    walk.section("webhook", |walk| hooks(&mut providers.webhook, walk));
    walk.optional("email", &mut providers.email, email);
}

fn apns(app: &mut ApnsApp, walk: &mut Walk<'_>) {
    walk.value("endpoint", &mut app.endpoint);
    walk.value("team_id", &mut app.team_id);
    walk.value("key_id", &mut app.key_id);
    walk.secret(("key", "key_file"), &mut app.key, &mut app.key_file);
    walk.value("topic", &mut app.topic);
    walk.value("ca_file", &mut app.ca_file);
    push_pool(&mut app.pool, walk);
}

fn fcm(app: &mut FcmApp, walk: &mut Walk<'_>) {
    walk.value("endpoint", &mut app.endpoint);
    let keys = ("service_account", "service_account_file");
    walk.secret(keys, &mut app.service_account, &mut app.service_account_file);
    walk.value("ca_file", &mut app.ca_file);
    walk.ranged("messages_per_second", &mut app.messages_per_second, 0..=1_000_000);
    push_pool(&mut app.pool, walk);
}

fn push_pool(pool: &mut PushPool, walk: &mut Walk<'_>) {
    walk.ranged("connections", &mut pool.connections, 1..=64);
    walk.ranged("timeout", &mut pool.timeout, 10 * MS..=HOUR);
}

fn hooks(hooks: &mut HookSettings, walk: &mut Walk<'_>) {
    walk.value("allow_http", &mut hooks.allow_http);
    walk.value("allow_private", &mut hooks.allow_private);
    walk.value("ca_file", &mut hooks.ca_file);
    walk.ranged("timeout", &mut hooks.timeout, 10 * MS..=HOUR);
}

fn slack_app(app: &mut SlackApp, walk: &mut Walk<'_>) {
    walk.value("client_id", &mut app.client_id);
    let keys = ("client_secret", "client_secret_file");
    walk.secret(keys, &mut app.client_secret, &mut app.client_secret_file);
    walk.value("endpoint", &mut app.endpoint);
    walk.checked("allowed_redirects", &mut app.allowed_redirects, |redirects| {
        let valid = redirects.len() <= 100 && redirects.iter().all(|one| Url::parse(one).is_ok());
        (!valid).then(|| String::from("must be a list of at most 100 URLs"))
    });
}

fn email(relay: &mut EmailRelay, walk: &mut Walk<'_>) {
    walk.value("host", &mut relay.host);
    walk.ranged("port", &mut relay.port, 1..=u16::MAX);
    walk.value("tls", &mut relay.tls);
    walk.value("ca_file", &mut relay.ca_file);
    walk.value("user", &mut relay.user);
    let keys = ("password", "password_file");
    walk.optional_secret(keys, &mut relay.password, &mut relay.password_file);
    walk.value("from", &mut relay.from);
    walk.value("from_name", &mut relay.from_name);
    walk.ranged("connections", &mut relay.connections, 1..=64);
    walk.ranged("timeout", &mut relay.timeout, 10 * MS..=HOUR);
}

fn observability(observability: &mut Observability, walk: &mut Walk<'_>) {
    walk.value("log_format", &mut observability.log_format);
    walk.checked("log_level", &mut observability.log_level, |directives| {
        let parsed = tracing_subscriber::EnvFilter::try_new(directives);
        parsed.err().map(|error| format!("is not a log filter: {error}"))
    });
}
