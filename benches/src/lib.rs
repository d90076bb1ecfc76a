//! Benches as ratios measured in one run, one file per seam in `benches/`; what several share.

pub mod bare;
mod figures;
mod gateway;
mod people;
mod role;
mod server;
mod times;

pub use figures::{judge, median, micros_each, per_second};
pub use gateway::{Gateway, notification};
pub use people::{Person, person, scatter};
pub use role::Role;
pub use server::{Constant, Failed, api, api_over, serve};
pub use times::Times;
