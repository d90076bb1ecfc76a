//! Makes an OAuth client in the records of a gateway that does not run: the first one has no caller.

use super::backend::Kept;
use super::{AppError, redo};
use crate::auth::{client_id, client_secret};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Role, Server};
use crate::model::{AuditNote, Client, OrganizationId, Secret};
use crate::store::Change;
use std::sync::Arc;

/// What the audit trail calls whoever can write the data directory.
const ACTOR: &str = "command-line";

/// A new client with the only copy of its secret.
#[derive(Debug)]
pub struct CreatedClient {
    pub id: String,
    pub secret: Secret,
}

/// Makes a client of `org` that is limited to `permissions`, if there are any.
///
/// # Errors
/// When the data directory is in use or cannot be read, or there is no such organization.
pub async fn create_client(
    config: Config,
    org: OrganizationId,
    name: String,
    permissions: Option<Vec<String>>,
) -> Result<CreatedClient, AppError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let now = clock.now();
    // Nothing is sent from here.
    let role = Role::Ingest;
    let config = Config { server: Server { role, ..config.server.clone() }, ..config };
    let kept = Kept::open(&config, false, &clock).await?;
    let (journal, store) = (&kept.journal, &kept.store);
    // What a crash left in the log comes first: later versions would hide it.
    redo(journal.as_ref(), store.as_ref()).await?;
    let secret = client_secret();
    let id = client_id();
    let audit = AuditNote {
        at: now,
        org,
        actor: String::from(ACTOR),
        peer: None,
        action: String::from("client.create"),
        object: format!("client:{id}"),
    };
    let client = Client {
        id: id.clone(),
        org,
        name,
        secret: secret.hash,
        limited_to: permissions,
        created_at: now,
    };
    let made = store.apply(vec![Change::PutClient(client), Change::Audit(audit)]).await;
    kept.close().await;
    made?;
    Ok(CreatedClient { id, secret: secret.text })
}
