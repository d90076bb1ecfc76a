//! Faults that Redis itself tells of, or that its operator makes: the same for one server and for a
//! cluster.

use std::time::{Duration, Instant};

use super::{Order, Shape, Stage, Trouble};
use crate::redis::Persistence;
use crate::torture::proxy::Way;
use crate::torture::redis::{RedisShape, RedisSite};

/// How soon requests are taken again once Redis is back.
pub(super) const RECOVERY_MAX: Duration = Duration::from_secs(15);
/// How soon a fault shows.
pub(super) const SHOWN_MAX: Duration = Duration::from_secs(10);
pub(super) const POLL: Duration = Duration::from_millis(20);
/// Longest until an outbox has asked about everything once more.
const OUTBOX_MAX: Duration = Duration::from_secs(60);
/// Most that a policy which evicts may go unseen.
const EVICTION_SEEN_MAX: Duration = Duration::from_secs(5);
/// For every log of a shard.
const EACH_LOG: &str = "for _, key in ipairs(redis.call('KEYS', '*}:q')) do ";

pub(super) fn on(shape: Shape, redis: RedisShape) -> Shape {
    // Several tries are on their way to a target at once, and this machine is slow: counted only.
    Shape { redis: Some(redis), ..shape }.order(Order::Unjudged)
}

/// With `always` a server that cannot write ends by itself; this one refuses.
pub(super) fn full_disk(redis: RedisShape) -> RedisShape {
    RedisShape { persistence: Persistence::EverySecond, tmpfs_mib: Some(256), ..redis }
}

/// With its group a shard loses what is claimed, as at a crash: once for each time it is destroyed.
pub(super) fn ungrouped(mut shape: Shape) -> Shape {
    shape.repeats_extra += shape.max_in_flight * shape.times(5, 50);
    shape
}

pub(super) fn site(stage: &mut Stage) -> Result<&mut RedisSite, Trouble> {
    stage.redis.as_mut().ok_or_else(|| Trouble::Setup(String::from("the row has no Redis")))
}

/// Asks every server.
pub(super) fn ask(stage: &mut Stage, parts: &[&str]) -> Result<String, Trouble> {
    stage.note(parts.join(" "));
    Ok(site(stage)?.ask(parts)?.text())
}

