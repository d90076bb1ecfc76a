//! The embedded journal under a backlog: recovery after a kill, draining, and memory.
//!
//! `cargo bench -p bugler-benches --bench journal [-- backlog=1000000]`. Every case is a process of
//! its own, so that memory is its own and a kill is a kill.

use bugler_benches::Failed;
use bugler_gateway::clock::{Clock, SystemClock};
use bugler_gateway::journal::disk::{DiskJournal, DiskOptions};
use bugler_gateway::journal::{Append, Claim, Entry, EntryKind, Journal, Settlement, Unlimited};
use bugler_gateway::model::{NotificationId, OrganizationId, ShardId};
use bugler_loadtest::process;
use bytes::Bytes;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAYLOAD: [u8; 400] = [b'x'; 400];
const BATCH: usize = 256;
const ORGS: usize = 50;
const SMALL: usize = 10_000;
const DRAINED: usize = 200_000;

fn main() -> Result<(), Failed> {
    let argument = |name: &str| {
        let found = std::env::args().find_map(|arg| arg.strip_prefix(name).map(str::to_owned));
        found.filter(|found| !found.is_empty())
    };
    let backlog: usize = argument("backlog=").map_or(Ok(1_000_000), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let dir = argument("dir=");
    match (argument("role="), dir) {
        (Some(role), Some(dir)) => runtime.block_on(play(&role, Path::new(&dir), backlog)),
        _ => compare(backlog),
    }
}

fn say(line: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

async fn play(role: &str, dir: &Path, backlog: usize) -> Result<(), Failed> {
    let started = Instant::now();
    let journal = DiskJournal::open(dir, DiskOptions::default(), Arc::new(SystemClock))?;
    let opened = started.elapsed();
    match role {
        "fill" => {
            let started = Instant::now();
            fill(&journal, backlog).await?;
            let rate = backlog as u128 * 1_000 / started.elapsed().as_millis().max(1);
            // Work goes on until the kill.
            let claims = journal.claim(ShardId(0), BATCH, &Unlimited).await?;
            journal.settle(ShardId(0), done(&claims))?.await?;
            say(&format!("done filled at {rate} entries/s"))?;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        "open" => {
            let recovered = journal.recovered();
            let started = Instant::now();
            let first = journal.claim(ShardId(0), BATCH, &Unlimited).await?;
            say(&format!(
                "done opened in {} ms, {} blocks replayed, first {} claims after {} ms",
                opened.as_millis(),
                recovered.replayed_blocks,
                first.len(),
                started.elapsed().as_millis()
            ))?;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        _ => {
            let started = Instant::now();
            // What was settled before the kill is gone.
            let count = drain(&journal, DRAINED.min(backlog - BATCH)).await?;
            let rate = count as u128 * 1_000 / started.elapsed().as_millis().max(1);
            let rss = process::sample(std::process::id())?.rss_bytes >> 20;
            say(&format!("done {rate} entries/s claimed and settled, resident {rss} MiB"))?;
        }
    }
    Ok(())
}

/// Half of the entries are of one organization.
async fn fill(journal: &DiskJournal, count: usize) -> Result<(), Failed> {
    let mut commits = Vec::new();
    for n in 0..count.div_ceil(1_000) {
        let now = SystemClock.now();
        let entries = (0..1_000.min(count)).map(|m| {
            let org = if m % 2 == 0 { 1 } else { 2 + (m / 2 + n) % ORGS };
            Ok(Entry {
                notification: NotificationId(Uuid::now_v7()),
                org: OrganizationId(i32::try_from(org)?),
                kind: EntryKind::Root,
                due: now,
                payload: Bytes::from_static(&PAYLOAD),
            })
        });
        let entries = entries.collect::<Result<Vec<_>, Failed>>()?;
        let shard = ShardId(u16::try_from(n % 8)?);
        commits.push(journal.append(shard, Append { entries, idempotency: Vec::new() })?);
        if commits.len() >= 8 {
            for commit in commits.drain(..) {
                commit.await?;
            }
        }
    }
    for commit in commits {
        commit.await?;
    }
    Ok(())
}

fn done(claims: &[Claim]) -> Vec<Settlement> {
    let done = claims.iter().map(|claim| Settlement {
        claim: claim.id,
        notification: claim.notification,
        org: claim.org,
        resolved: Vec::new(),
        events: Vec::new(),
        follow_ups: Vec::new(),
        dead: Vec::new(),
        done: true,
    });
    done.collect()
}

/// Claims and settles `count` entries, the shards in one commit, as the dispatcher would.
async fn drain(journal: &DiskJournal, count: usize) -> Result<usize, Failed> {
    let mut drained = 0;
    while drained < count {
        let mut commits = Vec::new();
        for shard in (0..8).map(ShardId) {
            if journal.backlog(shard).pending == 0 {
                continue;
            }
            let claims = journal.claim(shard, BATCH, &Unlimited).await?;
            drained += claims.len();
            commits.push(journal.settle(shard, done(&claims))?);
        }
        for commit in commits {
            commit.await?;
        }
    }
    Ok(drained)
}

/// A case in a process of its own.
struct Case {
    child: Child,
    said: String,
}

impl Case {
    /// Runs until the case has said what it has to say.
    fn run(role: &str, dir: &Path, backlog: usize) -> Result<Self, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([format!("role={role}"), format!("dir={}", dir.display())])
            .arg(format!("backlog={backlog}"))
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no standard output")?;
        for line in BufReader::new(out).lines() {
            if let Some(said) = line?.strip_prefix("done ") {
                return Ok(Self { child, said: said.to_owned() });
            }
        }
        Err(format!("the case {role} ended without a word").into())
    }

    fn resident_mib(&self) -> Result<u64, Failed> {
        Ok(process::sample(self.child.id())?.rss_bytes >> 20)
    }

    /// Kills it where it stands.
    fn kill(mut self) -> Result<(), Failed> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        // A case that already ended needs no killing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn compare(backlog: usize) -> Result<(), Failed> {
    for count in [SMALL, backlog] {
        let home = tempfile::tempdir()?;
        let case = Case::run("fill", home.path(), count)?;
        say(&format!("{count:>9} entries: {}, resident {} MiB", case.said, case.resident_mib()?))?;
        case.kill()?;
        for _ in 0..3 {
            let case = Case::run("open", home.path(), count)?;
            let resident = case.resident_mib()?;
            say(&format!("{count:>9} entries, killed: {}, resident {resident} MiB", case.said))?;
            case.kill()?;
        }
        let case = Case::run("drain", home.path(), count)?;
        say(&format!("{count:>9} entries, draining: {}", case.said))?;
    }
    Ok(())
}
