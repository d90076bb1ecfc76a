//! Provider twins: local servers that check what a strict provider checks, record every attempt,
//! and fail on request.
//!
//! A [`TwinSet`] owns its listeners: dropping it ends them and resets their connections. It binds
//! loopback only and makes its own certificate authority and credentials at each start.
//!
//! Targets made for tests answer in their own way, without any fault plan:
//!
//! | provider | target | answer |
//! |---|---|---|
//! | APNs, by the token's first digits | `dead`, `e401`, `badd` | 410 Unregistered, 410 ExpiredToken, 400 BadDeviceToken |
//! | | `429a`, `5105`, `f1a4` | 429, two seconds late, 429 on the first attempt |
//! | FCM, by the token's first letters | `unregistered`, `mismatch` | 404, 403 |
//! | | `throttle`, `slow`, `flaky` | 429, two seconds late, 503 on the first attempt |
//! | Slack, by the last part of the path | `archived…`, `throttle…`, `slow…`, `flaky…` | 410, 429, late, 500 first |
//! | webhook, the last part of the path | `gone`, `throttle`, `slow`, `flaky` | 410, 429, late, 503 first |
//! | mail, by the name before `@` | `unregistered`, `throttle`, `slow` | 550, 451, two seconds late |

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

mod apns;
mod control;
mod credentials;
mod fault;
mod fcm;
mod name;
mod options;
mod pki;
mod receipts;
mod reference;
mod reply;
mod slack;
mod smtp;
mod stage;
mod standalone;
mod start;
mod webhook;
mod wire;

pub use control::TrafficCounts;
pub use credentials::{CredentialFiles, Credentials};
pub use fault::{Action, FaultPlan, FaultRule, FaultSyntax, Share};
pub use name::{TwinName, UnknownTwin};
pub use options::{Ports, TwinError, TwinOptions};
pub use pki::{Certificate, PkiError, UnknownCertificate};
pub use receipts::{BodyHash, Counts, Receipt, read as read_receipts};
pub use smtp::{ReceivedMail, SmtpOptions};
pub use standalone::{StandaloneOptions, standalone, standalone_until};
pub use webhook::InvalidSecret;

use control::Control;
use fault::Faults;
use pki::Pki;
use receipts::ReceiptLog;
use stage::Stage;
use start::{Shared, Starting, bind, http, https};
use wire::Mode;

/// Twins at work.
#[derive(Debug)]
pub struct TwinSet {
    shared: Arc<Shared>,
    control: Control,
}

impl TwinSet {
    /// Binds and starts all twins and their control interface.
    ///
    /// # Errors
    /// A port is taken, the receipt file cannot be opened, or keys cannot be made.
    pub async fn start(options: TwinOptions) -> Result<Self, TwinError> {
        let receipts =
            ReceiptLog::open(options.receipts_kept_max, options.receipts_file.as_deref()).map_err(
                |source| TwinError::ReceiptFile {
                    path: options.receipts_file.clone().unwrap_or_default(),
                    source,
                },
            )?;
        let faults = Faults::new(options.faults.clone());
        let starting = Starting {
            pki: Arc::new(Pki::generate()?),
            stage: Arc::new(Stage { faults, receipts }),
            options,
        };
        let control = bind("control interface", starting.options.ports.control).await?;
        let shared = Arc::new(starting.start().await?);
        let control = Control::start(control, Arc::clone(&shared)).map_err(TwinError::Listener)?;
        Ok(Self { shared, control })
    }

    /// Where APNs is played, as `https://127.0.0.1:port`.
    #[must_use]
    pub fn apns_url(&self) -> String {
        https(self.shared.listeners.apns.address)
    }

    /// Where FCM and Google's token endpoint (`/token`) are played.
    #[must_use]
    pub fn fcm_url(&self) -> String {
        https(self.shared.listeners.fcm.address)
    }

    /// Where Slack is played: `/services/T…/B…/…`, `/api/oauth.v2.access`, `/oauth/v2/authorize`.
    #[must_use]
    pub fn slack_url(&self) -> String {
        https(self.shared.listeners.slack.address)
    }

