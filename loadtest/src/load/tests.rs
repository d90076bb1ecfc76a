//! Tests of the generator against a small server.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::*;
use crate::marker;

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<(String, http::HeaderMap, Bytes)>>,
    answered: AtomicU64,
}

type Answering = fn(u64, &Bytes) -> Response<Full<Bytes>>;

/// A server that answers request number `n` as `answering` says.
async fn serve(answering: Answering) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    let seen = Arc::<Seen>::default();
    let of_task = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let seen = Arc::clone(&of_task);
            let service = service_fn(move |request: Request<Incoming>| {
                let seen = Arc::clone(&seen);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    let number = seen.answered.fetch_add(1, Ordering::Relaxed);
                    let answer = answering(number, &body);
                    seen.requests.lock().push((parts.uri.to_string(), parts.headers, body));
                    Ok::<_, Infallible>(answer)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(tcp), service);
            tokio::spawn(connection);
        }
    });
    (address, seen)
}

fn plan(address: SocketAddr, mode: Mode, total: u64) -> LoadPlan {
    LoadPlan {
        url: format!("http://{address}"),
        token: "secret".into(),
        mode,
        connections: 4,
        stop: Stop::Total(total),
        recipients: Recipients { first: 1, last: 3, ..Recipients::default() },
        timeout: Duration::from_secs(5),
        ..LoadPlan::default()
    }
}

fn ledger() -> Arc<ClientLedger> {
    Arc::new(ClientLedger::open(1, None).expect("no file to open"))
}

fn created(number: u64, _: &Bytes) -> Response<Full<Bytes>> {
    let id = Uuid::from_u128(u128::from(number) + 1);
    let body = Full::from(format!("{{\"id\":\"{id}\"}}"));
    Response::builder()
        .status(201)
        .header("Bugler-Notification-Id", id.to_string())
        .body(body)
        .expect("ok")
}

#[tokio::test]
async fn every_dialect_is_written_as_its_documents_say() {
    let jigx = Dialect::Jigx { organization: "0f-1".into() };
    let paths = [
        (jigx, "/v2.0/tool/organizations/0f-1/notifications"),
        (Dialect::Blynk, "/api/v1/organization/users/send-push-notification"),
        (Dialect::Native, "/bugler/v1/notifications"),
    ];
    for (dialect, path) in paths {
        let (address, seen) = serve(created).await;
        let mut plan = plan(address, Mode::Single(dialect.clone()), 1);
        plan.idempotency_keys = true;
        run(plan, ledger()).await.expect("the plan is right");
        let requests = seen.requests.lock();
        let (uri, headers, body) = requests.first().expect("one request");
        assert_eq!(uri, path);
        assert_eq!(headers["authorization"], "Bearer secret");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["idempotency-key"], "n-1-1");
        let found = marker::find(body).expect("a marker");
        assert_eq!((found.seq, found.intact), (1, Some(true)));
        let body: Value = serde_json::from_slice(body).expect("JSON");
        match dialect {
            Dialect::Jigx { .. } => {
                assert_eq!(body["content"]["title"], "n-1");
                assert_eq!(body["content"]["screen"], "jig");
                assert_eq!(body["emails"][0], "user2@example.com");
                assert_eq!(body["scope"], "USR");
            }
            Dialect::Blynk => assert_eq!(body["userId"], 2),
            Dialect::Native => assert_eq!(body["to"]["users"][0], 2),
        }
    }
}

#[tokio::test]
async fn each_notification_is_sent_once_and_its_id_noted() {
    let (address, seen) = serve(created).await;
    let ledger = ledger();
    let plan = plan(address, Mode::Single(Dialect::Native), 500);
    let report = run(plan, Arc::clone(&ledger)).await.expect("the plan is right");
    assert_eq!((report.sent, report.accepted, report.requests), (500, 500, 500));
    assert_eq!(report.latency_us.len(), 500);
    let requests = seen.requests.lock();
    let seqs: HashSet<u64> =
        requests.iter().map(|(_, _, body)| marker::find(body).expect("a marker").seq).collect();
    assert_eq!(seqs, (1..=500).collect());
    let ids: HashSet<Outcome> = ledger.entries().into_iter().map(|entry| entry.outcome).collect();
    assert_eq!(ids.len(), 500, "every entry has an id of its own");
}

