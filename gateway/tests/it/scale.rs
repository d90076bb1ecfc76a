//! Several processes on one Redis: who takes requests, who sends, and what is left when one goes.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugler_gateway::rules::embed_manifest;
use bugler_loadtest::ledger::{ClientLedger, Expectation, Verdict, check};
use bugler_loadtest::load::{Dialect, Load, LoadPlan, Mode, Recipients, Stop};
use bugler_loadtest::redis::{Cluster, Persistence, Server, ServerOptions};
use bugler_loadtest::twins::{TwinName, TwinSet};
use serde_json::{Value, json};

use crate::support::client::{Ask, Protocol};
use crate::support::gateway::{Gateway, Home};
use crate::support::rules::component;
use crate::support::{eventually, world};

/// Organizations, so that every process has shards with work in them.
const ORGANIZATIONS: u32 = 8;
const USERS: u32 = 12;
const SHARDS: u64 = 16;
/// `dispatch.max_in_flight`: what one crash may repeat.
const IN_FLIGHT_MAX: u64 = 1024;

fn organization(number: u32) -> i32 {
    i32::try_from(101 + number).expect("a small number")
}

/// Users with one device each.
fn directory() -> Value {
    let organizations: Vec<_> = (0..ORGANIZATIONS).map(organization).collect();
    let users = organizations.iter().flat_map(|org| (0..USERS).map(move |n| user(*org, n)));
    let users: Vec<_> = users.collect();
    let organizations: Vec<_> =
        organizations.iter().map(|id| json!({ "id": id, "name": format!("Org {id}") })).collect();
    json!({ "organizations": organizations, "users": users })
}

fn user(org: i32, number: u32) -> Value {
    let id = first_user(org) + u64::from(number);
    json!({
        "id": id, "organization": org, "role": 1, "status": "active",
        "email": format!("user{id}@example.com"), "name": format!("User {id}"),
        "devices": [{ "platform": "fcm", "app": "main", "token": format!("phone-of-user-{id}") }],
    })
}

fn first_user(org: i32) -> u64 {
    u64::from(org.unsigned_abs()) * 1_000
}

/// What all processes share.
struct Site {
    twins: TwinSet,
    home: Home,
}

impl Site {
    async fn new(backend: &str, urls: &[String]) -> Self {
        Self::with(backend, urls, "store.redis.replicas=0").await
    }

    async fn with(backend: &str, urls: &[String], setting: &str) -> Self {
        let twins = world::twins().await;
        let urls: Vec<_> = urls.iter().map(|url| format!("\"{url}\"")).collect();
        let home = world::home(&twins, directory())
            .set(&format!("store.backend={backend}"))
            .set(&format!("store.redis.urls=[{}]", urls.join(", ")))
            .set(&format!("store.shards={SHARDS}"))
            .set("store.redis.lease=1s")
            .set(setting)
            .set("limits.blynk_requests=0")
            .set("providers.fcm.main.messages_per_second=0");
        // Minted before a gateway starts: both make the key file if there is none.
        home.token(101).await;
        Self { twins, home }
    }

    async fn single() -> (Server, Self) {
        let server = Server::start(ServerOptions::default()).expect("redis-server starts");
        let site = Self::new("redis", &[server.url()]).await;
        (server, site)
    }

    fn command(&self, role: &str) -> Command {
        let mut command = self.home.serve();
        command.args(["--role", role]);
        command
    }

    async fn start(&self, role: &str) -> Gateway {
        let started = Gateway::start(self.command(role)).await;
        started.unwrap_or_else(|failure| unreachable!("the gateway ended: {failure:#?}"))
    }

