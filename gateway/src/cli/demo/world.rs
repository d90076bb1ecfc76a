//! What the demo needs around the gateway: twins, credentials, rules, directory, configuration.

use crate::app::App;
use crate::cli::load::ports;
use crate::cli::{CliError, Exit, rule};
use crate::config::{Config, ConfigSources};
use bugler_loadtest::twins::{CredentialFiles, TwinOptions, TwinSet};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const WEBHOOK_SECRET: &str = "whsec_ZGVtby1zZWNyZXQtZGVtby1zZWNyZXQtMTIzNDU2Nzg=";
const RULES: [&str; 2] = ["event-routing", "quiet-hours"];

pub(super) struct World {
    pub(super) twins: TwinSet,
    pub(super) config: Config,
    pub(super) config_file: PathBuf,
    pub(super) seed: PathBuf,
}

impl World {
    pub(super) async fn build(
        data: &Path,
        rules: Option<&Path>,
        any_port: bool,
    ) -> Result<Self, CliError> {
        std::fs::create_dir_all(data)?;
        let data = std::path::absolute(data)?;
        let options =
            TwinOptions { ports: ports(if any_port { 0 } else { 2850 }), ..TwinOptions::default() };
        let twins = TwinSet::start(options).await.map_err(|e| CliError::failed(&e))?;
        let files = twins
            .write_credentials(&data.join("twin-credentials"))
            .map_err(|e| CliError::failed(&e))?;
        twins.register_secret("/hooks/demo", WEBHOOK_SECRET).map_err(|e| CliError::failed(&e))?;
        let components = wrap_rules(&data, rules)?;
        let config_file = data.join("bugler.toml");
        std::fs::write(&config_file, settings(&data, &twins, &files, &components, any_port))?;
        let seed = data.join("directory.json");
        std::fs::write(&seed, directory(&twins))?;
        let file = Some(config_file.clone());
        let sources = ConfigSources { file, ..ConfigSources::default() };
        let config = Config::load(sources).map_err(|errors| {
            CliError::new(Exit::Configuration, format!("{}:\n{errors}", config_file.display()))
        })?;
        Ok(Self { twins, config, config_file, seed })
    }

    pub(super) fn banner(&self, app: &App) -> String {
        format!(
            "bugler {}  data {} (embedded journal, fdatasync before every reply)  rules {}\n  \
             API    http://{}      admin  http://{}  (/readyz, /metrics)\n  \
             twins  apns {}  fcm {}  slack {}  webhook {}  smtp {}  (no real provider is contacted)\n  \
             config {}\n",
            env!("CARGO_PKG_VERSION"),
            self.config.store.dir.display(),
            RULES.join(", "),
            api(app),
            app.admin,
            self.twins.apns_url(),
            self.twins.fcm_url(),
            self.twins.slack_url(),
            self.twins.webhook_url(),
            self.twins.smtp_address(),
            self.config_file.display(),
        )
    }

    /// Lines to paste into another terminal.
    pub(super) fn curls(&self, app: &App, org_token: &str, user_token: &str) -> String {
        let api = api(app);
        format!(
            r#"
try it (in another terminal):
  export BUGLER_URL=http://{api} BUGLER_TOKEN={org_token}

  curl -i -X POST http://{api}/v2.0/tool/organizations/09e431b3-1e59-4c2d-9a35-6a3f4d1b7c55/notifications \
    -H 'Authorization: BEARER {user_token}' -H 'Content-Type: application/json' \
    -d '{{"content":{{"title":"Approved","text":"Your overtime for this month has been approved","screen":"jig"}},"scope":"USR","emails":["username@jigx.com"]}}'

  curl -i -X POST http://{api}/api/v1/organization/users/send-push-notification \
    -H "Authorization: Bearer $BUGLER_TOKEN" -H 'Content-Type: application/json' -H 'Idempotency-Key: alert-1' \
    -d '{{"userId":101,"title":"Device Alert","body":"Your device temperature is too high!"}}'

  printf '%s\n' '{{"to":{{"users":[101]}},"title":"bulk"}}' '{{"to":{{"organization":true}},"title":"all"}}' | \
  curl -s -X POST http://{api}/bugler/v1/notifications:batch \
    -H "Authorization: Bearer $BUGLER_TOKEN" -H 'Content-Type: application/x-ndjson' --data-binary @-

  curl -s http://{api}/bugler/v1/notifications/<id> -H "Authorization: Bearer $BUGLER_TOKEN"
  bugler trace <id>
  curl -s {control}/receipts        # what the twins received
  curl -s http://{admin}/metrics | grep ^bugler_

serving until Ctrl-C; data stays in {data}. `bugler demo --reset` starts over, `--exit` runs this as a check.
"#,
            control = self.twins.control_url(),
            admin = app.admin,
            data = self.config.store.dir.display(),
        )
    }
}

/// Where the demo's gateway takes requests.
pub(super) fn api(app: &App) -> SocketAddr {
    app.api.expect("the demo's gateway has every role")
}