fn bulk(_: u64, body: &Bytes) -> Response<Full<Bytes>> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    let mut answer = String::new();
    for i in 0..lines {
        match i % 10 {
            9 => answer.push_str(&format!("{{\"i\":{i},\"status\":422}}\n")),
            _ => answer
                .push_str(&format!("{{\"i\":{i},\"status\":201,\"id\":\"{}\"}}\n", Uuid::new_v4())),
        }
    }
    answer.push_str(&format!("{{\"total\":{lines}}}\n"));
    Response::new(Full::from(answer))
}

#[tokio::test]
async fn bulk_lines_are_settled_one_by_one_and_the_last_request_is_short() {
    let (address, seen) = serve(bulk).await;
    let plan = plan(address, Mode::Bulk { lines_per_request: 1000 }, 2500);
    let report = run(plan, ledger()).await.expect("the plan is right");
    assert_eq!((report.sent, report.accepted, report.refused), (2500, 2250, 250));
    let requests = seen.requests.lock();
    assert_eq!(requests.len(), 3);
    for (uri, headers, _) in requests.iter() {
        assert_eq!(uri, "/bugler/v1/notifications:batch");
        assert_eq!(headers["content-type"], "application/x-ndjson");
    }
}

fn refusing(number: u64, body: &Bytes) -> Response<Full<Bytes>> {
    let mut answer = created(number, body);
    if number % 2 == 1 {
        *answer.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
    }
    answer
}

#[tokio::test]
async fn refusals_are_counted_by_status_and_timed_apart() {
    let (address, _) = serve(refusing).await;
    let plan = plan(address, Mode::Single(Dialect::Native), 100);
    let report = run(plan, ledger()).await.expect("the plan is right");
    assert_eq!((report.accepted, report.refused), (50, 50));
    assert_eq!(report.by_status[&429], 50);
    assert_eq!((report.latency_us.len(), report.refusal_us.len()), (50, 50));
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_its_notification_unknown_and_the_run_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut request = [0; 4096];
            assert!(tcp.read(&mut request).await.expect("a request") > 0);
            number += 1;
            if number % 2 == 0 {
                let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
                    Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
                tcp.write_all(answer).await.expect("an answer");
            }
        }
    });
    let mut plan = plan(address, Mode::Single(Dialect::Native), 10);
    plan.connections = 1;
    let ledger = ledger();
    let report = run(plan, Arc::clone(&ledger)).await.expect("the plan is right");
    assert_eq!((report.sent, report.accepted, report.unknown), (10, 5, 5));
    let unknown = ledger.entries().iter().filter(|entry| entry.outcome == Outcome::Unknown).count();
    assert_eq!(unknown, 5);
}

#[tokio::test]
async fn an_open_loop_plans_as_many_as_the_rate_says_and_counts_waiting_into_latency() {
    let (address, _) = serve(created).await;
    let mut plan = plan(address, Mode::Single(Dialect::Native), 0);
    plan.stop = Stop::After(Duration::from_millis(200));
    plan.rate = Some(500.0);
    let report = run(plan, ledger()).await.expect("the plan is right");
    assert_eq!(report.sent, 100);
    assert!(report.latency_us.max() >= report.service_us.max());
}

#[tokio::test]
async fn a_plan_that_cannot_be_carried_out_is_refused_with_its_reason() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let right = || plan(address, Mode::Single(Dialect::Native), 1);
    let organization = "a/b".to_owned();
    let mut cases = vec![
        (LoadPlan { url: "127.0.0.1".into(), ..right() }, LoadError::Url("127.0.0.1".into())),
        (LoadPlan { url: "https://a".into(), ..right() }, LoadError::Url("https://a".into())),
        (LoadPlan { connections: 0, ..right() }, LoadError::Zero),
        (LoadPlan { rate: Some(0.0), ..right() }, LoadError::Zero),
        (LoadPlan { token: "a\r\nb".into(), ..right() }, LoadError::Token),
    ];
    let jigx = Mode::Single(Dialect::Jigx { organization });
    cases.push((LoadPlan { mode: jigx, ..right() }, LoadError::Organization));
    for (plan, error) in cases {
        assert_eq!(Load::start(plan, ledger()).map(|_| ()).expect_err("a wrong plan"), error);
    }
}
