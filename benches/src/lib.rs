//! Benches as ratios measured in one run, one file per seam in `benches/`; what several share.

pub mod bare;
mod people;
mod server;
mod times;

pub use people::{Person, person, scatter};
pub use server::{Constant, Failed, api, serve};
pub use times::Times;
