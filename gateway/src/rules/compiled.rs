//! Machine code of components that were compiled before: a file for each, used only with our own seal.
//!
//! What is kept are compiled functions under the keys of wasmtime's incremental compilation, which hash
//! the function, the target and the compiler's version: another release finds nothing under its keys.
//! A file holds the functions of one component and is used for that component alone, so what a stranger
//! uploads can never become a part of somebody else's rule.

use crate::telemetry::metrics;
use aws_lc_rs::hmac;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use wasmtime::CacheStore;

/// All files together; those that were not used for longest go first.
const BYTES_MAX: u64 = 512 << 20;
/// One component's: those with an interpreter are 24 MiB before they are compiled.
const FILE_BYTES_MAX: u64 = 128 << 20;
const HEAD: &[u8; 8] = b"bgcode01";
const SEAL_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
/// What is kept is written anew if more than one function for so many that were found is missing.
const MISSES: usize = 4;
const EXTENSION: &str = "code";

/// What seals kept machine code. Whoever has it can have the gateway run any code.
#[derive(Clone)]
pub struct CodeKey([u8; KEY_BYTES]);

impl CodeKey {
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for CodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CodeKey(…)")
    }
}

type Functions = BTreeMap<[u8; KEY_BYTES], Vec<u8>>;

/// A directory with a file for each component.
pub(super) struct CodeCache {
    dir: PathBuf,
    key: hmac::Key,
    bytes_max: u64,
    /// One component is compiled at a time: the compiler does not say for which it asks.
    turn: Mutex<Used>,
    current: Mutex<Current>,
}

/// Bytes of all files, once they were counted.
#[derive(Debug, Default)]
struct Used(Option<u64>);

/// The component that is being compiled.
#[derive(Debug, Default)]
struct Current {
    kept: Functions,
    used: BTreeSet<[u8; KEY_BYTES]>,
    added: Functions,
    is_open: bool,
}

enum Found {
    Functions(Functions),
    Nothing,
    /// Not sealed by us for this component, or cut off.
    Foreign,
}

impl CodeCache {
    /// Keeps in `dir`, which is made with the first file.
    pub(super) fn new(dir: PathBuf, key: &CodeKey) -> Self {
        Self::bounded(dir, key, BYTES_MAX)
    }

    fn bounded(dir: PathBuf, key: &CodeKey, bytes_max: u64) -> Self {
        Self {
            dir,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key.0),
            bytes_max,
            turn: Mutex::default(),
            current: Mutex::default(),
        }
    }

    /// Runs `compile`, which compiles the component with this digest, with what is kept of it.
    pub(super) fn assist<T, E>(
        &self,
        digest: &str,
        compile: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut used = self.turn.lock();
        let path = self.path(digest);
        let (kept, is_foreign) = match self.read(&path, digest) {
            Ok(Found::Functions(kept)) => (kept, false),
            Ok(Found::Nothing) => (Functions::new(), false),
            Ok(Found::Foreign) => {
                tracing::warn!(
                    digest,
                    "the compiled code that is kept of a rule is damaged or not ours; it is compiled again"
                );
                (Functions::new(), true)
            }
            Err(error) => {
                tracing::warn!(digest, %error, "the compiled code that is kept of a rule cannot be read; it is compiled again");
                (Functions::new(), true)
            }
        };
        *self.current.lock() = Current { kept, is_open: true, ..Current::default() };
        let compiled = compile();
        let Current { mut kept, used: hits, added, .. } = std::mem::take(&mut *self.current.lock());
        tracing::debug!(digest, kept = hits.len(), compiled = added.len(), "a rule is compiled");
        // A few functions are not found again whatever is kept; for them nothing is written.
        let is_whole = !hits.is_empty() && added.len() <= hits.len() / MISSES;
        if compiled.is_ok() && is_whole {
            touch(&path);
        } else if compiled.is_ok() {
            // What this release does not ask for any more goes.
            kept.retain(|key, _| hits.contains(key));
            kept.extend(added);
            if let Err(error) = self.write(&mut used, digest, &kept) {
                tracing::warn!(digest, %error, "the compiled code of a rule cannot be kept; the next start compiles it again");
            }
        }
        metrics::rule_compiled(match (is_foreign, is_whole) {
            (true, _) => "refused",
            (false, true) => "kept",
            (false, false) => "compiled",
        });
        compiled
    }

    /// Digests are lower-case hex.
    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(digest).with_extension(EXTENSION)
    }

    fn read(&self, path: &Path, digest: &str) -> io::Result<Found> {
        let bytes = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
            Ok(found) if found.len() > FILE_BYTES_MAX => return Ok(Found::Foreign),
            Ok(_) => fs::read(path)?,
        };
        let functions = self.unsealed(digest, &bytes).and_then(unpacked);
        Ok(functions.map_or(Found::Foreign, Found::Functions))
    }

    fn unsealed<'a>(&self, digest: &str, file: &'a [u8]) -> Option<&'a [u8]> {
        let rest = file.strip_prefix(HEAD)?;
        let (seal, body) = rest.split_first_chunk::<SEAL_BYTES>()?;
        // Whose code it is, is sealed with it: a file under another's name is no file.
        let sealed = [HEAD, digest.as_bytes(), body].concat();
        hmac::verify(&self.key, &sealed, seal).is_ok().then_some(body)
    }

    fn write(&self, used: &mut Used, digest: &str, functions: &Functions) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let body = packed(functions);
        let seal = hmac::sign(&self.key, &[HEAD, digest.as_bytes(), &body].concat());
        let file = [HEAD, seal.as_ref(), &body].concat();
        let size = u64::try_from(file.len()).unwrap_or(u64::MAX);
        if size > FILE_BYTES_MAX.min(self.bytes_max) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let (path, aside) = (self.path(digest), self.dir.join(digest).with_extension("new"));
        fs::write(&aside, file)?;
        fs::rename(&aside, &path)?;
        let bytes = used.0.map_or_else(|| self.bytes(), |bytes| Ok(bytes.saturating_add(size)))?;
        used.0 = Some(if bytes > self.bytes_max { self.trim(&path)? } else { bytes });
        Ok(())
    }

    fn files(&self) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_file() {
                files.push((about.modified()?, about.len(), entry.path()));
            }
        }
        Ok(files)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.files()?.iter().map(|(_, size, _)| size).sum())
    }

    /// Removes what was not used for longest, to nine tenths of the room, but not `last`; answers what
    /// is left.
    fn trim(&self, last: &Path) -> io::Result<u64> {
        let mut files = self.files()?;
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files.into_iter().filter(|(.., path)| path != last) {
            if bytes <= self.bytes_max.saturating_mul(9) / 10 {
                break;
            }
            fs::remove_file(path)?;
            bytes = bytes.saturating_sub(size);
        }
        Ok(bytes)
    }
}

