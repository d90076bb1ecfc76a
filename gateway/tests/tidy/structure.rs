//! Sizes, openings and places of files.

use crate::repository::{Repository, TextFile};
use crate::source::Source;

const CODE_LINES_MAX: usize = 500;
/// Files that have outgrown the limit and wait to be divided, with the lines they may have until
/// then.
const OUTGROWN: [(&str, usize); 0] = [];
const FIRST_PARAGRAPH_LINES_MAX: usize = 2;
const ROOT_ENTRIES_MAX: usize = 24;
/// Documents that stay readable in one sitting.
const LINES_MAX: [(&str, usize); 3] =
    [("README.md", 220), ("ARCHITECTURE.md", 250), ("docs/decisions/", 60)];
/// Folders whose siblings are made of the same files, so that who knows one knows all.
const SIBLINGS: [(&str, &[&str]); 2] = [
    ("gateway/src/providers", &["mod.rs", "payload.rs", "classify.rs"]),
    ("gateway/src/api", &["mod.rs", "render.rs"]),
];

fn openings(source: &Source) -> Option<String> {
    let paragraph: Vec<_> = source
        .text
        .lines()
        .take_while(|line| line.strip_prefix("//!").is_some_and(|said| !said.trim().is_empty()))
        .collect();
    match paragraph.len() {
        0 => Some(source.finding(0, "does not open with `//!` and what lives there")),
        lines if lines > FIRST_PARAGRAPH_LINES_MAX => {
            Some(source.finding(0, "opens with more than two lines"))
        }
        _ => None,
    }
}

fn sizes(source: &Source) -> Option<String> {
    let lines = source.code_lines();
    let outgrown = OUTGROWN.iter().find(|(path, _)| *path == source.path);
    let max = outgrown.map_or(CODE_LINES_MAX, |(_, max)| *max);
    if lines > max {
        return Some(source.finding(0, &format!("{lines} lines of code, more than {max}")));
    }
    let is_small = outgrown.is_some() && lines <= CODE_LINES_MAX;
    is_small
        .then(|| source.finding(0, "is small enough to be struck off the list of outgrown files"))
}

fn document_sizes(file: &TextFile) -> Option<String> {
    let (_, max) = LINES_MAX.iter().find(|(path, _)| file.path.starts_with(path))?;
    let lines = file.text.lines().count();
    (lines > *max).then(|| format!("{}: {lines} lines, more than {max}", file.path))
}

fn root_entries(entries: &[String]) -> Option<String> {
    let count = entries.len();
    (count > ROOT_ENTRIES_MAX)
        .then(|| format!("{count} entries at the root, more than {ROOT_ENTRIES_MAX}: {entries:?}"))
}

fn run_bits(file: &TextFile) -> Option<String> {
    let is_script = file.text.starts_with("#!") && !file.path.ends_with(".rs");
    let is_wrong = is_script != file.can_run;
    let what =
        if is_script { "a script without its run bit" } else { "can be run and is no script" };
    is_wrong.then(|| format!("{}: {what}", file.path))
}

/// `paths` are all files; every folder in a family has its family's files.
fn siblings(paths: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for (parent, wanted) in SIBLINGS {
        let inside = |path: &str| {
            let (folder, file) = path.strip_prefix(parent)?.strip_prefix('/')?.split_once('/')?;
            // One family: those that have the file that makes a member.
            (wanted.last() == Some(&file)).then(|| folder.to_owned())
        };
        for folder in paths.iter().filter_map(|path| inside(path)) {
            for file in wanted {
                let path = format!("{parent}/{folder}/{file}");
                if !paths.contains(&path.as_str()) {
                    findings.push(format!("{path}: its siblings have this file"));
                }
            }
        }
    }
    findings
}

fn all(repository: &Repository) -> Vec<String> {
    let mut findings: Vec<_> = repository.sources.iter().filter_map(openings).collect();
    findings.extend(repository.sources.iter().filter_map(sizes));
    findings.extend(repository.files.iter().filter_map(document_sizes));
    findings.extend(repository.files.iter().filter_map(run_bits));
    findings.extend(root_entries(&repository.root_entries));
    let paths: Vec<_> = repository.files.iter().map(|file| file.path.as_str()).collect();
    findings.extend(siblings(&paths));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect_none;
    use crate::repository::repository;

    fn file(path: &str, text: &str, can_run: bool) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned(), can_run }
    }

    #[test]
    fn files_have_their_size_opening_and_place() {
        expect_none(&all(repository()));
    }

    #[test]
    fn a_file_without_opening_is_found() {
        let opens = |text: &str| openings(&Source::new("a.rs", text)).is_none();
        assert!(opens("//! One.\n//! Two.\n//!\n//! More.\nfn f() {}\n"));
        for bad in ["fn f() {}\n", "//!\nfn f() {}\n", "//! 1\n//! 2\n//! 3\n", "\n//! Late.\n"] {
            assert!(!opens(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_long_file_is_found() {
        let of = |lines: usize| sizes(&Source::new("a.rs", &"f();\n".repeat(lines)));
        assert_eq!(of(500), None);
        assert!(of(501).is_some());
        for (path, max) in OUTGROWN {
            let of = |lines: usize| sizes(&Source::new(path, &"f();\n".repeat(lines)));
            assert_eq!(of(max), None);
            assert!(of(max + 1).is_some());
            assert!(of(CODE_LINES_MAX).is_some(), "no longer outgrown");
        }
        let long = |path, lines: usize| document_sizes(&file(path, &"x\n".repeat(lines), false));
        assert_eq!(long("README.md", 220), None);
        assert!(long("README.md", 221).is_some());
        assert!(long("docs/decisions/0009-x.md", 61).is_some());
    }

    #[test]
    fn a_crowded_root_is_found() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(root_entries(&names(24)), None);
        assert!(root_entries(&names(25)).is_some());
    }

    #[test]
    fn a_wrong_run_bit_is_found() {
        assert_eq!(run_bits(&file("scripts/x", "#!/usr/bin/env bash\n", true)), None);
        assert!(run_bits(&file("scripts/x", "#!/usr/bin/env bash\n", false)).is_some());
        assert!(run_bits(&file("README.md", "# Bugler\n", true)).is_some());
    }

    #[test]
    fn a_sibling_that_lacks_a_file_is_found() {
        let at = |files: &[&str]| {
            let paths: Vec<_> =
                files.iter().map(|file| format!("gateway/src/providers/new/{file}")).collect();
            siblings(&paths.iter().map(String::as_str).collect::<Vec<_>>())
        };
        assert!(at(&["mod.rs", "payload.rs", "classify.rs"]).is_empty());
        assert_eq!(at(&["mod.rs", "classify.rs"]).len(), 1);
        assert!(at(&["dial.rs"]).is_empty(), "another kind of folder");
    }
}
