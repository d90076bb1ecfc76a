//! What the process says about itself: metrics for Prometheus and logs for people and collectors.

pub mod catalog;
pub mod logging;
pub mod metrics;
