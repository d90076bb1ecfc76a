//! Death at an exact stage: what a caller was told holds, and nothing is there in halves.
//!
//! One notification at a time, so that every row is exact: who was told what, what is stored, and
//! how often a provider got it.

use std::os::unix::process::ExitStatusExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugler_gateway::rules::embed_manifest;
use bugler_loadtest::twins::TwinSet;
use serde_json::{Value, json};

use crate::support::client::{Ask, Protocol, Reply};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Home};
use crate::support::rules::component;
use crate::support::world::{self, add_device, apns_token};

const NATIVE: &str = "/bugler/v1/notifications";
const RULES: &str = "/bugler/v1/organizations/101/rules";
/// `SIGABRT`: nothing was unwound or flushed.
const ABORTED: i32 = 6;
const SENT: usize = 4;

struct Scene {
    twins: TwinSet,
    home: Home,
    token: String,
}

/// What a caller knows of one notification.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Accepted(String),
    Nothing,
}

impl Scene {
    async fn new() -> Self {
        let twins = world::twins().await;
        let mut directory = world::directory();
        add_device(&mut directory, 101, "apns", &apns_token(1));
        let home = world::home(&twins, directory).set("store.segment=1MiB");
        let token = home.token(101).await;
        Self { twins, home, token }
    }

    /// A gateway that dies at `point`, or has died before it was ready.
    async fn doomed(&self, point: &str) -> Option<Gateway> {
        self.home.attempt_with(&[("BUGLER_CRASH", point)]).await.ok()
    }

