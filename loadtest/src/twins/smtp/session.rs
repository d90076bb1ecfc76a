//! One session with the relay: commands in, answers or faults out, whole messages on record.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::message::ReceivedMail;
use super::{Relay, STAGES, secure};
use crate::twins::TwinName;
use crate::twins::fault::{Action, Decision, FaultRule};
use crate::twins::receipts::{BodyHash, Receipt};
use crate::{marker, wall};

/// RFC 5321 4.5.3.1.6, with the line break.
const LINE_BYTES_MAX: u64 = 1000;
const MESSAGE_BYTES_MAX: usize = 10 << 20;
const RECIPIENTS_MAX: usize = 100;
const IDLE_MAX: Duration = Duration::from_secs(300);

/// A connection, in clear text or TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

pub(super) struct Session {
    io: BufReader<Box<dyn Io>>,
    relay: Arc<Relay>,
    is_secure: bool,
    is_known: bool,
    greeted: bool,
    from: Option<String>,
    to: Vec<String>,
}

/// How an answer went out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// The right answer.
    Right,
    /// A fault in its place.
    Fault,
}

impl Session {
    pub(super) fn new(io: Box<dyn Io>, relay: Arc<Relay>, is_secure: bool) -> Self {
        Self {
            io: BufReader::new(io),
            relay,
            is_secure,
            is_known: false,
            greeted: false,
            from: None,
            to: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) -> io::Result<()> {
        self.answer("connect", "220 twin.example ESMTP").await?;
        loop {
            let line = self.line().await?;
            let (verb, rest) = line.split_once(' ').unwrap_or((line.as_str(), ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    self.greet();
                    let keywords = self.keywords();
                    self.answer("ehlo", &keywords).await?;
                }
                "HELO" => {
                    self.greet();
                    self.answer("ehlo", "250 twin.example").await?;
                }
                "STARTTLS" if self.relay.options.starttls && !self.is_secure => {
                    self = self.starttls().await?;
                }
                "AUTH" if self.greeted => self.auth(rest).await?,
                "MAIL" => self.mail(rest).await?,
                "RCPT" => self.recipient(rest).await?,
                "DATA" => self.data().await?,
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

    fn keywords(&self) -> String {
        let options = &self.relay.options;
        let mut keywords = vec!["twin.example".to_owned(), format!("SIZE {MESSAGE_BYTES_MAX}")];
        keywords.push("ENHANCEDSTATUSCODES".to_owned());
        if options.utf8 {
            keywords.push("SMTPUTF8".to_owned());
        }
        if options.starttls && !self.is_secure {
            keywords.push("STARTTLS".to_owned());
        } else {
            // Never a password in the clear where there is a better way.
            keywords.push("AUTH PLAIN LOGIN".to_owned());
        }
        keywords.push("8BITMIME".to_owned());
        let last = keywords.len() - 1;
        let mut lines = keywords.iter().enumerate().map(|(n, keyword)| {
            let mark = if n == last { ' ' } else { '-' };
            format!("250{mark}{keyword}")
        });
        lines.by_ref().collect::<Vec<_>>().join("\r\n")
    }

    async fn starttls(mut self) -> io::Result<Self> {
        let decision = self.decide("starttls").await;
        match decision.action {
            // As somebody between client and relay would: an answer in the clear that the client
            // must not take for one of the relay, whose certificate it is about to check.
            Some(Action::BadJson) => self.say("220 go on\r\n250 2.0.0 forged").await?,
            action => {
                if self.show(action, "220 2.0.0 go on").await? == Shown::Fault {
                    return Ok(self);
                }
            }
        }
        let relay = Arc::clone(&self.relay);
        let io = secure(self.io.into_inner(), Arc::clone(&relay.tls)).await?;
        Ok(Self::new(io, relay, true))
    }

    async fn auth(&mut self, rest: &str) -> io::Result<()> {
        if self.relay.options.starttls && !self.is_secure {
            return self.say("538 5.7.11 encryption required").await;
        }
        let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        let (user, password) = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => {
                let text = match initial {
                    "" => self.ask("").await?,
                    initial => decoded(initial),
                };
                let mut fields = text.split('\0').skip(1).map(str::to_owned);
                (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
            }
            "LOGIN" => (self.ask("Username:").await?, self.ask("Password:").await?),
            _ => return self.say("504 5.5.4 mechanism not known").await,
        };
        let is_right = user == self.relay.user && password == self.relay.password;
        let answer = if is_right { "235 2.7.0 welcome" } else { "535 5.7.8 not you" };
        let shown = self.answer("auth", answer).await?;
        self.is_known = is_right && shown == Shown::Right;
        Ok(())
    }

    async fn ask(&mut self, question: &str) -> io::Result<String> {
        self.say(&format!("334 {}", STANDARD.encode(question))).await?;
        Ok(decoded(&self.line().await?))
    }

    async fn mail(&mut self, rest: &str) -> io::Result<()> {
        if !self.greeted || self.from.is_some() {
            return self.say("503 5.5.1 bad sequence of commands").await;
        }
        if self.relay.options.auth_required && !self.is_known {
            return self.say("530 5.7.0 authentication required").await;
        }
        let Some(from) = address(rest, "FROM:") else {
            return self.say("501 5.5.4 use MAIL FROM:<address>").await;
        };
        if self.answer("mail", "250 2.1.0 sender noted").await? == Shown::Right {
            self.from = Some(from);
        }
        Ok(())
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
            "unregistered" => self.say(&format!("550 5.1.1 <{to}>: no such mailbox")).await,
            "throttle" => self.say("451 4.7.1 slow down").await,
            _ => {
                if local == "slow" {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                if self.answer("rcpt", "250 2.1.5 recipient noted").await? == Shown::Right {
                    self.to.push(to);
                }
                Ok(())
            }
        }
    }

    async fn data(&mut self) -> io::Result<()> {
        if self.to.is_empty() {
            return self.say("503 5.5.1 bad sequence of commands").await;
        }
        if self.answer("data", "354 end with a line of one dot").await? == Shown::Fault {
            return Ok(());
        }
        let mut message = Vec::new();
        let mut is_too_big = false;
        let mut lines = 0_u32;
        loop {
            let line = self.raw_line().await?;
            if line == b".\r\n" {
                break;
            }
            lines += 1;
            if lines == 1 && self.decide("body").await.action.is_some() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            // RFC 5321 4.5.2: a leading dot was doubled by the sender.
            let line = line.strip_prefix(b".").unwrap_or(&line);
            is_too_big |= message.len() + line.len() > MESSAGE_BYTES_MAX;
            if !is_too_big {
                message.extend_from_slice(line);
            }
        }
        let decision = self.decide("dot").await;
        let right = if is_too_big { "552 5.3.4 too big" } else { "250 2.0.0 queued as T1" };
        let status = match &decision.action {
            Some(Action::Status { code, .. }) => *code,
            Some(Action::Drip { .. }) | None if is_too_big => 552,
            Some(Action::Drip { .. }) | None => 250,
            Some(_) => 0,
        };
        self.record(&message, status);
        self.reset();
        self.show(decision.action, right).await.map(drop)
    }

    fn record(&self, message: &[u8], status: u16) {
        let found = marker::find(message);
        let mail = ReceivedMail::parse(message);
        let header = |name| mail.header(name).map(str::to_owned);
        let from = self.from.as_deref().unwrap_or_default();
        for to in &self.to {
            self.relay.stage.receipts.record(Receipt {
                seq: 0,
                twin: TwinName::Smtp,
                at_ms: wall::unix_ms(),
                key: header("message-id").unwrap_or_default(),
                target: to.clone(),
                notification: header("bugler-notification-id"),
                marker: found.map(|found| found.seq),
                intact: found.and_then(|found| found.intact),
                body_sha256: BodyHash(Sha256::digest(message).into()),
                status,
                reason: Some(format!("from {from}, {} bytes", message.len())),
                refused: None,
                attempt: 0,
                mail: Some(mail.clone()),
            });
        }
    }

    /// What the plan has for this step; its delay is over when this returns.
    async fn decide(&self, stage: &str) -> Decision {
        let target = self.to.first().map_or("", String::as_str);
        let hits = |rule: &FaultRule| match rule.matching.as_deref() {
            Some(named) if STAGES.contains(&named) => named == stage,
            other => stage == "dot" && other.is_none_or(|text| target.contains(text)),
        };
        let of_us = |rule: &FaultRule| rule.twin.is_none_or(|twin| twin == TwinName::Smtp);
        let decision = self.relay.stage.faults.decide_where(|rule| of_us(rule) && hits(rule), None);
        tokio::time::sleep(decision.delay).await;
        decision
    }

    /// Gives `right`, or the fault planned for this step.
    async fn answer(&mut self, stage: &str, right: &str) -> io::Result<Shown> {
        let decision = self.decide(stage).await;
        self.show(decision.action, right).await
    }

    async fn show(&mut self, action: Option<Action>, right: &str) -> io::Result<Shown> {
        match action {
            Some(Action::Status { code, reason, .. }) => {
                let text = reason.unwrap_or_else(|| usual(code).to_owned());
                self.say(&format!("{code} {text}")).await?;
                // RFC 5321 3.8: this code announces the end of the session.
                if code == 421 {
                    Err(io::ErrorKind::ConnectionAborted.into())
                } else {
                    Ok(Shown::Fault)
                }
            }
            Some(Action::Freeze) => std::future::pending().await,
            Some(Action::Drip { ms_per_byte, .. }) => {
                for byte in format!("{right}\r\n").bytes() {
                    tokio::time::sleep(Duration::from_millis(ms_per_byte)).await;
                    self.write(&[byte]).await?;
                }
                Ok(Shown::Right)
            }
            Some(Action::EndlessBody) => loop {
                self.write(&[b'2'; 8192]).await?;
            },
            Some(Action::Cut) => {
                let half = right.len() / 2;
                self.write(right.as_bytes().get(..half).unwrap_or_default()).await?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Some(Action::BadJson) => {
                self.say("what did you say?").await?;
                Ok(Shown::Fault)
            }
            Some(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            None => self.say(right).await.map(|()| Shown::Right),
        }
    }

    async fn say(&mut self, text: &str) -> io::Result<()> {
        self.write(format!("{text}\r\n").as_bytes()).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let io = self.io.get_mut();
        io.write_all(bytes).await?;
        io.flush().await
    }

    async fn line(&mut self) -> io::Result<String> {
        let line = self.raw_line().await?;
        String::from_utf8(line)
            .map(|line| line.trim_end().to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    async fn raw_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.io).take(LINE_BYTES_MAX);
        timeout(IDLE_MAX, limited.read_until(b'\n', &mut line)).await??;
        if line.ends_with(b"\r\n") { Ok(line) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// What relays usually say with a code.
fn usual(code: u16) -> &'static str {
    match code {
        421 => "4.3.2 closing the session",
        450 => "4.2.0 mailbox busy, greylisted",
        451 => "4.3.0 try again later",
        452 => "4.2.2 mailbox full",
        535 => "5.7.8 not you",
        550 => "5.1.1 no such mailbox",
        552 => "5.2.2 mailbox full",
        400..500 => "4.0.0 injected by the twin",
        _ => "5.0.0 injected by the twin",
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

/// Base64 to text; what cannot be read is nobody's name.
fn decoded(text: &str) -> String {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}
