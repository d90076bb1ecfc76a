//! HTTP/2 as a provider plays it: stream limits that move, refused streams, GOAWAY.

use std::future::poll_fn;
use std::time::Duration;

use bugler_loadtest::twins::{FaultPlan, TwinName, TwinOptions, TwinSet};
use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;

use crate::support::{Push, TOKEN, h2, send, soon, tls, twins, twins_showing, twins_with};

/// Waits until the peer's limit is `streams`, pushing meanwhile so that the client notices.
async fn limit_becomes(connection: &mut SendRequest<Bytes>, streams: usize) {
    let watch = async {
        while connection.current_max_send_streams() != streams {
            poll_fn(|cx| connection.poll_ready(cx)).await.expect("a connection");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(watch).await;
}

async fn push(twins: &TwinSet, connection: &mut SendRequest<Bytes>) -> Result<u16, h2::Error> {
    let answer = soon(send(connection, Push::right(twins).request())).await?;
    Ok(answer.status().as_u16())
}

#[tokio::test]
async fn apns_allows_one_stream_until_the_first_good_token_and_again_after_a_bad_one() {
    let twins = twins().await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    limit_becomes(&mut connection, 1).await;
    assert_eq!(push(&twins, &mut connection).await.expect("answered"), 200);
    limit_becomes(&mut connection, 1000).await;
    let bad = Push::right(&twins).with("authorization", "bearer a.b.c");
    let refused = soon(send(&mut connection, bad.request())).await.expect("answered");
    assert_eq!(refused.status(), 403);
    limit_becomes(&mut connection, 1).await;
    assert_eq!(push(&twins, &mut connection).await.expect("answered"), 200);
    limit_becomes(&mut connection, 1000).await;
}

#[tokio::test]
async fn streams_above_the_limit_are_refused_and_not_recorded() {
    let twins = twins_showing("apns:delay=300ms").await;
    let io = tls(twins.ca_pem(), &twins.apns_url(), b"h2").await.expect("trusted");
    // A hasty client, as hyper is: a hundred streams before SETTINGS came.
    let mut builder = h2::client::Builder::new();
    builder.initial_max_send_streams(100);
    let (mut requests, connection) = builder.handshake::<_, Bytes>(io).await.expect("a handshake");
    let mut answers = Vec::new();
    for _ in 0..5 {
        let (parts, body) = Push::right(&twins).request().into_parts();
        let request = http::Request::from_parts(parts, ());
        let (answer, mut stream) = requests.send_request(request, false).expect("sent");
        stream.send_data(body, true).expect("sent");
        answers.push(answer);
    }
    tokio::spawn(connection);
    let (mut answered, mut refused) = (0, 0);
    for answer in answers {
        match soon(answer).await {
            Ok(answer) => answered += u64::from(answer.status() == 200),
            Err(error) => refused += u64::from(error.reason() == Some(Reason::REFUSED_STREAM)),
        }
    }
    assert_eq!((answered, refused), (1, 4));
    assert_eq!(twins.receipts().len(), 1);
    assert_eq!(twins.traffic(TwinName::Apns).streams_refused, 4);
}

#[tokio::test]
async fn a_stream_limit_from_the_fault_plan_is_announced_live() {
    let options = TwinOptions { apns_streams_first: 1000, ..TwinOptions::default() };
    let twins = twins_with(options).await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    limit_becomes(&mut connection, 1000).await;
    twins.set_faults(FaultPlan::parse("apns:streams=7").expect("the notation is right"));
    assert_eq!(push(&twins, &mut connection).await.expect("answered"), 200);
    limit_becomes(&mut connection, 7).await;
}

#[tokio::test]
async fn goaway_leaves_requests_unanswered_that_it_says_were_not_processed() {
    let options = TwinOptions { apns_streams_first: 1000, ..TwinOptions::default() };
    let twins = twins_with(options).await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    limit_becomes(&mut connection, 1000).await;
    assert_eq!(push(&twins, &mut connection).await.expect("answered"), 200);

    let plan = "apns:goaway:x1&reason=Shutdown&match=dead;apns:freeze&match=beef";
    twins.set_faults(FaultPlan::parse(plan).expect("the notation is right"));
    let rest = TOKEN.get(4..).expect("a long token");
    let frozen = Push::right(&twins).to(&format!("beef{rest}")).request();
    let leaving = Push::right(&twins).to(&format!("dead{rest}")).request();
    let mut other = connection.clone();
    let pending = tokio::spawn(async move { send(&mut other, frozen).await });
    soon(async {
        while twins.receipts().len() < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;

    let error = soon(send(&mut connection, leaving)).await.expect_err("not processed");
    assert!(error.is_go_away() && error.is_remote(), "{error:?}");
    assert_eq!(error.reason(), Some(Reason::NO_ERROR));
    assert!(format!("{error:?}").contains("Shutdown"), "Apple's reason is in it: {error:?}");
    let receipts = twins.receipts();
    assert_eq!(receipts.len(), 2, "what was not processed is not recorded");
    assert_eq!(receipts.last().map(|receipt| receipt.status), Some(0), "frozen");

    // The frozen one was below: it stays without an answer until the connection ends.
    assert!(soon(pending).await.expect("no panic").is_err());
    let mut fresh = h2(&twins, &twins.apns_url()).await;
    assert_eq!(push(&twins, &mut fresh).await.expect("answered"), 200);
}

#[tokio::test]
async fn goaway_every_so_many_requests_loses_none_when_they_are_sent_again() {
    let twins = twins_showing("apns:goaway=every:10").await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    let mut again = 0;
    for _ in 0..50 {
        while let Err(error) = push(&twins, &mut connection).await {
            assert!(error.is_go_away(), "{error:?}");
            again += 1;
            connection = h2(&twins, &twins.apns_url()).await;
        }
    }
    assert_eq!(twins.receipts().len(), 50);
    assert_eq!(again, 5);
}
