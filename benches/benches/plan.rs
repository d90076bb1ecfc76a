//! A plan for a size: how many Redis nodes, shards and gateways it takes, and how evenly they work.
//!
//! `cargo bench -p bugler-benches --bench plan [-- rate=1000000 devices=1000000000 …]`. Costs of one
//! item are what `--bench scale` measured; the spread is played through with the functions that the
//! gateway itself uses, over many draws of organizations. It prints the tables of docs/scaling.md.

use bugler_benches::{Failed, median};
use bugler_gateway::model::{OrganizationId, ShardId};
use bugler_gateway::redis::owners;
use bugler_gateway::redis::{SLOTS, slot_of};
use std::collections::BTreeMap;
use std::io::Write;

/// What is wanted, and what one item costs.
struct Wanted {
    /// Notifications a second, one delivery each.
    rate: f64,
    devices: f64,
    /// Hours that outcomes stay.
    retention_h: f64,
    /// Seconds of the whole rate that may wait.
    waiting_s: f64,
    /// Memory of one Redis node that may be used, in GiB.
    node_gib: f64,
    /// Share of a node that may be used: the rest is for failover, forks and uneven shards.
    used: f64,
    cores: f64,
    shards: u16,
    organizations: usize,
    /// Exponent of the sizes of organizations: 0 is all alike.
    zipf: f64,
    costs: Costs,
}

/// For one notification unless it says otherwise.
struct Costs {
    redis_us: f64,
    ingest_us: f64,
    dispatch_us: f64,
    waiting_bytes: f64,
    done_bytes: f64,
    device_bytes: f64,
    bytes_in: f64,
    bytes_out: f64,
}

const DRAWS: u64 = 100;
const MOST_NODES: usize = 4_096;

