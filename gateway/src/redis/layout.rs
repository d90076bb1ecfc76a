//! How the keys are laid out: noted in Redis by the first process, and found again by all others.

use super::call::{Call, Script};
use super::error::RedisError;
use super::health::text_fields;
use super::link::{Link, Task};
use super::patience::Patience;
use super::upkeep::{HELD, MOVED, UNFINISHED};

/// Of keys and scripts; a release that lays them out otherwise raises it.
pub(super) const FORMAT: u32 = 1;

static SETTLE: Script = Script::freeing(
    "if redis.call('EXISTS', KEYS[1]) == 0 then
       redis.call('HSET', KEYS[1], 'format', ARGV[1], 'shards', ARGV[2])
     end
     return redis.call('HMGET', KEYS[1], 'format', 'shards', 'to')",
);
static READ: Script =
    Script::reading("return redis.call('HMGET', KEYS[1], 'format', 'shards', 'to')");

impl Link {
    /// Notes the layout where there is none, and refuses another one.
    pub(super) async fn settle_layout(&self, shards: u16) -> Result<(), RedisError> {
        let call = Call::new(&SETTLE).key(self.layout_key());
        let call = call.number(u64::from(FORMAT)).number(u64::from(shards));
        let patience = Patience::begin();
        let found = loop {
            match self.layout(call.clone()).await {
                Ok(found) => break found,
                Err(error) => patience.after(error).await?,
            }
        };
        self.health.expect_layout(shards);
        check(&found, shards)
    }

    /// Looks whether the layout is still there: all of a server's data goes with it.
    pub(super) async fn check_layout(&self, shards: u16) -> Result<(), RedisError> {
        let found = self.layout(Call::new(&READ).key(self.layout_key())).await?;
        if found.iter().all(String::is_empty) {
            let what = "redis has lost its data, what was accepted too: restore a backup, or \
                        restart to begin anew";
            return Err(RedisError::Settings { what: String::from(what) });
        }
        check(&found, shards)
    }

    async fn layout(&self, call: Call) -> Result<Vec<String>, RedisError> {
        let reply = self.execute(vec![Task::call(call)]).await.pop();
        let reply = reply.unwrap_or_else(|| Err(RedisError::unexpected("no reply")))?;
        text_fields(&reply).ok_or(RedisError::unexpected("a layout"))
    }

    pub(super) fn layout_key(&self) -> Vec<u8> {
        format!("{}{{layout}}", self.options.prefix).into_bytes()
    }
}

fn check(found: &[String], shards: u16) -> Result<(), RedisError> {
    let [format, have, to] = found else { return Err(RedisError::unexpected("a layout")) };
    let marked = match format.as_str() {
        HELD => Some(String::from(
            "what redis holds is being moved or backed up; wait, or, if whoever did that is gone, \
             run it again or `bugler store release`",
        )),
        MOVED => Some(format!(
            "what redis holds was moved to {to}: start the gateway on that; `bugler store release` \
             makes it usable again, and then what was pending in it is sent from both"
        )),
        UNFINISHED => Some(String::from(
            "what redis holds is what a move or a restore did not finish: run it again",
        )),
        _ => None,
    };
    if let Some(what) = marked {
        return Err(RedisError::Settings { what });
    }
    if *format != FORMAT.to_string() {
        let what = format!(
            "redis holds data of format {format}, and this release writes format {FORMAT}: start \
             the release that wrote it, or migrate"
        );
        return Err(RedisError::Settings { what });
    }
    if *have != shards.to_string() {
        let what = format!(
            "redis holds {have} shards: set `store.shards = {have}`, or change their number as \
             docs/scaling.md says"
        );
        return Err(RedisError::Settings { what });
    }
    Ok(())
}
