//! What a run came to: counts, rates and latencies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Sent;
use super::answer::Codes;
use crate::ledger::{ClientEntry, Outcome};

/// Longest latency told apart, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;
/// A start later than this after its planned time counts as late.
const LATE: Duration = Duration::from_millis(10);

/// Notifications so far, for a live view.
#[derive(Debug, Default)]
pub struct Progress {
    pub sent: AtomicU64,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub unknown: AtomicU64,
    /// Connections that could not be opened.
    pub connect_failures: AtomicU64,
}

impl Progress {
    pub(super) fn count(&self, outcomes: &[ClientEntry]) {
        let (mut accepted, mut refused, mut unknown) = (0, 0, 0);
        for entry in outcomes {
            match entry.outcome {
                Outcome::Accepted(_) => accepted += 1,
                Outcome::Refused(_) => refused += 1,
                Outcome::Unknown => unknown += 1,
            }
        }
        self.accepted.fetch_add(accepted, Ordering::Relaxed);
        self.refused.fetch_add(refused, Ordering::Relaxed);
        self.unknown.fetch_add(unknown, Ordering::Relaxed);
    }
}

/// One worker's measurements.
#[derive(Debug)]
pub(super) struct Tally {
    requests: u64,
    late_starts: u64,
    unhinted: u64,
    by_status: BTreeMap<u16, u64>,
    pub(super) by_code: Codes,
    latency: Histogram<u64>,
    service: Histogram<u64>,
    refusal: Histogram<u64>,
    lateness: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            requests: 0,
            late_starts: 0,
            unhinted: 0,
            by_status: BTreeMap::new(),
            by_code: Codes::new(),
            latency: histogram(),
            service: histogram(),
            refusal: histogram(),
            lateness: histogram(),
        }
    }

    pub(super) fn add(&mut self, sent: &Sent) {
        self.requests += 1;
        self.late_starts += u64::from(sent.lateness > LATE);
        self.lateness.saturating_record(micros(sent.lateness));
        let Some(status) = sent.status else { return };
        *self.by_status.entry(status).or_default() += 1;
        self.unhinted += u64::from(sent.is_unhinted);
        if (200..300).contains(&status) {
            self.latency.saturating_record(micros(sent.latency));
            self.service.saturating_record(micros(sent.service));
        } else {
            self.refusal.saturating_record(micros(sent.service));
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.late_starts += other.late_starts;
        self.unhinted += other.unhinted;
        for (status, count) in &other.by_status {
            *self.by_status.entry(*status).or_default() += count;
        }
        for (code, count) in &other.by_code {
            *self.by_code.entry(code.clone()).or_default() += count;
        }
        for (total, part) in [
            (&mut self.latency, &other.latency),
            (&mut self.service, &other.service),
            (&mut self.refusal, &other.refusal),
            (&mut self.lateness, &other.lateness),
        ] {
            total.add(part).expect("all histograms have the same bounds");
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in their order")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The result of a run. All histograms are in microseconds.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Notifications sent, accepted (2xx), refused and without an answer.
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Requests made, and answers by status.
    pub requests: u64,
    pub by_status: BTreeMap<u16, u64>,
    /// Notifications that were refused, or whose outcome is unknown, by error code.
    pub by_code: BTreeMap<String, u64>,
    /// Answers of 429 and 503 without `Retry-After`.
    pub unhinted: u64,
    pub connect_failures: u64,
    /// Requests that began more than 10 ms after their planned time.
    pub late_starts: u64,
    pub duration: Duration,
    /// Processor time this process used meanwhile, everything in it included.
    pub cpu: Duration,
    /// From the planned time of a request to its 2xx answer.
    pub latency_us: Histogram<u64>,
    /// From the actual start of a request to its 2xx answer.
    pub service_us: Histogram<u64>,
    /// From the actual start of a request to its refusal.
    pub refusal_us: Histogram<u64>,
    /// From the planned time of a request to its start.
    pub lateness_us: Histogram<u64>,
}

impl LoadReport {
    pub(super) fn of(
        total: &Tally,
        progress: &Progress,
        duration: Duration,
        cpu: Duration,
    ) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            sent: read(&progress.sent),
            accepted: read(&progress.accepted),
            refused: read(&progress.refused),
            unknown: read(&progress.unknown),
            requests: total.requests,
            by_status: total.by_status.clone(),
            by_code: total.by_code.clone(),
            unhinted: total.unhinted,
            connect_failures: read(&progress.connect_failures),
            late_starts: total.late_starts,
            duration,
            cpu,
            latency_us: total.latency.clone(),
            service_us: total.service.clone(),
            refusal_us: total.refusal.clone(),
            lateness_us: total.lateness.clone(),
        }
    }

    /// Notifications accepted in each second.
    #[must_use]
    pub fn notifications_per_s(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
        let accepted = self.accepted as f64;
        accepted / self.duration.as_secs_f64().max(0.001)
    }

    /// The report as JSON, latencies in microseconds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "sent": self.sent,
            "accepted": self.accepted,
            "refused": self.refused,
            "unknown": self.unknown,
            "requests": self.requests,
            "by_status": self.by_status,
            "by_code": self.by_code,
            "unhinted": self.unhinted,
            "connect_failures": self.connect_failures,
            "late_starts": self.late_starts,
            "duration_s": self.duration.as_secs_f64(),
            "cpu_s": self.cpu.as_secs_f64(),
            "notifications_per_s": self.notifications_per_s(),
            "latency_us": percentiles(&self.latency_us),
            "service_us": percentiles(&self.service_us),
            "refusal_us": percentiles(&self.refusal_us),
            "lateness_us": percentiles(&self.lateness_us),
        })
    }
}

fn percentiles(histogram: &Histogram<u64>) -> Value {
    json!({
        "count": histogram.len(),
        "p50": histogram.value_at_quantile(0.5),
        "p90": histogram.value_at_quantile(0.9),
        "p99": histogram.value_at_quantile(0.99),
        "p99_9": histogram.value_at_quantile(0.999),
        "max": histogram.max(),
    })
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "sent {}  accepted {}  refused {}  unknown {}  in {:.1} s  =  {:.0} notifications/s",
            self.sent,
            self.accepted,
            self.refused,
            self.unknown,
            self.duration.as_secs_f64(),
            self.notifications_per_s(),
        )?;
        writeln!(
            f,
            "requests {}  answers {:?}  late starts {}  failed connects {}  cpu {:.1} s",
            self.requests,
            self.by_status,
            self.late_starts,
            self.connect_failures,
            self.cpu.as_secs_f64(),
        )?;
        for (name, histogram) in [
            ("latency (from plan)", &self.latency_us),
            ("service (from send)", &self.service_us),
            ("refusal", &self.refusal_us),
        ] {
            if !histogram.is_empty() {
                write_percentiles(f, name, histogram)?;
            }
        }
        Ok(())
    }
}

fn write_percentiles(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    histogram: &Histogram<u64>,
) -> fmt::Result {
    #[expect(clippy::cast_precision_loss, reason = "latencies are below 600 s in microseconds")]
    let ms = |us: u64| us as f64 / 1000.0;
    let at = |quantile| ms(histogram.value_at_quantile(quantile));
    writeln!(
        f,
        "{name:<20} p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        ms(histogram.max()),
    )
}
