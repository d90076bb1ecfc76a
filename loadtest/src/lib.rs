//! Provider twins, load generator, ledger checker and torture runs: the gateway's independent witness.
//!
//! Nothing here depends on the gateway: what the providers received, what the client was promised
//! and how the two compare is judged from the wire alone.

mod jsonl;
pub mod ledger;
pub mod load;
pub mod marker;
pub mod process;
pub mod redis;
pub mod torture;
pub mod twins;
mod wall;
