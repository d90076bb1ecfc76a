//! Twins, gateways in processes of their own that deliver to them, and questions to their API.

use bugler_benches::{Failed, Gateway};
use bugler_gateway::auth::{Grant, KeyRing, Origin, Scope, TokenMinter};
use bugler_gateway::clock::{Clock, SystemClock};
use bugler_gateway::model::OrganizationId;
use bugler_gateway::store::{Store, directory};
use bugler_loadtest::twins::{CredentialFiles, TwinOptions, TwinSet};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Users of each organization; the first has the id `1000 * organization`.
pub(crate) const USERS: u64 = 200;
const PATIENCE: Duration = Duration::from_mins(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What gateways deliver to, and what they share.
pub(crate) struct World {
    pub(crate) twins: TwinSet,
    files: CredentialFiles,
    minter: TokenMinter,
    home: TempDir,
}

/// A gateway that serves.
pub(crate) struct Node {
    pub(crate) gateway: Gateway,
    pub(crate) url: String,
    admin: String,
    /// From its start to its readiness.
    pub(crate) started: Duration,
}

/// Where a gateway keeps what it keeps, and which rules its configuration has.
pub(crate) struct Plan<'a> {
    /// Lines of `[store]`, without `dir`.
    pub(crate) store: String,
    pub(crate) dir: &'a Path,
    pub(crate) rules: String,
}

impl World {
    pub(crate) async fn start() -> Result<Self, Failed> {
        let options = TwinOptions { receipts_kept_max: 200_000, ..TwinOptions::default() };
        let (twins, home) = (TwinSet::start(options).await?, tempfile::tempdir()?);
        let files = twins.write_credentials(home.path())?;
        let keys = Arc::new(KeyRing::load_or_create(&home.path().join("keys.json"))?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let minter = TokenMinter::new(keys, "https://bugler.local", "bugler", clock)?;
        Ok(Self { twins, files, minter, home })
    }

    /// A token of an organization.
    pub(crate) fn token(&self, organization: i32) -> Result<String, Failed> {
        Ok(self.minter.mint(&Grant {
            organization: OrganizationId(organization),
            scope: Scope::Organization,
            subject: String::from("bench"),
            lifetime: Duration::from_hours(1),
            limited_to: None,
            origin: Origin::default(),
        })?)
    }

    /// Path of a file that all gateways share.
    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    pub(crate) async fn node(&self, plan: &Plan<'_>) -> Result<Node, Failed> {
        let (api, admin) = (free_address()?, free_address()?);
        let path = plan.dir.join("gateway.toml");
        std::fs::write(&path, self.config((&api, &admin), plan)?)?;
        let begun = Instant::now();
        let gateway = Gateway::start(&path)?;
        let url = format!("http://{api}");
        let mut node = Node { gateway, url, admin, started: Duration::ZERO };
        while begun.elapsed() < PATIENCE {
            node.gateway.is_there()?;
            if let Ok((StatusCode::OK, _)) = get(&node.admin, "/readyz").await {
                return Ok(Node { started: begun.elapsed(), ..node });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err("the gateway is not ready".into())
    }

    fn config(&self, (api, admin): (&str, &str), plan: &Plan<'_>) -> Result<String, Failed> {
        let (credentials, files) = (self.twins.credentials(), &self.files);
        let ca = files.ca.display();
        let mut text = String::new();
        write!(
            text,
            "[server]\nlisten = \"{api}\"\nadmin_listen = \"{admin}\"\n\
             max_connections_per_ip = 5000\n[store]\ndir = \"{}\"\n{}\n\
             [auth]\nkeys_file = \"{}\"\n[observability]\nlog_level = \"warn\"\n\
             [providers.apns.main]\nendpoint = \"{}\"\nteam_id = \"{}\"\nkey_id = \"{}\"\n\
             key_file = \"{}\"\ntopic = \"{}\"\nca_file = \"{ca}\"\n\
             [providers.fcm.main]\nendpoint = \"{}\"\nservice_account_file = \"{}\"\n\
             ca_file = \"{ca}\"\n{}\n",
            plan.dir.join("store").display(),
            plan.store,
            self.file("keys.json").display(),
            self.twins.apns_url(),
            credentials.apns_team_id,
            credentials.apns_key_id,
            files.apns_key.display(),
            credentials.apns_topic,
            self.twins.fcm_url(),
            files.fcm_service_account.display(),
            plan.rules,
        )?;
        Ok(text)
    }
}

/// Puts users with a phone on each of `channels` into records before a gateway opens them.
pub(crate) async fn seed(
    store: &dyn Store,
    organizations: &[i32],
    channels: &[&str],
) -> Result<(), Failed> {
    let user = |organization: i32, n: u64| {
        let id = first_user(organization) + n;
        let token = format!("{id:064x}");
        let phone = |on: &&str| json!({ "platform": on, "app": "main", "token": token });
        json!({
            "id": id, "organization": organization, "role": 1, "status": "active",
            "email": format!("user{id}@example.com"), "name": format!("User {id}"),
            "tz": "UTC",
            "devices": channels.iter().map(phone).collect::<Vec<_>>(),
        })
    };
    let users = organizations.iter().flat_map(|org| (0..USERS).map(move |n| user(*org, n)));
    let named = |id: &i32| json!({"id": id, "name": format!("Org {id}")});
    let document = json!({
        "organizations": organizations.iter().map(named).collect::<Vec<_>>(),
        "users": users.collect::<Vec<_>>(),
    });
    let changes =
        directory::changes(document.to_string().as_bytes(), store, SystemClock.now()).await?;
    store.apply(changes).await?;
    Ok(())
}

/// The first user of an organization.
pub(crate) fn first_user(organization: i32) -> u64 {
    1_000 * u64::from(organization.unsigned_abs())
}

impl Node {
    /// Asks the API; the answer must be a 2xx.
    pub(crate) async fn ask(
        &self,
        (method, path, token): (Method, &str, &str),
        body: &Value,
    ) -> Result<Value, Failed> {
        let address = self.url.trim_start_matches("http://");
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header(HOST, address)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(text)))?;
        let (status, bytes) = exchange(address, request).await?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&bytes);
            return Err(format!("{method} {path} was answered with {status}: {text}").into());
        }
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }
}

async fn get(address: &str, path: &str) -> Result<(StatusCode, Bytes), Failed> {
    let request = Request::get(path).header(HOST, address).body(Full::default())?;
    exchange(address, request).await
}

async fn exchange(
    address: &str,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Failed> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}

/// Free when it was looked for; nobody else on this machine is asked to keep away.
fn free_address() -> Result<String, Failed> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
