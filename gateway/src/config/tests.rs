//! Settings from every source, every problem, and the reference file.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::model::ProviderName;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
const ACCOUNT: &str =
    r#"{"project_id": "p", "client_email": "a@example.com", "private_key": "topsecret"}"#;

/// A directory with the files a full configuration names, and `bugler.toml`.
struct Files(tempfile::TempDir);

impl Files {
    fn new(toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificate = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        for (name, text) in [
            ("apns.p8", KEY),
            ("fcm.json", ACCOUNT),
            ("smtp.password", "smtpsecret\n"),
            ("slack.secret", "slacksecret\n"),
            ("ca.pem", certificate),
            ("quiet_hours.wasm", ""),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let toml = toml.replace("DIR", dir.path().to_str().unwrap());
        std::fs::write(dir.path().join("bugler.toml"), toml).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sources(&self) -> ConfigSources {
        ConfigSources { file: Some(self.path("bugler.toml")), ..ConfigSources::default() }
    }

    fn problems(&self) -> String {
        let problems = Config::load(self.sources()).unwrap_err().to_string();
        problems.replace(self.0.path().to_str().unwrap(), "DIR")
    }
}

fn overridden(env: &[(&str, &str)], set: &[&str]) -> ConfigSources {
    let env = env.iter().map(|(name, text)| (String::from(*name), String::from(*text)));
    let set = set.iter().map(|assignment| String::from(*assignment));
    ConfigSources { file: None, env: env.collect(), set: set.collect() }
}

/// The reference with its examples switched on.
fn everything() -> String {
    let mut toml = String::new();
    for line in REFERENCE.lines() {
        let example =
            line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' '));
        toml.push_str(example.unwrap_or(line));
        toml.push('\n');
    }
    toml.replace("/run/credentials", "DIR").replace("./rules/", "DIR/")
}

/// Every key with a value, as `dispatch.retry.push.base`; list and user-chosen names left out.
fn keys_of(table: &toml::Table, path: &str, keys: &mut Vec<String>) {
    for (key, value) in table {
        let path = match path {
            "" => key.clone(),
            "providers.apns" | "providers.fcm" => format!("{path}.<app>"),
            _ => format!("{path}.{key}"),
        };
        match value {
            toml::Value::Table(_) if path == "rules.chain.config" => keys.push(path),
            toml::Value::Table(inner) => keys_of(inner, &path, keys),
            toml::Value::Array(all) if path == "rules.chain" => {
                all.iter().filter_map(toml::Value::as_table).for_each(|t| keys_of(t, &path, keys));
            }
            _ => keys.push(path),
        }
    }
}

#[test]
fn the_reference_is_exactly_the_defaults() {
    let files = Files::new(REFERENCE);
    assert_eq!(Config::load(files.sources()).unwrap(), Config::default());
    let mut written = Vec::new();
    keys_of(&REFERENCE.parse().unwrap(), "", &mut written);
    let mut shown = Vec::new();
    keys_of(&Config::default().effective_toml().parse().unwrap(), "", &mut shown);
    written.sort_unstable();
    shown.sort_unstable();
    assert_eq!(written, shown, "the reference names every key");
}

#[test]
fn the_examples_in_the_reference_are_valid_and_complete() {
    let files = Files::new(&everything());
    let config = Config::load(files.sources()).unwrap();
    let rule = config.rules.chain.first().unwrap();
    assert_eq!((rule.name.as_str(), rule.on_error), ("quiet-hours", Some(OnError::DefaultPlan)));
    assert_eq!(rule.config.get("from").map(String::as_str), Some("22:00"));
    assert_eq!(rule.matches.channels, [ProviderName::Apns, ProviderName::Fcm]);
    let apns = config.providers.apns.get("main").unwrap();
    assert_eq!(apns.key.as_ref().map(|key| key.reveal()), Some(KEY));
    assert_eq!((apns.topic.as_str(), apns.endpoint.as_ref()), ("com.example.app", None));
    let fcm = config.providers.fcm.get("main").unwrap();
    assert_eq!(fcm.service_account.as_ref().map(|account| account.reveal()), Some(ACCOUNT));

    let mut written = Vec::new();
    keys_of(&everything().parse().unwrap(), "", &mut written);
    let mut shown = Vec::new();
    keys_of(&config.effective_toml().parse().unwrap(), "", &mut shown);
    written.sort_unstable();
    shown.sort_unstable();
    assert_eq!(written, shown, "the reference names every key");
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let documentation = include_str!("../../../docs/configuration.md");
    let mut keys = Vec::new();
    keys_of(&everything().parse().unwrap(), "", &mut keys);
    keys.extend(
        [
            "providers.apns.<app>.key",
            "providers.fcm.<app>.service_account",
            "providers.email.password",
            "providers.slack.oauth.client_secret",
        ]
        .map(String::from),
    );
    let documented: Vec<&str> = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(key, _)| key))
        .collect();
    for key in &keys {
        assert!(documented.contains(&key.as_str()), "{key} is not documented");
    }
    for key in documented {
        assert!(keys.iter().any(|known| known == key), "{key} is documented but does not exist");
    }
}

