//! What the books of a run show, and the nine invariants they are judged by.

use std::fmt;

const EXAMPLES_MAX: usize = 3;

/// A count with its first examples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) found: u64,
    pub(super) examples: Vec<String>,
}

impl Count {
    pub(super) fn add(&mut self, count: u64, example: impl FnOnce() -> String) {
        self.found += count;
        if count > 0 && self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }

    fn merge(&mut self, other: Self) {
        self.found += other.found;
        let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.into_iter().take(room));
    }
}

/// Everything counted in the ledgers of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    /// Notifications without an answer that were stored all the same.
    pub(super) recovered: u64,
    /// Deliveries that reached their provider, and those that ended otherwise.
    pub(super) delivered: u64,
    pub(super) ended_otherwise: u64,
    pub(super) attempts: u64,
    /// Successes whose answer the gateway could not read.
    pub(super) ambiguous: u64,
    pub(super) lost: Count,
    /// Lost in a gap that the durability class allows.
    pub(super) let_go: Count,
    /// Successes that Redis was told in a gap: each may be repeated.
    pub(super) forgotten: u64,
    pub(super) phantom: Count,
    pub(super) duplicated: Count,
    pub(super) other_id: Count,
    pub(super) corrupt: Count,
    pub(super) foreign: Count,
    pub(super) inverted: Count,
    pub(super) pending: Count,
    pub(super) books: Count,
    /// Deliveries with more than one final state; they are among `books`, too.
    pub(super) twice: u64,
}

impl Findings {
    pub(super) fn merge(&mut self, other: Self) {
        for (total, part) in [
            (&mut self.accepted, other.accepted),
            (&mut self.refused, other.refused),
            (&mut self.unknown, other.unknown),
            (&mut self.recovered, other.recovered),
            (&mut self.delivered, other.delivered),
            (&mut self.ended_otherwise, other.ended_otherwise),
            (&mut self.attempts, other.attempts),
            (&mut self.ambiguous, other.ambiguous),
            (&mut self.twice, other.twice),
            (&mut self.forgotten, other.forgotten),
        ] {
            *total += part;
        }
        self.lost.merge(other.lost);
        self.let_go.merge(other.let_go);
        self.phantom.merge(other.phantom);
        self.duplicated.merge(other.duplicated);
        self.other_id.merge(other.other_id);
        self.corrupt.merge(other.corrupt);
        self.foreign.merge(other.foreign);
        self.inverted.merge(other.inverted);
        self.pending.merge(other.pending);
        self.books.merge(other.books);
    }
}

/// How one invariant came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invariant {
    /// As `I1 lost`.
    pub name: &'static str,
    pub found: u64,
    /// Most that may be found; none where the row's fault leaves nothing to be judged.
    pub bound: Option<u64>,
    /// The first findings, or what was compared.
    pub note: String,
}

impl Invariant {
    pub(super) fn of(name: &'static str, count: &Count, bound: Option<u64>) -> Self {
        Self { name, found: count.found, bound, note: count.examples.join("; ") }
    }

    /// Whether no more was found than allowed.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.bound.is_none_or(|bound| self.found <= bound)
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, found, bound, note } = self;
        let verdict = match bound {
            None => "not judged",
            Some(_) if self.holds() => "holds",
            Some(_) => "BROKEN",
        };
        let bound = bound.map_or_else(|| String::from("-"), |bound| bound.to_string());
        write!(f, "{name:<15} {found:>7}  bound {bound:>7}  {verdict}")?;
        if !note.is_empty() {
            write!(f, "  {note}")?;
        }
        Ok(())
    }
}
