//! The record store on Redis or Redis Cluster: the same rules of changes, made over rows read before.
//!
//! ```text
//!  changes ──► overlay: rules run, what they miss is read, they run again ──► plan by shard
//!                                                                               │
//!        one shard: one script compares, writes and appends  ◄──────────────────┤
//!        several: prepared, decided in one, done in the others (`commit`) ◄─────┘
//! ```
//!
//! Records of an organization lie in its shard and have one version; names lie in a shard by their
//! own hash. Nothing is cached but what is revoked: every read asks Redis, together with what others
//! read of the same shard just then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use self::accounts::told;
use self::group::{Log, Work};
use self::hints::Hints;
use self::ids::Ids;
use self::places::Place;
use self::queue::Queue;
use self::revoked::Revoked;
use self::searches::Searches;
use self::wire::Wire;
use super::changes::Touched;
use super::changes::tables::{Flaw, Table, role_key, subscription_key};
use super::{
    AppendStep, Change, Failing, LogStep, OrganizationRef, RecipientPage, Store, StoreError,
    UserRef, Version,
};
use crate::BoxFuture;
use crate::clock::{Clock, SystemClock};
use crate::model::{
    Audience, ObjectId, Organization, OrganizationId, Role, RoleId, Sealed, Secret, ShardId,
    Subscription, SubscriptionId, User, UserId,
};
use crate::redis::{Redis, RedisError};
use crate::vault::{Owner, Vault};

mod accounts;
mod commit;
mod dump;
mod gather;
mod group;
mod hints;
mod ids;
mod inbox;
mod overlay;
mod packed;
mod places;
mod plan;
mod queue;
mod reads;
mod recipients;
mod revoked;
mod scripts;
mod searches;
mod shelf;
mod wire;

pub use shelf::RedisShelf;

#[cfg(test)]
mod tests;

pub use dump::{RedisRowLoader, RedisRows};

/// Why records on Redis cannot be read or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("records on redis cannot be read or changed")]
    Redis(#[from] RedisError),
    /// Stored bytes are not what was stored.
    #[error("records on redis are damaged ({what}): restore them from a backup")]
    Damaged { what: String },
    /// Others changed the same records all the time.
    #[error("the records change faster than this change can be made; ask again")]
    Busy(#[source] RedisError),
    #[error("the store is closed")]
    Stopped,
    #[error(
        "other processes seal the secrets of these records with other keys: give this one the same \
         vault.json (store.vault_file)"
    )]
    OtherKeys,
}

impl RecordsError {
    /// To be asked again after a while.
    const BUSY: Self = Self::Busy(RedisError::Busy);
}

impl From<Flaw> for RecordsError {
    fn from(flaw: Flaw) -> Self {
        Self::Damaged { what: flaw.to_string() }
    }
}

/// The record store on Redis; many nodes share it.
#[derive(Debug)]
pub struct RedisStore {
    records: Arc<Records>,
    vault: Vault,
}

/// What applies and reads share.
#[derive(Debug)]
struct Records {
    wire: Wire,
    queue: Queue,
    versions: Versions,
    ids: Ids,
    hints: Hints,
    revoked: Revoked,
    searches: Searches,
    handle: tokio::runtime::Handle,
    /// A log outside of Redis failed: what it holds is known only at the next start.
    has_log_failed: AtomicBool,
}

/// Numbers of changes: microseconds by the clock, or one more than the last.
#[derive(Debug, Default)]
struct Versions(AtomicU64);

impl Versions {
    fn next(&self) -> Version {
        let now = SystemClock.now().0.saturating_mul(1_000);
        let next = |last: u64| Some(last.saturating_add(1).max(now));
        let last = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        Version(last.map_or(now, |last| last.saturating_add(1).max(now)))
    }

    /// Later ones are greater.
    fn observe(&self, version: u64) {
        self.0.fetch_max(version, Ordering::SeqCst);
    }
}

impl RedisStore {
    /// Opens the records of an instance with so many shards.
    ///
    /// # Errors
    /// Redis cannot be reached, or holds something else.
    pub async fn open(redis: Redis, shards: u16, vault: Vault) -> Result<Self, RecordsError> {
        agree(&redis, &vault).await?;
        Self::over(Wire::new(redis, shards.max(1)), vault).await
    }

