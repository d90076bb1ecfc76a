//! Whether Redis is reachable and still set as it must be: asked twice a second.

use super::call::{Call, Script};
use super::class::{Class, Demand, Facts, Proof};
use super::error::RedisError;
use super::link::{Link, Task, text_of};
use super::node::{Kind, Node};
use crate::telemetry::metrics;
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{Pipeline, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

const EVERY: Duration = Duration::from_millis(500);
/// Settings are read at every so many looks: a change is seen within five seconds.
const SETTINGS_EVERY: u32 = 4;
/// So long a silence is no trouble yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Commands that everything here is made of; those of a family with their second word.
const NEEDED: [&str; 46] = [
    "APPEND",
    "DEL",
    "EVAL",
    "EVALSHA",
    "EXISTS",
    "GET",
    "GETRANGE",
    "HDEL",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HINCRBY",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HSET",
    "HVALS",
    "INCR",
    "INFO",
    "PEXPIRE",
    "SADD",
    "SCAN",
    "SET",
    "SMEMBERS",
    "TIME",
    "XACK",
    "XADD",
    "XCLAIM",
    "XDEL",
    "XGROUP CREATE",
    "XGROUP DESTROY",
    "XGROUP SETID",
    "XPENDING",
    "XRANGE",
    "XREADGROUP",
    "ZADD",
    "ZCARD",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZREM",
    "ZREMRANGEBYLEX",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    "ZREVRANGEBYLEX",
    "ZSCORE",
];
const NEEDED_SINGLE: [&str; 1] = ["PING"];
const NEEDED_CLUSTER: [&str; 3] = ["ASKING", "CLUSTER INFO", "CLUSTER NODES"];
/// Answers the commands that are missing or forbidden.
static ALLOWED: Script = Script::reading(
    "local missing = {}
     for _, name in ipairs(ARGV) do
       local words = {}
       for word in string.gmatch(name, '%S+') do words[#words + 1] = word end
       words[#words + 1] = KEYS[1]
       local is_there, is_allowed = pcall(redis.acl_check_cmd, unpack(words))
       if not (is_there and is_allowed == true) then missing[#missing + 1] = name end
     end
     return missing",
);

/// What is known of the servers now.
#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    class: Class,
    /// By the name of the node: what one needs, another may not have.
    proofs: BTreeMap<String, Proof>,
    /// Whenever some slots were seen to be served, the last time.
    seen: Instant,
    /// Since when no slots are served, and why.
    away: Option<(Instant, String)>,
    /// Why some are not.
    missing: Option<String>,
    /// A setting that must not be as it is.
    bad: Option<String>,
    /// The number of shards that the data was found to be laid out for.
    shards: Option<u16>,
    /// Run id and replication id of each primary.
    history: BTreeMap<String, (String, String)>,
}

impl Health {
    pub(super) fn new() -> Self {
        let state = State {
            class: Class::D0,
            proofs: BTreeMap::new(),
            seen: Instant::now(),
            away: None,
            missing: None,
            bad: None,
            shards: None,
            history: BTreeMap::new(),
        };
        Self { state: Mutex::new(state) }
    }

    pub(super) fn class(&self) -> Class {
        self.state.lock().class
    }

    /// What a write on `node` is followed by. A node whose settings were not read yet is asked for
    /// the most that any other is.
    pub(super) fn proof(&self, node: &str) -> Proof {
        let state = self.state.lock();
        let known = state.proofs.get(node).or_else(|| state.proofs.values().max());
        known.copied().unwrap_or_default()
    }

    /// The commands that prove writes.
    fn proofs(&self) -> Vec<&'static str> {
        let state = self.state.lock();
        state.proofs.values().filter_map(|proof| proof.command()).collect()
    }

    /// Why nothing is to be accepted now: no slot is served for a while, or a setting is not as it
    /// must be.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state.lock();
        let away = state.away.as_ref().filter(|(since, _)| since.elapsed() > PATIENCE);
        away.map(|(_, what)| what.clone()).or_else(|| state.bad.clone())
    }

    pub(super) fn expect_layout(&self, shards: u16) {
        self.state.lock().shards = Some(shards);
    }

    fn set(&self, class: Class, proofs: BTreeMap<String, Proof>) {
        let mut state = self.state.lock();
        if state.class != class {
            tracing::info!(class = class.as_str(), before = state.class.as_str(), "durability");
        }
        (state.class, state.proofs) = (class, proofs);
    }

    fn note(&self, looked: Looked) {
        let mut state = self.state.lock();
        metrics::redis_reachable(looked.missing.is_none());
        match (&state.missing, &looked.missing) {
            (None, Some(what)) => tracing::warn!(%what, "redis is not there as a whole"),
            (Some(_), None) => tracing::info!("redis is there as a whole"),
            _ => {}
        }
        if looked.is_anybody_there {
            (state.seen, state.away) = (Instant::now(), None);
        } else {
            let since = state.away.take().map_or(state.seen, |(since, _)| since);
            state.away = looked.missing.clone().map(|what| (since, what));
        }
        state.missing = looked.missing;
    }

    fn note_history(&self, facts: &[Facts]) {
        let mut state = self.state.lock();
        for facts in facts {
            let now = (facts.run_id.clone(), facts.replication_id.clone());
            let before = state.history.insert(facts.node.clone(), now.clone());
            if before.is_some_and(|before| before != now) {
                tracing::warn!(node = facts.node, "redis was restarted or replaced");
            }
        }
    }
}

impl Link {
    /// Reads every primary's settings and takes their weakest class.
    pub(super) async fn check_settings(&self) -> Result<(), RedisError> {
        let demand = Demand { replicas: self.options.replicas, at_least: self.options.require };
        let nodes = self.primaries();
        let facts = join_all(nodes.iter().map(facts)).await;
        let facts = facts.into_iter().collect::<Result<Vec<_>, _>>()?;
        let (mut weakest, mut proofs) = (None::<Class>, BTreeMap::new());
        for facts in &facts {
            let (class, proof) = facts.judge(demand)?;
            weakest = Some(weakest.map_or(class, |weakest| weakest.min(class)));
            proofs.insert(facts.node.clone(), proof);
        }
        self.health.note_history(&facts);
        if let Some(class) = weakest {
            self.health.set(class, proofs);
        }
        Ok(())
    }

    /// Asks whether every needed command is there and allowed.
    pub(super) async fn check_commands(&self, key: Vec<u8>) -> Result<(), RedisError> {
        let call = Call::new(&ALLOWED).key(key);
        let more: &[&str] = if self.options.is_cluster { &NEEDED_CLUSTER } else { &NEEDED_SINGLE };
        let proofs = self.health.proofs();
        let needed = NEEDED.iter().chain(more).copied().chain(proofs);
        let call = needed.fold(call, |call, name| call.arg(name.as_bytes()));
        let reply = self.execute(vec![Task::call(call)]).await.pop();
        let reply = reply.unwrap_or_else(|| Err(RedisError::unexpected("no reply")));
        let reply = reply.map_err(|error| match error {
            RedisError::Refused { code, what } if code == "NOPERM" => RedisError::Settings {
                what: format!(
                    "redis does not let this user run scripts on keys that begin with {:?}: allow \
                     both in its ACL ({what})",
                    self.options.prefix
                ),
            },
            other => other,
        });
        match reply? {
            Value::Array(missing) if missing.is_empty() => Ok(()),
            Value::Array(missing) => {
                let names: Vec<_> = missing.iter().map(text_of).collect();
                let what = format!(
                    "redis does not let this user use {}: allow these commands in its ACL, and do \
                     not rename them",
                    names.join(", ")
                );
                Err(RedisError::Settings { what })
            }
            _ => Err(RedisError::unexpected("allowed commands")),
        }
    }

    /// Asks each primary, on every kind of connection, whether it serves what it has.
    async fn look(&self) -> Looked {
        let mut ask = Pipeline::new();
        if self.options.is_cluster {
            ask.cmd("CLUSTER").arg("INFO");
        } else {
            ask.cmd("PING");
        }
        let nodes = self.primaries();
        let looks = nodes.iter().map(|node| async {
            let kinds = [Kind::Read, Kind::Write];
            let asked = kinds.map(|kind| node.send(kind, &ask, Duration::ZERO));
            join_all(asked).await.into_iter().try_for_each(|reply| match reply {
                Ok(replies) => serves(replies.first(), &node.name),
                Err(error) => Err(error.to_string()),
            })
        });
        let mut looked = Looked { is_anybody_there: false, missing: None };
        if nodes.is_empty() || !self.is_whole() {
            looked.missing = Some(String::from("no node is known to serve some slots"));
        }
        for look in join_all(looks).await {
            match look {
                Ok(()) => looked.is_anybody_there = true,
                Err(what) => looked.missing = Some(what),
            }
        }
        looked
    }
}

/// What one look came to.
struct Looked {
    /// Some slots are served.
    is_anybody_there: bool,
    /// Why not all are.
    missing: Option<String>,
}

/// A node may answer and serve nothing.
fn serves(reply: Option<&Value>, node: &str) -> Result<(), String> {
    match reply {
        Some(Value::ServerError(error)) => Err(RedisError::of_reply(error).to_string()),
        Some(reply) if text_of(reply).contains("cluster_state:fail") => {
            Err(format!("redis at {node} serves nothing: its cluster is down"))
        }
        _ => Ok(()),
    }
}

/// Watches until the link is dropped.
pub(super) async fn watch(link: Weak<Link>) {
    let mut looks = 0_u32;
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(link) = link.upgrade() else { return };
        let looked = link.look().await;
        let is_whole = looked.missing.is_none();
        link.health.note(looked);
        if !is_whole {
            link.refresh().await;
            // Whoever comes back may have come back with other settings.
            looks = SETTINGS_EVERY;
            continue;
        }
        looks += 1;
        if looks >= SETTINGS_EVERY {
            looks = 0;
            link.look_at_settings().await;
        }
    }
}

