//! The embedded record store: one redb file, one writer thread, reads from snapshots.
//!
//! `<dir>/records.redb` belongs to one process at a time. `apply` answers after the commit that
//! holds its changes was synced, whatever the journal's fsync setting is: records are few and say
//! who may receive what. `apply_logged` answers after its log's promise and a commit that is not
//! synced: what a crash takes back of it, `redo` makes again. So its changes are as durable as
//! the journal's class says. No apply is ever there in part.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

use redb::{Database, DatabaseError, StorageError};

use self::cache::Caches;
use self::reader::View;
use self::searches::Searches;
use self::transaction::Draft;
use self::writer::Writer;
use super::changes::tables::{self, FORMAT, Flaw, META_FORMAT, Table, last_org, number, user_of};
use super::changes::{Rows, Touched};
use super::{
    Change, Failing, LogStep, OrganizationRef, RecipientPage, Store, StoreError, UserRef, Version,
};
use crate::BoxFuture;
use crate::model::{
    Audience, Millis, Organization, OrganizationId, Role, RoleId, Subscription, SubscriptionId,
    User, UserId,
};
use crate::vault::{Vault, VaultError};

mod account_reads;
mod accounts;
mod cache;
mod dump;
mod group;
mod inbox;
mod reader;
pub mod search;
mod search_reads;
mod searches;
mod transaction;
mod writer;

#[cfg(test)]
mod tests;

pub use dump::DiskRows;

/// The file of records inside the data directory.
pub const FILE_NAME: &str = "records.redb";
/// The keys of secrets in it. Beside the records: a copy of one without the other shows none.
const VAULT_NAME: &str = "vault.json";
/// Memory redb may use for pages of the file.
const PAGE_CACHE_BYTES: usize = 64 << 20;
/// Audiences of at most this many names are looked up where the caller runs, through the caches.
const INLINE_NAMES_MAX: usize = 16;

/// Why the file of records cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot create the data directory {}: check its owner and permissions", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} was moved away, or is what a move did not finish", dir.display())]
    Marked { dir: PathBuf },
    #[error("{} is open in another process: stop it, or set another store.dir", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{} has record format {found}, newer than this release reads: start the release that \
         wrote it", path.display()
    )]
    Newer { path: PathBuf, found: u8 },
    #[error(
        "{} has record format {found}, of a version before the first release: move the data \
         directory away to start with no records", path.display()
    )]
    Older { path: PathBuf, found: u8 },
    #[error(
        "{} is damaged: restore it from a backup, or move it away to start with no records",
        path.display()
    )]
    Damaged {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{} cannot be read or written: check the disk, then restart", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The writer thread ended early; the reason was logged when it did.
    #[error("the store's writer has stopped: restart")]
    WriterStopped,
    #[error("cannot start the store's writer thread")]
    Writer(#[source] io::Error),
    /// A read was still running when the process shut down.
    #[error("a read of the store was cut off")]
    ReadCutOff(#[source] tokio::task::JoinError),
}

/// The record store in one file.
#[derive(Debug)]
pub struct DiskStore {
    records: Arc<Records>,
    vault: Vault,
    writer: Writer,
}

/// What the writer and the readers share.
#[derive(Debug)]
struct Records {
    path: PathBuf,
    database: Database,
    caches: Caches,
    searches: Arc<Searches>,
    /// The highest ids ever given out or stored.
    last_user: AtomicI64,
    last_organization: AtomicI32,
}

impl DiskStore {
    /// Opens `<dir>/records.redb`, creating both if they do not exist.
    ///
    /// Blocks: a file that was not closed properly is repaired first.
    ///
    /// # Errors
    /// Names the file and what to do: another process has it, it is damaged, or a newer release
    /// wrote it.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        create(dir)?;
        Self::open_with(dir, Vault::load_or_create(&dir.join(VAULT_NAME))?)
    }

    /// As `open`, with keys from elsewhere.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_with(dir: &Path, vault: Vault) -> Result<Self, DiskError> {
        // The journal beside it says whether it was moved, or is not whole.
        let marks = ["MOVED", "UNFINISHED"].map(|name| dir.join("journal").join(name));
        if marks.iter().any(|mark| mark.exists()) {
            return Err(DiskError::Marked { dir: dir.to_path_buf() });
        }
        Self::open_unfinished(dir, vault)
    }

    /// As `open_with`, whatever the directory is marked with.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_unfinished(dir: &Path, vault: Vault) -> Result<Self, DiskError> {
        create(dir)?;
        let path = dir.join(FILE_NAME);
        // The library repairs what it opens, and asserts where the damage leaves it no way.
        let opened = catch_unwind(AssertUnwindSafe(|| Records::open(&path)));
        let records = opened.unwrap_or_else(|_| {
            let source = Box::from("its pages contradict each other");
            Err(DiskError::Damaged { path: path.clone(), source })
        })?;
        let records = Arc::new(records);
        let writer = Writer::start(Arc::clone(&records)).map_err(DiskError::Writer)?;
        Ok(Self { records, vault, writer })
    }

    fn view(&self) -> View<'_> {
        View::cached(&self.records)
    }

    fn answer<T>(&self, read: Result<T, Flaw>) -> Result<T, StoreError> {
        read.map_err(|flaw| self.records.refuse(flaw))
    }
}

