//! Carries everything a gateway keeps from one place to another: moves, backups and restores.
//!
//! A source is held while it is read: the lock of the directory, or marks that keep every process
//! on Redis from changing anything. A target is marked until it is whole, and read again at the
//! end. Whatever is killed is begun again, and begins anew.

mod secrets;
mod source;
mod target;

use super::AppError;
use crate::config::{Backend, Config};
use crate::crash::{self, Stage};
use crate::dump::{FileError, Frame, Totals};
use crate::journal::disk::{DumpError, LoadError};
use crate::journal::redis::{
    DumpError as RedisDumpError, LoadError as RedisLoadError, OutboxError,
};
use crate::redis::RedisError;
use crate::store::dump::RowsError;
use source::Source;
use std::path::{Path, PathBuf};
use target::Target;
use tokio::sync::mpsc;

pub use target::release;

/// Frames between who reads and who writes.
const FRAMES_MAX: usize = 64;

/// Where everything lies.
#[derive(Clone, Debug)]
pub enum Place {
    /// What a gateway with this configuration works on.
    Store(Box<Config>),
    /// A directory with a backup.
    Backup(PathBuf),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct MoveOptions {
    /// Reads everything and counts it; changes nothing.
    pub dry_run: bool,
    /// Gateways may start on the source again.
    pub keep_source: bool,
    /// Leaves keys of secrets and tokens where they are.
    pub without_keys: bool,
}

/// What was carried.
#[derive(Clone, Debug, Default)]
pub struct MoveReport {
    pub totals: Totals,
    /// Files with keys that were copied.
    pub keys: Vec<PathBuf>,
}

/// Why it was not carried, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error(transparent)]
    Open(#[from] AppError),
    #[error("there is nothing in {0}")]
    Nothing(String),
    #[error("{0} holds something already: name an empty one")]
    Taken(String),
    #[error("source and target are the same: {0}")]
    Same(String),
    #[error("{} process(es) still work on {place}: {}; stop them first", nodes.len(), nodes.join(", "))]
    Busy { place: String, nodes: Vec<String> },
    #[error(
        "{lost} notification(s) in the outbox {} are not in redis, which lost them: start a gateway \
         on the source until `bugler_outbox_repeated_total` has counted them, stop it, move then",
        dir.display()
    )]
    Lost { dir: PathBuf, lost: u64 },
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Log(#[from] DumpError),
    #[error(transparent)]
    Stream(#[from] RedisDumpError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Append(#[from] RedisLoadError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {what}", path.display())]
    Secrets { path: PathBuf, what: &'static str },
    #[error("the source ended before its end")]
    Cut,
    #[error("the target does not hold what the source held ({0}); the source stays as it was")]
    Different(String),
    #[error("a part of it panicked")]
    Task(#[from] tokio::task::JoinError),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> MoveError {
    let path = path.to_path_buf();
    move |source| MoveError::Io { action, path, source }
}

impl Place {
    /// For people, and for the mark on a source that was moved.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Backup(dir) => dir.display().to_string(),
            Self::Store(config) if config.store.backend == Backend::Embedded => {
                config.store.dir.display().to_string()
            }
            Self::Store(config) => {
                let redis = &config.store.redis;
                let shards = config.store.shards;
                format!("{} ({}, {shards} shards)", redis.urls.join(" "), redis.prefix)
            }
        }
    }

    /// The same for the same data.
    fn identity(&self) -> String {
        match self {
            Self::Backup(dir) => format!("backup {}", absolute(dir).display()),
            Self::Store(config) if config.store.backend == Backend::Embedded => {
                format!("dir {}", absolute(&config.store.dir).display())
            }
            Self::Store(config) => {
                let redis = &config.store.redis;
                format!("redis {} {}", redis.urls.join(" "), redis.prefix)
            }
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into())
}

/// Carries everything at `from` to `to`, and compares both at the end.
///
/// # Errors
/// The source stays as it was; a target that was begun can be begun again.
pub async fn carry(
    from: &Place,
    to: &Place,
    options: MoveOptions,
) -> Result<MoveReport, MoveError> {
    if from.identity() == to.identity() {
        return Err(MoveError::Same(from.describe()));
    }
    let is_begun = !options.dry_run && target::check_empty(to).await?;
    // Killed at the very end, the source was marked already.
    let mut source = Source::open(from, is_begun.then(|| to.describe())).await?;
    let (report, target) = match carry_held(&mut source, (from, to), options).await {
        Ok(carried) => carried,
        Err(error) => {
            if let Err(held) = source.close(None).await {
                tracing::error!(error = %held, "the source could not be let go: `bugler store release`");
            }
            return Err(error);
        }
    };
    crash::point(Stage::Carried);
    // Nobody starts on either before both are what they are to be.
    let is_moved = !options.dry_run && !options.keep_source;
    source.close(is_moved.then(|| to.describe())).await?;
    crash::point(Stage::Carried);
    target.release().await?;
    Ok(report)
}

async fn carry_held(
    source: &mut Source,
    (from, to): (&Place, &Place),
    options: MoveOptions,
) -> Result<(MoveReport, Target), MoveError> {
    // A backup leaves them where they are, for whoever goes on.
    if !options.keep_source {
        source.check_outbox(from).await?;
    }
    let mut keys = Vec::new();
    let head = source.head();
    let mut target = if options.dry_run {
        Target::Nothing
    } else {
        let target = Target::begin(to, &head).await?;
        if !options.without_keys {
            keys = secrets::copy(from, to)?;
        }
        target
    };
    let (frames, mut carried) = mpsc::channel(FRAMES_MAX);
    let read = async {
        let totals = source.read_out(&frames).await;
        drop(frames);
        totals
    };
    let write = async {
        let mut failed = Ok(());
        target.put(Frame::Head(head)).await?;
        while let Some(frame) = carried.recv().await {
            crash::point(Stage::Carried);
            failed = target.put(frame).await;
            if failed.is_err() {
                break;
            }
        }
        // Whoever reads sees that nobody listens.
        drop(carried);
        failed
    };
    let (totals, written) = tokio::join!(read, write);
    // What stopped the writer stopped the reader, too.
    written?;
    let totals = totals?;
    crash::point(Stage::Carried);
    let target = target.finish(&totals).await?;
    Ok((MoveReport { totals, keys }, target))
}
