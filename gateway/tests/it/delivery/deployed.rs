//! Rules that come by the API are in force at once, go back, survive a kill, and are refused with a reason.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugler_gateway::rules::embed_manifest;
use bugler_loadtest::twins::TwinSet;
use serde_json::{Value, json};

use super::World;
use crate::support::client::{Ask, Reply};
use crate::support::eventually;
use crate::support::rules::component;
use crate::support::world::{add_device, apns_token};

const RULES: &str = "/bugler/v1/organizations/101/rules";

fn phone(directory: &mut Value, _: &TwinSet) {
    add_device(directory, 101, "apns", &apns_token(1));
}

/// Drops everything, or sends everything to phones, whatever `route` says.
fn routing(version: &str, route: &str) -> String {
    let manifest = format!(
        "[rule]\nname = \"routing\"\nversion = \"{version}\"\n[config]\n\"route.*\" = \"{route}\""
    );
    let bytes = std::fs::read(component("event-routing")).expect("it was built");
    STANDARD.encode(embed_manifest(&bytes, &manifest).expect("a rule"))
}

impl World {
    async fn deploy(&self, component: &str, stage: &str) -> Reply {
        let body = json!({ "component": component, "stage": stage, "message": "test" });
        let ask = Ask::post(RULES).bearer(&self.token).json(body.to_string());
        self.gateway.ask(&ask).await
    }

    async fn change(&self, body: Value) -> Reply {
        let path = format!("{RULES}/routing");
        let ask = Ask::new("PATCH", path).bearer(&self.token).json(body.to_string());
        self.gateway.ask(&ask).await
    }

