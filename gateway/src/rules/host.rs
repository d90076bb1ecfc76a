//! What a running rule can reach: the frozen clock, its settings, what it remembers, a bounded log, bounded memory.

use crate::model::Millis;
use crate::rules::abi::{clock, config, counters, kv, log, types};
use crate::rules::limits::{RuleLimits, Shape, TABLES_MAX};
use crate::rules::localtime::Zones;
use crate::rules::recorder::Recorder;
use crate::rules::settings::RuleConfig;
use crate::rules::state::{Effects, Refusal, RuleState};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use wasmtime::ResourceLimiter;

/// Host calls of one evaluation that are kept for whoever asked to see them.
const CALLS_RECORDED_MAX: usize = 1024;

/// State of one evaluation. Lives as long as its instance and never serves a second organization.
#[derive(Debug)]
pub(super) struct Host {
    rule: Arc<RuleConfig>,
    /// Organization of the batch, as its rules name it.
    org: String,
    now: Millis,
    zones: Zones,
    recorder: Option<Arc<Recorder>>,
    limits: Arc<RuleLimits>,
    items: usize,
    effects: Effects,
    record: Option<Record>,
    log_lines_left: u32,
    calls_left: u32,
    memory_bytes: usize,
    memory_refused: bool,
}

/// What an evaluation did beside answering.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) lines: Vec<LogLine>,
    pub(super) calls: Vec<HostCall>,
}

/// A line of a rule's log, cut to its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    pub level: LogLevel,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// A question of a rule to the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostCall {
    /// `counters.take`, `clock.now`, …
    pub name: &'static str,
    /// The key, zone or setting it asked for; empty where there is none.
    pub key: String,
}

/// What an evaluation runs with.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) rule: Arc<RuleConfig>,
    pub(super) limits: Arc<RuleLimits>,
    pub(super) state: Arc<RuleState>,
    pub(super) org: String,
    pub(super) now: Millis,
    pub(super) items: usize,
    pub(super) is_recorded: bool,
}

/// The rule asked the gateway more often than it may: each question is cheap in fuel, not in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the rule asked the gateway too many questions for one batch")]
pub(super) struct CallStorm;

impl Host {
    pub(super) fn new(setting: Setting, zones: Zones, recorder: Option<Arc<Recorder>>) -> Self {
        let Setting { rule, limits, state, org, now, items, is_recorded } = setting;
        let is_captured = |recorder: &Arc<Recorder>| recorder.is_capturing(&rule.name, &org, now);
        let is_captured = recorder.as_ref().is_some_and(is_captured);
        Self {
            effects: Effects::new(state, org.clone(), now.0, items).noting(is_captured),
            log_lines_left: limits.log_lines_per_batch,
            calls_left: limits.calls(items),
            record: is_recorded.then(Record::default),
            memory_bytes: 0,
            memory_refused: false,
            rule,
            org,
            now,
            zones,
            recorder,
            limits,
            items,
        }
    }

    pub(super) fn limits(&self) -> &RuleLimits {
        &self.limits
    }

    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// Most linear memory it had.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(super) fn finish(self) -> (Effects, Record) {
        (self.effects, self.record.unwrap_or_default())
    }

    /// True once the rule asked for more memory than it may have.
    pub(super) fn memory_refused(&self) -> bool {
        self.memory_refused
    }

    fn count_call(&mut self, name: &'static str, key: &str) -> wasmtime::Result<()> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or(CallStorm)?;
        if let Some(record) = &mut self.record
            && record.calls.len() < CALLS_RECORDED_MAX
        {
            let key = key.chars().take(128).collect();
            record.calls.push(HostCall { name, key });
        }
        Ok(())
    }
}

impl ResourceLimiter for Host {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= self.limits.memory_bytes;
        self.memory_refused |= !fits;
        if fits {
            self.memory_bytes = self.memory_bytes.max(desired);
        }
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= self.limits.table_elements;
        self.memory_refused |= !fits;
        Ok(fits)
    }

    fn instances(&self) -> usize {
        Shape::of(self.limits.component_bytes).instances
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        1
    }
}

impl types::Host for Host {}

