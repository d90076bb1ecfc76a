//! The gateway judged from outside: the real binary, real sockets, provider twins and ledgers.

mod api;
mod bulk;
mod crash;
mod delivery;
mod idempotency;
mod support;
