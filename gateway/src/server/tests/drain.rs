//! Drain, abort, overload and panics.

use super::*;

const WAIT: &str = "GET /wait HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_closes_the_rest() {
    let server = TestServer::start(ServerLimits { drain: NEVER, ..ServerLimits::default() }).await;
    let mut idle = server.connect().await;
    idle.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    idle.until("ok /a").await;
    let silent = server.connect().await;
    let mut busy = server.connect().await;
    busy.send(WAIT).await;
    server.started().await;

    server.shutdown.drain();
    assert_eq!(idle.rest().await, "");
    let refused = TcpStream::connect(server.address).await;
    server.echo.release.notify_one();
    let answer = busy.rest().await;
    assert!(answer.ends_with("waited"), "{answer:?}");
    drop((silent, refused));
    server.end().await;
}

#[tokio::test]
async fn the_drains_deadline_closes_by_force() {
    let server = TestServer::start(ServerLimits { drain: SHORT, ..ServerLimits::default() }).await;
    let mut busy = server.connect().await;
    busy.send(WAIT).await;
    server.started().await;
    server.shutdown.drain();
    assert_eq!(busy.rest().await, "");
    server.end().await;
}

#[tokio::test]
async fn the_second_stage_aborts_at_once() {
    let server = TestServer::start(ServerLimits { drain: NEVER, ..ServerLimits::default() }).await;
    let mut busy = server.connect().await;
    busy.send(WAIT).await;
    server.started().await;
    server.shutdown.drain();
    server.shutdown.abort();
    assert_eq!(busy.rest().await, "");
    server.end().await;
}

#[tokio::test]
async fn a_full_server_answers_503_with_retry_after_and_recovers() {
    let limits = ServerLimits { max_inflight: 1, retry_after_s: 7, ..ServerLimits::default() };
    let server = TestServer::start(limits).await;
    let mut busy = server.connect().await;
    busy.send(WAIT).await;
    server.started().await;
    let mut other = server.connect().await;
    other.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let answer = other.until("refused ").await;
    assert_eq!(status(&answer), 503, "{answer:?}");
    assert!(answer.contains("retry-after: 7\r\n"), "{answer:?}");
    assert_eq!(server.calls(), 1);
    server.echo.release.notify_one();
    busy.until("waited").await;
    other.send("GET /b HTTP/1.1\r\nHost: h\r\n\r\n").await;
    other.until("ok /b").await;
}

#[tokio::test]
async fn a_panic_costs_one_request_and_no_connection() {
    let server = TestServer::start(ServerLimits::default()).await;
    let mut peer = server.connect().await;
    peer.send("GET /panic HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let answer = peer.until("refused /panic").await;
    assert_eq!(status(&answer), 500, "{answer:?}");
    peer.send("GET /b HTTP/1.1\r\nHost: h\r\n\r\n").await;
    peer.until("ok /b").await;
}

#[tokio::test]
async fn a_caller_that_leaves_frees_its_permit() {
    let server =
        TestServer::start(ServerLimits { max_inflight: 1, ..ServerLimits::default() }).await;
    let mut leaver = server.connect().await;
    leaver.send(WAIT).await;
    server.started().await;
    drop(leaver);
    let mut peer = server.connect().await;
    let served = async {
        loop {
            peer.send("GET /b HTTP/1.1\r\nHost: h\r\n\r\n").await;
            if peer.until(" /b").await.contains("200 OK") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("the permit comes back");
}
