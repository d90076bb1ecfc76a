//! Compiles a stranger's component in a child process first: what takes too much there never comes here.

use crate::rules::error::RuleError;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The shell sets the limits and becomes the child: 3 GiB of address space, 60 s of processor time, no
/// core, files of at most 32 MiB: what memory begins with lies in one that has no name. Cranelift needs
/// about 0.1 s and 50 MB for 40 kB of component.
const SHELL: &str = "/bin/sh";
const LIMITED: &str =
    r#"ulimit -v 3145728 && ulimit -t 60 && ulimit -f 65536 && ulimit -c 0 && exec "$0" "$@""#;
const WALL: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const TEXT_BYTES_MAX: u64 = 4 << 10;

/// How to start the child: a program that checks the component on its standard input.
#[derive(Clone, Debug)]
pub struct Probe {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

impl Probe {
    /// Has a child compile and start `component`.
    ///
    /// # Errors
    /// It was refused there, and why; or it took more than it may.
    pub(super) fn check(&self, component: &[u8]) -> Result<(), RuleError> {
        let mut child = Command::new(SHELL)
            .args(["-c", LIMITED])
            .arg(&self.program)
            .args(&self.args)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(RuleError::Probe)?;
        let heard = child.stderr.take().map(|pipe| {
            thread::spawn(move || {
                let mut text = Vec::new();
                pipe.take(TEXT_BYTES_MAX).read_to_end(&mut text).ok();
                String::from_utf8_lossy(&text).trim().to_owned()
            })
        });
        if let Some(mut pipe) = child.stdin.take() {
            // A child that ended reads no more; its status says why.
            pipe.write_all(component).ok();
        }
        let status = wait(&mut child)?;
        let text = heard.and_then(|thread| thread.join().ok()).unwrap_or_default();
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) if status.code().is_some() => Err(RuleError::ProbeRefused { text }),
            _ => Err(RuleError::ProbeKilled),
        }
    }
}

/// How the child ended; `None` if it had to be ended.
fn wait(child: &mut Child) -> Result<Option<std::process::ExitStatus>, RuleError> {
    let begun = Instant::now();
    while begun.elapsed() < WALL {
        if let Some(status) = child.try_wait().map_err(RuleError::Probe)? {
            return Ok(Some(status));
        }
        thread::sleep(LOOK_EVERY);
    }
    child.kill().map_err(RuleError::Probe)?;
    child.wait().map_err(RuleError::Probe)?;
    Ok(None)
}
