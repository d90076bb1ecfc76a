//! The ledgers of a run and what they prove: what the client was promised against what the
//! providers received.

mod check;
mod client;
#[cfg(test)]
mod tests;

pub use check::{Expectation, Invariant, Verdict, check};
pub(crate) use client::Line as ClientLine;
pub use client::{ClientEntry, ClientLedger, Outcome};
