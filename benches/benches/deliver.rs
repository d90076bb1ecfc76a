//! Delivery: the whole gateway draining a backlog from its journal, against clients that only send.
//!
//! `cargo bench -p bugler-benches --bench deliver`. Twins run here, gateway and bare clients in
//! processes of their own, all on the same cores; cases take turns and medians are compared.
//! `-- case=apns` or `case=webhook` compares one of them. `-- backlog=10000,5000000` compares how
//! fast a gateway drains backlogs of these sizes, and what memory that takes; it ends with status 1
//! if a goal is missed, as the comparison with the bare clients does.

use bugler_benches::bare::{self, Bare};
use bugler_benches::{Failed, Gateway, judge, median, micros_each, notification, per_second};
use bugler_gateway::clock::{Clock, SystemClock};
use bugler_gateway::intake::Intake;
use bugler_gateway::journal::disk::{DiskJournal, DiskOptions};
use bugler_gateway::model::{Audience, Notification, OrganizationId, UserId};
use bugler_loadtest::process;
use bugler_loadtest::twins::{TwinName, TwinOptions, TwinSet};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 3;
const BACKLOG: usize = 120_000;
/// What a bare client sends; it needs no time to warm up.
const BARE: usize = 60_000;
const USERS: usize = 2_000;
const CONNECTIONS: usize = 2;
/// How many connections suit a bare webhook client best is tried out: the gateway finds out, too.
const HOOK_CONNECTIONS: [usize; 3] = [4, 16, 64];
/// A gateway that starts with a backlog takes two seconds to reach its limits, and the first push
/// to each device goes out with care: deliveries are counted from then on.
const WARM_UP: Duration = Duration::from_millis(2_500);
const WARM_UP_PUSHES: usize = 2 * USERS;
/// Of a backlog that is compared with others, so many deliveries from the first one on, and so many
/// once the gateway is warm.
const EARLY: usize = 9_000;
const STEADY: usize = 200_000;
const RATIO_MIN: f64 = 0.6;
const BACKLOG_RATIO_MIN: f64 = 0.9;
const RSS_MAX: u64 = 400 << 20;
const RECEIPTS_KEPT_MAX: usize = 10_000;
/// Longest wait for the next delivery.
const PATIENCE: Duration = Duration::from_secs(60);
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

impl Case {
    const ALL: [(&'static str, Self); 2] = [("APNs", Self::Apns), ("webhook", Self::Webhook)];

    fn twin(self) -> TwinName {
        if self == Self::Apns { TwinName::Apns } else { TwinName::Webhook }
    }
}

fn main() -> Result<ExitCode, Failed> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg.contains('=')).collect();
    let value = |name: &str| {
        let of_name = |arg: &&String| arg.split_once('=').is_some_and(|(key, _)| key == name);
        args.iter().find(of_name).and_then(|arg| Some(arg.split_once('=')?.1))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let holds = match (value("gateway"), value("bare"), value("backlog")) {
        (Some(config), _, _) => {
            runtime.block_on(Gateway::run(PathBuf::from(config))).map(|()| true)
        }
        (_, Some(plan), _) => runtime.block_on(client(plan)).map(|()| true),
        (_, _, Some(sizes)) => runtime.block_on(compare_backlogs(sizes)),
        _ => runtime.block_on(compare(value("case"))),
    }?;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A bare client, told what to do in one line of JSON.
async fn client(plan: &str) -> Result<(), Failed> {
    let plan: serde_json::Value = serde_json::from_str(plan)?;
    let text = |name: &str| plan[name].as_str().unwrap_or_default().to_owned();
    let hook = plan["case"] == "webhook";
    let bare = Bare {
        address: text("address"),
        requests: BARE,
        connections: usize::try_from(plan["connections"].as_u64().unwrap_or(1))?,
        body: text("body"),
    };
    let rate = if hook {
        bare::webhook(&bare, HOOK, &SECRET).await?
    } else {
        let files = PathBuf::from(text("files"));
        bare::apns(&bare, &files, (&text("team"), &text("key")), &text("topic")).await?
    };
    let each = micros_each(process::sample_self()?.cpu, BARE);
    writeln!(std::io::stdout(), "{rate} {each}")?;
    Ok(())
}

/// How quick something was, and what processor time one delivery took of it.
#[derive(Clone, Copy, Debug)]
struct Pace {
    per_second: f64,
    micros_each: f64,
}

struct Bench {
    twins: TwinSet,
    files: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Result<Self, Failed> {
        let options =
            TwinOptions { receipts_kept_max: RECEIPTS_KEPT_MAX, ..TwinOptions::default() };
        let bench = Self { twins: TwinSet::start(options).await?, files: tempfile::tempdir()? };
        bench.twins.write_credentials(bench.files.path())?;
        Ok(bench)
    }

    fn delivered(&self, case: Case) -> usize {
        let counts = self.twins.counts();
        counts.get(&case.twin()).map_or(0, |c| usize::try_from(c.succeeded).unwrap_or(usize::MAX))
    }

    fn bare(&self, case: Case, connections: usize) -> Result<Pace, Failed> {
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
            "connections": connections,
            "files": self.files.path(),
            "team": credentials.apns_team_id,
            "key": credentials.apns_key_id,
            "topic": credentials.apns_topic,
        });
        let output = Command::new(std::env::current_exe()?)
            .arg(format!("bare={plan}"))
            .stderr(Stdio::inherit())
            .output()?;
        let told = String::from_utf8(output.stdout)?;
        let (rate, each) = told.trim().split_once(' ').ok_or("the bare client failed")?;
        Ok(Pace { per_second: rate.parse()?, micros_each: each.parse()? })
    }

