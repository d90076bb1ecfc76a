//! Marks on the data of a prefix, and what moving it needs: is anything there, who works on it.

use super::Redis;
use super::call::{Call, Script};
use super::error::RedisError;
use super::link::Task;
use super::node::Kind;
use redis::{Pipeline, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// A live node beats at least this often.
const BEAT: Duration = Duration::from_millis(1_200);
/// Keys that are removed at once.
const AT_ONCE: usize = 1_000;

static MARK: Script = Script::freeing(
    "redis.call('HSET', KEYS[1], 'format', ARGV[1], 'shards', ARGV[2])
     if ARGV[3] == '' then return redis.call('HDEL', KEYS[1], 'to') end
     return redis.call('HSET', KEYS[1], 'to', ARGV[3])",
);
static STATE: Script =
    Script::reading("return redis.call('HMGET', KEYS[1], 'format', 'shards', 'to')");

/// What the data of a prefix is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Gateways work on it.
    Ready,
    /// It is read out: nobody changes it.
    Held,
    /// It is elsewhere now.
    Moved(String),
    /// It is being built.
    Unfinished,
}

pub(super) const HELD: &str = "held";
pub(super) const MOVED: &str = "moved";
pub(super) const UNFINISHED: &str = "unfinished";

impl Redis {
    /// What is there, and with how many shards; `None` if nothing is.
    ///
    /// # Errors
    /// Redis cannot be read, or the data is of another release.
    pub async fn found(&self) -> Result<Option<(Mark, u16)>, RedisError> {
        let reply = self.run(&STATE, &[&self.link.layout_key()], &[]).await?;
        let Value::Array(fields) = reply else { return Err(RedisError::unexpected("a layout")) };
        let fields: Vec<_> = fields.iter().map(super::link::text_of).collect();
        let [format, shards, to] = fields.as_slice() else {
            return Err(RedisError::unexpected("a layout"));
        };
        let mark = match format.as_str() {
            "" => return Ok(None),
            HELD => Mark::Held,
            MOVED => Mark::Moved(to.clone()),
            UNFINISHED => Mark::Unfinished,
            format if format == super::layout::FORMAT.to_string() => Mark::Ready,
            format => {
                let what =
                    format!("redis holds data of format {format}: use the release that wrote it");
                return Err(RedisError::Settings { what });
            }
        };
        Ok(Some((mark, shards.parse().unwrap_or(0))))
    }

    /// Marks the data. Gateways that run see it within five seconds.
    ///
    /// # Errors
    /// Redis cannot be written.
    pub async fn mark(&self, mark: &Mark, shards: u16) -> Result<(), RedisError> {
        let ready = super::layout::FORMAT.to_string();
        let (format, to) = match mark {
            Mark::Ready => (ready.as_str(), ""),
            Mark::Held => (HELD, ""),
            Mark::Moved(to) => (MOVED, if to.is_empty() { "another store" } else { to.as_str() }),
            Mark::Unfinished => (UNFINISHED, ""),
        };
        let call = Call::new(&MARK).key(self.link.layout_key());
        let call = call.arg(format.to_owned()).number(shards.into()).arg(to.to_owned());
        let mut replies = self.run_all(vec![call]).await;
        replies.pop().unwrap_or_else(|| Err(RedisError::unexpected("no reply"))).map(drop)
    }

    /// The processes that beat: they work on shards.
    ///
    /// # Errors
    /// Redis cannot be read.
    pub async fn beating(&self) -> Result<Vec<String>, RedisError> {
        let before = self.beats().await?;
        if before.is_empty() {
            return Ok(Vec::new());
        }
        tokio::time::sleep(BEAT).await;
        let now = self.beats().await?;
        let moved = now.into_iter().filter(|(node, said)| before.get(node) != Some(said));
        Ok(moved.map(|(node, _)| node).collect())
    }

    async fn beats(&self) -> Result<BTreeMap<String, String>, RedisError> {
        let key = self.tagged("nodes", "beats");
        let mut all = redis::cmd("HGETALL");
        all.arg(&key);
        let Value::Array(fields) = self.query(&key, all).await? else { return Ok(BTreeMap::new()) };
        let pairs = fields.chunks_exact(2).filter_map(|pair| match pair {
            [node, said] => Some((super::link::text_of(node), super::link::text_of(said))),
            _ => None,
        });
        Ok(pairs.collect())
    }

    /// True if no key begins with the prefix.
    ///
    /// # Errors
    /// Redis cannot be read.
    pub async fn is_empty(&self) -> Result<bool, RedisError> {
        let mut is_empty = true;
        self.scan(|found| {
            is_empty &= found.is_empty();
            is_empty
        })
        .await?;
        Ok(is_empty)
    }

    /// Removes every key that begins with the prefix.
    ///
    /// # Errors
    /// Redis cannot be written.
    pub async fn wipe(&self) -> Result<(), RedisError> {
        let mut keys = Vec::new();
        self.scan(|found| {
            keys.extend(found);
            true
        })
        .await?;
        for some in keys.chunks(AT_ONCE) {
            let tasks = some.iter().map(|key| {
                let mut del = redis::cmd("DEL");
                del.arg(key.as_slice());
                Task::command(super::slots::slot_of(key), del)
            });
            for removed in self.link.execute(tasks.collect()).await {
                removed?;
            }
        }
        Ok(())
    }

    /// Visits the keys that begin with the prefix, on every primary, until `visit` answers false.
    async fn scan(&self, mut visit: impl FnMut(Vec<Vec<u8>>) -> bool) -> Result<(), RedisError> {
        let mut pattern = String::new();
        for character in self.link.options.prefix.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '^' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push('*');
        for node in self.link.primaries() {
            let mut cursor = String::from("0");
            loop {
                let mut scan = Pipeline::new();
                let command = scan.cmd("SCAN").arg(&cursor).arg("MATCH").arg(&pattern);
                command.arg("COUNT").arg(AT_ONCE);
                let replies = node.send(Kind::Read, &scan, Duration::ZERO).await?;
                let Some(Value::Array(parts)) = replies.into_iter().next() else {
                    return Err(RedisError::unexpected("a scan"));
                };
                let mut parts = parts.into_iter();
                cursor = parts.next().as_ref().map(super::link::text_of).unwrap_or_default();
                let keys = match parts.next() {
                    Some(Value::Array(keys)) => keys,
                    _ => Vec::new(),
                };
                let keys = keys.into_iter().filter_map(|key| match key {
                    Value::BulkString(key) => Some(key),
                    _ => None,
                });
                if !visit(keys.collect()) {
                    return Ok(());
                }
                if cursor == "0" || cursor.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }
}