/// What is used is kept longest; if that cannot be noted, it is compiled again one day.
fn touch(path: &Path) {
    let touched = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(%error, "the compiled code of a rule cannot be marked as used");
    }
}

/// Key, length, code, for each function.
fn packed(functions: &Functions) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, code) in functions {
        // Functions have at most 512 KiB of source each; what has no length is left out.
        let Ok(length) = u32::try_from(code.len()) else { continue };
        body.extend_from_slice(key);
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(code);
    }
    body
}

fn unpacked(mut body: &[u8]) -> Option<Functions> {
    let mut functions = Functions::new();
    while !body.is_empty() {
        let (key, rest) = body.split_first_chunk::<KEY_BYTES>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (code, rest) = rest.split_at_checked(length)?;
        functions.insert(*key, code.to_vec());
        body = rest;
    }
    Some(functions)
}

/// Asked from the compiler's threads.
impl CacheStore for CodeCache {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let mut current = self.current.lock();
        let key = <[u8; KEY_BYTES]>::try_from(key).ok()?;
        let code = current.kept.get(&key).cloned()?;
        current.used.insert(key);
        Some(Cow::Owned(code))
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        let mut current = self.current.lock();
        let key = <[u8; KEY_BYTES]>::try_from(key).ok().filter(|_| current.is_open);
        key.is_some_and(|key| {
            current.added.insert(key, value);
            true
        })
    }
}

impl std::fmt::Debug for CodeCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodeCache").field("dir", &self.dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn cache(dir: &Path, key: u8, bytes_max: u64) -> CodeCache {
        CodeCache::bounded(dir.to_owned(), &CodeKey::new([key; KEY_BYTES]), bytes_max)
    }

    /// Compiles a component with one function of `size` bytes; true if it had to be compiled.
    fn compiles(cache: &CodeCache, digest: &str, size: usize) -> bool {
        let key = [7; KEY_BYTES];
        let done = cache.assist(digest, || {
            let kept = cache.get(&key).map(Cow::into_owned);
            assert!(kept.as_ref().is_none_or(|code| *code == vec![1; size]));
            assert!(kept.is_some() || cache.insert(&key, vec![1; size]));
            Ok::<_, Infallible>(kept.is_none())
        });
        let Ok(is_compiled) = done;
        is_compiled
    }

    #[test]
    fn what_was_compiled_is_kept_for_its_component_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = cache(dir.path(), 1, BYTES_MAX);
        assert!(compiles(&first, "a", 100) && !compiles(&first, "a", 100));
        assert!(compiles(&first, "b", 50), "the same function of another component");
        let again = cache(dir.path(), 1, BYTES_MAX);
        assert!(!compiles(&again, "a", 100) && !compiles(&again, "b", 50));
        assert!(!again.insert(&[7; KEY_BYTES], Vec::new()), "nothing is being compiled");
    }

    #[test]
    fn what_is_damaged_foreign_or_under_another_name_is_compiled_again() {
        let dir = tempfile::tempdir().unwrap();
        let own = cache(dir.path(), 1, BYTES_MAX);
        assert!(compiles(&own, "a", 100));
        let whole = fs::read(own.path("a")).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(own.path("a"), bytes).unwrap();
            assert!(compiles(&own, "a", 100), "byte {at}");
            assert_eq!(fs::read(own.path("a")).unwrap(), whole, "it is written again");
        }
        for cut in [0, 7, 39, whole.len() - 1] {
            fs::write(own.path("a"), &whole[..cut]).unwrap();
            assert!(compiles(&own, "a", 100), "cut at {cut}");
        }
        fs::copy(own.path("a"), own.path("b")).unwrap();
        assert!(compiles(&own, "b", 100), "another's file");
        assert!(compiles(&cache(dir.path(), 2, BYTES_MAX), "a", 100), "sealed with another key");
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let small = cache(dir.path(), 1, 1_000);
        let long_ago = |name: &str, seconds| {
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            File::open(small.path(name)).unwrap().set_modified(at).unwrap();
        };
        for (name, seconds) in [("a", 1), ("b", 2), ("c", 3)] {
            assert!(compiles(&small, name, 200));
            long_ago(name, seconds);
        }
        assert!(!compiles(&small, "a", 200), "used again, so it stays");
        assert!(compiles(&small, "d", 200));
        assert!(!compiles(&small, "a", 200) && !compiles(&small, "d", 200));
        assert!(!small.path("b").exists());
        assert!(compiles(&small, "large", 2_000) && compiles(&small, "large", 2_000));
        assert!(small.bytes().unwrap() <= 1_000);
    }
}
