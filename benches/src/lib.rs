//! Benches as ratios measured in one run, one file per seam in `benches/`.
