//! Every limit of the front door, with its default.

use std::time::Duration;

/// Limits of one listener. The defaults are the documented ones.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Name of the listener in metrics and logs.
    pub name: &'static str,
    /// Open connections; at the limit the listener stops accepting.
    pub connections: usize,
    /// Open connections from one IP address; more are closed at once.
    pub connections_per_peer: u32,
    /// TLS handshakes at the same time.
    pub handshakes: usize,
    /// Requests being worked on; more are refused with 503 and Retry-After.
    pub max_inflight: usize,
    /// What Retry-After says when `max_inflight` is reached.
    pub retry_after_s: u32,

    /// From accept to the first byte, and from it to the end of an HTTP/2 preface.
    pub first_byte: Duration,
    /// From TCP accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request's head to its end.
    pub header: Duration,
    /// Between two requests on a connection.
    pub idle: Duration,
    /// Without progress while the peer does not read.
    pub write_stall: Duration,
    /// From the start of a drain to the forced end of all connections.
    pub drain: Duration,

    /// Request line and fields together.
    pub header_bytes: usize,
    pub header_count: usize,
    pub uri_bytes: usize,
    /// Largest body of any request; a service asks for less per route.
    pub max_body: u64,
    pub body: BodyLimits,

    pub h2_streams: u32,
    pub h2_stream_window: u32,
    pub h2_connection_window: u32,
    pub h2_ping_interval: Duration,
    pub h2_ping_timeout: Duration,
}

/// How slowly a body may arrive. Time the service itself takes is not counted.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Waiting for the whole body; not applied to streamed bodies.
    pub total: Duration,
    /// Waiting that is free before the rate counts.
    pub grace: Duration,
    /// Bytes a second that must arrive after the grace.
    pub bytes_per_s: u32,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { total: Duration::from_secs(10), grace: Duration::from_secs(2), bytes_per_s: 1_024 }
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            name: "api",
            connections: 10_000,
            connections_per_peer: 256,
            handshakes: 256,
            max_inflight: 4_096,
            retry_after_s: 1,
            first_byte: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            header: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write_stall: Duration::from_secs(10),
            drain: Duration::from_secs(25),
            header_bytes: 16 * 1024,
            header_count: 64,
            uri_bytes: 8 * 1024,
            max_body: 4 * 1024 * 1024,
            body: BodyLimits::default(),
            h2_streams: 100,
            h2_stream_window: 64 * 1024,
            h2_connection_window: 1024 * 1024,
            h2_ping_interval: Duration::from_secs(20),
            h2_ping_timeout: Duration::from_secs(10),
        }
    }
}
