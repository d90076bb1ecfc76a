//! APNs against a scripted server: the request on the wire, every documented reason, the token.

use super::classify::{Meaning, REASONS};
use super::*;
use crate::clock::TestClock;
use crate::model::{Content, DeviceId, Millis, Priority, UserId};
use crate::providers::fixture::{
    Act, Ca, Server, Speak, clock, delivery, eventually, hasty, patient, send_all, send_one,
    with_content,
};
use crate::providers::transport::Answer;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

const TOKEN: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";

fn config(endpoint: String) -> ApnsConfig {
    let key = Secret::new(rcgen::KeyPair::generate().unwrap().serialize_pem());
    ApnsConfig {
        endpoint,
        deadlines: patient(),
        ..ApnsConfig::new("TEAM123456".into(), "KEY1234567".into(), key, "com.example.app".into())
    }
}

fn apns(endpoint: String) -> Apns {
    Apns::new(config(endpoint), clock()).unwrap()
}

/// To a device that registered long ago.
fn to(token: &str) -> Delivery {
    to_registered(token, Millis(1))
}

fn to_registered(token: &str, registered_at: Millis) -> Delivery {
    delivery(Target::Apns {
        device: DeviceId(Uuid::new_v4()),
        user: UserId(1),
        app: "app".into(),
        token: Secret::new(token),
        registered_at,
    })
}

/// `word` for a token that was registered after or before APNs last saw it.
fn verdict(answer: &Answer, registered_at: u64) -> attempt::Verdict {
    classify::classify(answer, Millis(registered_at), Millis(0)).verdict
}

fn reason(status: u16, word: &str) -> Act {
    Act::text(status, json!({"reason": word}).to_string())
}

#[tokio::test]
async fn a_push_arrives_as_apple_documents_it() {
    let ca = Ca::new();
    let server = Server::start(Some(ca.server(b"h2")), Speak::Http2(100), |seen, _| {
        let id = seen.headers["apns-id"].to_str().unwrap().to_owned();
        Act::Answer(200, vec![("apns-id", id)], String::new())
    })
    .await;
    let provider =
        Apns::new(ApnsConfig { ca_pem: Some(ca.pem()), ..config(server.url()) }, clock()).unwrap();
    assert_eq!((provider.name(), provider.in_flight_max()), (ProviderName::Apns, 1));
    let content = Content {
        title: "Hi \"there\"".into(),
        body: "Body".into(),
        image_url: Some("https://example.com/a.png".into()),
        data: r#"{"order":7,"aps":{"badge":99},"deep":{"a":[1,2]}}"#.into(),
    };
    let delivery = with_content(to(TOKEN), content);
    let attempt = send_one(&provider, delivery.clone()).await;
    assert_eq!((attempt.outcome, attempt.status), (Outcome::Delivered, Some(200)));
    assert_eq!(attempt.provider_id, Some(delivery.id.to_string()));

    let seen = &server.seen()[0];
    let header = |name: &str| seen.headers[name].to_str().unwrap().to_owned();
    assert_eq!(seen.path, format!("/3/device/{TOKEN}"));
    assert_eq!(header("apns-id"), delivery.id.to_string());
    assert_eq!(header("apns-topic"), "com.example.app");
    assert_eq!(header("apns-push-type"), "alert");
    assert_eq!(header("apns-priority"), "10");
    assert_eq!(header("apns-expiration"), (delivery.expires_at.0 / 1000).to_string());
    assert_eq!(header("apns-collapse-id"), delivery.id.to_string());
    assert!(header("authorization").starts_with("bearer ey"));
    assert_eq!(
        serde_json::from_slice::<Value>(&seen.body).unwrap(),
        json!({
            "aps": {
                "alert": {"title": "Hi \"there\"", "body": "Body"},
                "mutable-content": 1,
                "sound": "default",
            },
            "order": 7,
            "deep": {"a": [1, 2]},
            "imageUrl": "https://example.com/a.png",
        })
    );
}

