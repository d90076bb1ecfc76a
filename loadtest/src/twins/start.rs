//! Brings the listeners of a set up, in the order their addresses are needed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use super::control::TrafficCounts;
use super::credentials::Credentials;
use super::name::TwinName;
use super::options::{TwinError, TwinOptions};
use super::pki::{Certificate, Pki, PkiError};
use super::smtp::{Relay, SmtpSink};
use super::stage::{Stage, Twin};
use super::wire::{Listener, Mode, Port, StreamPolicy};
use super::{apns, fcm, slack, webhook};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const H2_ONLY: &[&[u8]] = &[b"h2"];
const H2_AND_H1: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What the set and its control interface both reach.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) stage: Arc<Stage>,
    pub(super) credentials: Credentials,
    pub(super) secrets: Arc<webhook::Secrets>,
    pub(super) listeners: Listeners,
    pub(super) pki: Arc<Pki>,
}

impl Shared {
    pub(super) fn set_mode(&self, twin: TwinName, mode: Mode) {
        for listener in self.listeners.of(twin) {
            listener.set_mode(mode);
        }
    }

    /// A new certificate for the next connections; APNs speaks HTTP/2 only.
    pub(super) fn set_certificate(
        &self,
        twin: TwinName,
        certificate: Certificate,
    ) -> Result<(), PkiError> {
        let alpn = if twin == TwinName::Apns { H2_ONLY } else { H2_AND_H1 };
        let config = self.pki.server_config(HOST, certificate, alpn)?;
        for listener in self.listeners.of(twin) {
            listener.set_tls(Arc::clone(&config));
        }
        Ok(())
    }

    pub(super) fn traffic(&self, twin: TwinName) -> TrafficCounts {
        let mut counts = TrafficCounts::default();
        if twin == TwinName::Smtp {
            counts.connections = self.listeners.smtp.connections.load(Ordering::Relaxed);
        }
        for listener in self.listeners.of(twin) {
            counts.connections += listener.traffic.connections.load(Ordering::Relaxed);
            counts.streams_refused += listener.traffic.streams_refused.load(Ordering::Relaxed);
            let flooded = listener.traffic.flooded_max.load(Ordering::Relaxed);
            counts.flooded_max = counts.flooded_max.max(flooded);
        }
        counts
    }
}

#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) apns: Listener,
    pub(super) fcm: Listener,
    pub(super) slack: Listener,
    pub(super) slack_plain: Listener,
    pub(super) webhook: Listener,
    pub(super) webhook_plain: Listener,
    pub(super) smtp: SmtpSink,
}

impl Listeners {
    pub(super) fn of(&self, twin: TwinName) -> Vec<&Listener> {
        match twin {
            TwinName::Apns => vec![&self.apns],
            TwinName::Fcm | TwinName::FcmToken => vec![&self.fcm],
            TwinName::Slack | TwinName::SlackOauth => vec![&self.slack, &self.slack_plain],
            TwinName::Webhook => vec![&self.webhook, &self.webhook_plain],
            TwinName::Smtp => Vec::new(),
        }
    }
}

pub(super) fn https(address: SocketAddr) -> String {
    format!("https://{address}")
}

pub(super) fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// A set on its way up.
pub(super) struct Starting {
    pub(super) options: TwinOptions,
    pub(super) pki: Arc<Pki>,
    pub(super) stage: Arc<Stage>,
}

