//! Memory and processor time of a process, read from `/proc` for reports.

use std::fs;
use std::io;
use std::time::Duration;

/// Clock ticks per second in `/proc/<pid>/stat`: fixed by the kernel's user interface on Linux.
const TICKS_PER_SECOND: u64 = 100;

/// One reading of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Largest resident memory so far, in bytes.
    pub rss_peak_bytes: u64,
    /// User and system time used so far.
    pub cpu: Duration,
}

/// Reads the process `pid`.
///
/// # Errors
/// The process is gone, is not ours to read, or `/proc` is not what Linux documents.
pub fn sample(pid: u32) -> io::Result<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "a field of /proc is missing");
    Ok(Sample {
        rss_bytes: status_kib(&status, "VmRSS:").ok_or_else(missing)? * 1024,
        rss_peak_bytes: status_kib(&status, "VmHWM:").ok_or_else(missing)? * 1024,
        cpu: cpu_time(&stat).ok_or_else(missing)?,
    })
}

/// Reads this very process.
///
/// # Errors
/// As [`sample`].
pub fn sample_self() -> io::Result<Sample> {
    sample(std::process::id())
}

/// Most that a crowded machine is excused.
const CROWDING_MAX: f64 = 5.0;

/// Processes that want to run for each processor, over the last minute: from 1, also where nobody
/// knows, to 5.
#[must_use]
pub fn crowding() -> f64 {
    let read = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = read.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(1.0);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    #[expect(clippy::cast_precision_loss, reason = "a machine has some thousand at most")]
    let each = load / processors as f64;
    each.clamp(1.0, CROWDING_MAX)
}

fn status_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn cpu_time(stat: &str) -> Option<Duration> {
    // The command name is in parentheses and may itself hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_process() {
        let sample = sample_self().expect("/proc of the own process is readable");
        assert!(sample.rss_bytes > 100_000);
        assert!(sample.rss_peak_bytes >= sample.rss_bytes / 2);
    }

    #[test]
    fn a_command_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(sample(u32::MAX).is_err());
    }
}
