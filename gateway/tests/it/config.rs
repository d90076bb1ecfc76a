//! Configuration that cannot be used: everything wrong at once, by key, with exit code 3.

use std::net::TcpListener;

use crate::support::gateway::{Home, run};
use crate::support::world;

fn home() -> Home {
    Home::new(world::directory())
}

#[tokio::test]
async fn everything_wrong_is_said_at_once_with_its_key() {
    let config = r#"
[server]
listen = "nowhere"
max_body = "1 MB"
idle_timeout = 60
lissten = "127.0.0.1:1"
[store]
shards = 0
fsync = "sometimes"
[dispatch.retry.webhook]
schedule = ["5s", "soon"]
[[rules.chain]]
name = "r"
version = "1"
path = "/nowhere/r.wasm"
on_error = "shrug"
[providers.apns.main]
team_id = "short"
key_id = "FGHIJ67890"
key_file = "/nowhere/key.p8"
[nonsense]
x = 1
"#;
    let home = home().with(config).set("limits.per_org=many").set("no.such.key=1");
    let mut serve = home.serve();
    serve.env("BUGLER_AUTH__TOKEN_TTL", "a day");
    let failed = run(serve).await;
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    assert_eq!(failed.stdout, "");
    for key in [
        "server.max_body",
        "server.idle_timeout",
        "server.lissten",
        "store.shards",
        "store.fsync",
        "dispatch.retry.webhook.schedule",
        "on_error",
        "providers.apns.main.team_id",
        "providers.apns.main.key_file",
        "providers.apns.main.topic",
        "limits.per_org",
        "no.such.key",
        "auth.token_ttl",
        "nonsense",
    ] {
        let line = failed.stderr.lines().find(|line| line.contains(key));
        assert!(line.is_some(), "{key} is not named in:\n{}", failed.stderr);
    }
    assert!(!home.store().exists(), "a refused configuration touches no data");
}

#[tokio::test]
async fn each_mistake_alone_is_exit_code_3_and_named() {
    let cases: [(&str, &[&str], &str); 10] = [
        ("[server", &[], "bugler.toml"),
        ("server = 1", &[], "server"),
        ("[server]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"", &[], "bugler.toml:3"),
        ("", &["server.admin_listen=0.0.0.0:0"], "admin.allow_public"),
        ("", &["server.bulk_max_body=1KiB"], "server.bulk_max_body"),
        ("", &["dispatch.lease=1s"], "dispatch.lease"),
        ("", &["store.fsync=never", "store.require_durability=D2"], "store.fsync"),
        ("", &["server.tls.cert_file=/nowhere/cert.pem"], "server.tls"),
        ("", &["observability.log_level=info,=x=y"], "log_level"),
        ("", &["server.listen"], "server.listen"),
    ];
    for (config, settings, key) in cases {
        let home = settings.iter().fold(home().with(config), |home, setting| home.set(setting));
        let failed = home.fail().await;
        assert_eq!(failed.code, Some(3), "{config:?} {settings:?}: {}", failed.stderr);
        assert!(failed.stderr.contains(key), "{config:?} {settings:?}: {}", failed.stderr);
    }
}

#[tokio::test]
async fn a_configuration_file_that_is_not_there_is_named() {
    let home = home();
    let mut command = home.command();
    command.args(["serve", "--config", "/nowhere/bugler.toml"]);
    let failed = run(command).await;
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    assert!(failed.stderr.contains("/nowhere/bugler.toml"), "{}", failed.stderr);
}

#[tokio::test]
async fn keys_certificates_and_rules_that_cannot_be_used_are_named() {
    let base = home();
    let file = |name: &str, text: &str| {
        let path = base.path().join(name);
        std::fs::write(&path, text).expect("the file is written");
        path.display().to_string()
    };
    let (key, wasm) = (file("key.p8", "no key"), file("rule.wasm", "no module"));
    let account = file("fcm.json", r#"{"type":"service_account"}"#);
    let cases = [
        (
            format!(
                "[providers.apns.main]\nteam_id = \"ABCDE12345\"\nkey_id = \"FGHIJ67890\"\n\
                 key_file = \"{key}\"\ntopic = \"com.example.app\"\n"
            ),
            "providers.apns.main",
        ),
        (
            format!("[providers.fcm.main]\nservice_account_file = \"{account}\"\n"),
            "providers.fcm.main",
        ),
        (
            format!(
                "[[rules.chain]]\nname = \"broken\"\nversion = \"1\"\npath = \"{wasm}\"\n\
                 required = true\n"
            ),
            "broken",
        ),
        (format!("[server.tls]\ncert_file = \"{key}\"\nkey_file = \"{key}\"\n"), "server.tls"),
    ];
    for (config, name) in cases {
        let failed = home().with(&config).fail().await;
        assert_eq!(failed.code, Some(3), "{config}: {}", failed.stderr);
        assert!(failed.stderr.contains(name), "{config}: {}", failed.stderr);
        assert!(!failed.stderr.contains("no key"), "a secret's text is never shown");
    }
}

#[tokio::test]
async fn check_says_whether_a_configuration_would_do_and_touches_nothing() {
    let right = home();
    let mut command = right.serve();
    command.arg("--check");
    let checked = run(command).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(!right.store().exists());
    let wrong = home().set("store.shards=0");
    let mut command = wrong.serve();
    command.arg("--check");
    assert_eq!(run(command).await.code, Some(3));
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    for key in ["server.listen", "server.admin_listen"] {
        let failed = home().set(&format!("{key}={address}")).fail().await;
        assert_eq!(failed.code, Some(1), "{}", failed.stderr);
        assert!(failed.stderr.contains(&address.to_string()), "{}", failed.stderr);
        assert!(failed.stderr.contains(key), "{}", failed.stderr);
    }
}

#[tokio::test]
async fn a_directory_document_that_is_wrong_is_named() {
    let cases = [
        ("/users/1/email", "username@jigx.com".into(), "users[1].email"),
        ("/users/2/organization", 999.into(), "users[2].organization"),
        ("/users/0/status", "asleep".into(), "users[0].status"),
        ("/organizations/1/uuid", "x".into(), "organizations[1].uuid"),
    ];
    for (place, value, path) in cases {
        let mut directory = world::directory();
        *directory.pointer_mut(place).expect("it is there") = value;
        let failed = Home::new(directory).fail().await;
        assert_eq!(failed.code, Some(1), "{}", failed.stderr);
        for part in ["directory.json", path] {
            assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
        }
    }
}