#[test]
fn later_sources_win() {
    let files =
        Files::new("[server]\nmax_inflight = 1\nmax_connections = 300\nlisten = \"127.0.0.1:1\"");
    let sources = ConfigSources {
        env: vec![
            (String::from("BUGLER_SERVER__MAX_INFLIGHT"), String::from("2")),
            (String::from("BUGLER_SERVER__MAX_CONNECTIONS"), String::from("301")),
            (String::from("BUGLER_TOKEN"), String::from("not a setting")),
            (String::from("PATH__X"), String::from("not ours")),
        ],
        set: ["server.max_inflight=3", "server.max_inflight = 4"].map(String::from).to_vec(),
        ..files.sources()
    };
    let server = Config::load(sources).unwrap().server;
    assert_eq!((server.max_inflight, server.max_connections), (4, 301));
    assert_eq!((server.listen.port(), server.admin_listen.port()), (1, 2846));
}

#[test]
fn every_key_can_be_set_from_the_environment_and_the_command_line() {
    let files = Files::new(&everything());
    let config = Config::load(files.sources()).unwrap();
    let mut table: toml::Table = config.effective_toml().parse().unwrap();
    // Lists of sections have no names to address them by.
    table.get_mut("rules").unwrap().as_table_mut().unwrap().remove("chain");
    let mut given = Vec::new();
    flatten(&toml::Value::Table(table), "", &mut given);
    let env: Vec<_> = given
        .iter()
        .map(|(path, text)| {
            (format!("BUGLER_{}", path.to_uppercase().replace('.', "__")), text.clone())
        })
        .collect();
    let set = given.iter().map(|(path, text)| format!("{path}={text}")).collect();
    for sources in [
        ConfigSources { env, ..ConfigSources::default() },
        ConfigSources { set, ..ConfigSources::default() },
    ] {
        let mut loaded = Config::load(sources).unwrap();
        loaded.rules.chain.clone_from(&config.rules.chain);
        assert_eq!(loaded, config);
    }
}

fn flatten(value: &toml::Value, path: &str, all: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(value, &path, all);
            }
        }
        toml::Value::String(text) => all.push((String::from(path), text.clone())),
        other => all.push((String::from(path), other.to_string())),
    }
}

