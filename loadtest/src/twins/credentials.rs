//! What a gateway needs to talk to a set of twins: made afresh, worth nothing elsewhere.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::json;

use super::pki::PkiError;

const TEAM_ID: &str = "TWINTEAM01";
const KEY_ID: &str = "TWINKEY001";
const TOPIC: &str = "com.example.app";
const PROJECT_ID: &str = "twin-project";
const CLIENT_EMAIL: &str = "gateway@twin-project.iam.example.com";
const PRIVATE_KEY_ID: &str = "twin-key-1";
const SLACK_CLIENT_ID: &str = "1111111111.2222222222";
const SLACK_CLIENT_SECRET: &str = "twin-slack-client-secret";
const SMTP_USER: &str = "gateway";
const SMTP_PASSWORD: &str = "twin-smtp-password";

/// Credentials of all twins of a set.
#[derive(Clone)]
pub struct Credentials {
    /// The authority to trust, PEM.
    pub ca_pem: String,
    /// APNs signing key, PKCS#8 PEM, as Apple hands it out in a `.p8` file.
    pub apns_key_pem: String,
    pub apns_key_id: String,
    pub apns_team_id: String,
    /// The topic, that is the app's bundle id.
    pub apns_topic: String,
    /// Google service account in JSON; its `token_uri` is the twin's.
    pub fcm_service_account: String,
    pub fcm_project_id: String,
    pub slack_client_id: String,
    pub slack_client_secret: String,
    /// What AUTH at the mail relay takes.
    pub smtp_user: String,
    pub smtp_password: String,
    /// What the twins check signatures with.
    pub(crate) apns_public_pem: String,
    pub(crate) fcm_public_pem: String,
    pub(crate) fcm_client_email: String,
    pub(crate) fcm_token_uri: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Where [`Credentials::write`] put them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFiles {
    pub ca: PathBuf,
    pub apns_key: PathBuf,
    pub fcm_service_account: PathBuf,
}

impl Credentials {
    /// `fcm_origin` is where the FCM twin listens, as `https://host:port`.
    pub(crate) fn generate(ca_pem: String, fcm_origin: &str) -> Result<Self, PkiError> {
        let apns = KeyPair::generate()?;
        let (fcm_private_pem, fcm_public_pem) = rsa_pair()?;
        let token_uri = format!("{fcm_origin}/token");
        let service_account = json!({
            "type": "service_account",
            "project_id": PROJECT_ID,
            "private_key_id": PRIVATE_KEY_ID,
            "private_key": fcm_private_pem,
            "client_email": CLIENT_EMAIL,
            "client_id": "100000000000000000001",
            "auth_uri": format!("{fcm_origin}/auth"),
            "token_uri": token_uri,
            "auth_provider_x509_cert_url": format!("{fcm_origin}/certs"),
            "client_x509_cert_url": format!("{fcm_origin}/certs/gateway"),
            "universe_domain": "googleapis.com",
        });
        Ok(Self {
            ca_pem,
            apns_key_pem: apns.serialize_pem(),
            apns_key_id: KEY_ID.to_owned(),
            apns_team_id: TEAM_ID.to_owned(),
            apns_topic: TOPIC.to_owned(),
            fcm_service_account: format!("{service_account:#}\n"),
            fcm_project_id: PROJECT_ID.to_owned(),
            slack_client_id: SLACK_CLIENT_ID.to_owned(),
            slack_client_secret: SLACK_CLIENT_SECRET.to_owned(),
            smtp_user: SMTP_USER.to_owned(),
            smtp_password: SMTP_PASSWORD.to_owned(),
            apns_public_pem: apns.public_key_pem(),
            fcm_public_pem,
            fcm_client_email: CLIENT_EMAIL.to_owned(),
            fcm_token_uri: token_uri,
        })
    }

    /// Writes `ca.pem`, `apns.p8` and `fcm.json` into `dir`, which is made if it is missing.
    ///
    /// # Errors
    /// The directory or a file cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<CredentialFiles> {
        std::fs::create_dir_all(dir)?;
        let files = CredentialFiles {
            ca: dir.join("ca.pem"),
            apns_key: dir.join("apns.p8"),
            fcm_service_account: dir.join("fcm.json"),
        };
        std::fs::write(&files.ca, &self.ca_pem)?;
        std::fs::write(&files.apns_key, &self.apns_key_pem)?;
        std::fs::write(&files.fcm_service_account, &self.fcm_service_account)?;
        Ok(files)
    }
}

/// An RSA key pair, private and public, in PEM. One per process: making one takes a good part of a
/// second, and its only use is to sign for twins.
fn rsa_pair() -> Result<(String, String), PkiError> {
    static PAIR: OnceLock<(String, String)> = OnceLock::new();
    if let Some(pair) = PAIR.get() {
        return Ok(pair.clone());
    }
    let made = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
    let pair = (made.serialize_pem(), made.public_key_pem());
    Ok(PAIR.get_or_init(|| pair).clone())
}
