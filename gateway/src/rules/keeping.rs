//! What rules remember, on disk: one file for each rule, written aside and renamed while its counts change.

use crate::rules::state::RuleState;
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

const FILE_BYTES_MAX: u64 = 64 << 20;

/// A directory with a file for each rule.
#[derive(Debug)]
pub(super) struct Keeper {
    dir: PathBuf,
}

impl Keeper {
    /// Keeps in `dir`, which is made with the first file.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Gives `state` what it remembered under `key`. What cannot be read is forgotten, and said.
    pub(super) fn recall(&self, key: &str, state: &RuleState) {
        let read = || -> io::Result<Option<Vec<u8>>> {
            let path = self.path(key);
            match fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
                Ok(found) if found.len() > FILE_BYTES_MAX => {
                    Err(io::ErrorKind::FileTooLarge.into())
                }
                Ok(_) => fs::read(&path).map(Some),
            }
        };
        match read() {
            Ok(None) => {}
            Ok(Some(bytes)) if unsealed(&bytes).is_some_and(|bytes| state.restore(bytes)) => {}
            Ok(Some(_)) => {
                tracing::warn!(key, "what a rule counted and kept is damaged; it begins anew")
            }
            Err(error) => {
                tracing::warn!(key, %error, "what a rule counted and kept cannot be read; it begins anew")
            }
        }
    }

    /// Writes what changed since the last time.
    pub(super) fn keep(&self, states: &[(String, Arc<RuleState>)]) {
        for (key, state) in states {
            let Some(bytes) = state.changed() else { continue };
            if let Err(error) = self.write(key, &bytes) {
                // Tried again with the next change.
                tracing::warn!(key, %error, "what a rule counts and keeps cannot be written");
            }
        }
    }

    fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let path = self.path(key);
        let aside = path.with_extension("new");
        fs::write(&aside, [seal(bytes).as_slice(), bytes].concat())?;
        fs::rename(&aside, &path)
    }

    /// Keys are words of a–z, 0–9, `-`, `*` and one `/`.
    fn path(&self, key: &str) -> PathBuf {
        let name = key.replace('/', "~").replace('*', "all");
        self.dir.join(format!("{name}.state"))
    }
}

/// A machine that fails may leave half a file under the right name.
fn seal(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn unsealed(file: &[u8]) -> Option<&[u8]> {
    let (own, bytes) = file.split_first_chunk::<32>()?;
    (*own == seal(bytes)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::state::Effects;

    const DAY: u32 = 24 * 60 * 60 * 1_000;

    fn call(state: &Arc<RuleState>, now: u64) -> Effects {
        Effects::new(Arc::clone(state), "1".into(), now, 100)
    }

    #[test]
    fn what_was_counted_and_kept_is_there_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(dir.path().join("state"));
        let state = Arc::new(RuleState::default());
        let mut effects = call(&state, 1_000);
        effects.add("n", 3, DAY).unwrap();
        assert!(effects.take("t", (1, DAY, 1)).unwrap());
        effects.set("v", b"x".to_vec(), DAY).unwrap();
        effects.commit();
        let states = [(String::from("101/tried"), state)];
        keeper.keep(&states);
        let again = Arc::new(RuleState::default());
        keeper.recall("101/tried", &again);
        let mut effects = call(&again, 2_000);
        assert_eq!(effects.peek("n", DAY), Ok(3));
        assert_eq!(effects.take("t", (1, DAY, 1)), Ok(false));
        assert_eq!(effects.get("v"), Some(b"x".to_vec()));
        assert_eq!(again.keys(), 2);
        let other = Arc::new(RuleState::default());
        keeper.recall("*/tried", &other);
        assert_eq!(other.keys(), 0, "another rule's");
    }

    #[test]
    fn a_damaged_file_is_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(dir.path().to_owned());
        let state = Arc::new(RuleState::default());
        let mut effects = call(&state, 0);
        effects.add("n", 1, DAY).unwrap();
        effects.commit();
        keeper.keep(&[(String::from("tried"), Arc::clone(&state))]);
        assert_eq!(state.changed(), None, "nothing changed since");
        let path = keeper.path("tried");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        for damaged in [bytes.as_slice(), &[], b"short"] {
            fs::write(&path, damaged).unwrap();
            let again = RuleState::default();
            keeper.recall("tried", &again);
            assert_eq!(again.keys(), 0);
        }
    }
}