/// Asks every server that takes writes, and sums the numbers up.
fn ask_primaries(stage: &mut Stage, parts: &[&str]) -> Result<i64, Trouble> {
    let replies = site(stage)?.ask_primaries(parts)?;
    Ok(replies.iter().map(crate::redis::Reply::number).sum())
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

/// Readiness is off, and says `word`.
pub(super) async fn is_told(stage: &mut Stage, word: &str) {
    let begun = Instant::now();
    let mut said = String::new();
    while !said.contains(word) && begun.elapsed() < SHOWN_MAX {
        tokio::time::sleep(POLL).await;
        let ready = crate::torture::ask::get(stage.gateway.admin, "/readyz", None).await;
        if let Ok((503, body)) = ready {
            said = String::from_utf8_lossy(&body).into_owned();
        }
    }
    stage.expect(said.contains(word), || format!("readiness does not say {word}: {said:?}"));
}

/// Redis has refused by this name.
pub(super) async fn is_named(stage: &mut Stage, name: &str) -> Result<(), Trouble> {
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

/// Ends the load, and waits until nothing is left that Redis may have lost.
pub(super) async fn empty_outbox(stage: &mut Stage) -> Result<(), Trouble> {
    stage.end_traffic().await;
    let begun = Instant::now();
    while begun.elapsed() < OUTBOX_MAX {
        if stage.gateway.metrics().await?.sum("bugler_outbox_entries", "") < 1.0 {
            break;
        }
        tokio::time::sleep(POLL * 10).await;
    }
    let metrics = stage.gateway.metrics().await?;
    let again = metrics.sum("bugler_outbox_repeated_total", "");
    stage.remarks.push(format!("{again} notifications that Redis had lost were added again"));
    stage.expect(again > 0.0, || String::from("Redis had lost nothing, so nothing was shown"));
    let left = metrics.sum("bugler_outbox_entries", "");
    stage.expect(left < 1.0, || format!("{left} entries are left in the outbox"));
    Ok(())
}

pub(super) async fn brace(stage: &mut Stage) -> Result<(), Trouble> {
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

pub(super) async fn fill_memory(stage: &mut Stage) -> Result<(), Trouble> {
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

pub(super) async fn evict(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(300..900).await;
    ask(stage, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])?;
    let begun = Instant::now();
    refuses(stage, "a policy that evicts").await;
    let took = begun.elapsed();
    stage.expect(took < EVICTION_SEEN_MAX, || {
        format!("an evicting policy was found after {} ms", took.as_millis())
    });
    is_told(stage, "noeviction").await;
    refused_start(stage, "", "noeviction").await?;
    ask(stage, &["CONFIG", "SET", "maxmemory-policy", "noeviction"])?;
    recovers(stage, "an evicting policy").await;
    Ok(())
}

/// The disk of Redis: all that is left of it is taken, and given back.
pub(super) async fn fill_disk(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(300..900).await;
    let filler = site(stage)?.place()?.join("filler");
    let io = || Trouble::io("the disk of Redis");
    let mut file = std::fs::File::create(&filler).map_err(io())?;
    let full = std::io::copy(&mut std::io::repeat(0), &mut file);
    stage.note("the disk of Redis is full");
    stage.expect(full.is_err(), || String::from("the disk did not fill"));
    refuses(stage, "a full disk").await;
    is_named(stage, "MISCONF").await?;
    // Whoever has it open keeps its room.
    drop(file);
    std::fs::remove_file(&filler).map_err(io())?;
    stage.note("the disk of Redis has room again");
    recovers(stage, "a full disk").await;
    Ok(())
}

/// More replicas are asked for than there are, then `usual` ones again.
pub(super) async fn want_replicas(stage: &mut Stage, usual: &str) -> Result<(), Trouble> {
    ask(stage, &["CONFIG", "SET", "min-replicas-to-write", "2"])?;
    refuses(stage, "too few replicas").await;
    is_named(stage, "NOREPLICAS").await?;
    ask(stage, &["CONFIG", "SET", "min-replicas-to-write", usual])?;
    recovers(stage, "too few replicas").await;
    Ok(())
}

/// A script that does not end keeps a server busy.
pub(super) async fn keep_busy(stage: &mut Stage) -> Result<(), Trouble> {
    ask(stage, &["CONFIG", "SET", "busy-reply-threshold", "100"])?;
    let endless = site(stage)?.one_primary()?.asking(&["EVAL", "while true do end", "0"]);
    stage.note("a script that does not end");
    refuses(stage, "a busy server").await;
    is_named(stage, "BUSY").await?;
    // Elsewhere there is none to be ended.
    let killed = ask(stage, &["SCRIPT", "KILL"]);
    drop(killed);
    // Its answer is an error, and comes now that it is ended.
    drop(endless.join());
    recovers(stage, "a busy server").await;
    Ok(())
}

/// Nothing is refused that the machine can take.
async fn none_refused(stage: &mut Stage, by: &str) -> Result<(), Trouble> {
    let overload = "reason=\"overload\"";
    // What is refused from here on is among what is counted.
    let (accepted, refused) = stage.progress();
    let metrics = stage.gateway.metrics().await?;
    let shed = metrics.sum("bugler_admission_refused_total", overload);
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let is_shed = refused as f64 <= shed;
    stage.expect(is_shed, || {
        format!("{refused} were refused beside {accepted} {by}, {shed} of them by overload")
    });
    stage.remarks.push(format!("{refused} refused, all for overload of the machine"));
    Ok(())
}

pub(super) async fn forget_scripts(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(40, 1_000) {
        stage.wait(20..120).await;
        ask(stage, &["SCRIPT", "FLUSH"])?;
    }
    none_refused(stage, "while scripts were forgotten").await
}

/// The way to Redis is spoilt for everybody.
pub(super) async fn spoil_ways(stage: &mut Stage) -> Result<(), Trouble> {
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
        // Of a connection that was half open nothing comes any more.
        recovers(stage, what).await;
    }
    Ok(())
}

pub(super) async fn lose_rights(stage: &mut Stage) -> Result<(), Trouble> {
    ask(stage, &["ACL", "SETUSER", "default", "-evalsha", "-eval"])?;
    refuses(stage, "missing rights").await;
    ask(stage, &["ACL", "SETUSER", "default", "+@all"])?;
    recovers(stage, "missing rights").await;
    Ok(())
}

pub(super) async fn destroy_groups(stage: &mut Stage) -> Result<(), Trouble> {
    let destroy = format!(
        "local count = 0 {EACH_LOG} for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do \
         count = count + redis.call('XGROUP', 'DESTROY', key, group[2]) end end return count"
    );
    let mut count = 0;
    for _ in 0..stage.shape.times(5, 50) {
        stage.wait(300..900).await;
        count += ask_primaries(stage, &["EVAL", &destroy, "0"])?;
        stage.note("every group is destroyed");
    }
    stage.remarks.push(format!("{count} groups were destroyed"));
    // Outcomes of what was claimed are counted, and void: as those of a process that was killed.
    stage.is_first_life = false;
    recovers(stage, "the loss of its groups").await;
    Ok(())
}

pub(super) async fn kill_gateways(stage: &mut Stage) -> Result<(), Trouble> {
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
    let mut left = ask_primaries(stage, &["EVAL", &count, "0"])?;
    while left > 0 && begun.elapsed() < RECOVERY_MAX {
        tokio::time::sleep(POLL * 10).await;
        left = ask_primaries(stage, &["EVAL", &count, "0"])?;
    }
    stage.expect(left == 0, || format!("{left} entries are pending for consumers"));
    Ok(())
}

pub(super) async fn poison(stage: &mut Stage) -> Result<(), Trouble> {
    // Beside the last entry, so that the next one still fits behind it.
    let add = format!(
        "local count = 0 {EACH_LOG} \
         local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1] \
         if last then redis.call('XADD', key, string.match(last[1], '^%d+') .. '-1', 'x', 'garbage') \
         count = count + 1 end end return count"
    );
    stage.wait(300..900).await;
    let count = ask_primaries(stage, &["EVAL", &add, "0"])?;
    stage.remarks.push(format!("{count} entries that nobody can read"));
    stage.expect(count > 0, || String::from("there was no log to spoil"));
    recovers(stage, "an unreadable entry").await;
    stage.wait(1_000..2_000).await;
    Ok(())
}

/// The servers say that they are older or newer than they are.
pub(super) async fn change_versions(stage: &mut Stage) -> Result<(), Trouble> {
    for version in ["7.2", "8.0", "8.6"] {
        site(stage)?.way(Way::Version(version));
        stage.note(format_args!("Redis says that it is {version}"));
        // Longer than settings go unread.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    none_refused(stage, "by newer servers").await?;
    site(stage)?.way(Way::Version("6.2"));
    stage.note("Redis says that it is 6.2");
    refuses(stage, "a server that is too old").await;
    is_told(stage, "7.0").await;
    refused_start(stage, "", "7.0").await?;
    site(stage)?.way(Way::Clear);
    recovers(stage, "a server that was too old").await;
    Ok(())
}
