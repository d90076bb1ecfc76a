//! Faults of a Redis Cluster: primaries lost, demoted, frozen and cut off, slots on the move.

use std::time::{Duration, Instant};

use super::leaps::leap;
use super::redis::ANSWERED_MS;
use super::refusals::{
    ask as ask_all, brace, change_versions, destroy_groups, empty_outbox, evict, fill_disk,
    fill_memory, forget_scripts, full_disk, keep_busy, kill_gateways, lose_rights, on, poison,
    recovers, refuses, site, spoil_ways, ungrouped, want_replicas,
};
use super::{Need, Row, Shape, Stage, Trouble};
use crate::redis::{Cluster, Persistence};
use crate::torture::books::Gap;
use crate::torture::redis::{FLOOR, RedisShape};

/// Shards of a run.
const SHARDS: u16 = 16;
/// How soon a replica takes over: the nodes wait a second for each other.
const FAILOVER_MAX: Duration = Duration::from_secs(30);
/// What was in the pipe when a replica was cut off may not have been read.
const PIPE_MS: u64 = 100;

pub(super) const ROWS: &[Row] = &[
    Row::new("F31", "a primary killed; its replica takes over", copied, |stage| {
        Box::pin(lose_primary(stage))
    }),
    Row::new("F32", "all nodes killed at once, appendfsync everysec", every_second, |stage| {
        Box::pin(lose_all(stage))
    }),
    Row::new("F33", "power loss under all nodes, appendfsync always", powered, |stage| {
        Box::pin(cut_power(stage))
    })
    .needs(&[Need::Loops]),
    Row::new("F34", "a primary's append-only file damaged; its replica goes on", copied, |stage| {
        Box::pin(damage(stage))
    }),
    Row::new(
        "F35",
        "failover after a cut replication link, with copies asked for",
        copied,
        |stage| Box::pin(fail_over_behind(stage)),
    ),
    Row::new(
        "F35a",
        "the same without copies, the gateway killed with it: exactly the tail is lost",
        uncopied,
        |stage| Box::pin(fail_over_behind(stage)),
    ),
    Row::new("F35b", "the same with an outbox: nothing is lost", kept, |stage| {
        Box::pin(fail_over_behind(stage))
    }),
    Row::new("F36", "planned failovers", copied, |stage| {
        Box::pin(hand_over(stage, &["CLUSTER", "FAILOVER"]))
    }),
    Row::new("F37", "a slot moves under load", copied, |stage| Box::pin(move_slot(stage))),
    Row::new("F38", "keys of one shard in several slots", copied, |stage| Box::pin(brace(stage))),
    Row::new("F39", "a primary that does not know yet that it is none", copied, |stage| {
        Box::pin(hand_over(stage, &["CLUSTER", "FAILOVER", "TAKEOVER"]))
    }),
    Row::new("F40", "out of memory", copied, |stage| Box::pin(fill_memory(stage))),
    Row::new("F41", "a policy that evicts, while it runs and at a start", copied, |stage| {
        Box::pin(evict(stage))
    }),
    Row::new("F42", "MISCONF by a full disk, NOREPLICAS, BUSY, CLUSTERDOWN", filled, |stage| {
        Box::pin(refuse(stage))
    })
    .needs(&[Need::Root]),
    Row::new("F43", "SCRIPT FLUSH under load", copied, |stage| Box::pin(forget_scripts(stage))),
    Row::new("F44", "slow: CLIENT PAUSE, DEBUG SLEEP, SIGSTOP", copied, |stage| {
        Box::pin(slow_down(stage))
    }),
    Row::new(
        "F45",
        "the ways to all nodes and between them: reset, cut, delayed, half open; no rights",
        proxied,
        |stage| Box::pin(partition(stage)),
    ),
    Row::new("F46", "an operator destroys the consumer groups", ungrouped_cluster, |stage| {
        Box::pin(destroy_groups(stage))
    }),
    Row::new("F47", "the clocks of all nodes leap an hour back and forward", clocked, |stage| {
        Box::pin(leap(stage))
    })
    .needs(&[Need::Compiler]),
    Row::new("F48", "the gateway killed again and again", copied, |stage| {
        Box::pin(kill_gateways(stage))
    }),
    Row::new("F49", "an entry nobody can read in each log", copied, |stage| {
        Box::pin(poison(stage))
    }),
    Row::new("F50", "the nodes say that they are 7.2, 8.0, 8.6 or 6.2", proxied, |stage| {
        Box::pin(change_versions(stage))
    }),
];

