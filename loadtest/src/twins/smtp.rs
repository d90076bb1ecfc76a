//! The SMTP sink: takes mail as RFC 5321 asks of a minimal server and records each recipient's copy.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::TwinName;
use super::fault::Action;
use super::receipts::{BodyHash, Receipt};
use super::stage::Stage;
use crate::{marker, wall};

/// RFC 5321 4.5.3.1.6, with the line break.
const LINE_BYTES_MAX: u64 = 1000;
const MESSAGE_BYTES_MAX: usize = 10 << 20;
const RECIPIENTS_MAX: usize = 100;
const IDLE_MAX: Duration = Duration::from_secs(300);

/// A sink at work; dropping it ends it and its sessions.
#[derive(Debug)]
pub(crate) struct SmtpSink {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl SmtpSink {
    pub(crate) fn start(listener: TcpListener, stage: Arc<Stage>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let serving = async move {
            let mut sessions = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((tcp, _)) => {
                            let session = Session::new(tcp, Arc::clone(&stage));
                            // A client that breaks off ends its session, nothing else.
                            sessions.spawn(async move { session.run().await.ok() });
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    },
                    Some(_) = sessions.join_next() => {}
                }
            }
        };
        Ok(Self { address, task: tokio::spawn(serving).abort_handle() })
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Session {
    tcp: BufReader<TcpStream>,
    stage: Arc<Stage>,
    greeted: bool,
    from: Option<String>,
    to: Vec<String>,
}

impl Session {
    fn new(tcp: TcpStream, stage: Arc<Stage>) -> Self {
        Self { tcp: BufReader::new(tcp), stage, greeted: false, from: None, to: Vec::new() }
    }

    async fn run(mut self) -> io::Result<()> {
        self.say("220 twin.example ESMTP").await?;
        loop {
            let line = self.line().await?;
            let (verb, rest) = line.split_once(' ').unwrap_or((line.as_str(), ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    self.greet();
                    let size = format!("250-twin.example\r\n250-SIZE {MESSAGE_BYTES_MAX}");
                    self.say(&format!("{size}\r\n250-8BITMIME\r\n250 SMTPUTF8")).await?;
                }
                "HELO" => {
                    self.greet();
                    self.say("250 twin.example").await?;
                }
                "MAIL" => self.mail(rest).await?,
                "RCPT" => self.recipient(rest).await?,
                "DATA" => {
                    if !self.data().await? {
                        return Ok(());
                    }
                }
                "RSET" => {
                    self.reset();
                    self.say("250 2.0.0 forgotten").await?;
                }
                "NOOP" => self.say("250 2.0.0 still here").await?,
                "QUIT" => return self.say("221 2.0.0 bye").await,
                _ => self.say("500 5.5.1 command not known").await?,
            }
        }
    }

    fn greet(&mut self) {
        self.greeted = true;
        self.reset();
    }

    fn reset(&mut self) {
        self.from = None;
        self.to.clear();
    }

    async fn mail(&mut self, rest: &str) -> io::Result<()> {
        if !self.greeted || self.from.is_some() {
            return self.say("503 5.5.1 bad sequence of commands").await;
        }
        match address(rest, "FROM:") {
            Some(from) => {
                self.from = Some(from);
                self.say("250 2.1.0 sender noted").await
            }
            None => self.say("501 5.5.4 use MAIL FROM:<address>").await,
        }
    }

