//! One session with the relay: connect, TLS, AUTH, then messages one after another.

use super::classify::{LOST, Step, Trouble, enhanced};
use super::payload::Letter;
use super::wire::{ANSWER_BYTES_MAX, Io, Wire};
use crate::providers::transport::{Deadlines, Failure, Resolve, ResolveError, connect};
use bytes::Bytes;
use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Ehlo, Mail, Rcpt, Rset, Starttls};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Response;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

/// How the connection to the relay is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// TLS after a word in the clear (RFC 3207). Without it nothing is sent.
    #[default]
    Starttls,
    /// TLS from the first byte on (RFC 8314).
    Implicit,
    /// None: only to this machine itself.
    None,
}

/// The relay and how to reach it.
pub(super) struct Relay {
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) name: ServerName<'static>,
    pub(super) security: Security,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) hello: ClientId,
    pub(super) credentials: Option<Credentials>,
    pub(super) deadlines: Deadlines,
}

/// A session that is past TLS and AUTH.
pub(super) struct Session {
    connection: AsyncSmtpConnection,
    /// Messages handed over so far.
    pub(super) sent: u32,
    /// The last message was refused half-way.
    is_dirty: bool,
}

impl Relay {
    pub(super) async fn open(&self) -> Result<Session, Trouble> {
        let tcp = self.dial().await?;
        let peer = tcp.peer_addr().map_err(|_| Trouble::broken("connect"))?;
        let (io, greeting): (Box<dyn Io>, Bytes) = match self.security {
            Security::None => (Box::new(tcp), Bytes::new()),
            Security::Implicit => (Box::new(self.secure(tcp).await?), Bytes::new()),
            Security::Starttls => {
                let (tcp, greeting) = self.ask_for_tls(tcp).await?;
                (Box::new(self.secure(tcp).await?), greeting)
            }
        };
        let wire = Box::new(Wire::new(io, peer, greeting));
        let opened = AsyncSmtpConnection::connect_with_transport(wire, &self.hello).await;
        let mut connection = opened.map_err(|error| trouble(Step::Greeting, &error))?;
        if let Some(credentials) = &self.credentials {
            let offered = connection.server_info().get_auth_mechanism(DEFAULT_MECHANISMS);
            if offered.is_none() {
                return Err(Trouble::Misfit { cause: "no_auth" });
            }
            let answer = connection.auth(DEFAULT_MECHANISMS, credentials).await;
            answer.map_err(|error| trouble(Step::Auth, &error))?;
        }
        Ok(Session { connection, sent: 0, is_dirty: false })
    }

    async fn dial(&self) -> Result<TcpStream, Trouble> {
        let by = Instant::now() + self.deadlines.connect;
        let resolved = timeout_at(by, self.resolver.resolve(&self.host, self.port)).await;
        let addresses = match resolved {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(ResolveError::Failed(_) | ResolveError::Blocked)) | Err(_) => {
                return Err(Trouble::broken("dns"));
            }
        };
        let is_local = |address: &SocketAddr| address.ip().is_loopback();
        if self.security == Security::None && !addresses.iter().all(is_local) {
            return Err(Trouble::Misfit { cause: "relay_not_local" });
        }
        let tcp = connect(&addresses, by).await.map_err(|failure| match failure {
            Failure::NotSent { cause, .. } | Failure::Unanswered { cause, .. } => {
                Trouble::broken(cause)
            }
            Failure::Blocked => Trouble::broken("connect"),
        })?;
        tcp.set_nodelay(true).map_err(|_| Trouble::broken("connect"))?;
        Ok(tcp)
    }

    async fn secure(&self, tcp: TcpStream) -> Result<impl Io + use<>, Trouble> {
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let handshake = connector.connect(self.name.clone(), tcp);
        let done = timeout(self.deadlines.tls, handshake).await;
        done.map_err(|_| Trouble::broken("tls"))?.map_err(|error| {
            let source = error.get_ref().and_then(|inner| inner.downcast_ref());
            match source {
                // Somebody else's certificate, or one whose authority is not in ca_file: no later
                // try sees another until somebody changes something.
                Some(rustls::Error::InvalidCertificate(_)) => {
                    Trouble::Misfit { cause: "tls_certificate" }
                }
                _ => Trouble::broken("tls"),
            }
        })
    }

    /// The dialogue in the clear up to the relay's consent to TLS; gives back its greeting.
    ///
    /// Done here and not by the client library so that not one byte read in the clear is taken for
    /// an answer under TLS: whoever sits between could have slipped it in (RFC 3207, section 6).
    async fn ask_for_tls(&self, mut tcp: TcpStream) -> Result<(TcpStream, Bytes), Trouble> {
        let (greeting, _) = answer(&mut tcp, Step::Greeting).await?;
        let hello = Ehlo::new(self.hello.clone()).to_string();
        let (_, offer) = ask(&mut tcp, Step::Hello, &hello).await?;
        if !offer.message().any(|keyword| keyword.trim().eq_ignore_ascii_case("STARTTLS")) {
            return Err(Trouble::Misfit { cause: "no_starttls" });
        }
        ask(&mut tcp, Step::Starttls, &Starttls.to_string()).await?;
        Ok((tcp, greeting))
    }
}

