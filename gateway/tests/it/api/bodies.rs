//! Bodies over their limit, and requests that break HTTP: refused early, with nothing stored.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::client::{Ask, Protocol, Raw};
use crate::support::gateway::{Gateway, Home};
use crate::support::{soon, world};

const JIGX: &str = "/v2.0/tool/organizations/101/notifications";
const BLYNK: &str = "/api/v1/organization/users/send-push-notification";
const NATIVE: &str = "/bugler/v1/notifications";
const BATCH: &str = "/bugler/v1/notifications:batch";
const LIMIT: usize = 256 * 1024;
/// Each dialect's path and largest body.
const LIMITS: [(&str, usize); 4] =
    [(JIGX, LIMIT), (BLYNK, 2_000_000), (NATIVE, LIMIT), (BATCH, 16 << 20)];

async fn gateway() -> (Home, Gateway, String) {
    let home = Home::new(world::directory()).set("store.segment=1MiB");
    let gateway = home.start().await;
    let token = home.token(101).await;
    (home, gateway, token)
}

fn head(path: &str, token: &str, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\n{more}\r\n"
    )
}

/// A right Jigx body of exactly `size` bytes.
fn padded(size: usize) -> String {
    let body = r#"{"content":{"text":"t"},"scope":"ORG"}"#;
    format!("{body}{}", " ".repeat(size - body.len()))
}

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_body_is_asked_for() {
    let (_home, gateway, token) = gateway().await;
    for (path, limit) in LIMITS {
        for expect in ["", "Expect: 100-continue\r\n"] {
            let mut raw = Raw::connect(gateway.api).await;
            let more = format!("Content-Length: {}\r\n{expect}", limit + 1);
            raw.write(head(path, &token, &more).as_bytes()).await;
            // Not one byte of the body is sent: an answer proves that none was waited for.
            let answer = raw.read_until("\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 413 "), "{path}: {answer}");
            assert!(!answer.contains("100 Continue"), "{path}: {answer}");
            assert!(answer.contains("bugler-error: BGL-1413\r\n"), "{path}: {answer}");
        }
    }
    assert_eq!(gateway.accepted().await, 0);
}

#[tokio::test]
async fn a_caller_without_a_token_is_never_asked_for_its_body() {
    let (_home, gateway, _) = gateway().await;
    for (path, _) in LIMITS {
        let mut raw = Raw::connect(gateway.api).await;
        let more = "Content-Length: 1000\r\nExpect: 100-continue\r\n";
        raw.write(head(path, "x", more).as_bytes()).await;
        let answer = raw.read_until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_body_at_the_limit_is_read_and_one_byte_more_is_not() {
    let (_home, gateway, token) = gateway().await;
    let ask = |size: usize| Ask::post(JIGX).bearer(&token).json(padded(size));
    for protocol in Protocol::ALL {
        assert_eq!(ask(LIMIT).send(protocol, gateway.api).await.status, 201, "{protocol:?}");
    }
    let mut raw = Raw::connect(gateway.api).await;
    let more = format!("Content-Length: {LIMIT}\r\nExpect: 100-continue\r\n");
    raw.write(head(JIGX, &token, &more).as_bytes()).await;
    let answer = raw.read_until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 100 "), "{answer}");
    raw.write(padded(LIMIT).as_bytes()).await;
    let answer = raw.read_until("notificationId").await;
    assert!(answer.contains("HTTP/1.1 201 "), "{answer}");

    assert_eq!(ask(LIMIT + 1).send(Protocol::Http2, gateway.api).await.status, 413);
    assert_eq!(gateway.accepted().await, 3);
}

#[tokio::test]
async fn a_chunked_body_is_cut_off_at_the_limit() {
    let (_home, gateway, token) = gateway().await;
    for (path, limit) in LIMITS.into_iter().filter(|(path, _)| *path != BATCH) {
        let mut raw = Raw::connect(gateway.api).await;
        raw.write(head(path, &token, "Transfer-Encoding: chunked\r\n").as_bytes()).await;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
        let mut sent = 0;
        // The gateway may close while this still writes; what it answered is there to be read.
        while sent <= limit && raw.write(chunk.as_bytes()).await {
            sent += 0x1_0000;
        }
        let answer = raw.read_until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{path}: {answer}");
    }
    assert_eq!(gateway.accepted().await, 0);
}

#[tokio::test]
async fn an_http2_body_of_unknown_length_is_cut_off_at_the_limit() {
    let (_home, gateway, token) = gateway().await;
    let io = TokioIo::new(TcpStream::connect(gateway.api).await.expect("the gateway listens"));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut send, connection) = handshake.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    let chunk = |_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b' '; 64 << 10])));
    let body = StreamBody::new(futures_util::stream::iter((0..64).map(chunk)));
    let request = http::Request::post(format!("http://gateway{JIGX}"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(body)
        .expect("a right request");
    let answer = soon("an answer", send.send_request(request)).await.expect("an answer");
    assert_eq!(answer.status(), 413);
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body, r#"{"message":"Request Too Long"}"#);
    assert_eq!(gateway.accepted().await, 0);
}
