//! Delivery: the whole gateway draining a backlog from its journal, against clients that only send.
//!
//! `cargo bench -p bugler-benches --bench deliver`. Twins run here, gateway and bare clients in
//! processes of their own, all on the same cores; cases take turns and medians are compared.

use bugler_benches::Failed;
use bugler_benches::bare::{self, Bare};
use bugler_gateway::app::App;
use bugler_gateway::clock::{Clock, SystemClock};
use bugler_gateway::config::{Config, ConfigSources};
use bugler_gateway::intake::Intake;
use bugler_gateway::journal::disk::{DiskJournal, DiskOptions};
use bugler_gateway::model::{
    Audience, Content, Notification, OrganizationId, Priority, Source, UserId,
};
use bugler_gateway::telemetry::metrics;
use bugler_loadtest::twins::{TwinName, TwinOptions, TwinSet};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 3;
const BACKLOG: usize = 40_000;
const USERS: usize = 2_000;
const CONNECTIONS: usize = 2;
const HOOK_CONNECTIONS: usize = 16;
const DRAIN_MAX: Duration = Duration::from_secs(300);
const ORG: OrganizationId = OrganizationId(101);
const SECRET: [u8; 32] = [7; 32];
const HOOK: &str = "/hooks/bench";
const TEXT: &str = "The parcel you have been waiting for is on its way and arrives between ten and \
                    eleven o'clock; please have an identity card ready when it does.";

/// Where the deliveries of a case go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Apns,
    Webhook,
}

fn main() -> Result<(), Failed> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg.contains('=')).collect();
    let value = |name: &str| {
        args.iter().find_map(|arg| arg.split_once('=').filter(|(key, _)| *key == name))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match (value("gateway"), value("bare")) {
        (Some((_, config)), _) => runtime.block_on(gateway(PathBuf::from(config))),
        (None, Some((_, plan))) => runtime.block_on(client(plan)),
        (None, None) => runtime.block_on(compare()),
    }
}

/// A gateway that serves until it is killed.
async fn gateway(file: PathBuf) -> Result<(), Failed> {
    let sources = ConfigSources { file: Some(file), ..ConfigSources::default() };
    let config = tokio::task::spawn_blocking(|| Config::load(sources)).await??;
    let app = App::start(config, None, metrics::install()?).await?;
    app.run().await;
    Ok(())
}

/// A bare client, told what to do in one line of JSON.
async fn client(plan: &str) -> Result<(), Failed> {
    let plan: serde_json::Value = serde_json::from_str(plan)?;
    let text = |name: &str| plan[name].as_str().unwrap_or_default().to_owned();
    let hook = plan["case"] == "webhook";
    let bare = Bare {
        address: text("address"),
        requests: BACKLOG,
        connections: if hook { HOOK_CONNECTIONS } else { CONNECTIONS },
        body: text("body"),
    };
    let rate = if hook {
        bare::webhook(&bare, HOOK, &SECRET).await?
    } else {
        let files = PathBuf::from(text("files"));
        bare::apns(&bare, &files, (&text("team"), &text("key")), &text("topic")).await?
    };
    writeln!(std::io::stdout(), "{rate}")?;
    Ok(())
}

struct Bench {
    twins: TwinSet,
    files: tempfile::TempDir,
}

impl Bench {
    /// Deliveries per second of a bare client.
    fn bare(&self, case: Case) -> Result<f64, Failed> {
        let credentials = self.twins.credentials();
        let url =
            if case == Case::Apns { self.twins.apns_url() } else { self.twins.webhook_plain_url() };
        let body = match case {
            Case::Apns => {
                json!({"aps": {"alert": {"title": "Parcel", "body": TEXT}, "sound": "default"}})
            }
            Case::Webhook => json!({
                "type": "buildCreated", "timestamp": "2026-01-01T00:00:00.000Z",
                "data": {
                    "notificationId": "019a0000-0000-7000-8000-000000000000", "organizationId": 101,
                    "title": "Parcel", "body": TEXT,
                },
            }),
        };
        let plan = json!({
            "case": if case == Case::Apns { "apns" } else { "webhook" },
            "address": url.split_once("//").map_or("", |(_, address)| address),
            "body": body.to_string(),
            "files": self.files.path(),
            "team": credentials.apns_team_id,
            "key": credentials.apns_key_id,
            "topic": credentials.apns_topic,
        });
        let output = Command::new(std::env::current_exe()?)
            .arg(format!("bare={plan}"))
            .stderr(Stdio::inherit())
            .output()?;
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    }

    /// Deliveries per second of a gateway that starts with the whole backlog in its journal.
    async fn drain(&self, case: Case) -> Result<f64, Failed> {
        let home = tempfile::tempdir()?;
        fill(&home.path().join("store"), case).await?;
        let files = [("gateway.toml", self.config(home.path())), ("seed.json", self.directory())];
        for (name, text) in &files {
            std::fs::write(home.path().join(name), text)?;
        }
        self.seed(home.path()).await?;
        let twin = if case == Case::Apns { TwinName::Apns } else { TwinName::Webhook };
        self.twins.clear_receipts();
        let delivered = || {
            let counts = self.twins.counts();
            counts.get(&twin).map_or(0, |c| usize::try_from(c.succeeded).unwrap_or(usize::MAX))
        };
        let _gateway = Gateway::start(&home.path().join("gateway.toml"))?;
        let begun = Instant::now();
        let first = until(begun, || delivered() >= BACKLOG / 20).await?;
        let before = delivered();
        let last = until(begun, || delivered() >= BACKLOG).await?;
        #[expect(clippy::cast_precision_loss, reason = "a count shown with three digits")]
        let delivered = (BACKLOG - before) as f64;
        Ok(delivered / (last - first).as_secs_f64())
    }