/// Readable by the owner only: records hold tokens, secrets and password hashes.
fn create(dir: &Path) -> Result<(), DiskError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| DiskError::Directory { path: dir.to_path_buf(), source })
}

impl Records {
    fn open(path: &Path) -> Result<Self, DiskError> {
        let database = Database::builder()
            .set_cache_size(PAGE_CACHE_BYTES)
            .create(path)
            .map_err(|error| unopened(path, error))?;
        let (path, caches) = (path.to_path_buf(), Caches::default());
        let searches = Arc::default();
        let (last_user, last_organization) = (AtomicI64::new(0), AtomicI32::new(0));
        let records = Self { path, database, caches, searches, last_user, last_organization };
        let found = records.prepare().map_err(|flaw| records.explain(flaw))?;
        if found > FORMAT {
            return Err(DiskError::Newer { path: records.path, found });
        }
        if found < FORMAT {
            return Err(DiskError::Older { path: records.path, found });
        }
        records.recall().map_err(|flaw| records.explain(flaw))?;
        Ok(records)
    }

    /// Creates the tables of a new file; answers the format of the file.
    fn prepare(&self) -> Result<u8, Flaw> {
        let transaction = self.database.begin_write()?;
        let found = {
            let mut draft = Draft::open(&transaction)?;
            match draft.get(Table::Meta, META_FORMAT)? {
                Some(format) => format.first().copied().ok_or(Flaw::Value(Table::Meta))?,
                None => {
                    draft.put(Table::Meta, META_FORMAT, &[FORMAT])?;
                    FORMAT
                }
            }
        };
        // What a newer release wrote stays as it is.
        if found <= FORMAT {
            transaction.commit()?;
        }
        Ok(found)
    }

    /// Reads what is kept in memory: the highest ids, and the ids that were revoked.
    fn recall(&self) -> Result<(), Flaw> {
        let view = View::uncached(self);
        if let Some(key) = view.last_key(Table::Users)? {
            self.last_user.store(user_of(Table::Users, &key)?.0, Ordering::Relaxed);
        }
        if let Some(key) = view.last_key(Table::Organizations)? {
            let last = last_org(Table::Organizations, &key)?;
            self.last_organization.store(last.0, Ordering::Relaxed);
        }
        let mut revoked = self.caches.revoked.write();
        for row in view.rows(Table::Revoked, &[], None)? {
            let row = row?;
            let id = String::from_utf8_lossy(row.0.value()).into_owned();
            revoked.insert(id, Millis(number(Table::Revoked, row.1.value())?));
        }
        Ok(())
    }

    /// Keeps ids that an import brought from being given out again.
    fn note_ids(&self, touched: &Touched) {
        for user in &touched.users {
            if let UserRef::Id(id) = user {
                self.last_user.fetch_max(id.0, Ordering::Relaxed);
            }
        }
        for org in &touched.organizations {
            self.last_organization.fetch_max(org.0, Ordering::Relaxed);
        }
    }

