//! Twins and load.