impl Link {
    async fn look_at_settings(&self) {
        let shards = self.health.state.lock().shards;
        let layout = async {
            match shards {
                Some(shards) => self.check_layout(shards).await,
                None => Ok(()),
            }
        };
        let checked = match layout.await {
            Ok(()) => self.check_settings().await,
            Err(error) => Err(error),
        };
        match checked {
            Ok(()) => self.health.state.lock().bad = None,
            Err(error @ RedisError::Settings { .. }) => {
                let what = error.to_string();
                let mut state = self.health.state.lock();
                if state.bad.as_ref() != Some(&what) {
                    tracing::error!(%what, "redis was set to what must not be");
                }
                state.bad = Some(what);
            }
            Err(error) => tracing::debug!(%error, "the settings of redis could not be read"),
        }
    }
}

async fn facts(node: &Arc<Node>) -> Result<Facts, RedisError> {
    let mut ask = Pipeline::new();
    for section in ["server", "replication", "persistence", "memory"] {
        ask.cmd("INFO").arg(section);
    }
    for name in ["appendfsync", "maxmemory-policy", "min-replicas-to-write"] {
        ask.cmd("CONFIG").arg("GET").arg(name);
    }
    let replies = node.send(Kind::Read, &ask, Duration::ZERO).await?;
    let (info, config) = replies.split_at(replies.len().min(4));
    if let Some(Value::ServerError(error)) = info.first() {
        return Err(RedisError::of_reply(error));
    }
    let info: String = info.iter().map(|section| text_of(section) + "\n").collect();
    let pairs: Vec<_> = config.iter().filter_map(pair).collect();
    // Managed services forbid CONFIG: INFO says most of it.
    let config = (pairs.len() == config.len()).then_some(pairs.as_slice());
    Ok(Facts::read(&node.name, &info, config))
}

