//! Where everything is read from: held, so that it stands still.

use super::{MoveError, Place};
use crate::app::AppError;
use crate::app::{build, redo};
use crate::clock::{Clock, SystemClock};
use crate::config::{Backend, Config};
use crate::dump::{DumpReader, Frame, Head, Totals, VERSION};
use crate::journal::Journal;
use crate::journal::disk::{DiskJournal, DiskLoader, DumpError, LogView};
use crate::journal::redis::{RedisDump, lost_of};
use crate::redis::{Mark, Redis};
use crate::store::disk::DiskStore;
use crate::store::dump::RowsError;
use crate::store::redis::RedisRows;
use crate::vault::Vault;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc::{self, Sender};

/// The file of a backup that holds everything but keys.
pub(super) const DUMP: &str = "bugler.dump";

pub(super) enum Source {
    Disk { dir: PathBuf, shards: u16, parts: Option<Box<(LogView, DiskStore)>>, is_whole: bool },
    Redis { redis: Redis, shards: u16, rows: RedisRows, journal: Option<RedisDump>, is_whole: bool },
    File { reader: DumpReader, head: Head },
}

impl Source {
    /// Holds what is at `place`; also if it is marked as moved to `begun`, which is not whole.
    pub(super) async fn open(place: &Place, begun: Option<String>) -> Result<Self, MoveError> {
        match place {
            Place::Backup(dir) => {
                let path = dir.join(DUMP);
                if !path.exists() {
                    return Err(MoveError::Nothing(place.describe()));
                }
                let checked = path.clone();
                tokio::task::spawn_blocking(move || DumpReader::verify(&checked)).await??;
                let mut reader = DumpReader::open(&path)?;
                match reader.next_frame()? {
                    Some(Frame::Head(head)) => Ok(Self::File { reader, head }),
                    _ => Err(MoveError::Cut),
                }
            }
            Place::Store(config) if config.store.backend == Backend::Embedded => {
                Self::open_disk(config, place, begun).await
            }
            Place::Store(config) => Self::open_redis(config, place, begun).await,
        }
    }

    async fn open_disk(
        config: &Config,
        place: &Place,
        begun: Option<String>,
    ) -> Result<Self, MoveError> {
        let dir = config.store.dir.join("journal");
        if !dir.join("SHARDS").exists() {
            return Err(MoveError::Nothing(place.describe()));
        }
        if begun.is_some() && DiskLoader::moved_to(&dir) == begun {
            DiskLoader::release(&dir)?;
        }
        let (opened, options) = (dir.clone(), build::journal_options(config));
        let (store_dir, vault) = (config.store.dir.clone(), config.vault_path());
        let (journal, store) = tokio::task::spawn_blocking(move || {
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            let journal = DiskJournal::open(&opened, options, clock)?;
            let store = DiskStore::open_with(&store_dir, Vault::load_or_create(&vault)?)?;
            Ok::<_, AppError>((journal, store))
        })
        .await??;
        // Then the records have what the journal has of them, and the index what the log has.
        redo(&journal, &store).await?;
        journal.close().await;
        drop(journal);
        let opened = dir.clone();
        let view = tokio::task::spawn_blocking(move || LogView::open(&opened)).await?;
        let view = view.map_err(DumpError::from)?;
        let is_whole = view.is_whole();
        Ok(Self::Disk {
            dir,
            shards: config.store.shards,
            parts: Some(Box::new((view, store))),
            is_whole,
        })
    }

    async fn open_redis(
        config: &Config,
        place: &Place,
        begun: Option<String>,
    ) -> Result<Self, MoveError> {
        let redis = Redis::open(&build::redis_options(config)?).await?;
        match redis.found().await? {
            Some((Mark::Ready | Mark::Held, shards)) if shards == config.store.shards => {}
            Some((Mark::Moved(to), shards))
                if shards == config.store.shards && Some(&to) == begun.as_ref() => {}
            None => return Err(MoveError::Nothing(place.describe())),
            // Says what is the matter.
            Some(_) => redis.settle_layout(config.store.shards).await?,
        }
        let shards = config.store.shards;
        let nodes = redis.beating().await?;
        if !nodes.is_empty() {
            return Err(MoveError::Busy { place: place.describe(), nodes });
        }
        redis.mark(&Mark::Held, shards).await?;
        let mut rows = RedisRows::new(&redis, shards);
        rows.hold(true).await?;
        let journal = RedisDump::open(&redis, shards).await?;
        let is_whole = journal.is_whole();
        Ok(Self::Redis { redis, shards, rows, journal: Some(journal), is_whole })
    }