/// Makes components of the shipped rules' core modules.
fn wrap_rules(data: &Path, rules: Option<&Path>) -> Result<Vec<PathBuf>, CliError> {
    let beside = std::env::current_exe()?;
    let beside = beside.parent().and_then(Path::parent).map(|dir| dir.join("rules"));
    let from = rules.map(Path::to_path_buf).or(beside).unwrap_or_default();
    let to = data.join("rules");
    std::fs::create_dir_all(&to)?;
    let mut components = Vec::new();
    for name in RULES {
        let core = from.join(format!("{name}.core.wasm"));
        if !core.is_file() {
            let text = format!(
                "the rule {} is not built; run scripts/setup, or name its directory with --rules",
                core.display()
            );
            return Err(CliError::new(Exit::NotFound, text));
        }
        let component = to.join(format!("{name}.wasm"));
        rule::wrap(&core, &component, None)?;
        components.push(component);
    }
    Ok(components)
}

/// The demo's `bugler.toml`: a complete example of an installation.
fn settings(
    data: &Path,
    twins: &TwinSet,
    files: &CredentialFiles,
    rules: &[PathBuf],
    any_port: bool,
) -> String {
    let credentials = twins.credentials();
    let (listen, admin) = if any_port {
        ("127.0.0.1:0", "127.0.0.1:0")
    } else {
        ("127.0.0.1:2845", "127.0.0.1:2846")
    };
    let rule = |index: usize| rules.get(index).map(|p| p.display().to_string()).unwrap_or_default();
    format!(
        r#"# Written by `bugler demo`. The providers are twins on this machine.
[server]
listen = "{listen}"
admin_listen = "{admin}"
max_connections_per_ip = 2000

[store]
dir = "{dir}"

[observability]
log_level = "warn"

[[rules.chain]]
name = "event-routing"
version = "0.1.0"
path = "{routing}"
config = {{ "route.push.direct" = "apns,fcm", "route.*" = "apns,fcm,slack,webhook,email" }}

[[rules.chain]]
name = "quiet-hours"
version = "0.1.0"
path = "{quiet}"
# Only these wait for the morning, so that the samples arrive at any hour.
match = {{ recipients = ["user"], events = ["digest.*"] }}

[providers.apns.main]
endpoint = "{apns}"
team_id = "{team}"
key_id = "{key_id}"
key_file = "{key_file}"
topic = "{topic}"
ca_file = "{ca}"

[providers.fcm.main]
endpoint = "{fcm}"
service_account_file = "{account}"
ca_file = "{ca}"

[providers.slack]
allow_private = true
ca_file = "{ca}"

[providers.webhook]
allow_private = true
ca_file = "{ca}"

[providers.email]
host = "{smtp}"
port = {smtp_port}
ca_file = "{ca}"
user = "{smtp_user}"
password = "{smtp_password}"
from = "notifications@acme.example"
from_name = "Acme Corp"
"#,
        dir = data.join("store").display(),
        routing = rule(0),
        quiet = rule(1),
        apns = twins.apns_url(),
        team = credentials.apns_team_id,
        key_id = credentials.apns_key_id,
        key_file = files.apns_key.display(),
        topic = credentials.apns_topic,
        ca = files.ca.display(),
        fcm = twins.fcm_url(),
        account = files.fcm_service_account.display(),
        smtp = twins.smtp_address().ip(),
        smtp_port = twins.smtp_address().port(),
        smtp_user = credentials.smtp_user,
        smtp_password = credentials.smtp_password,
    )
}

fn directory(twins: &TwinSet) -> String {
    let device = |platform: &str, token: String| json!({"platform": platform, "app": "main", "token": token});
    let document = json!({
        "organizations": [{
            "id": 101,
            "name": "Acme Corp",
            "slug": "acme",
            "uuid": "09e431b3-1e59-4c2d-9a35-6a3f4d1b7c55",
            "numeric": "69629023906488334",
            "tz": "Europe/Kyiv",
        }],
        "users": [
            {
                "id": 101, "organization": 101, "role": 1, "status": "active",
                "email": "username@jigx.com", "name": "John Doe",
                "devices": [device("apns", "a1".repeat(32)), device("fcm", "demo-phone-of-user-101".to_owned())],
            },
            {
                "id": 102, "organization": 101, "role": 3, "status": "active",
                "email": "driver@example.com", "name": "Jane Roe",
                "devices": [device("apns", "b2".repeat(32))],
                "memberships": [{"solution": "0f3f2f0a-6c0e-4d0f-9d51-0b8f4f3c2a10", "groups": ["drivers"]}],
            },
        ],
        "subscriptions": [
            {
                "organization": 101, "type": "webhook", "description": "every event",
                "url": format!("{}/hooks/demo", twins.webhook_url()), "secret": WEBHOOK_SECRET,
                "events": ["notification.jigx", "buildCreated"],
            },
            {
                "organization": 101, "type": "slack", "description": "the team's channel",
                "url": format!("{}/services/T0DEMO/B0DEMO/demo", twins.slack_url()),
                "team": "Acme", "channel": "#alerts",
                "events": ["notification.jigx"],
            },
        ],
    });
    format!("{document:#}\n")
}
