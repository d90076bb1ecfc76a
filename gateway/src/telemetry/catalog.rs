//! Every metric Bugler emits: name, type, unit and meaning, in one list.
//!
//! The emitting functions are in `metrics`; documentation and dashboards are checked against
//! [`CATALOG`].

use metrics::Unit;

/// The type of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesKind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric family.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    pub name: &'static str,
    pub kind: SeriesKind,
    pub unit: Unit,
    pub help: &'static str,
}

macro_rules! catalog {
    ($($id:ident = $name:literal, $kind:ident, $unit:ident, $help:literal;)*) => {
        $(#[doc = $help] pub const $id: &str = $name;)*

        /// All families, in the order of the notification's path.
        pub const CATALOG: &[Series] = &[$(Series {
            name: $id,
            kind: SeriesKind::$kind,
            unit: Unit::$unit,
            help: $help,
        }),*];
    };
}

catalog! {
    HTTP_CONNECTIONS = "bugler_http_connections", Gauge, Count,
        "Open connections, by protocol.";
    HTTP_CONNECTIONS_REFUSED_TOTAL = "bugler_http_connections_refused_total", Counter, Count,
        "Connections closed before any request was served, by reason.";
    HTTP_ACCEPT_ERRORS_TOTAL = "bugler_http_accept_errors_total", Counter, Count,
        "Failed accept calls, for example for want of file descriptors.";
    HTTP_REQUESTS_TOTAL = "bugler_http_requests_total", Counter, Count,
        "Answered requests, by dialect, route, method and status class.";
    HTTP_REQUEST_DURATION_SECONDS = "bugler_http_request_duration_seconds", Histogram, Seconds,
        "Time from a request's head to its answer, by dialect, route and method.";
    HTTP_REQUEST_BYTES = "bugler_http_request_bytes", Histogram, Bytes,
        "Size of request bodies, by dialect and route.";
    HTTP_INFLIGHT_REQUESTS = "bugler_http_inflight_requests", Gauge, Count,
        "Admitted requests that have no answer yet.";
    HTTP_REFUSED_TOTAL = "bugler_http_refused_total", Counter, Count,
        "Requests refused before they reached a dialect, by reason.";

    NOTIFICATIONS_ACCEPTED_TOTAL = "bugler_notifications_accepted_total", Counter, Count,
        "Notifications made durable and acknowledged, by dialect.";
    NOTIFICATIONS_REJECTED_TOTAL = "bugler_notifications_rejected_total", Counter, Count,
        "Notifications refused, by dialect and reason.";
    IDEMPOTENT_REPLAYS_TOTAL = "bugler_idempotent_replays_total", Counter, Count,
        "Requests answered from a remembered idempotency key, by dialect.";
    BULK_LINES = "bugler_bulk_lines", Histogram, Count,
        "Lines in one bulk request.";

    ADMISSION_REFUSED_TOTAL = "bugler_admission_refused_total", Counter, Count,
        "Requests refused because of overload, a full backlog or a full disk, by reason and class.";
    ADMISSION_LEVEL = "bugler_admission_level", Gauge, Count,
        "Drop level of the admission: 0 while the journal keeps up.";
    ORG_SHARE = "bugler_org_share", Gauge, Count,
        "Largest shares of the last second's bytes, by rank.";
    COMMIT_WAIT_SECONDS = "bugler_commit_wait_seconds", Histogram, Seconds,
        "Time a request waits for its group commit.";
    LOG_COMMIT_ENTRIES = "bugler_log_commit_entries", Histogram, Count,
        "Entries in one group commit.";
    LOG_FSYNC_DURATION_SECONDS = "bugler_log_fsync_duration_seconds", Histogram, Seconds,
        "Time of one fdatasync of the journal.";
    LOG_PENDING_ENTRIES = "bugler_log_pending_entries", Gauge, Count,
        "Journal entries not yet done, timers included, by shard.";
    LOG_PENDING_BYTES = "bugler_log_pending_bytes", Gauge, Bytes,
        "Bytes of journal entries not yet done, by shard.";
    LOG_TIMERS = "bugler_log_timers", Gauge, Count,
        "Journal entries waiting for a time, by shard.";
    LOG_UNREADABLE_ENTRIES = "bugler_log_unreadable_entries", Gauge, Count,
        "Pending journal entries found unreadable since the start, by shard.";
    CONFIG_RELOADS_TOTAL = "bugler_config_reloads_total", Counter, Count,
        "Times the configuration was read again, by result.";
    STORE_ERRORS_TOTAL = "bugler_store_errors_total", Counter, Count,
        "Failed journal or store operations, by backend.";
    REDIS_ERRORS_TOTAL = "bugler_redis_errors_total", Counter, Count,
        "Commands that Redis did not carry out, by error.";
    REDIS_REACHABLE = "bugler_redis_reachable", Gauge, Count,
        "1 while every slot is served by a node that answers.";
    REDIS_SHARDS_OWNED = "bugler_redis_shards_owned", Gauge, Count,
        "Shards that this process works on.";
    OUTBOX_ENTRIES = "bugler_outbox_entries", Gauge, Count,
        "Notifications that this process keeps until they are settled.";
    OUTBOX_REPEATED_TOTAL = "bugler_outbox_repeated_total", Counter, Count,
        "Notifications that Redis had lost and that were added again.";
    REDIS_CLAIMS_LEFT_TOTAL = "bugler_redis_claims_left_total", Counter, Count,
        "Claims that had not ended when their shard was given up.";

    RULE_ITEMS_TOTAL = "bugler_rule_items_total", Counter, Count,
        "Items evaluated, by rule, version, hook and stage.";
    RULE_DECISIONS_TOTAL = "bugler_rule_decisions_total", Counter, Count,
        "Answers of rules, by rule, version, hook, stage, decision and code.";
    RULE_ERRORS_TOTAL = "bugler_rule_errors_total", Counter, Count,
        "Items a rule broke at, by rule, version, hook, stage and kind.";
    RULE_WAITED_TOTAL = "bugler_rule_waited_total", Counter, Count,
        "Calls of authorize rules that were made again, because their time passed without a processor.";
    RULE_FUEL_TOTAL = "bugler_rule_fuel_total", Counter, Count,
        "Fuel burned, by rule, version, hook and stage.";
    RULE_BATCH_DURATION_SECONDS = "bugler_rule_batch_duration_seconds", Histogram, Seconds,
        "Time of one rule call, by rule, version, hook and stage.";
    RULE_BATCH_ITEMS = "bugler_rule_batch_items", Histogram, Count,
        "Items of one rule call, by rule, version, hook and stage.";
    RULE_SHADOW_COMPARED_TOTAL = "bugler_rule_shadow_compared_total", Counter, Count,
        "Answers of shadows that were compared, by rule, version, hook and stage.";
    RULE_SHADOW_DIFF_TOTAL = "bugler_rule_shadow_diff_total", Counter, Count,
        "Answers of shadows that differ, by rule, version, hook and stage.";
    RULE_INSTANCES = "bugler_rule_instances", Gauge, Count,
        "Instances that are running, by rule, version, hook and stage.";
    RULE_INFO = "bugler_rule_info", Gauge, Count,
        "1 for each version in force, by rule, version and stage.";
    RULE_COMPILATIONS_TOTAL = "bugler_rule_compilations_total", Counter, Count,
        "Components made ready, by result: kept, compiled, refused.";

    PROVIDER_REQUESTS_TOTAL = "bugler_provider_requests_total", Counter, Count,
        "Tries at providers, by channel, app and result.";
    PROVIDER_REQUEST_DURATION_SECONDS = "bugler_provider_request_duration_seconds", Histogram,
        Seconds, "Time of one try, by channel and app.";
    PROVIDER_INFLIGHT_REQUESTS = "bugler_provider_inflight_requests", Gauge, Count,
        "Tries without an answer yet, by channel and app.";

    SCHED_WAITING = "bugler_sched_waiting", Gauge, Count,
        "Deliveries waiting in memory for their turn.";
    SCHED_IN_FLIGHT = "bugler_sched_in_flight", Gauge, Count,
        "Tries between a provider and their committed result.";
    SCHED_ORGANIZATIONS = "bugler_sched_organizations", Gauge, Count,
        "Organizations with deliveries waiting or in flight.";
    SCHED_ROUNDS_WAITED_MAX = "bugler_sched_rounds_waited_max", Gauge, Count,
        "Most rounds that anybody was passed over who could have been served: more than 2 is a bug.";
    SCHED_SENT_BACK_TOTAL = "bugler_sched_sent_back_total", Counter, Count,
        "Deliveries put back into the journal untried: a gate, a breaker, or no room.";
    SCHED_COLLAPSED_TOTAL = "bugler_sched_collapsed_total", Counter, Count,
        "Deliveries replaced by a newer one with their collapse key.";
    SCHED_MERGED_TOTAL = "bugler_sched_merged_total", Counter, Count,
        "Deliveries that went out within the message of another.";
    OLDEST_DUE_AGE_SECONDS = "bugler_oldest_due_age_seconds", Gauge, Seconds,
        "How long the delivery has waited in memory that waits longest.";
    TARGET_LIMIT = "bugler_target_limit", Gauge, Count,
        "Tries in flight that the most limited known target takes, by channel.";
    BREAKER_STATE = "bugler_breaker_state", Gauge, Count,
        "Targets whose breaker is not closed, by channel and state.";

    DELIVERIES_TOTAL = "bugler_deliveries_total", Counter, Count,
        "Deliveries that reached their final state, by channel and outcome.";
    DELIVERY_DURATION_SECONDS = "bugler_delivery_duration_seconds", Histogram, Seconds,
        "Time from acceptance to the provider's acceptance, by channel.";
    RETRIES_TOTAL = "bugler_retries_total", Counter, Count,
        "Tries after the first, by channel.";
    DLQ_ENTRIES = "bugler_dlq_entries", Gauge, Count,
        "Dead letters kept for replay.";

    PANICS_TOTAL = "bugler_panics_total", Counter, Count,
        "Panics caught at a task's boundary, by task.";
    LOG_LINES_DROPPED_TOTAL = "bugler_log_lines_dropped_total", Counter, Count,
        "Log lines given up because the log's reader is stuck.";
    BUILD_INFO = "bugler_build_info", Gauge, Count,
        "Always 1; carries the version.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_follow_the_convention() {
        let mut seen = HashSet::new();
        for series in CATALOG {
            assert!(seen.insert(series.name), "{} is listed twice", series.name);
            assert!(series.name.starts_with("bugler_"), "{}", series.name);
            let counts = series.name.ends_with("_total");
            assert_eq!(counts, series.kind == SeriesKind::Counter, "{}", series.name);
            let timed = series.name.ends_with("_seconds");
            assert_eq!(timed, series.unit == Unit::Seconds, "{}", series.name);
        }
    }
}
