//! What a row needs of the machine and of the binary, looked for before it is played.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::torture::gateway::tool;
use crate::torture::rules;

/// A gateway with crash points ends in its first steps.
const PROBE_MAX: Duration = Duration::from_secs(3);
/// `SIGABRT`.
const ABORTED: i32 = 6;

/// Something that is not everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::torture) enum Need {
    /// A binary that reads `BUGLER_CRASH` and its like.
    CrashPoints,
    /// `strace`, and leave to trace.
    Strace,
    /// Loop mounts of ext4, and perl for the call that cuts their power.
    Loops,
    /// A memory cgroup of our own.
    MemoryGroup,
    /// A mount namespace of our own, and ports below 1024.
    Root,
    /// A C compiler.
    Compiler,
    /// Cargo and the standard library of the target that rules are built for.
    RuleTools,
}

impl Need {
    /// Why it is not there, if so.
    pub(in crate::torture) async fn is_missing(self, binary: &Path) -> Option<String> {
        match self {
            Self::CrashPoints => crash_points(binary).await,
            Self::Strace => shell("strace -qq -o /dev/null true").await,
            Self::Loops => shell(LOOPS).await,
            Self::MemoryGroup => memory_group(),
            Self::Root => shell("unshare -m --propagation private true").await,
            Self::Compiler => shell("cc --version").await,
            Self::RuleTools => rules::tools_are_missing().await,
        }
    }
}

/// Makes a small file system, and takes it away.
const LOOPS: &str = "set -e; perl -v >/dev/null; d=$(mktemp -d); \
    trap 'umount $d/at 2>/dev/null || true; rm -rf $d' EXIT; \
    mkdir $d/at; truncate -s 4M $d/image; mkfs.ext4 -q -F $d/image; mount -o loop $d/image $d/at";

async fn shell(script: &str) -> Option<String> {
    tool(&["sh", "-c", script]).await.err().map(|error| error.to_string())
}

async fn crash_points(binary: &Path) -> Option<String> {
    let binary = binary.to_owned();
    let probed = tokio::task::spawn_blocking(move || probe(&binary)).await;
    let why = "the binary was built without the feature crash-points";
    match probed {
        Ok(Ok(true)) => None,
        Ok(Ok(false)) => Some(why.to_owned()),
        Ok(Err(error)) => Some(format!("the binary could not be probed: {error}")),
        Err(error) => Some(format!("the binary could not be probed: {error}")),
    }
}

/// Whether the binary dies where `BUGLER_CRASH` says.
fn probe(binary: &Path) -> std::io::Result<bool> {
    use std::os::unix::process::ExitStatusExt;
    let home = std::env::temp_dir().join(format!("bugler-probe-{}", std::process::id()));
    let mut command = Command::new(binary);
    command.env_clear().env("BUGLER_CRASH", "C12:1").arg("serve");
    for (setting, value) in [
        ("store.dir", home.display().to_string()),
        ("server.listen", String::from("127.0.0.1:0")),
        ("server.admin_listen", String::from("127.0.0.1:0")),
    ] {
        command.args(["--set", &format!("{setting}={value}")]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let ended = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if begun.elapsed() > PROBE_MAX => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    child.kill().ok();
    child.wait().ok();
    std::fs::remove_dir_all(home).ok();
    Ok(ended.and_then(|status| status.signal()) == Some(ABORTED))
}

fn memory_group() -> Option<String> {
    let group = super::processes::memory_group();
    let made = std::fs::create_dir(&group);
    std::fs::remove_dir(&group).ok();
    made.err().map(|error| format!("no memory cgroup of our own can be made: {error}"))
}