    /// Loads `ingest` for every organization until it has accepted `enough` for each and `event`
    /// is over, then stops.
    async fn load(
        &self,
        ingest: &Gateway,
        enough: u64,
        event: impl AsyncFnOnce(),
    ) -> Vec<bugler_loadtest::ledger::ClientEntry> {
        let mut loads = Vec::new();
        let mut ledgers = Vec::new();
        for org in (0..ORGANIZATIONS).map(organization) {
            let first_seq = u64::from(org.unsigned_abs()) * 1_000_000;
            let ledger = Arc::new(ClientLedger::open(first_seq, None).expect("it is in memory"));
            let first = first_user(org);
            let plan = LoadPlan {
                url: ingest.url(),
                token: self.home.token(org).await,
                mode: Mode::Single(Dialect::Native),
                connections: 2,
                stop: Stop::After(Duration::from_secs(60)),
                recipients: Recipients {
                    first,
                    last: first + u64::from(USERS) - 1,
                    ..Recipients::default()
                },
                first_seq,
                ..LoadPlan::default()
            };
            loads.push(Load::start(plan, Arc::clone(&ledger)).expect("a right plan"));
            ledgers.push(ledger);
        }
        let accepted = async |more: u64| {
            eventually("enough notifications are accepted", async || {
                let counts = loads.iter().map(|load| &load.progress().accepted);
                counts.into_iter().all(|n| n.load(Ordering::Relaxed) >= more).then_some(())
            })
            .await;
        };
        accepted(enough / 2).await;
        event().await;
        accepted(enough).await;
        for load in &loads {
            load.stop();
        }
        for load in loads {
            load.finish().await;
        }
        ledgers.iter().flat_map(|ledger| ledger.entries()).collect()
    }

    fn verdict(
        &self,
        client: &[bugler_loadtest::ledger::ClientEntry],
        duplicates_max: u64,
    ) -> Verdict {
        let expected = Expectation {
            targets_per_notification: 1,
            duplicates_max,
            ended_otherwise: HashMap::new(),
        };
        let mut receipts = self.twins.receipts();
        // A request torn in half by a kill says nothing; it is sent again whole.
        receipts.retain(|receipt| receipt.reason.as_deref() != Some("broken off by the sender"));
        check(client, &receipts, &expected)
    }
}

async fn owned(gateway: &Gateway) -> u64 {
    gateway.metrics().await.count("bugler_redis_shards_owned")
}

