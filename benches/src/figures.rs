//! Figures of a comparison: medians, rates, and whether a goal is met.

use crate::Failed;
use std::io::Write;
use std::time::Duration;

/// The middle one of several rounds; 0 without any.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[must_use]
pub fn per_second(count: usize, elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count shown with three digits")]
    let count = count as f64;
    count / elapsed.as_secs_f64()
}

/// Microseconds of processor time for each of `count`.
#[must_use]
pub fn micros_each(cpu: Duration, count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count shown with three digits")]
    let count = count as f64;
    cpu.as_secs_f64() * 1e6 / count
}

/// Writes one line of a comparison; answers whether its goal is met.
///
/// # Errors
/// When standard output is closed.
pub fn judge(what: &str, value: f64, goal: &str, is_met: bool) -> Result<bool, Failed> {
    let mark = if is_met { "ok" } else { "MISSED" };
    writeln!(std::io::stdout(), "{what:<48} {value:>9.2}   goal {goal}   {mark}")?;
    Ok(is_met)
}
