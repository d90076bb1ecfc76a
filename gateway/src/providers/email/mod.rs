//! E-mail over the operator's SMTP relay: TLS by default, a few sessions kept open, one mail each.

mod classify;
mod payload;
mod pool;
mod session;
#[cfg(test)]
mod tests;
mod wire;

pub use session::Security;

use self::classify::Trouble;
use self::payload::{Letter, Sender};
use self::pool::Pool;
use self::session::{Relay, Session};
use crate::BoxFuture;
use crate::model::{Attempt, Delivery, Outcome, ProviderName, Secret, Target};
use crate::providers::attempt::{self, unsent};
use crate::providers::tls::{self, Protocol};
use crate::providers::transport::{Deadlines, SystemResolver};
use crate::providers::{Provider, ProviderError};
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::extension::ClientId;
use rustls_pki_types::ServerName;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::Semaphore;
use url::Host;

/// The relay, and what mail says of its sender.
#[derive(Clone, Debug)]
pub struct EmailConfig {
    /// Name or address of the relay; its certificate must be for it.
    pub host: String,
    pub port: u16,
    pub security: Security,
    /// A CA to trust besides the public ones.
    pub ca_pem: Option<Vec<u8>>,
    /// User name and password for AUTH.
    pub credentials: Option<(String, Secret)>,
    /// Address of the sender; its domain is part of every Message-ID.
    pub from: String,
    /// Name shown beside it; empty shows the address alone.
    pub from_name: String,
    /// Sessions with the relay at once.
    pub sessions_max: usize,
    pub deadlines: Deadlines,
}

/// Hands mail to a relay.
pub struct Email {
    relay: Relay,
    sender: Sender,
    pool: Pool,
    /// One permit for each session that may be open.
    sessions: Semaphore,
    sessions_max: usize,
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Email").field("host", &self.relay.host).finish_non_exhaustive()
    }
}

impl Email {
    /// Checks the configuration. Opens no socket.
    ///
    /// # Errors
    /// The sender's address, the relay's name or the CA file cannot be used.
    pub fn new(config: EmailConfig) -> Result<Self, ProviderError> {
        let from = payload::address(&config.from).ok_or_else(|| {
            ProviderError::field("from", "must be an address such as a@example.com")
        })?;
        if config.from_name.contains(char::is_control) {
            return Err(ProviderError::field("from_name", "must be one line of text"));
        }
        let no_host = || ProviderError::field("host", "must be a name or an address");
        let host = match Host::parse(&config.host).map_err(|_| no_host())? {
            // A name with the root's dot is the same server, but not the same certificate name.
            Host::Domain(name) => name.trim_end_matches('.').to_owned(),
            Host::Ipv4(v4) => v4.to_string(),
            Host::Ipv6(v6) => v6.to_string(),
        };
        let name = ServerName::try_from(host.clone()).map_err(|_| no_host())?;
        let client = tls::client_config(config.ca_pem.as_deref(), Protocol::Http1)?;
        let mut client = (*client).clone();
        // SMTP has no word for ALPN, and a server may hang up on those of others.
        client.alpn_protocols.clear();
        let sessions_max = config.sessions_max.max(1);
        let relay = Relay {
            resolver: Arc::new(SystemResolver),
            host,
            port: config.port,
            name,
            security: config.security,
            tls: Arc::new(client),
            hello: ClientId::Domain(from.domain().to_owned()),
            credentials: config
                .credentials
                .map(|(user, password)| Credentials::new(user, password.reveal().to_owned())),
            deadlines: config.deadlines,
        };
        let from_name = Some(config.from_name).filter(|name| !name.is_empty());
        Ok(Self {
            relay,
            sender: Sender { mailbox: Mailbox::new(from_name, from) },
            pool: Pool::new(sessions_max),
            sessions: Semaphore::new(sessions_max),
            sessions_max,
        })
    }

    async fn attempt(&self, delivery: &Delivery) -> Attempt {
        let Target::Email { to, .. } = &delivery.target else {
            return unsent(Outcome::Rejected { cause: "wrong_provider" });
        };
        let letter = match payload::compose(&self.sender, delivery, to) {
            Ok(letter) => letter,
            Err(cause) => return unsent(Outcome::Rejected { cause }),
        };
        let started = Instant::now();
        let is_complete = AtomicBool::new(false);
        let total = self.relay.deadlines.total;
        // On the heap: the dialogue is a large future, and there is one for each mail in flight.
        let handing_over = Box::pin(self.hand_over(&letter, &is_complete));
        let done = tokio::time::timeout(total, handing_over).await;
        let done = done.unwrap_or_else(|_| {
            let is_complete = is_complete.load(Ordering::Acquire);
            Err(Trouble::Broken { cause: "timeout", is_complete })
        });
        let elapsed = started.elapsed();
        match done {
            Ok((status, provider_id)) => Attempt {
                outcome: Outcome::Delivered,
                status: Some(status),
                reason: None,
                provider_id,
                elapsed,
            },
            Err(trouble) => {
                let (verdict, status) = classify::classify(trouble);
                let (outcome, reason) = (verdict.outcome, verdict.reason);
                Attempt { outcome, status, reason, provider_id: None, elapsed }
            }
        }
    }

    /// Hands `letter` over in a kept session, else in a new one.
    async fn hand_over(
        &self,
        letter: &Letter,
        is_complete: &AtomicBool,
    ) -> Result<(u16, Option<String>), Trouble> {
        let permit = self.sessions.acquire().await;
        let _permit = permit.map_err(|_| Trouble::broken("closed"))?;
        if let Some(kept) = self.pool.take(Instant::now()) {
            match self.deliver(kept, letter, is_complete).await {
                Err(trouble) if trouble.is_stale() => {}
                done => return done,
            }
        }
        let session = self.relay.open().await?;
        self.deliver(session, letter, is_complete).await
    }

    async fn deliver(
        &self,
        mut session: Session,
        letter: &Letter,
        is_complete: &AtomicBool,
    ) -> Result<(u16, Option<String>), Trouble> {
        let done = session.deliver(&self.sender.mailbox.email, letter, is_complete).await;
        if done.as_ref().map_or_else(Trouble::is_in_step, |_| true) {
            self.pool.keep(session, Instant::now());
        }
        done
    }
}

impl Provider for Email {
    fn name(&self) -> ProviderName {
        ProviderName::Email
    }

    fn batch_max(&self) -> usize {
        self.sessions_max
    }

    fn in_flight_max(&self) -> usize {
        self.sessions_max
    }

    fn send<'a>(
        &'a self,
        batch: &'a [Delivery],
        report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        Box::pin(attempt::each(batch, report, |delivery| self.attempt(delivery)))
    }
}
