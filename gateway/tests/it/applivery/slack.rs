//! Slack channels: the code exchange, what a channel reads, and what is never shown.

use bugler_loadtest::twins::{FaultPlan, TwinName, TwinSet};
use serde_json::{Value, json};

use super::{ALL, EVENTS, World, path};
use crate::support::client::{Ask, Reply};
use crate::support::gateway::Home;
use crate::support::receiver::Receiver;
use crate::support::{eventually, world};

const REDIRECT: &str = "https://console.example.com/slack";

fn home(twins: &TwinSet, secret: &str) -> Home {
    let app = format!(
        "[providers.slack.oauth]\nclient_id = \"{}\"\nclient_secret = \"{secret}\"\n\
         endpoint = \"{}\"\nallowed_redirects = [\"{REDIRECT}\"]\n",
        twins.credentials().slack_client_id,
        twins.slack_url(),
    );
    world::home(twins, world::directory()).with(&app)
}

fn body(code: &str, redirect: &str) -> String {
    let setup = json!({ "slack": { "code": code, "redirectUri": redirect },
                        "webhook": { "url": "string" } });
    json!({ "type": "slack", "events": { "buildCreated": true }, "setup": setup }).to_string()
}

async fn create(world: &World, code: &str, redirect: &str) -> Reply {
    world.ask(Ask::post(ALL).json(body(code, redirect))).await
}