    /// A gateway that starts with the whole backlog in its journal.
    async fn start_with(&self, case: Case, backlog: usize) -> Result<Drain<'_>, Failed> {
        let home = tempfile::tempdir()?;
        fill(&home.path().join("store"), case, backlog).await?;
        let files = [("gateway.toml", self.config(home.path())), ("seed.json", self.directory())];
        for (name, text) in &files {
            std::fs::write(home.path().join(name), text)?;
        }
        self.seed(home.path()).await?;
        self.twins.clear_receipts();
        let gateway = Gateway::start(&home.path().join("gateway.toml"))?;
        Ok(Drain { bench: self, case, gateway, _home: home })
    }

    /// How a backlog is drained, the start apart.
    async fn drain(&self, case: Case) -> Result<Pace, Failed> {
        let mut drain = self.start_with(case, BACKLOG).await?;
        let (first, before) = drain.warmed_up().await?;
        let idle = drain.processor()?;
        if BACKLOG - before.min(BACKLOG) < BACKLOG / 4 {
            return Err("the backlog was nearly drained before the gateway was warm".into());
        }
        let (last, after) = drain.until(BACKLOG).await?;
        let busy = drain.processor()?;
        Ok(Pace {
            per_second: per_second(after - before, last - first),
            micros_each: micros_each(busy.saturating_sub(idle), after - before),
        })
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

/// A gateway at its backlog.
struct Drain<'a> {
    bench: &'a Bench,
    case: Case,
    gateway: Gateway,
    /// The last field: it goes after the gateway.
    _home: tempfile::TempDir,
}

