//! Scale-out: the Redis backend against plain XADD, against the embedded one, and two dispatchers
//! against one.
//!
//! `cargo bench -p bugler-benches --bench scale`, or with `-- case=xadd`, `ingest`, `records`
//! or `dispatch` one of them. It starts redis-servers of its own. Everything runs on the same cores,
//! cases take turns and medians are compared; it ends with status 1 if a goal is missed.

use bugler_benches::{
    Failed, Gateway, Role, api, api_over, judge, median, micros_each, notification, per_second,
    serve,
};
use bugler_gateway::clock::{Clock, SystemClock};
use bugler_gateway::intake::Intake;
use bugler_gateway::journal::redis::{RedisJournal, RedisJournalOptions};
use bugler_gateway::journal::{Append, Entry, EntryKind, Journal};
use bugler_gateway::model::{
    Audience, Notification, NotificationId, OrganizationId, ShardId, UserId,
};
use bugler_gateway::redis::{Redis, RedisOptions};
use bugler_gateway::store::disk::DiskStore;
use bugler_gateway::store::redis::RedisStore;
use bugler_gateway::store::{Store, directory};
use bugler_gateway::vault::Vault;
use bugler_loadtest::load::{Dialect, Mode};
use bugler_loadtest::process;
use bugler_loadtest::redis::{Persistence, Server, ServerOptions};
use bugler_loadtest::twins::{FaultPlan, TwinName, TwinOptions, TwinSet};
use bytes::Bytes;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 3;
const SHARDS: u16 = 16;
const PAYLOAD: [u8; 400] = [b'x'; 400];
/// Of plain XADD and of the journal: so many are written, so many at a time.
const WRITTEN: usize = 200_000;
const WRITERS: usize = 64;
const GROUP: usize = 16;
const XADD_RATIO_MIN: f64 = 0.7;
const LOADED: Duration = Duration::from_secs(4);
const CONNECTIONS: usize = 64;
const INGEST_RATIO_MAX: f64 = 1.5;
/// What limits a dispatching process: streams, and how long each is taken.
const STREAMS: u32 = 16;
const LATENCY: &str = "apns:delay=20ms:100";
const ORGANIZATIONS: usize = 32;
const USERS: usize = 16;
const BACKLOG: usize = 80_000;
const WARM_UP: Duration = Duration::from_secs(4);
const COUNTED: Duration = Duration::from_secs(6);
const DISPATCH_RATIO_MIN: f64 = 1.7;
/// Users imported to see what one takes.
const PEOPLE: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<ExitCode, Failed> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg.contains('=')).collect();
    let value = |name: &str| {
        let of_name = |arg: &&String| arg.split_once('=').is_some_and(|(key, _)| key == name);
        args.iter().find(of_name).and_then(|arg| Some(arg.split_once('=')?.1.to_owned()))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(config) = value("gateway") {
        return runtime.block_on(Gateway::run(PathBuf::from(config))).map(|()| ExitCode::SUCCESS);
    }
    if let Some(role) = value("role") {
        let home = tempfile::tempdir()?;
        let url = value("url");
        return runtime
            .block_on(async { serve(ingest(&role, home.path(), url).await?).await })
            .map(|()| ExitCode::SUCCESS);
    }
    let case = value("case");
    let is_wanted = |name: &str| case.as_deref().is_none_or(|case| case == name);
    let mut holds = true;
    if is_wanted("xadd") {
        holds &= runtime.block_on(compare_writes())?;
    }
    if is_wanted("ingest") {
        holds &= runtime.block_on(compare_ingest())?;
    }
    if is_wanted("records") {
        runtime.block_on(measure_records())?;
    }
    if is_wanted("dispatch") {
        holds &= runtime.block_on(compare_dispatchers())?;
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(line: &str) -> Result<(), Failed> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Without rewrites of its log: under `always` one may hold every write up for seconds, longer than a
/// gateway waits before it says that the outcome is unknown.
fn server(persistence: Persistence) -> Result<Server, Failed> {
    let lines = vec![String::from("auto-aof-rewrite-percentage 0")];
    Ok(Server::start(ServerOptions { persistence, lines, ..ServerOptions::default() })?)
}

async fn journal_at(url: &str) -> Result<Arc<RedisJournal>, Failed> {
    let redis = Redis::open(&RedisOptions::single(url)).await?;
    journal_over(redis).await
}

async fn journal_over(redis: Redis) -> Result<Arc<RedisJournal>, Failed> {
    redis.settle_layout(SHARDS).await?;
    let options = RedisJournalOptions {
        shards: SHARDS,
        home: Some(ShardId::of),
        durability: redis.class().as_str(),
        ..RedisJournalOptions::default()
    };
    Ok(Arc::new(RedisJournal::open(redis, options, Arc::new(SystemClock)).await?))
}

// --- writes ---------------------------------------------------------------------------------

/// Rate, and Redis CPU microseconds for each.
type Cost = (f64, f64);

async fn compare_writes() -> Result<bool, Failed> {
    let mut holds = true;
    for (name, policy) in [("everysec", Persistence::EverySecond), ("always", Persistence::Always)]
    {
        let (mut plain, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(tokio::task::block_in_place(|| plain_xadd(policy))?);
            ours.push(appended(policy).await?);
        }
        let medians = |costs: Vec<Cost>| {
            let (rates, cpu): (Vec<_>, Vec<_>) = costs.into_iter().unzip();
            (median(rates), median(cpu))
        };
        let (plain, ours) = (medians(plain), medians(ours));
        for (what, (rate, cpu)) in [("pipelined XADD", plain), ("journal on Redis", ours)] {
            say(&format!("{name:<9} {what:<17} {rate:>9.0} /s   {cpu:>6.2} us Redis CPU each"))?;
        }
        let ratio = ours.0 / plain.0;
        let what = format!("{name}: journal / pipelined XADD");
        holds &= judge(&what, ratio, &format!(">= {XADD_RATIO_MIN}"), ratio >= XADD_RATIO_MIN)?;
    }
    Ok(holds)
}

/// redis-benchmark, with as many values of that size under way as the journal has.
fn plain_xadd(policy: Persistence) -> Result<Cost, Failed> {
    let server = server(policy)?;
    let pid = server.pid().ok_or("the server is not there")?;
    let before = process::sample(pid)?.cpu;
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "--csv"])
        .args(["-c", "4", "-P", &(WRITERS * GROUP / 4).to_string(), "-n", &WRITTEN.to_string()])
        .args(["XADD", "plain", "*", "b", std::str::from_utf8(&PAYLOAD)?])
        .output()?;
    let cpu = process::sample(pid)?.cpu.saturating_sub(before);
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().ok_or("redis-benchmark said nothing")?;
    // The name of the test is the whole command, which may hold commas of its own.
    let after = last.split("\",\"").nth(1).ok_or("redis-benchmark wrote no rate")?;
    Ok((after.trim_matches('"').parse()?, micros_each(cpu, WRITTEN)))
}

