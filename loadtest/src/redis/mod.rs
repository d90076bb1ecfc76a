//! Redis servers of our own for tests and torture: single or a cluster, on free loopback ports.
//!
//! Everything blocks: servers are started and broken beside what is tested, not within it.

mod cluster;
mod server;
mod wire;

pub use cluster::Cluster;
pub use server::{Persistence, Server, ServerOptions};
pub use wire::Reply;

/// Why a server of ours does not do what a test needs.
#[derive(Debug, thiserror::Error)]
pub enum RedisTrouble {
    #[error("redis-server cannot be started; install it, as the README says")]
    Start(#[source] std::io::Error),
    #[error("redis-server ended while it started: {log}")]
    Ended { log: String },
    #[error("redis-server at port {port} did not get ready in time: {log}")]
    NotReady { port: u16, log: String },
    #[error("the connection to redis-server at port {port} failed")]
    Connection {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("redis-server at port {port} refused {command}: {answer}")]
    Refused { port: u16, command: String, answer: String },
    #[error("the cluster did not form in time: {what}")]
    NoCluster { what: String },
}
