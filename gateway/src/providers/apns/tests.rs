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

fn to(token: &str) -> Delivery {
    delivery(Target::Apns {
        device: DeviceId(Uuid::new_v4()),
        user: UserId(1),
        app: "app".into(),
        token: Secret::new(token),
    })
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
    (400, "BadDeviceToken", "gone"),
    (400, "BadExpirationDate", "rejected"),
    (400, "BadMessageId", "rejected"),
    (400, "BadPriority", "rejected"),
    (400, "BadTopic", "rejected"),
    (400, "DeviceTokenNotForTopic", "gone"),
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
        Outcome::Hold { .. } => "hold",
    }
}

#[test]
fn every_documented_reason_means_what_the_table_says() {
    assert_eq!(REASONS.len(), EXPECTED.len());
    for (status, word, want) in EXPECTED {
        let body = json!({"reason": word, "timestamp": 1_700_000_000_000_u64}).to_string();
        let verdict = classify::classify(&answer(status, HeaderMap::new(), &body), Millis(0));
        assert_eq!(kind(verdict.outcome), want, "{status} {word}");
        assert_eq!(verdict.reason.as_deref(), Some(word));
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
            let verdict = classify::classify(&answer(status, HeaderMap::new(), body), Millis(0));
            assert_eq!(kind(verdict.outcome), want, "{status} {body}");
        }
    }
    // A known word under a foreign status does not remove a device.
    let odd = answer(503, HeaderMap::new(), r#"{"reason":"Unregistered"}"#);
    assert_eq!(kind(classify::classify(&odd, Millis(0)).outcome), "retry");
}

#[test]
fn waits_come_from_the_answer_first_then_from_the_table() {
    let wait = |word: &str, status: u16, header: Option<&str>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert("retry-after", value.parse().unwrap());
        }
        let body = json!({"reason": word}).to_string();
        match classify::classify(&answer(status, headers, &body), Millis(0)).outcome {
            Outcome::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(wait("TooManyRequests", 429, Some("7")), Some(Duration::from_secs(7)));
    assert_eq!(wait("TooManyRequests", 429, None), None);
    assert_eq!(wait("Shutdown", 503, None), Some(Duration::from_secs(1)));
    assert_eq!(wait("ServiceUnavailable", 503, None), None);
    assert_eq!(wait("TooManyProviderTokenUpdates", 429, None), Some(Duration::from_secs(20 * 60)));
}

#[test]
fn causes_are_stable_words() {
    for row in &REASONS {
        assert!(row.cause.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", row.cause);
        assert!(row.meaning != Meaning::Gone || matches!(row.status, 400 | 410));
    }
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
    eventually("permits follow", || provider.in_flight_max() == 10).await;
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
