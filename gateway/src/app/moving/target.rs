//! Where everything is built: marked until it is whole, and read again before it is.

use super::source::DUMP;
use super::{MoveError, Place, io_error};
use crate::app::{AppError, build};
use crate::clock::{Clock, SystemClock};
use crate::config::{Backend, Config};
use crate::dump::{DumpReader, DumpWriter, Frame, Head, Totals};
use crate::journal::disk::{DiskLoader, LoadError};
use crate::journal::redis::RedisLoader;
use crate::redis::{Mark, Redis};
use crate::store::disk::{DiskRows, DiskStore, FILE_NAME};
use crate::store::redis::{RedisRowLoader, RedisRows, RedisStore};
use crate::vault::Vault;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PART: &str = "bugler.dump.part";

pub(super) enum Target {
    /// Only counted.
    Nothing,
    Disk(Box<ToDisk>),
    Redis(Box<ToRedis>),
    File {
        dir: PathBuf,
        writer: DumpWriter,
    },
    /// The journal's directory: everything is there.
    WholeDisk(PathBuf),
    WholeRedis(Redis, u16),
}

pub(super) struct ToDisk {
    dir: PathBuf,
    vault: PathBuf,
    journal: DiskLoader,
    rows: Option<DiskRows>,
}

pub(super) struct ToRedis {
    redis: Redis,
    shards: u16,
    vault: PathBuf,
    journal: RedisLoader,
    rows: Option<RedisRowLoader>,
}

/// Refuses a target with something in it, before the source is held; true if it was begun before.
pub(super) async fn check_empty(place: &Place) -> Result<bool, MoveError> {
    let taken = || MoveError::Taken(place.describe());
    match place {
        Place::Backup(dir) => {
            let is_there = dir.try_exists().map_err(io_error("look at", dir))?;
            if !is_there {
                return Ok(false);
            }
            let others = ["vault.json", "keys.json", PART];
            for found in std::fs::read_dir(dir).map_err(io_error("list", dir))? {
                let name = found.map_err(io_error("list", dir))?.file_name();
                let is_begun = dir.join(PART).exists();
                if !is_begun || !others.iter().any(|other| name == *other) {
                    return Err(taken());
                }
            }
            Ok(false)
        }
        Place::Store(config) if config.store.backend == Backend::Embedded => {
            let dir = &config.store.dir;
            let is_begun = DiskLoader::is_begun(&dir.join("journal"));
            let has_records = dir.join(FILE_NAME).exists();
            let has_log = dir.join("journal").join("SHARDS").exists();
            if !is_begun && (has_records || has_log) { Err(taken()) } else { Ok(is_begun) }
        }
        Place::Store(config) => {
            let redis = Redis::open(&build::redis_options(config)?).await?;
            match redis.found().await? {
                Some((Mark::Unfinished, _)) => Ok(true),
                Some(_) => Err(taken()),
                None if redis.is_empty().await? => Ok(false),
                None => Err(taken()),
            }
        }
    }
}

