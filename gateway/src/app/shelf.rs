//! Where deployed rules are kept: files beside the journal, or the Redis servers all nodes share.

use crate::BoxFuture;
use crate::redis::Redis;
use crate::rules::{Shelf, ShelfError};
use crate::store::redis::RedisShelf;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const SET: &str = "set.json";
const SHARED: &str = "rules";

/// One process's own files. They are written aside, synced and renamed: whole or not there.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// The files under `dir`, which is made with the first of them.
    pub(super) fn under(dir: PathBuf) -> Self {
        Self { dir }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ShelfError> {
        let dir = self.dir.clone();
        let done = tokio::task::spawn_blocking(move || work(&dir)).await;
        done.map_err(|error| ShelfError(error.into()))?.map_err(|error| ShelfError(error.into()))
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let aside = dir.join(format!("{name}.{}", uuid::Uuid::new_v4().simple()));
    let mut file = File::create_new(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Digests come from a set that was written here, and still only name files here.
fn component(digest: &str) -> io::Result<String> {
    let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "this is no digest");
    if is_digest { Ok(format!("{digest}.wasm")) } else { Err(bad()) }
}

impl Shelf for Files {
    fn read(&self) -> BoxFuture<'_, Result<Option<String>, ShelfError>> {
        Box::pin(async move {
            let found = self.blocking(|dir| read(&dir.join(SET))).await?;
            let text = found.map(String::from_utf8).transpose();
            text.map_err(|error| ShelfError(error.into()))
        })
    }

    fn replace(&self, _before: u64, after: String) -> BoxFuture<'_, Result<bool, ShelfError>> {
        Box::pin(async move {
            // Nobody else writes here: the directory is one process's.
            self.blocking(move |dir| write(dir, SET, after.as_bytes())).await?;
            Ok(true)
        })
    }

    fn component<'a>(
        &'a self,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, ShelfError>> {
        let name = component(digest);
        Box::pin(self.blocking(move |dir| read(&dir.join(name?))))
    }

    fn put<'a>(&'a self, digest: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<(), ShelfError>> {
        let name = component(digest);
        Box::pin(self.blocking(move |dir| write(dir, &name?, &bytes)))
    }

    fn is_shared(&self) -> bool {
        false
    }
}

/// What all nodes share.
#[derive(Clone, Debug)]
pub(super) struct Shared(RedisShelf);

impl Shared {
    pub(super) fn on(redis: Redis) -> Self {
        Self(RedisShelf::new(redis, SHARED))
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> ShelfError {
    ShelfError(Box::new(error))
}

impl Shelf for Shared {
    fn read(&self) -> BoxFuture<'_, Result<Option<String>, ShelfError>> {
        Box::pin(async move {
            let found = self.0.read().await.map_err(failed)?;
            found.map(String::from_utf8).transpose().map_err(failed)
        })
    }

    fn replace(&self, before: u64, after: String) -> BoxFuture<'_, Result<bool, ShelfError>> {
        Box::pin(async move { self.0.exchange(before, after).await.map_err(failed) })
    }

    fn component<'a>(
        &'a self,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, ShelfError>> {
        Box::pin(async move { self.0.look(digest).await.map_err(failed) })
    }

    fn put<'a>(&'a self, digest: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<(), ShelfError>> {
        Box::pin(async move { self.0.keep(digest, bytes).await.map_err(failed) })
    }

    fn is_shared(&self) -> bool {
        true
    }
}