    /// Slack without TLS.
    #[must_use]
    pub fn slack_plain_url(&self) -> String {
        http(self.shared.listeners.slack_plain.address)
    }

    /// Where webhooks are taken, at any path, over TLS.
    #[must_use]
    pub fn webhook_url(&self) -> String {
        https(self.shared.listeners.webhook.address)
    }

    /// Webhooks without TLS.
    #[must_use]
    pub fn webhook_plain_url(&self) -> String {
        http(self.shared.listeners.webhook_plain.address)
    }

    /// Where mail is taken, in clear text with STARTTLS.
    #[must_use]
    pub fn smtp_address(&self) -> SocketAddr {
        self.shared.listeners.smtp.address
    }

    /// Where mail is taken over TLS from the first byte on.
    #[must_use]
    pub fn smtp_tls_address(&self) -> SocketAddr {
        self.shared.listeners.smtp.tls_address
    }

    /// The control interface.
    #[must_use]
    pub fn control_url(&self) -> String {
        http(self.control.address)
    }

    /// The authority that signed all certificates, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.shared.credentials.ca_pem
    }

    /// What a gateway must be configured with.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.shared.credentials
    }

    /// Writes `ca.pem`, `apns.p8` and `fcm.json` into `dir`.
    ///
    /// # Errors
    /// The directory or a file cannot be written.
    pub fn write_credentials(&self, dir: &Path) -> Result<CredentialFiles, TwinError> {
        let path = dir.to_owned();
        self.credentials().write(dir).map_err(|source| TwinError::CredentialDir { path, source })
    }

    /// Replaces the fault plan.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.shared.stage.faults.set(plan);
    }

    /// Makes the webhook twin check signatures at `path` with `secret` (`whsec_…`).
    ///
    /// # Errors
    /// The secret is not base64.
    pub fn register_secret(&self, path: &str, secret: &str) -> Result<(), InvalidSecret> {
        self.shared.secrets.register(path, secret)
    }

    /// All receipts in memory, oldest first.
    #[must_use]
    pub fn receipts(&self) -> Vec<Receipt> {
        self.receipts_since(None, 0)
    }

    /// Receipts after position `since` (0 for all), of one twin when given.
    #[must_use]
    pub fn receipts_since(&self, twin: Option<TwinName>, since: u64) -> Vec<Receipt> {
        self.shared.stage.receipts.list(twin, since, usize::MAX)
    }

    /// Totals per twin.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<TwinName, Counts> {
        self.shared.stage.receipts.counts()
    }

    /// What happened on the connections of a twin.
    #[must_use]
    pub fn traffic(&self, twin: TwinName) -> TrafficCounts {
        self.shared.traffic(twin)
    }

    /// Forgets receipts and totals in memory.
    pub fn clear_receipts(&self) {
        self.shared.stage.receipts.clear();
    }

    /// Returns once the receipt file holds everything recorded so far.
    ///
    /// # Errors
    /// Writing the file failed.
    pub fn sync_receipts(&self) -> io::Result<()> {
        self.shared.stage.receipts.sync()
    }

    /// Takes a twin down (its connections are reset, new ones too) or up again. The SMTP sink
    /// stays up.
    pub fn set_up(&self, twin: TwinName, up: bool) {
        self.shared.set_mode(twin, if up { Mode::Up } else { Mode::Down });
    }

    /// Freezes a twin until it is up or down again: connections are taken and kept, those that
    /// exist too, but nothing is read or sent. The SMTP sink stays up.
    pub fn freeze(&self, twin: TwinName) {
        self.shared.set_mode(twin, Mode::Frozen);
    }

    /// Gives a twin another certificate, for connections from now on. The SMTP sink keeps its own.
    ///
    /// # Errors
    /// The certificate could not be made.
    pub fn set_certificate(
        &self,
        twin: TwinName,
        certificate: Certificate,
    ) -> Result<(), TwinError> {
        Ok(self.shared.set_certificate(twin, certificate)?)
    }
}
