//! Class D3: what was answered is delivered, whichever of Redis and the gateway loses what it had.

use bugler_gateway::model::{OrganizationId, ShardId};
use bugler_loadtest::redis::{Cluster, Persistence, Server, ServerOptions};
use bugler_loadtest::twins::{FaultPlan, TwinName, TwinSet};
use serde_json::{Value, json};
use std::process::Command;

use crate::support::client::Ask;
use crate::support::gateway::{Gateway, Home, run};
use crate::support::{eventually, world};

const USERS: i32 = 12;
const SHARDS: u16 = 16;

/// One gateway with an outbox on a Redis that keeps nothing by itself.
struct Site<R = Server> {
    twins: TwinSet,
    home: Home,
    redis: R,
    token: String,
}

fn directory() -> Value {
    let users = (0..USERS).map(|n| {
        let id = 10_100 + n;
        json!({
            "id": id, "organization": 101, "role": 1, "status": "active",
            "email": format!("user{id}@example.com"), "name": format!("User {id}"),
            "devices": [{ "platform": "fcm", "app": "main", "token": format!("phone-{id}") }],
        })
    });
    json!({
        "organizations": [{ "id": 101, "name": "Acme" }], "users": users.collect::<Vec<_>>(),
    })
}

impl<R> Site<R> {
    async fn on(redis: R, (backend, urls): (&str, &[String]), settings: &[&str]) -> Self {
        let twins = world::twins().await;
        let urls: Vec<_> = urls.iter().map(|url| format!("\"{url}\"")).collect();
        let mut home = world::home(&twins, directory())
            .set("store.segment=4MiB")
            .set(&format!("store.backend={backend}"))
            .set(&format!("store.redis.urls=[{}]", urls.join(", ")))
            .set(&format!("store.shards={SHARDS}"))
            .set("store.redis.lease=1s")
            .set("store.redis.outbox=true")
            .set("store.require_durability=D3")
            .set("dispatch.retry.push.base=1s")
            .set("dispatch.retry.push.cap=2s")
            .set("dispatch.retry.push.attempts_max=100")
            .set("providers.fcm.main.messages_per_second=0");
        for setting in settings {
            home = home.set(setting);
        }
        let token = home.token(101).await;
        Self { twins, home, redis, token }
    }

    /// Accepts one notification for each user, none of which goes out yet.
    async fn accept(&self, gateway: &Gateway) -> Vec<String> {
        self.twins.set_faults(FaultPlan::parse("fcm:status=500").expect("a plan"));
        let mut ids = Vec::new();
        for number in 0..USERS {
            let body = json!({ "to": { "users": [10_100 + number] }, "title": "t" });
            let ask = Ask::post("/bugler/v1/notifications").bearer(&self.token);
            let ask = ask.key(&format!("key-{number}")).json(body.to_string());
            let reply = gateway.ask(&ask).await;
            assert_eq!(reply.status, 201, "{}", reply.text());
            assert_eq!(reply.headers["bugler-durability"], "D3");
            ids.push(reply.id());
        }
        ids
    }

    /// Redis had lost so many, and has them again.
    async fn added_again(&self, gateway: &Gateway, count: usize) {
        eventually("what is missing is added again", async || {
            let metrics = gateway.metrics().await;
            let repeated = metrics.count("bugler_outbox_repeated_total");
            (repeated == count as u64).then_some(())
        })
        .await;
    }

    /// Everything accepted is delivered, once; and the outbox forgets it.
    async fn delivered(&self, gateway: &Gateway, ids: &[String]) {
        self.twins.set_faults(FaultPlan::default());
        for id in ids {
            let timeline = eventually("the notification is delivered", async || {
                let ask = Ask::get(format!("/bugler/v1/notifications/{id}")).bearer(&self.token);
                let reply = gateway.ask(&ask).await;
                let is_done = reply.status == 200 && reply.json()["state"] == "done";
                is_done.then(|| reply.json())
            })
            .await;
            assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
        }
        let receipts = self.twins.receipts_since(Some(TwinName::Fcm), 0);
        let good = receipts.iter().filter(|receipt| receipt.status == 200).count();
        assert_eq!(good, ids.len());
        eventually("the outbox is empty", async || {
            let metrics = gateway.metrics().await;
            (metrics.count("bugler_outbox_entries") == 0).then_some(())
        })
        .await;
    }
}

