//! The FCM twin and its token endpoint accept right requests and refuse each wrong one.

use bugler_loadtest::twins::{TwinName, TwinSet};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::support::{ask, body, h2, send, soon, twins};

const FORM: &str = "application/x-www-form-urlencoded";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn account(twins: &TwinSet) -> Value {
    serde_json::from_str(&twins.credentials().fcm_service_account).expect("a JSON key file")
}

fn claims(twins: &TwinSet) -> Value {
    let account = account(twins);
    let now = get_current_timestamp();
    json!({
        "iss": account["client_email"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": account["token_uri"],
        "iat": now,
        "exp": now + 3600,
    })
}

fn sign(twins: &TwinSet, claims: &Value) -> String {
    let account = account(twins);
    let pem = account["private_key"].as_str().expect("a key");
    let key = EncodingKey::from_rsa_pem(pem.as_bytes()).expect("an RSA key");
    encode(&Header::new(Algorithm::RS256), claims, &key).expect("claims that can be signed")
}

fn form(grant: &str, assertion: &str) -> String {
    form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", grant)
        .append_pair("assertion", assertion)
        .finish()
}

async fn exchange(twins: &TwinSet, media_type: &str, form: &str) -> Response<Bytes> {
    let url = account(twins)["token_uri"].as_str().expect("a URL").to_owned();
    soon(ask(twins, "POST", &url, &[("content-type", media_type)], form)).await.expect("answered")
}

async fn access_token(twins: &TwinSet) -> String {
    let answer = exchange(twins, FORM, &form(GRANT, &sign(twins, &claims(twins)))).await;
    assert_eq!(answer.status(), 200);
    body(&answer)["access_token"].as_str().expect("a token").to_owned()
}

fn message(twins: &TwinSet, token: &str, message: &Value) -> Request<Bytes> {
    let project = &twins.credentials().fcm_project_id;
    Request::post(format!("https://127.0.0.1/v1/projects/{project}/messages:send"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json; charset=UTF-8")
        .body(Bytes::from(message.to_string()))
        .expect("a request")
}

fn right() -> Value {
    json!({ "message": {
        "token": "device-1",
        "notification": { "title": "n-7", "body": "hello" },
        "data": { "notificationId": "ref-1" },
        "android": { "priority": "HIGH", "ttl": "3600s", "notification": { "tag": "delivery-1" } },
    }})
}

async fn ready(twins: &TwinSet) -> (String, SendRequest<Bytes>) {
    (access_token(twins).await, h2(twins, &twins.fcm_url()).await)
}

#[tokio::test]
async fn a_right_message_is_named_and_recorded() {
    let twins = twins().await;
    let (token, mut connection) = ready(&twins).await;
    let answer =
        soon(send(&mut connection, message(&twins, &token, &right()))).await.expect("sent");
    assert_eq!(answer.status(), 200);
    let name = body(&answer)["name"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("projects/twin-project/messages/"), "{name}");

    let receipts = twins.receipts_since(Some(TwinName::Fcm), 0);
    let receipt = receipts.first().expect("a receipt");
    assert_eq!((receipt.key.as_str(), receipt.target.as_str()), ("delivery-1", "device-1"));
    assert_eq!(receipt.notification.as_deref(), Some("ref-1"));
    assert_eq!((receipt.marker, receipt.status), (Some(7), 200));
}

#[tokio::test]
async fn http_1_is_served_as_well() {
    let twins = twins().await;
    let token = access_token(&twins).await;
    let url = format!("{}/v1/projects/twin-project/messages:send", twins.fcm_url());
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let answer = soon(ask(&twins, "POST", &url, &headers, &right().to_string())).await;
    assert_eq!(answer.expect("answered").status(), 200);
}

#[tokio::test]
async fn each_wrong_message_is_refused_as_an_invalid_argument() {
    let twins = twins().await;
    let (token, mut connection) = ready(&twins).await;
    let changed = |pointer: &str, value: Value| {
        let mut message = right();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        message.pointer_mut(parent).expect("it is there")[name] = value;
        message
    };
    for wrong in [
        json!([]),
        json!({}),
        json!({ "message": [] }),
        json!({ "message": { "notification": {} } }),
        changed("/unknown", json!(1)),
        changed("/validate_only", json!("yes")),
        changed("/message/topic", json!("news")),
        changed("/message/token", json!("")),
        changed("/message/token", json!(7)),
        changed("/message/to", json!("device")),
        changed("/message/notification/title", json!(7)),
        changed("/message/notification/sound", json!("x")),
        changed("/message/data/count", json!(7)),
        changed("/message/data/nested", json!({})),
        changed("/message/data/nothing", json!(null)),
        changed("/message/data/from", json!("me")),
        changed("/message/data/google.x", json!("me")),
        changed("/message/data/big", json!("x".repeat(4097))),
        changed("/message/android/ttl", json!("1h")),
        changed("/message/android/ttl", json!(3600)),
        changed("/message/android/priority", json!("urgent")),
        changed("/message/android/notification/tag", json!(7)),
    ] {
        let sent = soon(send(&mut connection, message(&twins, &token, &wrong))).await;
        let answer = sent.expect("answered");
        let error = &body(&answer)["error"];
        assert_eq!(answer.status(), 400, "{wrong}");
        assert_eq!(error["status"], "INVALID_ARGUMENT");
        assert_eq!(error["details"][0]["errorCode"], "INVALID_ARGUMENT");
        assert!(twins.receipts().pop().expect("a receipt").refused.is_some());
    }
    for target in ["topic", "condition"] {
        let other = json!({ "message": { target: "news" } });
        let answer = soon(send(&mut connection, message(&twins, &token, &other))).await;
        assert_eq!(answer.expect("answered").status(), 200, "{target}");
    }
}

#[tokio::test]
async fn wrong_credentials_paths_and_methods_are_refused() {
    let twins = twins().await;
    let (token, mut connection) = ready(&twins).await;
    let request = || message(&twins, &token, &right());
    let mut forged = request();
    forged.headers_mut().insert("authorization", "Bearer ya29.forged".parse().expect("a value"));
    let mut anonymous = request();
    anonymous.headers_mut().remove("authorization");
    let mut elsewhere = request();
    *elsewhere.uri_mut() =
        "https://127.0.0.1/v1/projects/other/messages:send".parse().expect("a URI");
    let mut reading = request();
    *reading.method_mut() = http::Method::GET;
    let mut untyped = request();
    untyped.headers_mut().insert("content-type", "text/plain".parse().expect("a value"));
    for (wrong, status, name) in [
        (forged, 401, "UNAUTHENTICATED"),
        (anonymous, 401, "UNAUTHENTICATED"),
        (elsewhere, 404, "NOT_FOUND"),
        (reading, 405, "UNIMPLEMENTED"),
        (untyped, 400, "INVALID_ARGUMENT"),
    ] {
        let answer = soon(send(&mut connection, wrong)).await.expect("answered");
        assert_eq!(answer.status(), status);
        assert_eq!(body(&answer)["error"]["status"], name);
    }
}

#[tokio::test]
async fn each_wrong_token_request_is_refused() {
    let twins = twins().await;
    let right = claims(&twins);
    let changed = |name: &str, value: Value| {
        let mut claims = right.clone();
        claims[name] = value;
        form(GRANT, &sign(&twins, &claims))
    };
    let now = get_current_timestamp();
    let signed = sign(&twins, &right);
    let (unsigned, _) = signed.rsplit_once('.').expect("three parts");
    for (media_type, form, error) in [
        ("application/json", form(GRANT, &signed), "invalid_request"),
        (FORM, form("client_credentials", &signed), "unsupported_grant_type"),
        (FORM, format!("grant_type={GRANT}"), "invalid_request"),
        (FORM, form(GRANT, "a.b.c"), "invalid_grant"),
        (FORM, form(GRANT, &format!("{unsigned}.AAAA")), "invalid_grant"),
        (FORM, changed("aud", json!("https://oauth2.googleapis.com/token")), "invalid_grant"),
        (FORM, changed("iss", json!("other@example.com")), "invalid_grant"),
        (FORM, changed("scope", json!("https://www.googleapis.com/auth/drive")), "invalid_grant"),
        (FORM, changed("exp", json!(now - 600)), "invalid_grant"),
        (FORM, changed("exp", json!(now + 7200)), "invalid_grant"),
        (FORM, changed("iat", json!(now + 600)), "invalid_grant"),
        (FORM, changed("iat", json!(null)), "invalid_grant"),
    ] {
        let answer = exchange(&twins, media_type, &form).await;
        assert_eq!(answer.status(), 400, "{form}");
        assert_eq!(body(&answer)["error"], error, "{form}");
    }
    let counts = twins.counts();
    assert_eq!(counts[&TwinName::FcmToken].refused, 12);
}

#[tokio::test]
async fn device_tokens_made_for_tests_answer_with_googles_envelope() {
    let twins = twins().await;
    let (token, mut connection) = ready(&twins).await;
    for (start, statuses, name, code) in [
        ("unregistered", [404, 404], "NOT_FOUND", "UNREGISTERED"),
        ("mismatch", [403, 403], "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
        ("throttle", [429, 429], "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
        ("flaky", [503, 200], "UNAVAILABLE", "UNAVAILABLE"),
    ] {
        for status in statuses {
            let mut wanted = right();
            wanted["message"]["token"] = json!(format!("{start}-1"));
            let answer = soon(send(&mut connection, message(&twins, &token, &wanted))).await;
            let answer = answer.expect("answered");
            assert_eq!(answer.status(), status, "{start}");
            assert_eq!(answer.headers().contains_key("retry-after"), status == 429);
            if status != 200 {
                let error = &body(&answer)["error"];
                assert_eq!((&error["status"], &error["code"]), (&json!(name), &json!(status)));
                assert_eq!(error["details"][0]["errorCode"], code);
            }
        }
    }
}
