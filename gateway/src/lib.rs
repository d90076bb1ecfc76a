//! Bugler: a notification gateway. Four HTTP dialects in, a durable journal, WASM rules, provider delivery.
//!
//! The modules follow the path of one notification: `server` → `api` → `auth` → `intake` →
//! `journal` → `dispatch` → `rules` → `providers`, with its outcome back in `journal` and `store`.

pub mod model;

pub mod clock;
pub mod config;
pub mod crash;
pub mod lifecycle;
pub mod private;
pub mod redis;
pub mod telemetry;
pub mod vault;

pub mod journal;
pub mod providers;
pub mod rules;
pub mod store;
pub mod work;

pub mod audit;
pub mod auth;
pub mod dump;
pub mod intake;

pub mod admin;
pub mod api;
pub mod dispatch;
pub mod openapi;
pub mod server;

pub mod app;
pub mod cli;
#[cfg(test)]
mod sim;

/// A boxed future, as the dyn-compatible seams return it: one allocation per batch.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
