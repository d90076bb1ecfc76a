//! Runs a rule over a batch inside the gateway.

use crate::bindings::bugler::rules::clock::{self, LocalTime, TzError};
use crate::bindings::bugler::rules::log::{self, Level};
use crate::bindings::bugler::rules::{config, types::TimestampMs};
use crate::bindings::exports::bugler::rules::router::{Batch, Routed};
use crate::{Cx, Host, Item, TimeOfDay};
use std::panic;
use std::sync::Once;

/// A route rule as its author writes it.
pub type Route = fn(&Item<'_>, &Cx<'_>) -> Routed;

static HOOK: Once = Once::new();

/// Answers every item of `batch`, in order, inside the gateway.
#[must_use]
pub fn answer(batch: &Batch, route: Route) -> Vec<Routed> {
    HOOK.call_once(log_panics);
    answer_with(&Imports, batch, route)
}

/// Answers every item of `batch`, in order, with `host` as the gateway.
#[must_use]
pub fn answer_with(host: &dyn Host, batch: &Batch, route: Route) -> Vec<Routed> {
    let one = |row| {
        let item = Item::new(batch, row);
        route(&item, &Cx::new(host, item.org_id()))
    };
    batch.items.iter().map(one).collect()
}

/// A panic ends in a trap, which says nothing about its place; the message itself may quote a
/// notification and stays inside.
fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        log::log(Level::Error, &format!("panicked at {place}"));
    }));
}

/// The real gateway.
struct Imports;

impl Host for Imports {
    fn now(&self) -> TimestampMs {
        clock::now()
    }

    fn local(&self, at: TimestampMs, tz: &str) -> Result<LocalTime, TzError> {
        clock::local(at, tz)
    }

    fn next_local(&self, after: u64, tz: &str, at: TimeOfDay) -> Result<TimestampMs, TzError> {
        clock::next_local(after, tz, at.hour(), at.minute())
    }

    fn config_for(&self, org_id: &str, key: &str) -> Option<String> {
        config::get_for_org(org_id, key)
    }

    fn log(&self, level: Level, message: &str) {
        log::log(level, message);
    }
}