async fn appended(policy: Persistence) -> Result<Cost, Failed> {
    let server = server(policy)?;
    let pid = server.pid().ok_or("the server is not there")?;
    let journal = journal_at(&server.url()).await?;
    let before = process::sample(pid)?.cpu;
    let started = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move {
            for round in 0..WRITTEN / WRITERS / GROUP {
                let org = i32::try_from(1 + (writer * 31 + round * 7) % 200)?;
                let entries = (0..GROUP).map(|_| entry(OrganizationId(org))).collect();
                let shard = ShardId::of(OrganizationId(org), SHARDS);
                journal.append(shard, Append { entries, idempotency: Vec::new() })?.await?;
            }
            Ok::<_, Failed>(())
        })
    });
    let writers: Vec<_> = writers.collect();
    for writer in writers {
        writer.await??;
    }
    let count = WRITTEN / WRITERS / GROUP * WRITERS * GROUP;
    let rate = per_second(count, started.elapsed());
    let cpu = process::sample(pid)?.cpu.saturating_sub(before);
    journal.close().await;
    Ok((rate, micros_each(cpu, count)))
}

fn entry(org: OrganizationId) -> Entry {
    Entry {
        notification: NotificationId(Uuid::now_v7()),
        org,
        kind: EntryKind::Root,
        due: SystemClock.now(),
        payload: Bytes::from_static(&PAYLOAD),
    }
}

// --- ingest ---------------------------------------------------------------------------------

