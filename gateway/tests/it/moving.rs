//! Everything a gateway keeps, carried to another store: whoever was promised a delivery gets one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bugler_gateway::model::{OrganizationId, ShardId};
use bugler_loadtest::redis::{Cluster, Server, ServerOptions};
use bugler_loadtest::twins::{FaultPlan, TwinName, TwinSet};
use serde_json::{Value, json};

use crate::support::client::Ask;
use crate::support::gateway::{Failure, Gateway, Home, run};
use crate::support::{now_ms, world};

const ORGANIZATIONS: i32 = 4;
const USERS: i32 = 4;

fn organizations() -> impl Iterator<Item = i32> {
    101..101 + ORGANIZATIONS
}

fn directory() -> Value {
    let all: Vec<_> =
        organizations().map(|id| json!({ "id": id, "name": format!("Org {id}") })).collect();
    let users = organizations().flat_map(|org| (0..USERS).map(move |n| (org, org * 100 + n)));
    let users = users.map(|(org, id)| {
        json!({
            "id": id, "organization": org, "role": 1, "status": "active",
            "email": format!("user{id}@example.com"), "name": format!("User {id}"),
            "devices": [{ "platform": "fcm", "app": "main", "token": format!("phone-{id}") }],
        })
    });
    json!({ "organizations": all, "users": users.collect::<Vec<_>>() })
}

/// A store: the settings that name it.
#[derive(Clone, Debug)]
struct Spot {
    dir: PathBuf,
    settings: Vec<String>,
}

impl Spot {
    fn embedded(site: &Site, name: &str, shards: u16) -> Self {
        let dir = site.home.path().join(name);
        let settings = vec![String::from("store.backend=embedded")];
        Self { dir, settings }.with(shards)
    }

    fn redis(site: &Site, name: &str, server: &Server, shards: u16) -> Self {
        Self::on(site, name, ("redis", &[server.url()]), shards)
    }

    fn on(site: &Site, name: &str, (kind, urls): (&str, &[String]), shards: u16) -> Self {
        let dir = site.home.path().join(name);
        let urls: Vec<_> = urls.iter().map(|url| format!("\"{url}\"")).collect();
        let settings = vec![
            format!("store.backend={kind}"),
            format!("store.redis.urls=[{}]", urls.join(",")),
            format!("store.redis.prefix={name}:"),
            String::from("store.redis.lease=1s"),
        ];
        Self { dir, settings }.with(shards)
    }

    fn with(mut self, shards: u16) -> Self {
        self.settings.push(format!("store.shards={shards}"));
        self.settings.push(format!("store.dir={}", self.dir.display()));
        self
    }
}

struct Site {
    twins: TwinSet,
    home: Home,
}

impl Site {
    async fn new() -> Self {
        let twins = world::twins().await;
        let home = world::home(&twins, directory())
            .set("store.segment=4MiB")
            .set("providers.fcm.main.messages_per_second=0");
        Self { twins, home }
    }

    fn serve(&self, spot: &Spot, more: &[&str]) -> Command {
        let mut command = self.home.serve();
        for setting in spot.settings.iter().map(String::as_str).chain(more.iter().copied()) {
            command.args(["--set", setting]);
        }
        command
    }

    async fn start(&self, spot: &Spot, more: &[&str]) -> Gateway {
        let started = Gateway::start(self.serve(spot, more)).await;
        started.unwrap_or_else(|failure| unreachable!("the gateway ended: {failure:#?}"))
    }

    async fn refused(&self, spot: &Spot) -> String {
        let started = Gateway::start(self.serve(spot, &[])).await;
        started.map(|gateway| gateway.log()).expect_err("it must not start").stderr
    }

    fn store(&self, verb: &str, spot: &Spot) -> Command {
        let mut command = self.home.command();
        command.args(["store", verb, "--config"]).arg(self.home.config_file());
        for setting in &spot.settings {
            command.args(["--set", setting]);
        }
        command
    }

