//! The files of this repository, read once for all checks.

use crate::source::Source;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

/// Larger files are data, and nothing here is looked for in data.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// One text file.
#[derive(Clone, Debug)]
pub(crate) struct TextFile {
    /// From the repository's root.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) can_run: bool,
}

/// Everything the checks look at.
#[derive(Debug)]
pub(crate) struct Repository {
    /// Names at the top, hidden ones too.
    pub(crate) root_entries: Vec<String>,
    pub(crate) files: Vec<TextFile>,
    pub(crate) sources: Vec<Source>,
}

impl Repository {
    /// The text of the file at `path`.
    pub(crate) fn text(&self, path: &str) -> &str {
        let found = self.files.iter().find(|file| file.path == path);
        found.map_or("", |file| file.text.as_str())
    }
}

/// This repository.
pub(crate) fn repository() -> &'static Repository {
    static REPOSITORY: OnceLock<Repository> = OnceLock::new();
    REPOSITORY.get_or_init(load)
}

fn load() -> Repository {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package lies in a folder");
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    let ignored: Vec<_> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    let is_ours = |name: &str| name != ".git" && !ignored.contains(&name);
    let mut root_entries = names(root);
    root_entries.retain(|name| is_ours(name));
    let mut files = Vec::new();
    for name in &root_entries {
        collect(root, &root.join(name), &mut files);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let rust = files.iter().filter(|file| file.path.ends_with(".rs"));
    let mut sources: Vec<_> = rust.map(|file| Source::new(&file.path, &file.text)).collect();
    let for_tests: Vec<_> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let path = source.path.trim_end_matches(".rs");
        source.is_test |= for_tests.iter().any(|module| {
            path.strip_prefix(module.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/'))
        });
    }
    Repository { root_entries, files, sources }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn collect(root: &Path, path: &Path, files: &mut Vec<TextFile>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if metadata.is_dir() {
        for name in names(path) {
            collect(root, &path.join(name), files);
        }
        return;
    }
    if !metadata.is_file() || metadata.len() > TEXT_BYTES_MAX {
        return;
    }
    let Ok(text) = fs::read_to_string(path) else { return };
    let relative = path.strip_prefix(root).unwrap_or(path);
    let can_run = metadata.permissions().mode() & 0o111 == 0o111;
    files.push(TextFile { path: relative.to_string_lossy().into_owned(), text, can_run });
}

#[cfg(test)]
mod tests {
    use super::repository;

    #[test]
    fn the_repository_is_read_with_its_test_modules_marked() {
        let repository = repository();
        assert!(repository.files.len() > 100, "{} files", repository.files.len());
        let is_test = |path: &str| {
            let source = repository.sources.iter().find(|source| source.path == path);
            source.map(|source| source.is_test)
        };
        assert_eq!(is_test("gateway/src/providers/fixture/server.rs"), Some(true));
        assert_eq!(is_test("gateway/src/providers/mod.rs"), Some(false));
    }
}