#[tokio::test]
async fn priority_and_collapse_key_become_headers_apple_accepts() {
    let server = Server::start(None, Speak::Http2(100), |_, _| Act::status(200)).await;
    let provider = apns(server.url());
    let long = "k".repeat(65);
    let cases = [
        (Priority::Low, Some("order-7"), "5", Some("order-7")),
        (Priority::Normal, Some("with space"), "10", None),
        (Priority::Critical, Some(long.as_str()), "10", None),
    ];
    for (n, (priority, key, digits, collapse)) in cases.into_iter().enumerate() {
        let mut delivery = to(TOKEN);
        delivery.priority = priority;
        delivery.collapse_key = key.map(str::to_owned);
        assert_eq!(send_one(&provider, delivery).await.outcome, Outcome::Delivered);
        let seen = &server.seen()[n];
        assert_eq!(seen.headers["apns-priority"], digits);
        let got = seen.headers["apns-collapse-id"].to_str().unwrap();
        match collapse {
            Some(want) => assert_eq!(got, want),
            None => assert!(got.len() == 64 && got.bytes().all(|b| b.is_ascii_hexdigit())),
        }
    }
}

#[tokio::test]
async fn what_apns_could_never_take_is_rejected_without_a_connection() {
    let server = Server::start(None, Speak::Http2(100), |_, _| Act::status(200)).await;
    let provider = apns(server.url());
    let long = "a".repeat(201);
    for token in ["", "xyz", "../../etc", "ab?x=1", "ab#", "ab\r\nx: y", "ab cd", &long] {
        let attempt = send_one(&provider, to(token)).await;
        assert_eq!(attempt.outcome, Outcome::Rejected { cause: "bad_token_format" }, "{token:?}");
    }
    let huge = Content { body: "b".repeat(5000), ..Content::default() };
    let attempt = send_one(&provider, with_content(to(TOKEN), huge)).await;
    assert_eq!(attempt.outcome, Outcome::Rejected { cause: "payload_too_large" });
    let odd = Content { body: "b".into(), data: "[1]".into(), ..Content::default() };
    let attempt = send_one(&provider, with_content(to(TOKEN), odd)).await;
    assert_eq!(attempt.outcome, Outcome::Rejected { cause: "bad_data" });
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn the_largest_payload_apple_takes_is_sent() {
    let server = Server::start(None, Speak::Http2(100), |_, _| Act::status(200)).await;
    let provider = apns(server.url());
    let sized =
        |n: usize| with_content(to(TOKEN), Content { body: "b".repeat(n), ..Content::default() });
    send_one(&provider, sized(1)).await;
    let frame = server.seen()[0].body.len() - 1;
    assert_eq!(send_one(&provider, sized(4096 - frame)).await.outcome, Outcome::Delivered);
    assert_eq!(server.seen()[1].body.len(), 4096);
    let over = send_one(&provider, sized(4097 - frame)).await;
    assert_eq!(over.outcome, Outcome::Rejected { cause: "payload_too_large" });
}

fn answer(status: u16, headers: HeaderMap, body: &str) -> Answer {
    let status = StatusCode::from_u16(status).unwrap();
    Answer { status, headers, body: Bytes::copy_from_slice(body.as_bytes()), truncated: false }
}

/// Apple's table, written down a second time: status, reason, what the spec makes of it.
const EXPECTED: [(u16, &str, &str); 33] = [
    (400, "BadCollapseId", "rejected"),
    (400, "BadDeviceToken", "rejected"),
    (400, "BadExpirationDate", "rejected"),
    (400, "BadMessageId", "rejected"),
    (400, "BadPriority", "rejected"),
    (400, "BadTopic", "rejected"),
    (400, "DeviceTokenNotForTopic", "rejected"),
    (400, "DuplicateHeaders", "rejected"),
    (400, "IdleTimeout", "retry"),
    (400, "InvalidPushType", "rejected"),
    (400, "MissingDeviceToken", "rejected"),
    (400, "MissingTopic", "rejected"),
    (400, "PayloadEmpty", "rejected"),
    (400, "TopicDisallowed", "rejected"),
    (403, "BadCertificate", "hold"),
    (403, "BadCertificateEnvironment", "hold"),
    (403, "BadEnvironmentKeyIdInToken", "hold"),
    (403, "BadEnvironmentKeyInToken", "hold"),
    (403, "ExpiredProviderToken", "retry"),
    (403, "Forbidden", "hold"),
    (403, "InvalidProviderToken", "hold"),
    (403, "MissingProviderToken", "hold"),
    (403, "UnrelatedKeyIdInToken", "hold"),
    (404, "BadPath", "rejected"),
    (405, "MethodNotAllowed", "rejected"),
    (410, "ExpiredToken", "gone"),
    (410, "Unregistered", "gone"),
    (413, "PayloadTooLarge", "rejected"),
    (429, "TooManyProviderTokenUpdates", "retry"),
    (429, "TooManyRequests", "retry"),
    (500, "InternalServerError", "retry"),
    (503, "ServiceUnavailable", "retry"),
    (503, "Shutdown", "retry"),
];

fn kind(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered => "delivered",
        Outcome::Retry { .. } => "retry",
        Outcome::Unknown { .. } => "unknown",
        Outcome::Gone { .. } => "gone",
        Outcome::Rejected { .. } => "rejected",
        Outcome::Withheld { .. } => "withheld",
        Outcome::Hold { .. } => "hold",
    }
}