/// The whole API without a dispatcher, on Redis if `url` says where.
async fn ingest(
    role: &str,
    home: &Path,
    url: Option<String>,
) -> Result<Arc<dyn bugler_gateway::server::Service>, Failed> {
    let orgs = [OrganizationId(101)];
    let document = br#"{"organizations":[{"id":101,"name":"Acme"}]}"#;
    if role == "disk" {
        let store: Arc<dyn Store> = Arc::new(DiskStore::open(home)?);
        seed(store.as_ref(), document).await?;
        return api(home, store, &orgs);
    }
    let redis = Redis::open(&RedisOptions::single(url.ok_or("no url=")?)).await?;
    let journal = journal_over(redis.clone()).await?;
    let store: Arc<dyn Store> = Arc::new(records(redis, home).await?);
    seed(store.as_ref(), document).await?;
    api_over(home, journal, store, &orgs)
}

async fn records(redis: Redis, home: &Path) -> Result<RedisStore, Failed> {
    let vault = Vault::load_or_create(&home.join("vault.json"))?;
    Ok(RedisStore::open(redis, SHARDS, vault).await?)
}

async fn seed(store: &dyn Store, document: &[u8]) -> Result<(), Failed> {
    let changes = directory::changes(document, store, SystemClock.now()).await?;
    store.apply(changes).await?;
    Ok(())
}

async fn compare_ingest() -> Result<bool, Failed> {
    let mut holds = true;
    let server = server(Persistence::Always)?;
    let disk = Role::start(&[String::from("role=disk")])?;
    let redis = Role::start(&[String::from("role=redis"), format!("url={}", server.url())])?;
    for (name, lines) in [("single", 0), ("bulk of 1000", 1000)] {
        let mode = || match lines {
            0 => Mode::Single(Dialect::Native),
            lines_per_request => Mode::Bulk { lines_per_request },
        };
        let connections = if lines == 0 { CONNECTIONS } else { 4 };
        let (mut rates, mut costs) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
        for _ in 0..ROUNDS {
            for (n, server) in [&disk, &redis].into_iter().enumerate() {
                let (rate, cost) = server.load(mode(), connections, LOADED).await?;
                rates[n].push(rate);
                costs[n].push(cost);
            }
        }
        let (rates, costs) = (rates.map(median), costs.map(median));
        for (what, n) in [("embedded", 0), ("Redis", 1)] {
            let (rate, cost) = (rates[n], costs[n]);
            say(&format!("{name:<13} {what:<9} {rate:>9.0} /s   {cost:>6.2} us gateway CPU each"))?;
        }
        let ratio = costs[1] / costs[0];
        let what = format!("{name}: CPU on Redis / embedded");
        holds &= judge(&what, ratio, &format!("<= {INGEST_RATIO_MAX}"), ratio <= INGEST_RATIO_MAX)?;
    }
    Ok(holds)
}

// --- records --------------------------------------------------------------------------------

/// What a user with one device takes in Redis.
async fn measure_records() -> Result<(), Failed> {
    let server = server(Persistence::EverySecond)?;
    let home = tempfile::tempdir()?;
    let redis = Redis::open(&RedisOptions::single(server.url())).await?;
    redis.settle_layout(SHARDS).await?;
    let store = records(redis, home.path()).await?;
    let users = |first: usize| directory_of((first..first + PEOPLE).map(|n| (n, n % 200 + 101)));
    // The first ones bring what is there once: organizations, sequences, search indexes.
    seed(&store, users(1).as_bytes()).await?;
    let before = Used::of(&server)?;
    seed(&store, users(1 + PEOPLE).as_bytes()).await?;
    let after = Used::of(&server)?;
    let (bytes, cpu) = (after.memory - before.memory, after.cpu.saturating_sub(before.cpu));
    say(&format!(
        "a user with one device: {:.0} bytes of Redis, {:.0} us of its CPU to import",
        each(bytes, PEOPLE),
        micros_each(cpu, PEOPLE),
    ))
}

// --- dispatchers ----------------------------------------------------------------------------