fn of(shape: Shape, redis: RedisShape) -> Shape {
    on(shape, RedisShape { is_cluster: true, ..redis })
}

fn with_copies() -> RedisShape {
    RedisShape { replicas: 1, lines: vec![FLOOR.to_owned()], ..RedisShape::default() }
}

fn copied(shape: Shape) -> Shape {
    of(shape, with_copies())
}

fn clocked(shape: Shape) -> Shape {
    of(shape, RedisShape { has_clock: true, ..with_copies() })
}

fn uncopied(shape: Shape) -> Shape {
    Shape { loses: true, ..of(shape, RedisShape::default()) }
}

fn kept(shape: Shape) -> Shape {
    of(shape, RedisShape { has_outbox: true, ..RedisShape::default() })
}

fn every_second(shape: Shape) -> Shape {
    of(shape, RedisShape { persistence: Persistence::EverySecond, ..with_copies() })
}

fn powered(shape: Shape) -> Shape {
    let mib = shape.times(1_024, 16_384);
    of(shape, RedisShape { ext4_mib: Some(mib), ..with_copies() })
}

fn filled(shape: Shape) -> Shape {
    of(shape, full_disk(with_copies()))
}

fn ungrouped_cluster(shape: Shape) -> Shape {
    ungrouped(copied(shape))
}

/// Replicas that hear nothing any more are to notice it soon.
fn proxied(shape: Shape) -> Shape {
    let lines = vec![FLOOR.to_owned(), String::from("repl-timeout 5")];
    of(shape, RedisShape { is_proxied: true, lines, ..with_copies() })
}

/// A key of the shard with the most blocks: what strikes its node strikes somebody.
fn busiest(cluster: &Cluster) -> Result<String, Trouble> {
    let mut found = (0, String::new());
    for shard in 0..SHARDS {
        let key = format!("bugler:{{s{shard:03}}}:m");
        let node = cluster.nodes().get(cluster.primary_of(&key)?);
        let reply = node.map(|node| node.ask(&["HGET", &key, "pos"])).transpose()?;
        let blocks = reply.map_or(0, |reply| reply.number());
        if blocks >= found.0 {
            found = (blocks, key);
        }
    }
    Ok(found.1)
}

/// The node that has the key faults are aimed at.
fn primary(stage: &mut Stage) -> Result<usize, Trouble> {
    let known = stage.aim.clone();
    let cluster = site(stage)?.cluster()?;
    let (key, node) = tokio::task::block_in_place(|| {
        let key = if known.is_empty() { busiest(cluster)? } else { known };
        let node = cluster.primary_of(&key)?;
        Ok::<_, Trouble>((key, node))
    })?;
    stage.aim = key;
    Ok(node)
}

fn whole(stage: &mut Stage) -> Result<(), Trouble> {
    let cluster = site(stage)?.cluster()?;
    tokio::task::block_in_place(|| cluster.wait_until_whole()).map_err(Trouble::from)
}