#[test]
fn every_documented_reason_means_what_the_table_says() {
    assert_eq!(REASONS.len(), EXPECTED.len());
    for (status, word, want) in EXPECTED {
        let body = json!({"reason": word, "timestamp": 1_700_000_000_000_u64}).to_string();
        let got = verdict(&answer(status, HeaderMap::new(), &body), 1);
        assert_eq!(kind(got.outcome), want, "{status} {word}");
        assert_eq!(got.reason.as_deref(), Some(word));
    }
}

#[test]
fn unknown_reasons_and_unreadable_bodies_go_by_the_status() {
    let cases = [
        (400, "rejected"),
        (401, "rejected"),
        (403, "hold"),
        (404, "rejected"),
        (410, "gone"),
        (413, "rejected"),
        (418, "rejected"),
        (429, "retry"),
        (500, "retry"),
        (502, "retry"),
        (503, "retry"),
        (301, "retry"),
        (204, "retry"),
    ];
    for (status, want) in cases {
        for body in ["", "{}", "<html>", r#"{"reason":"BrandNew"}"#, r#"{"reason":7}"#, "[[[["] {
            let got = verdict(&answer(status, HeaderMap::new(), body), 1);
            assert_eq!(kind(got.outcome), want, "{status} {body}");
        }
    }
    // A known word under a foreign status does not remove a device.
    let odd = answer(503, HeaderMap::new(), r#"{"reason":"Unregistered"}"#);
    assert_eq!(kind(verdict(&odd, 1).outcome), "retry");
}

#[test]
fn waits_come_from_the_answer_first_then_from_the_table() {
    let wait = |word: &str, status: u16, header: Option<&str>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert("retry-after", value.parse().unwrap());
        }
        let body = json!({"reason": word}).to_string();
        match verdict(&answer(status, headers, &body), 1).outcome {
            Outcome::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(wait("TooManyRequests", 429, Some("7")), Some(Duration::from_secs(7)));
    assert_eq!(wait("TooManyRequests", 429, None), None);
    assert_eq!(wait("TooManyRequests", 429, Some("-5")), None);
    let quarter = Some(Duration::from_secs(15 * 60));
    assert_eq!(wait("ServiceUnavailable", 503, None), quarter);
    assert_eq!(wait("ServiceUnavailable", 503, Some("abc")), quarter);
    assert_eq!(wait("ServiceUnavailable", 503, Some("30")), Some(Duration::from_secs(30)));
    assert_eq!(wait("InternalServerError", 500, None), quarter);
    assert_eq!(wait("NeverHeardOf", 502, None), quarter);
    assert_eq!(wait("TooManyProviderTokenUpdates", 429, None), Some(Duration::from_secs(20 * 60)));
}

#[test]
fn causes_are_stable_words() {
    for row in &REASONS {
        assert!(row.cause.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", row.cause);
        assert!(row.meaning != Meaning::Gone || row.status == 410);
    }
}

#[test]
fn every_reason_a2_knows_is_in_the_table() {
    use a2::ErrorReason as A2;
    // Exhaustive, so that a reason a2 learns of does not compile until it stands here.
    let known = |reason: &A2| match reason {
        A2::BadCollapseId
        | A2::BadDeviceToken
        | A2::BadExpirationDate
        | A2::BadMessageId
        | A2::BadPriority
        | A2::BadTopic
        | A2::DeviceTokenNotForTopic
        | A2::DuplicateHeaders
        | A2::IdleTimeout
        | A2::MissingDeviceToken
        | A2::MissingTopic
        | A2::PayloadEmpty
        | A2::TopicDisallowed
        | A2::BadCertificate
        | A2::BadCertificateEnvironment
        | A2::ExpiredProviderToken
        | A2::Forbidden
        | A2::InvalidProviderToken
        | A2::MissingProviderToken
        | A2::BadPath
        | A2::MethodNotAllowed
        | A2::Unregistered
        | A2::PayloadTooLarge
        | A2::TooManyProviderTokenUpdates
        | A2::TooManyRequests
        | A2::InternalServerError
        | A2::ServiceUnavailable
        | A2::Shutdown => format!("{reason:?}"),
    };
    let read = |word: &str| serde_json::from_value::<A2>(Value::from(word)).ok();
    let of_a2 = REASONS.iter().filter_map(|row| read(row.reason)).map(|reason| known(&reason));
    assert_eq!(of_a2.collect::<std::collections::BTreeSet<_>>().len(), 28);
}

#[test]
fn a_token_that_was_registered_after_apns_saw_it_dead_stays() {
    for word in ["Unregistered", "ExpiredToken"] {
        let body = json!({"reason": word, "timestamp": 5000}).to_string();
        let dead = answer(410, HeaderMap::new(), &body);
        for (registered_at, want) in [(4999, "gone"), (5000, "gone"), (5001, "retry")] {
            assert_eq!(kind(verdict(&dead, registered_at).outcome), want, "{word} {registered_at}");
        }
        let undated = answer(410, HeaderMap::new(), &json!({"reason": word}).to_string());
        assert_eq!(kind(verdict(&undated, 9000).outcome), "gone", "{word}");
    }
}

#[tokio::test]
async fn shutdown_is_resent_on_another_connection_and_counts_as_no_try() {
    let server = Server::start(None, Speak::Http2(100), |_, before| {
        if before == 0 { reason(503, "Shutdown") } else { Act::status(200) }
    })
    .await;
    let attempt = send_one(&apns(server.url()), to(TOKEN)).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
    assert_eq!((server.seen().len(), server.accepted()), (2, 2));
    let id = |n: usize| server.seen()[n].headers["apns-id"].clone();
    assert_eq!(id(0), id(1));
}

#[tokio::test]
async fn wrong_tokens_are_marked_until_the_environment_is_proven_and_then_removed() {
    let server = Server::start(None, Speak::Http2(100), |seen, _| {
        if seen.path.ends_with("bad") { reason(400, "BadDeviceToken") } else { Act::status(200) }
    })
    .await;
    let provider = apns(server.url());
    let bad = |outcome| assert_eq!(outcome, Outcome::Rejected { cause: "bad_device_token" });
    bad(send_one(&provider, to("aabad")).await.outcome);
    let marked = send_one(&provider, to("aabad")).await;
    bad(marked.outcome);
    assert_eq!((marked.status, server.seen().len()), (None, 1), "it is not sent again");
    let later = clock().now().plus(60_000);
    bad(send_one(&provider, to_registered("aabad", later)).await.outcome);
    assert_eq!(server.seen().len(), 2, "unless it is registered again");
    send_one(&provider, to("aa")).await;
    let gone = send_one(&provider, to("bbbad")).await;
    assert_eq!(gone.outcome, Outcome::Gone { cause: "bad_device_token" });
}

#[tokio::test]
async fn tokens_that_may_be_wrong_stay_off_the_connection_of_proven_ones() {
    let server = Server::start(None, Speak::Http2(100), |_, _| Act::status(200)).await;
    let provider = apns(server.url());
    let now = clock().now();
    send_one(&provider, to(TOKEN)).await;
    send_one(&provider, to_registered("aa", now)).await;
    assert_eq!(server.accepted(), 2, "a connection each");
    let permits = || provider.pool.permits() + provider.suspects.permits();
    eventually("both are known", || permits() == 200).await;
    send_one(&provider, to_registered("aa", now)).await;
    assert_eq!(provider.devices.standing("aa", now, now), Standing::Proven);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_credential_that_is_refused_three_times_in_a_row_gets_new_connections() {
    let server =
        Server::start(None, Speak::Http2(100), |_, _| reason(403, "InvalidProviderToken")).await;
    let provider = apns(server.url());
    for connections in [1, 1, 1, 2] {
        let attempt = send_one(&provider, to(TOKEN)).await;
        assert_eq!(attempt.outcome, Outcome::Hold { cause: "invalid_provider_token" });
        assert_eq!(server.accepted(), connections);
    }
}

#[tokio::test]
async fn a_throttled_key_without_an_older_token_is_left_alone_for_the_whole_app() {
    let throttled = |_: &_, _| reason(429, "TooManyProviderTokenUpdates");
    let server = Server::start(None, Speak::Http2(100), throttled).await;
    let provider = apns(server.url());
    for _ in 0..5 {
        let attempt = send_one(&provider, to(TOKEN)).await;
        let Outcome::Retry { after: Some(wait), .. } = attempt.outcome else {
            panic!("{:?}", attempt.outcome);
        };
        assert!(wait > 19 * 60 * SOON && wait <= 20 * 60 * SOON, "{wait:?}");
    }
    assert_eq!((server.seen().len(), provider.in_flight_max()), (1, 1), "the others were not sent");
}

#[tokio::test]
async fn too_many_token_updates_bring_the_old_token_back_on_a_new_connection() {
    let server = Server::start(None, Speak::Http2(100), |_, before| match before {
        0 => Act::status(200),
        1 => reason(429, "TooManyProviderTokenUpdates"),
        _ => Act::status(200),
    })
    .await;
    let time = TestClock::at(Millis(1_700_000_000_000));
    let provider = Apns::new(config(server.url()), Arc::new(time.clone())).unwrap();
    send_one(&provider, to(TOKEN)).await;
    time.advance(Duration::from_secs(50 * 60));
    let soon = send_one(&provider, to(TOKEN)).await;
    let cause = "too_many_provider_token_updates";
    assert_eq!(soon.outcome, Outcome::Retry { after: Some(SOON), cause });
    send_one(&provider, to(TOKEN)).await;
    let tokens: Vec<_> =
        server.seen().iter().map(|seen| seen.headers["authorization"].clone()).collect();
    assert!(tokens[0] != tokens[1] && tokens[0] == tokens[2]);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn answers_of_a_batch_are_reported_each_at_its_index() {
    let server = Server::start(None, Speak::Http2(10), |seen, _| match seen.path.as_str() {
        "/3/device/aa" => reason(410, "Unregistered"),
        "/3/device/bb" => reason(429, "TooManyRequests"),
        "/3/device/cc" => reason(403, "InvalidProviderToken"),
        _ => Act::status(200),
    })
    .await;
    let provider = apns(server.url());
    let tokens = ["dd", "aa", "zz", "bb", "cc", "ee"];
    let batch: Vec<_> = tokens.into_iter().map(to).collect();
    let attempts = send_all(&provider, &batch).await;
    let causes: Vec<_> = attempts.iter().map(|a| kind(a.outcome)).collect();
    assert_eq!(causes, ["delivered", "gone", "rejected", "retry", "hold", "delivered"]);
    assert_eq!(attempts[1].status, Some(410));
    assert_eq!(attempts[1].reason.as_deref(), Some("Unregistered"));
    assert_eq!(attempts[2].status, None);
    eventually("permits follow", || provider.in_flight_max() >= 10).await;
}

#[tokio::test]
async fn an_expired_provider_token_is_replaced_once_and_the_push_retried() {
    let server =
        Server::start(None, Speak::Http2(100), |_, _| reason(403, "ExpiredProviderToken")).await;
    let time = TestClock::at(Millis(1_700_000_000_000));
    let provider = Apns::new(config(server.url()), Arc::new(time.clone())).unwrap();
    time.advance(Duration::from_secs(30 * 60));
    let batch: Vec<_> = (0..8).map(|_| to(TOKEN)).collect();
    for attempt in send_all(&provider, &batch).await {
        let want =
            Outcome::Retry { after: Some(Duration::from_secs(1)), cause: "expired_provider_token" };
        assert_eq!(attempt.outcome, want);
    }
    let held = send_one(&provider, to(TOKEN)).await;
    assert_eq!(held.outcome, Outcome::Hold { cause: "expired_provider_token" }, "20 minute rule");
    let tokens: std::collections::HashSet<_> =
        server.seen().iter().map(|s| s.headers["authorization"].as_bytes().to_vec()).collect();
    assert_eq!(tokens.len(), 2);
}

#[tokio::test]
async fn no_answer_is_an_unknown_outcome_and_no_server_a_retry() {
    let server = Server::start(None, Speak::Http2(100), |_, _| Act::Hang).await;
    let provider =
        Apns::new(ApnsConfig { deadlines: hasty(), ..config(server.url()) }, clock()).unwrap();
    let attempt = send_one(&provider, to(TOKEN)).await;
    assert_eq!(attempt.outcome, Outcome::Unknown { cause: "timeout" });
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let attempt = send_one(&apns(format!("http://{free}")), to(TOKEN)).await;
    assert_eq!(attempt.outcome, Outcome::Retry { after: None, cause: "connect" });
}

#[test]
fn a_configuration_that_cannot_work_is_named_without_its_secrets() {
    let good = || config("https://api.push.apple.com:443".into());
    assert!(Apns::new(good(), clock()).is_ok(), "no runtime and no socket needed");
    let bad = [
        ApnsConfig { endpoint: "api.push.apple.com".into(), ..good() },
        ApnsConfig { endpoint: "https://host/path".into(), ..good() },
        ApnsConfig { topic: String::new(), ..good() },
        ApnsConfig { topic: "a b".into(), ..good() },
        ApnsConfig { key_id: "\n".into(), ..good() },
        ApnsConfig { key_pem: Secret::new("nonsense-secret"), ..good() },
        ApnsConfig { ca_pem: Some(b"nonsense".to_vec()), ..good() },
    ];
    for config in bad {
        let shown = format!("{config:?}");
        let error = Apns::new(config, clock()).unwrap_err();
        assert!(!format!("{shown}{error}{error:?}").contains("nonsense-secret"));
    }
    let text = format!("{:?}", Apns::new(good(), clock()).unwrap());
    assert!(!text.contains("bearer ey"), "{text}");
}