impl Drain<'_> {
    /// Waits until so many are delivered; answers when that was, and how many it were by then.
    async fn until(&mut self, wanted: usize) -> Result<(Instant, usize), Failed> {
        let mut seen = (Instant::now(), self.bench.delivered(self.case));
        while seen.1 < wanted {
            self.gateway.is_there()?;
            if seen.0.elapsed() > PATIENCE {
                return Err(format!("nothing was delivered any more after {}", seen.1).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            let delivered = self.bench.delivered(self.case);
            if delivered > seen.1 {
                seen = (Instant::now(), delivered);
            }
        }
        Ok(seen)
    }

    /// Processor time that the gateway took so far.
    fn processor(&self) -> Result<Duration, Failed> {
        Ok(process::sample(self.gateway.id())?.cpu)
    }

    async fn warmed_up(&mut self) -> Result<(Instant, usize), Failed> {
        let (first, _) = self.until(1).await?;
        self.until(WARM_UP_PUSHES).await?;
        tokio::time::sleep(WARM_UP.saturating_sub(first.elapsed())).await;
        Ok((Instant::now(), self.bench.delivered(self.case)))
    }
}

/// Accepts the backlog with nobody there to deliver it.
async fn fill(store: &Path, case: Case, backlog: usize) -> Result<(), Failed> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = DiskOptions::default();
    let journal = DiskJournal::open(&store.join("journal"), options, Arc::clone(&clock))?;
    let intake = Arc::new(Intake::new(Arc::new(journal), clock));
    let workers: Vec<_> = (0..256)
        .map(|worker| {
            let intake = Arc::clone(&intake);
            tokio::spawn(async move {
                for n in (worker..backlog).step_by(256) {
                    intake.accept(delivery(&intake, case, n), None).await?;
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

fn delivery(intake: &Intake, case: Case, n: usize) -> Notification {
    let user = UserId(i64::try_from(n % USERS + 1).unwrap_or(1));
    let what = match case {
        Case::Apns => ("push.direct", Audience::Users(vec![user])),
        Case::Webhook => ("buildCreated", Audience::Subscriptions),
    };
    notification(intake, ORG, what, TEXT)
}

/// The median of the rates, and of what each took.
fn middle(paces: &[Pace]) -> Pace {
    Pace {
        per_second: median(paces.iter().map(|pace| pace.per_second).collect()),
        micros_each: median(paces.iter().map(|pace| pace.micros_each).collect()),
    }
}

fn show(what: &str, pace: Pace) -> Result<(), Failed> {
    let Pace { per_second, micros_each } = pace;
    let mut out = std::io::stdout();
    Ok(writeln!(out, "{what:<30} {per_second:>9.0} /s, {micros_each:>4.0} µs of processor each")?)
}

/// The gateway against bare clients.
async fn compare(wanted: Option<&str>) -> Result<bool, Failed> {
    let bench = Bench::start().await?;
    let mut holds = true;
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(name));
    for (name, case) in Case::ALL.into_iter().filter(|(name, _)| is_wanted(name)) {
        let connections = if case == Case::Apns { &[CONNECTIONS][..] } else { &HOOK_CONNECTIONS };
        let mut bare = vec![Vec::new(); connections.len()];
        let mut drained = Vec::new();
        for _ in 0..ROUNDS {
            for (rates, connections) in bare.iter_mut().zip(connections) {
                rates.push(tokio::task::block_in_place(|| bench.bare(case, *connections))?);
            }
            drained.push(bench.drain(case).await?);
        }
        let mut best = 0.0_f64;
        for (rates, connections) in bare.into_iter().zip(connections) {
            let pace = middle(&rates);
            best = best.max(pace.per_second);
            show(&format!("{name:<8} bare, {connections:>2} connections"), pace)?;
        }
        let drained = middle(&drained);
        show(&format!("{name:<8} gateway, backlog"), drained)?;
        let ratio = drained.per_second / best;
        holds &= judge(
            &format!("{name}: gateway / best bare"),
            ratio,
            &format!(">= {RATIO_MIN}"),
            ratio >= RATIO_MIN,
        )?;
    }
    Ok(holds)
}

/// How fast backlogs of several sizes go out, each compared with the first.
async fn compare_backlogs(sizes: &str) -> Result<bool, Failed> {
    let sizes = sizes.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let bench = Bench::start().await?;
    let mut holds = true;
    let (mut first_early, mut first_steady) = (None, None);
    for size in sizes {
        let filling = Instant::now();
        let mut drain = bench.start_with(Case::Apns, size).await?;
        let filled = filling.elapsed();
        let starting = Instant::now();
        let (begun, at_first) = drain.until(1).await?;
        let started = begun - starting;
        let idle = drain.processor()?;
        let (then, at_early) = drain.until(EARLY.min(size)).await?;
        let early = per_second(at_early - at_first, then - begun);
        let early_each = micros_each(drain.processor()?.saturating_sub(idle), at_early - at_first);
        let mut line = format!(
            "{size:>8}: filled in {:.0} s, first delivery after {:.1} s; the first {EARLY} at {early:.0} /s and {early_each:.0} µs of processor each",
            filled.as_secs_f64(),
            started.as_secs_f64(),
        );
        let base = *first_early.get_or_insert(early);
        let early = early / base;
        let mut steady = None;
        if size >= 2 * STEADY {
            let (first, before) = drain.warmed_up().await?;
            let idle = drain.processor()?;
            let (last, after) = drain.until(before + STEADY).await?;
            let rate = per_second(after - before, last - first);
            let each = micros_each(drain.processor()?.saturating_sub(idle), after - before);
            line += &format!(", then {STEADY} at {rate:.0} /s and {each:.0} µs");
            let base = *first_steady.get_or_insert(rate);
            steady = Some(rate / base);
        }
        let (end, all) = drain.until(size).await?;
        let each = micros_each(drain.processor()?.saturating_sub(idle), all - at_first);
        let rate = per_second(all - at_first, end - begun);
        line += &format!(", all at {rate:.0} /s and {each:.0} µs");
        let peak = process::sample(drain.gateway.id())?.rss_peak_bytes;
        writeln!(std::io::stdout(), "{line}; resident at most {} MiB", peak >> 20)?;
        let goal = format!(">= {BACKLOG_RATIO_MIN}");
        let met = |ratio: f64| ratio >= BACKLOG_RATIO_MIN;
        holds &= judge(
            &format!("{size}: first {EARLY}, against the smallest"),
            early,
            &goal,
            met(early),
        )?;
        if let Some(steady) = steady {
            holds &= judge(
                &format!("{size}: {STEADY} later, against the smallest"),
                steady,
                &goal,
                met(steady),
            )?;
        }
        holds &= peak < RSS_MAX;
    }
    Ok(holds)
}
