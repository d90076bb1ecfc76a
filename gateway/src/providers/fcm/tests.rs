//! FCM against a scripted server and token endpoint: wire form, error table, token life.

use super::classify::{FCM_CODES, RPC_CODES};
use super::*;
use crate::clock::TestClock;
use crate::model::{Content, DeviceId, Millis, Priority, UserId};
use crate::providers::fixture::{
    Act, Ca, Server, Speak, clock, delivery, eventually, patient, send_all, send_one, with_content,
};
use crate::providers::transport::Answer;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::Duration;
use uuid::Uuid;

fn key() -> &'static rcgen::KeyPair {
    static KEY: OnceLock<rcgen::KeyPair> = OnceLock::new();
    KEY.get_or_init(|| rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap())
}

fn account(token_uri: &str) -> Secret {
    let account = json!({
        "type": "service_account",
        "project_id": "demo-project",
        "private_key_id": "kid-1",
        "private_key": key().serialize_pem(),
        "client_email": "bugler@demo-project.iam.gserviceaccount.com",
        "client_id": "1",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": token_uri,
        "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
        "client_x509_cert_url": "https://example.com",
    });
    Secret::new(account.to_string())
}

fn config(endpoint: String, token_uri: &str) -> FcmConfig {
    FcmConfig { endpoint, deadlines: patient(), ..FcmConfig::new(account(token_uri)) }
}

fn to(token: &str) -> Delivery {
    delivery(Target::Fcm {
        device: DeviceId(Uuid::new_v4()),
        user: UserId(1),
        app: "app".into(),
        token: Secret::new(token),
    })
}

/// A token endpoint whose n-th token is `token-n` and lives an hour.
async fn tokens() -> Server {
    Server::start(None, Speak::Http1, |_, n| {
        let grant = json!({"access_token": format!("token-{n}"), "expires_in": 3600});
        Act::text(200, grant.to_string())
    })
    .await
}

async fn accepting() -> Server {
    Server::start(None, Speak::Http2(100), |_, n| {
        Act::text(200, json!({"name": format!("projects/demo-project/messages/{n}")}).to_string())
    })
    .await
}

#[tokio::test]
async fn a_message_arrives_as_google_documents_it() {
    let ca = Ca::new();
    let oauth = Server::start(Some(ca.server(b"http/1.1")), Speak::Http1, |_, _| {
        Act::text(200, r#"{"access_token":"secret-token","expires_in":3599,"token_type":"Bearer"}"#)
    })
    .await;
    let fcm = Server::start(Some(ca.server(b"h2")), Speak::Http2(100), |_, _| {
        Act::text(200, r#"{"name":"projects/demo-project/messages/0:1"}"#)
    })
    .await;
    let token_uri = format!("{}/token?x=1", oauth.url());
    let config = FcmConfig { ca_pem: Some(ca.pem()), ..config(fcm.url(), &token_uri) };
    let provider = Fcm::new(config, clock()).unwrap();
    let content = Content {
        title: "Title".into(),
        body: "Body".into(),
        image_url: Some("https://example.com/a.png".into()),
        data: r#"{"text":"as is","number":7,"deep":{"a":[1]},"no":null}"#.into(),
    };
    let mut delivery = with_content(to("device-token"), content);
    delivery.collapse_key = Some("order-7".into());
    let attempt = send_one(&provider, delivery.clone()).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
    assert_eq!(attempt.provider_id.as_deref(), Some("projects/demo-project/messages/0:1"));

    let seen = &fcm.seen()[0];
    assert_eq!(seen.path, "/v1/projects/demo-project/messages:send");
    assert_eq!(seen.headers["authorization"], "Bearer secret-token");
    assert_eq!(seen.headers["content-type"], "application/json");
    let mut body: Value = serde_json::from_slice(&seen.body).unwrap();
    let ttl = body["message"]["android"]["ttl"].take();
    let seconds: u64 = ttl.as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&seconds), "{ttl}");
    assert_eq!(
        body,
        json!({"message": {
            "token": "device-token",
            "notification": {
                "title": "Title", "body": "Body", "image": "https://example.com/a.png",
            },
            "data": {"text": "as is", "number": "7", "deep": "{\"a\":[1]}", "no": "null"},
            "android": {
                "collapse_key": "order-7",
                "priority": "HIGH",
                "ttl": null,
                "notification": {"tag": delivery.id.to_string()},
            },
        }})
    );
    assert_grant(&oauth, &token_uri);
}