async fn compare_dispatchers() -> Result<bool, Failed> {
    let options = TwinOptions {
        receipts_kept_max: 10_000,
        faults: FaultPlan::parse(LATENCY)?,
        apns_streams: STREAMS,
        ..TwinOptions::default()
    };
    let twins = TwinSet::start(options).await?;
    let files = tempfile::tempdir()?;
    twins.write_credentials(files.path())?;
    let mut runs = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (n, processes) in [1, 2].into_iter().enumerate() {
            runs[n].push(dispatched(&twins, files.path(), processes).await?);
        }
    }
    let of = |runs: &[Dispatched], figure: fn(&Dispatched) -> f64| {
        median(runs.iter().map(figure).collect())
    };
    for (n, what) in ["one dispatcher", "two dispatchers"].into_iter().enumerate() {
        let runs = &runs[n];
        say(&format!(
            "{what:<16} {:>7.0} delivered/s; for each {:.1} us of gateway and {:.1} us of Redis CPU",
            of(runs, |run| run.rate),
            of(runs, |run| run.gateway_us),
            of(runs, |run| run.redis_us),
        ))?;
        say(&format!(
            "{:<16} Redis: {:.0} bytes in and {:.0} out; {:.0} kept while one waits, {:.0} once delivered",
            "",
            of(runs, |run| run.bytes_in),
            of(runs, |run| run.bytes_out),
            of(runs, |run| run.waiting_bytes),
            of(runs, |run| run.done_bytes),
        ))?;
    }
    let ratio = of(&runs[1], |run| run.rate) / of(&runs[0], |run| run.rate);
    let goal = format!(">= {DISPATCH_RATIO_MIN}");
    judge("two dispatchers / one", ratio, &goal, ratio >= DISPATCH_RATIO_MIN)
}

/// What a stretch of delivering came to; all but the rate for each notification.
struct Dispatched {
    rate: f64,
    gateway_us: f64,
    redis_us: f64,
    bytes_in: f64,
    bytes_out: f64,
    waiting_bytes: f64,
    done_bytes: f64,
}

/// What Redis has used so far.
struct Used {
    cpu: Duration,
    memory: f64,
    bytes_in: f64,
    bytes_out: f64,
}