#[test]
fn every_problem_is_reported_at_once_with_its_key() {
    let files = Files::new(
        r#"
        colour = "red"
        [server]
        listn = "127.0.0.1:80"
        listen = "localhost"
        max_body = "1MB"
        max_inflight = "many"
        header_timeout = "soon"
        drain_timeout = "2d"
        shards = 4
        [server.tls]
        cert_file = "DIR/none.pem"
        [store]
        fsync = "interval:0s"
        shards = 0
        [limits]
        per_org = "10k/m"
        [dispatch.retry.push]
        base = "1h"
        [[rules.chain]]
        name = "a"
        path = "DIR/none.wasm"
        on_error = "ignore"
        [[rules.chain]]
        name = "a"
        version = "1"
        path = "DIR/quiet_hours.wasm"
        match = { recipients = ["everybody"], chanels = [] }
        [providers.apns.main]
        team_id = "short"
        key_id = "FGHIJ67890"
        key = "inline"
        key_file = "DIR/apns.p8"
        endpoint = "http://push.example.com"
        [providers.fcm.main]
        service_account_file = "DIR/none.json"
        ca_file = "DIR/apns.p8"
        [observability]
        log_level = "a=b=c"
        "#,
    );
    let expected = r#"server.listen: must be an address and port such as "127.0.0.1:2845"
server.max_body: must be a size such as "256KiB" or "16MiB"
server.max_inflight: must be a whole number
server.header_timeout: must be a duration such as "100ms", "5s", "15m", "24h" or "7d"
server.drain_timeout: must be from "10ms" to "1h"
store.shards: must be from 1 to 256
store.fsync: must be "commit", "interval:100ms" or "never"
limits.per_org: must be a rate such as "10000/m" or "50/s", or "0" for none
rules.chain[0].on_error: must be "closed", "open" or "default-plan"
rules.chain[1].match.recipients: must be a list of "user", "subscription"
providers.apns.main.key_file: set this or key, not both
providers.fcm.main.service_account_file: DIR/none.json cannot be read: No such file or directory (os error 2)
observability.log_level: is not a log filter: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
server.listn: is not a setting (did you mean server.listen?)
server.shards: is not a setting (did you mean store.shards?)
rules.chain[1].match.chanels: is not a setting (did you mean rules.chain[1].match.channels?)
colour: is not a setting
server.tls.key_file: is missing (set both or none)
server.tls.cert_file: DIR/none.pem cannot be read: No such file or directory (os error 2) (check the path and its permissions)
dispatch.retry.push.base: is longer than its cap (lower it)
rules.chain[0].version: is required (set it)
rules.chain[0].path: DIR/none.wasm is not a file (build the rule first)
rules.chain[1].name: is used twice (rename one)
providers.apns.main.team_id: must be 10 letters and digits (copy it from the developer account)
providers.apns.main.topic: is required (usually the app's bundle id)
providers.apns.main.endpoint: would send credentials in the clear (use https, or http to a loopback address)
providers.fcm.main.ca_file: DIR/apns.p8 holds no CERTIFICATE in PEM (convert it to PEM)"#;
    assert_eq!(files.problems(), expected);
}

#[test]
fn overrides_that_do_not_fit_say_where_they_come_from() {
    let env = [
        ("BUGLER_SERVER__MAX_INFLIGHT", "many"),
        ("BUGLER_SERVER__LISTN", "127.0.0.1:1"),
        ("BUGLER_PROVIDERS__FCM__MAIN__CONNECTIONS", "0"),
    ];
    let problems = Config::load(overridden(&env, &["store.shards", "store.shard=4"])).unwrap_err();
    let expected = "\
--set store.shards: has no value (write --set section.key=value)
server.max_inflight: must be a whole number (set by BUGLER_SERVER__MAX_INFLIGHT)
providers.fcm.main.service_account_file: is required, or service_account inline
providers.fcm.main.connections: must be from 1 to 64 (set by BUGLER_PROVIDERS__FCM__MAIN__CONNECTIONS)
server.listn: is not a setting, but BUGLER_SERVER__LISTN sets it (did you mean server.listen?)
store.shard: is not a setting, but --set store.shard sets it (did you mean store.shards?)";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn rules_between_settings_are_kept() {
    let broken = |set: &[&str]| match Config::load(overridden(&[], set)) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    };
    let cases: [(&[&str], &str); 8] = [
        (&["server.admin_listen=0.0.0.0:2846"], "server.admin_listen: is reachable"),
        (&["server.admin_listen=127.0.0.1:2845"], "server.admin_listen: is the same"),
        (&["server.max_body=32MiB"], "server.max_body: is larger"),
        (&["server.max_connections=10"], "server.max_connections_per_ip: is larger"),
        (&["dispatch.lease=18s"], "dispatch.lease: must be longer"),
        (&["dispatch.ttl.webhook=2d"], "dispatch.ttl.webhook: ends before"),
        (&["dispatch.ttl.email=15h"], "dispatch.ttl.email: ends before"),
        (&["store.max_disk=16MiB"], "store.segment: is larger"),
    ];
    for (set, expected) in cases {
        let problems = broken(set);
        assert!(problems.starts_with(expected), "{set:?}: {problems}");
    }
    for set in [
        &["server.admin_listen=0.0.0.0:2846", "admin.allow_public=true"][..],
        &["server.admin_listen=127.0.0.1:0", "server.listen=127.0.0.1:0"],
        &["dispatch.lease=18001ms"],
        &["dispatch.retry.webhook.schedule=[\"1s\"]", "dispatch.ttl.webhook=1s"],
    ] {
        assert_eq!(broken(set), "", "{set:?}");
    }
}

