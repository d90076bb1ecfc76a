//! The APNs twin accepts a right push and refuses each wrong one with Apple's reason.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bugler_loadtest::twins::{TwinName, TwinOptions, TwinSet};
use bytes::Bytes;
use jsonwebtoken::{Algorithm, Header, get_current_timestamp};
use serde_json::json;

use crate::support::{
    APNS_ID, Push, TOKEN, body, h2, provider_token, send, sign_apns, soon, twins, twins_with,
};

#[tokio::test]
async fn a_right_push_is_answered_with_its_id_and_recorded() {
    let twins = twins().await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    let answer =
        soon(send(&mut connection, Push::right(&twins).request())).await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["apns-id"], APNS_ID);
    assert!(answer.body().is_empty());

    let receipts = twins.receipts();
    let receipt = receipts.first().expect("a receipt");
    assert_eq!((receipt.twin, receipt.status, receipt.attempt), (TwinName::Apns, 200, 1));
    assert_eq!((receipt.key.as_str(), receipt.target.as_str()), (APNS_ID, TOKEN));
    assert_eq!(receipt.notification.as_deref(), Some("ref-1"));
    assert_eq!((receipt.marker, receipt.refused.as_deref()), (Some(7), None));
}

#[tokio::test]
async fn an_id_is_made_up_when_the_push_has_none() {
    let twins = twins().await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    let push = Push::right(&twins).without("apns-id").without("apns-collapse-id");
    let answer = soon(send(&mut connection, push.request())).await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["apns-id"].len(), 36);
}

#[tokio::test]
async fn each_wrong_push_is_refused_with_apples_reason() {
    let twins = twins().await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    for (push, status, reason) in wrong_pushes(&twins) {
        let answer = soon(send(&mut connection, push.request())).await.expect("answered");
        assert_eq!(body(&answer)["reason"], reason);
        assert_eq!(answer.status(), status, "{reason}");
        let last = twins.receipts().pop().expect("a receipt");
        assert_eq!((last.status, last.refused.as_deref()), (status, Some(reason)));
    }
}

fn wrong_pushes(twins: &TwinSet) -> Vec<(Push, u16, &'static str)> {
    let right = || Push::right(twins);
    let with_body = |body: Vec<u8>| Push { body: body.into(), ..right() };
    let mut cases = vec![
        (Push { method: "GET", ..right() }, 405, "MethodNotAllowed"),
        (Push { path: format!("/4/device/{TOKEN}"), ..right() }, 404, "BadPath"),
        (right().to(""), 400, "MissingDeviceToken"),
        (right().to("abcdef"), 400, "BadDeviceToken"),
        (right().to(&TOKEN.replace('a', "x")), 400, "BadDeviceToken"),
        (right().without("apns-topic"), 400, "MissingTopic"),
        (right().with("apns-topic", "com.example.other"), 400, "TopicDisallowed"),
        (right().with("apns-push-type", "voip"), 400, "TopicDisallowed"),
        (right().without("apns-push-type"), 400, "InvalidPushType"),
        (right().with("apns-push-type", "shout"), 400, "InvalidPushType"),
        (right().with("apns-id", "7"), 400, "BadMessageId"),
        (right().with("apns-id", &APNS_ID.replace('-', "")), 400, "BadMessageId"),
        (right().with("apns-expiration", "soon"), 400, "BadExpirationDate"),
        (right().with("apns-expiration", "-1"), 400, "BadExpirationDate"),
        (right().with("apns-priority", "7"), 400, "BadPriority"),
        (right().with("apns-push-type", "background"), 400, "BadPriority"),
        (right().with("apns-collapse-id", &"a".repeat(65)), 400, "BadCollapseId"),
        (with_body(Vec::new()), 400, "PayloadEmpty"),
        (with_body(b"{\"alert\":{}}".to_vec()), 400, "BadPayload"),
        (with_body(b"[\"aps\"]".to_vec()), 400, "BadPayload"),
        (with_body(b"{\"aps\":{}".to_vec()), 400, "BadPayload"),
    ];
    let padding = " ".repeat(4096);
    cases.push((with_body(format!("{{\"aps\":{{}}}}{padding}").into()), 413, "PayloadTooLarge"));
    for (header, reason) in wrong_tokens(twins) {
        let push = match header {
            Some(header) => right().with("authorization", &header),
            None => right().without("authorization"),
        };
        cases.push((push, 403, reason));
    }
    cases
}

