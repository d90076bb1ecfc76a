//! What a running rule can reach: the frozen clock, its settings, a bounded log, bounded memory.

use crate::model::Millis;
use crate::rules::abi::{clock, config, log, types};
use crate::rules::limits::{INSTANCES_MAX, RuleLimits, TABLES_MAX};
use crate::rules::localtime::Zones;
use crate::rules::settings::RuleConfig;
use std::sync::Arc;
use wasmtime::ResourceLimiter;

/// State of one evaluation. Lives as long as its instance and never serves a second organization.
#[derive(Debug)]
pub(super) struct Host {
    rule: Arc<RuleConfig>,
    /// Organization of the batch, as its rules name it.
    org: String,
    now: Millis,
    zones: Zones,
    memory_bytes: usize,
    table_elements: usize,
    log_line_bytes: usize,
    log_lines_left: u32,
    calls_left: u32,
    memory_refused: bool,
}

/// The rule asked the gateway more often than it may: each question is cheap in fuel, not in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the rule asked the gateway too many questions for one batch")]
pub(super) struct CallStorm;

impl Host {
    pub(super) fn new(
        rule: Arc<RuleConfig>,
        org: String,
        now: Millis,
        zones: Zones,
        limits: (&RuleLimits, usize),
    ) -> Self {
        let (limits, items) = limits;
        Self {
            rule,
            org,
            now,
            zones,
            memory_bytes: limits.memory_bytes,
            table_elements: limits.table_elements,
            log_line_bytes: limits.log_line_bytes,
            log_lines_left: limits.log_lines_per_batch,
            calls_left: limits.calls(items),
            memory_refused: false,
        }
    }

    /// True once the rule asked for more memory than it may have.
    pub(super) fn memory_refused(&self) -> bool {
        self.memory_refused
    }

    fn count_call(&mut self) -> wasmtime::Result<()> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or(CallStorm)?;
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
        let fits = desired <= self.memory_bytes;
        self.memory_refused |= !fits;
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= self.table_elements;
        self.memory_refused |= !fits;
        Ok(fits)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
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
        self.count_call()?;
        let Some(left) = self.log_lines_left.checked_sub(1) else { return Ok(()) };
        self.log_lines_left = left;
        let mut line = message;
        line.truncate(line.floor_char_boundary(self.log_line_bytes));
        // `Debug` quotes the text, so a rule cannot forge lines or steer a terminal.
        let (rule_name, org_id) = (&self.rule.name, &self.org);
        tracing::debug!(target: "rules", %rule_name, %org_id, ?level, ?line, "a rule's log line");
        Ok(())
    }
}

impl clock::Host for Host {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.count_call()?;
        Ok(self.now.0)
    }

    fn local(
        &mut self,
        at: u64,
        tz: String,
    ) -> wasmtime::Result<Result<clock::LocalTime, clock::TzError>> {
        self.count_call()?;
        Ok(self.zones.local(Millis(at), &tz))
    }

    fn next_local(
        &mut self,
        after: u64,
        tz: String,
        hour: u8,
        minute: u8,
    ) -> wasmtime::Result<Result<u64, clock::TzError>> {
        self.count_call()?;
        let next = self.zones.next_local(Millis(after), &tz, hour, minute);
        Ok(next.map(|at| at.0))
    }
}

impl config::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.count_call()?;
        Ok(self.rule.config.get(&key).cloned())
    }

    fn get_for_org(&mut self, org_id: String, key: String) -> wasmtime::Result<Option<String>> {
        self.count_call()?;
        // What other organizations set is none of this batch's business.
        let own = (org_id == self.org).then(|| self.rule.config_for_org.get(&org_id)).flatten();
        let value = own.and_then(|settings| settings.get(&key));
        Ok(value.or_else(|| self.rule.config.get(&key)).cloned())
    }
}