#[test]
fn a_slow_provider_needs_a_longer_lease() {
    let files = Files::new(&everything());
    for app in ["providers.apns.main", "providers.fcm.main", "providers.email"] {
        let set = vec![format!("{app}.timeout=57s")];
        let problems = Config::load(ConfigSources { set, ..files.sources() }).unwrap_err();
        assert!(problems.to_string().starts_with("dispatch.lease: must be longer"), "{problems}");
        let set = vec![format!("{app}.timeout=56s")];
        assert!(Config::load(ConfigSources { set, ..files.sources() }).is_ok());
    }
}

#[test]
fn a_mail_relay_is_there_or_not_and_whole_if_it_is() {
    let load = |set: &[&str]| Config::load(overridden(&[], set));
    assert_eq!(load(&[]).unwrap().providers.email, None);
    let whole = ["providers.email.host=localhost", "providers.email.from=b@example.com"];
    let relay = load(&whole).unwrap().providers.email.unwrap();
    assert_eq!((relay.port, relay.tls, relay.connections), (587, RelaySecurity::Starttls, 4));
    let cases: [(&[&str], &str); 11] = [
        (&["host="], "host: must be a string that is not empty"),
        (&["host=smtp.example.com:25"], "host: is neither a name nor an address (write it without"),
        (&["host=smtp.example.com", "tls=none"], "tls: would send mail and passwords in the clear"),
        (&["tls=maybe"], "tls: must be \"starttls\", \"implicit\" or \"none\""),
        (&["port=0"], "port: must be from 1 to 65535"),
        (&["user=u"], "password_file: is missing"),
        (&["password=p"], "user: is missing"),
        (&["password=p", "password_file=/p"], "password_file: set this or password, not both"),
        (&["from=Bugler"], "from: is not an address"),
        (&["from_name=a\nb"], "from_name: is more than a line"),
        (&["connections=0"], "connections: must be from 1 to 64"),
    ];
    for (set, expected) in cases {
        let set = set.iter().map(|set| format!("providers.email.{set}"));
        let set: Vec<String> = whole.map(String::from).into_iter().chain(set).collect();
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let problems = load(&set).unwrap_err().to_string();
        assert!(problems.starts_with(&format!("providers.email.{expected}")), "{problems}");
    }
    let half = load(&["providers.email.port=25"]).unwrap_err().to_string();
    assert!(half.starts_with("providers.email.host: is required (name the SMTP relay)"), "{half}");
    assert!(half.contains("providers.email.from: is not an address"), "{half}");
    for local in ["user=", "host=127.0.0.1", "host=[::1]"] {
        let set = ["providers.email.tls=none", &format!("providers.email.{local}")];
        assert!(load(&[&whole[..], &set].concat()).is_ok(), "{local}");
    }
}

#[test]
fn a_slack_app_is_there_or_not_and_whole_if_it_is() {
    let load = |set: &[&str]| Config::load(overridden(&[], set));
    assert_eq!(load(&[]).unwrap().providers.slack_app, None);
    let whole =
        ["providers.slack.oauth.client_id=1.2", "providers.slack.oauth.client_secret=hidden"];
    let app = load(&whole).unwrap().providers.slack_app.unwrap();
    assert_eq!((app.endpoint, app.allowed_redirects), (None, Vec::<String>::new()));
    let cases: [(&str, &str); 4] = [
        ("client_id=", "client_id: must be a string that is not empty"),
        ("client_secret_file=/s", "client_secret_file: set this or client_secret, not both"),
        ("endpoint=http://slack.example.com", "endpoint: would send credentials in the clear"),
        ("allowed_redirects=[\"x\"]", "allowed_redirects: must be a list of at most 100 URLs"),
    ];
    for (set, expected) in cases {
        let set = format!("providers.slack.oauth.{set}");
        let problems = load(&[whole[0], whole[1], &set]).unwrap_err().to_string();
        assert!(problems.starts_with(&format!("providers.slack.oauth.{expected}")), "{problems}");
    }
    let alone = load(&whole[..1]).unwrap_err().to_string();
    assert!(alone.contains("client_secret_file: is required"), "{alone}");
    let alone = load(&whole[1..]).unwrap_err().to_string();
    assert!(alone.contains("client_id: is required"), "{alone}");
}

