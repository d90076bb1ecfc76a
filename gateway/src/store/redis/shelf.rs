//! Documents that all nodes share beside the records: one that is exchanged by revision, and contents.

use bytes::Bytes;
use redis::Value;

use crate::redis::{Call, Redis, RedisError, Script};

static EXCHANGE: Script = Script::new(include_str!("lua/exchange.lua"));
static KEEP: Script = Script::new(include_str!("lua/keep.lua"));
static LOOK: Script = Script::reading(include_str!("lua/look.lua"));

/// A shelf under one name.
#[derive(Clone, Debug)]
pub struct RedisShelf {
    redis: Redis,
    name: &'static str,
}

impl RedisShelf {
    #[must_use]
    pub fn new(redis: Redis, name: &'static str) -> Self {
        Self { redis, name }
    }

    /// The document; `None` before the first.
    ///
    /// # Errors
    /// Redis cannot be asked.
    pub async fn read(&self) -> Result<Option<Vec<u8>>, RedisError> {
        self.look("document").await
    }

    /// Puts `after` in the place of the document with the revision `before`; false if it has another.
    /// Each exchange raises the revision by one.
    ///
    /// # Errors
    /// Redis cannot be asked; after one that is unknown it may have been done.
    pub async fn exchange(&self, before: u64, after: String) -> Result<bool, RedisError> {
        let call = Call::new(&EXCHANGE)
            .key(self.redis.tagged(self.name, "document"))
            .key(self.redis.tagged(self.name, "revision"))
            .number(before)
            .arg(after);
        Ok(matches!(self.run(call).await?, Value::Int(1)))
    }

    /// The content under `name`.
    ///
    /// # Errors
    /// Redis cannot be asked.
    pub async fn look(&self, name: &str) -> Result<Option<Vec<u8>>, RedisError> {
        let call = Call::new(&LOOK).key(self.redis.tagged(self.name, name));
        match self.run(call).await? {
            Value::BulkString(bytes) => Ok(Some(bytes)),
            _ => Ok(None),
        }
    }

    /// Keeps `content` under `name`.
    ///
    /// # Errors
    /// Redis cannot be asked.
    pub async fn keep(&self, name: &str, content: Vec<u8>) -> Result<(), RedisError> {
        let content = Bytes::from(content);
        let call = Call::new(&KEEP).key(self.redis.tagged(self.name, name)).arg(content);
        self.run(call).await.map(drop)
    }

    async fn run(&self, call: Call) -> Result<Value, RedisError> {
        let mut results = self.redis.run_all(vec![call]).await;
        results.pop().unwrap_or_else(|| Err(RedisError::unexpected("no reply")))
    }
}
