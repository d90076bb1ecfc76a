//! What the process says about itself: metrics for Prometheus and logs for people and collectors.

pub mod catalog;
pub mod logging;
pub mod metrics;

/// An error with its sources, for one log line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
