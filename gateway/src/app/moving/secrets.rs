//! Keys that go with the data: those that seal secrets of records, and those that sign tokens.

use super::{MoveError, Place, io_error};
use crate::app::AppError;
use crate::model::{ObjectId, OrganizationId, Secret};
use crate::private;
use crate::vault::{Owner, Vault};
use std::path::{Path, PathBuf};

/// Copies the files of keys to where `to` looks for them; answers which.
///
/// What is there already stays: record keys must then open what the source's seal.
pub(super) fn copy(from: &Place, to: &Place) -> Result<Vec<PathBuf>, MoveError> {
    let ((from_vault, from_keys), (to_vault, to_keys)) = (paths(from), paths(to));
    let mut copied = Vec::new();
    if from_vault != to_vault && from_vault.exists() {
        if to_vault.exists() {
            agree(&from_vault, &to_vault)?;
        } else {
            copy_one(&from_vault, &to_vault)?;
            copied.push(to_vault);
        }
    }
    if from_keys != to_keys && from_keys.exists() && !to_keys.exists() {
        copy_one(&from_keys, &to_keys)?;
        copied.push(to_keys);
    }
    Ok(copied)
}

fn paths(place: &Place) -> (PathBuf, PathBuf) {
    match place {
        Place::Store(config) => (config.vault_path(), config.keys_path()),
        Place::Backup(dir) => (dir.join("vault.json"), dir.join("keys.json")),
    }
}

/// Readable by its owner only, whatever the mode of the source.
fn copy_one(from: &Path, to: &Path) -> Result<(), MoveError> {
    let text = std::fs::read_to_string(from).map_err(io_error("read", from))?;
    if let Some(dir) = to.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    }
    let what = "it cannot be made as its owner's alone";
    let made = private::read_or_create(to, || Ok(text));
    made.map(drop).map_err(|_| MoveError::Secrets { path: to.to_path_buf(), what })
}

/// Refuses record keys that do not open what those of the source seal.
fn agree(from: &Path, to: &Path) -> Result<(), MoveError> {
    const NOBODY: Owner = Owner(OrganizationId(0), ObjectId([0; 12]));
    let theirs = Vault::load_or_create(from).map_err(AppError::from)?;
    let ours = Vault::load_or_create(to).map_err(AppError::from)?;
    let what = "these record keys do not open what the source's keys sealed: add the source's, or \
                remove the file and it is copied";
    let opened = ours.open(NOBODY, &theirs.seal(NOBODY, &Secret::new("proof")));
    opened.map(drop).map_err(|_| MoveError::Secrets { path: to.to_path_buf(), what })
}