    /// Refuses while the outbox beside it keeps what Redis has lost: a process that starts on it adds
    /// that again, and what is elsewhere then would not be asked for it.
    pub(super) async fn check_outbox(&self, place: &Place) -> Result<(), MoveError> {
        let (Self::Redis { redis, shards, .. }, Place::Store(config)) = (self, place) else {
            return Ok(());
        };
        let dir = config.store.dir.join("outbox");
        if !dir.exists() {
            return Ok(());
        }
        let when = (config.store.retention, SystemClock.now());
        match lost_of(dir.clone(), redis, *shards, when).await? {
            0 => Ok(()),
            lost => Err(MoveError::Lost { dir, lost }),
        }
    }

    pub(super) fn head(&self) -> Head {
        let (backend, shards, is_whole) = match self {
            Self::File { head, .. } => return head.clone(),
            Self::Disk { shards, is_whole, .. } => ("embedded", *shards, *is_whole),
            Self::Redis { shards, is_whole, .. } => ("redis", *shards, *is_whole),
        };
        Head {
            version: VERSION,
            release: String::from(env!("CARGO_PKG_VERSION")),
            taken_at: SystemClock.now(),
            backend: String::from(backend),
            shards,
            is_whole,
        }
    }

    /// Reads everything out; answers what it comes to.
    pub(super) async fn read_out(&mut self, frames: &Sender<Frame>) -> Result<Totals, MoveError> {
        match self {
            Self::Disk { parts, .. } => {
                let (view, store) = *parts.take().ok_or(MoveError::Cut)?;
                let frames = frames.clone();
                let read = tokio::task::spawn_blocking(move || read_disk(&view, &store, &frames));
                read.await?
            }
            Self::Redis { rows, journal, .. } => {
                let journal = journal.take().ok_or(MoveError::Cut)?;
                let (send, received) = mpsc::channel(super::FRAMES_MAX);
                let read = async move {
                    let read = rows.dump(Some(&send)).await;
                    drop(send);
                    read
                };
                let (records, ()) = tokio::join!(read, forward(received, frames, Frame::Row));
                let records = records?;
                let (send, received) = mpsc::channel(super::FRAMES_MAX);
                let read = async move {
                    let read = journal.run(&send).await;
                    drop(send);
                    read
                };
                let (carried, ()) = tokio::join!(read, forward(received, frames, Frame::Journal));
                let (journal, tally) = carried?;
                Ok(Totals { records, journal, counts: tally.counts })
            }
            Self::File { reader, .. } => {
                while let Some(frame) = reader.next_frame()? {
                    match frame {
                        Frame::End(totals) => return Ok(totals),
                        frame => {
                            if frames.send(frame).await.is_err() {
                                return Err(RowsError::Stopped.into());
                            }
                        }
                    }
                }
                Err(MoveError::Cut)
            }
        }
    }

    /// Lets go of it; for good if it is elsewhere now.
    pub(super) async fn close(self, moved_to: Option<String>) -> Result<(), MoveError> {
        match self {
            Self::File { .. } => Ok(()),
            Self::Disk { dir, parts, .. } => {
                drop(parts);
                match moved_to {
                    Some(to) => Ok(DiskLoader::retire(&dir, &to)?),
                    None => Ok(()),
                }
            }
            Self::Redis { redis, shards, mut rows, .. } => match moved_to {
                Some(to) => Ok(redis.mark(&Mark::Moved(to), shards).await?),
                None => {
                    rows.hold(false).await?;
                    Ok(redis.mark(&Mark::Ready, shards).await?)
                }
            },
        }
    }
}

async fn forward<T>(mut from: mpsc::Receiver<T>, to: &Sender<Frame>, frame: impl Fn(T) -> Frame) {
    while let Some(part) = from.recv().await {
        if to.send(frame(part)).await.is_err() {
            return;
        }
    }
}

fn read_disk(
    view: &LogView,
    store: &DiskStore,
    frames: &Sender<Frame>,
) -> Result<Totals, MoveError> {
    let records = store
        .dump(&mut |row| frames.blocking_send(Frame::Row(row)).map_err(|_| RowsError::Stopped))?;
    let (journal, tally) = view.dump(&mut |frame| {
        frames.blocking_send(Frame::Journal(frame)).map_err(|_| DumpError::Stopped)
    })?;
    Ok(Totals { records, journal, counts: tally.counts })
}
