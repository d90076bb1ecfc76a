//! One redis-server: started, stopped, killed, frozen and started again with what it kept.

use super::RedisTrouble;
use super::wire::{self, Reply};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const READY_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
/// A free port may be taken by somebody else before the server has it.
const TRIES: usize = 5;

/// What a server keeps, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: what is written is gone with the process.
    None,
    /// An append-only file that is synced about once a second.
    EverySecond,
    /// An append-only file that is synced before each answer.
    #[default]
    Always,
    /// An append-only file that the kernel writes when it likes.
    Never,
}

/// How a server is to be.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    pub persistence: Persistence,
    /// More lines of configuration, as `maxmemory 100mb`.
    pub lines: Vec<String>,
    /// The program; `redis-server` from the path if empty.
    pub program: Option<PathBuf>,
    /// Where its directory is made; among the temporary files if empty.
    pub place: Option<PathBuf>,
    /// More variables of its environment.
    pub env: Vec<(String, String)>,
}

/// A redis-server of ours; killed, and its directory removed, when dropped.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    port: u16,
    bus: u16,
    /// The port that a cluster is told of, where it is not the server's own.
    announced: Option<u16>,
    dir: PathBuf,
    options: ServerOptions,
    is_cluster: bool,
}

impl Server {
    /// Starts a server with `options` on a free loopback port, and waits until it answers.
    ///
    /// # Errors
    /// There is no `redis-server`, or it does not come up.
    pub fn start(options: ServerOptions) -> Result<Self, RedisTrouble> {
        Self::start_as(options, false)
    }

    pub(super) fn start_as(options: ServerOptions, is_cluster: bool) -> Result<Self, RedisTrouble> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bugler-redis-{}-{count}", std::process::id());
        let dir = options.place.clone().unwrap_or_else(std::env::temp_dir).join(name);
        fs::create_dir_all(&dir).map_err(RedisTrouble::Start)?;
        let (child, announced) = (None, None);
        let mut server = Self { child, port: 0, bus: 0, announced, dir, options, is_cluster };
        let mut last = None;
        for _ in 0..TRIES {
            (server.port, server.bus) = (free_port()?, free_port()?);
            match server.run() {
                Ok(()) => return Ok(server),
                Err(trouble @ RedisTrouble::Ended { .. }) => last = Some(trouble),
                Err(trouble) => return Err(trouble),
            }
        }
        Err(last.unwrap_or(RedisTrouble::Ended { log: String::new() }))
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port by which the others of its cluster know it.
    #[must_use]
    pub fn known_port(&self) -> u16 {
        self.announced.unwrap_or(self.port)
    }

