//! Slack against a scripted hook: wire form, answers, pace.

use super::classify::{Meaning, WORDS};
use super::*;
use crate::model::{Content, Millis, ObjectId, Secret, TargetPolicy};
use crate::providers::fixture::{
    Act, Ca, Server, Speak, clock, delivery, patient, send_all, send_one, with_content,
};
use crate::providers::transport::Answer;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

fn local() -> SlackConfig {
    SlackConfig {
        allow_http: true,
        allow_private: true,
        deadlines: patient(),
        ..SlackConfig::default()
    }
}

fn slack() -> Slack {
    Slack::new(local(), clock()).unwrap()
}

fn to(url: &str) -> Delivery {
    let (subscription, policy) = (ObjectId([1; 12]), TargetPolicy::default());
    delivery(Target::Slack { subscription, url: Secret::new(url), policy })
}

async fn hook(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> (Server, String) {
    let server = Server::start(None, Speak::Http1, move |_, n| act(n)).await;
    let url = format!("{}/services/T0/B0/secret", server.url());
    (server, url)
}

#[tokio::test]
async fn a_message_arrives_escaped_and_without_unfurling() {
    let ca = Ca::new();
    let server =
        Server::start(Some(ca.server(b"http/1.1")), Speak::Http1, |_, _| Act::text(200, "ok"))
            .await;
    let config = SlackConfig { allow_http: false, ca_pem: Some(ca.pem()), ..local() };
    let provider = Slack::new(config, clock()).unwrap();
    let content = Content {
        title: "Build <1> & more".into(),
        body: "<!channel> done".into(),
        ..Content::default()
    };
    let url = format!("{}/services/T0/B0/secret", server.url());
    let attempt = send_one(&provider, with_content(to(&url), content)).await;
    assert_eq!((attempt.outcome, attempt.reason), (Outcome::Delivered, None));
    let seen = &server.seen()[0];
    assert_eq!(seen.path, "/services/T0/B0/secret");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(
        serde_json::from_slice::<Value>(&seen.body).unwrap(),
        json!({
            "text": "*Build &lt;1&gt; &amp; more*\n&lt;!channel&gt; done",
            "unfurl_links": false,
            "unfurl_media": false,
        })
    );
}

#[tokio::test]
async fn an_image_makes_blocks() {
    let (server, url) = hook(|_| Act::text(200, "ok")).await;
    let provider = slack();
    let content = |image: &str| Content {
        title: "T".into(),
        image_url: Some(image.into()),
        ..Content::default()
    };
    send_one(&provider, with_content(to(&url), content("https://example.com/a.png"))).await;
    send_one(&provider, with_content(to(&url), content("http://example.com/a.png"))).await;
    let body = |n: usize| serde_json::from_slice::<Value>(&server.seen()[n].body).unwrap();
    assert_eq!(
        body(0)["blocks"],
        json!([
            {"type": "section", "text": {"type": "mrkdwn", "text": "*T*"}},
            {"type": "image", "image_url": "https://example.com/a.png", "alt_text": "T"},
        ])
    );
    assert_eq!(body(1).get("blocks"), None, "Slack shows https images only");
}

fn outcome(status: u16, body: &str) -> Outcome {
    let answer = Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        truncated: false,
    };
    classify::classify(&answer, Millis(0)).outcome
}

#[test]
fn every_documented_word_means_what_the_table_says() {
    let cases = [
        (400, "invalid_payload", Meaning::Rejected),
        (400, "invalid_blocks", Meaning::Rejected),
        (400, "invalid_attachments", Meaning::Rejected),
        (400, "no_text", Meaning::Rejected),
        (400, "msg_too_long", Meaning::Rejected),
        (400, "too_many_attachments", Meaning::Rejected),
        (400, "user_not_found", Meaning::Rejected),
        (403, "action_prohibited", Meaning::Rejected),
        (403, "posting_to_general_channel_denied", Meaning::Rejected),
        (403, "posting_to_channel_denied", Meaning::Rejected),
        (410, "channel_is_archived", Meaning::Gone),
        (410, "is_archived", Meaning::Gone),
        (404, "channel_not_found", Meaning::Gone),
        (404, "no_service", Meaning::Gone),
        (404, "no_service_id", Meaning::Gone),
        (404, "no_active_hooks", Meaning::Gone),
        (404, "no_team", Meaning::Gone),
        (403, "team_disabled", Meaning::Gone),
        (403, "invalid_token", Meaning::Gone),
        (403, "token_revoked", Meaning::Gone),
        (403, "account_inactive", Meaning::Gone),
        (403, "not_authed", Meaning::Hold),
        (403, "invalid_auth", Meaning::Hold),
        (429, "ratelimited", Meaning::Throttle),
        (429, "rate_limited", Meaning::Throttle),
        (500, "rollup_error", Meaning::Unknown),
        (500, "internal_error", Meaning::Unknown),
        (500, "fatal_error", Meaning::Unknown),
        (503, "service_unavailable", Meaning::Retry),
        (400, "invalid_blocks_format", Meaning::Rejected),
        (400, "message_limit_exceeded", Meaning::Rejected),
        (403, "restricted_action", Meaning::Rejected),
        (403, "not_in_channel", Meaning::Rejected),
        (403, "missing_scope", Meaning::Hold),
        (403, "token_expired", Meaning::Gone),
        (403, "not_allowed_token_type", Meaning::Hold),
        (403, "org_login_required", Meaning::Hold),
        (408, "request_timeout", Meaning::Retry),
        (503, "team_added_to_org", Meaning::Retry),
        (503, "accesslimited", Meaning::Retry),
    ];
    for word in ["no_service", "channel_is_archived", "token_revoked"] {
        let outage = outcome(503, word);
        assert_eq!(outage, Outcome::Retry { after: None, cause: "http_5xx" }, "{word}");
    }
    assert_eq!(cases.len(), WORDS.len());
    for (status, word, meaning) in cases {
        let (_, want) = WORDS.iter().find(|(w, _)| *w == word).unwrap();
        assert_eq!(*want, meaning, "{word}");
        let got = outcome(status, &format!("{word}\n"));
        let same = match meaning {
            Meaning::Gone => matches!(got, Outcome::Gone { cause } if cause == word),
            Meaning::Rejected => matches!(got, Outcome::Rejected { cause } if cause == word),
            Meaning::Hold => matches!(got, Outcome::Hold { cause } if cause == word),
            Meaning::Unknown => matches!(got, Outcome::Unknown { cause } if cause == word),
            Meaning::Throttle | Meaning::Retry => {
                got == Outcome::Retry { after: None, cause: word }
            }
        };
        assert!(same, "{word}: {got:?}");
        let envelope = json!({"ok": false, "error": word}).to_string();
        assert_eq!(outcome(200, &envelope), got, "{word} of the Web API");
    }
}

