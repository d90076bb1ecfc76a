//! Words and marks that do not belong into the code.

use crate::lexer::is_word;
use crate::repository::Repository;
use crate::source::Source;

/// Open work is an issue, not a comment.
const MARKS: [&str; 3] = ["TODO", "FIXME", "XXX"];
/// Endings of type names that say nothing.
const EMPTY_ENDINGS: [&str; 9] =
    ["Manager", "Helper", "Handler", "Processor", "Service", "Info", "Data", "Impl", "Utils"];
/// Names that have such an ending and a reason for it.
const NAMED_SO: [(&str, &str); 2] = [
    ("Service", "the seam between the server and what it serves, as in hyper"),
    ("AdminService", "the operator's implementation of that seam"),
];
const EMPTY_MODULES: [&str; 5] = ["utils", "util", "common", "helpers", "misc"];
const REASON_WORDS_MIN: usize = 3;

fn marks(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for mark in MARKS {
        for (offset, _) in source.text.match_indices(mark) {
            if is_whole_word(&source.text, offset, mark.len()) {
                findings.push(source.finding(offset, &format!("{mark}: open an issue instead")));
            }
        }
    }
    for offset in source.uses("allow(").filter(|offset| is_in_attribute(source, *offset)) {
        let what = "use #[expect(lint, reason = \"…\")] on the smallest item";
        findings.push(source.finding(offset, what));
    }
    findings
}

/// A function may be called `allow`; an attribute silences a lint.
fn is_in_attribute(source: &Source, offset: usize) -> bool {
    let before = source.code.get(..offset).unwrap_or_default();
    let opened = before.rfind("#[").max(before.rfind("#!["));
    let inside = opened.and_then(|at| before.get(at..)).unwrap_or_default();
    inside.matches('[').count() > inside.matches(']').count()
}

fn is_whole_word(text: &str, offset: usize, length: usize) -> bool {
    let before = text.get(..offset).and_then(|text| text.chars().next_back());
    let after = text.get(offset + length..).and_then(|text| text.chars().next());
    !before.is_some_and(is_word) && !after.is_some_and(is_word)
}

/// The name that follows `keyword` at `offset`.
fn name_after<'a>(source: &'a Source, offset: usize, keyword: &str) -> &'a str {
    let rest = source.code.get(offset + keyword.len()..).unwrap_or_default();
    rest.split(|character| !is_word(character)).next().unwrap_or_default()
}

fn names(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for offset in source.uses("fn ") {
        if name_after(source, offset, "fn ").starts_with("test_") {
            findings.push(source.finding(offset, "a test's name is a sentence of behaviour"));
        }
    }
    for keyword in ["struct ", "enum ", "trait "] {
        for offset in source.uses(keyword) {
            let name = name_after(source, offset, keyword);
            let is_empty = EMPTY_ENDINGS.iter().any(|ending| name.ends_with(ending));
            if is_empty && !NAMED_SO.iter().any(|(known, _)| *known == name) {
                findings.push(source.finding(offset, &format!("`{name}`: say what it is")));
            }
        }
    }
    for offset in source.uses("mod ") {
        let name = name_after(source, offset, "mod ");
        if EMPTY_MODULES.contains(&name) {
            findings.push(source.finding(offset, &format!("`{name}`: say what it holds")));
        }
    }
    findings
}

/// `expect` says why it cannot fail; tests may be brief.
fn reasons(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for (offset, call) in source.code.match_indices(".expect(") {
        let Some(argument) = source.text.get(offset + call.len()..) else { continue };
        let Some(text) = argument.trim_start().strip_prefix('"') else { continue };
        let reason = text.split('"').next().unwrap_or_default();
        let is_brief = reason.split_whitespace().count() < REASON_WORDS_MIN;
        if is_brief && !source.is_test_at(offset) {
            findings.push(source.finding(offset, &format!("\"{reason}\" does not say why")));
        }
    }
    findings
}

fn all(repository: &Repository) -> Vec<String> {
    // This test's own samples are bad on purpose.
    let sources = repository.sources.iter().filter(|s| !s.path.starts_with("gateway/tests/tidy/"));
    sources.flat_map(|source| [marks(source), names(source), reasons(source)].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect_none;
    use crate::repository::repository;

    fn sample(text: &str) -> Source {
        Source::new("gateway/src/a.rs", text)
    }

    #[test]
    fn the_code_has_no_empty_words() {
        expect_none(&all(repository()));
    }

    #[test]
    fn marks_and_silenced_lints_are_found() {
        for bad in ["// TODO: later", "/* FIXME */", "#[allow(dead_code)]", "#![allow(unused)]"] {
            assert_eq!(marks(&sample(bad)).len(), 1, "{bad}");
        }
        assert_eq!(marks(&sample("#[cfg_attr(test,\n    allow(unused))]")).len(), 1);
        expect_none(&marks(&sample("fn may_allow() {} // TODOS, allow(x)\n#[expect(x)]")));
        expect_none(&marks(&sample("#[must_use]\nfn allow(code: &str) {}\nallow(\"fine\")")));
    }

    #[test]
    fn empty_names_are_found() {
        for bad in ["fn test_it() {}", "struct LaneManager;", "enum UserInfo {}", "mod utils;"] {
            assert_eq!(names(&sample(bad)).len(), 1, "{bad}");
        }
        expect_none(&names(&sample("struct Lane; trait Service {} fn tests_pass() {} mod lanes;")));
    }

    #[test]
    fn an_expectation_without_a_reason_is_found_outside_tests() {
        let found = |text: &str| reasons(&sample(text)).len();
        assert_eq!(found("f().expect(\"works\");"), 1);
        assert_eq!(found("f()\n.expect(\n\"it works\");"), 1);
        assert_eq!(found("f().expect(\"HMAC takes keys of any length\");"), 0);
        assert_eq!(found("#[cfg(test)]\nmod tests { fn f() { g().expect(\"ok\"); } }"), 0);
    }
}
