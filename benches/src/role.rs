//! A server under load in a process of its own: started from this program, measured, and ended.

use crate::Failed;
use bugler_loadtest::ledger::ClientLedger;
use bugler_loadtest::load::{self, LoadPlan, Mode, Stop};
use bugler_loadtest::process;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A server that this program became when it was started again with other arguments.
#[derive(Debug)]
pub struct Role {
    child: Child,
    url: String,
    token: String,
}

impl Role {
    /// Starts this program with `arguments`, and waits until it says its address.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(arguments: &[String]) -> Result<Self, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no standard output")?;
        let (mut url, mut token) = (String::new(), String::from("none"));
        for line in BufReader::new(out).lines() {
            let line = line?;
            if let Some(found) = line.strip_prefix("token ") {
                found.clone_into(&mut token);
            }
            if let Some(found) = line.strip_prefix("address ") {
                url = format!("http://{found}");
                break;
            }
        }
        Ok(Self { child, url, token })
    }

    /// Notifications per second and server CPU microseconds per notification, over `round`.
    ///
    /// # Errors
    /// When one request is refused.
    pub async fn load(
        &self,
        mode: Mode,
        connections: usize,
        round: Duration,
    ) -> Result<(f64, f64), Failed> {
        let plan = LoadPlan {
            url: self.url.clone(),
            token: self.token.clone(),
            mode,
            connections,
            stop: Stop::After(round),
            ..LoadPlan::default()
        };
        let before = process::sample(self.child.id())?;
        let ledger = Arc::new(ClientLedger::open(1, None)?);
        let report = load::run(plan, ledger).await?;
        let after = process::sample(self.child.id())?;
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6;
        if report.accepted != report.sent {
            let refused = report.sent - report.accepted;
            let (answers, codes) = (report.by_status, report.by_code);
            let what = format!("{refused} of {} refused: {answers:?} {codes:?}", report.sent);
            return Err(what.into());
        }
        #[expect(clippy::cast_precision_loss, reason = "a count shown with three digits")]
        let accepted = report.accepted.max(1) as f64;
        Ok((report.notifications_per_s(), cpu / accepted))
    }

    /// Bytes it has resident now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> Result<u64, Failed> {
        Ok(process::sample(self.child.id())?.rss_bytes)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // A server that already ended needs no killing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
