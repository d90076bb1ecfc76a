//! What a reader would trip over, kept by an ordinary test: structure, layers, words, documents.
//!
//! Each check takes what it looks at as an argument and answers with its findings, one line each,
//! so that it is run on the repository and on a bad sample that it must find.

mod documents;
mod layers;
mod leaks;
mod lexer;
mod repository;
mod source;
mod structure;
mod words;

/// Fails with every finding at once.
#[track_caller]
fn expect_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
