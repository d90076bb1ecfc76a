//! Both pools against real servers: limits, lost connections, resends, bounds and TLS.

mod hostile;
mod links;

use super::*;
use crate::BoxFuture;
use crate::model::Outcome;
use crate::providers::fixture::{
    Act, Ca, FrameServer, Heard, Server, Speak, ends_request, eventually, frame, hasty, patient,
};
use crate::providers::guard::{Guard, GuardPolicy};
use crate::providers::tls::{self, Protocol};
use futures_util::future::join_all;
use http::uri::PathAndQuery;
use http::{Method, Request};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

fn dialer(protocol: Protocol, ca: Option<&Ca>, deadlines: Deadlines) -> Dialer {
    let pem = ca.map(Ca::pem);
    let tls = tls::client_config(pem.as_deref(), protocol).unwrap();
    Dialer { resolver: Arc::new(SystemResolver), tls, protocol, deadlines }
}

fn pool2(url: &str, ca: Option<&Ca>, deadlines: Deadlines, connections_max: usize) -> Http2Pool {
    let limits = PoolLimits { connections_max, ..PoolLimits::default() };
    Http2Pool::new(Origin::parse(url).unwrap(), dialer(Protocol::Http2, ca, deadlines), limits)
}

async fn post2(pool: &Http2Pool) -> Result<Answer, Failure> {
    let uri = pool.origin().uri(PathAndQuery::from_static("/x")).unwrap();
    pool.send(|| {
        let mut request = Request::new(Bytes::from_static(b"payload"));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        Some(request)
    })
    .await
}

fn pool1(ca: Option<&Ca>, deadlines: Deadlines, idle: IdleLimits) -> Http1Pool {
    Http1Pool::new(dialer(Protocol::Http1, ca, deadlines), idle)
}

async fn post1(pool: &Http1Pool, url: &str) -> Result<Answer, Failure> {
    let mut request = Request::new(Body::from("payload"));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = "/x?y=z".parse().unwrap();
    pool.send(&Origin::parse(url).unwrap(), request).await
}

fn cause(result: &Result<Answer, Failure>) -> &'static str {
    match result {
        Err(Failure::NotSent { cause, .. } | Failure::Unanswered { cause, .. }) => cause,
        Err(Failure::Blocked) => "blocked",
        Ok(_) => "answered",
    }
}

#[tokio::test]
async fn both_protocols_answer_over_verified_tls() {
    let ca = Ca::new();
    let h2 = Server::start(Some(ca.server(b"h2")), Speak::Http2(100), |_, _| {
        Act::Answer(200, vec![("apns-id", "7".into())], "hello".into())
    })
    .await;
    let pool = pool2(&h2.url(), Some(&ca), patient(), 4);
    assert_eq!(pool.permits(), 1, "one stream until the peer's settings are known");
    let answer = post2(&pool).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"hello"[..]));
    assert_eq!(answer.header("apns-id"), Some("7"));
    eventually("permits follow the server's limit", || pool.permits() == 100).await;

    let h1 =
        Server::start(Some(ca.server(b"http/1.1")), Speak::Http1, |_, _| Act::text(202, "hello"))
            .await;
    let pool = pool1(Some(&ca), patient(), IdleLimits::default());
    for _ in 0..3 {
        let answer = post1(&pool, &h1.url()).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (202, &b"hello"[..]));
    }
    assert_eq!(h1.accepted(), 1, "the connection is kept");
    let seen = &h1.seen()[0];
    assert_eq!((seen.path.as_str(), &seen.body[..]), ("/x?y=z", &b"payload"[..]));
    assert_eq!(seen.headers["host"].to_str().unwrap(), h1.address.to_string());
}

#[tokio::test]
async fn a_certificate_of_an_unknown_ca_is_refused_before_any_payload_leaves() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let server =
        Server::start(Some(ca.server(b"h2")), Speak::Http2(100), |_, _| Act::status(200)).await;
    for trusted in [None, Some(&stranger)] {
        let result = post2(&pool2(&server.url(), trusted, patient(), 4)).await;
        assert_eq!(cause(&result), "tls_certificate");
        let attempt = result.unwrap_err().into_attempt(Duration::ZERO);
        assert_eq!(attempt.outcome, Outcome::Retry { after: None, cause: "tls_certificate" });
        let reason = attempt.reason.unwrap();
        assert!(reason.contains("invalid peer certificate"), "{reason}");
    }
    assert_eq!(server.accepted(), 2);
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_server_without_http2_is_a_tls_failure() {
    let ca = Ca::new();
    let server =
        Server::start(Some(ca.server(b"http/1.1")), Speak::Http1, |_, _| Act::status(200)).await;
    let result = post2(&pool2(&server.url(), Some(&ca), patient(), 4)).await;
    assert_eq!(cause(&result), "tls");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn nothing_listening_is_a_connect_failure_for_every_waiter_at_once() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pool = pool2(&format!("http://{address}"), None, patient(), 4);
    let results = join_all((0..50).map(|_| post2(&pool))).await;
    assert!(results.iter().all(|r| cause(r) == "connect"), "{results:?}");
}

