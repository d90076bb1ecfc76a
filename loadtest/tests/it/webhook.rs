//! The webhook twin checks Standard Webhooks signatures as the stock library makes them.

use bugler_loadtest::twins::{InvalidSecret, TwinName, TwinSet};
use jsonwebtoken::get_current_timestamp;
use standardwebhooks::Webhook;

use crate::support::{ask, soon, twins};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const BODY: &str = r#"{"type":"push","data":{"notificationId":"ref-1","title":"n-7"}}"#;

fn sign(secret: &str, id: &str, at_s: u64, body: &str) -> String {
    let at_s = i64::try_from(at_s).expect("a time of this age");
    Webhook::new(secret).expect("a secret").sign(id, at_s, body.as_bytes()).expect("signed")
}

async fn post(twins: &TwinSet, url: &str, headers: &[(&str, &str)]) -> u16 {
    soon(ask(twins, "POST", url, headers, BODY)).await.expect("answered").status().as_u16()
}

#[tokio::test]
async fn a_signed_request_is_taken_over_tls_and_in_clear_text() {
    let twins = twins().await;
    twins.register_secret("/hook", SECRET).expect("a right secret");
    let now = get_current_timestamp();
    let signature = sign(SECRET, "delivery-1", now, BODY);
    let headers = [
        ("webhook-id", "delivery-1"),
        ("webhook-timestamp", &now.to_string()),
        ("webhook-signature", &signature),
    ];
    assert_eq!(post(&twins, &format!("{}/hook", twins.webhook_url()), &headers).await, 200);
    assert_eq!(post(&twins, &format!("{}/hook", twins.webhook_plain_url()), &headers).await, 200);
    let receipt = twins.receipts().pop().expect("a receipt");
    assert_eq!((receipt.twin, receipt.key.as_str()), (TwinName::Webhook, "delivery-1"));
    assert_eq!((receipt.marker, receipt.attempt), (Some(7), 2));
    assert_eq!(receipt.notification.as_deref(), Some("ref-1"));
}

#[tokio::test]
async fn each_wrong_signature_is_refused() {
    let twins = twins().await;
    twins.register_secret("/hook", SECRET).expect("a right secret");
    let url = format!("{}/hook", twins.webhook_plain_url());
    let now = get_current_timestamp();
    let right = sign(SECRET, "id", now, BODY);
    let foreign = sign(OTHER, "id", now, BODY);
    let rotated = format!("{foreign} {right}");
    for (id, at_s, signature, status) in [
        ("id", now.to_string(), right.as_str(), 200),
        ("id", now.to_string(), &rotated, 200),
        ("id", now.to_string(), &foreign, 401),
        ("id", now.to_string(), &sign(SECRET, "id", now, "other"), 401),
        ("other", now.to_string(), &right, 401),
        ("", now.to_string(), &right, 401),
        ("id", (now + 1).to_string(), &right, 401),
        ("id", (now - 600).to_string(), &sign(SECRET, "id", now - 600, BODY), 401),
        ("id", (now + 600).to_string(), &sign(SECRET, "id", now + 600, BODY), 401),
        ("id", "now".to_owned(), &right, 401),
        ("id", now.to_string(), "v1,not base64", 401),
        ("id", now.to_string(), "", 401),
    ] {
        let headers =
            [("webhook-id", id), ("webhook-timestamp", &at_s), ("webhook-signature", signature)];
        assert_eq!(post(&twins, &url, &headers).await, status, "{headers:?}");
    }
    assert_eq!(post(&twins, &url, &[]).await, 401);
    assert!(twins.receipts().pop().expect("a receipt").refused.is_some());
}

#[tokio::test]
async fn a_path_without_a_secret_takes_every_post_and_nothing_else() {
    let twins = twins().await;
    let url = format!("{}/free", twins.webhook_plain_url());
    assert_eq!(post(&twins, &url, &[]).await, 200);
    let reading = soon(ask(&twins, "GET", &url, &[], "")).await.expect("answered");
    assert_eq!(reading.status(), 405);
}

#[tokio::test]
async fn paths_made_for_tests_answer_in_their_own_way() {
    let twins = twins().await;
    for (path, statuses) in [("gone", [410, 410]), ("throttle", [429, 429]), ("flaky", [503, 200])]
    {
        for status in statuses {
            let url = format!("{}/hooks/{path}", twins.webhook_plain_url());
            assert_eq!(post(&twins, &url, &[]).await, status, "{path}");
        }
    }
}

#[tokio::test]
async fn a_secret_that_is_not_base64_is_not_registered() {
    let twins = twins().await;
    assert_eq!(twins.register_secret("/hook", "whsec_!"), Err(InvalidSecret));
}
