//! New work at a limit: a disk without room, too few descriptors, a body nobody reads.

use std::process::Command;

use bugler_loadtest::twins::TwinName;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::client::{Ask, Protocol, Raw, Reply};
use crate::support::gateway::{Failure, Gateway, Home};
use crate::support::{eventually, soon, world};

const NATIVE: &str = "/bugler/v1/notifications";
const NATIVE_BODY: &str = r#"{"to":{"users":[101]},"title":"once"}"#;

/// Sends of three dialects, and changes of two more.
const WORK: [(&str, &str, &str); 5] = [
    (
        "POST",
        "/v2.0/tool/organizations/101/notifications",
        r#"{"content":{"text":"once"},"scope":"ORG"}"#,
    ),
    ("POST", "/api/v1/organization/users/send-push-notification", r#"{"userId":101,"title":"t"}"#),
    ("POST", NATIVE, NATIVE_BODY),
    ("DELETE", "/v1/organizations/acme/notifications/5f1d7a3b9c4e2d0017a4c901", ""),
    ("POST", "/management/v1/policies/notification", r#"{"passwordChange":true}"#),
];

const SENT: usize = 500;

/// Waits until the gateway has looked at its disk.
async fn seen_full(gateway: &Gateway) -> Reply {
    eventually("readiness names the disk", async || {
        let ready = gateway.admin("/readyz").await;
        (ready.status == 503).then_some(ready)
    })
    .await
}

#[tokio::test]
async fn below_the_least_free_space_new_work_waits_and_reading_goes_on() {
    let home = Home::new(world::directory()).set("store.min_free=1000TiB");
    let gateway = home.start().await;
    let token = home.token(101).await;
    let ready = seen_full(&gateway).await;
    assert!(ready.text().contains("store.min_free"), "{}", ready.text());
    for (method, path, body) in WORK {
        for protocol in Protocol::ALL {
            let ask = Ask::new(method, path).bearer(&token).json(body);
            let refused = ask.send(protocol, gateway.api).await;
            assert_eq!(refused.status, 503, "{path}: {}", refused.text());
            assert_eq!(refused.header("retry-after"), Some("10"), "{path}");
            assert_eq!(refused.header("bugler-error"), Some("BGL-5003"), "{path}");
        }
    }
    let reading = Ask::get("/management/v1/orgs/me").bearer(&token);
    assert_eq!(gateway.ask(&reading).await.status, 200);
    assert_eq!(gateway.accepted().await, 0);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.count("bugler_admission_refused_total"), 10);
}

#[tokio::test]
async fn a_refused_body_over_16_kib_is_not_waited_for() {
    let home = Home::new(world::directory()).set("store.min_free=1000TiB");
    let gateway = home.start().await;
    let token = home.token(101).await;
    seen_full(&gateway).await;
    let mut raw = Raw::connect(gateway.api).await;
    let head = format!(
        "POST {NATIVE} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 16385\r\n\r\n"
    );
    // Not one byte of the body is ever sent.
    assert!(raw.write(head.as_bytes()).await);
    let answer = raw.read_to_end().await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.contains("retry-after: 10"), "{answer}");
}

/// `command` with so few open files as the shell can set for it.
fn limited(command: &Command, files: u32) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
    limited.arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(name, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        limited.current_dir(dir);
    }
    limited
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_never_take_the_descriptors_of_the_store() {
    let twins = world::twins().await;
    let mut directory = world::directory();
    let url = format!("{}/hooks/files", twins.webhook_url());
    world::add_hook(&mut directory, "webhook", &url, &["*"]);
    let home = world::home(&twins, directory).set("store.segment=1MiB").set("store.shards=2");
    let gateway = Gateway::start(limited(&home.serve(), 256)).await;
    let gateway = gateway.unwrap_or_else(|failure: Failure| unreachable!("{failure:#?}"));
    let token = home.token(101).await;
    // One connection is there before all others, and stays.
    let stream = TcpStream::connect(gateway.api).await.expect("the gateway listens");
    let first = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut first, connection) = first.expect("HTTP/1 needs no handshake");
    tokio::spawn(connection);
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(gateway.api).await.expect("the kernel's queue has room"));
    }
    let body = json!({ "to": { "subscriptions": true }, "title": "t", "body": "x".repeat(2_000) });
    let body = Bytes::from(body.to_string());
    // Enough for more than one journal file.
    for _ in 0..SENT {
        let request = http::Request::post(NATIVE)
            .header("host", "a")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::new(body.clone()))
            .expect("a right request");
        soon("the answer before is read", first.ready()).await.expect("an open connection");
        let answer = soon("an answer", first.send_request(request)).await.expect("an answer");
        assert_eq!(answer.status(), 201);
        answer.into_body().collect().await.expect("the answer's body");
    }
    eventually("what was accepted is delivered", async || {
        let receipts = twins.receipts_since(Some(TwinName::Webhook), 0);
        (receipts.iter().filter(|receipt| receipt.succeeded()).count() >= SENT).then_some(())
    })
    .await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.count("bugler_http_accept_errors_total"), 0);
    drop(idle);
    let again = Ask::post(NATIVE).bearer(&token).json(NATIVE_BODY);
    assert_eq!(gateway.ask(&again).await.status, 201, "the idle ones made room");
}