/// A list of texts; nothing counts as empty.
pub(super) fn text_fields(reply: &Value) -> Option<Vec<String>> {
    match reply {
        Value::Array(fields) => Some(fields.iter().map(text_of).collect()),
        _ => None,
    }
}

fn pair(reply: &Value) -> Option<(String, String)> {
    match reply {
        Value::Array(pair) => match pair.as_slice() {
            [key, value] => Some((text_of(key), text_of(value))),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Adds the commands that sources below `dir` name, tests left out.
    fn used_in(dir: &Path, used: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("tests") {
                used_in(&path, used);
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            for start in ["call('", ".cmd(\"", "redis::cmd(\""] {
                for rest in text.split(start).skip(1) {
                    let name = rest.split(['\'', '"']).next().unwrap_or_default();
                    let second = rest.trim_start_matches(name).get(..11).unwrap_or_default();
                    let second =
                        ["CREATE", "DESTROY", "SETID"].iter().find(|word| second.contains(*word));
                    used.insert(match second {
                        Some(second) => format!("{name} {second}"),
                        None => name.to_owned(),
                    });
                }
            }
        }
    }

    #[test]
    fn the_needed_commands_are_those_that_are_used() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut used = BTreeSet::new();
        for part in ["redis", "store/redis", "journal/redis"] {
            used_in(&sources.join(part), &mut used);
        }
        // Named elsewhere: as a second word, by their verb, or only where they are there.
        for name in ["CLUSTER", "CONFIG"] {
            assert!(used.remove(name), "{name}");
        }
        used.extend(["CLUSTER INFO", "CLUSTER NODES", "EVAL", "EVALSHA"].map(String::from));
        let needed = NEEDED.iter().chain(&NEEDED_SINGLE).chain(&NEEDED_CLUSTER);
        assert_eq!(needed.map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), used);
    }
}