    async fn over(wire: Wire, vault: Vault) -> Result<Self, RecordsError> {
        let records = Arc::new(Records {
            wire,
            queue: Queue::default(),
            versions: Versions::default(),
            ids: Ids::default(),
            hints: Hints::default(),
            revoked: Revoked::default(),
            searches: Searches::default(),
            handle: tokio::runtime::Handle::current(),
            has_log_failed: AtomicBool::new(false),
        });
        records.open_ids().await?;
        records.recall_revoked().await?;
        tokio::spawn(revoked::watch(Arc::downgrade(&records)));
        Ok(Self { records, vault })
    }
}

/// Refuses a process whose keys do not open what the others seal.
async fn agree(redis: &Redis, vault: &Vault) -> Result<(), RecordsError> {
    const NOBODY: Owner = Owner(OrganizationId(0), ObjectId([0; 12]));
    let key = redis.tagged("vault", "proof");
    let mut get = redis::cmd("GET");
    get.arg(&key);
    let mut found = redis.query(&key, get.clone()).await?;
    if found == redis::Value::Nil {
        // Only then: a start must not need memory that Redis is out of.
        let mut put = redis::cmd("SET");
        put.arg(&key).arg(vault.seal(NOBODY, &Secret::new("proof")).bytes()).arg("NX");
        redis.query(&key, put).await?;
        found = redis.query(&key, get).await?;
    }
    let redis::Value::BulkString(proof) = found else {
        return Err(RecordsError::Damaged { what: String::from("the proof of record keys") });
    };
    vault.open(NOBODY, &Sealed::of(proof)).map(drop).map_err(|_| RecordsError::OtherKeys)
}

impl Records {
    fn is_failed(&self) -> bool {
        self.has_log_failed.load(Ordering::SeqCst)
    }

    fn has_failed(&self, is_so: bool) {
        if is_so {
            self.has_log_failed.store(true, Ordering::SeqCst);
            tracing::error!("changes could not be logged; no more are made until a restart");
        }
    }

    /// Has this node's memory follow a commit: before its applies answer.
    async fn note(&self, touched: &Touched) {
        self.revoked.note(touched);
        self.note_ids(touched).await;
    }
}

impl Store for RedisStore {
    fn vault(&self) -> &Vault {
        &self.vault
    }

    fn apply(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<Version, StoreError>> {
        Box::pin(self.records.apply(Work::Changes(changes, Log::Nobody)))
    }

    fn apply_logged(
        &self,
        changes: Vec<Change>,
        log: LogStep,
    ) -> BoxFuture<'_, Result<Version, StoreError>> {
        Box::pin(self.records.apply(Work::Changes(changes, Log::Elsewhere(Some(log)))))
    }

    fn appends(&self) -> bool {
        true
    }

    fn apply_appending(
        &self,
        changes: Vec<Change>,
        shard: ShardId,
        append: AppendStep,
    ) -> BoxFuture<'_, Result<Version, StoreError>> {
        Box::pin(self.records.apply(Work::Changes(changes, Log::Beside(shard, append))))
    }

    fn redo(&self, logged: Vec<(Version, Vec<Change>)>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.records.apply(Work::Redo(logged)).await.map(|_| ()) })
    }

    fn organization(
        &self,
        which: OrganizationRef,
    ) -> BoxFuture<'_, Result<Option<Arc<Organization>>, StoreError>> {
        told(async move { self.records.organization(&which).await })
    }

    fn user(&self, which: UserRef) -> BoxFuture<'_, Result<Option<User>, StoreError>> {
        told(async move { self.records.user(&which).await })
    }

    fn role(
        &self,
        org: OrganizationId,
        role: RoleId,
    ) -> BoxFuture<'_, Result<Option<Arc<Role>>, StoreError>> {
        let key = role_key(org, role);
        told(async move {
            let found = self.records.record(Place::Org(org), Table::Roles, &key).await?;
            Ok(found.map(Arc::new))
        })
    }

    fn recipients<'a>(
        &'a self,
        org: OrganizationId,
        audience: &'a Audience,
        after: Option<UserId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<RecipientPage, StoreError>> {
        told(self.records.recipients(org, audience, after, limit))
    }

    fn subscriptions<'a>(
        &'a self,
        org: OrganizationId,
        event: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Subscription>, StoreError>> {
        told(self.records.subscriptions(org, event))
    }

    fn subscription(
        &self,
        org: OrganizationId,
        id: SubscriptionId,
    ) -> BoxFuture<'_, Result<Option<Subscription>, StoreError>> {
        let key = subscription_key(org, id);
        told(async move { self.records.record(Place::Org(org), Table::Subscriptions, &key).await })
    }

    fn failing(&self) -> BoxFuture<'_, Result<Vec<Failing>, StoreError>> {
        told(self.records.failing())
    }
}
