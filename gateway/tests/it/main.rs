//! The gateway judged from outside: the real binary, real sockets, provider twins and ledgers.

mod accounts;
mod api;
mod binary;
mod bulk;
mod config;
mod crash;
mod damage;
mod delivery;
mod idempotency;
mod lifecycle;
mod matrix;
mod openapi;
mod support;
