//! Faults of one Redis server: killed, without power, damaged, slow and cut off.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::leaps::leap;
use super::refusals::{
    POLL, SHOWN_MAX, ask, brace, change_versions, destroy_groups, empty_outbox, evict, fill_disk,
    fill_memory, forget_scripts, full_disk, is_named, is_told, keep_busy, kill_gateways,
    lose_rights, on, poison, recovers, refuses, site, spoil_ways, ungrouped, want_replicas,
};
use super::{Need, Row, Shape, Stage, Trouble};
use crate::redis::{Persistence, Server};
use crate::torture::books::Gap;
use crate::torture::proxy::Way;
use crate::torture::redis::RedisShape;

/// The window that class D1 states.
const LATE_MS: u64 = 2_000;
/// Until the client has noted an answer.
pub(super) const ANSWERED_MS: u64 = 200;
/// Where a script's writes begin in an append-only file.
const BEGIN: &[u8] = b"*1\r\n$5\r\nMULTI";
/// Hooks that were down are probed after 5 s, 10 s and 20 s, give or take half.
const HOOKS_MAX: Duration = Duration::from_secs(90);
const ON_CLUSTER: &str = "needs several servers: `--backend cluster` plays it";

pub(super) const ROWS: &[Row] = &[
    Row::new("F31", "Redis killed and started again, appendfsync always", always, |stage| {
        Box::pin(kill(stage))
    }),
    Row::new("F32", "the same with appendfsync everysec, class D1", every_second, |stage| {
        Box::pin(kill(stage))
    }),
    Row::new("F33", "power loss under Redis, appendfsync always", powered, |stage| {
        Box::pin(cut_power(stage))
    })
    .needs(&[Need::Loops]),
    Row::new("F33a", "the same with everysec, class D1: at most 2 s are lost", late, |stage| {
        Box::pin(cut_power(stage))
    })
    .needs(&[Need::Loops]),
    Row::new("F33b", "the same with an outbox, class D3: nothing is", late_and_kept, |stage| {
        Box::pin(cut_power(stage))
    })
    .needs(&[Need::Loops]),
    Row::new(
        "F34",
        "append-only file torn at its end, then damaged in its middle",
        always,
        |stage| Box::pin(damage(stage)),
    ),
    Row::lacking("F35", "failover after a cut replication link", ON_CLUSTER),
    Row::lacking("F36", "planned failover", ON_CLUSTER),
    Row::lacking("F37", "slots on the move", ON_CLUSTER),
    Row::new("F38", "keys of one shard in several slots", always, |stage| Box::pin(brace(stage))),
    Row::new("F39", "the server turns into a replica for a while", always, |stage| {
        Box::pin(demote(stage))
    }),
    Row::new("F40", "out of memory", always, |stage| Box::pin(fill_memory(stage))),
    Row::new("F41", "a policy that evicts, while it runs and at a start", always, |stage| {
        Box::pin(evict(stage))
    }),
    Row::new("F42", "MISCONF by a full disk, NOREPLICAS, BUSY, LOADING", filled, |stage| {
        Box::pin(refuse(stage))
    })
    .needs(&[Need::Root]),
    Row::new("F43", "SCRIPT FLUSH under load", always, |stage| Box::pin(forget_scripts(stage))),
    Row::new("F44", "slow: CLIENT PAUSE, DEBUG SLEEP, SIGSTOP", always, |stage| {
        Box::pin(slow_down(stage))
    }),
    Row::new(
        "F45",
        "the way to Redis: reset, cut, delayed, half open; no clients, no rights",
        always,
        |stage| Box::pin(partition(stage)),
    ),
    Row::new("F46", "an operator destroys the consumer groups", ungrouped_single, |stage| {
        Box::pin(destroy_groups(stage))
    }),
    Row::new("F47", "the clock of Redis leaps an hour back and forward", clocked, |stage| {
        Box::pin(leap(stage))
    })
    .needs(&[Need::Compiler]),
    Row::new(
        "F48",
        "the gateway killed again and again: consumers with work left",
        always,
        |stage| Box::pin(kill_gateways(stage)),
    ),
    Row::new("F49", "an entry nobody can read in each log", always, |stage| {
        Box::pin(poison(stage))
    }),
    Row::new("F50", "the server says that it is 7.2, 8.0, 8.6 or 6.2", always, |stage| {
        Box::pin(change_versions(stage))
    }),
];

