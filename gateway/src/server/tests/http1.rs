//! Hostile and odd HTTP/1 input.

use super::*;

/// Asserts that `bytes` get `expected`, a closed connection, and never reach the service.
async fn check_refused(server: &TestServer, bytes: impl AsRef<[u8]>, expected: u16, path: &str) {
    let bytes = bytes.as_ref();
    let calls = server.calls();
    let answer = server.ask(bytes).await;
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]);
    assert_eq!(status(&answer), expected, "{shown:?} got {answer:?}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shown:?} got {answer:?}");
    assert!(answer.contains(&format!("refused {path}: ")), "{shown:?} got {answer:?}");
    assert!(answer.contains("connection: close"), "{shown:?} got {answer:?}");
    assert!(answer.contains("x-content-type-options: nosniff"), "{answer:?}");
    assert!(answer.contains("bugler-request-id: "), "{answer:?}");
    assert_eq!(server.calls(), calls, "{shown:?} reached the service");
}

/// Asserts an answer of `expected` without reaching the service, on a connection that may live on.
async fn check_answered(server: &TestServer, head: &str, expected: u16) -> String {
    let calls = server.calls();
    let mut peer = server.connect().await;
    peer.send(head).await;
    let answer = peer.until("refused ").await;
    assert_eq!(status(&answer), expected, "{head:?} got {answer:?}");
    assert_eq!(server.calls(), calls, "{head:?} reached the service");
    answer
}

#[tokio::test]
async fn ambiguous_framing_gets_400_and_a_closed_connection() {
    let server = TestServer::start(ServerLimits::default()).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
    ] {
        let head = format!("POST /echo HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n0\r\n\r\n{smuggled}");
        check_refused(&server, head, 400, "/echo").await;
    }
    let old = "POST /echo HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    check_refused(&server, old, 400, "/echo").await;
}

#[tokio::test]
async fn malformed_heads_get_400_and_a_closed_connection() {
    let server = TestServer::start(ServerLimits::default()).await;
    for (head, path) in [
        (&b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n"[..], "/a"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", "/a"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\0\r\n\r\n", "/a"),
        (b"GET /a HTTP/1.1\nHost: h\n\n", "/a"),
        (b"GET /a HTTP/1.1\r\nHost: h\0\r\n\r\n", "/a"),
        (b"GET /a HTTP/1.1\r\nHost : h\r\n\r\n", "/a"),
        (b"GET /a\r\n\r\n", "/a"),
        (b"GET /a HTTP/3.0\r\n\r\n", "/a"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "/"),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "/"),
    ] {
        check_refused(&server, head, 400, path).await;
    }
}

#[tokio::test]
async fn a_request_names_exactly_one_valid_host() {
    let server = TestServer::start(ServerLimits::default()).await;
    for head in [
        "GET /a HTTP/1.1\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: u@h\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
        "GET http://other/a HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET http://u@h/a HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET http://h/a HTTP/1.1\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        check_answered(&server, head, 400).await;
    }
    let mut peer = server.connect().await;
    peer.send("GET http://H:1/abs HTTP/1.1\r\nHost: h:1\r\n\r\n").await;
    assert!(peer.until("ok /abs").await.starts_with("HTTP/1.1 200"));
    let old = server.ask("GET /old HTTP/1.0\r\n\r\n").await;
    assert!(old.contains("200 OK") && old.ends_with("ok /old"), "{old:?}");
}

#[tokio::test]
async fn methods_nobody_serves_get_405_with_allow() {
    let server = TestServer::start(ServerLimits::default()).await;
    for line in ["TRACE /a", "PRI /a", "BREW /a", "CONNECT h:443"] {
        let head = format!("{line} HTTP/1.1\r\nHost: h:443\r\n\r\n");
        let answer = check_answered(&server, &head, 405).await;
        assert!(answer.contains("allow: GET, HEAD, POST"), "{answer:?}");
    }
}

