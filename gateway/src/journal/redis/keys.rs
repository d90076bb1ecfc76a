//! Idempotency keys of requests that are being answered: one request at a time, on whichever node.

use super::core::Core;
use crate::journal::Remembered;
use crate::model::{Millis, ShardId};
use crate::redis::{Call, RedisError, Script};
use redis::{Pipeline, Value};

/// A key is free again after this long though nobody let it go: its node died.
const KEPT_MS: u64 = 30_000;

static LET_GO: Script = Script::freeing(
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
     return redis.call('DEL', KEYS[1])",
);

impl Core {
    /// Keeps `key` for this node's request; `None` while another node's has it. A key that is
    /// remembered is told in any case.
    pub(super) async fn keep_key(
        &self,
        shard: ShardId,
        key: [u8; 16],
        now: Millis,
    ) -> Result<Option<Remembered>, RedisError> {
        let name = self.kept_name(shard, key);
        let mut pipe = Pipeline::new();
        let keep = pipe.cmd("SET").arg(&name).arg(&self.writer).arg("NX").arg("GET");
        keep.arg("PX").arg(KEPT_MS);
        let replies = self.redis.pipe(&name, pipe).await?;
        // This node lets in one request for a key: its own mark is left from one without an answer.
        let is_kept = match replies.first() {
            Some(Value::BulkString(writer)) => writer.as_slice() == self.writer.as_bytes(),
            reply => reply == Some(&Value::Nil),
        };
        // Asked second: whoever had the key until just now has stored its answer by now.
        match self.remembered_at(shard, key, now).await? {
            Remembered::No if !is_kept => Ok(None),
            known => Ok(Some(known)),
        }
    }

    pub(super) async fn let_go(&self, shard: ShardId, key: [u8; 16]) {
        let call = Call::new(&LET_GO).key(self.kept_name(shard, key));
        let answers = self.redis.run_all(vec![call.arg(self.writer.clone())]).await;
        if let Some(Err(error)) = answers.first() {
            tracing::debug!(%error, "an idempotency key is free a little later");
        }
    }

    fn kept_name(&self, shard: ShardId, key: [u8; 16]) -> Vec<u8> {
        [self.redis.key(shard, "h:").as_slice(), &key].concat()
    }
}