/// Waits until the processes hold all shards, each its even share.
async fn shared_by(gateways: &[&Gateway]) {
    let share = SHARDS / u64::try_from(gateways.len()).expect("a few");
    eventually("the shards are shared evenly", async || {
        let mut sum = 0;
        for gateway in gateways {
            let owned = owned(gateway).await;
            if owned < share {
                return None;
            }
            sum += owned;
        }
        (sum == SHARDS).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_senders_is_killed_under_load_and_nothing_is_lost() {
    let (_redis, site) = Site::single().await;
    let ingest = site.start("ingest").await;
    let (stays, goes) = (site.start("dispatch").await, site.start("dispatch").await);
    shared_by(&[&stays, &goes]).await;
    let client = site.load(&ingest, 200, async || goes.kill()).await;
    shared_by(&[&stays]).await;
    stays.drained().await;
    let verdict = site.verdict(&client, IN_FLIGHT_MAX);
    assert!(verdict.holds(), "{verdict}");
    assert!(verdict.accepted >= 200 * u64::from(ORGANIZATIONS), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_stopped_hands_over_and_nothing_is_repeated() {
    let (_redis, site) = Site::single().await;
    let ingest = site.start("ingest").await;
    let (stays, mut goes) = (site.start("dispatch").await, site.start("dispatch").await);
    shared_by(&[&stays, &goes]).await;
    let client = site
        .load(&ingest, 200, async || {
            goes.signal("TERM");
            assert_eq!(goes.ended().await.code(), Some(0), "{:#?}", goes.log());
            let third = site.start("dispatch").await;
            shared_by(&[&stays, &third]).await;
            goes = third;
        })
        .await;
    stays.drained().await;
    goes.drained().await;
    let verdict = site.verdict(&client, 0);
    assert!(verdict.holds(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_is_sent_while_redis_is_out_of_memory() {
    let (redis, site) = Site::single().await;
    let ingest = site.start("ingest").await;
    let client = site.load(&ingest, 50, async || {}).await;
    let memory = |limit: &str| {
        redis.ask(&["CONFIG", "SET", "maxmemory", limit]).expect("the limit is set");
    };
    memory("1");
    let token = site.home.token(101).await;
    let body = json!({ "to": { "users": [101_000] }, "title": "t" }).to_string();
    let ask = Ask::post("/bugler/v1/notifications").bearer(&token).json(body);
    assert_eq!(ingest.ask(&ask).await.status, 503);
    let dispatch = site.start("dispatch").await;
    shared_by(&[&dispatch]).await;
    dispatch.drained().await;
    let verdict = site.verdict(&client, 0);
    assert!(verdict.holds(), "{verdict}");
    memory("0");
    eventually("there is room again", async || {
        (ingest.ask(&ask).await.status == 201).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_serves_all_roles_in_one_process_too() {
    let cluster = Cluster::start(&ServerOptions::default()).expect("a cluster starts");
    let site = Site::new("redis-cluster", &cluster.urls()).await;
    let all = site.start("all").await;
    let client = site.load(&all, 50, async || {}).await;
    all.drained().await;
    let verdict = site.verdict(&client, 0);
    assert!(verdict.holds(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_of_the_cluster_is_killed_under_load_and_nothing_is_lost() {
    let mut cluster = Cluster::start(&ServerOptions::default()).expect("a cluster starts");
    let site = Site::with("redis-cluster", &cluster.urls(), "store.redis.replicas=1").await;
    let (ingest, dispatch) = (site.start("ingest").await, site.start("dispatch").await);
    shared_by(&[&dispatch]).await;
    let key = "bugler:{s003}:m";
    let lost = cluster.primary_of(key).expect("somebody has the slot");
    let client = site
        .load(&ingest, 100, async || {
            cluster.nodes_mut()[lost].kill();
            eventually("its replica takes over", async || {
                cluster.primary_of(key).ok().filter(|now| *now != lost)
            })
            .await;
            // Alone, the new primary has no copies of what it takes.
            cluster.nodes_mut()[lost].restart().expect("the node starts again");
        })
        .await;
    dispatch.drained().await;
    let verdict = site.verdict(&client, IN_FLIGHT_MAX);
    assert!(verdict.holds(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_requests_get_503_and_later_go_through_without_a_restart() {
    let (mut redis, site) = Site::single().await;
    let all = site.start("all").await;
    let token = site.home.token(101).await;
    let send = async || {
        let body = json!({ "to": { "users": [101_000] }, "title": "t" }).to_string();
        all.ask(&Ask::post("/bugler/v1/notifications").bearer(&token).json(body)).await
    };
    let reply = send().await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.headers["bugler-durability"], "D2");
    redis.kill();
    let reply = send().await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.headers.contains_key("retry-after"));
    eventually("readiness is off", async || {
        (all.admin("/readyz").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(send().await.status, 503);
    redis.restart().expect("redis-server starts again");
    eventually("readiness is on", async || {
        (all.admin("/readyz").await.status == 200).then_some(())
    })
    .await;
    let reply = send().await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    all.done(&token, &reply.id()).await;
}

#[tokio::test]
async fn what_redis_cannot_promise_is_refused_at_the_start_with_the_setting() {
    let weak = ServerOptions { persistence: Persistence::EverySecond, ..ServerOptions::default() };
    let redis = Server::start(weak).expect("redis-server starts");
    let site = Site::new("redis", &[redis.url()]).await;
    let mut command = site.command("all");
    command.args(["--require-durability", "D2"]);
    let failure = Gateway::start(command).await.map(|gateway| gateway.log());
    let failure = failure.expect_err("it must not start");
    assert_eq!(failure.code, Some(3), "{}", failure.stderr);
    assert!(failure.stderr.contains("appendfsync always"), "{}", failure.stderr);
    let all = site.start("all").await;
    let ready = all.admin("/readyz").await.json();
    assert_eq!(ready["durability"], "D1");
    let failure = Gateway::start(other_shards(&site)).await.map(|gateway| gateway.log());
    let failure = failure.expect_err("it must not start");
    assert!(failure.stderr.contains("store.shards = 16"), "{}", failure.stderr);
}

fn other_shards(site: &Site) -> Command {
    let mut command = site.command("all");
    command.args(["--set", "store.shards=32"]);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_at_two_processes_at_once_is_one_notification() {
    let (_redis, site) = Site::single().await;
    let (one, other) = (site.start("ingest").await, site.start("ingest").await);
    let token = site.home.token(101).await;
    let body = json!({ "to": { "users": [101_000] }, "title": "t" }).to_string();
    let ask = Ask::post("/bugler/v1/notifications").bearer(&token).json(body);
    let mut ids = std::collections::BTreeSet::new();
    for number in 0..40 {
        let ask = ask.clone().key(&format!("key-{number}"));
        let accepted = async |gateway: &Gateway| {
            eventually("the request is answered", async || {
                let reply = gateway.ask(&ask).await;
                assert!(matches!(reply.status, 201 | 409), "{}", reply.text());
                (reply.status == 201).then(|| reply.id())
            })
            .await
        };
        let (first, second) = tokio::join!(accepted(&one), accepted(&other));
        assert_eq!(first, second);
        ids.insert(first);
    }
    assert_eq!(ids.len(), 40);
    let dispatch = site.start("dispatch").await;
    for id in &ids {
        one.done(&token, id).await;
    }
    dispatch.drained().await;
    assert_eq!(site.twins.receipts_since(Some(TwinName::Fcm), 0).len(), 40);
}

#[tokio::test]
async fn each_role_does_its_part_only() {
    let (_redis, site) = Site::single().await;
    let ingest = site.start("ingest").await;
    let token = site.home.token(101).await;
    let body = json!({ "to": { "users": [101_000] }, "title": "t" }).to_string();
    let ask = Ask::post("/bugler/v1/notifications").bearer(&token).json(body);
    let reply = ask.send(Protocol::Http1, ingest.api).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(owned(&ingest).await, 0);
    assert_eq!(ingest.timeline(&token, &reply.id()).await["state"], "queued");
    let dispatch = site.start("dispatch").await;
    assert_eq!(dispatch.api.port(), 0, "it listens for the operator only");
    ingest.done(&token, &reply.id()).await;
    assert_eq!(site.twins.receipts_since(Some(TwinName::Fcm), 0).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_is_deployed_at_one_process_is_in_force_at_all_and_goes_back_at_all() {
    let (_redis, site) = Site::single().await;
    let (ingest, dispatch) = (site.start("ingest").await, site.start("dispatch").await);
    let other = site.start("ingest").await;
    let token = site.home.token(101).await;
    let path = "/bugler/v1/organizations/101/rules";
    let bytes = std::fs::read(component("event-routing")).expect("it was built");
    let deploy = async |version: &str, route: &str| {
        let rule = format!("[rule]\nname = \"routing\"\nversion = \"{version}\"\n");
        let manifest = format!("{rule}[config]\n\"route.*\" = \"{route}\"");
        let component = STANDARD.encode(embed_manifest(&bytes, &manifest).expect("a rule"));
        let body = json!({ "component": component, "stage": "active" }).to_string();
        let reply = ingest.ask(&Ask::post(path).bearer(&token).json(body)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    let has = async |version: &str| {
        eventually("the other process has the version", async || {
            let listed = other.ask(&Ask::get(path).bearer(&token)).await.json();
            (listed["rules"][0]["active"]["version"] == version).then_some(())
        })
        .await;
    };
    let body = json!({ "to": { "users": [101_000] }, "title": "t" }).to_string();
    let send = Ask::post("/bugler/v1/notifications").bearer(&token).json(body);
    let is_sent = async || {
        let reply = other.ask(&send).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        other.done(&token, &reply.id()).await["deliveries"]["delivered"] == 1
    };
    deploy("1.0.0", "fcm").await;
    has("1.0.0").await;
    // What sends looks as often as what listens; it has the set once it judges by it.
    eventually("notifications are sent", async || is_sent().await.then_some(())).await;
    deploy("1.1.0", "none").await;
    has("1.1.0").await;
    eventually("notifications are dropped", async || (!is_sent().await).then_some(())).await;
    let back = json!({ "rollback": true }).to_string();
    let back = Ask::new("PATCH", format!("{path}/routing")).bearer(&token).json(back);
    assert_eq!(other.ask(&back).await.status, 200);
    eventually("notifications are sent again", async || is_sent().await.then_some(())).await;
    let listed = ingest.ask(&Ask::get(path).bearer(&token)).await.json();
    assert_eq!(listed["rules"][0]["active"]["version"], "1.0.0");
    drop(dispatch);
}