#[tokio::test]
async fn oversized_heads_get_431_and_414() {
    let server = TestServer::start(ServerLimits::default()).await;
    let fields = format!("GET /a HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(64));
    check_refused(&server, fields, 431, "/a").await;
    let long = format!("GET /a HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "b".repeat(40_000));
    check_refused(&server, long, 431, "/a").await;
    let target = format!("GET /a?{} HTTP/1.1\r\nHost: h\r\n\r\n", "b".repeat(70_000));
    check_refused(&server, target, 414, "/a").await;
    let fits = format!("GET /a HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(63));
    let mut peer = server.connect().await;
    peer.send(fits).await;
    peer.until("ok /a").await;
}

#[tokio::test]
async fn encoded_bodies_get_415() {
    let server = TestServer::start(ServerLimits::default()).await;
    for encoding in ["gzip", "br", "zstd", "deflate", "gzip, gzip"] {
        let head = format!(
            "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Encoding: {encoding}\r\n\
             Content-Length: 1\r\n\r\nx"
        );
        check_answered(&server, &head, 415).await;
    }
}

#[tokio::test]
async fn bodies_over_the_limit_get_413_however_they_are_sent() {
    let server = TestServer::start(ServerLimits::default()).await;
    let body = "x".repeat(300 * 1024);
    let head = "POST /echo HTTP/1.1\r\nHost: h\r\n";
    let whole = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let answer = server.ask(whole).await;
    assert_eq!(status(&answer), 413, "{answer:?}");
    let chunked =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let mut peer = server.connect().await;
    peer.send(chunked).await;
    // What is left of the body may be here already; then the connection lives on.
    let answer = peer.until("refused /echo").await;
    assert_eq!(status(&answer), 413, "{answer:?}");
}

#[tokio::test]
async fn a_caller_that_waits_for_100_gets_413_instead() {
    let server = TestServer::start(ServerLimits::default()).await;
    let head = "POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n";
    // Over the route's limit, then over the server's.
    for length in [300_000u64, 300_000_000] {
        let answer = server.ask(format!("{head}Content-Length: {length}\r\n\r\n")).await;
        assert_eq!(status(&answer), 413, "{answer:?}");
        assert!(!answer.contains("100 Continue"), "{answer:?}");
    }
    let mut peer = server.connect().await;
    peer.send(format!("{head}Content-Length: 2\r\n\r\n")).await;
    peer.until("100 Continue").await;
    peer.send("hi").await;
    assert!(peer.until("\r\n\r\nhi").await.contains("200 OK"));
}

#[tokio::test]
async fn malformed_chunks_get_400() {
    let server = TestServer::start(ServerLimits::default()).await;
    let head = "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(70_000));
    for body in ["ffffffffffffffffff\r\n", "2\nhi\n0\n\n", "x\r\n", "2\r\nhiX", extension.as_str()]
    {
        let answer = server.ask(format!("{head}{body}")).await;
        assert_eq!(status(&answer), 400, "{body:.20?} got {answer:?}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::start(ServerLimits::default()).await;
    let count = 2_000;
    let mut input = String::new();
    for i in 0..count {
        let body = format!("body {i}");
        input += &match i % 3 {
            0 => format!("GET /{i} HTTP/1.1\r\nHost: h\r\n\r\n"),
            1 => format!(
                "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
            _ => format!(
                "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            ),
        };
    }
    // A violation behind them is answered last, and nothing behind it is served.
    input += "GET /bad HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n";
    input += "GET /after HTTP/1.1\r\nHost: h\r\n\r\n";
    let answers = server.ask(input).await;
    let bodies: Vec<_> = answers
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
        .collect();
    let expected: Vec<_> = (0..count)
        .map(|i| if i % 3 == 0 { format!("ok /{i}") } else { format!("body {i}") })
        .chain([String::from("refused /bad: Content-Length is malformed")])
        .collect();
    assert_eq!(bodies, expected);
    assert_eq!(server.calls(), count);
}

#[tokio::test]
async fn request_ids_are_echoed_when_harmless_and_replaced_otherwise() {
    let server = TestServer::start(ServerLimits::default()).await;
    let mut peer = server.connect().await;
    peer.send("GET /a HTTP/1.1\r\nHost: h\r\nX-Request-Id: Order-7\r\n\r\n").await;
    let answer = peer.until("ok /a").await;
    assert!(answer.contains("x-request-id: Order-7\r\n"), "{answer:?}");
    assert!(answer.contains("bugler-request-id: Order-7\r\n"), "{answer:?}");
    peer.send("GET /b HTTP/1.1\r\nHost: h\r\nX-Request-Id: <script>\r\n\r\n").await;
    let answer = peer.until("ok /b").await;
    assert!(!answer.contains("script"), "{answer:?}");
    let ids = server.echo.ids.lock().clone();
    assert_eq!(ids[0], "Order-7");
    assert!(answer.contains(&format!("x-request-id: {}\r\n", ids[1])), "{answer:?}");
}

#[tokio::test]
async fn a_streamed_answer_arrives_whole() {
    let server = TestServer::start(ServerLimits::default()).await;
    let answer = server.ask("GET /stream HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("one ") && answer.contains("two"), "{answer:?}");
    let head = server.ask("HEAD /a b HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400") && head.ends_with("\r\n\r\n"), "{head:?}");
}

#[tokio::test]
async fn a_refusal_reaches_a_caller_that_is_still_sending() {
    let server = TestServer::start(ServerLimits::default()).await;
    let mut peer = server.connect().await;
    let piece = "x".repeat(64 * 1024);
    let head = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 300000000\r\n\r\n";
    peer.send(format!("{head}{piece}")).await;
    peer.0.readable().await.unwrap();
    // Many callers look for an answer only after a write that succeeded, and some systems drop
    // what was received before a reset.
    for _ in 0..4 {
        peer.0.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    peer.0.shutdown().await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, peer.0.read_to_string(&mut answer)).await;
    read.expect("the server closes").expect("without a reset");
    assert_eq!(status(&answer), 413, "{answer:?}");
}

#[tokio::test]
async fn a_refused_request_keeps_its_connection_though_its_short_body_comes_later() {
    let server = TestServer::start(ServerLimits::default()).await;
    let mut peer = server.connect().await;
    peer.send("POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n").await;
    let refused = peer.until("refused /unread").await;
    assert_eq!(status(&refused), 404, "{refused:?}");
    assert!(!refused.to_lowercase().contains("connection: close"), "{refused:?}");
    peer.send("hello").await;
    peer.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi").await;
    assert!(peer.until("\r\n\r\nhi").await.contains("200 OK"));
}

#[tokio::test]
async fn a_refusal_before_a_long_body_says_that_the_connection_ends() {
    let server = TestServer::start(ServerLimits::default()).await;
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let head = format!("POST /unread HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n");
        let answer = server.ask(head).await.to_lowercase();
        assert!(answer.contains("connection: close"), "{framing}: {answer:?}");
    }
}
