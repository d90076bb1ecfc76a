//! Benches, one file per seam.
