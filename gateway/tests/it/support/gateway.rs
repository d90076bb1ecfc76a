//! Gateway processes: the real binary on free ports, killed when dropped.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Ask, Protocol, Reply};
use super::eventually;
use super::metrics::Metrics;
use super::tokens::Signer;

/// What outlives a gateway process: its data directory, configuration and directory document.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
    config: String,
    settings: Vec<String>,
    directory: Value,
    is_seeded: Cell<bool>,
}

impl Home {
    pub(crate) fn new(directory: Value) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (config, settings) = (String::new(), Vec::new());
        Self { dir, config, settings, directory, is_seeded: Cell::new(false) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.path().join("bugler.toml")
    }

    /// Adds sections to the configuration file.
    pub(crate) fn with(mut self, config: &str) -> Self {
        self.config.push_str(config);
        self
    }

    /// Adds a `--set`.
    pub(crate) fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// The binary without this test's environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bugler"));
        command.env_clear().current_dir(self.path());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }

    /// `bugler serve` with this home's settings. The directory is imported the first time only:
    /// what a provider called gone must not come back with a restart.
    pub(crate) fn serve(&self) -> Command {
        std::fs::write(self.config_file(), &self.config).expect("the configuration is written");
        let mut command = self.command();
        command.arg("serve").arg("--config").arg(self.config_file());
        if !self.is_seeded.replace(true) {
            let seed = self.path().join("directory.json");
            std::fs::write(&seed, self.directory.to_string()).expect("the directory is written");
            command.arg("--seed").arg(seed);
        }
        command.args(self.set_arguments());
        command.args(["--set", "server.listen=127.0.0.1:0"]);
        command.args(["--set", "server.admin_listen=127.0.0.1:0"]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
    }

    fn set_arguments(&self) -> [String; 2] {
        [String::from("--set"), format!("store.dir={}", self.store().display())]
    }

    /// Starts a gateway that must become ready.
    pub(crate) async fn start(&self) -> Gateway {
        let started = self.attempt().await;
        started.unwrap_or_else(|failure| unreachable!("the gateway ended: {failure:#?}"))
    }

    /// Starts a gateway that must end by itself.
    pub(crate) async fn fail(&self) -> Failure {
        let started = self.attempt().await;
        started.map(|gateway| gateway.log()).expect_err("the gateway must not start")
    }

    /// Starts a gateway, and waits until it is ready or has ended.
    pub(crate) async fn attempt(&self) -> Result<Gateway, Failure> {
        Gateway::start(self.serve()).await
    }

    /// As `attempt`, with these variables in its environment.
    pub(crate) async fn attempt_with(
        &self,
        variables: &[(&str, &str)],
    ) -> Result<Gateway, Failure> {
        let mut command = self.serve();
        command.envs(variables.iter().copied());
        Gateway::start(command).await
    }

    /// A token of an organization, from the command line.
    pub(crate) async fn token(&self, organization: i32) -> String {
        self.mint(&["--org", &organization.to_string()]).await
    }

    /// A token of a user.
    pub(crate) async fn user_token(&self, organization: i32, user: i64) -> String {
        self.mint(&["--org", &organization.to_string(), "--user", &user.to_string()]).await
    }

    async fn mint(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.arg("token").args(self.set_arguments()).args(arguments);
        let ended = run(command).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout.trim().to_owned()
    }

    /// What signs this gateway's tokens.
    pub(crate) fn signer(&self) -> Signer {
        Signer::of(&self.store().join("keys.json"))
    }
}

/// A command that ended.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) async fn run(mut command: Command) -> Failure {
    command.stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || command.output()).await;
    let output = ended.expect("no panic").expect("the binary can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Failure { code: output.status.code(), stdout, stderr }
}

/// A gateway process.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// Starts `command`, which serves, and waits until it is ready or has ended.
    pub(crate) async fn start(mut command: Command) -> Result<Self, Failure> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary can be started");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let stderr = child.stderr.take().expect("stderr is piped");
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().push(line);
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self { child, log, api: nowhere, admin: nowhere };
        let ready = eventually("the gateway is ready or ends", async || {
            let ended = gateway.child.try_wait().expect("a child can be waited for");
            ended.map(Err).or_else(|| gateway.log_line("ready").map(Ok))
        });
        match ready.await {
            Ok(ready) => {
                let address = |name: &str| ready[name].as_str().and_then(|text| text.parse().ok());
                // A process that only sends has none.
                gateway.api = address("api").unwrap_or(nowhere);
                gateway.admin = address("admin").expect("the operator's address");
                Ok(gateway)
            }
            Err(status) => {
                reader.join().expect("reading lines does not panic");
                let stderr = gateway.log().join("\n");
                Err(Failure { code: status.code(), stdout: String::new(), stderr })
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    fn log_line(&self, message: &str) -> Option<Value> {
        let parsed = |line: &String| serde_json::from_str::<Value>(line).ok();
        self.log.lock().iter().filter_map(parsed).find(|line| line["message"] == message)
    }

    /// Sends a request over HTTP/1.1.
    pub(crate) async fn ask(&self, ask: &Ask) -> Reply {
        ask.send(Protocol::Http1, self.api).await
    }

    /// Reads a path of the operator's listener.
    pub(crate) async fn admin(&self, path: &str) -> Reply {
        Ask::get(path).send(Protocol::Http1, self.admin).await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin("/metrics").await.text())
    }

    /// Notifications accepted by this process.
    pub(crate) async fn accepted(&self) -> u64 {
        self.metrics().await.count("bugler_notifications_accepted_total")
    }

    /// What became of a notification.
    pub(crate) async fn timeline(&self, token: &str, id: &str) -> Value {
        let ask = Ask::get(format!("/bugler/v1/notifications/{id}")).bearer(token);
        let reply = self.ask(&ask).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// The timeline once all deliveries are final.
    pub(crate) async fn done(&self, token: &str, id: &str) -> Value {
        eventually("every delivery of the notification is final", async || {
            let timeline = self.timeline(token, id).await;
            (timeline["state"] == "done").then_some(timeline)
        })
        .await
    }

    /// Waits until the journal holds nothing that is still to do.
    pub(crate) async fn drained(&self) {
        // The backlog is published a few times a second, so it must have been seen twice.
        let mut seen = 0;
        eventually("the backlog is worked off", async || {
            let metrics = self.metrics().await;
            let pending = metrics.count("bugler_log_pending_entries");
            seen = if pending == 0 { seen + 1 } else { 0 };
            (seen > 40).then_some(())
        })
        .await;
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &script]).status().expect("sh can be started");
        assert!(status.success(), "{script}");
    }

    /// As the kernel's out-of-memory killer and `kill -9` do it.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("a killed process ends");
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the gateway ends", async || {
            self.child.try_wait().expect("a child can be waited for")
        })
        .await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
