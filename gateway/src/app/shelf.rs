//! Where deployed rules are kept: files beside the journal, or the Redis servers all nodes share.

use crate::BoxFuture;
use crate::crash::{self, Stage};
use crate::redis::Redis;
use crate::rules::{RuleSet, Shelf, ShelfError};
use crate::store::redis::RedisShelf;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const SET: &str = "set.json";
const SHARED: &str = "rules";
/// How files end that are not whole yet.
const ASIDE: &str = ".new";
/// How components end.
const COMPONENT: &str = ".wasm";

/// One process's own files. They are written aside, synced and renamed: whole or not there.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// The files under `dir`, which is made with the first of them.
    pub(super) fn under(dir: PathBuf) -> Self {
        if let Err(error) = sweep(&dir) {
            tracing::warn!(%error, "half-made files of rules could not be removed");
        }
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
    let aside = dir.join(format!("{name}.{}{ASIDE}", uuid::Uuid::new_v4().simple()));
    let written = write_aside(&aside, bytes).and_then(|()| fs::rename(&aside, dir.join(name)));
    if written.is_err() {
        // It may not have come to be there.
        fs::remove_file(&aside).ok();
    }
    written?;
    crash::point(Stage::Published);
    File::open(dir)?.sync_all()
}

fn write_aside(aside: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(aside)?;
    crash::point(Stage::Published);
    file.write_all(bytes)?;
    crash::point(Stage::Published);
    file.sync_all()?;
    crash::point(Stage::Published);
    Ok(())
}

/// Removes what a process that died was about to write, and components of versions that are forgotten.
fn sweep(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    // A set that cannot be read is for whoever opens it to say, and nothing of it is removed.
    let named = read(&dir.join(SET))?.map_or(Some(HashSet::new()), |set| digests(&set));
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_forgotten = match (name.strip_suffix(COMPONENT), &named) {
            (Some(digest), Some(named)) => !named.contains(digest),
            _ => false,
        };
        if is_forgotten || name.ends_with(ASIDE) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Digests of all versions in the text of a set.
fn digests(set: &[u8]) -> Option<HashSet<String>> {
    let set: RuleSet = serde_json::from_slice(set).ok()?;
    let versions = set.rules.into_iter().flat_map(|rule| rule.versions);
    Some(versions.map(|version| version.digest).collect())
}

/// Digests come from a set that was written here, and still only name files here.
fn component(digest: &str) -> io::Result<String> {
    let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "this is no digest");
    if is_digest { Ok(format!("{digest}{COMPONENT}")) } else { Err(bad()) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_start_keeps_what_the_set_names_and_removes_what_nobody_does() {
        let dir = tempfile::tempdir().unwrap();
        let (named, forgotten) = ("a".repeat(64), "b".repeat(64));
        let version =
            json!({ "digest": named, "version": "1.0.0", "bytes": 1, "hooks": ["route"] });
        let rule = json!({
            "name": "quiet", "org": null, "order": 1, "required": false, "isPaused": false,
            "versions": [version], "active": named, "before": [], "canary": null, "shadow": null,
            "history": [],
        });
        let set = json!({ "revision": 1, "rules": [rule] }).to_string();
        let component = |digest: &str| format!("{digest}{COMPONENT}");
        let names = [component(&named), component(&forgotten), format!("{SET}.1{ASIDE}")];
        let fill = |set: &str| {
            fs::write(dir.path().join(SET), set).unwrap();
            names.iter().for_each(|name| fs::write(dir.path().join(name), "x").unwrap());
            Files::under(dir.path().to_owned());
            names.iter().map(|name| dir.path().join(name).exists()).collect::<Vec<_>>()
        };
        assert_eq!(fill(&set), [true, false, false]);
        assert_eq!(fill("damaged"), [true, true, false]);
    }
}