    async fn recipient(&mut self, rest: &str) -> io::Result<()> {
        if self.from.is_none() {
            return self.say("503 5.5.1 bad sequence of commands").await;
        }
        if self.to.len() >= RECIPIENTS_MAX {
            return self.say("452 4.5.3 too many recipients").await;
        }
        let Some(to) = address(rest, "TO:").filter(|to| to.contains('@')) else {
            return self.say("501 5.5.4 use RCPT TO:<address>").await;
        };
        let local = to.split('@').next().unwrap_or_default();
        match local {
            "unregistered" => self.say("550 5.1.1 no such mailbox").await,
            "throttle" => self.say("451 4.7.1 slow down").await,
            _ => {
                if local == "slow" {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                self.to.push(to);
                self.say("250 2.1.5 recipient noted").await
            }
        }
    }

    /// Takes the message; false when the session is to end without an answer.
    async fn data(&mut self) -> io::Result<bool> {
        if self.to.is_empty() {
            self.say("503 5.5.1 bad sequence of commands").await?;
            return Ok(true);
        }
        self.say("354 end with a line of one dot").await?;
        let mut message = Vec::new();
        let mut is_too_big = false;
        loop {
            let line = self.raw_line().await?;
            if line == b".\r\n" {
                break;
            }
            // RFC 5321 4.5.2: a leading dot was doubled by the sender.
            let line = line.strip_prefix(b".").unwrap_or(&line);
            is_too_big |= message.len() + line.len() > MESSAGE_BYTES_MAX;
            if !is_too_big {
                message.extend_from_slice(line);
            }
        }
        let answer = if is_too_big { Some((552, "5.3.4 too big")) } else { self.decide().await };
        self.record(&message, answer);
        self.reset();
        match answer {
            Some((code, text)) => self.say(&format!("{code} {text}")).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// The answer to a message; none to break off without one.
    async fn decide(&self) -> Option<(u16, &'static str)> {
        let target = self.to.first().map(String::as_str).unwrap_or_default();
        let decision = self.stage.faults.decide(TwinName::Smtp, target, "", None);
        tokio::time::sleep(decision.delay).await;
        match decision.action {
            Some(Action::Status { code, .. }) if code < 500 => Some((451, "4.3.0 try again later")),
            Some(Action::Status { .. }) => Some((554, "5.3.0 not taken")),
            Some(Action::Freeze) => std::future::pending().await,
            Some(_) => None,
            None => Some((250, "2.0.0 taken")),
        }
    }

    fn record(&self, message: &[u8], answer: Option<(u16, &'static str)>) {
        let found = marker::find(message);
        for to in &self.to {
            self.stage.receipts.record(Receipt {
                seq: 0,
                twin: TwinName::Smtp,
                at_ms: wall::unix_ms(),
                key: header(message, "message-id").unwrap_or_default(),
                target: to.clone(),
                notification: header(message, "bugler-notification-id"),
                marker: found.map(|found| found.seq),
                intact: found.and_then(|found| found.intact),
                body_sha256: BodyHash(Sha256::digest(message).into()),
                status: answer.map_or(0, |(code, _)| code),
                reason: Some(format!(
                    "from {}, {} bytes",
                    self.from.as_deref().unwrap_or_default(),
                    message.len()
                )),
                refused: None,
                attempt: 0,
            });
        }
    }

    async fn say(&mut self, text: &str) -> io::Result<()> {
        self.tcp.get_mut().write_all(format!("{text}\r\n").as_bytes()).await
    }

    async fn line(&mut self) -> io::Result<String> {
        let line = self.raw_line().await?;
        String::from_utf8(line)
            .map(|line| line.trim_end().to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    async fn raw_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.tcp).take(LINE_BYTES_MAX);
        timeout(IDLE_MAX, limited.read_until(b'\n', &mut line)).await??;
        if line.ends_with(b"\r\n") { Ok(line) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// The address of `FROM:<a@b> SIZE=1`; parameters are taken and ignored.
fn address(rest: &str, prefix: &str) -> Option<String> {
    let start = rest.get(..prefix.len())?;
    if !start.eq_ignore_ascii_case(prefix) {
        return None;
    }
    let (address, _) = rest.get(prefix.len()..)?.trim_start().strip_prefix('<')?.split_once('>')?;
    Some(address.to_owned())
}

/// The first header of that name, unfolded lines only.
fn header(message: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    let mut headers = text.lines().take_while(|line| !line.is_empty());
    headers.find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}
