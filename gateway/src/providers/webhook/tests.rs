//! Webhooks against a scripted receiver: signature, body, answers, redirects, guard.

use super::*;
use crate::model::{Content, ObjectId, Secret, TargetPolicy};
use crate::providers::fixture::{
    Act, Ca, Server, Speak, clock, delivery, hasty, patient, send_one, with_content,
};
use crate::providers::transport::{Resolve, ResolveError};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn local() -> WebhookConfig {
    WebhookConfig {
        allow_http: true,
        allow_private: true,
        deadlines: patient(),
        ..WebhookConfig::default()
    }
}

fn webhook() -> Webhook {
    Webhook::new(local(), clock()).unwrap()
}

fn to(url: &str) -> Delivery {
    delivery(Target::Webhook {
        subscription: ObjectId([1; 12]),
        url: url.to_owned(),
        secret: Secret::new(SECRET),
        retired: None,
        policy: TargetPolicy::default(),
    })
}

async fn receiver(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Server {
    Server::start(None, Speak::Http1, move |_, n| act(n)).await
}

#[tokio::test]
async fn a_stock_verifier_accepts_every_try_and_the_id_stays() {
    let ca = Ca::new();
    let server =
        Server::start(Some(ca.server(b"http/1.1")), Speak::Http1, |_, _| Act::status(204)).await;
    let config = WebhookConfig { allow_http: false, ca_pem: Some(ca.pem()), ..local() };
    let provider = Webhook::new(config, clock()).unwrap();
    let content = Content {
        title: "T".into(),
        body: "B".into(),
        image_url: Some("https://example.com/a.png".into()),
        data: r#"{ "n" : 1.0, "order": [2, 1] }"#.into(),
    };
    let delivery = with_content(to(&format!("{}/hook?a=b", server.url())), content);
    for _ in 0..2 {
        let attempt = send_one(&provider, delivery.clone()).await;
        assert_eq!((attempt.outcome, attempt.status), (Outcome::Delivered, Some(204)));
    }
    let stock = standardwebhooks::Webhook::new(SECRET).unwrap();
    let seen = server.seen();
    for seen in &seen {
        stock.verify(&seen.body, &seen.headers).unwrap();
        assert_eq!(seen.headers["webhook-id"], format!("msg_{}", delivery.id));
        assert_eq!(seen.path, "/hook?a=b");
    }
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(
        serde_json::from_slice::<Value>(&seen[0].body).unwrap(),
        json!({
            "type": "push.direct",
            "timestamp": delivery.notification.created_at.to_rfc3339(),
            "data": {
                "notificationId": delivery.notification.id.to_string(),
                "organizationId": 7,
                "title": "T",
                "body": "B",
                "imageUrl": "https://example.com/a.png",
                "data": {"n": 1.0, "order": [2, 1]},
            },
        })
    );
}

#[tokio::test]
async fn an_applivery_event_is_sent_as_it_came() {
    let server = receiver(|_| Act::status(200)).await;
    let event = r#"{ "action" : "buildCreated", "data": {"b":1,"a":2} }"#;
    let content = Content { data: event.into(), ..Content::default() };
    send_one(&webhook(), with_content(to(&server.url()), content)).await;
    assert_eq!(server.seen()[0].body, event);
}

#[tokio::test]
async fn each_status_means_what_the_table_says() {
    let wait = |s| Some(Duration::from_secs(s));
    let retry = |after, cause| Outcome::Retry { after, cause };
    let cases: [(u16, Option<&'static str>, Outcome); 30] = [
        (200, None, Outcome::Delivered),
        (201, None, Outcome::Delivered),
        (202, None, Outcome::Delivered),
        (204, None, Outcome::Delivered),
        (299, None, Outcome::Delivered),
        (301, Some("5"), retry(None, "redirect")),
        (304, None, retry(None, "redirect")),
        (400, None, retry(None, "http_4xx")),
        (401, None, retry(None, "http_4xx")),
        (403, None, retry(None, "http_4xx")),
        (404, Some("9"), retry(wait(9), "http_4xx")),
        (408, None, retry(None, "http_408")),
        (410, Some("9"), Outcome::Gone { cause: "http_410" }),
        (411, None, retry(None, "http_4xx")),
        (413, None, retry(None, "http_413")),
        (425, None, retry(None, "http_425")),
        (429, Some("17"), retry(wait(17), "http_429")),
        (429, Some("-5"), retry(None, "http_429")),
        (429, Some("1e9"), retry(None, "http_429")),
        (429, Some("abc"), retry(None, "http_429")),
        (429, None, retry(None, "http_429")),
        (429, Some("99999999"), retry(wait(3600), "http_429")),
        (500, None, retry(None, "http_5xx")),
        (501, None, retry(None, "http_501")),
        (502, None, retry(None, "http_502")),
        (503, Some("5"), retry(wait(5), "http_503")),
        (504, None, retry(None, "http_504")),
        (505, None, retry(None, "http_5xx")),
        (599, None, retry(None, "http_5xx")),
        (600, None, retry(None, "http_unexpected")),
    ];
    let provider = webhook();
    for (status, retry_after, want) in cases {
        let server = receiver(move |_| {
            let headers = retry_after.into_iter().map(|v| ("retry-after", v.to_owned())).collect();
            Act::Answer(status, headers, String::new())
        })
        .await;
        let attempt = send_one(&provider, to(&server.url())).await;
        assert_eq!((attempt.outcome, attempt.status), (want, Some(status)), "{retry_after:?}");
    }
    let covered = |(from, to, ..): &(u16, u16, classify::Meaning, &str)| {
        cases.iter().any(|(status, ..)| (*from..=*to).contains(status))
    };
    assert!(classify::STATUSES.iter().all(covered), "a row without a case");
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let elsewhere = receiver(|_| Act::status(200)).await;
    for status in [301, 302, 303, 307, 308] {
        let location = elsewhere.url();
        let server = receiver(move |_| {
            Act::Answer(status, vec![("location", location.clone())], String::new())
        })
        .await;
        let attempt = send_one(&webhook(), to(&server.url())).await;
        assert_eq!(attempt.outcome, Outcome::Retry { after: None, cause: "redirect" });
        assert_eq!(server.seen().len(), 1);
    }
    assert_eq!(elsewhere.accepted(), 0);
}

#[tokio::test]
async fn a_receivers_words_are_kept_short_and_harmless() {
    let server = receiver(|_| Act::text(400, format!("no\u{1b}[31m{}", "é".repeat(500)))).await;
    let reason = send_one(&webhook(), to(&server.url())).await.reason.unwrap();
    assert!(reason.starts_with("no[31m") && reason.len() <= 256, "{reason}");
}

#[tokio::test]
async fn a_receiver_that_hangs_ends_unknown_unless_its_yes_had_come() {
    let provider = Webhook::new(WebhookConfig { deadlines: hasty(), ..local() }, clock()).unwrap();
    let server = receiver(|_| Act::HangBody(202)).await;
    let attempt = send_one(&provider, to(&server.url())).await;
    assert_eq!((attempt.outcome, attempt.status), (Outcome::Delivered, Some(202)));
    assert_eq!(attempt.reason.as_deref(), Some("body_timeout"));
    let server = receiver(|_| Act::HangBody(500)).await;
    let attempt = send_one(&provider, to(&server.url())).await;
    assert_eq!(attempt.outcome, Outcome::Unknown { cause: "body_timeout" });
    let server = receiver(|_| Act::Hang).await;
    let attempt = send_one(&provider, to(&server.url())).await;
    assert_eq!(attempt.outcome, Outcome::Unknown { cause: "timeout" });
}

#[tokio::test]
async fn what_is_late_once_there_is_a_connection_does_not_leave() {
    let server = receiver(|_| Act::status(200)).await;
    let mut late = to(&server.url());
    late.expires_at = clock().now();
    let attempt = send_one(&webhook(), late).await;
    assert_eq!(attempt.outcome, Outcome::Retry { after: Some(Duration::ZERO), cause: "late" });
    assert_eq!((server.seen().len(), attempt.elapsed), (0, Duration::ZERO));
}

/// Leads each name where it says.
#[derive(Debug)]
struct Names;

impl Resolve for Names {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        let found: &[&str] = match host {
            "public.example" => &["1.1.1.1", "2606:4700::1111"],
            "private.example" => &["10.0.0.1"],
            "mixed.example" => &["1.1.1.1", "169.254.169.254"],
            _ => &[],
        };
        let found: Vec<_> =
            found.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect();
        let nothing = || ResolveError::Failed(std::io::ErrorKind::NotFound.into());
        Box::pin(async move { if found.is_empty() { Err(nothing()) } else { Ok(found) } })
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_when_a_subscription_is_made() {
    let guard = Guard::with_resolver(GuardPolicy::default(), Arc::new(Names));
    let provider = Webhook::with_guard(WebhookConfig::default(), guard, clock()).unwrap();
    for (host, want) in [
        ("public.example", Ok(())),
        ("private.example", Err(GuardError::Address)),
        ("mixed.example", Err(GuardError::Address)),
        // Judged at each connection.
        ("nowhere.example", Ok(())),
    ] {
        assert_eq!(provider.check_host(&format!("https://{host}/hook")).await, want, "{host}");
    }
}

#[tokio::test]
async fn a_body_without_end_still_counts_by_its_status() {
    let server = receiver(|_| Act::Endless(200)).await;
    let attempt = send_one(&webhook(), to(&server.url())).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
}

#[tokio::test]
async fn targets_inside_are_refused_and_nothing_is_said_about_them() {
    let server = receiver(|_| Act::status(200)).await;
    let strict = Webhook::new(WebhookConfig::default(), clock()).unwrap();
    let http =
        Webhook::new(WebhookConfig { allow_http: true, ..WebhookConfig::default() }, clock());
    for provider in [&strict, &http.unwrap()] {
        for url in [server.url().as_str(), "https://169.254.169.254/", "https://[::1]/", "x"] {
            let attempt = send_one(provider, to(url)).await;
            assert_eq!(attempt.outcome, Outcome::Rejected { cause: "target_blocked" }, "{url}");
            assert_eq!((attempt.status, attempt.reason), (None, None));
        }
    }
    assert_eq!(server.accepted(), 0);
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let attempt = send_one(&webhook(), to(&format!("http://{free}/"))).await;
    assert_eq!(attempt.outcome, Outcome::Retry { after: None, cause: "connect" });
    assert_eq!(attempt.reason, None, "no detail of the network leaves");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_verified_gets_no_payload() {
    let ca = Ca::new();
    let server =
        Server::start(Some(ca.server(b"http/1.1")), Speak::Http1, |_, _| Act::status(200)).await;
    let attempt = send_one(&webhook(), to(&server.url())).await;
    assert_eq!(attempt.outcome, Outcome::Retry { after: None, cause: "tls_certificate" });
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn what_can_never_be_sent_is_told_before_sending() {
    let server = receiver(|_| Act::status(200)).await;
    let huge = Content { body: "b".repeat(70_000), ..Content::default() };
    let attempt = send_one(&webhook(), with_content(to(&server.url()), huge)).await;
    assert_eq!(attempt.outcome, Outcome::Rejected { cause: "payload_too_large" });
    let mut unsigned = to(&server.url());
    unsigned.target = Target::Webhook {
        subscription: ObjectId([1; 12]),
        url: server.url(),
        secret: Secret::new("whsec_short"),
        retired: None,
        policy: TargetPolicy::default(),
    };
    let attempt = send_one(&webhook(), unsigned).await;
    assert_eq!(attempt.outcome, Outcome::Hold { cause: "bad_secret" });
    assert_eq!(server.accepted(), 0);
    assert!(Webhook::check_secret(SECRET).is_ok() && Webhook::check_secret("whsec_x").is_err());
    assert!(webhook().check_url(&server.url()).is_ok());
}
