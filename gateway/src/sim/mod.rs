//! A simulated world: the real journal and dispatcher under a simulated clock, disk and providers.
//!
//! A schedule is a pure function of its seed. `BUGLER_SIM_SEED=<seed>` runs one alone and tells
//! its story.

mod dice;
pub(crate) mod disk;
mod ledger;
mod parts;
mod records;
#[cfg(test)]
mod tests;
mod world;
