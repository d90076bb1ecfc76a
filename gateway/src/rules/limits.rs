//! Ceilings on what one evaluation may use, and how a breach of them is named.

use crate::rules::error::RuleError;
use crate::rules::host::CallStorm;
use crate::rules::manifest::Caps;
use crate::rules::state::{
    COUNTS_PER_ITEM, KEY_BYTES_MAX, KEYS_MAX, VALUE_BYTES_MAX, VALUE_BYTES_MAX_ALL,
    VALUES_PER_ITEM, WINDOW_MS_MAX, WINDOW_MS_MIN,
};
use std::time::Duration;
use wasmtime::Trap;

/// Rules in one chain.
pub(super) const RULES_MAX: usize = 32;
/// Steps in one plan.
pub(super) const STEPS_MAX: usize = 16;
/// Wait between two steps, and life of a hold.
pub(super) const STEP_WAIT_MS_MAX: u32 = 24 * 60 * 60 * 1000;
pub(super) const HOLD_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// APNs refuses longer collapse ids.
pub(super) const COLLAPSE_KEY_BYTES_MAX: usize = 64;
pub(super) const CODE_BYTES_MAX: usize = 64;
pub(super) const DETAIL_BYTES_MAX: usize = 256;
/// What a transform rule may leave of a payload.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// A digest may collect this many; its key is as long as a counter's.
pub(super) const DIGEST_ITEMS_MAX: u16 = 1_000;
pub(super) const DIGEST_KEY_BYTES_MAX: usize = 128;
pub(super) const TABLES_MAX: usize = 4;

/// What components may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// All modules together.
    pub(super) functions: usize,
    /// Code of one function.
    pub(super) body_bytes: usize,
    /// Core instances of one component: its module and the adapters around it.
    pub(super) instances: usize,
}

/// A compiled rule: one module.
pub(super) const SMALL: Shape = Shape { functions: 5_000, body_bytes: 64 << 10, instances: 8 };
/// A rule that brings its interpreter: that of JavaScript has 12,688 functions of up to 172 kB, that of
/// Python 13,499 of up to 427 kB in 112 core instances.
const WITH_INTERPRETER: Shape = Shape { functions: 16_000, body_bytes: 512 << 10, instances: 128 };
/// What rules with an interpreter ask for at most.
const INTERPRETED_BYTES: usize = 24 << 20;
const INTERPRETED_MEMORY_BYTES: usize = 128 << 20;
const INTERPRETED_FUEL_PER_ITEM: u64 = 20_000_000;

impl Shape {
    /// Where larger components are allowed than a compiled rule has, interpreters are.
    pub(super) fn of(component_bytes: usize) -> Self {
        if component_bytes > RuleLimits::default().component_bytes {
            WITH_INTERPRETER
        } else {
            SMALL
        }
    }
}

/// What one rule may use. The defaults are the documented ceilings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleLimits {
    /// Bytes of a component file.
    pub component_bytes: usize,
    /// Bytes of linear memory.
    pub memory_bytes: usize,
    pub table_elements: usize,
    /// Wasm instructions, roughly: a batch of n gets n times the first plus the second.
    pub fuel_per_item: u64,
    pub fuel_per_batch: u64,
    /// Wall time of one batch, accurate to about 1 ms.
    pub deadline: Duration,
    /// The same for authorize, where a caller waits.
    pub authorize_deadline: Duration,
    /// Bytes a rule may hand back for each item of a batch.
    pub output_bytes_per_item: usize,
    /// Questions to the clock, the settings and the log for each item of a batch.
    pub calls_per_item: u32,
    pub log_lines_per_batch: u32,
    pub log_line_bytes: usize,
    /// Items handed over in one call.
    pub batch_items: usize,
    /// Text handed over in one call, roughly.
    pub batch_bytes: usize,
}

impl Default for RuleLimits {
    fn default() -> Self {
        Self {
            component_bytes: 8 << 20,
            memory_bytes: 16 << 20,
            table_elements: 10_000,
            fuel_per_item: 1_000_000,
            fuel_per_batch: 50_000,
            deadline: Duration::from_millis(50),
            authorize_deadline: Duration::from_millis(10),
            output_bytes_per_item: 64 << 10,
            calls_per_item: 256,
            log_lines_per_batch: 16,
            log_line_bytes: 1024,
            batch_items: 256,
            batch_bytes: 1 << 20,
        }
    }
}

impl RuleLimits {
    pub(super) fn fuel(&self, items: usize) -> u64 {
        let items = u64::try_from(items).unwrap_or(u64::MAX);
        self.fuel_per_item.saturating_mul(items).saturating_add(self.fuel_per_batch)
    }

