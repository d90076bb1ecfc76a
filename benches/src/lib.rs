//! Benches as ratios measured in one run, one file per seam in `benches/`; what several share.

pub mod bare;
mod figures;
mod people;
mod role;
mod server;
mod times;

pub use figures::{judge, median, per_second};
pub use people::{Person, person, scatter};
pub use role::Role;
pub use server::{Constant, Failed, api, api_over, serve};
pub use times::Times;
