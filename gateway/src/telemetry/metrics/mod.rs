//! The emitting side of the metrics: one function or handle per family of the catalog.
//!
//! Handles are made once and kept, so that no label is hashed on a request's path. Before
//! [`install`] every emission is a no-op, so owners make their handles after it.

mod handles;

pub use handles::{
    DeliveryMetrics, InflightMetrics, IntakeMetrics, ProviderMetrics, RouteMetrics, RuleMetrics,
    RulesInForce, SchedulerMetrics, ShardMetrics,
};

use super::catalog::{self as name, CATALOG, SeriesKind};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use parking_lot::Mutex;
use std::sync::OnceLock;
use std::time::Duration;

pub use metrics_exporter_prometheus::PrometheusHandle;

/// Bounds in seconds: the 14 of the messaging convention and three below for the accept path.
const DURATION_BUCKETS: [f64; 17] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    7.5, 10.0,
];
/// Bounds in bytes.
const SIZE_BUCKETS: [f64; 8] =
    [256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0];
/// Bounds for entries in a batch.
const BATCH_BUCKETS: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 4_096.0];

/// Most often the exporter may be left without upkeep; its histograms grow until then.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

static INSTALLED: OnceLock<(PrometheusHandle, Process)> = OnceLock::new();
/// Serialises [`install`]: the recorder can be set only once in a process.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Makes the process record metrics and returns the handle that renders them.
///
/// Calling it again returns the same handle.
///
/// # Errors
/// When another recorder is already installed in the process.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let _one_at_a_time = INSTALLING.lock();
    if let Some((handle, _)) = INSTALLED.get() {
        return Ok(handle.clone());
    }
    let suffix = |end: &str| Matcher::Suffix(end.to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), &DURATION_BUCKETS)?
        .set_buckets_for_metric(suffix("_bytes"), &SIZE_BUCKETS)?
        .set_buckets(&BATCH_BUCKETS)?
        .install_recorder()?;
    for series in CATALOG {
        match series.kind {
            SeriesKind::Counter => {
                metrics::describe_counter!(series.name, series.unit, series.help);
            }
            SeriesKind::Gauge => metrics::describe_gauge!(series.name, series.unit, series.help),
            SeriesKind::Histogram => {
                metrics::describe_histogram!(series.name, series.unit, series.help);
            }
        }
    }
    gauge!(name::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(INSTALLED.get_or_init(|| (handle, Process::new())).0.clone())
}

/// Keeps the exporter's memory bounded; runs until dropped.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}

/// The handles of families without an owner of their own.
#[derive(Debug)]
struct Process {
    connections: Labeled<Gauge>,
    connections_refused: Labeled<Counter>,
    accept_errors: Counter,
    refused: Labeled<Counter>,
    commit_duration: Histogram,
    commit_entries: Histogram,
    fsync_duration: Histogram,
    bulk_lines: Histogram,
    dead_letters: Gauge,
    lines_dropped: Counter,
}

/// Protocols of [`connection_opened`].
const PROTOCOLS: &[&str] = &["http1", "http2", "unknown"];
/// Reasons of [`connection_refused`].
const CONNECTION_REFUSALS: &[&str] = &["per_peer", "silent", "handshake", "reset"];
/// Reasons of [`request_refused`].
const REQUEST_REFUSALS: &[&str] = &[
    "bad_request",
    "method",
    "not_found",
    "uri",
    "headers",
    "media_type",
    "body",
    "overload",
    "timeout",
    "internal",
];
/// Ranks of [`admission`]'s shares.
const SHARE_RANKS: [&str; 5] = ["1", "2", "3", "4", "5"];

