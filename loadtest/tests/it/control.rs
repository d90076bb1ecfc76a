//! The control interface has the same power as the library.

use bugler_loadtest::twins::{FaultPlan, Receipt, TwinName, TwinOptions, TwinSet, read_receipts};
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use crate::support::{ask, body, soon, tls, twins, twins_with};

async fn control(twins: &TwinSet, method: &str, path: &str, text: &str) -> Response<Bytes> {
    let url = format!("{}{path}", twins.control_url());
    soon(ask(twins, method, &url, &[], text)).await.expect("answered")
}

async fn hook(twins: &TwinSet, path: &str) -> u16 {
    let url = format!("{}{path}", twins.webhook_plain_url());
    soon(ask(twins, "POST", &url, &[], "{}")).await.expect("answered").status().as_u16()
}

#[tokio::test]
async fn receipts_are_listed_from_a_position_and_cleared() {
    let twins = twins().await;
    for path in ["/a", "/b", "/c"] {
        hook(&twins, path).await;
    }
    let listed = body(&control(&twins, "GET", "/receipts?twin=webhook&since=1&limit=1", "").await);
    assert_eq!(listed["next"], 2);
    let receipts: Vec<Receipt> =
        serde_json::from_value(listed["receipts"].clone()).expect("receipts");
    assert_eq!(receipts, twins.receipts().get(1..2).expect("three receipts"));
    let others = body(&control(&twins, "GET", "/receipts?twin=fcm", "").await);
    assert_eq!(others["receipts"], json!([]));

    let counts = body(&control(&twins, "GET", "/counts", "").await);
    assert_eq!(counts["receipts"]["webhook"]["received"], 3);
    assert_eq!(counts["receipts"]["webhook"]["by_status"]["200"], 3);
    assert_eq!(counts["traffic"]["webhook"]["connections"], 3);
    assert_eq!(control(&twins, "DELETE", "/receipts", "").await.status(), 200);
    assert!(twins.receipts().is_empty());
}

#[tokio::test]
async fn faults_are_set_as_text_and_json_and_taken_away() {
    let twins = twins().await;
    let plan = body(&control(&twins, "POST", "/faults", "webhook:status=503").await);
    assert_eq!(hook(&twins, "/a").await, 503);
    assert_eq!(body(&control(&twins, "GET", "/faults", "").await), plan);
    control(&twins, "DELETE", "/faults", "").await;
    assert_eq!(hook(&twins, "/a").await, 200);
    control(&twins, "POST", "/faults", &plan.to_string()).await;
    assert_eq!(hook(&twins, "/a").await, 503);
    twins.set_faults(FaultPlan::default());
    assert_eq!(hook(&twins, "/a").await, 200);
}

#[tokio::test]
async fn secrets_are_registered_and_then_demanded() {
    let twins = twins().await;
    let secret = json!({ "path": "/a", "secret": "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" });
    assert_eq!(control(&twins, "POST", "/secrets", &secret.to_string()).await.status(), 200);
    assert_eq!((hook(&twins, "/a").await, hook(&twins, "/b").await), (401, 200));
}

#[tokio::test]
async fn a_twin_taken_down_resets_connections_until_it_is_up_again() {
    let twins = twins().await;
    assert_eq!(control(&twins, "POST", "/down?twin=webhook", "").await.status(), 200);
    let url = format!("{}/a", twins.webhook_plain_url());
    assert!(soon(ask(&twins, "POST", &url, &[], "{}")).await.is_err());
    assert_eq!(control(&twins, "POST", "/up?twin=webhook", "").await.status(), 200);
    assert_eq!(hook(&twins, "/a").await, 200);
}

#[tokio::test]
async fn a_frozen_twin_keeps_its_connections_silent_until_it_is_up_again() {
    let twins = twins().await;
    assert_eq!(control(&twins, "POST", "/freeze?twin=webhook", "").await.status(), 200);
    let url = format!("{}/a", twins.webhook_plain_url());
    let asked = ask(&twins, "POST", &url, &[], "{}");
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        _ = &mut asked => panic!("a frozen twin answered"),
        status = async {
            // It is asked before the others, who are still served.
            tokio::task::yield_now().await;
            control(&twins, "GET", "/counts", "").await.status()
        } => assert_eq!(status, 200),
    }
    assert!(twins.receipts().is_empty());
    control(&twins, "POST", "/up?twin=webhook", "").await;
    assert_eq!(soon(asked).await.expect("answered").status(), 200, "late, but not lost");
}

