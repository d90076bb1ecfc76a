//! Each fault shows on the wire as its name says, over HTTP/1.1 and HTTP/2.

use std::time::{Duration, Instant};

use bugler_loadtest::twins::{TwinName, TwinSet};
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Push, address, ask, body, h2, send, soon, twins, twins_showing};

async fn hook(twins: &TwinSet) -> Result<http::Response<bytes::Bytes>, hyper::Error> {
    let url = format!("{}/a", twins.webhook_plain_url());
    soon(ask(twins, "POST", &url, &[], "{}")).await
}

/// A plain connection with a request on it.
async fn raw(twins: &TwinSet) -> TcpStream {
    let mut tcp =
        TcpStream::connect(address(&twins.webhook_plain_url())).await.expect("it listens");
    let request = b"POST /a HTTP/1.1\r\nhost: twin\r\ncontent-length: 2\r\n\r\n{}";
    tcp.write_all(request).await.expect("written");
    tcp
}

/// Nothing comes for a moment.
async fn stays_silent(tcp: &mut TcpStream) -> bool {
    let mut byte = [0];
    tokio::time::timeout(Duration::from_millis(200), tcp.read(&mut byte)).await.is_err()
}

#[tokio::test]
async fn a_status_comes_with_reason_and_retry_after_as_planned() {
    let twins = twins_showing("webhook:status=503&reason=busy&retry-after=30,abc").await;
    let answer = hook(&twins).await.expect("answered");
    assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (503, &b"busy"[..]));
    let values: Vec<_> = answer.headers().get_all("retry-after").iter().collect();
    assert_eq!(values, ["30", "abc"]);
    let receipt = twins.receipts().pop().expect("a receipt");
    assert_eq!((receipt.status, receipt.reason.as_deref()), (503, Some("busy")));
    assert_eq!(receipt.refused, None, "the request itself was right");

    let twins = twins_showing("webhook:status=429&retry-after=date+90").await;
    let answer = hook(&twins).await.expect("answered");
    let date = answer.headers()["retry-after"].to_str().expect("text");
    assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
}

#[tokio::test]
async fn an_error_has_the_form_of_its_provider() {
    let twins = twins_showing("apns:status=503;slack:status=500").await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    let answer =
        soon(send(&mut connection, Push::right(&twins).request())).await.expect("answered");
    assert_eq!(answer.status(), 503);
    assert_eq!(body(&answer)["reason"], "ServiceUnavailable");
    let url = format!("{}/services/T1/B1/x", twins.slack_url());
    let json = [("content-type", "application/json")];
    let answer =
        soon(ask(&twins, "POST", &url, &json, "{\"text\":\"a\"}")).await.expect("answered");
    assert_eq!(answer.body().as_ref(), b"rollup_error");
}