impl Site {
    async fn new(settings: &[&str]) -> Self {
        let options = ServerOptions { persistence: Persistence::None, ..ServerOptions::default() };
        let redis = Server::start(options).expect("redis-server starts");
        let url = redis.url();
        Self::on(redis, ("redis", &[url]), settings).await
    }

    fn save(&self) {
        self.redis.ask(&["SAVE"]).expect("saved");
    }

    /// Redis dies and has what it had when it was saved.
    fn lose(&mut self) {
        self.redis.kill();
        self.redis.restart().expect("redis-server starts again");
    }

    /// A gateway that was killed, and a Redis that lost all it had accepted.
    async fn accepted_and_lost(&mut self) -> Vec<String> {
        let gateway = self.home.start().await;
        self.save();
        let ids = self.accept(&gateway).await;
        gateway.kill();
        self.lose();
        ids
    }

    /// `store backup` or `store restore`.
    fn store(&self, verb: &str) -> Command {
        let mut command = self.carrying(verb);
        command.arg(self.home.path().join("saved"));
        command
    }

    fn migration(&self, prefix: &str) -> Command {
        let mut command = self.carrying("migrate");
        command.args(["--to-set", &format!("store.redis.prefix={prefix}")]);
        command
    }

    fn carrying(&self, verb: &str) -> Command {
        let mut command = self.home.command();
        command.args(["store", verb, "--config"]).arg(self.home.config_file());
        let dir = self.home.store();
        for setting in [
            String::from("store.backend=redis"),
            format!("store.redis.urls=[\"{}\"]", self.redis.url()),
            format!("store.dir={}", dir.display()),
            format!("store.shards={SHARDS}"),
            String::from("store.redis.outbox=true"),
        ] {
            command.args(["--set", &setting]);
        }
        command
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_redis_had_not_saved_is_added_again_while_the_gateway_runs() {
    let mut site = Site::new(&[]).await;
    let gateway = site.home.start().await;
    site.save();
    let ids = site.accept(&gateway).await;
    site.lose();
    site.added_again(&gateway, ids.len()).await;
    site.delivered(&gateway, &ids).await;
    // A request is known again by its key, which Redis had lost, too.
    let body = json!({ "to": { "users": [10_100] }, "title": "t" }).to_string();
    let ask = Ask::post("/bugler/v1/notifications").bearer(&site.token).key("key-0").json(body);
    assert_eq!(gateway.ask(&ask).await.id(), ids[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_gateway_had_accepted_is_added_again_after_its_restart() {
    let mut site = Site::new(&[]).await;
    let ids = site.accepted_and_lost().await;
    let gateway = site.home.start().await;
    site.delivered(&gateway, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_whose_redis_lost_nothing_sends_everything_once() {
    let site = Site::new(&[]).await;
    let gateway = site.home.start().await;
    let ids = site.accept(&gateway).await;
    gateway.kill();
    let gateway = site.home.start().await;
    site.delivered(&gateway, &ids).await;
    assert_eq!(gateway.metrics().await.count("bugler_outbox_repeated_total"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_redis_was_emptied_and_restored_what_came_after_the_backup_is_added_again() {
    let site = Site::new(&[]).await;
    let gateway = site.home.start().await;
    gateway.kill();
    let backup = run(site.store("backup")).await;
    assert_eq!(backup.code, Some(0), "{}", backup.stderr);
    let gateway = site.home.start().await;
    let ids = site.accept(&gateway).await;
    site.redis.ask(&["FLUSHALL"]).expect("emptied");
    eventually("readiness says that the data is gone", async || {
        let ready = gateway.admin("/readyz").await;
        (ready.status == 503 && ready.text().contains("lost its data")).then_some(())
    })
    .await;
    gateway.kill();
    site.redis.ask(&["FLUSHALL"]).expect("emptied");
    let restore = run(site.store("restore")).await;
    assert_eq!(restore.code, Some(0), "{}", restore.stderr);
    let gateway = site.home.start().await;
    site.delivered(&gateway, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_belongs_to_one_process_and_refuses_work_when_it_is_full() {
    let site = Site::new(&["store.redis.outbox_max=1MiB"]).await;
    let gateway = site.home.start().await;
    let second = site.home.fail().await;
    assert!(second.stderr.contains("in use by process"), "{}", second.stderr);
    site.twins.set_faults(FaultPlan::parse("fcm:status=500").expect("a plan"));
    let text = "x".repeat(1_900);
    let send = async |number: i32| {
        let user = 10_100 + number % USERS;
        let body = json!({ "to": { "users": [user] }, "title": "t", "body": text });
        let ask = Ask::post("/bugler/v1/notifications").bearer(&site.token);
        gateway.ask(&ask.json(body.to_string())).await
    };
    let mut refused = None;
    for number in 0..1_000 {
        let reply = send(number).await;
        if reply.status != 201 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("the outbox has an end");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.headers.contains_key("retry-after"));
    site.twins.set_faults(FaultPlan::default());
    eventually("what is settled is forgotten, and there is room", async || {
        (send(0).await.status == 201).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_lost_is_added_again_and_sent_by_another_process() {
    let options = ServerOptions { persistence: Persistence::None, ..ServerOptions::default() };
    let cluster = Cluster::start(&options).expect("a cluster starts");
    let urls = cluster.urls();
    let mut site = Site::on(cluster, ("redis-cluster", &urls), &[]).await;
    let start = async |role: &str| {
        let mut command = site.home.serve();
        command.args(["--role", role]);
        let started = Gateway::start(command).await;
        started.unwrap_or_else(|failure| unreachable!("the gateway ended: {failure:#?}"))
    };
    let (ingest, dispatch) = (start("ingest").await, start("dispatch").await);
    eventually("all shards are worked on", async || {
        let owned = dispatch.metrics().await.count("bugler_redis_shards_owned");
        (owned == u64::from(SHARDS)).then_some(())
    })
    .await;
    let shard = ShardId::of(OrganizationId(101), SHARDS);
    let key = format!("bugler:{{s{:03}}}:m", shard.0);
    let lost = site.redis.primary_of(&key).expect("somebody has the slot");
    // Its replica hears nothing any more: what is accepted now is on one node, and in the outbox.
    let behind = lost + 3;
    site.redis.nodes()[behind].freeze();
    site.redis.nodes()[lost].ask(&["CLIENT", "KILL", "TYPE", "replica"]).expect("cut off");
    let ids = site.accept(&ingest).await;
    site.redis.nodes_mut()[lost].kill();
    site.redis.nodes()[behind].thaw();
    eventually("its replica takes over", async || {
        site.redis.primary_of(&key).ok().filter(|now| *now != lost)
    })
    .await;
    site.added_again(&ingest, ids.len()).await;
    site.delivered(&ingest, &ids).await;
    drop(dispatch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_waits_until_redis_has_what_the_outbox_keeps_and_what_is_under_way_stays_kept() {
    let mut site = Site::new(&[]).await;
    let ids = site.accepted_and_lost().await;
    let refused = run(site.migration("moved:")).await;
    assert_eq!(refused.code, Some(1), "{} {}", refused.stdout, refused.stderr);
    let what = format!("{} notification(s) in the outbox", ids.len());
    assert!(refused.stderr.contains(&what), "{}", refused.stderr);
    let gateway = site.home.start().await;
    site.added_again(&gateway, ids.len()).await;
    gateway.kill();
    let moved = run(site.migration("moved:")).await;
    assert_eq!(moved.code, Some(0), "{} {}", moved.stdout, moved.stderr);
    let shard = ShardId::of(OrganizationId(101), SHARDS);
    let kept = site.redis.ask(&["HLEN", &format!("moved:{{s{:03}}}:n", shard.0)]);
    assert_eq!(kept.expect("it answers").number(), i64::from(USERS), "what is left is counted");
    site.home = site.home.set("store.redis.prefix=moved:");
    let gateway = site.home.start().await;
    site.delivered(&gateway, &ids).await;
}