    /// Has the cluster, and whoever asks it, go to `port` instead of its own: a proxy's.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub fn announce(&mut self, port: u16) -> Result<(), RedisTrouble> {
        self.ask(&["CONFIG", "SET", "cluster-announce-port", &port.to_string()])?;
        self.announced = Some(port);
        Ok(())
    }

    /// As the gateway's configuration wants it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it keeps its files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends one command on a connection of its own.
    ///
    /// # Errors
    /// The server is not there, or it answers with an error.
    pub fn ask(&self, parts: &[&str]) -> Result<Reply, RedisTrouble> {
        let parts: Vec<_> = parts.iter().map(|part| part.as_bytes()).collect();
        self.ask_bytes(&parts)
    }

    /// The same where a part is no text, as keys can be.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub fn ask_bytes(&self, parts: &[&[u8]]) -> Result<Reply, RedisTrouble> {
        let failed = |source| RedisTrouble::Connection { port: self.port, source };
        match wire::ask(self.port, parts).map_err(failed)? {
            Reply::Error(answer) => {
                let command = parts.first().copied().unwrap_or_default();
                let command = String::from_utf8_lossy(command).into_owned();
                Err(RedisTrouble::Refused { port: self.port, command, answer })
            }
            reply => Ok(reply),
        }
    }

    /// Sends one command whose answer may take long, from a thread of its own.
    #[must_use]
    pub fn asking(&self, parts: &[&str]) -> JoinHandle<()> {
        let port = self.port;
        let parts: Vec<_> = parts.iter().map(|part| (*part).to_owned()).collect();
        std::thread::spawn(move || {
            let parts: Vec<_> = parts.iter().map(String::as_str).collect();
            wire::ask(port, &parts).ok();
        })
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts it again on its port, with the files it left.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn restart(&mut self) -> Result<(), RedisTrouble> {
        self.kill();
        self.run()
    }

    /// Starts it again as an operator does after a power cut or a full disk: what was only begun at
    /// the end of its append-only file is cut off first if that is in the way.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn restart_mended(&mut self) -> Result<(), RedisTrouble> {
        match self.restart() {
            Err(RedisTrouble::Ended { log }) if log.contains("redis-check-aof") => {
                self.mend()?;
                self.restart()
            }
            started => started,
        }
    }

    fn mend(&self) -> Result<(), RedisTrouble> {
        let files = fs::read_dir(self.dir.join("appendonlydir")).map_err(RedisTrouble::Start)?;
        for file in files.filter_map(Result::ok).map(|file| file.path()) {
            if file.extension().is_some_and(|kind| kind == "manifest") {
                let mut mending = Command::new("redis-check-aof")
                    .arg("--fix")
                    .arg(file)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .spawn()
                    .map_err(RedisTrouble::Start)?;
                if let Some(mut answer) = mending.stdin.take() {
                    answer.write_all(b"y\n").map_err(RedisTrouble::Start)?;
                }
                mending.wait().map_err(RedisTrouble::Start)?;
            }
        }
        Ok(())
    }

    /// More lines of configuration, for the next start.
    pub fn configure(&mut self, lines: &[&str]) {
        self.options.lines = lines.iter().map(|line| (*line).to_owned()).collect();
    }

    /// Stops its clock, as a machine does that swaps or hangs.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        if let Some(pid) = self.pid() {
            Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().ok();
        }
    }

    fn run(&mut self) -> Result<(), RedisTrouble> {
        let log = self.dir.join("log");
        let out = fs::File::create(&log).map_err(RedisTrouble::Start)?;
        let errors = out.try_clone().map_err(RedisTrouble::Start)?;
        fs::write(self.dir.join("redis.conf"), self.configuration())
            .map_err(RedisTrouble::Start)?;
        let program = self.options.program.clone().unwrap_or_else(|| "redis-server".into());
        let child = Command::new(program)
            .arg("redis.conf")
            .current_dir(&self.dir)
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .spawn()
            .map_err(RedisTrouble::Start)?;
        self.child = Some(child);
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN {
            if self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_)))) {
                self.child = None;
                return Err(RedisTrouble::Ended { log: tail(&log) });
            }
            // Another server could answer at this port: ours says which process it is.
            let is_ours = |reply: &Reply| {
                let pid = self.pid().map(|pid| format!("process_id:{pid}\r"));
                pid.is_some_and(|pid| reply.text().contains(&pid))
            };
            if wire::ask(self.port, &["INFO", "server"]).is_ok_and(|reply| is_ours(&reply))
                && wire::ask(self.port, &["PING"]).is_ok_and(|reply| reply.text() == "PONG")
            {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        self.kill();
        Err(RedisTrouble::NotReady { port: self.port, log: tail(&log) })
    }

    fn configuration(&self) -> String {
        let (append, sync) = match self.options.persistence {
            Persistence::None => ("no", "everysec"),
            Persistence::EverySecond => ("yes", "everysec"),
            Persistence::Always => ("yes", "always"),
            Persistence::Never => ("yes", "no"),
        };
        let mut lines = vec![
            String::from("bind 127.0.0.1"),
            format!("port {}", self.port),
            String::from("daemonize no"),
            String::from("save \"\""),
            format!("appendonly {append}"),
            format!("appendfsync {sync}"),
            String::from("maxmemory-policy noeviction"),
            String::from("enable-debug-command yes"),
            String::from("latency-tracking no"),
        ];
        if self.is_cluster {
            lines.extend([
                String::from("cluster-enabled yes"),
                String::from("cluster-node-timeout 1000"),
                String::from("cluster-config-file nodes.conf"),
                String::from("cluster-replica-validity-factor 0"),
                String::from("repl-ping-replica-period 1"),
                String::from("repl-diskless-sync-delay 0"),
                format!("cluster-port {}", self.bus),
            ]);
            lines.extend(self.announced.map(|port| format!("cluster-announce-port {port}")));
        }
        lines.extend(self.options.lines.iter().cloned());
        lines.join("\n") + "\n"
    }

    pub(super) fn bus(&self) -> u16 {
        self.bus
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn free_port() -> Result<u16, RedisTrouble> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(RedisTrouble::Start)?;
    listener.local_addr().map(|address| address.port()).map_err(RedisTrouble::Start)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
