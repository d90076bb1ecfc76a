//! The gateway judged from outside: the real binary, real sockets, provider twins and ledgers.

mod accounts;
mod accounts_crash;
mod admission;
mod api;
mod applivery;
mod binary;
mod blynk;
mod bulk;
mod config;
mod crash;
mod crash_points;
mod damage;
mod delivery;
mod disk_faults;
mod idempotency;
mod lifecycle;
mod matrix;
mod moving;
mod openapi;
mod outbox;
mod scale;
mod support;
mod torture;
mod zitadel;