fn main() -> Result<(), Failed> {
    let args: BTreeMap<String, f64> = std::env::args()
        .filter_map(|arg| {
            let (name, value) = arg.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect();
    let value = |name: &str, default: f64| args.get(name).copied().unwrap_or(default);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    let wanted = Wanted {
        rate: value("rate", 1e6),
        devices: value("devices", 1e9),
        retention_h: value("retention_h", 1.0),
        waiting_s: value("waiting_s", 60.0),
        node_gib: value("node_gib", 64.0),
        used: value("used", 0.5),
        cores: value("cores", 16.0),
        shards: value("shards", 256.0) as u16,
        organizations: value("organizations", 100_000.0) as usize,
        zipf: value("zipf", 0.6),
        costs: Costs {
            redis_us: value("redis_us", 20.0),
            ingest_us: value("ingest_us", 20.0),
            dispatch_us: value("dispatch_us", 150.0),
            waiting_bytes: value("waiting_bytes", 900.0),
            done_bytes: value("done_bytes", 1_600.0),
            device_bytes: value("device_bytes", 1_000.0),
            bytes_in: value("bytes_in", 1_500.0),
            bytes_out: value("bytes_out", 1_000.0),
        },
    };
    let plan = sized(&wanted)?;
    spread(&wanted, &plan)
}

fn say(line: &str) -> Result<(), Failed> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

struct Plan {
    primaries: usize,
    dispatchers: usize,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of machines")]
fn whole(count: f64) -> usize {
    count.ceil().max(1.0) as usize
}

/// Nodes by processor, memory and network.
fn sized(wanted: &Wanted) -> Result<Plan, Failed> {
    let costs = &wanted.costs;
    // One core of a node runs the scripts, whatever it has besides.
    let by_cpu = whole(wanted.rate * costs.redis_us / 1e6 / wanted.used);
    let done = wanted.rate * wanted.retention_h * 3_600.0 * costs.done_bytes;
    let waiting = wanted.rate * wanted.waiting_s * costs.waiting_bytes;
    let records = wanted.devices * costs.device_bytes;
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    let memory = done + waiting + records;
    let by_memory = whole(gib(memory) / (wanted.node_gib * wanted.used));
    let primaries = by_cpu.max(by_memory);
    let ingest = whole(wanted.rate * costs.ingest_us / 1e6 / wanted.used / wanted.cores);
    let dispatchers = whole(wanted.rate * costs.dispatch_us / 1e6 / wanted.used / wanted.cores);
    let gbit = |bytes: f64| wanted.rate * bytes * 8.0 / 1e9;
    say("| What | Needs |\n|---|---|")?;
    say(&format!("| Redis primaries by processor | {by_cpu} |"))?;
    say(&format!("| records of {:.0} devices | {:.0} GiB |", wanted.devices, gib(records)))?;
    say(&format!("| {:.0} s of backlog | {:.0} GiB |", wanted.waiting_s, gib(waiting)))?;
    say(&format!("| outcomes of {:.0} h | {:.0} GiB |", wanted.retention_h, gib(done)))?;
    say(&format!("| Redis primaries by memory | {by_memory} of {:.0} GiB |", wanted.node_gib))?;
    say(&format!(
        "| network into Redis, and out | {:.1} and {:.1} Gbit/s, replication besides |",
        gbit(costs.bytes_in),
        gbit(costs.bytes_out)
    ))?;
    say(&format!("| ingest processes of {:.0} cores | {ingest} |", wanted.cores))?;
    say(&format!("| dispatching processes of {:.0} cores | {dispatchers} |", wanted.cores))?;
    say("")?;
    Ok(Plan { primaries: primaries.min(MOST_NODES), dispatchers })
}

/// Loads of shards or nodes.
struct Loads(Vec<f64>);

impl Loads {
    /// The largest against the mean.
    fn unevenness(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of nodes")]
        let count = self.0.len() as f64;
        let sum: f64 = self.0.iter().sum();
        self.0.iter().copied().fold(0.0, f64::max) * count / sum.max(f64::MIN_POSITIVE)
    }
}

/// How unevenly shards, primaries and dispatchers are loaded, and what a failure moves.
fn spread(wanted: &Wanted, plan: &Plan) -> Result<(), Failed> {
    let names: Vec<String> = (0..plan.dispatchers).map(|n| format!("node{n}")).collect();
    let fresh = vec![None; usize::from(wanted.shards)];
    let owners = owners::spread(&names, &fresh);
    let without: Vec<String> = names.iter().skip(1).cloned().collect();
    let after = owners::spread(&without, &owners);
    let first = names.first().map(String::as_str);
    let moved = owners.iter().zip(&after).filter(|(a, b)| a != b).count();
    let lost = owners.iter().filter(|owner| **owner == first).count();
    let (mut shards, mut primaries) = (Vec::new(), Vec::new());
    let (mut dispatchers, mut failed, mut biggest) = (Vec::new(), Vec::new(), Vec::new());
    for draw in 0..DRAWS {
        let loads = by_shard(wanted, draw);
        biggest.push(share_of_biggest(wanted));
        primaries.push(by_primary(&loads, plan.primaries).unevenness());
        dispatchers.push(by_owner(&loads, &owners, &names).unevenness());
        failed.push(by_owner(&loads, &after, &without).unevenness());
        shards.push(loads.unevenness());
    }
    say("| Spread | Largest against mean, median of draws | worst draw |\n|---|---|---|")?;
    let rows = [
        (format!("{} shards", wanted.shards), shards),
        (format!("{} primaries", plan.primaries), primaries),
        (format!("{} dispatchers", plan.dispatchers), dispatchers),
        (String::from("the same after one is gone"), failed),
    ];
    for (what, loads) in rows {
        let worst = loads.iter().copied().fold(0.0, f64::max);
        say(&format!("| {what} | {:.2} | {worst:.2} |", median(loads)))?;
    }
    say("")?;
    say(&format!(
        "A dispatcher that is gone leaves {lost} of {} shards, and {moved} change hands. \
         The largest organization has {:.2} % of the load.",
        wanted.shards,
        median(biggest) * 100.0
    ))
}

/// Weight of the organization at `rank`, of all.
fn weight(wanted: &Wanted, rank: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of organizations")]
    let rank = (rank + 1) as f64;
    rank.powf(-wanted.zipf)
}

fn share_of_biggest(wanted: &Wanted) -> f64 {
    let sum: f64 = (0..wanted.organizations).map(|rank| weight(wanted, rank)).sum();
    weight(wanted, 0) / sum
}

/// Organizations with ids in a row, their sizes in an order that is drawn.
fn by_shard(wanted: &Wanted, draw: u64) -> Loads {
    let mut loads = vec![0.0; usize::from(wanted.shards)];
    let mut ranks: Vec<usize> = (0..wanted.organizations).collect();
    // An xorshift suffices to shuffle, and gives the same tables each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (draw + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
    for last in (1..ranks.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (last as u64 + 1)).unwrap_or(last);
        ranks.swap(last, other);
    }
    for (id, rank) in (1..).zip(ranks) {
        let shard = ShardId::of(OrganizationId(id), wanted.shards);
        loads[usize::from(shard.0)] += weight(wanted, rank);
    }
    Loads(loads)
}

/// Primaries that have the slots of a cluster in equal ranges.
fn by_primary(shards: &Loads, primaries: usize) -> Loads {
    let mut loads = vec![0.0; primaries];
    for (shard, load) in shards.0.iter().enumerate() {
        let slot = slot_of(format!("bugler:{{s{shard:03}}}:").as_bytes());
        loads[usize::from(slot) * primaries / usize::from(SLOTS)] += load;
    }
    Loads(loads)
}

fn by_owner(shards: &Loads, owners: &[Option<&str>], names: &[String]) -> Loads {
    let places: BTreeMap<&str, usize> =
        names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let mut loads = vec![0.0; names.len()];
    for (owner, load) in owners.iter().zip(&shards.0) {
        if let Some(place) = owner.and_then(|owner| places.get(owner)) {
            loads[*place] += load;
        }
    }
    Loads(loads)
}