impl Used {
    fn of(server: &Server) -> Result<Self, Failed> {
        let info = server.ask(&["INFO", "everything"])?.text();
        let field = |name: &str| {
            let mut lines = info.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok::<f64, Failed>(found.ok_or_else(|| format!("INFO has no {name}"))?.parse()?)
        };
        let pid = server.pid().ok_or("the server is not there")?;
        Ok(Self {
            cpu: process::sample(pid)?.cpu,
            memory: field("used_memory")?,
            bytes_in: field("total_net_input_bytes")?,
            bytes_out: field("total_net_output_bytes")?,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count shown with three digits")]
fn each(sum: f64, count: usize) -> f64 {
    sum / count as f64
}

/// So many processes at one backlog.
async fn dispatched(twins: &TwinSet, files: &Path, processes: usize) -> Result<Dispatched, Failed> {
    let server = server(Persistence::EverySecond)?;
    let home = tempfile::tempdir()?;
    let redis = Redis::open(&RedisOptions::single(server.url())).await?;
    let journal = journal_over(redis.clone()).await?;
    let users = directory_of((0..ORGANIZATIONS * USERS).map(|n| (user_id(n), organization(n))));
    seed(&records(redis, home.path()).await?, users.as_bytes()).await?;
    let empty = Used::of(&server)?;
    fill(Arc::clone(&journal) as _).await?;
    journal.close().await;
    let full = Used::of(&server)?;
    let waiting_bytes = each(full.memory - empty.memory, BACKLOG);
    twins.clear_receipts();
    let delivered = || {
        let counts = twins.counts();
        let apns = counts.get(&TwinName::Apns);
        apns.map_or(0, |c| usize::try_from(c.succeeded).unwrap_or(usize::MAX))
    };
    let start = |n: usize| {
        let file = home.path().join(format!("gateway-{n}.toml"));
        std::fs::write(&file, config(twins, files, home.path(), &server, n))?;
        Gateway::start(&file)
    };
    let gateways = (0..processes).map(start).collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    while delivered() == 0 {
        if begun.elapsed() > PATIENCE {
            return Err("nothing was delivered".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(WARM_UP).await;
    let busy = || {
        let samples = gateways.iter().map(|gateway| process::sample(gateway.id()));
        samples.map(|sample| Ok(sample?.cpu)).sum::<Result<Duration, Failed>>()
    };
    let (from, before, used, started) = (delivered(), busy()?, Used::of(&server)?, Instant::now());
    tokio::time::sleep(COUNTED).await;
    let (till, elapsed) = (delivered(), started.elapsed());
    let (after, now) = (busy()?, Used::of(&server)?);
    if till >= BACKLOG {
        return Err("the backlog was drained before the time was over".into());
    }
    let count = till - from;
    Ok(Dispatched {
        rate: per_second(count, elapsed),
        gateway_us: micros_each(after.saturating_sub(before), count),
        redis_us: micros_each(now.cpu.saturating_sub(used.cpu), count),
        bytes_in: each(now.bytes_in - used.bytes_in, count),
        bytes_out: each(now.bytes_out - used.bytes_out, count),
        waiting_bytes,
        done_bytes: waiting_bytes + each(now.memory - full.memory, till),
    })
}

fn config(twins: &TwinSet, files: &Path, home: &Path, server: &Server, n: usize) -> String {
    let credentials = twins.credentials();
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nrole = \"dispatch\"\n\
         [store]\nbackend = \"redis\"\ndir = \"{store}\"\nshards = {SHARDS}\n\
         vault_file = \"{home}/vault.json\"\n[store.redis]\nurls = [\"{url}\"]\n\
         [auth]\nkeys_file = \"{home}/keys.json\"\n[observability]\nlog_level = \"warn\"\n\
         [providers.apns.main]\nendpoint = \"{apns}\"\nteam_id = \"{team}\"\n\
         key_id = \"{key}\"\nkey_file = \"{files}/apns.p8\"\ntopic = \"{topic}\"\n\
         ca_file = \"{files}/ca.pem\"\nconnections = 2\n",
        store = home.join(format!("store-{n}")).display(),
        home = home.display(),
        url = server.url(),
        apns = twins.apns_url(),
        team = credentials.apns_team_id,
        key = credentials.apns_key_id,
        files = files.display(),
        topic = credentials.apns_topic,
    )
}

fn user_id(n: usize) -> usize {
    let (org, user) = (n % ORGANIZATIONS, n / ORGANIZATIONS % USERS);
    1_000 * (org + 1) + user
}

fn organization(n: usize) -> usize {
    101 + n % ORGANIZATIONS
}

/// An import document of users, each with one device, in their organizations.
fn directory_of(users: impl Iterator<Item = (usize, usize)>) -> String {
    let mut organizations = BTreeSet::new();
    let users = users.map(|(id, organization)| {
        organizations.insert(organization);
        json!({
            "id": id, "organization": organization, "role": 1, "status": "active",
            "email": format!("user{id}@example.com"), "name": format!("User {id}"),
            "devices": [{"platform": "apns", "app": "main", "token": format!("{id:064x}")}],
        })
    });
    let users: Vec<_> = users.collect();
    let organizations = organizations.into_iter();
    let organizations = organizations.map(|id| json!({"id": id, "name": format!("Org {id}")}));
    json!({"organizations": organizations.collect::<Vec<_>>(), "users": users}).to_string()
}

/// Accepts the backlog with nobody there to deliver it.
async fn fill(journal: Arc<dyn Journal>) -> Result<(), Failed> {
    let intake = Arc::new(Intake::new(journal, Arc::new(SystemClock)));
    let workers = (0..256).map(|worker| {
        let intake = Arc::clone(&intake);
        tokio::spawn(async move {
            for n in (worker..BACKLOG).step_by(256) {
                intake.accept(delivery(&intake, n)?, None).await?;
            }
            Ok::<_, Failed>(())
        })
    });
    let workers: Vec<_> = workers.collect();
    for worker in workers {
        worker.await??;
    }
    Ok(())
}

fn delivery(intake: &Intake, n: usize) -> Result<Notification, Failed> {
    let org = OrganizationId(i32::try_from(organization(n))?);
    let user = UserId(i64::try_from(user_id(n))?);
    let what = ("push.direct", Audience::Users(vec![user]));
    Ok(notification(intake, org, what, "On its way"))
}