    fn migration(&self, from: &Spot, to: &Spot) -> Command {
        let mut command = self.store("migrate", from);
        for setting in &to.settings {
            command.args(["--to-set", setting]);
        }
        command
    }

    async fn migrate(&self, from: &Spot, to: &Spot) -> Value {
        report(run(self.migration(from, to)).await)
    }

    async fn token(&self, spot: &Spot, org: i32) -> String {
        let mut command = self.home.command();
        command.args(["token", "--org", &org.to_string()]);
        command.args(["--set", &format!("store.dir={}", spot.dir.display())]);
        let ended = run(command).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout.trim().to_owned()
    }

    async fn audit(&self, dir: &Path) {
        let mut command = self.home.command();
        command.args(["audit", "--data"]).arg(dir);
        let ended = run(command).await;
        assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    }

    /// `bugler audit` of what the settings of a spot name.
    async fn audited(&self, spot: &Spot) -> Failure {
        let mut command = self.home.command();
        command.args(["audit", "--config"]).arg(self.home.config_file());
        for setting in &spot.settings {
            command.args(["--set", setting]);
        }
        run(command).await
    }

    fn delivered(&self) -> usize {
        let receipts = self.twins.receipts_since(Some(TwinName::Fcm), 0);
        receipts.iter().filter(|receipt| receipt.status == 200).count()
    }

    fn faults(&self, plan: &str) {
        self.twins.set_faults(FaultPlan::parse(plan).expect("a plan in its notation"));
    }
}

fn report(ended: Failure) -> Value {
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    serde_json::from_str(&ended.stdout).expect("a report")
}

/// What was accepted, by organization.
struct Accepted {
    tokens: BTreeMap<i32, String>,
    /// Delivered before the first move.
    before: Vec<(i32, String)>,
    /// Given up, with a copy kept.
    dead: Vec<(i32, String)>,
    /// Under way.
    pending: Vec<(i32, String)>,
    /// Not to be sent for an hour.
    planned: Vec<(i32, String)>,
}

impl Accepted {
    fn token(&self, org: i32) -> &str {
        &self.tokens[&org]
    }

    /// Posts one notification for each user.
    async fn post(
        &self,
        gateway: &Gateway,
        name: &str,
        start_at: Option<u64>,
    ) -> Vec<(i32, String)> {
        let mut ids = Vec::new();
        for org in organizations() {
            for user in (0..USERS).map(|n| org * 100 + n) {
                let reply = gateway.ask(&self.ask(org, user, name, start_at)).await;
                assert_eq!(reply.status, 201, "{}", reply.text());
                ids.push((org, reply.id()));
            }
        }
        ids
    }

    fn ask(&self, org: i32, user: i32, name: &str, start_at: Option<u64>) -> Ask {
        let mut body = json!({ "to": { "users": [user] }, "title": name });
        if let Some(at) = start_at {
            body["startAt"] = at.into();
        }
        let ask = Ask::post("/bugler/v1/notifications").bearer(self.token(org));
        ask.key(&format!("{name}-{user}")).json(body.to_string())
    }

    async fn all_done(&self, gateway: &Gateway, ids: &[(i32, String)]) {
        for (org, id) in ids {
            gateway.done(self.token(*org), id).await;
        }
    }

    /// Fills a store: some delivered, some dead, some under way at a kill, some for later.
    async fn fill(site: &Site, spot: &Spot) -> Self {
        let mut tokens = BTreeMap::new();
        for org in organizations() {
            tokens.insert(org, site.token(spot, org).await);
        }
        let none = Vec::new;
        let mut all =
            Self { tokens, before: none(), dead: none(), pending: none(), planned: none() };
        let gateway = site.start(spot, &["dispatch.retry.push.attempts_max=1"]).await;
        all.before = all.post(&gateway, "before", None).await;
        all.all_done(&gateway, &all.before).await;
        site.faults("fcm:status=500");
        all.dead = all.post(&gateway, "dead", None).await;
        all.all_done(&gateway, &all.dead).await;
        let hour = Some(now_ms() + 3_600_000);
        all.planned = all.post(&gateway, "planned", hour).await;
        gateway.kill();
        // Retries that are minutes away, first tries, and claims of a process that is gone.
        let slow = ["dispatch.retry.push.base=2s", "dispatch.retry.push.cap=4s"];
        let gateway = site.start(spot, &slow).await;
        all.pending = all.post(&gateway, "pending", None).await;
        gateway.kill();
        all
    }

