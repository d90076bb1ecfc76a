//! The Slack twin: webhook messages in plain text, and the OAuth code exchange.

use std::time::Duration;

use bugler_loadtest::twins::{TwinName, TwinOptions, TwinSet};
use bytes::Bytes;
use http::Response;
use serde_json::json;
use url::{Url, form_urlencoded};

use crate::support::{ask, body, soon, twins, twins_with};

const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const BACK: &str = "https://gateway.example.com/slack/back";

async fn post(twins: &TwinSet, path: &str, text: &str) -> Response<Bytes> {
    let url = format!("{}{path}", twins.slack_url());
    soon(ask(twins, "POST", &url, &[JSON], text)).await.expect("answered")
}

async fn exchange(twins: &TwinSet, fields: &[(&str, &str)]) -> serde_json::Value {
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let url = format!("{}/api/oauth.v2.access", twins.slack_url());
    body(&soon(ask(twins, "POST", &url, &[FORM], &form)).await.expect("answered"))
}

#[tokio::test]
async fn a_message_is_answered_ok_over_tls_and_in_clear_text() {
    let twins = twins().await;
    let text = json!({ "text": "*n-7*\nhello" }).to_string();
    for origin in [twins.slack_url(), twins.slack_plain_url()] {
        let url = format!("{origin}/services/T1/B1/secret");
        let answer = soon(ask(&twins, "POST", &url, &[JSON], &text)).await.expect("answered");
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (200, &b"ok"[..]));
    }
    let receipt = twins.receipts().pop().expect("a receipt");
    assert_eq!((receipt.twin, receipt.marker), (TwinName::Slack, Some(7)));
    assert_eq!(receipt.target, "/services/T1/B1/secret");
}

#[tokio::test]
async fn each_wrong_message_is_refused_in_plain_text() {
    let twins = twins().await;
    let hook = "/services/T1/B1/secret";
    let long = json!({ "text": "x".repeat(40_001) }).to_string();
    for (path, text, status, reason) in [
        ("/services/T1/B1", "{\"text\":\"a\"}", 404, "no_service"),
        ("/services/X1/B1/secret", "{\"text\":\"a\"}", 404, "no_service"),
        ("/elsewhere", "{\"text\":\"a\"}", 404, "no_service"),
        (hook, "not json", 400, "invalid_payload"),
        (hook, "[]", 400, "invalid_payload"),
        (hook, "{}", 400, "no_text"),
        (hook, "{\"text\":\"\"}", 400, "no_text"),
        (hook, "{\"blocks\":[]}", 400, "no_text"),
        (hook, &long, 400, "msg_too_long"),
        ("/services/T1/B1/archived-1", "{\"text\":\"a\"}", 410, "channel_is_archived"),
    ] {
        let answer = post(&twins, path, text).await;
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (status, reason.as_bytes()));
    }
    assert_eq!(post(&twins, hook, "{\"blocks\":[{}]}").await.status(), 200);
}

#[tokio::test]
async fn a_second_message_within_the_interval_is_throttled_per_webhook() {
    let slack_interval = Some(Duration::from_secs(3600));
    let twins = twins_with(TwinOptions { slack_interval, ..TwinOptions::default() }).await;
    let text = "{\"text\":\"a\"}";
    assert_eq!(post(&twins, "/services/T1/B1/one", text).await.status(), 200);
    let throttled = post(&twins, "/services/T1/B1/one", text).await;
    assert_eq!(throttled.status(), 429);
    let wait: u64 = throttled.headers()["retry-after"].to_str().expect("text").parse().expect("s");
    assert!((3500..=3601).contains(&wait), "{wait}");
    assert_eq!(post(&twins, "/services/T1/B1/two", text).await.status(), 200);
}

#[tokio::test]
async fn a_code_from_the_authorize_page_is_good_once_and_gives_a_working_webhook() {
    let twins = twins().await;
    let credentials = twins.credentials().clone();
    let mut page = Url::parse(&format!("{}/oauth/v2/authorize", twins.slack_url())).expect("a URL");
    page.query_pairs_mut()
        .append_pair("client_id", &credentials.slack_client_id)
        .append_pair("redirect_uri", BACK)
        .append_pair("state", "s-1");
    let answer = soon(ask(&twins, "GET", page.as_str(), &[], "")).await.expect("answered");
    assert_eq!(answer.status(), 302);
    let back = Url::parse(answer.headers()["location"].to_str().expect("text")).expect("a URL");
    let query: Vec<(String, String)> = back.query_pairs().into_owned().collect();
    let [(_, code), (_, state)] = query.as_slice() else { panic!("two fields: {query:?}") };
    assert_eq!(state, "s-1");

    let fields = |code, uri| {
        [
            ("code", code),
            ("redirect_uri", uri),
            ("client_id", credentials.slack_client_id.as_str()),
            ("client_secret", credentials.slack_client_secret.as_str()),
        ]
    };
    let elsewhere = exchange(&twins, &fields(code, "https://elsewhere.example.com")).await;
    assert_eq!(elsewhere["error"], "bad_redirect_uri");
    let grant = exchange(&twins, &fields(code, BACK)).await;
    assert_eq!((&grant["ok"], &grant["team"]["name"]), (&json!(true), &json!("Twin Workspace")));
    assert_eq!(grant["incoming_webhook"]["channel"], "#twin");
    let hook = grant["incoming_webhook"]["url"].as_str().expect("a URL");
    let answer = soon(ask(&twins, "POST", hook, &[JSON], "{\"text\":\"a\"}")).await;
    assert_eq!(answer.expect("answered").status(), 200);

    assert_eq!(exchange(&twins, &fields(code, BACK)).await["error"], "code_already_used");
    assert_eq!(exchange(&twins, &fields("twin-code-1", BACK)).await["ok"], true);
    assert_eq!(exchange(&twins, &fields("invented", BACK)).await["error"], "invalid_code");
    assert_eq!(exchange(&twins, &fields("twin-code-2", "")).await["error"], "bad_redirect_uri");
}

#[tokio::test]
async fn client_credentials_are_checked() {
    let twins = twins().await;
    let id = twins.credentials().slack_client_id.clone();
    for (fields, error) in [
        (vec![], "invalid_client_id"),
        (vec![("client_id", "other")], "invalid_client_id"),
        (vec![("client_id", id.as_str())], "bad_client_secret"),
        (vec![("client_id", id.as_str()), ("client_secret", "x")], "bad_client_secret"),
    ] {
        let answer = exchange(&twins, &fields).await;
        assert_eq!((&answer["ok"], &answer["error"]), (&json!(false), &json!(error)));
    }
    let url = format!("{}/api/oauth.v2.access", twins.slack_url());
    let answer = soon(ask(&twins, "GET", &url, &[], "")).await.expect("answered");
    assert_eq!(body(&answer)["error"], "invalid_http_method");
    let answer = soon(ask(&twins, "POST", &url, &[JSON], "{}")).await.expect("answered");
    assert_eq!(body(&answer)["error"], "invalid_post_type");
}