impl Starting {
    pub(super) async fn start(&self) -> Result<Shared, TwinError> {
        let ports = self.options.ports;
        // Their own addresses go into what these two hand out.
        let fcm = bind("FCM twin", ports.fcm).await?;
        let slack = bind("Slack twin", ports.slack).await?;
        let fcm_origin = https(fcm.local_addr().map_err(TwinError::Listener)?);
        let slack_origin = https(slack.local_addr().map_err(TwinError::Listener)?);
        let credentials = Credentials::generate(self.pki.ca_pem(), &fcm_origin)?;
        let secrets = Arc::<webhook::Secrets>::default();
        let interval = self.options.slack_interval;
        let slack_twin: Arc<dyn Twin> =
            Arc::new(slack::SlackTwin::new(&credentials, slack_origin, interval));
        let webhook_twin: Arc<dyn Twin> = Arc::new(webhook::WebhookTwin::new(Arc::clone(&secrets)));

        let slack_plain = bind("plain Slack twin", ports.slack_plain).await?;
        let webhook = bind("webhook twin", ports.webhook).await?;
        let webhook_plain = bind("plain webhook twin", ports.webhook_plain).await?;
        let smtp = bind("SMTP twin", ports.smtp).await?;
        let smtp_tls = bind("SMTP twin over TLS", ports.smtp_tls).await?;
        let certificate = self.options.webhook_certificate;
        let listeners = Listeners {
            apns: self.apns(&credentials).await?,
            fcm: self.fcm(&credentials, fcm)?,
            slack: self.tls(slack, Arc::clone(&slack_twin), Certificate::Good)?,
            slack_plain: self.plain(slack_plain, slack_twin)?,
            webhook: self.tls(webhook, Arc::clone(&webhook_twin), certificate)?,
            webhook_plain: self.plain(webhook_plain, webhook_twin)?,
            smtp: SmtpSink::start(smtp, smtp_tls, self.relay(&credentials)?)
                .map_err(TwinError::Listener)?,
        };
        let (stage, pki) = (Arc::clone(&self.stage), Arc::clone(&self.pki));
        Ok(Shared { stage, credentials, secrets, listeners, pki })
    }

    fn relay(&self, credentials: &Credentials) -> Result<Relay, TwinError> {
        let options = self.options.smtp;
        Ok(Relay {
            stage: Arc::clone(&self.stage),
            tls: self.pki.server_config(HOST, options.certificate, &[])?,
            options,
            user: credentials.smtp_user.clone(),
            password: credentials.smtp_password.clone(),
        })
    }

    async fn apns(&self, credentials: &Credentials) -> Result<Listener, TwinError> {
        let options = &self.options;
        let tokens = apns::TokenCheck::new(credentials, options.apns_token_update_min)?;
        let port = Port {
            twin: Arc::new(apns::ApnsTwin::new(credentials, tokens)),
            stage: Arc::clone(&self.stage),
            tls: Some(self.certified(Certificate::Good, H2_ONLY)?),
            streams: StreamPolicy {
                initial: options.apns_streams_first,
                authenticated: options.apns_streams,
                after_bad_credentials: options.apns_one_stream_after_bad_token.then_some(1),
            },
        };
        let listener = bind("APNs twin", options.ports.apns).await?;
        Listener::start(listener, port).map_err(TwinError::Listener)
    }

    fn fcm(&self, credentials: &Credentials, listener: TcpListener) -> Result<Listener, TwinError> {
        let tokens = fcm::TokenIssuer::new(credentials, self.options.fcm_token_lifetime_s)?;
        let streams = self.options.fcm_streams;
        let port = Port {
            twin: Arc::new(fcm::FcmTwin::new(
                credentials,
                tokens,
                self.options.fcm_quota_per_minute,
            )),
            stage: Arc::clone(&self.stage),
            tls: Some(self.certified(Certificate::Good, H2_AND_H1)?),
            streams: StreamPolicy {
                initial: streams,
                authenticated: streams,
                after_bad_credentials: None,
            },
        };
        Listener::start(listener, port).map_err(TwinError::Listener)
    }

    fn certified(
        &self,
        certificate: Certificate,
        alpn: &[&[u8]],
    ) -> Result<Arc<RwLock<Arc<ServerConfig>>>, PkiError> {
        Ok(Arc::new(RwLock::new(self.pki.server_config(HOST, certificate, alpn)?)))
    }

    fn tls(
        &self,
        listener: TcpListener,
        twin: Arc<dyn Twin>,
        certificate: Certificate,
    ) -> Result<Listener, TwinError> {
        let tls = Some(self.certified(certificate, H2_AND_H1)?);
        let (stage, streams) = (Arc::clone(&self.stage), StreamPolicy::default());
        let started = Listener::start(listener, Port { twin, stage, tls, streams });
        started.map_err(TwinError::Listener)
    }

    fn plain(&self, listener: TcpListener, twin: Arc<dyn Twin>) -> Result<Listener, TwinError> {
        let (stage, streams) = (Arc::clone(&self.stage), StreamPolicy::default());
        let started = Listener::start(listener, Port { twin, stage, tls: None, streams });
        started.map_err(TwinError::Listener)
    }
}

pub(super) async fn bind(what: &'static str, port: u16) -> Result<TcpListener, TwinError> {
    TcpListener::bind(SocketAddr::new(HOST, port)).await.map_err(|source| TwinError::Bind {
        what,
        port,
        source,
    })
}
