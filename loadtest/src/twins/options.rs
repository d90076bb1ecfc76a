//! How a set of twins is set up, and why that can fail.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::fault::FaultPlan;
use super::pki::{Certificate, PkiError};
use super::smtp::SmtpOptions;

/// Loopback ports; 0 takes any free one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub apns: u16,
    pub fcm: u16,
    /// Slack over TLS, and in clear text.
    pub slack: u16,
    pub slack_plain: u16,
    pub webhook: u16,
    pub webhook_plain: u16,
    /// Mail in clear text with STARTTLS, and over TLS from the first byte on.
    pub smtp: u16,
    pub smtp_tls: u16,
    pub control: u16,
}

/// How a set of twins behaves.
#[derive(Clone, Debug)]
pub struct TwinOptions {
    pub ports: Ports,
    /// Most receipts kept in memory; the oldest go first.
    pub receipts_kept_max: usize,
    /// File that all receipts are appended to, as JSON lines.
    pub receipts_file: Option<PathBuf>,
    pub faults: FaultPlan,
    /// Concurrent streams APNs allows before the first request with a good token, and after.
    pub apns_streams_first: u32,
    pub apns_streams: u32,
    /// Whether APNs goes back to one stream after a bad token.
    pub apns_one_stream_after_bad_token: bool,
    /// Least time between two provider tokens of one key; Apple documents 20 minutes.
    pub apns_token_update_min: Option<Duration>,
    /// How long an access token of Google's token endpoint lives, in seconds.
    pub fcm_token_lifetime_s: u64,
    pub fcm_streams: u32,
    /// Messages FCM takes in a minute, which begins with the first of them; no bound when none.
    pub fcm_quota_per_minute: Option<u32>,
    /// Least time between two messages of one Slack webhook; Slack documents one second.
    pub slack_interval: Option<Duration>,
    /// The certificate of the webhook's TLS listener.
    pub webhook_certificate: Certificate,
    pub smtp: SmtpOptions,
}

impl Default for TwinOptions {
    fn default() -> Self {
        Self {
            ports: Ports::default(),
            receipts_kept_max: 200_000,
            receipts_file: None,
            faults: FaultPlan::default(),
            apns_streams_first: 1,
            apns_streams: 1000,
            apns_one_stream_after_bad_token: true,
            apns_token_update_min: None,
            fcm_token_lifetime_s: 3600,
            fcm_streams: 100,
            fcm_quota_per_minute: None,
            slack_interval: None,
            webhook_certificate: Certificate::Good,
            smtp: SmtpOptions::default(),
        }
    }
}

/// A set of twins could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TwinError {
    #[error("the {what} cannot listen on 127.0.0.1:{port}; choose another port, or 0 for any")]
    Bind {
        what: &'static str,
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("a bound listener does not tell its address")]
    Listener(#[source] io::Error),
    #[error("the receipt file {path:?} cannot be opened for appending")]
    ReceiptFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the credential directory {path:?} cannot be written")]
    CredentialDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the twins' own keys cannot be read back")]
    Keys(#[from] jsonwebtoken::errors::Error),
    #[error("the twins' report cannot be written")]
    Report(#[source] io::Error),
}