    /// The default ceilings, raised where a rule asks for more to what one with an interpreter may
    /// have: what the tools apply, since the gateway for which it is meant may be set so.
    #[must_use]
    pub fn asked_by(caps: &Caps) -> Self {
        let mut own = Self::default();
        let asked = caps.component.unwrap_or(0).min(INTERPRETED_BYTES);
        own.component_bytes = own.component_bytes.max(asked);
        let asked = caps.memory.unwrap_or(0).min(INTERPRETED_MEMORY_BYTES);
        own.memory_bytes = own.memory_bytes.max(asked);
        let asked = caps.fuel_per_item.unwrap_or(0).min(INTERPRETED_FUEL_PER_ITEM);
        own.fuel_per_item = own.fuel_per_item.max(asked);
        own
    }

    /// These limits, tightened by what a rule allows itself.
    pub(super) fn tightened(&self, caps: &Caps) -> Result<Self, RuleError> {
        let mut own = self.clone();
        if let Some(fuel) = caps.fuel_per_item {
            tighten("fuel_per_item", &mut own.fuel_per_item, fuel)?;
        }
        if let Some(component) = caps.component {
            tighten("component", &mut own.component_bytes, component)?;
        }
        if let Some(memory) = caps.memory {
            tighten("memory", &mut own.memory_bytes, memory)?;
        }
        if let Some(deadline) = caps.deadline {
            tighten("deadline", &mut own.deadline, deadline)?;
            own.authorize_deadline = own.authorize_deadline.min(deadline);
        }
        Ok(own)
    }

    /// The same where `caps` may be looser: a gateway's limits may have been lowered since.
    pub(super) fn capped(&self, caps: &Caps) -> Self {
        let mut own = self.clone();
        own.fuel_per_item = own.fuel_per_item.min(caps.fuel_per_item.unwrap_or(u64::MAX));
        own.memory_bytes = own.memory_bytes.min(caps.memory.unwrap_or(usize::MAX));
        own.deadline = own.deadline.min(caps.deadline.unwrap_or(Duration::MAX));
        own.authorize_deadline = own.authorize_deadline.min(own.deadline);
        own
    }

    /// A whole batch of the largest answers is not worth its memory: 1 MiB is enough for any batch.
    pub(super) fn output_bytes(&self, items: usize) -> usize {
        let most = self.output_bytes_per_item.max(1 << 20);
        self.output_bytes_per_item.saturating_mul(items).min(most)
    }

    pub(super) fn calls(&self, items: usize) -> u32 {
        self.calls_per_item.saturating_mul(u32::try_from(items).unwrap_or(u32::MAX))
    }
}

fn tighten<T: PartialOrd>(key: &'static str, own: &mut T, cap: T) -> Result<(), RuleError> {
    if cap > *own {
        return Err(RuleError::LooserLimit { key });
    }
    *own = cap;
    Ok(())
}

/// Why an evaluation has no usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    pub kind: BreachKind,
    /// For the rule's author, at most 256 bytes.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreachKind {
    Trap,
    Deadline,
    Fuel,
    Memory,
    Output,
    /// The rule was not asked: it broke in the same way too often just before.
    Breaker,
}

impl BreachKind {
    /// The code of the `error` decision.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Fuel => "fuel",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::Breaker => "breaker",
        }
    }
}

impl Breach {
    pub(super) fn new(kind: BreachKind, text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
        Self { kind, text }
    }

    pub(super) fn output(text: impl Into<String>) -> Self {
        Self::new(BreachKind::Output, text)
    }

    /// Names a failed call. `memory_refused`: the rule had asked for more memory than it may have,
    /// which a guest answers with a trap of its own.
    pub(super) fn of_call(error: &wasmtime::Error, memory_refused: bool) -> Self {
        let kind = match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => BreachKind::Fuel,
            Some(Trap::Interrupt) => BreachKind::Deadline,
            _ if error.is::<CallStorm>() => BreachKind::Fuel,
            _ if memory_refused => BreachKind::Memory,
            Some(_) => BreachKind::Trap,
            // Not a trap: what the guest handed back could not be read.
            None => BreachKind::Output,
        };
        Self::new(kind, error.root_cause().to_string())
    }
}

/// What rules may count and keep, for people.
#[must_use]
pub fn counting_limits() -> [(&'static str, String); 4] {
    let days = WINDOW_MS_MAX / (24 * 60 * 60 * 1_000);
    [
        (
            "counters",
            format!(
                "{COUNTS_PER_ITEM} an item, keys of {KEY_BYTES_MAX} bytes, {KEYS_MAX} keys of a rule"
            ),
        ),
        ("windows", format!("{} s to {days} days", WINDOW_MS_MIN / 1_000)),
        ("values", format!("{VALUES_PER_ITEM} an item, {} KiB each", VALUE_BYTES_MAX >> 10)),
        ("values of a rule", format!("{} MiB, {days} days", VALUE_BYTES_MAX_ALL >> 20)),
    ]
}