#[tokio::test]
async fn a_delay_passes_before_the_answer() {
    let twins = twins_showing("webhook:delay=100ms").await;
    let start = Instant::now();
    assert_eq!(hook(&twins).await.expect("answered").status(), 200);
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_delayed_request_is_processed_even_when_its_sender_goes_away() {
    let twins = twins_showing("webhook:delay=100ms").await;
    drop(raw(&twins).await);
    soon(async {
        while twins.receipts().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(twins.receipts()[0].status, 200);
}

#[tokio::test]
async fn a_reset_ends_the_connection_with_rst() {
    let twins = twins_showing("reset").await;
    let mut tcp = raw(&twins).await;
    let error = soon(tcp.read(&mut [0; 64])).await.expect_err("no orderly end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let receipt = twins.receipts().pop().expect("a receipt");
    assert_eq!((receipt.status, receipt.reason.as_deref()), (0, Some("reset")));

    let mut connection = h2(&twins, &twins.apns_url()).await;
    let error = soon(send(&mut connection, Push::right(&twins).request())).await;
    assert!(error.expect_err("no answer").is_io());
}

#[tokio::test]
async fn a_reset_stream_leaves_the_connection_alone() {
    let twins = twins_showing("apns:refuse:x1&rst-stream:x1").await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    for reason in [Reason::REFUSED_STREAM, Reason::INTERNAL_ERROR] {
        let error = soon(send(&mut connection, Push::right(&twins).request())).await;
        assert_eq!(error.expect_err("a reset").reason(), Some(reason));
    }
    let answer = soon(send(&mut connection, Push::right(&twins).request())).await;
    assert_eq!(answer.expect("answered").status(), 200);
    let statuses: Vec<u16> = twins.receipts().iter().map(|receipt| receipt.status).collect();
    assert_eq!(statuses, [0, 200], "a refused stream was not processed");
}

#[tokio::test]
async fn a_frozen_request_gets_no_answer() {
    let twins = twins_showing("freeze").await;
    let mut tcp = raw(&twins).await;
    assert!(stays_silent(&mut tcp).await);
    assert_eq!(twins.counts()[&TwinName::Webhook].by_status[&0], 1);
}

#[tokio::test]
async fn a_body_drips_without_end_and_a_head_drips_byte_by_byte() {
    let twins = twins_showing("webhook:drip=5ms").await;
    let mut tcp = raw(&twins).await;
    let mut bytes = Vec::new();
    soon(async {
        while bytes.iter().filter(|byte| **byte == b' ').count() < 10 {
            tcp.read_buf(&mut bytes).await.expect("more to come");
        }
    })
    .await;
    assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));

    let twins = twins_showing("webhook:drip-head=5ms").await;
    let mut tcp = raw(&twins).await;
    let mut first = [0; 64];
    assert_eq!(soon(tcp.read(&mut first)).await.expect("a byte"), 1);
    assert_eq!(first[0], b'H');
}

#[tokio::test]
async fn an_endless_body_never_stops() {
    let twins = twins_showing("endless").await;
    let mut tcp = raw(&twins).await;
    let mut sink = vec![0; 1 << 16];
    let mut read = 0;
    soon(async {
        while read < 4 << 20 {
            read += tcp.read(&mut sink).await.expect("more to come");
        }
    })
    .await;

    let connection = h2(&twins, &twins.apns_url()).await;
    let (parts, _) = Push::right(&twins).request().into_parts();
    let mut ready = connection.ready().await.expect("ready");
    let request = http::Request::from_parts(parts, ());
    let (answer, _) = ready.send_request(request, true).expect("sent");
    let mut body = soon(answer).await.expect("a head").into_body();
    let mut read = 0;
    while read < 1 << 20 {
        let chunk = soon(body.data()).await.expect("more to come").expect("data");
        read += chunk.len();
        body.flow_control().release_capacity(chunk.len()).expect("it was received");
    }
}

#[tokio::test]
async fn a_cut_answer_breaks_off_half_way() {
    let twins = twins_showing("cut;apns:status=503").await;
    assert!(hook(&twins).await.is_err());
    let twins = twins_showing("fcm-token:cut").await;
    let mut connection = h2(&twins, &twins.fcm_url()).await;
    let request = http::Request::post("https://127.0.0.1/token").body(bytes::Bytes::new());
    let error = soon(send(&mut connection, request.expect("a request"))).await;
    assert_eq!(error.expect_err("a reset").reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn bad_json_and_redirects_look_like_successes_that_are_none() {
    let twins = twins_showing("webhook:bad-json:x1&redirect=http://127.0.0.1:1/x").await;
    let answer = hook(&twins).await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert!(serde_json::from_slice::<serde_json::Value>(answer.body()).is_err());
    let answer = hook(&twins).await.expect("answered");
    assert_eq!(answer.status(), 307);
    assert_eq!(answer.headers()["location"], "http://127.0.0.1:1/x");
}

#[tokio::test]
async fn a_request_that_breaks_off_is_recorded_as_such() {
    let twins = twins().await;
    let mut tcp =
        TcpStream::connect(address(&twins.webhook_plain_url())).await.expect("it listens");
    let half = b"POST /a HTTP/1.1\r\nhost: twin\r\ncontent-length: 100\r\n\r\n{\"half\":";
    tcp.write_all(half).await.expect("written");
    drop(tcp);
    soon(async {
        while twins.receipts().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let receipt = twins.receipts().pop().expect("a receipt");
    assert_eq!((receipt.status, receipt.target.as_str()), (0, "/a"));
    assert_eq!(receipt.reason.as_deref(), Some("broken off by the sender"));
}
