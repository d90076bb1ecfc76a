//! Runs a rule over a batch inside the gateway.
//!
//! What both lanes of a component call is there once: a rule pays for every byte.

use crate::bindings::authorizer::Request as RequestRow;
use crate::bindings::bugler::rules::clock::{self, LocalTime, TzError};
use crate::bindings::bugler::rules::counters::{self, CounterError};
use crate::bindings::bugler::rules::kv::{self, KvError};
use crate::bindings::bugler::rules::log::{self, Level};
use crate::bindings::bugler::rules::{config, types::TimestampMs};
use crate::bindings::router::{Batch, Routed};
use crate::bindings::transformer::{Batch as Payloads, Transformed};
use crate::memo::Memo;
use crate::{Authorized, Cx, Host, Item, Payload, Request, TimeOfDay};
use std::panic;
use std::sync::Once;

/// An authorize rule as its author writes it.
pub type Authorize = fn(&Request<'_>, &Cx<'_>) -> Authorized;
/// A route rule as its author writes it.
pub type Route = fn(&Item<'_>, &Cx<'_>) -> Routed;
/// A transform rule as its author writes it.
pub type Transform = fn(&Payload<'_>, &Cx<'_>) -> Transformed;

static HOOK: Once = Once::new();

/// Answers every request of `batch`, in order, inside the gateway.
#[must_use]
#[inline(never)]
pub fn authorize(batch: &[RequestRow], authorize: Authorize) -> Vec<Authorized> {
    HOOK.call_once(log_panics);
    authorize_with(&Memo::of(Imports), batch, authorize)
}

/// Answers every request of `batch`, in order, with `host` as the gateway.
#[must_use]
pub fn authorize_with(
    host: &dyn Host,
    batch: &[RequestRow],
    authorize: Authorize,
) -> Vec<Authorized> {
    let one = |row| {
        let request = Request::new(row);
        authorize(&request, &Cx::new(host, request.org_id()))
    };
    batch.iter().map(one).collect()
}

/// Answers every item of `batch`, in order, inside the gateway.
#[must_use]
#[inline(never)]
pub fn answer(batch: &Batch, route: Route) -> Vec<Routed> {
    HOOK.call_once(log_panics);
    answer_with(&Memo::of(Imports), batch, route)
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

/// Answers every payload of `batch`, in order, inside the gateway.
#[must_use]
#[inline(never)]
pub fn transform(batch: &Payloads, transform: Transform) -> Vec<Transformed> {
    HOOK.call_once(log_panics);
    transform_with(&Memo::of(Imports), batch, transform)
}

/// Answers every payload of `batch`, in order, with `host` as the gateway.
#[must_use]
pub fn transform_with(host: &dyn Host, batch: &Payloads, transform: Transform) -> Vec<Transformed> {
    let one = |row| {
        let payload = Payload::new(batch, row);
        transform(&payload, &Cx::new(host, payload.org_id()))
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

    fn count(&self, key: &str, by: u32, window_ms: u32) -> Result<u64, CounterError> {
        counters::add(key, by, window_ms)
    }

    fn peek(&self, key: &str, window_ms: u32) -> Result<u64, CounterError> {
        counters::peek(key, window_ms)
    }

    fn take(
        &self,
        key: &str,
        per_window: u32,
        window_ms: u32,
        burst: u32,
    ) -> Result<bool, CounterError> {
        counters::take(key, per_window, window_ms, burst)
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        kv::get(key)
    }

    fn set(&self, key: &str, value: &[u8], ttl_ms: u32) -> Result<(), KvError> {
        kv::set(key, value, ttl_ms)
    }
}