impl Process {
    fn new() -> Self {
        let refused = |reason| counter!(name::HTTP_REFUSED_TOTAL, "reason" => reason);
        let closed = |reason| counter!(name::HTTP_CONNECTIONS_REFUSED_TOTAL, "reason" => reason);
        let open = |protocol| gauge!(name::HTTP_CONNECTIONS, "protocol" => protocol);
        // There from the start: what first appears at 1 has no increase to alert on.
        counter!(name::PANICS_TOTAL, "task" => "request").increment(0);
        counter!(name::ADMISSION_REFUSED_TOTAL, "reason" => "overload", "class" => "normal")
            .increment(0);
        counter!(name::STORE_ERRORS_TOTAL, "backend" => "disk").increment(0);
        counter!(name::RULE_COMPILATIONS_TOTAL, "result" => "refused").increment(0);
        for result in ["applied", "refused"] {
            counter!(name::CONFIG_RELOADS_TOTAL, "result" => result).increment(0);
        }
        Self {
            connections: Labeled::new(PROTOCOLS, open),
            connections_refused: Labeled::new(CONNECTION_REFUSALS, closed),
            accept_errors: counter!(name::HTTP_ACCEPT_ERRORS_TOTAL),
            refused: Labeled::new(REQUEST_REFUSALS, refused),
            commit_duration: histogram!(name::COMMIT_WAIT_SECONDS),
            commit_entries: histogram!(name::LOG_COMMIT_ENTRIES),
            fsync_duration: histogram!(name::LOG_FSYNC_DURATION_SECONDS),
            bulk_lines: histogram!(name::BULK_LINES),
            dead_letters: gauge!(name::DLQ_ENTRIES),
            lines_dropped: counter!(name::LOG_LINES_DROPPED_TOTAL),
        }
    }
}

/// Handles of one family over one label with few, known values.
#[derive(Debug)]
struct Labeled<H> {
    values: &'static [&'static str],
    /// One per value, then the one for values not listed.
    handles: Vec<H>,
}

impl<H> Labeled<H> {
    fn new(values: &'static [&'static str], make: impl Fn(&'static str) -> H) -> Self {
        let handles = values.iter().copied().chain(["other"]).map(make).collect();
        Self { values, handles }
    }

    fn with(&self, value: &str, emit: impl FnOnce(&H)) {
        let index = self.values.iter().position(|v| *v == value).unwrap_or(self.values.len());
        if let Some(handle) = self.handles.get(index) {
            emit(handle);
        }
    }
}

fn process(emit: impl FnOnce(&Process)) {
    if let Some((_, process)) = INSTALLED.get() {
        emit(process);
    }
}

/// A connection's protocol is known and it is being served.
pub fn connection_opened(protocol: &'static str) {
    process(|p| p.connections.with(protocol, |g| g.increment(1.0)));
}

/// The counterpart of [`connection_opened`].
pub fn connection_closed(protocol: &'static str) {
    process(|p| p.connections.with(protocol, |g| g.decrement(1.0)));
}

/// A connection was closed before a request: `per_peer`, `silent`, `handshake` or `reset`.
pub fn connection_refused(reason: &'static str) {
    process(|p| p.connections_refused.with(reason, |c| c.increment(1)));
}

/// `accept` failed.
pub fn accept_failed() {
    process(|p| p.accept_errors.increment(1));
}

/// The server refused a request before a dialect saw it.
pub fn request_refused(reason: &'static str) {
    process(|p| p.refused.with(reason, |c| c.increment(1)));
}

/// A request waited `waited` for its group commit.
pub fn commit_waited(waited: Duration) {
    process(|p| p.commit_duration.record(waited));
}

/// A group commit of `entries` was made durable; `fsync` is the time of its sync.
pub fn committed(entries: u32, fsync: Duration) {
    process(|p| {
        p.commit_entries.record(entries);
        p.fsync_duration.record(fsync);
    });
}

/// A request of `class` was refused for `reason`: `overload`, `backlog`, `disk` or `rate`.
pub fn admission_refused(reason: &'static str, class: &'static str) {
    counter!(name::ADMISSION_REFUSED_TOTAL, "reason" => reason, "class" => class).increment(1);
}