impl Target {
    pub(super) async fn begin(place: &Place, head: &Head) -> Result<Self, MoveError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        match place {
            Place::Backup(dir) => {
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
                made.map_err(io_error("create", dir))?;
                let writer = DumpWriter::create(&dir.join(PART))?;
                Ok(Self::File { dir: dir.clone(), writer })
            }
            Place::Store(config) if config.store.backend == Backend::Embedded => {
                let dir = config.store.dir.clone();
                let options = build::journal_options(config);
                let begun = DiskLoader::begin(&dir.join("journal"), options, clock, head.is_whole);
                let journal = begun?;
                let rows = Some(DiskRows::begin(&dir)?);
                let vault = config.vault_path();
                Ok(Self::Disk(Box::new(ToDisk { dir, vault, journal, rows })))
            }
            Place::Store(config) => Ok(Self::Redis(Box::new(Self::redis(config, clock).await?))),
        }
    }

    async fn redis(config: &Config, clock: Arc<dyn Clock>) -> Result<ToRedis, MoveError> {
        let redis = Redis::open(&build::redis_options(config)?).await?;
        let shards = config.store.shards;
        if redis.found().await?.is_some() {
            redis.wipe().await?;
        }
        redis.mark(&Mark::Unfinished, shards).await?;
        let options = build::redis_journal_options(config, &redis);
        let journal = RedisLoader::new(&redis, options, clock);
        let rows = Some(RedisRowLoader::new(&redis, shards));
        Ok(ToRedis { redis, shards, vault: config.vault_path(), journal, rows })
    }

    pub(super) async fn put(&mut self, frame: Frame) -> Result<(), MoveError> {
        match (self, frame) {
            (Self::File { writer, .. }, frame) => Ok(writer.put(&frame)?),
            (Self::Disk(to), Frame::Row(row)) => match &mut to.rows {
                Some(rows) => Ok(rows.put(row)?),
                None => Err(MoveError::Cut),
            },
            (Self::Disk(to), Frame::Journal(frame)) => Ok(to.journal.put(frame)?),
            (Self::Redis(to), Frame::Row(row)) => match &mut to.rows {
                Some(rows) => Ok(rows.put(row).await?),
                None => Err(MoveError::Cut),
            },
            (Self::Redis(to), Frame::Journal(frame)) => {
                if let Some(rows) = to.rows.take() {
                    rows.finish().await?;
                }
                Ok(to.journal.put(frame).await?)
            }
            (_, _) => Ok(()),
        }
    }

    /// Compares what is there now with what was read.
    pub(super) async fn finish(self, totals: &Totals) -> Result<Self, MoveError> {
        match self {
            Self::File { dir, mut writer } => {
                writer.put(&Frame::End(totals.clone()))?;
                writer.finish()?;
                let (part, whole) = (dir.join(PART), dir.join(DUMP));
                DumpReader::verify(&part)?;
                std::fs::rename(&part, &whole).map_err(io_error("rename", &part))?;
                sync_dir(&dir)?;
                Ok(Self::Nothing)
            }
            Self::Disk(to) => tokio::task::block_in_place(|| to.finish(totals)),
            Self::Redis(to) => to.finish(totals).await,
            whole => Ok(whole),
        }
    }

    /// Lets gateways start on it.
    pub(super) async fn release(self) -> Result<(), MoveError> {
        match self {
            Self::WholeDisk(journal) => Ok(DiskLoader::release(&journal)?),
            Self::WholeRedis(redis, shards) => Ok(redis.mark(&Mark::Ready, shards).await?),
            _ => Ok(()),
        }
    }
}

fn compare(totals: &Totals, found: &Totals) -> Result<(), MoveError> {
    totals.difference(found).map_or(Ok(()), |what| Err(MoveError::Different(what)))
}

fn sync_dir(dir: &Path) -> Result<(), MoveError> {
    let synced = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(io_error("sync", dir))
}

impl ToDisk {
    fn finish(self, totals: &Totals) -> Result<Target, MoveError> {
        if let Some(rows) = self.rows {
            rows.finish()?;
        }
        let journal = self.journal.finish()?;
        let vault = Vault::load_or_create(&self.vault).map_err(AppError::from)?;
        let store = DiskStore::open_unfinished(&self.dir, vault).map_err(AppError::from)?;
        let records = store.dump(&mut |_| Ok(()))?;
        drop(store);
        compare(totals, &Totals { records, journal, counts: totals.counts })?;
        sync_dir(&self.dir)?;
        Ok(Target::WholeDisk(self.dir.join("journal")))
    }
}

impl ToRedis {
    async fn finish(self, totals: &Totals) -> Result<Target, MoveError> {
        if let Some(rows) = self.rows {
            rows.finish().await?;
        }
        let journal = self.journal.finish().await?;
        let records = RedisRows::new(&self.redis, self.shards).dump(None).await?;
        compare(totals, &Totals { records, journal, counts: totals.counts })?;
        // Notes whose keys seal the secrets that are there now.
        let vault = Vault::load_or_create(&self.vault).map_err(AppError::from)?;
        let opened = RedisStore::open(self.redis.clone(), self.shards, vault).await;
        drop(opened.map_err(AppError::from)?);
        Ok(Target::WholeRedis(self.redis, self.shards))
    }
}

/// Lets gateways start on a store again that was moved away, or held by what is gone.
///
/// # Errors
/// There is nothing, or it was never finished.
pub async fn release(config: &Config) -> Result<(), MoveError> {
    let place = Place::Store(Box::new(config.clone()));
    if config.store.backend == Backend::Embedded {
        let dir = config.store.dir.join("journal");
        if DiskLoader::is_begun(&dir) {
            return Err(LoadError::Taken { dir }.into());
        }
        if !dir.join("SHARDS").exists() {
            return Err(MoveError::Nothing(place.describe()));
        }
        return Ok(DiskLoader::release(&dir)?);
    }
    let redis = Redis::open(&build::redis_options(config)?).await?;
    match redis.found().await? {
        None => Err(MoveError::Nothing(place.describe())),
        Some((Mark::Unfinished, shards)) => Ok(redis.settle_layout(shards).await?),
        Some((_, shards)) => {
            RedisRows::new(&redis, shards).hold(false).await?;
            Ok(redis.mark(&Mark::Ready, shards).await?)
        }
    }
}