    /// Everything is there and goes on: whoever has to be told is told once.
    async fn check(&self, site: &Site, gateway: &Gateway) {
        let before = site.delivered();
        assert_eq!(before, self.before.len());
        site.twins.set_faults(FaultPlan::default());
        self.all_done(gateway, &self.pending).await;
        for (org, id) in &self.pending {
            let timeline = gateway.timeline(self.token(*org), id).await;
            assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
        }
        assert_eq!(site.delivered(), before + self.pending.len());
        for (org, id) in &self.before {
            let timeline = gateway.timeline(self.token(*org), id).await;
            assert_eq!(timeline["state"], "done", "{timeline:#}");
            assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
        }
        for (org, id) in &self.planned {
            let timeline = gateway.timeline(self.token(*org), id).await;
            assert_ne!(timeline["state"], "done", "{timeline:#}");
        }
        // A request is known again by its key.
        let (org, id) = &self.before[0];
        let reply = gateway.ask(&self.ask(*org, org * 100, "before", None)).await;
        assert_eq!((reply.status, reply.id()), (201, id.clone()), "{}", reply.text());
        for org in organizations() {
            let ask = Ask::get("/bugler/v1/dead-letters").bearer(self.token(org));
            let letters = gateway.ask(&ask).await.json();
            let letters = letters["deadLetters"].as_array().map_or(0, Vec::len);
            assert_eq!(letters, usize::try_from(USERS).expect("a few"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_goes_on_after_moves_to_redis_to_other_shards_and_back() {
    let site = Site::new().await;
    let redis = Server::start(ServerOptions::default()).expect("redis-server starts");
    let first = Spot::embedded(&site, "first", 4);
    let all = Accepted::fill(&site, &first).await;
    let second = Spot::redis(&site, "second", &redis, 16);
    let told = site.migrate(&first, &second).await;
    let some = u64::try_from(ORGANIZATIONS * USERS).expect("a few");
    assert_eq!(told["pending"], 2 * some, "{told:#}");
    assert_eq!(told["deadLetters"], some, "{told:#}");
    assert_eq!(told["accepted"], 4 * some, "{told:#}");
    assert_eq!(told["users"], some, "{told:#}");
    let other = Spot::redis(&site, "other", &redis, 6);
    let third = Spot::embedded(&site, "third", 5);
    let fourth = Spot::embedded(&site, "fourth", 9);
    let mut last = second;
    for next in [other, third, fourth] {
        let again = site.migrate(&last, &next).await;
        for name in ["pending", "timers", "deadLetters", "accepted", "records", "events"] {
            assert_eq!(again[name], told[name], "{name} {again:#}");
        }
        let refusal = site.refused(&last).await;
        assert!(refusal.contains("moved"), "{refusal}");
        let audited = site.audited(&next).await;
        assert_eq!(audited.code, Some(0), "{} {}", audited.stdout, audited.stderr);
        last = next;
    }
    site.audit(&site.home.path().join("fourth")).await;
    let gateway = site.start(&last, &[]).await;
    all.check(&site, &gateway).await;
    gateway.kill();
    site.audit(&site.home.path().join("fourth")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_goes_on_after_a_move_to_a_cluster_and_a_way_back_through_a_backup() {
    let site = Site::new().await;
    let cluster = Cluster::start(&ServerOptions::default()).expect("a cluster starts");
    let first = Spot::embedded(&site, "first", 8);
    let all = Accepted::fill(&site, &first).await;
    let urls = cluster.urls();
    let second = Spot::on(&site, "second", ("redis-cluster", &urls), 12);
    let told = site.migrate(&first, &second).await;
    let mut backup = site.store("backup", &second);
    backup.arg("saved");
    assert_eq!(report(run(backup).await)["pending"], told["pending"]);
    let third = Spot::on(&site, "third", ("redis-cluster", &urls), 5);
    let mut restore = site.store("restore", &third);
    restore.arg("saved");
    assert_eq!(report(run(restore).await)["pending"], told["pending"]);
    // What was backed up may go on, too; here it does not.
    let gateway = site.start(&third, &[]).await;
    all.check(&site, &gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_killed_is_started_again_and_nothing_is_doubled() {
    let site = Site::new().await;
    let redis = Server::start(ServerOptions::default()).expect("redis-server starts");
    let first = Spot::embedded(&site, "first", 4);
    let all = Accepted::fill(&site, &first).await;
    let mut last = first;
    for next in [Spot::redis(&site, "second", &redis, 16), Spot::embedded(&site, "third", 3)] {
        // Among records, among blocks, and at every step of the end.
        let mut dry = site.migration(&last, &next);
        dry.arg("--dry-run");
        let told = report(run(dry).await);
        let count = |name: &str| told[name].as_u64().expect("a number");
        let parts = count("records") + 1 + count("blocks") + count("deadLetters");
        let middle = [count("records") / 2, count("records") + 9];
        let mut kills = 0;
        for point in middle.into_iter().chain(parts + 1..) {
            let mut killed = site.migration(&last, &next);
            killed.env("BUGLER_CRASH", format!("C13:{point}"));
            let killed = run(killed).await;
            if killed.code == Some(0) {
                break;
            }
            assert_eq!(
                killed.code, None,
                "{point} of {parts}: {} {}",
                killed.stdout, killed.stderr
            );
            kills += 1;
            if kills == 1 {
                let refusal = site.refused(&next).await;
                assert!(refusal.contains("did not finish"), "{refusal}");
            }
        }
        // Two in the middle, and at least all three steps of the end.
        assert!(kills >= 5, "{kills}");
        last = next;
    }
    let gateway = site.start(&last, &[]).await;
    all.check(&site, &gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_counts_and_changes_nothing_and_what_is_not_empty_is_refused() {
    let site = Site::new().await;
    let redis = Server::start(ServerOptions::default()).expect("redis-server starts");
    let first = Spot::embedded(&site, "first", 4);
    let all = Accepted::fill(&site, &first).await;
    let second = Spot::redis(&site, "second", &redis, 16);
    let mut dry = site.migration(&first, &second);
    dry.arg("--dry-run");
    let told = report(run(dry).await);
    assert_eq!(told["dryRun"], true);
    let mut keep = site.migration(&first, &second);
    keep.arg("--keep-source");
    assert_eq!(report(run(keep).await)["pending"], told["pending"]);
    let taken = run(site.migration(&first, &second)).await;
    assert_eq!(taken.code, Some(1), "{}", taken.stderr);
    assert!(taken.stderr.contains("holds something already"), "{}", taken.stderr);
    let nothing = run(site.migration(&Spot::embedded(&site, "none", 4), &first)).await;
    assert_eq!(nothing.code, Some(1), "{}", nothing.stderr);
    let empty = Spot::embedded(&site, "empty", 4);
    let nothing = run(site.migration(&Spot::embedded(&site, "none", 4), &empty)).await;
    assert_eq!(nothing.code, Some(6), "{}", nothing.stderr);
    // A running gateway keeps its store to itself, on either backend.
    let gateway = site.start(&second, &[]).await;
    let busy = run(site.migration(&second, &empty)).await;
    assert_eq!(busy.code, Some(1), "{}", busy.stderr);
    assert!(busy.stderr.contains("stop them first"), "{}", busy.stderr);
    gateway.kill();
    // The source was kept: it serves.
    let gateway = site.start(&first, &[]).await;
    let busy = run(site.migration(&first, &empty)).await;
    assert!(busy.stderr.contains("in use"), "{}", busy.stderr);
    all.check(&site, &gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_private_checked_at_restore_and_brings_everything_back() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new().await;
    let first = Spot::embedded(&site, "first", 4);
    let all = Accepted::fill(&site, &first).await;
    let mut backup = site.store("backup", &first);
    backup.arg("saved");
    let told = report(run(backup).await);
    let saved = site.home.path().join("saved");
    for name in ["bugler.dump", "vault.json", "keys.json"] {
        let mode = std::fs::metadata(saved.join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let mut again = site.store("backup", &first);
    again.arg("saved");
    assert_eq!(run(again).await.code, Some(1), "a backup is never written over");
    let whole = std::fs::read(saved.join("bugler.dump")).expect("the dump");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(saved.join("bugler.dump"), flipped).expect("written");
    let second = Spot::embedded(&site, "second", 7);
    let restore = || {
        let mut restore = site.store("restore", &second);
        restore.arg("saved");
        restore
    };
    let damaged = run(restore()).await;
    assert_eq!(damaged.code, Some(1));
    assert!(damaged.stderr.contains("take another"), "{}", damaged.stderr);
    assert!(!second.dir.join("records.redb").exists(), "nothing was begun");
    std::fs::write(saved.join("bugler.dump"), whole).expect("written");
    assert_eq!(report(run(restore()).await)["accepted"], told["accepted"]);
    assert!(run(restore()).await.stderr.contains("holds something already"));
    site.audit(&second.dir).await;
    let gateway = site.start(&second, &[]).await;
    all.check(&site, &gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_of_a_journal_on_redis_are_proved_and_what_was_changed_in_it_is_told() {
    let site = Site::new().await;
    let redis = Server::start(ServerOptions::default()).expect("redis-server starts");
    let first = Spot::redis(&site, "first", &redis, 4);
    let all = Accepted::fill(&site, &first).await;
    let good = async |spot: &Spot| {
        let ended = site.audited(spot).await;
        assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    };
    good(&first).await;
    let gateway = site.start(&first, &[]).await;
    all.check(&site, &gateway).await;
    let report = gateway.admin("/audit").await;
    assert_eq!(report.status, 200, "{}", report.text());
    let report = report.json();
    assert_eq!(report["good"], true, "{report:#}");
    let some = u64::try_from(ORGANIZATIONS * USERS).expect("a few");
    assert_eq!(report["total"]["accepted"], 4 * some, "{report:#}");
    gateway.kill();
    good(&first).await;
    let shard = ShardId::of(OrganizationId(101), 4);
    let key = |name: &str| format!("first:{{s{:03}}}:{name}", shard.0);
    let ask = |parts: &[&str]| redis.ask(parts).expect("it answers");
    let broken = async |what: &str| {
        let ended = site.audited(&first).await;
        assert_eq!(ended.code, Some(1), "{} {}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains(what), "{}", ended.stdout);
    };
    ask(&["HINCRBY", &key("m"), "accepted", "1"]);
    broken("in the books").await;
    ask(&["HINCRBY", &key("m"), "accepted", "-1"]);
    good(&first).await;
    ask(&["RENAME", &key("t:101"), &key("away")]);
    broken("entries wait in the log").await;
    ask(&["RENAME", &key("away"), &key("t:101")]);
    ask(&["COPY", &key("o:101"), &key("away")]);
    ask(&["ZPOPMIN", &key("o:101")]);
    broken("outcomes of organization 101").await;
    ask(&["RENAME", &key("away"), &key("o:101")]);
    good(&first).await;
    // Blocks that are gone without retention: what they told is missing.
    ask(&["XTRIM", &key("q"), "MAXLEN", "3"]);
    broken("in the books").await;
}
