//! One Rust file: its text, its code without comments and literals, and which of it is test code.

use crate::lexer::{code_only, is_word};
use std::ops::Range;

const TEST_ONLY: &str = "#[cfg(test)]";

/// A Rust file of the repository.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// From the repository's root, as `gateway/src/lib.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments and literals blanked; offsets agree.
    pub(crate) code: String,
    /// The whole file is test code.
    pub(crate) is_test: bool,
    /// Byte ranges under `#[cfg(test)]`.
    tests: Vec<Range<usize>>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = code_only(text);
        let tests = test_ranges(&code);
        let is_test = path.contains("/tests/")
            || path.ends_with("/tests.rs")
            || path.contains("/conformance")
            || path.contains("/benches/");
        Self { path: path.to_owned(), text: text.to_owned(), code, is_test, tests }
    }

    /// Whether the code at `offset` is only compiled for tests.
    pub(crate) fn is_test_at(&self, offset: usize) -> bool {
        self.is_test || self.tests.iter().any(|range| range.contains(&offset))
    }

    /// The line number of `offset`, from 1.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    /// `path:line: what`
    pub(crate) fn finding(&self, offset: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, self.line_at(offset))
    }

    /// Where `word` stands in the code as a name of its own, or the start of a path.
    pub(crate) fn uses<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.code.match_indices(word).map(|(offset, _)| offset).filter(move |offset| {
            let before = self.code.get(..*offset).and_then(|code| code.chars().next_back());
            let after = self.code.get(offset + word.len()..).and_then(|code| code.chars().next());
            let ends = word.chars().next_back().is_some_and(|last| !is_word(last))
                || after.is_none_or(|after| !is_word(after));
            ends && before.is_none_or(|before| !is_word(before) && before != ':')
        })
    }

    /// Lines with code in them, without test code unless the file is nothing else.
    pub(crate) fn code_lines(&self) -> usize {
        let mut offset = 0;
        let mut count = 0;
        for line in self.code.split_inclusive('\n') {
            let is_counted = self.is_test || !self.is_test_at(offset);
            count += usize::from(is_counted && !line.trim().is_empty());
            offset += line.len();
        }
        count
    }

    /// Modules that this file declares for tests only, as path prefixes: `gateway/src/x/fixture`.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let folder = match self.path.rsplit_once('/') {
            Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
            _ => self.path.trim_end_matches(".rs").to_owned(),
        };
        let declared = self.tests.iter().filter_map(|range| {
            let item = self.code.get(range.clone())?.trim_end().strip_suffix(';')?;
            let (_, name) = item.rsplit_once("mod ")?;
            Some(format!("{folder}/{}", name.trim()))
        });
        declared.collect()
    }
}

fn test_ranges(code: &str) -> Vec<Range<usize>> {
    let starts = code.match_indices(TEST_ONLY).map(|(start, _)| start);
    starts.map(|start| start..item_end(code, start + TEST_ONLY.len())).collect()
}

/// The end of the item that starts after `from`: its closing brace, or its semicolon.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_u32;
    for (offset, character) in code.char_indices().skip_while(|(offset, _)| *offset < from) {
        match character {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return offset + 1;
                }
            }
            ';' if depth == 0 => return offset + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::Source;

    const TEXT: &str = "//! A.\nuse a::b;\n\n// why\nfn f() {}\n#[cfg(test)]\nmod fixture;\n\
                        #[cfg(test)]\nmod tests {\n    use c::d;\n}\nfn g() {}\n";

    #[test]
    fn code_lines_leave_out_comments_and_tests() {
        assert_eq!(Source::new("x/src/a.rs", TEXT).code_lines(), 3);
        assert_eq!(Source::new("x/tests/it/a.rs", TEXT).code_lines(), 9);
    }

    #[test]
    fn test_code_is_told_from_the_rest() {
        let source = Source::new("x/src/a.rs", TEXT);
        let offset = |word: &str| source.uses(word).next().expect("the word is in the sample");
        assert!(!source.is_test_at(offset("a::")));
        assert!(source.is_test_at(offset("c::")));
        assert!(!source.is_test_at(offset("g")));
        assert_eq!(source.line_at(offset("g")), 12);
    }

    #[test]
    fn modules_for_tests_are_found_beside_or_below_their_file() {
        assert_eq!(Source::new("x/src/a.rs", TEXT).test_modules(), ["x/src/a/fixture"]);
        assert_eq!(Source::new("x/src/y/mod.rs", TEXT).test_modules(), ["x/src/y/fixture"]);
    }

    #[test]
    fn a_word_inside_another_or_behind_a_path_is_no_use() {
        let source =
            Source::new("a.rs", "hyper::a; my_hyper::b; x::hyper::c; \"hyper::d\"; hyper2");
        assert_eq!(source.uses("hyper").count(), 1);
        assert_eq!(source.uses("hyper::").count(), 1);
    }
}