fn always(shape: Shape) -> Shape {
    on(shape, RedisShape::default())
}

fn clocked(shape: Shape) -> Shape {
    on(shape, RedisShape { has_clock: true, ..RedisShape::default() })
}

fn every_second(shape: Shape) -> Shape {
    let persistence = Persistence::EverySecond;
    on(shape, RedisShape { persistence, ..RedisShape::default() })
}

fn powered(shape: Shape) -> Shape {
    let mib = shape.times(512, 8_192);
    on(shape, RedisShape { ext4_mib: Some(mib), ..RedisShape::default() })
}

fn late(shape: Shape) -> Shape {
    let shape = powered(shape);
    let redis = shape.redis.clone().unwrap_or_default();
    let drain_goal = shape.drain_goal.max(HOOKS_MAX);
    let shape = Shape { drain_goal, ..shape };
    on(shape, RedisShape { persistence: Persistence::EverySecond, ..redis })
}

fn late_and_kept(shape: Shape) -> Shape {
    let shape = late(shape);
    let redis = shape.redis.clone().unwrap_or_default();
    on(shape, RedisShape { has_outbox: true, ..redis })
}

fn ungrouped_single(shape: Shape) -> Shape {
    ungrouped(always(shape))
}

fn filled(shape: Shape) -> Shape {
    on(shape, full_disk(RedisShape::default()))
}

async fn kill(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(3, 100) {
        stage.wait(300..1_200).await;
        site(stage)?.kill()?;
        stage.note("Redis: kill -9");
        refuses(stage, "a killed Redis").await;
        stage.wait(100..1_500).await;
        site(stage)?.restart()?;
        recovers(stage, "a killed Redis").await;
    }
    Ok(())
}

async fn cut_power(stage: &mut Stage) -> Result<(), Trouble> {
    let redis = stage.shape.redis.clone().unwrap_or_default();
    let is_late = redis.persistence == Persistence::EverySecond;
    // Hooks that were down twice are tried again after minutes.
    let cuts = if is_late { 1 } else { stage.shape.times(3, 100) };
    for _ in 0..cuts {
        stage.wait(300..1_200).await;
        if is_late {
            // What is sent at once is not lost; what waits is.
            stage.providers_up(false);
            stage.wait(2_000..2_500).await;
        }
        let cut_at = Stage::now_ms();
        site(stage)?.cut_power().await?;
        stage.note("Redis: power cut");
        if is_late {
            let loses = !redis.has_outbox;
            stage.gap(Gap {
                from_ms: cut_at - LATE_MS,
                to_ms: Stage::now_ms() + ANSWERED_MS,
                loses,
            });
        }
        site(stage)?.restart()?;
        if is_late {
            stage.providers_up(true);
        }
        recovers(stage, "a power cut").await;
    }
    if redis.has_outbox {
        empty_outbox(stage).await?;
    }
    Ok(())
}

/// What a server appends to.
pub(super) fn append_only_file(server: &Server) -> Result<PathBuf, Trouble> {
    let folder = std::fs::read_dir(server.dir().join("appendonlydir"));
    let files = folder.map_err(Trouble::io("the append-only file"))?.filter_map(Result::ok);
    let mut files = files.map(|file| file.path());
    let log = files.find(|path| path.to_string_lossy().contains("incr"));
    log.ok_or_else(|| Trouble::Setup(String::from("Redis has no append-only file")))
}

/// Spoils the place in the middle where a transaction begins: a flipped byte of a value no Redis
/// would notice. Answers what was there.
pub(super) fn damage_middle(log: &Path) -> Result<Vec<u8>, Trouble> {
    let io = || Trouble::io("the append-only file");
    let whole = std::fs::read(log).map_err(io())?;
    let mut damaged = whole.clone();
    let (_, after) = damaged.split_at_mut(whole.len() / 2);
    if let Some(at) = after.windows(BEGIN.len()).position(|bytes| bytes == BEGIN) {
        after.iter_mut().skip(at).take(16).for_each(|byte| *byte = b'#');
    }
    std::fs::write(log, damaged).map_err(io())?;
    Ok(whole)
}

