//! Proves the books: reads the whole log again and says where it, the index and the sums differ.
//!
//! What must hold is counted entry by entry. An entry owes deliveries: a retry one, a later step
//! its targets, an audience as many as its expansion announced. It pays each with a final state or
//! with an entry that carries it on, and is settled for good once. If every entry pays exactly what
//! it owes, each delivery is in one place only; a set of those that ended proves the same once more.

mod account;
mod compare;
mod ledger;
mod log;
mod report;
mod shared;

#[cfg(test)]
mod tests;

pub use account::Account;
pub use report::{Invariant, Line, Report, render};
pub use shared::{SharedError, audit_shard};

use crate::journal::disk::{LogView, ViewError};
use ledger::Ledger;

/// Log bytes whose ended deliveries are kept in memory at once: beyond it the log is read again.
const PART_BYTES: u64 = 2 << 30;

/// Audits a journal.
///
/// # Errors
/// Files could not be read; damaged blocks are part of the report.
pub fn audit(view: &LogView) -> Result<Report, ViewError> {
    audit_in(view, 1 + view.bytes() / PART_BYTES)
}

/// Audits in so many passes over the log.
fn audit_in(view: &LogView, parts: u64) -> Result<Report, ViewError> {
    let mut report = Report::default();
    for part in 0..parts {
        let facts = if part == 0 { view.facts()? } else { None };
        let mut ledger = Ledger::new(facts, (part, parts));
        let damages = view.scan(&mut |block| ledger.block(view, block))?;
        ledger.finish(view, &mut report)?;
        if part == 0 {
            report.damaged(damages);
        }
    }
    Ok(report)
}