    /// How many deliveries of a new notification were made.
    async fn delivered(&self) -> u64 {
        let id = self.send_to_user(101).await;
        let timeline = self.done(&id).await;
        timeline["deliveries"]["delivered"].as_u64().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployed_rule_is_in_force_at_once_and_after_a_kill_and_goes_back() {
    let world = World::new(phone, &[]).await;
    assert_eq!(world.delivered().await, 1);
    let reply = world.deploy(&routing("1.0.0", "apns"), "active").await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(world.delivered().await, 1);
    let reply = world.deploy(&routing("1.1.0", "none"), "active").await;
    let digest = reply.json()["active"]["digest"].clone();
    assert_eq!(world.delivered().await, 0, "{}", reply.text());

    let world = world.restart().await;
    assert_eq!(world.delivered().await, 0);
    let listed = world.gateway.ask(&Ask::get(RULES).bearer(&world.token)).await.json();
    let active = &listed["rules"][0]["active"];
    assert_eq!((&active["digest"], &active["version"]), (&digest, &json!("1.1.0")));

    let reply = world.change(json!({ "rollback": true, "message": "back" })).await;
    assert_eq!(reply.json()["active"]["version"], "1.0.0", "{}", reply.text());
    assert_eq!(world.delivered().await, 1);
    let reply = world.change(json!({ "stage": "active", "digest": digest })).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(world.delivered().await, 0);
    let reply = world.change(json!({ "paused": true })).await;
    assert_eq!(reply.json()["paused"], true, "{}", reply.text());
    assert_eq!(world.delivered().await, 1);
    let history = reply.json()["history"].clone();
    let whats: Vec<_> = history.as_array().expect("a list").iter().map(|h| &h["what"]).collect();
    assert_eq!(whats, ["active", "active", "rollback", "active", "pause"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_no_rule_is_refused_with_what_to_change() {
    let world = World::new(phone, &[]).await;
    let bare = std::fs::read(component("quiet-hours")).expect("it was built");
    let loop_at_start = wat::parse_str(
        r#"(component
             (core module $m (func $f (loop (br 0))) (start $f))
             (core instance (instantiate $m))
             (instance $i)
             (export "bugler:rules/router@0.1.0" (instance $i)))"#,
    )
    .expect("it is a component");
    for (bytes, reason) in [
        (b"text".to_vec(), "not WebAssembly"),
        (wat::parse_str("(module)").expect("a module"), "core module"),
        (wat::parse_str("(component)").expect("a component"), "exports none of"),
        (
            wat::parse_str(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#)
                .expect("a component"),
            "wasm32-unknown-unknown",
        ),
        (loop_at_start, "does not fit the worlds"),
        (bare, "rule.toml"),
    ] {
        let reply = world.deploy(&STANDARD.encode(&bytes), "active").await;
        assert_eq!(reply.status, 400, "{reason}: {}", reply.text());
        assert!(reply.text().contains(reason), "{reason}: {}", reply.text());
    }
    let reply = world.deploy("%", "active").await;
    assert_eq!(reply.status, 400);
    let reply = world.deploy(&routing("1.0.0", "none"), "canary").await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(world.delivered().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_decided_is_read_by_api_and_captured_on_request() {
    let world = World::new(phone, &[]).await;
    let path = |rest: &str| format!("{RULES}/routing/{rest}");
    let get =
        async |rest: &str| world.gateway.ask(&Ask::get(path(rest)).bearer(&world.token)).await;
    assert_eq!(get("decisions").await.status, 404, "there is no such rule");
    let reply = world.deploy(&routing("1.0.0", "none"), "active").await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let body = json!({ "share": "100%", "seconds": 60 }).to_string();
    let ask = Ask::post(path("capture")).bearer(&world.token).json(body);
    let reply = world.gateway.ask(&ask).await;
    assert_eq!((reply.status, &reply.json()["percent"]), (201, &json!(100.0)), "{}", reply.text());
    assert_eq!(world.delivered().await, 0);
    let lines = async |rest: &str| {
        let page = get(rest).await.json();
        let lines = page["decisions"].as_array().expect("a list").clone();
        (!lines.is_empty()).then_some((lines, page))
    };
    let (decisions, page) =
        eventually("the decision is written", async || lines("decisions?decision=drop").await)
            .await;
    assert_eq!(decisions.len(), 1);
    assert_eq!(
        (&decisions[0]["code"], &decisions[0]["stage"]),
        (&json!("event_off"), &json!("active"))
    );
    let next = page["next"].as_str().expect("a place");
    let more = get(&format!("decisions?after={next}")).await.json();
    assert_eq!((more["decisions"].as_array().map(Vec::len), &more["end"]), (Some(0), &json!(true)));
    let (captured, page) =
        eventually("the input is written", async || lines("capture").await).await;
    assert_eq!(captured[0]["input"]["recipient"]["id"], "101");
    assert_eq!(page["running"]["percent"], 100.0);
    let ask = Ask::new("DELETE", path("capture")).bearer(&world.token);
    assert_eq!(world.gateway.ask(&ask).await.status, 204);
    assert_eq!(get("capture").await.json()["running"], Value::Null);
    assert_eq!(get("logs?level=warn").await.json()["lines"], json!([]));
    for bad in ["logs?level=loud", "decisions?after=x", "decisions?limit=0", "decisions?since=soon"]
    {
        assert_eq!(get(bad).await.status, 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_sets_values_for_itself_and_they_survive_a_kill() {
    let world = World::new(phone, &[]).await;
    let reply = world.deploy(&routing("1.0.0", "apns"), "active").await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(world.delivered().await, 1);
    let path = format!("{RULES}/routing/config");
    let patch = async |body: Value| {
        let ask = Ask::new("PATCH", &path).bearer(&world.token).json(body.to_string());
        world.gateway.ask(&ask).await
    };
    for bad in [json!([]), json!({ "route.*": [] }), json!({ "": "x" }), json!({ "x": "xoxb-1" })] {
        assert_eq!(patch(bad.clone()).await.status, 400, "{bad}");
    }
    let reply = patch(json!({ "route.*": "none" })).await;
    let shown = json!({ "config": { "route.*": "none" }, "defaults": { "route.*": "apns" } });
    assert_eq!((reply.status, reply.json()), (200, shown.clone()), "{}", reply.text());
    assert_eq!(world.delivered().await, 0);

    let world = world.restart().await;
    assert_eq!(world.delivered().await, 0);
    let ask = Ask::get(&path).bearer(&world.token);
    assert_eq!(world.gateway.ask(&ask).await.json(), shown);
    let absent = Ask::get(format!("{RULES}/nobody/config")).bearer(&world.token);
    assert_eq!(world.gateway.ask(&absent).await.status, 404);
}