#[test]
fn an_answer_without_a_documented_word_means_what_its_form_and_status_say() {
    for yes in ["ok", "ok\n", "", r#"{"ok":true,"ts":"1"}"#, r#"{"success":true}"#] {
        assert_eq!(outcome(200, yes), Outcome::Delivered, "{yes}");
    }
    for html in ["<html>ok</html>", "OKAY", "[]", r#"{"ok":"yes"}"#] {
        assert_eq!(outcome(200, html), Outcome::Unknown { cause: "unexpected_body" }, "{html}");
    }
    let new = r#"{"ok":false,"error":"brand_new"}"#;
    assert_eq!(outcome(200, new), Outcome::Unknown { cause: "unexpected_body" });
    assert_eq!(outcome(200, r#"{"ok":false}"#), Outcome::Rejected { cause: "not_ok" });
    assert_eq!(outcome(429, ""), Outcome::Retry { after: None, cause: "http_429" });
    assert_eq!(outcome(408, ""), Outcome::Retry { after: None, cause: "http_408" });
    assert_eq!(outcome(600, ""), Outcome::Retry { after: None, cause: "http_unexpected" });
    assert_eq!(outcome(302, "x"), Outcome::Retry { after: None, cause: "redirect" });
    assert_eq!(outcome(410, "x"), Outcome::Gone { cause: "http_410" });
    assert_eq!(outcome(404, "<html>"), Outcome::Rejected { cause: "http_4xx" });
    assert_eq!(outcome(502, ""), Outcome::Retry { after: None, cause: "http_5xx" });
}

#[tokio::test]
async fn a_throttled_hook_is_left_alone_for_as_long_as_slack_says() {
    let (server, url) =
        hook(|_| Act::Answer(429, vec![("retry-after", "30".into())], "ratelimited".into())).await;
    let provider = slack();
    let first = send_one(&provider, to(&url)).await;
    let wait = Some(Duration::from_secs(30));
    assert_eq!(first.outcome, Outcome::Retry { after: wait, cause: "ratelimited" });
    let second = send_one(&provider, to(&url)).await;
    assert!(matches!(second.outcome, Outcome::Retry { after: Some(_), cause: "paced" }));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn more_than_a_hook_takes_goes_back_to_the_dispatcher_unsent() {
    let (server, url) = hook(|_| Act::text(200, "ok")).await;
    let batch: Vec<_> = (0..10).map(|_| to(&url)).collect();
    let attempts = send_all(&slack(), &batch).await;
    let paced = |a: &&Attempt| matches!(a.outcome, Outcome::Retry { cause: "paced", .. });
    let back = attempts.iter().filter(paced).count();
    assert_eq!((back, server.seen().len()), (4, 6), "three at once, three after a wait");
}

#[tokio::test]
async fn hooks_that_lead_inside_are_rejected_and_never_shown() {
    let strict = Slack::new(SlackConfig::default(), clock()).unwrap();
    let (server, url) = hook(|_| Act::text(200, "ok")).await;
    for url in [url.as_str(), "https://10.0.0.1/x", "https://localhost/x", "not a url"] {
        let attempt = send_one(&strict, to(url)).await;
        assert_eq!(attempt.outcome, Outcome::Rejected { cause: "target_blocked" }, "{url}");
        assert!(strict.check_url(url).is_err());
    }
    assert_eq!(server.accepted(), 0);
    let provider = slack();
    let sent = to(&url);
    send_one(&provider, sent.clone()).await;
    assert!(!format!("{provider:?} {sent:?}").contains("/B0/secret"));
}

#[tokio::test]
async fn an_empty_message_is_rejected_before_sending() {
    let (server, url) = hook(|_| Act::text(200, "ok")).await;
    let attempt = send_one(&slack(), with_content(to(&url), Content::default())).await;
    assert_eq!(attempt.outcome, Outcome::Rejected { cause: "empty_message" });
    assert_eq!(server.accepted(), 0);
}
