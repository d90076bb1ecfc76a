//! Rules between settings, and the files they name.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use url::Url;

use super::ConfigError;
use super::sections::{ApnsApp, ChainRule, Config, EmailRelay, FcmApp, Server, SlackApp};
use super::value::RelaySecurity;

/// Notes in `errors` every rule that `config` breaks.
pub(super) fn config(config: &Config, errors: &mut Vec<ConfigError>) {
    let mut broken = Broken(errors);
    server(&config.server, config.admin.allow_public, &mut broken);
    if config.store.dir.is_file() {
        broken.note("store.dir", "is a file", "name a directory");
    }
    if config.store.segment > config.store.max_disk {
        broken.note("store.segment", "is larger than store.max_disk", "lower it");
    }
    super::redis::check(config, &mut broken);
    dispatch(config, &mut broken);
    chain(&config.rules.chain, &config.rules.builtin, &mut broken);
    for (name, app) in &config.providers.apns {
        apns(&format!("providers.apns.{name}"), app, &mut broken);
    }
    for (name, app) in &config.providers.fcm {
        fcm(&format!("providers.fcm.{name}"), app, &mut broken);
    }
    authorities("providers.slack", config.providers.slack.ca_file.as_deref(), &mut broken);
    if let Some(app) = &config.providers.slack_app {
        slack_app("providers.slack.oauth", app, &mut broken);
    }
    authorities("providers.webhook", config.providers.webhook.ca_file.as_deref(), &mut broken);
    if let Some(relay) = &config.providers.email {
        email("providers.email", relay, &mut broken);
    }
}

pub(super) struct Broken<'a>(&'a mut Vec<ConfigError>);

impl Broken<'_> {
    pub(super) fn note(&mut self, path: &str, problem: impl Into<String>, hint: &str) {
        let (path, hint) = (String::from(path), Some(String::from(hint)));
        self.0.push(ConfigError { path, problem: problem.into(), hint });
    }
}

fn server(server: &Server, allow_public: bool, broken: &mut Broken<'_>) {
    if !server.admin_listen.ip().is_loopback() && !allow_public {
        let hint = "listen on a loopback address, or set admin.allow_public = true";
        broken.note("server.admin_listen", "is reachable from other machines", hint);
    }
    if server.listen == server.admin_listen && server.listen.port() != 0 {
        broken.note("server.admin_listen", "is the same as server.listen", "use another port");
    }
    if server.max_body > server.bulk_max_body {
        broken.note("server.max_body", "is larger than server.bulk_max_body", "lower it");
    }
    if server.max_connections_per_ip > server.max_connections {
        let problem = "is larger than server.max_connections";
        broken.note("server.max_connections_per_ip", problem, "lower it");
    }
    let (cert, key) = (server.tls.cert_file.as_deref(), server.tls.key_file.as_deref());
    match (cert, key) {
        (Some(_), None) => broken.note("server.tls.key_file", "is missing", "set both or none"),
        (None, Some(_)) => broken.note("server.tls.cert_file", "is missing", "set both or none"),
        _ => {}
    }
    pem("server.tls.cert_file", cert, "CERTIFICATE", broken);
    pem("server.tls.key_file", key, "PRIVATE KEY", broken);
}

fn dispatch(config: &Config, broken: &mut Broken<'_>) {
    let (providers, retry) = (&config.providers, &config.dispatch.retry);
    let push = providers.apns.values().map(|app| app.pool.timeout);
    let push = push.chain(providers.fcm.values().map(|app| app.pool.timeout));
    let all = push.chain(providers.email.iter().map(|relay| relay.timeout));
    let slowest = all.fold(providers.slack.timeout.max(providers.webhook.timeout), Duration::max);
    // A lease that ends while its attempt still runs would send the delivery a second time.
    if config.dispatch.lease <= slowest.saturating_add(providers.connect_timeout) {
        let problem = "must be longer than the slowest provider's timeout and connect_timeout \
                       together";
        broken.note("dispatch.lease", problem, "raise it, or lower the timeouts");
    }
    if retry.push.base > retry.push.cap {
        broken.note("dispatch.retry.push.base", "is longer than its cap", "lower it");
    }
    let ttl = &config.dispatch.ttl;
    for (name, retry, ttl) in
        [("webhook", &retry.webhook, ttl.webhook), ("email", &retry.email, ttl.email)]
    {
        if retry.schedule.iter().sum::<Duration>() > ttl {
            let problem = format!("ends before the last wait of dispatch.retry.{name}.schedule");
            let hint = "raise it, or shorten the schedule";
            broken.note(&format!("dispatch.ttl.{name}"), problem, hint);
        }
    }
}

fn chain(chain: &[ChainRule], builtin: &[String], broken: &mut Broken<'_>) {
    let mut names = HashSet::new();
    for (index, rule) in chain.iter().enumerate() {
        let path = format!("rules.chain[{index}]");
        for (key, text) in [("name", &rule.name), ("version", &rule.version)] {
            if text.is_empty() {
                broken.note(&format!("{path}.{key}"), "is required", "set it");
            }
        }
        if !rule.name.is_empty() && !names.insert(&rule.name) {
            broken.note(&format!("{path}.name"), "is used twice", "rename one");
        }
        if builtin.contains(&rule.name) {
            broken.note(&format!("{path}.name"), "is in rules.builtin, too", "take it out of one");
        }
        let path = format!("{path}.path");
        if rule.path.as_os_str().is_empty() {
            broken.note(&path, "is required", "name the component file");
        } else if !rule.path.is_file() {
            let problem = format!("{} is not a file", rule.path.display());
            broken.note(&path, problem, "build the rule first");
        }
    }
}

