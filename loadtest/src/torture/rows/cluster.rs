//! Faults of a Redis Cluster: primaries lost, demoted, frozen and cut off, slots on the move.

use std::time::{Duration, Instant};

use super::redis::{recovers, refuses, site};
use super::{Order, Row, Shape, Stage, Trouble};
use crate::redis::Cluster;
use crate::torture::redis::RedisShape;

/// A key of the shard that faults are aimed at.
const KEY: &str = "bugler:{s003}:m";
/// How soon a replica takes over: the nodes wait a second for each other.
const FAILOVER_MAX: Duration = Duration::from_secs(30);
const ON_SINGLE: &str = "needs one server: `--backend redis` plays it";

pub(super) const ROWS: &[Row] = &[
    Row::new("F31", "a primary killed; its replica takes over", copied, |stage| {
        Box::pin(lose_primary(stage))
    }),
    Row::lacking("F32", "appendfsync everysec", ON_SINGLE),
    Row::lacking("F33", "power loss under Redis", ON_SINGLE),
    Row::lacking("F34", "a damaged append-only file", ON_SINGLE),
    Row::new(
        "F35",
        "failover after a cut replication link, with copies asked for",
        copied,
        |stage| Box::pin(fail_over_behind(stage)),
    ),
    Row::new("F35a", "the same without: the harness must see the loss", uncopied, |stage| {
        Box::pin(fail_over_behind(stage))
    }),
    Row::new("F36", "planned failovers", copied, |stage| Box::pin(hand_over(stage))),
    Row::new("F37", "a slot moves under load", copied, |stage| Box::pin(move_slot(stage))),
    Row::lacking("F38", "keys of one shard in several slots", ON_SINGLE),
    Row::lacking("F39", "a demoted primary", "F36 demotes one after the other under load"),
    Row::lacking("F40", "out of memory", ON_SINGLE),
    Row::lacking("F41", "a policy that evicts", ON_SINGLE),
    Row::new("F42", "CLUSTERDOWN: a primary and its replica are away", copied, |stage| {
        Box::pin(go_down(stage))
    }),
    Row::new("F43", "SCRIPT FLUSH under load", copied, |stage| Box::pin(forget_scripts(stage))),
    Row::new("F44", "a primary stands still", copied, |stage| Box::pin(freeze(stage))),
    Row::lacking("F45", "resets and half-open ways", ON_SINGLE),
    Row::lacking("F46", "destroyed groups", ON_SINGLE),
    Row::lacking("F47", "a leap of the clock", "no clock of its own: libfaketime is not installed"),
    Row::new("F48", "the gateway killed again and again", copied, |stage| {
        Box::pin(kill_gateways(stage))
    }),
    Row::lacking("F49", "an entry nobody can read", ON_SINGLE),
    Row::lacking("F50", "Redis 7.2 and 8", "only Redis 7.0 is installed"),
];

fn on(shape: Shape, replicas: u32) -> Shape {
    let redis = RedisShape { is_cluster: true, replicas, ..RedisShape::default() };
    let mut shape = Shape { redis: Some(redis), ..shape }.order(Order::Unjudged);
    // Without an answer it is not known what a lost primary settled.
    shape.repeats_extra = shape.max_in_flight * shape.times(4, 60);
    shape
}

fn copied(shape: Shape) -> Shape {
    on(shape, 1)
}

fn uncopied(shape: Shape) -> Shape {
    Shape { loses: true, ..on(shape, 0) }
}

/// The node that has [`KEY`] now.
fn primary(cluster: &Cluster) -> Result<usize, Trouble> {
    tokio::task::block_in_place(|| cluster.primary_of(KEY)).map_err(Trouble::from)
}

fn whole(stage: &mut Stage) -> Result<(), Trouble> {
    let cluster = site(stage)?.cluster()?;
    tokio::task::block_in_place(|| cluster.wait_until_whole()).map_err(Trouble::from)
}

/// Waits until somebody else has [`KEY`].
async fn taken_over(stage: &mut Stage, from: usize) -> Result<usize, Trouble> {
    let begun = Instant::now();
    loop {
        let now = primary(site(stage)?.cluster()?);
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
    tokio::task::block_in_place(|| node.restart())?;
    stage.note(format_args!("node {at} starts again"));
    Ok(())
}

async fn lose_primary(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(2, 40) {
        stage.wait(300..1_200).await;
        let lost = primary(site(stage)?.cluster()?)?;
        node(stage, lost)?.kill();
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
        site(stage)?.cluster()?.nodes().iter().map(crate::redis::Server::port).collect();
    let at = line.and_then(|line| ports.iter().position(|p| line.contains(&format!(":{p}@"))));
    at.ok_or_else(|| Trouble::Setup(String::from("the primary has no replica")))
}

async fn fail_over_behind(stage: &mut Stage) -> Result<(), Trouble> {
    let asks_for_copies = !stage.shape.loses;
    stage.wait(300..1_200).await;
    if !asks_for_copies {
        // What is sent at once is not lost; what waits is.
        stage.providers_up(false);
    }
    let lost = primary(site(stage)?.cluster()?)?;
    let behind = replica_of(stage, lost)?;
    node(stage, behind)?.freeze();
    // What is in the pipe already would arrive.
    ask(stage, lost, &["CLIENT", "KILL", "TYPE", "replica"])?;
    stage.note(format_args!("node {behind}: cut off"));
    // Shorter than the others' patience, so that it may still stand.
    tokio::time::sleep(Duration::from_millis(800)).await;
    node(stage, lost)?.kill();
    stage.note(format_args!("node {lost}: kill -9"));
    node(stage, behind)?.thaw();
    taken_over(stage, lost).await?;
    start(stage, lost)?;
    whole(stage)?;
    if !asks_for_copies {
        stage.providers_up(true);
    }
    recovers(stage, "a failover to a replica that was behind").await;
    Ok(())
}

async fn hand_over(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(3, 60) {
        stage.wait(500..1_200).await;
        let from = primary(site(stage)?.cluster()?)?;
        let to = replica_of(stage, from)?;
        ask(stage, to, &["CLUSTER", "FAILOVER"])?;
        taken_over(stage, from).await?;
        recovers(stage, "a planned failover").await;
    }
    Ok(())
}

async fn move_slot(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(500..1_200).await;
    let from = primary(site(stage)?.cluster()?)?;
    let to = (0..3).find(|node| *node != from).unwrap_or_default();
    let slot = ask(stage, from, &["CLUSTER", "KEYSLOT", KEY])?;
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
        let lost = primary(site(stage)?.cluster()?)?;
        let behind = replica_of(stage, lost)?;
        for at in [behind, lost] {
            node(stage, at)?.kill();
        }
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

async fn forget_scripts(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(20, 500) {
        stage.wait(50..200).await;
        site(stage)?.ask(&["SCRIPT", "FLUSH"])?;
    }
    let (accepted, refused) = stage.progress();
    stage.expect(refused == 0, || format!("{refused} of {accepted} were refused"));
    Ok(())
}

async fn freeze(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(2, 30) {
        stage.wait(500..1_200).await;
        let frozen = primary(site(stage)?.cluster()?)?;
        node(stage, frozen)?.freeze();
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

async fn kill_gateways(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(4, 60) {
        stage.wait(200..1_400).await;
        stage.crash();
        stage.restart().await?;
    }
    stage.wait(300..600).await;
    Ok(())
}
