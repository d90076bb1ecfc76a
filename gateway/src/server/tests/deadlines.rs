//! Slow peers lose their connection; only that it closes is asserted, never when.

use super::*;

async fn check_closed(limits: ServerLimits, sent: &[u8]) {
    let server = TestServer::start(limits).await;
    let mut peer = server.connect().await;
    peer.send(sent).await;
    assert_eq!(peer.rest().await, "", "{:?}", String::from_utf8_lossy(sent));
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    check_closed(ServerLimits { first_byte: SHORT, ..ServerLimits::default() }, b"").await;
}

#[tokio::test]
async fn half_a_preface_is_closed() {
    for sent in [&b"P"[..], b"PRI * HTTP/2.0\r\n"] {
        check_closed(ServerLimits { first_byte: SHORT, ..ServerLimits::default() }, sent).await;
    }
}

#[tokio::test]
async fn a_slow_head_is_closed() {
    let limits = || ServerLimits { header: SHORT, ..ServerLimits::default() };
    check_closed(limits(), b"GET / HTT").await;
    check_closed(limits(), b"GET / HTTP/1.1\r\nHost: h\r\nA:").await;

    // Bytes that keep coming do not help.
    let server = TestServer::start(limits()).await;
    let (mut read, mut write) = server.connect().await.0.into_split();
    write.write_all(b"GET / HTTP/1.1\r\nA: ").await.unwrap();
    let dripping = tokio::spawn(async move {
        while write.write_all(b"a").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let mut end = [0; 1];
    let closed = tokio::time::timeout(PATIENCE, read.read(&mut end)).await.expect("closes");
    assert!(matches!(closed, Ok(0) | Err(_)));
    dripping.abort();
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_between_requests() {
    let server = TestServer::start(ServerLimits { idle: SHORT, ..ServerLimits::default() }).await;
    let answer = server.ask("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(answer.ends_with("ok /a"), "{answer:?}");
}

#[tokio::test]
async fn a_request_being_answered_is_not_idle() {
    let limits = ServerLimits { idle: SHORT, header: SHORT, ..ServerLimits::default() };
    let server = TestServer::start(limits).await;
    let mut peer = server.connect().await;
    // A head behind it that never ends must not hurt the request either.
    peer.send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\nGET /next").await;
    server.started().await;
    // Two connections that are idle and mid-head show that both deadlines have run out.
    for sent in ["GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "GET /"] {
        server.ask(sent).await;
    }
    server.echo.release.notify_one();
    peer.until("waited").await;
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn a_slow_body_gets_408() {
    let body = BodyLimits { grace: SHORT, ..BodyLimits::default() };
    let server = TestServer::start(ServerLimits { body, ..ServerLimits::default() }).await;
    let head = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nstart";
    let answer = server.ask(head).await;
    assert_eq!(status(&answer), 408, "{answer:?}");
    // A streamed body ends instead, for its own service to answer.
    let answer = server.ask(head.replace("/echo", "/lines")).await;
    assert!(answer.ends_with("\r\n\r\n5"), "{answer:?}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answer_is_closed() {
    let limits = ServerLimits { write_stall: SHORT, drain: NEVER, ..ServerLimits::default() };
    let server = TestServer::start(limits).await;
    let mut peer = server.connect().await;
    peer.send("GET /big HTTP/1.1\r\nHost: h\r\n\r\n").await;
    // The answer has begun when its first byte is here; the rest fills the socket's buffers.
    peer.0.readable().await.unwrap();
    server.shutdown.drain();
    server.end().await;
}

#[tokio::test]
async fn a_peer_over_its_cap_is_closed_and_others_are_served() {
    let limits = ServerLimits { connections_per_peer: 1, ..ServerLimits::default() };
    let server = TestServer::start(limits).await;
    let mut first = server.connect().await;
    first.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    first.until("ok /a").await;
    assert_eq!(server.connect().await.rest().await, "");
    first.send("GET /b HTTP/1.1\r\nHost: h\r\n\r\n").await;
    first.until("ok /b").await;
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_for_a_slot() {
    let server =
        TestServer::start(ServerLimits { connections: 1, ..ServerLimits::default() }).await;
    let mut first = server.connect().await;
    first.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    first.until("ok /a").await;
    let mut second = server.connect().await;
    second.send("GET /b HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let early = tokio::time::timeout(SHORT, second.until("ok /b")).await;
    assert!(early.is_err(), "served beyond the limit");
    drop(first);
    second.until("ok /b").await;
}