/// The drop level, and the largest shares of the last second's bytes, largest first.
pub fn admission(level: u32, shares: &[f64]) {
    gauge!(name::ADMISSION_LEVEL).set(f64::from(level));
    for (rank, label) in SHARE_RANKS.into_iter().enumerate() {
        gauge!(name::ORG_SHARE, "rank" => label).set(shares.get(rank).copied().unwrap_or(0.0));
    }
}

/// A bulk request had `lines` lines.
pub fn bulk_received(lines: u32) {
    process(|p| p.bulk_lines.record(lines));
}

/// `entries` dead letters are kept.
pub fn dead_letters(entries: u32) {
    process(|p| p.dead_letters.set(entries));
}

/// `lines` log lines were given up.
pub fn log_lines_dropped(lines: u64) {
    process(|p| p.lines_dropped.increment(lines));
}

/// A panic was caught at the boundary of `task`.
pub fn panicked(task: &'static str) {
    counter!(name::PANICS_TOTAL, "task" => task).increment(1);
}

/// The configuration was read again: `applied` or `refused`.
pub fn reloaded(result: &'static str) {
    counter!(name::CONFIG_RELOADS_TOTAL, "result" => result).increment(1);
}

/// A component was made ready: `kept` with code from an earlier start, `compiled`, or `refused` and
/// compiled, because what was kept is damaged or not ours.
pub fn rule_compiled(result: &'static str) {
    counter!(name::RULE_COMPILATIONS_TOTAL, "result" => result).increment(1);
}

/// An operation of `backend` (`disk`, `redis`) failed.
pub fn store_failed(backend: &'static str) {
    counter!(name::STORE_ERRORS_TOTAL, "backend" => backend).increment(1);
}

/// Redis did not carry out a command; `error` is a name it uses itself, or ours.
pub fn redis_failed(error: &'static str) {
    counter!(name::REDIS_ERRORS_TOTAL, "error" => error).increment(1);
}

/// Whether every slot is served.
pub fn redis_reachable(is_reachable: bool) {
    gauge!(name::REDIS_REACHABLE).set(if is_reachable { 1.0 } else { 0.0 });
}

/// This process works on `shards` shards.
pub fn redis_shards_owned(shards: u32) {
    gauge!(name::REDIS_SHARDS_OWNED).set(f64::from(shards));
}

/// Notifications in the outbox of this process.
pub fn outbox(entries: u32) {
    gauge!(name::OUTBOX_ENTRIES).set(f64::from(entries));
}

/// Redis had lost `count` notifications, and has them again.
pub fn outbox_repeated(count: u64) {
    counter!(name::OUTBOX_REPEATED_TOTAL).increment(count);
}

/// A shard was given up with `claims` claims that had not ended.
pub fn redis_claims_left(claims: usize) {
    counter!(name::REDIS_CLAIMS_LEFT_TOTAL).increment(claims as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_histograms_with_buckets_and_counts_by_class() {
        let handle = install().unwrap();
        let route = RouteMetrics::new("test", "metrics-unit", "POST");
        route.answered(204, Duration::from_millis(3));
        route.answered(503, Duration::from_millis(3));
        let text = handle.render();
        let line =
            |parts: &[&str]| text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(
            line(&["_duration_seconds_bucket", "metrics-unit", "le=\"0.005\"", " 2"]),
            "{text}"
        );
        assert!(line(&["_requests_total", "metrics-unit", "2xx", " 1"]), "{text}");
        assert!(line(&["_requests_total", "metrics-unit", "5xx", " 1"]), "{text}");
    }

    #[test]
    fn a_second_install_returns_the_same_recorder() {
        install().unwrap();
        let again = install().unwrap();
        DeliveryMetrics::new("second-install").retried();
        assert!(again.render().contains("second-install"));
    }

    #[test]
    fn values_outside_the_closed_set_are_counted_as_other() {
        let handle = install().unwrap();
        DeliveryMetrics::new("closed-set").settled("a-new-word");
        let text = handle.render();
        let other = text.lines().find(|l| l.contains("closed-set") && l.contains("other"));
        assert!(other.is_some_and(|l| l.ends_with(" 1")), "{text}");
    }
}
