//! The gateway under torture: a process of its own, started, watched, signalled and ended.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Trouble;
use super::ask::{self, Metrics};
use crate::process;

const POLL: Duration = Duration::from_millis(20);
/// Longest wait for readiness; the journal of a long run may be replayed meanwhile.
const START_MAX: Duration = Duration::from_secs(60);
const LOG_LINES_MAX: usize = 200;

/// How a gateway process is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) binary: PathBuf,
    pub(super) config: PathBuf,
    /// Imported by the first start only: what a provider called gone must not come back.
    pub(super) directory: Option<PathBuf>,
    pub(super) store: PathBuf,
    pub(super) api: SocketAddr,
    pub(super) admin: SocketAddr,
    /// More `--set`.
    pub(super) settings: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Command and arguments put before the binary, as `strace -D …`.
    pub(super) wrap: Vec<String>,
    /// Nobody reads standard error.
    pub(super) mutes: bool,
}

impl Launch {
    fn command(&self) -> Command {
        let mut words = self.wrap.iter().map(String::as_str);
        let mut command = match words.next() {
            Some(wrapper) => {
                let mut command = Command::new(wrapper);
                command.args(words).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command.env_clear().arg("serve").arg("--config").arg(&self.config);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.arg("--seed").arg(directory);
        }
        let fixed = [
            format!("store.dir={}", self.store.display()),
            format!("server.listen={}", self.api),
            format!("server.admin_listen={}", self.admin),
        ];
        for setting in fixed.iter().chain(&self.settings) {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// A bearer token of an organization, from the binary's own command line.
    pub(super) async fn token(&self, organization: u64) -> Result<String, Trouble> {
        let mut command = Command::new(&self.binary);
        command.env_clear().arg("token").args(["--ttl", "86400"]);
        command.args(["--set", &format!("store.dir={}", self.store.display())]);
        command.args(["--org", &organization.to_string()]);
        let ended = run(command).await.map_err(Trouble::io("the binary cannot be started"))?;
        if ended.code != Some(0) {
            return Err(Trouble::Setup(format!("no token could be made: {}", ended.stderr)));
        }
        Ok(ended.stdout.trim().to_owned())
    }

    /// Starts a process that is to become ready.
    pub(super) async fn start(&mut self) -> Result<Gateway, Trouble> {
        match self.attempt().await? {
            Ok(gateway) => Ok(gateway),
            Err(ended) => Err(Trouble::Broken(format!(
                "the gateway ended with {:?} instead of becoming ready: {}",
                ended.code,
                ended.last_words()
            ))),
        }
    }

    /// Starts a process, and waits until it is ready or has ended.
    pub(super) async fn attempt(&mut self) -> Result<Result<Gateway, Ended>, Trouble> {
        let begun = Instant::now();
        let mut child =
            self.command().spawn().map_err(Trouble::io("the gateway cannot be started"))?;
        let log = Log::default();
        let stderr = child.stderr.take();
        let mut kept_pipe = None;
        if self.mutes {
            kept_pipe = stderr;
        } else if let Some(stderr) = stderr {
            log.read(stderr).map_err(Trouble::io("no thread for the gateway's log"))?;
        }
        let (api, admin) = (self.api, self.admin);
        let mut gateway =
            Gateway { child, log, api, admin, ready_in: Duration::ZERO, _pipe: kept_pipe };
        loop {
            if let Some(status) = gateway.status() {
                // The reader may have lines left that were written just before the end.
                tokio::time::sleep(POLL * 3).await;
                let stderr = gateway.log.text();
                return Ok(Err(Ended { code: status.code(), stdout: String::new(), stderr }));
            }
            if matches!(ask::get(admin, "/readyz", None).await, Ok((200, _))) {
                gateway.ready_in = begun.elapsed();
                self.directory = None;
                return Ok(Ok(gateway));
            }
            if begun.elapsed() > START_MAX {
                return Err(Trouble::Broken(format!(
                    "the gateway was not ready within {} s",
                    START_MAX.as_secs()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A command that ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ended {
    /// The end of what it said.
    pub(super) fn last_words(&self) -> String {
        let lines: Vec<_> = self.stderr.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

/// Runs a command to its end.
pub(super) async fn run(mut command: Command) -> std::io::Result<Ended> {
    command.stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || command.output()).await;
    let output = ended.map_err(std::io::Error::other)??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Ok(Ended { code: output.status.code(), stdout, stderr })
}

/// Runs a tool of the system; its failure is told as a reason to skip.
pub(super) async fn tool(words: &[&str]) -> Result<String, Trouble> {
    let Some((program, arguments)) = words.split_first() else { return Ok(String::new()) };
    let mut command = Command::new(program);
    command.args(arguments);
    let missing = |what: String| Trouble::Missing(format!("{}: {what}", words.join(" ")));
    let ended = run(command).await.map_err(|error| missing(error.to_string()))?;
    if ended.code == Some(0) { Ok(ended.stdout) } else { Err(missing(ended.last_words())) }
}

/// The last lines of a process.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    fn read(&self, stderr: std::process::ChildStderr) -> std::io::Result<()> {
        let lines = Arc::clone(&self.0);
        std::thread::Builder::new().name("gateway-log".to_owned()).spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = lines.lock();
                if lines.len() >= LOG_LINES_MAX {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        })?;
        Ok(())
    }

    fn text(&self) -> String {
        self.0.lock().iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// A gateway process; killed when dropped.
#[derive(Debug)]
pub(super) struct Gateway {
    child: Child,
    log: Log,
    pub(super) api: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) ready_in: Duration,
    /// Held open, never read.
    _pipe: Option<std::process::ChildStderr>,
}

impl Gateway {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    pub(super) fn log(&self) -> String {
        self.log.text()
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.status().is_none()
    }

    /// Sends a signal by its name, as `TERM`.
    pub(super) async fn signal(&self, name: &str) -> Result<(), Trouble> {
        let script = format!("kill -{name} {}", self.pid());
        tool(&["sh", "-c", &script]).await.map(drop)
    }

    /// As the kernel's out-of-memory killer and `kill -9` do it.
    pub(super) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Waits for the process to end by itself.
    pub(super) async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < within {
            if let Some(status) = self.status() {
                return Some(status);
            }
            tokio::time::sleep(POLL).await;
        }
        None
    }

    pub(super) async fn metrics(&self) -> Result<Metrics, Trouble> {
        let read = ask::get(self.admin, "/metrics", None).await;
        match read {
            Ok((200, body)) => Ok(Metrics::parse(&String::from_utf8_lossy(&body))),
            Ok((status, _)) => Err(Trouble::Broken(format!("/metrics answered {status}"))),
            Err(error) => Err(Trouble::Broken(format!("/metrics could not be read: {error}"))),
        }
    }

    /// What the process holds now.
    pub(super) fn residue(&self) -> Option<Residue> {
        Residue::of(self.pid())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a process holds: memory, file descriptors, threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Residue {
    pub(super) rss_bytes: u64,
    pub(super) peak_bytes: u64,
    pub(super) files: usize,
    pub(super) threads: usize,
}

impl Residue {
    fn of(pid: u32) -> Option<Self> {
        let sample = process::sample(pid).ok()?;
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map(Iterator::count);
        Some(Self {
            rss_bytes: sample.rss_bytes,
            peak_bytes: sample.rss_peak_bytes,
            files: count("fd").ok()?,
            threads: count("task").ok()?,
        })
    }
}

/// Two loopback ports that were free a moment ago, so that a restarted gateway is found again.
pub(super) fn free_ports() -> Result<(SocketAddr, SocketAddr), Trouble> {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0");
    let free = || -> std::io::Result<(SocketAddr, SocketAddr)> {
        let (one, other) = (bind()?, bind()?);
        Ok((one.local_addr()?, other.local_addr()?))
    };
    free().map_err(Trouble::io("no free port on loopback"))
}

/// Copies a directory of plain files and directories.
pub(super) fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