#[tokio::test]
async fn a_certificate_is_replaced_while_the_twin_runs() {
    let twins = twins().await;
    let trusted = async || {
        let url = twins.webhook_url();
        soon(tls(twins.ca_pem(), &url, b"http/1.1")).await.is_ok()
    };
    assert!(trusted().await);
    let replace = async |kind: &str| {
        let path = format!("/certificate?twin=webhook&kind={kind}");
        control(&twins, "POST", &path, "").await.status().as_u16()
    };
    for kind in ["expired", "not-yet-valid", "wrong-host", "self-signed", "unknown-authority"] {
        assert_eq!(replace(kind).await, 200);
        assert!(!trusted().await, "{kind}");
    }
    assert_eq!((replace("good").await, replace("rusty").await), (200, 400));
    assert!(trusted().await);
}

#[tokio::test]
async fn the_seed_of_a_plan_comes_with_it() {
    let twins = twins().await;
    let plan = body(&control(&twins, "POST", "/faults?seed=7", "webhook:reset:50").await);
    assert_eq!(plan["seed"], 7);
}

#[tokio::test]
async fn answers_of_proxies_and_answers_without_end_are_shown() {
    let twins = twins().await;
    let url = format!("{}/a", twins.webhook_plain_url());
    let mut answers = Vec::new();
    for fault in ["webhook:html", "webhook:no-id", "webhook:huge=20000"] {
        control(&twins, "POST", "/faults", fault).await;
        let answer = soon(ask(&twins, "POST", &url, &[], "{}")).await.expect("answered");
        answers.push((answer.status().as_u16(), answer.body().clone()));
    }
    assert!(answers.iter().all(|(status, _)| *status == 200));
    assert!(answers[0].1.starts_with(b"<!doctype html>"));
    assert_eq!(answers[1].1, "{}");
    assert_eq!(answers[2].1.len(), 20_000);
}

#[tokio::test]
async fn credentials_are_shown_without_their_secret_halves() {
    let twins = twins().await;
    let answer = control(&twins, "GET", "/credentials", "").await;
    assert_eq!(body(&answer)["ca_pem"], twins.ca_pem());
    let text = String::from_utf8_lossy(answer.body());
    assert!(!text.contains("PRIVATE"), "{text}");
    assert!(!text.contains(&twins.credentials().slack_client_secret), "{text}");
}

#[tokio::test]
async fn wrong_controls_are_explained() {
    let twins = twins().await;
    for (method, path, text, status) in [
        ("GET", "/", "", 404),
        ("GET", "/receipts?twin=fax", "", 400),
        ("GET", "/receipts?since=x", "", 400),
        ("POST", "/faults", "explode", 400),
        ("POST", "/faults", "{\"rules\":7}", 400),
        ("POST", "/secrets", "{}", 400),
        ("POST", "/secrets", "{\"path\":\"/a\",\"secret\":\"!\"}", 400),
        ("POST", "/down", "", 400),
    ] {
        let answer = control(&twins, method, path, text).await;
        assert_eq!(answer.status(), status, "{method} {path} {text}");
        let error: &Value = &body(&answer)["error"];
        assert!(error.as_str().is_some_and(|error| error.len() > 10), "{error}");
    }
}

#[tokio::test]
async fn credentials_and_receipts_are_written_to_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("receipts.jsonl");
    let options = TwinOptions { receipts_file: Some(file.clone()), ..TwinOptions::default() };
    let twins = twins_with(options).await;
    let files = twins.write_credentials(&dir.path().join("keys")).expect("a writable directory");
    let read = |path| std::fs::read_to_string(path).expect("it was written");
    assert_eq!(read(files.ca), twins.ca_pem());
    assert!(read(files.apns_key).starts_with("-----BEGIN PRIVATE KEY-----"));
    let account: Value = serde_json::from_str(&read(files.fcm_service_account)).expect("JSON");
    assert_eq!(account["token_uri"], format!("{}/token", twins.fcm_url()));

    hook(&twins, "/a").await;
    twins.sync_receipts().expect("the file syncs");
    let receipts = read_receipts(&file).expect("the file reads");
    assert_eq!(receipts, twins.receipts_since(Some(TwinName::Webhook), 0));
    assert_eq!(receipts.len(), 1);
}