impl log::Host for Host {
    fn log(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.count_call("log.log", "")?;
        let Some(left) = self.log_lines_left.checked_sub(1) else { return Ok(()) };
        self.log_lines_left = left;
        let mut line = message;
        line.truncate(line.floor_char_boundary(self.limits.log_line_bytes));
        // `Debug` quotes the text, so a rule cannot forge lines or steer a terminal.
        let (rule_name, org_id) = (&self.rule.name, &self.org);
        tracing::debug!(target: "rules", %rule_name, %org_id, ?level, ?line, "a rule's log line");
        let level = match level {
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        if let Some(recorder) = &self.recorder {
            let of = (rule_name.as_str(), self.rule.version.as_str(), org_id.as_str());
            recorder.log(of, self.now, (level, &line));
        }
        if let Some(record) = &mut self.record {
            record.lines.push(LogLine { level, text: line });
        }
        Ok(())
    }
}

impl counters::Host for Host {
    fn add(
        &mut self,
        key: String,
        by: u32,
        window_ms: u32,
    ) -> wasmtime::Result<Result<u64, counters::CounterError>> {
        self.count_call("counters.add", &key)?;
        Ok(self.effects.add(&key, by, window_ms).map_err(counter_error))
    }

    fn peek(
        &mut self,
        key: String,
        window_ms: u32,
    ) -> wasmtime::Result<Result<u64, counters::CounterError>> {
        self.count_call("counters.peek", &key)?;
        Ok(self.effects.peek(&key, window_ms).map_err(counter_error))
    }

    fn take(
        &mut self,
        key: String,
        per_window: u32,
        window_ms: u32,
        burst: u32,
    ) -> wasmtime::Result<Result<bool, counters::CounterError>> {
        self.count_call("counters.take", &key)?;
        Ok(self.effects.take(&key, (per_window, window_ms, burst)).map_err(counter_error))
    }
}

fn counter_error(refusal: Refusal) -> counters::CounterError {
    match refusal {
        Refusal::Quota | Refusal::ValueLength => counters::CounterError::Quota,
        Refusal::KeyLength => counters::CounterError::KeyTooLong,
        Refusal::Window => counters::CounterError::BadWindow,
    }
}

impl kv::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        self.count_call("kv.get", &key)?;
        Ok(self.effects.get(&key))
    }

    fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl_ms: u32,
    ) -> wasmtime::Result<Result<(), kv::KvError>> {
        self.count_call("kv.set", &key)?;
        Ok(self.effects.set(&key, value, ttl_ms).map_err(|refusal| match refusal {
            Refusal::Quota | Refusal::Window => kv::KvError::Quota,
            Refusal::KeyLength => kv::KvError::KeyTooLong,
            Refusal::ValueLength => kv::KvError::ValueTooLarge,
        }))
    }
}

impl clock::Host for Host {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.count_call("clock.now", "")?;
        Ok(self.now.0)
    }

    fn local(
        &mut self,
        at: u64,
        tz: String,
    ) -> wasmtime::Result<Result<clock::LocalTime, clock::TzError>> {
        self.count_call("clock.local", &tz)?;
        Ok(self.zones.local(Millis(at), &tz))
    }

    fn next_local(
        &mut self,
        after: u64,
        tz: String,
        hour: u8,
        minute: u8,
    ) -> wasmtime::Result<Result<u64, clock::TzError>> {
        self.count_call("clock.next-local", &tz)?;
        let next = self.zones.next_local(Millis(after), &tz, hour, minute);
        Ok(next.map(|at| at.0))
    }
}

impl config::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.count_call("config.get", &key)?;
        Ok(self.rule.config.get(&key).cloned())
    }

    fn get_for_org(&mut self, org_id: String, key: String) -> wasmtime::Result<Option<String>> {
        self.count_call("config.get-for-org", &key)?;
        // What other organizations set is none of this batch's business.
        let own = (org_id == self.org).then(|| self.rule.config_for_org.get(&org_id)).flatten();
        let value = own.and_then(|settings| settings.get(&key));
        Ok(value.or_else(|| self.rule.config.get(&key)).cloned())
    }
}