    /// Puts the directory into the records before the journal is looked at.
    async fn seed(&self, home: &Path) -> Result<(), Failed> {
        use bugler_gateway::store::disk::DiskStore;
        use bugler_gateway::store::{Store, directory};
        let store = DiskStore::open(&home.join("store"))?;
        let document = std::fs::read(home.join("seed.json"))?;
        let changes = directory::changes(&document, &store, SystemClock.now()).await?;
        store.apply(changes).await?;
        Ok(())
    }

    fn config(&self, home: &Path) -> String {
        let credentials = self.twins.credentials();
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
             [store]\ndir = \"{store}\"\n[observability]\nlog_level = \"warn\"\n\
             [providers.apns.main]\nendpoint = \"{apns}\"\nteam_id = \"{team}\"\n\
             key_id = \"{key}\"\nkey_file = \"{files}/apns.p8\"\ntopic = \"{topic}\"\n\
             ca_file = \"{files}/ca.pem\"\nconnections = {CONNECTIONS}\n\
             [providers.webhook]\nallow_http = true\nallow_private = true\n",
            store = home.join("store").display(),
            apns = self.twins.apns_url(),
            team = credentials.apns_team_id,
            key = credentials.apns_key_id,
            files = self.files.path().display(),
            topic = credentials.apns_topic,
        )
    }

    fn directory(&self) -> String {
        use base64::Engine;
        let secret = base64::engine::general_purpose::STANDARD.encode(SECRET);
        let users = (1..=USERS).map(|id| {
            json!({
                "id": id, "organization": 101, "role": 1, "status": "active",
                "email": format!("user{id}@example.com"), "name": format!("User {id}"),
                "devices": [{"platform": "apns", "app": "main", "token": format!("{id:064x}")}],
            })
        });
        json!({
            "organizations": [{"id": 101, "name": "Acme"}],
            "users": users.collect::<Vec<_>>(),
            "subscriptions": [{
                "organization": 101, "type": "webhook", "description": "bench",
                "url": format!("{}{HOOK}", self.twins.webhook_plain_url()),
                "secret": format!("whsec_{secret}"), "events": ["buildCreated"],
            }],
        })
        .to_string()
    }
}

/// A gateway in a process of its own; dropping it ends it.
struct Gateway(Child);

impl Gateway {
    fn start(config: &Path) -> Result<Self, Failed> {
        let mut command = Command::new(std::env::current_exe()?);
        let child = command.arg(format!("gateway={}", config.display())).spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // A process that already ended needs no killing.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn until(begun: Instant, done: impl Fn() -> bool) -> Result<Instant, Failed> {
    while !done() {
        if begun.elapsed() > DRAIN_MAX {
            return Err("the backlog was not drained in time".into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(Instant::now())
}

/// Accepts the backlog with nobody there to deliver it.
async fn fill(store: &Path, case: Case) -> Result<(), Failed> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = DiskOptions::default();
    let journal = DiskJournal::open(&store.join("journal"), options, Arc::clone(&clock))?;
    let intake = Arc::new(Intake::new(Arc::new(journal), clock));
    let workers: Vec<_> = (0..256)
        .map(|worker| {
            let intake = Arc::clone(&intake);
            tokio::spawn(async move {
                for n in (worker..BACKLOG).step_by(256) {
                    intake.accept(notification(&intake, case, n), None).await?;
                }
                Ok::<_, Failed>(())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(())
}

fn notification(intake: &Intake, case: Case, n: usize) -> Notification {
    let user = UserId(i64::try_from(n % USERS + 1).unwrap_or(1));
    let now = intake.now();
    let (event, audience) = match case {
        Case::Apns => ("push.direct", Audience::Users(vec![user])),
        Case::Webhook => ("buildCreated", Audience::Subscriptions),
    };
    Notification {
        id: intake.mint(),
        org: ORG,
        source: Source::Native,
        event: event.to_owned(),
        audience,
        content: Content { title: "Parcel".into(), body: TEXT.into(), ..Content::default() },
        priority: Priority::Normal,
        collapse_key: None,
        created_at: now,
        created_by: String::new(),
        start_at: now,
        expires_at: None,
        dialect_fields: String::new(),
        mail: None,
        inbox: false,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

async fn compare() -> Result<(), Failed> {
    let options = TwinOptions { receipts_kept_max: 2 * BACKLOG, ..TwinOptions::default() };
    let files = tempfile::tempdir()?;
    let bench = Bench { twins: TwinSet::start(options).await?, files };
    bench.twins.write_credentials(bench.files.path())?;
    let mut out = std::io::stdout();
    for (name, case) in [("APNs", Case::Apns), ("webhook", Case::Webhook)] {
        let (mut bare, mut drained) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(tokio::task::block_in_place(|| bench.bare(case))?);
            drained.push(bench.drain(case).await?);
        }
        let (bare, drained) = (median(bare), median(drained));
        writeln!(out, "{name:<8} bare client      {bare:>9.0} /s")?;
        writeln!(out, "{name:<8} gateway, backlog {drained:>9.0} /s")?;
        let ratio = drained / bare;
        let mark = if ratio >= 0.6 { "ok" } else { "MISSED" };
        writeln!(out, "{name:<8} gateway / bare   {ratio:>9.2}   goal 0.6   {mark}")?;
    }
    Ok(())
}