fn wrong_tokens(twins: &TwinSet) -> Vec<(Option<String>, &'static str)> {
    let credentials = twins.credentials();
    let now = get_current_timestamp();
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(credentials.apns_key_id.clone());
    let claims = json!({ "iss": credentials.apns_team_id, "iat": now });
    let right = provider_token(credentials, now);
    let (first, rest) = right.split_once('.').expect("three parts");
    // Standard base64 with padding, which RFC 7515 rules out.
    let padded = STANDARD.encode(b"{\"alg\":\"ES256\",\"kid\":\"TWINKEY001\"}\n");
    assert!(padded.ends_with('='), "the case needs padding: {padded}");
    let other_key = Header { kid: Some("OTHERKEY01".into()), ..header.clone() };
    let no_key = Header::new(Algorithm::ES256);
    let sign = |header: &Header, claims| {
        Some(format!("bearer {}", sign_apns(credentials, header, &claims)))
    };
    let invalid = "InvalidProviderToken";
    vec![
        (None, "MissingProviderToken"),
        (Some(right.clone()), invalid),
        (Some(format!("basic {right}")), invalid),
        (Some("bearer a.b.c".into()), invalid),
        (Some(format!("bearer {padded}.{rest}")), invalid),
        (Some(format!("bearer {first}.{}", rest.replace('.', "A."))), invalid),
        (sign(&other_key, claims.clone()), invalid),
        (sign(&no_key, claims), invalid),
        (sign(&header, json!({ "iss": "OTHERTEAM1", "iat": now })), invalid),
        (sign(&header, json!({ "iss": credentials.apns_team_id })), invalid),
        (sign(&header, json!({ "iss": credentials.apns_team_id, "iat": now + 600 })), invalid),
        (
            sign(&header, json!({ "iss": credentials.apns_team_id, "iat": now - 3700 })),
            "ExpiredProviderToken",
        ),
    ]
}

#[tokio::test]
async fn topics_of_other_push_types_carry_their_suffix() {
    let twins = twins().await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    for (push_type, suffix) in [("voip", ".voip"), ("liveactivity", ".push-type.liveactivity")] {
        let topic = format!("{}{suffix}", twins.credentials().apns_topic);
        let push = Push::right(&twins).with("apns-push-type", push_type).with("apns-topic", &topic);
        let answer = soon(send(&mut connection, push.request())).await.expect("answered");
        assert_eq!(answer.status(), 200, "{push_type}");
    }
}

#[tokio::test]
async fn device_tokens_made_for_tests_answer_in_their_own_way() {
    let twins = twins().await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    let rest = TOKEN.get(4..).expect("a long token");
    for (start, statuses, reason) in [
        ("dead", [410, 410], "Unregistered"),
        ("DEAD", [410, 410], "Unregistered"),
        ("e401", [410, 410], "ExpiredToken"),
        ("badd", [400, 400], "BadDeviceToken"),
        ("429a", [429, 429], "TooManyRequests"),
        ("f1a4", [429, 200], "TooManyRequests"),
    ] {
        for (attempt, status) in statuses.into_iter().enumerate() {
            let push = Push::right(&twins).to(&format!("{start}{rest}"));
            let answer = soon(send(&mut connection, push.request())).await.expect("answered");
            assert_eq!(answer.status(), status, "{start}, attempt {attempt}");
            if status != 200 {
                assert_eq!(body(&answer)["reason"], reason);
                assert_eq!(body(&answer)["timestamp"].is_u64(), status == 410);
            }
        }
        let refused: Vec<_> = twins.receipts().into_iter().filter_map(|r| r.refused).collect();
        assert!(refused.is_empty(), "the requests themselves were right");
    }
}

#[tokio::test]
async fn a_second_provider_token_too_soon_is_turned_away_and_the_first_stays_good() {
    let least = Duration::from_secs(1200);
    let options = TwinOptions { apns_token_update_min: Some(least), ..TwinOptions::default() };
    let twins = twins_with(options).await;
    let mut connection = h2(&twins, &twins.apns_url()).await;
    let now = get_current_timestamp();
    let first = provider_token(twins.credentials(), now);
    let second = provider_token(twins.credentials(), now - 5);
    for (token, status) in [(&first, 200), (&second, 429), (&first, 200)] {
        let push = Push::right(&twins).with("authorization", &format!("bearer {token}"));
        let answer = soon(send(&mut connection, push.request())).await.expect("answered");
        assert_eq!(answer.status(), status);
        if status == 429 {
            assert_eq!(body(&answer)["reason"], "TooManyProviderTokenUpdates");
        }
    }
}

#[tokio::test]
async fn a_body_in_several_frames_is_put_together() {
    let twins = twins().await;
    let connection = h2(&twins, &twins.apns_url()).await;
    let (parts, whole) = Push::right(&twins).request().into_parts();
    let mut ready = connection.ready().await.expect("ready");
    let (answer, mut stream) =
        ready.send_request(http::Request::from_parts(parts, ()), false).expect("sent");
    let half = whole.len() / 2;
    stream.send_data(whole.slice(..half), false).expect("sent");
    stream.send_data(Bytes::new(), false).expect("sent");
    stream.send_data(whole.slice(half..), true).expect("sent");
    assert_eq!(soon(answer).await.expect("answered").status(), 200);
    assert_eq!(twins.receipts().first().and_then(|receipt| receipt.marker), Some(7));
}
