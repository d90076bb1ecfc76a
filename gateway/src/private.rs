//! Files that only their owner may read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it can be read by others")]
    Readable,
}

/// What the file at `path` holds; if there is none, it is made first with what `first` answers.
///
/// # Errors
/// One that others may read is refused.
pub fn read_or_create(
    path: &Path,
    first: impl FnOnce() -> io::Result<String>,
) -> Result<String, PrivateError> {
    if !path.try_exists()? {
        create(path, &first()?)?;
    }
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        return Err(PrivateError::Readable);
    }
    Ok(fs::read_to_string(path)?)
}

/// Written aside and linked, so that a crash leaves no half a file, and of two processes that make it
/// at once both read the same.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let aside = path.with_extension(uuid::Uuid::new_v4().simple().to_string());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&aside, path);
    fs::remove_file(&aside)?;
    linked.or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    })?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
