//! Audits of a journal on Redis: by a gateway that works on it, and by whoever has its configuration.

use super::{AppError, build};
use crate::audit::{Report, SharedError, audit_shard};
use crate::config::Config;
use crate::journal::redis::{DumpError, RedisLog};
use crate::model::ShardId;
use crate::redis::Redis;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// Audits what a running process works on, one audit at a time.
pub(super) fn while_running(redis: Redis, shards: u16) -> crate::admin::Audit {
    let is_running = Mutex::new(());
    std::sync::Arc::new(move || {
        let busy = || String::from("an audit is running; ask again when it is done");
        let _only = is_running.try_lock().ok_or_else(busy)?;
        let report = Handle::current().block_on(audited(&redis, shards));
        let report = report.map_err(|error| crate::telemetry::chain(&error))?;
        Ok(report.to_json().to_string())
    })
}

/// Audits the journal on Redis that `config` names, whoever works on it.
///
/// # Errors
/// Redis cannot be read, or it holds no journal.
pub async fn audit_redis(config: &Config) -> Result<Report, AppError> {
    let redis = Redis::open(&build::redis_options(config)?).await?;
    match redis.found().await? {
        Some((_, shards)) => Ok(audited(&redis, shards).await?),
        None => Err(AppError::NoJournal { prefix: config.store.redis.prefix.clone() }),
    }
}

async fn audited(redis: &Redis, shards: u16) -> Result<Report, SharedError> {
    let mut report = Report::default();
    for shard in (0..shards).map(ShardId) {
        let open = async || RedisLog::open(redis, shard).await.map_err(DumpError::from);
        report.join(audit_shard(open).await?);
    }
    Ok(report)
}
