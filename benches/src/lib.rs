//! Benches as ratios measured in one run, one file per seam in `benches/`; what several share.

mod people;
mod times;

pub use people::{Person, person, scatter};
pub use times::Times;