fn apns(path: &str, app: &ApnsApp, broken: &mut Broken<'_>) {
    for (key, id) in [("team_id", &app.team_id), ("key_id", &app.key_id)] {
        if id.len() != 10 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let hint = "copy it from the developer account";
            broken.note(&format!("{path}.{key}"), "must be 10 letters and digits", hint);
        }
    }
    if app.topic.is_empty() {
        broken.note(&format!("{path}.topic"), "is required", "usually the app's bundle id");
    }
    if app.key.as_ref().is_some_and(|key| !key.reveal().contains("BEGIN PRIVATE KEY")) {
        let hint = "use the .p8 file as downloaded";
        broken.note(&format!("{path}.key_file"), "is not a PKCS #8 key in PEM", hint);
    }
    endpoint(path, app.endpoint.as_ref(), broken);
    authorities(path, app.ca_file.as_deref(), broken);
}

fn fcm(path: &str, app: &FcmApp, broken: &mut Broken<'_>) {
    const FIELDS: [&str; 3] = ["project_id", "client_email", "private_key"];
    let is_account = |text: &str| {
        let parsed = serde_json::from_str::<serde_json::Value>(text);
        parsed.is_ok_and(|account| FIELDS.iter().all(|field| account[*field].is_string()))
    };
    if app.service_account.as_ref().is_some_and(|account| !is_account(account.reveal())) {
        let problem = "is not a service account document with project_id, client_email and \
                       private_key";
        let hint = "use the JSON file as downloaded";
        broken.note(&format!("{path}.service_account_file"), problem, hint);
    }
    endpoint(path, app.endpoint.as_ref(), broken);
    authorities(path, app.ca_file.as_deref(), broken);
}

fn slack_app(path: &str, app: &SlackApp, broken: &mut Broken<'_>) {
    if app.client_id.is_empty() {
        let hint = "copy it from the app's page at Slack";
        broken.note(&format!("{path}.client_id"), "is required", hint);
    }
    endpoint(path, app.endpoint.as_ref(), broken);
}

/// Mail carries links that let their reader in, and AUTH a password: in the clear only on this
/// machine.
fn email(path: &str, relay: &EmailRelay, broken: &mut Broken<'_>) {
    let host = url::Host::parse(&relay.host);
    if relay.host.is_empty() {
        broken.note(&format!("{path}.host"), "is required", "name the SMTP relay");
    } else if let Ok(host) = &host {
        if relay.tls == RelaySecurity::None && !is_local(host) {
            let hint = "use \"starttls\" or \"implicit\", or a relay on a loopback address";
            let problem = "would send mail and passwords in the clear";
            broken.note(&format!("{path}.tls"), problem, hint);
        }
    } else {
        let hint = "write it without a port, as \"smtp.example.com\"";
        broken.note(&format!("{path}.host"), "is neither a name nor an address", hint);
    }
    match (relay.user.is_none(), relay.password.is_none()) {
        (true, false) => {
            broken.note(
                &format!("{path}.user"),
                "is missing",
                "set it with the password, or neither",
            );
        }
        (false, true) => {
            let hint = "set it, or password inline, or no user";
            broken.note(&format!("{path}.password_file"), "is missing", hint);
        }
        _ => {}
    }
    let domain = relay.from.rsplit_once('@').filter(|(local, _)| !local.is_empty());
    if domain.is_none_or(|(_, domain)| url::Host::parse(domain).is_err()) {
        let hint = "write it as \"bugler@example.com\", the name goes into from_name";
        broken.note(&format!("{path}.from"), "is not an address", hint);
    }
    if relay.from_name.as_ref().is_some_and(|name| name.contains(char::is_control)) {
        broken.note(&format!("{path}.from_name"), "is more than a line", "use one line of text");
    }
    authorities(path, relay.ca_file.as_deref(), broken);
}

fn is_local(host: &url::Host<impl AsRef<str>>) -> bool {
    match host {
        url::Host::Ipv4(address) => address.is_loopback(),
        url::Host::Ipv6(address) => address.is_loopback(),
        url::Host::Domain(name) => name.as_ref() == "localhost",
    }
}

/// Push requests carry tokens and message bodies: in the clear only on this machine.
fn endpoint(path: &str, endpoint: Option<&Url>, broken: &mut Broken<'_>) {
    let Some(url) = endpoint else { return };
    let is_local = url.host().is_some_and(|host| is_local(&host));
    if url.scheme() != "https" && !(url.scheme() == "http" && is_local) {
        let hint = "use https, or http to a loopback address";
        broken.note(&format!("{path}.endpoint"), "would send credentials in the clear", hint);
    }
}

fn authorities(path: &str, file: Option<&Path>, broken: &mut Broken<'_>) {
    pem(&format!("{path}.ca_file"), file, "CERTIFICATE", broken);
}

pub(super) fn pem(path: &str, file: Option<&Path>, kind: &str, broken: &mut Broken<'_>) {
    let Some(file) = file else { return };
    match std::fs::read_to_string(file) {
        Ok(text) if text.contains("-----BEGIN ") && text.contains(kind) => {}
        Ok(_) => {
            let problem = format!("{} holds no {kind} in PEM", file.display());
            broken.note(path, problem, "convert it to PEM");
        }
        Err(error) => {
            let problem = format!("{} cannot be read: {error}", file.display());
            broken.note(path, problem, "check the path and its permissions");
        }
    }
}
