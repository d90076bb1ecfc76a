//! Generator, twins and checker together, around a stand-in gateway that cheats in known ways.

use std::convert::Infallible;
use std::sync::Arc;

use bugler_loadtest::ledger::{ClientLedger, Expectation, Verdict, check};
use bugler_loadtest::load::{LoadPlan, Recipients, Stop, run};
use bugler_loadtest::twins::TwinSet;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::{ask, twins};

const NOTIFICATIONS: u64 = 40;

/// How the stand-in treats every tenth notification.
#[derive(Clone, Copy, Debug)]
enum Cheat {
    Nothing,
    Drop,
    Repeat,
    Change,
    RefuseAndSend,
}

/// Takes one notification and forwards it to the webhook twin before it answers.
async fn forward(twins: &TwinSet, body: &Bytes, cheat: Cheat) -> Response<Full<Bytes>> {
    let mut text = String::from_utf8_lossy(body).into_owned();
    let seq = bugler_loadtest::marker::find(body).expect("a marker").seq;
    let cheat = if seq.is_multiple_of(10) { cheat } else { Cheat::Nothing };
    let id = Uuid::new_v4().to_string();
    if matches!(cheat, Cheat::Change) {
        text = text.replace("over the lazy", "over the agile");
    }
    let payload = format!("{{\"notificationId\":\"{id}\",\"data\":{text}}}");
    let url = format!("{}/hook", twins.webhook_plain_url());
    let times = match cheat {
        Cheat::Drop => 0,
        Cheat::Repeat => 2,
        Cheat::Nothing | Cheat::Change | Cheat::RefuseAndSend => 1,
    };
    for _ in 0..times {
        ask(twins, "POST", &url, &[("webhook-id", &id)], &payload).await.expect("the twin answers");
    }
    let status = if matches!(cheat, Cheat::RefuseAndSend) { 503 } else { 201 };
    let response = Response::builder().status(status).header("bugler-notification-id", id);
    response.body(Full::default()).expect("a response")
}

async fn judge(cheat: Cheat) -> Verdict {
    let twins = Arc::new(twins().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("a bound listener"));
    let of_server = Arc::clone(&twins);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let twins = Arc::clone(&of_server);
            let service = service_fn(move |request: Request<Incoming>| {
                let twins = Arc::clone(&twins);
                async move {
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    Ok::<_, Infallible>(forward(&twins, &body, cheat).await)
                }
            });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(tcp), service));
        }
    });
    let ledger = Arc::new(ClientLedger::open(1, None).expect("no file to open"));
    let plan = LoadPlan {
        url,
        connections: 4,
        stop: Stop::Total(NOTIFICATIONS),
        recipients: Recipients::default(),
        ..LoadPlan::default()
    };
    run(plan, Arc::clone(&ledger)).await.expect("the plan is right");
    let expected = Expectation { targets_per_notification: 1, ..Expectation::default() };
    check(&ledger.entries(), &twins.receipts(), &expected)
}

#[tokio::test]
async fn each_way_of_cheating_breaks_its_invariant_and_no_other() {
    for (cheat, found) in [
        (Cheat::Nothing, [0, 0, 0, 0]),
        (Cheat::Drop, [4, 0, 0, 0]),
        (Cheat::RefuseAndSend, [0, 4, 0, 0]),
        (Cheat::Repeat, [0, 0, 4, 0]),
        (Cheat::Change, [0, 0, 0, 4]),
    ] {
        let verdict = judge(cheat).await;
        let counts = verdict.invariants().map(|invariant| invariant.found);
        assert_eq!(counts, found, "{cheat:?}\n{verdict}");
        assert_eq!(verdict.holds(), matches!(cheat, Cheat::Nothing));
    }
}