#[test]
fn text_that_is_not_toml_names_the_line() {
    let problems = Files::new("[server]\nlisten = \n").problems();
    assert!(problems.starts_with("DIR/bugler.toml:2: "), "{problems}");
    let missing = ConfigSources { file: Some("/nowhere/bugler.toml".into()), ..Default::default() };
    let problems = Config::load(missing).unwrap_err().to_string();
    assert!(problems.starts_with("/nowhere/bugler.toml: cannot be read"), "{problems}");
}

#[test]
fn secrets_are_shown_nowhere() {
    let toml =
        everything().replace("key_file = \"DIR/apns.p8\"", &format!("key = '''{KEY}'''")).replace(
            "service_account_file = \"DIR/fcm.json\"",
            &format!("service_account = '{ACCOUNT}'"),
        );
    let toml = toml.replace("password_file = \"DIR/smtp.password\"", "password = 'smtptopsecret'");
    let toml = toml
        .replace("client_secret_file = \"DIR/slack.secret\"", "client_secret = 'slacktopsecret'");
    let config = Config::load(Files::new(&toml).sources()).unwrap();
    let app = config.providers.slack_app.as_ref().unwrap();
    assert_eq!(app.client_secret.as_ref().map(|s| s.reveal()), Some("slacktopsecret"));
    let relay = config.providers.email.as_ref().unwrap();
    assert_eq!(relay.password.as_ref().map(|p| p.reveal()), Some("smtptopsecret"));
    let apns = config.providers.apns.get("main").unwrap();
    assert_eq!(apns.key.as_ref().map(|key| key.reveal()), Some(KEY));
    for shown in [config.effective_toml(), format!("{config:?}")] {
        assert!(!shown.contains("c2VjcmV0") && !shown.contains("topsecret"), "{shown}");
        assert!(shown.contains("***"), "{shown}");
    }
}

#[test]
fn the_settings_in_force_load_again_as_the_same_settings() {
    let files = Files::new(&everything());
    let config = Config::load(files.sources()).unwrap();
    std::fs::write(files.path("bugler.toml"), config.effective_toml()).unwrap();
    assert_eq!(Config::load(files.sources()).unwrap(), config);
}

#[test]
fn values_are_written_with_units() {
    let load = |set: &str| Config::load(overridden(&[], &[set]));
    let spans = [("100ms", 100), ("5s", 5_000), ("15m", 900_000), ("24h", 86_400_000)];
    for (text, ms) in spans {
        let config = load(&format!("providers.connect_timeout={text}"));
        let in_range = ms <= 60_000;
        assert_eq!(config.is_ok(), in_range, "{text}");
        if in_range {
            assert_eq!(config.unwrap().providers.connect_timeout, Duration::from_millis(ms));
        }
    }
    for wrong in ["5", "s", "", "-5s", "5 parsecs", "1.5s", "99999999999999999999s"] {
        assert!(load(&format!("providers.connect_timeout={wrong}")).is_err(), "{wrong}");
    }
    let rate = |text: &str| load(&format!("limits.per_org={text}")).unwrap().limits.per_org;
    assert_eq!(rate("0"), None);
    let minute = Duration::from_secs(60);
    assert_eq!(rate("10000/m"), Some(Rate { count: 10_000, per: minute }));
    let fsync = |text: &str| load(&format!("store.fsync={text}")).unwrap().store.fsync;
    assert_eq!(fsync("interval:100ms"), Fsync::Interval(Duration::from_millis(100)));
    assert_eq!(fsync("never"), Fsync::Never);
    assert_eq!(ByteSize(256 << 10).to_string(), "256KiB");
    assert_eq!(ByteSize(1000).to_string(), "1000B");
    assert_eq!(ByteSize(0).to_string(), "0B");
}

#[test]
fn signing_keys_live_in_the_data_directory_unless_named() {
    let config = Config::load(overridden(&[], &["store.dir=/data"])).unwrap();
    assert_eq!(config.keys_path(), Path::new("/data/keys.json"));
    let config = Config::load(overridden(&[], &["auth.keys_file=/keys"])).unwrap();
    assert_eq!(config.keys_path(), Path::new("/keys"));
}
