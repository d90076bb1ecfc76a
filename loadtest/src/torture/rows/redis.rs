//! Faults of one Redis server: killed, without power, damaged, full, refusing, slow and cut off.

use std::time::{Duration, Instant};

use super::{Need, Order, Row, Shape, Stage, Trouble};
use crate::redis::Persistence;
use crate::torture::proxy::Way;
use crate::torture::redis::{RedisShape, RedisSite};

/// How soon requests are taken again once Redis is back.
const RECOVERY_MAX: Duration = Duration::from_secs(15);
/// How soon a fault shows.
const SHOWN_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
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
    Row::new("F42", "MISCONF, NOREPLICAS, BUSY, LOADING", full_disk, |stage| {
        Box::pin(refuse(stage))
    }),
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
    Row::new("F46", "an operator destroys the consumer groups", ungrouped, |stage| {
        Box::pin(destroy_groups(stage))
    }),
    Row::lacking(
        "F47",
        "the clock of Redis leaps",
        "redis-server has no clock of its own here: libfaketime is not installed; leases use no \
         clock of Redis, as the tests of `redis::owners` show",
    ),
    Row::new(
        "F48",
        "the gateway killed again and again: consumers with work left",
        always,
        |stage| Box::pin(kill_gateways(stage)),
    ),
    Row::new("F49", "an entry nobody can read in each log", always, |stage| {
        Box::pin(poison(stage))
    }),
    Row::lacking(
        "F50",
        "Redis 7.2 and 8",
        "only Redis 7.0 is installed; the tests `redis::tests::fake` answer as 6.2, 7.2 and 8.0",
    ),
];

fn on(shape: Shape, redis: RedisShape) -> Shape {
    // Several tries are on their way to a target at once, and this machine is slow: counted only.
    Shape { redis: Some(redis), ..shape }.order(Order::Unjudged)
}

fn always(shape: Shape) -> Shape {
    on(shape, RedisShape::default())
}

fn every_second(shape: Shape) -> Shape {
    let persistence = Persistence::EverySecond;
    on(shape, RedisShape { persistence, ..RedisShape::default() })
}

fn powered(shape: Shape) -> Shape {
    let mib = shape.times(512, 8_192);
    on(shape, RedisShape { ext4_mib: Some(mib), ..RedisShape::default() })
}

/// With its group a shard loses what is claimed, as at a crash.
fn ungrouped(shape: Shape) -> Shape {
    let mut shape = always(shape);
    shape.repeats_extra = shape.max_in_flight * shape.times(5, 50);
    shape
}

/// With `always` a server that cannot write ends by itself; this one refuses.
fn full_disk(shape: Shape) -> Shape {
    let persistence = Persistence::EverySecond;
    on(shape, RedisShape { persistence, tmpfs_mib: Some(256), ..RedisShape::default() })
}

pub(super) fn site(stage: &mut Stage) -> Result<&mut RedisSite, Trouble> {
    stage.redis.as_mut().ok_or_else(|| Trouble::Setup(String::from("the row has no Redis")))
}

fn ask(stage: &mut Stage, parts: &[&str]) -> Result<String, Trouble> {
    stage.note(parts.join(" "));
    Ok(site(stage)?.ask(parts)?.text())
}

/// The load is refused by now.
pub(super) async fn refuses(stage: &mut Stage, what: &str) {
    let (begun, (_, before)) = (Instant::now(), stage.progress());
    while stage.progress().1 <= before && begun.elapsed() < SHOWN_MAX {
        tokio::time::sleep(POLL).await;
    }
    let is_refused = stage.progress().1 > before;
    stage.expect(is_refused, || format!("{what}: nothing was refused"));
}

/// The load is accepted again, without anybody's help.
pub(super) async fn recovers(stage: &mut Stage, what: &str) {
    let (begun, (before, _)) = (Instant::now(), stage.progress());
    while stage.progress().0 <= before + 10 && begun.elapsed() < RECOVERY_MAX {
        tokio::time::sleep(POLL).await;
    }
    let is_back = stage.progress().0 > before + 10;
    let took = begun.elapsed().as_millis();
    stage.note(format_args!("{what} is over: accepted again after {took} ms"));
    stage.expect(is_back, || format!("{what} is over, and nothing is accepted"));
    stage.wait(300..900).await;
}