    fn refuse(&self, flaw: Flaw) -> StoreError {
        StoreError::Backend(Box::new(self.explain(flaw)))
    }

    fn explain(&self, flaw: Flaw) -> DiskError {
        let path = self.path.clone();
        match flaw {
            Flaw::Backend(source)
                if !matches!(source.downcast_ref(), Some(redb::Error::Corrupted(_))) =>
            {
                DiskError::Unusable { path, source }
            }
            damage => DiskError::Damaged { path, source: Box::new(damage) },
        }
    }
}

fn unopened(path: &Path, error: DatabaseError) -> DiskError {
    let path = path.to_path_buf();
    // A file cut short reads as an unexpected end, not as a failing disk.
    let damage = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
    match error {
        DatabaseError::DatabaseAlreadyOpen => DiskError::InUse { path },
        DatabaseError::Storage(StorageError::Io(source)) if !damage.contains(&source.kind()) => {
            DiskError::Unusable { path, source: Box::new(source) }
        }
        damage => DiskError::Damaged { path, source: Box::new(damage) },
    }
}

impl Store for DiskStore {
    fn vault(&self) -> &Vault {
        &self.vault
    }

    fn apply(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<Version, StoreError>> {
        Box::pin(self.writer.apply(changes, None))
    }

    fn apply_logged(
        &self,
        changes: Vec<Change>,
        log: LogStep,
    ) -> BoxFuture<'_, Result<Version, StoreError>> {
        Box::pin(self.writer.apply(changes, Some(log)))
    }

    fn redo(&self, logged: Vec<(Version, Vec<Change>)>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.writer.redo(logged).await.map(|_| ()) })
    }

    fn organization(
        &self,
        which: OrganizationRef,
    ) -> BoxFuture<'_, Result<Option<Arc<Organization>>, StoreError>> {
        Box::pin(std::future::ready(self.answer(self.view().organization(&which))))
    }

    fn user(&self, which: UserRef) -> BoxFuture<'_, Result<Option<User>, StoreError>> {
        Box::pin(async move {
            let found = self.answer(self.view().user(&which))?;
            Ok(found.map(Arc::unwrap_or_clone))
        })
    }

    fn role(
        &self,
        org: OrganizationId,
        role: RoleId,
    ) -> BoxFuture<'_, Result<Option<Arc<Role>>, StoreError>> {
        Box::pin(async move { self.answer(self.view().role(org, role)) })
    }

    fn recipients<'a>(
        &'a self,
        org: OrganizationId,
        audience: &'a Audience,
        after: Option<UserId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<RecipientPage, StoreError>> {
        let inline = match audience {
            Audience::Users(names) => names.len() <= INLINE_NAMES_MAX,
            Audience::Emails(names) => names.len() <= INLINE_NAMES_MAX,
            Audience::Subscriptions => true,
            Audience::Organization | Audience::Solution(_) | Audience::Groups { .. } => false,
        };
        Box::pin(async move {
            if inline {
                return self.answer(self.view().recipients(org, audience, after, limit));
            }
            let (records, audience) = (Arc::clone(&self.records), audience.clone());
            let scan = tokio::task::spawn_blocking(move || {
                View::uncached(&records).recipients(org, &audience, after, limit)
            });
            let page = scan.await;
            self.answer(page.map_err(|e| StoreError::Backend(Box::new(DiskError::ReadCutOff(e))))?)
        })
    }

    fn subscriptions<'a>(
        &'a self,
        org: OrganizationId,
        event: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Subscription>, StoreError>> {
        Box::pin(async move { self.answer(self.view().subscriptions(org, event)) })
    }

    fn subscription(
        &self,
        org: OrganizationId,
        id: SubscriptionId,
    ) -> BoxFuture<'_, Result<Option<Subscription>, StoreError>> {
        Box::pin(async move { self.answer(self.view().subscription(org, id)) })
    }

    fn failing(&self) -> BoxFuture<'_, Result<Vec<Failing>, StoreError>> {
        Box::pin(async move { self.answer(self.view().failing()) })
    }
}