    fn ask(&self, number: usize) -> Ask {
        let key = key(number);
        let data = format!(r#"{{"notificationId":"{key}"}}"#);
        let body = format!(r#"{{"to":{{"users":[101]}},"title":"n {number}","data":{data}}}"#);
        Ask::post(NATIVE).bearer(&self.token).json(body).key(&key)
    }

    /// Sends one after the other until the gateway is dead; the last caller, or nobody, hears
    /// nothing.
    async fn send(&self, gateway: &mut Gateway) -> Vec<Told> {
        let mut told = Vec::new();
        for number in 0..SENT {
            let asked = self.ask(number).exchange(Protocol::Http1, gateway.api).await;
            match asked {
                Ok(reply) => {
                    assert_eq!(reply.status, 201, "{}", reply.text());
                    told.push(Told::Accepted(reply.id()));
                    if !self.survives(gateway, &reply.id()).await {
                        break;
                    }
                }
                Err(_) => {
                    told.push(Told::Nothing);
                    break;
                }
            }
        }
        let ended = gateway.ended().await;
        assert_eq!(ended.signal(), Some(ABORTED), "{ended:?}");
        told
    }

    /// Waits until a notification is done, or nobody is left to do it: two under way at once
    /// could pass a point together.
    async fn survives(&self, gateway: &Gateway, id: &str) -> bool {
        let ask = Ask::get(format!("{NATIVE}/{id}")).bearer(&self.token);
        eventually("it is done or the gateway is dead", async || {
            match ask.exchange(Protocol::Http1, gateway.api).await {
                Ok(reply) => (reply.json()["state"] == "done").then_some(true),
                Err(_) => Some(false),
            }
        })
        .await
    }

    /// How often the provider got what was asked as `number`, and under how many ids.
    fn received(&self, number: usize) -> (usize, usize) {
        let receipts = self.twins.receipts();
        let key = key(number);
        let of_it: Vec<_> =
            receipts.iter().filter(|r| r.notification.as_ref() == Some(&key)).collect();
        let mut provider_ids: Vec<_> = of_it.iter().map(|r| r.key.clone()).collect();
        provider_ids.sort();
        provider_ids.dedup();
        (of_it.len(), provider_ids.len())
    }
}

/// The caller's own name for a notification: its idempotency key, and in the payload.
fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Dies at `point`, starts again, asks again with the same keys.
async fn row(point: &str) -> (Scene, Vec<Told>, Vec<Reply>) {
    let scene = Scene::new().await;
    let mut gateway = scene.doomed(point).await.expect("it becomes ready");
    let told = scene.send(&mut gateway).await;
    drop(gateway);
    let gateway = scene.home.start().await;
    let mut again = Vec::new();
    for number in 0..told.len() {
        again.push(gateway.ask(&scene.ask(number)).await);
    }
    for (told, again) in told.iter().zip(&again) {
        assert_eq!(again.status, 201, "{}", again.text());
        let timeline = gateway.done(&scene.token, &again.id()).await;
        assert_eq!(timeline["deliveries"]["total"], 1, "{timeline}");
        if let Told::Accepted(id) = told {
            assert_eq!(*id, again.id(), "{point}: what was accepted is there under its key");
            assert_eq!(again.header("idempotent-replayed"), Some("true"));
        }
    }
    (scene, told, again)
}

/// True if the last of them, whose caller heard nothing, was stored all the same.
fn was_stored(again: &[Reply]) -> bool {
    again.last().and_then(|reply| reply.header("idempotent-replayed")).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_append_nothing_is_stored() {
    let (_, told, again) = row("C1:3").await;
    assert_eq!((told.len(), told.last()), (3, Some(&Told::Nothing)));
    assert!(!was_stored(&again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_write_and_sync_it_is_there_whole_or_not_at_all() {
    let (_, told, _) = row("C2:3").await;
    assert_eq!((told.len(), told.last()), (3, Some(&Told::Nothing)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_sync_it_is_stored_although_nobody_was_told() {
    let (_, told, again) = row("C3:3").await;
    assert_eq!((told.len(), told.last()), (3, Some(&Told::Nothing)));
    assert!(was_stored(&again), "the key answers as for the first request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_attempt_every_stage_sends_once_after_the_restart() {
    for point in ["C4:3", "C5:3", "C6:3"] {
        let (_, told, again) = row(point).await;
        assert!(told.len() >= 3, "{point}: {told:?}");
        assert!(told.last() == Some(&Told::Nothing) || was_stored(&again), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_was_under_way_is_repeated_at_most_once_under_its_id() {
    for point in ["C7:2", "C8:2", "C9:2"] {
        let (scene, _, again) = row(point).await;
        let counts: Vec<_> = (0..again.len()).map(|number| scene.received(number)).collect();
        let repeats: usize = counts.iter().map(|(times, _)| times.saturating_sub(1)).sum();
        assert!(repeats <= 1, "{point}: {counts:?}");
        assert!(counts.iter().all(|(times, ids)| *times >= 1 && *ids == 1), "{point}: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_a_roll_leaves_the_old_segments_or_the_new_ones() {
    let scene = Scene::new().await;
    scene.home.start().await.kill();
    let mut accepted = Vec::new();
    // A start makes one segment ahead; what is sent fills one and asks for the next.
    for step in 1..=20 {
        let Some(mut gateway) = scene.doomed(&format!("C10:{step}")).await else { continue };
        loop {
            let ask = world::event_of(60_000).bearer(&scene.token);
            match ask.exchange(Protocol::Http1, gateway.api).await {
                Ok(reply) if reply.status == 202 => accepted.push(reply.id()),
                Ok(reply) => unreachable!("{}", reply.text()),
                Err(_) => break,
            }
        }
        assert_eq!(gateway.ended().await.signal(), Some(ABORTED), "step {step}");
    }
    assert!(!accepted.is_empty());
    let gateway = scene.home.start().await;
    for id in &accepted {
        gateway.done(&scene.token, id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_dies_again_and_again_changes_nothing() {
    let scene = Scene::new().await;
    let gateway = scene.home.start().await;
    let mut ids = Vec::new();
    for number in 0..SENT {
        ids.push(gateway.ask(&scene.ask(number)).await.id());
    }
    gateway.drained().await;
    gateway.kill();
    for step in 1..=10 {
        // Later steps may not come: then it is ready, and is killed.
        if let Some(gateway) = scene.doomed(&format!("C12:{step}")).await {
            gateway.kill();
        }
    }
    let gateway = scene.home.start().await;
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(gateway.timeline(&scene.token, id).await["state"], "done");
        assert_eq!(scene.received(number), (1, 1));
    }
}

/// A version of the rule `routing`.
fn routing(version: &str) -> Value {
    let manifest = format!("[rule]\nname = \"routing\"\nversion = \"{version}\"");
    let bytes = std::fs::read(component("event-routing")).expect("it was built");
    let bytes = embed_manifest(&bytes, &manifest).expect("a rule");
    json!({ "component": STANDARD.encode(bytes), "stage": "active", "message": version })
}

impl Scene {
    fn deploy(&self, version: &str) -> Ask {
        Ask::post(RULES).bearer(&self.token).json(routing(version).to_string())
    }

    /// Which version is in force, once it is sure that every version of the set is there.
    async fn in_force(&self, gateway: &Gateway) -> String {
        let set = gateway.ask(&Ask::get(RULES).bearer(&self.token)).await.json();
        let folder = self.home.store().join("rules");
        let kept = std::fs::read(folder.join("set.json")).expect("a set is kept");
        let kept: Value = serde_json::from_slice(&kept).expect("the set is whole");
        assert_eq!(kept["revision"], set["revision"], "what is kept is in force");
        for version in kept["rules"][0]["versions"].as_array().expect("a list") {
            let digest = version["digest"].as_str().expect("a digest");
            let bytes = std::fs::read(folder.join(format!("{digest}.wasm"))).expect("it is kept");
            assert_eq!(json!(bytes.len()), version["bytes"]);
        }
        let files = std::fs::read_dir(folder).expect("a folder").flatten();
        let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        assert_eq!(names.find(|name| name.ends_with(".new")), None);
        let active = &set["rules"][0]["active"]["version"];
        active.as_str().expect("a version is in force").to_owned()
    }

    /// Asks a gateway that dies at the passing `step` of C11; answers which version is in force
    /// afterwards, or nothing if there are not as many.
    async fn published(&self, step: usize, ask: &Ask) -> Option<String> {
        let doomed = self.doomed(&format!("C11:{step}")).await;
        let mut gateway = doomed.expect("a start publishes nothing");
        let asked = ask.exchange(Protocol::Http1, gateway.api).await;
        if let Ok(reply) = asked {
            assert!([200, 201].contains(&reply.status), "{}", reply.text());
            gateway.kill();
            return None;
        }
        assert_eq!(gateway.ended().await.signal(), Some(ABORTED), "step {step}");
        let gateway = self.home.start().await;
        let version = self.in_force(&gateway).await;
        let id = gateway.ask(&self.ask(step)).await.id();
        let timeline = gateway.done(&self.token, &id).await;
        let events = timeline["timeline"].as_array().expect("a list");
        let ruled = events.iter().find(|event| event["type"] == "ruled").expect("it was judged");
        assert_eq!(ruled["decisions"][0]["version"], version.as_str(), "{ruled}");
        gateway.kill();
        Some(version)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_a_publication_leaves_the_old_rules_or_the_new_ones() {
    let scene = Scene::new().await;
    let gateway = scene.home.start().await;
    let reply = gateway.ask(&scene.deploy("1.0.0")).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    gateway.kill();
    let (mut before, mut is_new) = (String::from("1.0.0"), Vec::new());
    loop {
        let step = is_new.len() + 1;
        let next = format!("1.0.{step}");
        let Some(version) = scene.published(step, &scene.deploy(&next)).await else { break };
        assert!(version == before || version == next, "step {step}: {version} is in force");
        is_new.push(version == next);
        before = version;
    }
    assert_eq!(is_new.len(), 12, "a component is kept in six steps, and the set in as many");
    assert!(is_new.is_sorted(), "once it is new it stays so: {is_new:?}");
    assert!(is_new.contains(&true) && is_new.contains(&false), "{is_new:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_a_roll_back_leaves_the_version_before_it_or_after_it() {
    let scene = Scene::new().await;
    let gateway = scene.home.start().await;
    for version in ["1.0.0", "1.0.1"] {
        let reply = gateway.ask(&scene.deploy(version)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    gateway.kill();
    let patch = |body: Value| {
        let path = format!("{RULES}/routing");
        Ask::new("PATCH", path).bearer(&scene.token).json(body.to_string())
    };
    let (back, mut steps, mut seen) = (patch(json!({ "rollback": true })), 0, Vec::new());
    while let Some(version) = scene.published(steps + 1, &back).await {
        steps += 1;
        if version == "1.0.0" {
            // Forward again, so that there is something to roll back.
            let gateway = scene.home.start().await;
            let forward = json!({ "stage": "active" });
            assert_eq!(gateway.ask(&patch(forward)).await.status, 200);
            assert_eq!(scene.in_force(&gateway).await, "1.0.1");
            gateway.kill();
        }
        seen.push(version);
    }
    assert_eq!(steps, 6, "{seen:?}");
    assert!(seen.contains(&String::from("1.0.0")) && seen.contains(&String::from("1.0.1")));
}