async fn damage(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(500..1_200).await;
    site(stage)?.kill()?;
    let log = append_only_file(site(stage)?.server()?)?;
    let io = || Trouble::io("the append-only file");
    let whole = std::fs::read(&log).map_err(io())?;
    // The write that the power cut short.
    let torn = [&whole[..], b"*3\r\n$3\r\nSET\r\n$9\r\nbugler:"].concat();
    std::fs::write(&log, torn).map_err(io())?;
    stage.note("append-only file: torn at its end");
    site(stage)?.restart()?;
    recovers(stage, "a torn file").await;
    site(stage)?.kill()?;
    let whole = damage_middle(&log)?;
    stage.note("append-only file: damaged in its middle");
    let is_up = site(stage)?.comes_up()?;
    stage.expect(!is_up, || String::from("Redis took a damaged file"));
    refuses(stage, "a Redis that will not start").await;
    is_told(stage, "redis").await;
    std::fs::write(&log, whole).map_err(io())?;
    stage.note("append-only file: put back");
    site(stage)?.restart()?;
    recovers(stage, "a damaged file").await;
    Ok(())
}

async fn demote(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(2, 30) {
        stage.wait(300..1_200).await;
        ask(stage, &["REPLICAOF", "127.0.0.1", "1"])?;
        refuses(stage, "a replica").await;
        is_named(stage, "READONLY").await?;
        stage.wait(100..1_000).await;
        ask(stage, &["REPLICAOF", "NO", "ONE"])?;
        recovers(stage, "the time as a replica").await;
    }
    Ok(())
}

async fn refuse(stage: &mut Stage) -> Result<(), Trouble> {
    fill_disk(stage).await?;
    want_replicas(stage, "0").await?;
    keep_busy(stage).await?;
    site(stage)?.kill()?;
    site(stage)?.server()?.configure(&["key-load-delay 200"]);
    stage.note("Redis: kill -9, and loads slowly");
    site(stage)?.restart()?;
    recovers(stage, "loading").await;
    let metrics = stage.gateway.metrics().await?;
    let loading = metrics.sum("bugler_redis_errors_total", "LOADING");
    stage.remarks.push(format!("{loading} requests met LOADING"));
    Ok(())
}

async fn slow_down(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(1, 20) {
        stage.wait(300..900).await;
        ask(stage, &["CLIENT", "PAUSE", "4000"])?;
        refuses(stage, "paused clients").await;
        recovers(stage, "a pause of clients").await;
        ask(stage, &["DEBUG", "SLEEP", "3"])?;
        recovers(stage, "a sleep").await;
        site(stage)?.server()?.freeze();
        stage.note("Redis: SIGSTOP");
        refuses(stage, "a stopped server").await;
        // Longer than a lease.
        tokio::time::sleep(Duration::from_secs(stage.shape.times(3, 20))).await;
        site(stage)?.server()?.thaw();
        recovers(stage, "a stopped server").await;
    }
    Ok(())
}

async fn partition(stage: &mut Stage) -> Result<(), Trouble> {
    spoil_ways(stage).await?;
    // One place is left, and the gateway takes it: it has to go before it can be given more.
    for (places, what) in [("1", "one client at most"), ("500", "room for clients")] {
        site(stage)?.way(Way::Reset);
        let begun = Instant::now();
        while site(stage)?.ask(&["CONFIG", "SET", "maxclients", places]).is_err() {
            if begun.elapsed() > SHOWN_MAX {
                return Err(Trouble::Setup(String::from("Redis cannot be asked any more")));
            }
            tokio::time::sleep(POLL).await;
        }
        site(stage)?.way(Way::Clear);
        stage.note(what);
        if places == "1" {
            refuses(stage, "no room for clients").await;
        }
    }
    recovers(stage, "the lack of room for clients").await;
    lose_rights(stage).await
}