/// The token request is a JWT bearer grant that Google's own rules accept.
fn assert_grant(oauth: &Server, token_uri: &str) {
    let seen = &oauth.seen()[0];
    assert_eq!(seen.path, "/token?x=1");
    assert_eq!(seen.headers["content-type"], "application/x-www-form-urlencoded");
    let form: std::collections::HashMap<_, _> =
        url::form_urlencoded::parse(&seen.body).into_owned().collect();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let public = jsonwebtoken::DecodingKey::from_rsa_pem(key().public_key_pem().as_bytes());
    let mut strict = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    strict.set_audience(&[token_uri]);
    strict.set_issuer(&["bugler@demo-project.iam.gserviceaccount.com"]);
    strict.set_required_spec_claims(&["exp", "aud", "iss"]);
    let jwt = jsonwebtoken::decode::<Value>(&form["assertion"], &public.unwrap(), &strict).unwrap();
    assert_eq!(jwt.header.kid.as_deref(), Some("kid-1"));
    assert_eq!(jwt.claims["scope"], "https://www.googleapis.com/auth/firebase.messaging");
    let (iat, exp) = (jwt.claims["iat"].as_u64().unwrap(), jwt.claims["exp"].as_u64().unwrap());
    assert_eq!(exp - iat, 3600);
}

#[tokio::test]
async fn a_burst_without_a_token_fetches_one() {
    let (oauth, fcm) = (tokens().await, accepting().await);
    let provider = Fcm::new(config(fcm.url(), &oauth.url()), clock()).unwrap();
    let batch: Vec<_> = (0..100).map(|n| to(&format!("device-{n}"))).collect();
    let attempts = send_all(&provider, &batch).await;
    assert!(attempts.iter().all(|a| a.outcome == Outcome::Delivered));
    assert_eq!(oauth.seen().len(), 1);
}

#[tokio::test]
async fn a_token_is_renewed_at_four_fifths_of_its_life_behind_the_senders() {
    let (oauth, fcm) = (tokens().await, accepting().await);
    let time = TestClock::at(Millis(1_700_000_000_000));
    let provider = Fcm::new(config(fcm.url(), &oauth.url()), Arc::new(time.clone())).unwrap();
    let used = |n: usize| fcm.seen()[n].headers["authorization"].to_str().unwrap().to_owned();
    send_one(&provider, to("a")).await;
    time.advance(Duration::from_secs(2879));
    send_one(&provider, to("a")).await;
    assert_eq!((oauth.seen().len(), used(1)), (1, "Bearer token-0".into()));
    time.advance(Duration::from_secs(1));
    let batch: Vec<_> = (0..20).map(|_| to("a")).collect();
    let attempts = send_all(&provider, &batch).await;
    assert!(attempts.iter().all(|a| a.outcome == Outcome::Delivered), "nobody waited in vain");
    eventually("renewed", || oauth.seen().len() == 2).await;
    let sent = fcm.seen().len();
    eventually("the new token is in use", || provider.tokens.holds("Bearer token-1")).await;
    send_one(&provider, to("a")).await;
    assert_eq!((oauth.seen().len(), used(sent)), (2, "Bearer token-1".into()));
}