fn refused(reply: &Reply, message: &str) {
    let error = json!({ "code": 5001, "message": format!("Invalid parameters: {message}") });
    assert_eq!(reply.json(), json!({ "status": false, "error": error }));
    assert_eq!(reply.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_becomes_a_channel_that_is_told() {
    let twins = world::twins().await;
    let world = World::of(home(&twins, &twins.credentials().slack_client_secret), &[]).await;
    let reply = create(&world, "twin-code-secret-1", REDIRECT).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let data = reply.json()["data"].clone();
    let config = json!({ "slack": { "team": "Twin Workspace", "channel": "#twin" } });
    assert_eq!((&data["type"], &data["config"]), (&json!("slack"), &config));
    let one = world.ask(Ask::get(path(&data))).await;
    let all = world.ask(Ask::get(ALL)).await;
    assert_eq!(one.json()["data"], data);
    for shown in [&reply, &one, &all] {
        assert!(!shown.text().contains("/services/"), "the hook is a secret: {}", shown.text());
    }

    let id = world.raise(&json!({ "event": "buildCreated", "data": { "b": 1 } })).await;
    assert_eq!(world.done(&id).await["deliveries"]["delivered"], 1);
    assert_eq!(world.test(&data).await, json!({ "delivered": true, "httpStatus": 200 }));
    let receipts = twins.receipts_since(Some(TwinName::Slack), 0);
    assert_eq!(receipts.len(), 2);
    assert!(receipts.iter().all(|r| r.refused.is_none() && r.target.starts_with("/services/T0")));
    let log = world.gateway.log().join("\n");
    for secret in ["twin-code-secret", "/services/", &twins.credentials().slack_client_secret] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_spends_one_code() {
    let twins = world::twins().await;
    let world = World::of(home(&twins, &twins.credentials().slack_client_secret), &[]).await;
    let ask = || Ask::post(ALL).key("slack-1").json(body("twin-code-1", REDIRECT));
    let (first, second) = (world.ask(ask()).await, world.ask(ask()).await);
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.body, second.body);
    assert_eq!(twins.receipts_since(Some(TwinName::SlackOauth), 0).len(), 1);
    let all = world.ask(Ask::get(ALL)).await;
    assert_eq!(all.json()["data"]["totalDocs"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_that_give_no_hook_make_no_subscription() {
    let twins = world::twins().await;
    let world = World::of(home(&twins, &twins.credentials().slack_client_secret), &[]).await;
    assert_eq!(create(&world, "twin-code-1", REDIRECT).await.status, 200);
    let used = create(&world, "twin-code-1", REDIRECT).await;
    refused(&used, "setup.slack.code was refused by Slack: code_already_used");
    let unknown = create(&world, "no-such-code", REDIRECT).await;
    refused(&unknown, "setup.slack.code was refused by Slack: invalid_code");
    let asked = twins.receipts_since(Some(TwinName::SlackOauth), 0).len();
    let foreign = create(&world, "twin-code-2", "https://console.example.com/slack/").await;
    let text = "setup.slack.redirectUri is not one of the redirect URIs this server allows";
    refused(&foreign, text);
    assert_eq!(twins.receipts_since(Some(TwinName::SlackOauth), 0).len(), asked, "not even asked");
    twins.set_faults(FaultPlan::parse("slack-oauth:status=500").expect("a plan"));
    let down = create(&world, "twin-code-3", REDIRECT).await;
    refused(&down, "setup.slack.code could not be exchanged: Slack gave no usable answer");
    let all = world.ask(Ask::get(ALL)).await;
    assert_eq!(all.json()["data"]["totalDocs"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_client_secret_is_the_operators_matter() {
    let twins = world::twins().await;
    let world = World::of(home(&twins, "wrong"), &[]).await;
    let reply = create(&world, "twin-code-1", REDIRECT).await;
    refused(&reply, "setup.slack.code could not be exchanged: Slack gave no usable answer");
    eventually("the log tells the operator", async || {
        let log = world.gateway.log().join("\n");
        log.contains("check client_id and client_secret").then_some(())
    })
    .await;
}

/// A stand-in for Slack whose hooks show what a channel would read; `hook` makes the hook's URL.
async fn stand_in(grant: impl Fn(&str) -> Value + Send + Sync + 'static) -> Receiver {
    Receiver::start(move |seen, _| match seen.path.as_str() {
        "/oauth" => {
            let host = seen.headers["host"].to_str().expect("plain text");
            (200, grant(host).to_string())
        }
        _ => (200, String::from("ok")),
    })
    .await
}

async fn with_stand_in(slack: &Receiver) -> World {
    let app = format!(
        "[providers.slack]\nallow_http = true\nallow_private = true\n\
         [providers.slack.oauth]\nclient_id = \"1.2\"\nclient_secret = \"s&=\"\n\
         endpoint = \"{}/oauth\"\n",
        slack.url
    );
    World::of(Home::new(world::directory()).with(&app), &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_reads_what_happened_in_words() {
    let slack = stand_in(|host| {
        json!({ "ok": true, "team": { "name": "t".repeat(200) },
                "incoming_webhook": { "channel": "#c\n", "url": format!("http://{host}/hook") } })
    });
    let slack = slack.await;
    let world = with_stand_in(&slack).await;
    let reply = create(&world, "c+d &é", "https://x.example.com/?a=b&c=d").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let config = &reply.json()["data"]["config"]["slack"];
    assert_eq!(*config, json!({ "team": "t".repeat(128), "channel": "#c" }));
    let seen = slack.wait_for(1).await;
    assert_eq!(
        seen[0].text(),
        "code=c%2Bd+%26%C3%A9&redirect_uri=https%3A%2F%2Fx.example.com%2F%3Fa%3Db%26c%3Dd\
         &client_id=1.2&client_secret=s%26%3D"
    );
    assert_eq!(seen[0].headers["content-type"], "application/x-www-form-urlencoded");
    let data = json!({ "name": "App <!channel>", "build": 17, "ok": true, "deep": { "x": 1 } });
    let id = world.raise(&json!({ "event": "buildCreated", "data": data })).await;
    assert_eq!(world.done(&id).await["deliveries"]["delivered"], 1);
    let message: Value = serde_json::from_slice(&slack.wait_for(2).await[1].body).expect("JSON");
    assert_eq!(
        message["text"],
        "*A build was created*\nAcme Corp\nname: App &lt;!channel&gt;\nbuild: 17\nok: true"
    );
    // No data still makes a readable message.
    let reply = world.ask(Ask::post(EVENTS).json(r#"{"action":"build_created"}"#)).await;
    world.done(&reply.id()).await;
    let message: Value = serde_json::from_slice(&slack.wait_for(3).await[2].body).expect("JSON");
    assert_eq!(message["text"], "*A build was created*\nAcme Corp");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_slacks_give_no_hook() {
    for grant in [
        json!([]),
        json!({}),
        json!({ "ok": true }),
        json!({ "ok": true, "incoming_webhook": {} }),
        json!({ "ok": true, "incoming_webhook": { "url": "http://10.0.0.1/hook" } }),
        json!({ "ok": true, "incoming_webhook": { "url": "file:///etc/passwd" } }),
        json!({ "ok": false }),
        json!({ "ok": false, "error": "<script>" }),
        json!({ "ok": true, "filler": "x".repeat(100_000) }),
    ] {
        let slack = stand_in(move |_| grant.clone()).await;
        let world = with_stand_in(&slack).await;
        let reply = create(&world, "c", "r").await;
        refused(&reply, "setup.slack.code could not be exchanged: Slack gave no usable answer");
    }
}