/// Waits until somebody else has what faults are aimed at.
async fn taken_over(stage: &mut Stage, from: usize) -> Result<usize, Trouble> {
    let begun = Instant::now();
    loop {
        let now = primary(stage);
        match now {
            Ok(now) if now != from => {
                let took = begun.elapsed().as_millis();
                stage.note(format_args!("node {now} took over after {took} ms"));
                return Ok(now);
            }
            _ if begun.elapsed() > FAILOVER_MAX => {
                return Err(Trouble::Setup(String::from("no replica took over")));
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn node(stage: &mut Stage, at: usize) -> Result<&mut crate::redis::Server, Trouble> {
    let gone = || Trouble::Setup(format!("the cluster has no node {at}"));
    site(stage)?.cluster()?.nodes_mut().get_mut(at).ok_or_else(gone)
}

fn ask(stage: &mut Stage, at: usize, parts: &[&str]) -> Result<String, Trouble> {
    stage.note(format_args!("node {at}: {}", parts.join(" ")));
    let node = node(stage, at)?;
    let reply = tokio::task::block_in_place(|| node.ask(parts))?;
    Ok(reply.text())
}

fn start(stage: &mut Stage, at: usize) -> Result<(), Trouble> {
    let node = node(stage, at)?;
    tokio::task::block_in_place(|| node.restart_mended())?;
    stage.note(format_args!("node {at} starts again"));
    Ok(())
}

/// A primary goes without a word: what of its answers was on the way is not known, as in a crash.
fn goes_silently(stage: &mut Stage) {
    stage.shape.repeats_extra += stage.shape.max_in_flight;
}

async fn lose_primary(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(2, 40) {
        stage.wait(300..1_200).await;
        let lost = primary(stage)?;
        node(stage, lost)?.kill();
        goes_silently(stage);
        stage.note(format_args!("node {lost}: kill -9"));
        taken_over(stage, lost).await?;
        start(stage, lost)?;
        whole(stage)?;
        recovers(stage, "the loss of a primary").await;
    }
    Ok(())
}

/// The replica of the node at `at`, as it stands in the cluster now.
fn replica_of(stage: &mut Stage, at: usize) -> Result<usize, Trouble> {
    let id = ask(stage, at, &["CLUSTER", "MYID"])?;
    let nodes = ask(stage, at, &["CLUSTER", "NODES"])?;
    let line = nodes.lines().find(|line| line.contains("slave") && line.contains(&id));
    let ports: Vec<u16> =
        site(stage)?.cluster()?.nodes().iter().map(crate::redis::Server::known_port).collect();
    let at = line.and_then(|line| ports.iter().position(|p| line.contains(&format!(":{p}@"))));
    at.ok_or_else(|| Trouble::Setup(String::from("the primary has no replica")))
}

async fn lose_all(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(2, 40) {
        stage.wait(300..1_200).await;
        site(stage)?.kill_all();
        goes_silently(stage);
        stage.note("all nodes: kill -9");
        refuses(stage, "a cluster that is gone").await;
        stage.wait(100..1_500).await;
        site(stage)?.restart_all()?;
        recovers(stage, "the loss of all nodes").await;
    }
    Ok(())
}

async fn cut_power(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(2, 60) {
        // Who is whose replica is on the disk when somebody says so, data when it is answered.
        site(stage)?.sync().await?;
        stage.wait(300..1_200).await;
        site(stage)?.cut_power().await?;
        goes_silently(stage);
        stage.note("all nodes: power cut");
        site(stage)?.restart_all()?;
        recovers(stage, "a power cut").await;
    }
    Ok(())
}

async fn damage(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(500..1_200).await;
    let lost = primary(stage)?;
    node(stage, lost)?.kill();
    goes_silently(stage);
    let log = super::redis::append_only_file(node(stage, lost)?)?;
    let intact = super::redis::damage_middle(&log)?;
    stage.note(format_args!("node {lost}: kill -9, and its append-only file damaged"));
    let started = {
        let node = node(stage, lost)?;
        tokio::task::block_in_place(|| node.restart())
    };
    stage.expect(started.is_err(), || String::from("Redis took a damaged file"));
    taken_over(stage, lost).await?;
    // Alone, the new primary has no copies of what it takes.
    std::fs::write(&log, intact).map_err(Trouble::io("the append-only file"))?;
    start(stage, lost)?;
    whole(stage)?;
    recovers(stage, "a damaged file").await;
    Ok(())
}

async fn fail_over_behind(stage: &mut Stage) -> Result<(), Trouble> {
    let redis = stage.shape.redis.clone().unwrap_or_default();
    let asks_for_copies = redis.replicas > 0;
    stage.wait(300..1_200).await;
    if !asks_for_copies {
        // What is sent at once is not lost; what waits is.
        stage.providers_up(false);
    }
    let lost = primary(stage)?;
    let behind = replica_of(stage, lost)?;
    let cut_at = Stage::now_ms();
    node(stage, behind)?.freeze();
    // What is in the pipe already would arrive.
    ask(stage, lost, &["CLIENT", "KILL", "TYPE", "replica"])?;
    stage.note(format_args!("node {behind}: cut off"));
    // Shorter than the others' patience, so that it may still stand.
    tokio::time::sleep(Duration::from_millis(800)).await;
    node(stage, lost)?.kill();
    goes_silently(stage);
    stage.note(format_args!("node {lost}: kill -9"));
    if !asks_for_copies {
        let (from_ms, to_ms) = (cut_at - PIPE_MS, Stage::now_ms() + ANSWERED_MS);
        stage.gap(Gap { from_ms, to_ms, loses: !redis.has_outbox });
        // What it has in memory it would send, lost or not.
        stage.crash();
    }
    node(stage, behind)?.thaw();
    taken_over(stage, lost).await?;
    start(stage, lost)?;
    whole(stage)?;
    if !asks_for_copies {
        stage.restart().await?;
        stage.providers_up(true);
    }
    recovers(stage, "a failover to a replica that was behind").await;
    if redis.has_outbox {
        empty_outbox(stage).await?;
    }
    Ok(())
}

async fn hand_over(stage: &mut Stage, command: &[&str]) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(3, 60) {
        stage.wait(500..1_200).await;
        let from = primary(stage)?;
        let to = replica_of(stage, from)?;
        if command.contains(&"TAKEOVER") {
            goes_silently(stage);
        }
        ask(stage, to, command)?;
        taken_over(stage, from).await?;
        recovers(stage, "a planned failover").await;
    }
    Ok(())
}

async fn move_slot(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(500..1_200).await;
    let from = primary(stage)?;
    let to = (0..3).find(|node| *node != from).unwrap_or_default();
    let key = stage.aim.clone();
    let slot = ask(stage, from, &["CLUSTER", "KEYSLOT", &key])?;
    let ids = [ask(stage, from, &["CLUSTER", "MYID"])?, ask(stage, to, &["CLUSTER", "MYID"])?];
    let [from_id, to_id] = &ids;
    ask(stage, to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", from_id])?;
    ask(stage, from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", to_id])?;
    stage.wait(200..600).await;
    let port = node(stage, to)?.port().to_string();
    // One after the other, as operators do it: some keys are here and some there meanwhile.
    let begun = Instant::now();
    loop {
        let keys = node(stage, from)?;
        let list = ["CLUSTER", "GETKEYSINSLOT", &slot, "1"];
        let found = tokio::task::block_in_place(|| keys.ask(&list))?;
        let crate::redis::Reply::List(found) = found else { break };
        let Some(crate::redis::Reply::Bytes(key)) = found.first() else { break };
        let source = node(stage, from)?;
        let command = [&b"MIGRATE"[..], b"127.0.0.1", port.as_bytes(), key, b"0", b"5000"];
        tokio::task::block_in_place(|| source.ask_bytes(&command))?;
        if begun.elapsed() > FAILOVER_MAX {
            return Err(Trouble::Setup(String::from("the slot fills as fast as it moves")));
        }
    }
    for at in [to, from] {
        ask(stage, at, &["CLUSTER", "SETSLOT", &slot, "NODE", to_id])?;
    }
    recovers(stage, "the move of a slot").await;
    Ok(())
}

async fn go_down(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(1, 20) {
        stage.wait(500..1_200).await;
        let lost = primary(stage)?;
        let behind = replica_of(stage, lost)?;
        for at in [behind, lost] {
            node(stage, at)?.kill();
        }
        goes_silently(stage);
        stage.note(format_args!("nodes {lost} and {behind}: kill -9"));
        refuses(stage, "a cluster that is down").await;
        stage.wait(2_000..4_000).await;
        start(stage, lost)?;
        start(stage, behind)?;
        whole(stage)?;
        recovers(stage, "a cluster that was down").await;
    }
    Ok(())
}

async fn refuse(stage: &mut Stage) -> Result<(), Trouble> {
    fill_disk(stage).await?;
    want_replicas(stage, "1").await?;
    keep_busy(stage).await?;
    go_down(stage).await
}

async fn slow_down(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(300..900).await;
    ask_all(stage, &["CLIENT", "PAUSE", "4000"])?;
    refuses(stage, "paused clients").await;
    recovers(stage, "a pause of clients").await;
    let asleep = primary(stage)?;
    // Its replica may take over meanwhile.
    goes_silently(stage);
    ask(stage, asleep, &["DEBUG", "SLEEP", "3"])?;
    whole(stage)?;
    recovers(stage, "a sleep").await;
    for _ in 0..stage.shape.times(2, 30) {
        stage.wait(500..1_200).await;
        let frozen = primary(stage)?;
        node(stage, frozen)?.freeze();
        goes_silently(stage);
        stage.note(format_args!("node {frozen}: SIGSTOP"));
        // Its replica may take over before anybody is refused.
        stage.wait(2_000..5_000).await;
        node(stage, frozen)?.thaw();
        stage.note(format_args!("node {frozen}: SIGCONT"));
        whole(stage)?;
        recovers(stage, "a primary that stood still").await;
    }
    Ok(())
}

async fn partition(stage: &mut Stage) -> Result<(), Trouble> {
    spoil_ways(stage).await?;
    for _ in 0..stage.shape.times(5, 50) {
        stage.wait(100..400).await;
        // In the middle of what was asked, on whichever connection.
        ask_all(stage, &["CLIENT", "KILL", "TYPE", "normal"])?;
    }
    recovers(stage, "connections that are killed").await;
    lose_rights(stage).await
}