#[tokio::test]
async fn an_unknown_name_is_a_dns_failure() {
    let pool = pool2("http://no-such-host.invalid", None, patient(), 4);
    assert_eq!(cause(&post2(&pool).await), "dns");
}

#[tokio::test]
async fn a_limit_of_one_stream_is_kept_on_every_connection_while_all_get_through() {
    let ca = Ca::new();
    let server =
        Server::start(Some(ca.server(b"h2")), Speak::Http2(1), |_, _| Act::status(200)).await;
    let pool = pool2(&server.url(), Some(&ca), patient(), 3);
    let results = join_all((0..60).map(|_| post2(&pool))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(server.seen().len(), 60, "nothing was refused and sent again");
    assert!(server.accepted() <= 3);
    eventually("a connection each", || pool.permits() == server.accepted()).await;
}

#[tokio::test]
async fn a_burst_on_a_cold_pool_opens_one_connection_at_a_time() {
    let server = FrameServer::start(|_, heard| match heard {
        Heard::Open => Some(frame::streams_max(1000)),
        Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool2(&server.url(), None, patient(), 4);
    let results = join_all((0..200).map(|_| post2(&pool))).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(server.accepted(), 1, "a thousand streams are room for all");
}

#[tokio::test]
async fn permits_follow_settings_that_change_on_a_live_connection() {
    // One stream at first; twenty after the first request; answers only once all twenty are in.
    let mut waiting = Vec::new();
    let server = FrameServer::start(move |_, heard| match heard {
        Heard::Open => Some(frame::streams_max(1)),
        Heard::Frame(f) if ends_request(f) && f.stream == 1 => {
            Some([frame::ok(1), frame::streams_max(20)].concat())
        }
        Heard::Frame(f) if ends_request(f) => {
            waiting.push(f.stream);
            let done = if waiting.len() == 20 { std::mem::take(&mut waiting) } else { Vec::new() };
            let answers: Vec<u8> = done.into_iter().flat_map(frame::ok).collect();
            let end = if answers.is_empty() { Vec::new() } else { frame::streams_max(2) };
            Some([answers, end].concat())
        }
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool2(&server.url(), None, patient(), 1);
    post2(&pool).await.unwrap();
    eventually("the limit rises without traffic", || pool.permits() == 20).await;
    let results = join_all((0..20).map(|_| post2(&pool))).await;
    assert!(results.iter().all(Result::is_ok));
    eventually("and falls again", || pool.permits() == 2).await;
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn what_a_goaway_left_unprocessed_goes_out_again_on_another_connection() {
    let server = FrameServer::start(|connection, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        // The first connection processes stream 1 only.
        Heard::Frame(f) if ends_request(f) && connection == 1 && f.stream > 1 => {
            Some(frame::go_away(1))
        }
        Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool2(&server.url(), None, patient(), 4);
    post2(&pool).await.unwrap();
    let results = join_all((0..10).map(|_| post2(&pool))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!(server.accepted() >= 2);
    let processed = |r: &&(usize, u32)| r.0 > 1 || r.1 == 1;
    assert_eq!(server.requests().iter().filter(processed).count(), 11, "each exactly once");
}

#[tokio::test]
async fn a_goaway_takes_the_connection_out_of_use_without_traffic() {
    let server = FrameServer::start(|connection, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) && connection == 1 => {
            Some([frame::ok(f.stream), frame::go_away(f.stream)].concat())
        }
        Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool2(&server.url(), None, patient(), 4);
    post2(&pool).await.unwrap();
    eventually("no connection is left", || pool.permits() == 1).await;
    post2(&pool).await.unwrap();
    assert_eq!(server.requests().iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_and_a_peer_that_only_refuses_is_given_up() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let server = FrameServer::start(move |_, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) => {
            let n = count.fetch_add(1, Ordering::SeqCst);
            Some(if n == 2 { frame::ok(f.stream) } else { frame::refuse(f.stream) })
        }
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool2(&server.url(), None, patient(), 2);
    post2(&pool).await.unwrap();
    assert_eq!(refused.load(Ordering::SeqCst), 3);
    let given_up = post2(&pool).await;
    assert_eq!(cause(&given_up), "refused");
    assert!(matches!(given_up, Err(Failure::NotSent { .. })));
    assert_eq!(refused.load(Ordering::SeqCst), 8, "one try and four resends");
}

#[tokio::test]
async fn a_stream_reset_for_another_reason_leaves_the_outcome_unknown() {
    let server = FrameServer::start(|_, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) => Some(frame::reset(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool2(&server.url(), None, patient(), 2);
    let result = post2(&pool).await;
    assert!(matches!(result, Err(Failure::Unanswered { cause: "connection_lost", .. })));
    assert_eq!(server.requests().len(), 1, "never sent twice");
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_leaves_the_outcome_unknown_and_is_replaced() {
    let server = FrameServer::start(|connection, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) && connection == 1 => None,
        Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool2(&server.url(), None, patient(), 2);
    assert!(matches!(post2(&pool).await, Err(Failure::Unanswered { .. })));
    post2(&pool).await.unwrap();
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_silent_connection_times_out_as_unknown_and_is_not_used_again() {
    let server = FrameServer::start(|connection, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) && connection > 1 => Some(frame::ok(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool2(&server.url(), None, hasty(), 1);
    assert_eq!(cause(&post2(&pool).await), "timeout");
    eventually("another connection answers", || server.accepted() == 1).await;
    post2(&pool).await.unwrap();
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn waiting_for_a_permit_ends_with_the_deadline_and_nothing_sent() {
    let server = FrameServer::start(|_, heard| match heard {
        Heard::Open => Some(frame::streams_max(1)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool2(&server.url(), None, hasty(), 1);
    let results = join_all((0..3).map(|_| post2(&pool))).await;
    let mut causes: Vec<_> = results.iter().map(cause).collect();
    causes.sort_unstable();
    assert_eq!(causes, ["saturated", "saturated", "timeout"]);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_stalled_body_ends_with_the_deadline_and_keeps_the_status() {
    for speak in [Speak::Http2(100), Speak::Http1] {
        let server = Server::start(None, speak, |_, _| Act::HangBody(503)).await;
        let result = match speak {
            Speak::Http2(_) => post2(&pool2(&server.url(), None, hasty(), 1)).await,
            Speak::Http1 => {
                post1(&pool1(None, hasty(), IdleLimits::default()), &server.url()).await
            }
        };
        let want = Failure::Unanswered { cause: "body_timeout", status: Some(503) };
        assert_eq!(result.unwrap_err(), want);
    }
}

#[tokio::test]
async fn a_body_without_end_is_read_to_the_bound_only() {
    for speak in [Speak::Http2(100), Speak::Http1] {
        let server = Server::start(None, speak, |_, _| Act::Endless(400)).await;
        let answer = match speak {
            Speak::Http2(_) => post2(&pool2(&server.url(), None, patient(), 1)).await,
            Speak::Http1 => {
                let pool = pool1(None, patient(), IdleLimits::default());
                let answer = post1(&pool, &server.url()).await;
                assert_eq!(pool.idle_count(), 0, "such a connection is not kept");
                answer
            }
        };
        let answer = answer.unwrap();
        assert!(answer.truncated);
        assert_eq!(answer.body.len(), ANSWER_BYTES_KEPT);
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced_without_a_trace() {
    let server = Server::start(None, Speak::Http1, |_, before| {
        let close = if before == 0 { vec![("connection", "close".into())] } else { Vec::new() };
        Act::Answer(200, close, String::new())
    })
    .await;
    let pool = pool1(None, patient(), IdleLimits::default());
    for _ in 0..3 {
        post1(&pool, &server.url()).await.unwrap();
    }
    assert_eq!(server.seen().len(), 3);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn idle_connections_are_bounded_in_number_and_in_time() {
    let server = Server::start(None, Speak::Http1, |_, _| Act::status(200)).await;
    let idle = IdleLimits {
        per_origin_max: 2,
        idle_max: Duration::from_millis(200),
        ..IdleLimits::default()
    };
    let pool = pool1(None, patient(), idle);
    let url = server.url();
    let results = join_all((0..8).map(|_| post1(&pool, &url))).await;
    assert!(results.iter().all(Result::is_ok));
    assert!(pool.idle_count() <= 2);
    eventually("idle connections are closed", || pool.idle_count() == 0).await;
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_named_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"-ERR unknown command\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let result = post1(&pool1(None, patient(), IdleLimits::default()), &url).await;
    assert_eq!(cause(&result), "bad_answer");
}

/// Leads to a port of this machine first and into a private network from then on.
#[derive(Debug)]
struct Rebinding(SocketAddr, AtomicUsize);

impl Resolve for Rebinding {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        let first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
        let answer = if first { self.0 } else { "10.0.0.1:80".parse().unwrap() };
        Box::pin(async move { Ok(vec![answer]) })
    }
}

#[tokio::test]
async fn every_new_connection_is_judged_again() {
    let server = Server::start(None, Speak::Http1, |_, _| {
        Act::Answer(200, vec![("connection", "close".into())], String::new())
    })
    .await;
    let policy = GuardPolicy { allow_http: true, allow_loopback: true, ..GuardPolicy::default() };
    let resolver = Arc::new(Rebinding(server.address, AtomicUsize::new(0)));
    let guard = Guard::with_resolver(policy, resolver);
    let guarded = Dialer { resolver: Arc::new(guard), ..dialer(Protocol::Http1, None, patient()) };
    let pool = Http1Pool::new(guarded, IdleLimits::default());
    assert_eq!(cause(&post1(&pool, "http://rebind.example.com:8080").await), "answered");
    let second = post1(&pool, "http://rebind.example.com:8080").await;
    assert_eq!(cause(&second), "blocked");
    let attempt = second.unwrap_err().into_attempt(Duration::ZERO);
    assert_eq!(attempt.outcome, Outcome::Rejected { cause: "target_blocked" });
}
