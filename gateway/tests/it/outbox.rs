//! Class D3: what was answered is delivered, whichever of Redis and the gateway loses what it had.

use bugler_loadtest::redis::{Persistence, Server, ServerOptions};
use bugler_loadtest::twins::{FaultPlan, TwinName, TwinSet};
use serde_json::{Value, json};
use std::process::Command;

use crate::support::client::Ask;
use crate::support::gateway::{Gateway, Home, run};
use crate::support::{eventually, world};

const USERS: i32 = 12;

/// One gateway with an outbox on a Redis that keeps nothing by itself.
struct Site {
    twins: TwinSet,
    home: Home,
    redis: Server,
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

impl Site {
    async fn new(settings: &[&str]) -> Self {
        let options = ServerOptions { persistence: Persistence::None, ..ServerOptions::default() };
        let redis = Server::start(options).expect("redis-server starts");
        let twins = world::twins().await;
        let mut home = world::home(&twins, directory())
            .set("store.segment=4MiB")
            .set("store.backend=redis")
            .set(&format!("store.redis.urls=[\"{}\"]", redis.url()))
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

    fn save(&self) {
        self.redis.ask(&["SAVE"]).expect("saved");
    }

    /// Redis dies and has what it had when it was saved.
    fn lose(&mut self) {
        self.redis.kill();
        self.redis.restart().expect("redis-server starts again");
    }

    fn store(&self, verb: &str) -> Command {
        let mut command = self.home.command();
        command.args(["store", verb, "--config"]).arg(self.home.config_file());
        let dir = self.home.store();
        for setting in [
            String::from("store.backend=redis"),
            format!("store.redis.urls=[\"{}\"]", self.redis.url()),
            format!("store.dir={}", dir.display()),
        ] {
            command.args(["--set", &setting]);
        }
        command.arg(self.home.path().join("saved"));
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
    eventually("what is missing is added again", async || {
        let metrics = gateway.metrics().await;
        let repeated = metrics.count("bugler_outbox_repeated_total");
        (repeated == ids.len() as u64).then_some(())
    })
    .await;
    site.delivered(&gateway, &ids).await;
    // A request is known again by its key, which Redis had lost, too.
    let body = json!({ "to": { "users": [10_100] }, "title": "t" }).to_string();
    let ask = Ask::post("/bugler/v1/notifications").bearer(&site.token).key("key-0").json(body);
    assert_eq!(gateway.ask(&ask).await.id(), ids[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_gateway_had_accepted_is_added_again_after_its_restart() {
    let mut site = Site::new(&[]).await;
    let gateway = site.home.start().await;
    site.save();
    let ids = site.accept(&gateway).await;
    gateway.kill();
    site.lose();
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