#[tokio::test]
async fn a_failing_token_endpoint_is_harmless_until_the_old_token_ends_and_then_asked_again_soon() {
    let oauth = Server::start(None, Speak::Http1, |_, n| match n {
        0 => Act::text(200, r#"{"access_token":"token-0","expires_in":1000}"#),
        _ => Act::text(503, r#"{"error":"backend"}"#),
    })
    .await;
    let fcm = accepting().await;
    let time = TestClock::at(Millis(1_700_000_000_000));
    let provider = Fcm::new(config(fcm.url(), &oauth.url()), Arc::new(time.clone())).unwrap();
    send_one(&provider, to("a")).await;
    time.advance(Duration::from_secs(900));
    assert_eq!(send_one(&provider, to("a")).await.outcome, Outcome::Delivered);
    eventually("a renewal was tried", || oauth.seen().len() == 2).await;
    time.advance(Duration::from_secs(100));
    let batch: Vec<_> = (0..50).map(|_| to("a")).collect();
    for attempt in send_all(&provider, &batch).await {
        let Outcome::Retry { after: Some(wait), cause: "oauth_unavailable" } = attempt.outcome
        else {
            panic!("{attempt:?}");
        };
        assert!(wait <= Duration::from_secs(2), "the app is not held as for a wrong credential");
    }
    assert_eq!(oauth.seen().len(), 3, "those who queued behind a failure do not repeat it");
    assert_eq!(fcm.seen().len(), 2);
}

#[tokio::test]
async fn a_credential_that_the_token_endpoint_refuses_holds() {
    let oauth = Server::start(None, Speak::Http1, |_, _| Act::text(401, "{}")).await;
    let fcm = accepting().await;
    let provider = Fcm::new(config(fcm.url(), &oauth.url()), clock()).unwrap();
    for _ in 0..2 {
        let attempt = send_one(&provider, to("a")).await;
        assert_eq!(attempt.outcome, Outcome::Hold { cause: "oauth" });
    }
    assert_eq!((oauth.seen().len(), fcm.seen().len()), (1, 0));
}

#[tokio::test]
async fn an_unusable_token_answer_holds() {
    for body in [
        "",
        "{}",
        r#"{"access_token":""}"#,
        r#"{"access_token":"a\nb","expires_in":10}"#,
        r#"{"access_token":"a","expires_in":0}"#,
        r#"{"access_token":"a","expires_in":-5}"#,
    ] {
        let oauth = Server::start(None, Speak::Http1, move |_, _| Act::text(200, body)).await;
        let fcm = accepting().await;
        let provider = Fcm::new(config(fcm.url(), &oauth.url()), clock()).unwrap();
        let attempt = send_one(&provider, to("a")).await;
        assert_eq!(attempt.outcome, Outcome::Hold { cause: "oauth" }, "{body}");
        assert!(fcm.seen().is_empty());
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced_when_old_and_holds_when_young() {
    let oauth = tokens().await;
    let fcm = Server::start(None, Speak::Http2(100), |_, _| {
        Act::text(401, r#"{"error":{"code":401,"status":"UNAUTHENTICATED"}}"#)
    })
    .await;
    let time = TestClock::at(Millis(1_700_000_000_000));
    let provider = Fcm::new(config(fcm.url(), &oauth.url()), Arc::new(time.clone())).unwrap();
    let young = send_one(&provider, to("a")).await;
    assert_eq!(young.outcome, Outcome::Hold { cause: "unauthenticated" });
    time.advance(Duration::from_secs(61));
    let old = send_one(&provider, to("a")).await;
    assert_eq!(old.outcome, Outcome::Retry { after: None, cause: "unauthenticated" });
    send_one(&provider, to("a")).await;
    assert_eq!(oauth.seen().len(), 2);
    assert_eq!(fcm.seen()[2].headers["authorization"], "Bearer token-1");
}

fn answer(status: u16, retry: Option<&str>, body: &Value) -> Answer {
    let mut headers = HeaderMap::new();
    if let Some(value) = retry {
        headers.insert("retry-after", value.parse().unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    Answer { status, headers, body: Bytes::from(body.to_string()), truncated: false }
}

fn error(status: u16, rpc: &str, fcm: Option<&str>) -> Value {
    let details: Vec<_> = fcm
        .into_iter()
        .map(|code| {
            json!({
                "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code,
            })
        })
        .chain([json!({"@type": "type.googleapis.com/google.rpc.BadRequest"})])
        .collect();
    json!({"error": {"code": status, "message": "m", "status": rpc, "details": details}})
}

fn outcome(answer: &Answer) -> Outcome {
    classify::classify(answer, Millis(0)).verdict.outcome
}

#[test]
fn no_device_goes_for_a_word_that_comes_with_an_outage() {
    let outage = error(503, "UNAVAILABLE", Some("UNREGISTERED"));
    let again = Outcome::Retry { after: None, cause: "http_5xx" };
    assert_eq!(outcome(&answer(503, None, &outage)), again);
}

#[test]
fn every_documented_code_means_what_the_table_says() {
    let wait = |seconds| Some(Duration::from_secs(seconds));
    let cases = [
        (404, "NOT_FOUND", Some("UNREGISTERED"), Outcome::Gone { cause: "unregistered" }),
        (
            400,
            "INVALID_ARGUMENT",
            Some("INVALID_ARGUMENT"),
            Outcome::Rejected { cause: "invalid_argument" },
        ),
        (
            403,
            "PERMISSION_DENIED",
            Some("SENDER_ID_MISMATCH"),
            Outcome::Rejected { cause: "sender_id_mismatch" },
        ),
        (
            401,
            "UNAUTHENTICATED",
            Some("THIRD_PARTY_AUTH_ERROR"),
            Outcome::Hold { cause: "third_party_auth_error" },
        ),
        (
            429,
            "RESOURCE_EXHAUSTED",
            Some("QUOTA_EXCEEDED"),
            Outcome::Retry { after: wait(60), cause: "quota_exceeded" },
        ),
        (
            503,
            "UNAVAILABLE",
            Some("UNAVAILABLE"),
            Outcome::Retry { after: None, cause: "unavailable" },
        ),
        (500, "INTERNAL", Some("INTERNAL"), Outcome::Retry { after: None, cause: "internal" }),
        (
            500,
            "UNKNOWN",
            Some("UNSPECIFIED_ERROR"),
            Outcome::Retry { after: None, cause: "unspecified_error" },
        ),
        (400, "INVALID_ARGUMENT", None, Outcome::Rejected { cause: "invalid_argument" }),
        (400, "FAILED_PRECONDITION", None, Outcome::Rejected { cause: "failed_precondition" }),
        (400, "OUT_OF_RANGE", None, Outcome::Rejected { cause: "out_of_range" }),
        (401, "UNAUTHENTICATED", None, Outcome::Retry { after: None, cause: "unauthenticated" }),
        (403, "PERMISSION_DENIED", None, Outcome::Hold { cause: "permission_denied" }),
        (404, "NOT_FOUND", None, Outcome::Hold { cause: "project_not_found" }),
        (
            429,
            "RESOURCE_EXHAUSTED",
            None,
            Outcome::Retry { after: wait(60), cause: "resource_exhausted" },
        ),
        (409, "ABORTED", None, Outcome::Retry { after: None, cause: "aborted" }),
        (
            504,
            "DEADLINE_EXCEEDED",
            None,
            Outcome::Retry { after: None, cause: "deadline_exceeded" },
        ),
        (500, "INTERNAL", None, Outcome::Retry { after: None, cause: "internal" }),
        (503, "UNAVAILABLE", None, Outcome::Retry { after: None, cause: "unavailable" }),
        // A code newer than the table goes by its status word, an unknown word by the number.
        (404, "NOT_FOUND", Some("BRAND_NEW"), Outcome::Hold { cause: "project_not_found" }),
        (400, "BRAND_NEW", None, Outcome::Rejected { cause: "http_4xx" }),
        (429, "BRAND_NEW", None, Outcome::Retry { after: wait(60), cause: "http_429" }),
        (502, "BRAND_NEW", None, Outcome::Retry { after: None, cause: "http_5xx" }),
    ];
    assert_eq!(cases.len(), FCM_CODES.len() + RPC_CODES.len() + 4);
    for (status, rpc, code, want) in cases {
        assert_eq!(
            outcome(&answer(status, None, &error(status, rpc, code))),
            want,
            "{rpc} {code:?}"
        );
    }
    let asked = answer(429, Some("7"), &error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED")));
    assert_eq!(outcome(&asked), Outcome::Retry { after: wait(7), cause: "quota_exceeded" });
    let asked = answer(503, Some("9"), &json!("text"));
    assert_eq!(outcome(&asked), Outcome::Retry { after: wait(9), cause: "http_5xx" });
}

#[test]
fn success_without_a_name_is_delivered_and_says_so() {
    let verdict = classify::classify(&answer(200, None, &json!({})), Millis(0)).verdict;
    assert_eq!(verdict.outcome, Outcome::Delivered);
    assert_eq!((verdict.reason.as_deref(), verdict.provider_id), (Some("no_id"), None));
}

#[tokio::test]
async fn what_fcm_could_never_take_is_rejected_without_a_connection() {
    let (oauth, fcm) = (tokens().await, accepting().await);
    let provider = Fcm::new(config(fcm.url(), &oauth.url()), clock()).unwrap();
    let with = |content| with_content(to("a"), content);
    let data = |data: &str| Content { body: "b".into(), data: data.into(), ..Content::default() };
    let long = "t".repeat(4097);
    let cases = [
        (to(""), "bad_token_format"),
        (to("a b"), "bad_token_format"),
        (to(&long), "bad_token_format"),
        (with(Content { body: "b".repeat(4097), ..Content::default() }), "payload_too_large"),
        (with(data(&json!({"k": "v".repeat(4096)}).to_string())), "payload_too_large"),
        (with(data("[1]")), "bad_data"),
        (with(data(r#"{"from":"x"}"#)), "reserved_data_key"),
        (with(data(r#"{"google.x":"x"}"#)), "reserved_data_key"),
    ];
    for (delivery, cause) in cases {
        assert_eq!(send_one(&provider, delivery).await.outcome, Outcome::Rejected { cause });
    }
    assert_eq!((oauth.accepted(), fcm.accepted()), (0, 0));
    let full = with(Content { body: "b".repeat(4096), ..Content::default() });
    assert_eq!(send_one(&provider, full).await.outcome, Outcome::Delivered);
}

#[tokio::test]
async fn low_priority_and_a_short_life_reach_android_and_an_ended_one_does_not() {
    let (oauth, fcm) = (tokens().await, accepting().await);
    let provider = Fcm::new(config(fcm.url(), &oauth.url()), clock()).unwrap();
    let mut delivery = to("a");
    delivery.priority = Priority::Low;
    delivery.expires_at = Millis(0);
    let late = send_one(&provider, delivery.clone()).await;
    assert_eq!(late.outcome, Outcome::Retry { after: Some(Duration::ZERO), cause: "late" });
    delivery.expires_at = clock().now().plus(1);
    send_one(&provider, delivery).await;
    let body: Value = serde_json::from_slice(&fcm.seen()[0].body).unwrap();
    assert_eq!(body["message"]["android"]["priority"], "NORMAL");
    assert_eq!(body["message"]["android"]["ttl"], "0s");
}

#[test]
fn a_configuration_that_cannot_work_is_named_without_its_secrets() {
    let good = || config("https://fcm.googleapis.com:443".into(), "https://oauth2.example/token");
    assert!(Fcm::new(good(), clock()).is_ok(), "no runtime and no socket needed");
    let ec = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let not_rsa = account("https://o/t")
        .reveal()
        .replace(&key().serialize_pem().replace('\n', "\\n"), &ec.replace('\n', "\\n"));
    let bad = [
        FcmConfig { endpoint: "ftp://x".into(), ..good() },
        FcmConfig { service_account_json: Secret::new("{\"private_key\":\"hush\"}"), ..good() },
        FcmConfig { project_id: Some("../x".into()), ..good() },
        FcmConfig { project_id: Some("a/b".into()), ..good() },
        FcmConfig { service_account_json: account("http://oauth2.example/token"), ..good() },
        FcmConfig { service_account_json: account("nonsense"), ..good() },
        FcmConfig { service_account_json: Secret::new(not_rsa), ..good() },
    ];
    for config in bad {
        let error = Fcm::new(config, clock()).unwrap_err();
        let shown = format!("{error}{error:?}");
        assert!(!shown.contains("hush") && !shown.contains("BEGIN"), "{shown}");
    }
}

#[tokio::test]
async fn a_throttled_project_is_left_alone_for_as_long_as_google_says() {
    for header in [Some("30"), Some("-5"), None] {
        let sending = Server::start(None, Speak::Http2(100), move |_, _| {
            let headers = header.map(|value| ("retry-after", value.to_owned()));
            let body = error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED")).to_string();
            Act::Answer(429, headers.into_iter().collect(), body)
        })
        .await;
        let tokens = tokens().await;
        let provider =
            Fcm::new(config(sending.url(), &format!("{}/token", tokens.url())), clock()).unwrap();
        send_one(&provider, to("phone-1")).await;
        let second = send_one(&provider, to("phone-2")).await;
        let Outcome::Retry { after: Some(wait), cause: "quota_exceeded" } = second.outcome else {
            panic!("{second:?}");
        };
        let asked = Duration::from_secs(if header == Some("30") { 30 } else { 60 });
        assert!(wait <= asked && wait > asked / 2, "{header:?}: {wait:?}");
        assert_eq!((second.status, sending.seen().len()), (None, 1), "nothing is sent meanwhile");
        assert_eq!(provider.in_flight_max(), 1);
    }
}

#[tokio::test]
async fn a_project_is_sent_to_at_its_pace_only() {
    let (sending, tokens) = (accepting().await, tokens().await);
    let config = FcmConfig {
        per_second: Some(1),
        ..config(sending.url(), &format!("{}/token", tokens.url()))
    };
    let provider = Fcm::new(config, clock()).unwrap();
    let batch: Vec<_> = (0..4).map(|n| to(&format!("phone-{n}"))).collect();
    let attempts = send_all(&provider, &batch).await;
    let paced = |a: &&Attempt| matches!(a.outcome, Outcome::Retry { cause: "paced", .. });
    assert_eq!(attempts.iter().filter(paced).count(), 3, "one now, the next after 20 seconds");
    assert_eq!(sending.seen().len(), 1);
}
