//! The twins from outside: real TLS, real HTTP/2, real sockets on loopback.

mod apns;
mod books;
mod control;
mod fcm;
mod pathologies;
mod slack;
mod smtp;
mod standalone;
mod streams;
mod support;
mod tls;
mod webhook;
