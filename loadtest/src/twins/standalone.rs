//! Twins as a process of their own: started, announced, and kept up until interrupted.

use std::io::Write;
use std::path::PathBuf;

use super::{TwinError, TwinOptions, TwinSet};

/// How twins run alone.
#[derive(Clone, Debug)]
pub struct StandaloneOptions {
    pub twins: TwinOptions,
    /// Where `ca.pem`, `apns.p8` and `fcm.json` go.
    pub credentials_dir: PathBuf,
}

/// Starts twins, writes where they are to `out`, and returns on an interrupt (Ctrl-C).
///
/// # Errors
/// The twins cannot start, or their credentials or the report cannot be written.
pub async fn standalone(
    options: StandaloneOptions,
    out: impl Write + Send,
) -> Result<(), TwinError> {
    // Without a handler for the interrupt the process ends by it all the same.
    let interrupt = async { tokio::signal::ctrl_c().await.unwrap_or(()) };
    standalone_until(options, out, interrupt).await
}

/// As [`standalone`], but returns when `stop` does.
///
/// # Errors
/// As [`standalone`].
pub async fn standalone_until(
    options: StandaloneOptions,
    mut out: impl Write + Send,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), TwinError> {
    let twins = TwinSet::start(options.twins).await?;
    let files = twins.write_credentials(&options.credentials_dir)?;
    let credentials = twins.credentials();
    let report = format!(
        "apns     {}  team {}  key {}  topic {}\n\
         fcm      {}  project {}\n\
         slack    {}  plain {}  client {}\n\
         webhook  {}  plain {}\n\
         smtp     {}  tls {}  user {}  password {}\n\
         control  {}\n\
         files    {}  {}  {}\n",
        twins.apns_url(),
        credentials.apns_team_id,
        credentials.apns_key_id,
        credentials.apns_topic,
        twins.fcm_url(),
        credentials.fcm_project_id,
        twins.slack_url(),
        twins.slack_plain_url(),
        credentials.slack_client_id,
        twins.webhook_url(),
        twins.webhook_plain_url(),
        twins.smtp_address(),
        twins.smtp_tls_address(),
        credentials.smtp_user,
        credentials.smtp_password,
        twins.control_url(),
        files.ca.display(),
        files.apns_key.display(),
        files.fcm_service_account.display(),
    );
    out.write_all(report.as_bytes()).and_then(|()| out.flush()).map_err(TwinError::Report)?;
    stop.await;
    twins.sync_receipts().map_err(TwinError::Report)
}
