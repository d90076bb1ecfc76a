//! A small client for the commands that talk to a running gateway.

use crate::cli::{CliError, Exit};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::time::Duration;
use tokio::net::TcpStream;
use url::Url;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A gateway and the token to talk to it.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    url: Url,
    token: String,
    patience: Duration,
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn json(&self) -> Result<Value, CliError> {
        serde_json::from_slice(&self.body).map_err(|e| CliError::failed(&e))
    }
}

impl Gateway {
    pub(super) fn new(url: &str, token: &str) -> Result<Self, CliError> {
        let parsed = Url::parse(url).ok().filter(|u| u.scheme() == "http" && u.host().is_some());
        let url = parsed.ok_or_else(|| {
            let text = format!("{url:?} is no gateway address; write it as http://127.0.0.1:2845");
            CliError::new(Exit::Unreachable, text)
        })?;
        Ok(Self { url, token: token.to_owned(), patience: TIMEOUT })
    }

    /// Waits so long for an answer.
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Reply, CliError> {
        self.send(Method::GET, path, "application/json", Bytes::new()).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        media: &'static str,
        body: Bytes,
    ) -> Result<Reply, CliError> {
        let exchange = self.exchange(method, path, media, body);
        match tokio::time::timeout(self.patience, exchange).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(self.unreachable(error.as_ref())),
            Err(elapsed) => Err(self.unreachable(&elapsed)),
        }
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> CliError {
        let text = format!("no answer from {}: {}", self.url, crate::telemetry::chain(error));
        CliError::new(Exit::Unreachable, text)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        media: &'static str,
        body: Bytes,
    ) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host, port)).await?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let connection = tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{host}:{port}"))
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, media)
            .body(Full::new(body))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
    }
}