/// Redis has refused by this name.
async fn is_named(stage: &mut Stage, name: &str) -> Result<(), Trouble> {
    let begun = Instant::now();
    while begun.elapsed() < SHOWN_MAX {
        if stage.gateway.metrics().await?.sum("bugler_redis_errors_total", name) > 0.0 {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    stage.breaches.push(format!("no error was counted as {name}"));
    Ok(())
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
    for _ in 0..stage.shape.times(3, 100) {
        stage.wait(300..1_200).await;
        site(stage)?.cut_power().await?;
        stage.note("Redis: power cut");
        site(stage)?.restart()?;
        recovers(stage, "a power cut").await;
    }
    Ok(())
}

async fn damage(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(500..1_200).await;
    site(stage)?.kill()?;
    let folder = site(stage)?.server()?.dir().join("appendonlydir");
    let io = || Trouble::io("the append-only file");
    let files = std::fs::read_dir(folder).map_err(io())?.filter_map(Result::ok);
    let log = files.map(|file| file.path()).find(|path| path.to_string_lossy().contains("incr"));
    let Some(log) = log else {
        return Err(Trouble::Setup(String::from("Redis has no append-only file")));
    };
    let whole = std::fs::read(&log).map_err(io())?;
    // The write that the power cut short.
    let torn = [&whole[..], b"*3\r\n$3\r\nSET\r\n$9\r\nbugler:"].concat();
    std::fs::write(&log, torn).map_err(io())?;
    stage.note("append-only file: torn at its end");
    site(stage)?.restart()?;
    recovers(stage, "a torn file").await;
    site(stage)?.kill()?;
    let whole = std::fs::read(&log).map_err(io())?;
    let mut damaged = whole.clone();
    // Where a command begins: a flipped byte of a value no Redis would notice.
    let (_, after) = damaged.split_at_mut(whole.len() / 2);
    if let Some(at) = after.windows(3).position(|bytes| bytes == b"\r\n*") {
        after.iter_mut().skip(at).take(16).for_each(|byte| *byte = b'#');
    }
    std::fs::write(&log, damaged).map_err(io())?;
    stage.note("append-only file: damaged in its middle");
    let is_up = site(stage)?.comes_up()?;
    stage.expect(!is_up, || String::from("Redis took a damaged file"));
    refuses(stage, "a Redis that will not start").await;
    let begun = Instant::now();
    let mut said = String::new();
    while !said.contains("redis") && begun.elapsed() < SHOWN_MAX {
        tokio::time::sleep(POLL).await;
        let ready = crate::torture::ask::get(stage.gateway.admin, "/readyz", None).await;
        if let Ok((503, body)) = ready {
            said = String::from_utf8_lossy(&body).into_owned();
        }
    }
    stage.expect(said.contains("redis"), || format!("readiness does not name Redis: {said:?}"));
    std::fs::write(&log, whole).map_err(io())?;
    stage.note("append-only file: put back");
    site(stage)?.restart()?;
    recovers(stage, "a damaged file").await;
    Ok(())
}

async fn brace(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(300..600).await;
    refused_start(stage, "store.redis.prefix=my{tag}", "brace").await
}

/// A second process with this setting ends at its start with code 3, and says why.
async fn refused_start(stage: &mut Stage, setting: &str, why: &str) -> Result<(), Trouble> {
    let mut second = stage.launch.clone();
    (second.api, second.admin) = crate::torture::gateway::free_ports()?;
    second.store = stage.dir.join("second");
    second.directory = None;
    if !setting.is_empty() {
        second.settings.push(setting.to_owned());
    }
    match second.attempt().await? {
        Ok(_) => stage.breaches.push(format!("a process started with {setting:?}")),
        Err(ended) => {
            let is_told = ended.code == Some(3) && ended.stderr.contains(why);
            stage.expect(is_told, || {
                format!("a refused start ended with {:?}: {}", ended.code, ended.last_words())
            });
            stage.note("a start was refused");
        }
    }
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

async fn fill_memory(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(500..1_200).await;
    ask(stage, &["CONFIG", "SET", "maxmemory", "1"])?;
    refuses(stage, "a full memory").await;
    is_named(stage, "OOM").await?;
    // Longer than a lease: who holds what is still agreed on, and all of it is sent.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let drained = stage.drained(Duration::from_secs(15)).await?;
    stage.expect(drained.is_some(), || String::from("what was accepted waits for memory"));
    ask(stage, &["CONFIG", "SET", "maxmemory", "0"])?;
    recovers(stage, "a full memory").await;
    Ok(())
}

async fn evict(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(300..900).await;
    ask(stage, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])?;
    let begun = Instant::now();
    refuses(stage, "a policy that evicts").await;
    let took = begun.elapsed();
    stage.expect(took < Duration::from_secs(5), || {
        format!("an evicting policy was found after {} ms", took.as_millis())
    });
    refused_start(stage, "", "noeviction").await?;
    ask(stage, &["CONFIG", "SET", "maxmemory-policy", "noeviction"])?;
    recovers(stage, "an evicting policy").await;
    Ok(())
}

async fn refuse(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(300..900).await;
    // The disk of Redis: all that is left of it is taken.
    let filler = site(stage)?.server()?.dir().join("filler");
    let io = || Trouble::io("the disk of Redis");
    let mut file = std::fs::File::create(&filler).map_err(io())?;
    let full = std::io::copy(&mut std::io::repeat(0), &mut file);
    stage.note("the disk of Redis is full");
    stage.expect(full.is_err(), || String::from("the disk did not fill"));
    refuses(stage, "a full disk").await;
    is_named(stage, "MISCONF").await?;
    std::fs::remove_file(&filler).map_err(io())?;
    recovers(stage, "a full disk").await;

    ask(stage, &["CONFIG", "SET", "min-replicas-to-write", "1"])?;
    refuses(stage, "too few replicas").await;
    is_named(stage, "NOREPLICAS").await?;
    ask(stage, &["CONFIG", "SET", "min-replicas-to-write", "0"])?;
    recovers(stage, "too few replicas").await;

    ask(stage, &["CONFIG", "SET", "busy-reply-threshold", "100"])?;
    let endless = site(stage)?.server()?.asking(&["EVAL", "while true do end", "0"]);
    stage.note("a script that does not end");
    refuses(stage, "a busy server").await;
    is_named(stage, "BUSY").await?;
    ask(stage, &["SCRIPT", "KILL"])?;
    // Its answer is an error, and comes now that it is ended.
    drop(endless.join());
    recovers(stage, "a busy server").await;

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

async fn forget_scripts(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(40, 1_000) {
        stage.wait(20..120).await;
        ask(stage, &["SCRIPT", "FLUSH"])?;
    }
    let (accepted, refused) = stage.progress();
    stage.expect(refused == 0, || format!("{refused} of {accepted} were refused"));
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
    let pieces = usize::try_from(stage.draw(200..40_000)).unwrap_or(1_000);
    let ways = [
        ("a reset", Way::Reset, 1_500),
        ("connections that are cut", Way::CutAfter(pieces), 2_500),
        ("a slow way", Way::Delay(Duration::from_millis(30)), 2_000),
        ("a half-open way", Way::HalfOpen, 4_000),
    ];
    for (what, way, ms) in ways {
        stage.wait(300..900).await;
        site(stage)?.way(way);
        stage.note(format_args!("{way:?}"));
        tokio::time::sleep(Duration::from_millis(ms)).await;
        site(stage)?.way(Way::Clear);
        recovers(stage, what).await;
    }
    ask(stage, &["CONFIG", "SET", "maxclients", "1"])?;
    ask(stage, &["CLIENT", "KILL", "TYPE", "normal"]).ok();
    refuses(stage, "no room for clients").await;
    // The gateway has the one place there is.
    site(stage)?.way(Way::Reset);
    let begun = Instant::now();
    while ask(stage, &["CONFIG", "SET", "maxclients", "500"]).is_err() {
        if begun.elapsed() > SHOWN_MAX {
            return Err(Trouble::Setup(String::from("Redis cannot be asked any more")));
        }
        tokio::time::sleep(POLL).await;
    }
    site(stage)?.way(Way::Clear);
    recovers(stage, "the lack of room for clients").await;
    ask(stage, &["ACL", "SETUSER", "default", "-evalsha", "-eval"])?;
    refuses(stage, "missing rights").await;
    ask(stage, &["ACL", "SETUSER", "default", "+@all"])?;
    recovers(stage, "missing rights").await;
    Ok(())
}

/// For every log of a shard.
const EACH_LOG: &str = "for _, key in ipairs(redis.call('KEYS', '*}:q')) do ";

async fn destroy_groups(stage: &mut Stage) -> Result<(), Trouble> {
    let destroy = format!(
        "{EACH_LOG} for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do \
         redis.call('XGROUP', 'DESTROY', key, group[2]) end end"
    );
    for _ in 0..stage.shape.times(5, 50) {
        stage.wait(300..900).await;
        ask(stage, &["EVAL", &destroy, "0"])?;
    }
    recovers(stage, "the loss of its groups").await;
    Ok(())
}

async fn kill_gateways(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(6, 100) {
        stage.wait(200..1_400).await;
        stage.crash();
        stage.restart().await?;
    }
    stage.wait(300..600).await;
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    let count = format!(
        "local left = 0 {EACH_LOG} for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do \
         left = left + redis.call('XPENDING', key, group[2])[1] end end return left"
    );
    let begun = Instant::now();
    let mut left = ask(stage, &["EVAL", &count, "0"])?;
    while left != "0" && begun.elapsed() < RECOVERY_MAX {
        tokio::time::sleep(POLL * 10).await;
        left = site(stage)?.ask(&["EVAL", &count, "0"])?.text();
    }
    stage.expect(left == "0", || format!("{left} entries are pending for consumers"));
    Ok(())
}

async fn poison(stage: &mut Stage) -> Result<(), Trouble> {
    // Beside the last entry, so that the next one still fits behind it.
    let add = format!(
        "{EACH_LOG} local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1] \
         if last then redis.call('XADD', key, string.match(last[1], '^%d+') .. '-1', 'x', 'garbage') \
         end end"
    );
    stage.wait(300..900).await;
    ask(stage, &["EVAL", &add, "0"])?;
    recovers(stage, "an unreadable entry").await;
    stage.wait(1_000..2_000).await;
    Ok(())
}