async fn ask(tcp: &mut TcpStream, step: Step, command: &str) -> Result<(Bytes, Response), Trouble> {
    tcp.write_all(command.as_bytes()).await.map_err(|_| Trouble::broken(LOST))?;
    answer(tcp, step).await
}

/// One answer with 2yz as sent and as read, and nothing after it.
async fn answer(tcp: &mut TcpStream, step: Step) -> Result<(Bytes, Response), Trouble> {
    let mut bytes = Vec::new();
    while !is_whole(&bytes) {
        let count = tcp.read_buf(&mut bytes).await.map_err(|_| Trouble::broken(LOST))?;
        if count == 0 {
            return Err(Trouble::broken(LOST));
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(Trouble::broken("bad_answer"));
        }
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Trouble::broken("bad_answer"))?;
    let response: Response = text.parse().map_err(|_| Trouble::broken("bad_answer"))?;
    let code = u16::from(response.code());
    let said = response.message().map(|line| line.len() + "250 \r\n".len()).sum::<usize>();
    if said != bytes.len() {
        return Err(Trouble::Misfit { cause: "unasked_answer" });
    }
    if !(200..300).contains(&code) {
        let enhanced = response.first_line().and_then(enhanced);
        return Err(Trouble::Refused { step, code, enhanced });
    }
    Ok((bytes.into(), response))
}

/// True once `bytes` hold a line that ends an answer: no hyphen after the code.
fn is_whole(bytes: &[u8]) -> bool {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.any(|line| line.ends_with(b"\n") && line.get(3) != Some(&b'-'))
}

impl Session {
    /// Hands over one message; answers the relay's code and what it calls the message, if it says.
    ///
    /// `is_complete` is set as soon as the final dot may have left. A caller that gives up on this
    /// future must look at it, and must not use the session again.
    pub(super) async fn deliver(
        &mut self,
        from: &Address,
        letter: &Letter,
        is_complete: &AtomicBool,
    ) -> Result<(u16, Option<String>), Trouble> {
        let connection = &mut self.connection;
        // Only now: a relay that refuses and then hangs must not cost the verdict.
        if std::mem::replace(&mut self.is_dirty, true) {
            connection.command(Rset).await.map_err(|_| Trouble::broken(LOST))?;
        }
        let mut parameters = Vec::new();
        if letter.is_utf8 {
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(Trouble::Unfit { cause: "address_not_ascii" });
            }
            parameters.push(MailParameter::SmtpUtfEight);
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let refused = |step| move |error: Error| trouble(step, &error);
        let mail = Mail::new(Some(from.clone()), parameters);
        positive(Step::Mail, &connection.command(mail).await.map_err(refused(Step::Mail))?)?;
        let recipient = Rcpt::new(letter.to.clone(), Vec::new());
        positive(Step::Rcpt, &connection.command(recipient).await.map_err(refused(Step::Rcpt))?)?;
        let go_on = connection.command(Data).await.map_err(refused(Step::Data))?;
        if !go_on.has_code(354) {
            return Err(unexpected(Step::Data, &go_on));
        }
        // Asked for a second part the whole message has left, and the final dot is next.
        let end = std::iter::from_fn(|| {
            is_complete.store(true, Ordering::Release);
            None::<&[u8]>
        });
        let message = std::iter::once(letter.message.as_slice()).chain(end);
        let answer = connection.message_iter(message).await.map_err(|error| {
            match trouble(Step::Message, &error) {
                Trouble::Broken { cause, .. } => {
                    let is_complete = is_complete.load(Ordering::Acquire);
                    Trouble::Broken { cause, is_complete }
                }
                other => other,
            }
        })?;
        positive(Step::Message, &answer)?;
        self.sent += 1;
        self.is_dirty = false;
        Ok((u16::from(answer.code()), queue_id(&answer)))
    }
}

/// The library takes 3yz for yes.
fn positive(step: Step, answer: &Response) -> Result<(), Trouble> {
    let is_yes = (200..300).contains(&u16::from(answer.code()));
    if is_yes { Ok(()) } else { Err(unexpected(step, answer)) }
}

fn unexpected(step: Step, answer: &Response) -> Trouble {
    Trouble::Refused { step, code: u16::from(answer.code()), enhanced: None }
}

fn trouble(step: Step, error: &Error) -> Trouble {
    if let Some(code) = error.status() {
        let words = error.source().map(ToString::to_string).unwrap_or_default();
        return Trouble::Refused { step, code: u16::from(code), enhanced: enhanced(&words) };
    }
    if error.is_response() && !is_cut(error) {
        return Trouble::broken("bad_answer");
    }
    Trouble::broken(LOST)
}

/// The library's word for a connection that ends within, or before, an answer.
fn is_cut(error: &Error) -> bool {
    error.source().is_some_and(|source| source.to_string() == "incomplete response")
}

/// The name in "queued as 4F2A", under which the relay's own log has the mail.
fn queue_id(answer: &Response) -> Option<String> {
    let line = answer.first_line()?;
    let (_, rest) = line.split_once("queued as ")?;
    let id: String = rest.chars().take_while(char::is_ascii_alphanumeric).take(64).collect();
    (!id.is_empty()).then_some(id)
}
