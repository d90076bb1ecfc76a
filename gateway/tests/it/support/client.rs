//! A plain HTTP client, over HTTP/1.1 or HTTP/2 with prior knowledge, and raw connections.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Http1, Self::Http2];
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: &str, path: impl Into<String>) -> Self {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        Self { method, path: path.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new("POST", path)
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Adds a header; the same name may be added again.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("a header name");
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header value");
        self.headers.append(name, value);
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) fn json(self, body: impl Into<Bytes>) -> Self {
        let mut ask = self.header("content-type", "application/json");
        ask.body = body.into();
        ask
    }

    pub(crate) fn lines(self, body: impl Into<Bytes>) -> Self {
        let mut ask = self.header("content-type", "application/x-ndjson");
        ask.body = body.into();
        ask
    }

    /// Sends the request on a connection of its own.
    pub(crate) async fn send(&self, protocol: Protocol, to: SocketAddr) -> Reply {
        let what = format!("an answer to {} {}", self.method, self.path);
        soon(&what, self.exchange(protocol, to)).await.expect(&what)
    }

    pub(crate) async fn exchange(
        &self,
        protocol: Protocol,
        to: SocketAddr,
    ) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
        let io = TokioIo::new(TcpStream::connect(to).await?);
        let uri = match protocol {
            Protocol::Http1 => self.path.clone(),
            Protocol::Http2 => format!("http://{to}{}", self.path),
        };
        let mut request = http::Request::builder().method(self.method.clone()).uri(uri);
        let headers = request.headers_mut().ok_or("a right request")?;
        headers.clone_from(&self.headers);
        if protocol == Protocol::Http1 {
            headers.entry("host").or_insert(to.to_string().try_into()?);
        }
        let request = request.body(Full::new(self.body.clone()))?;
        let response = match protocol {
            Protocol::Http1 => {
                let (mut send, connection) = hyper::client::conn::http1::handshake(io).await?;
                tokio::spawn(connection);
                send.send_request(request).await?
            }
            Protocol::Http2 => {
                let executor = TokioExecutor::new();
                let (mut send, connection) =
                    hyper::client::conn::http2::handshake(executor, io).await?;
                tokio::spawn(connection);
                send.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| unreachable!("{error} in {}", self.text()))
    }

    /// Every line of an NDJSON body.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("a line of JSON")).collect()
    }

    pub(crate) fn id(&self) -> String {
        self.header("bugler-notification-id").unwrap_or_default().to_owned()
    }
}

/// A connection on which the test writes every byte itself.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.expect("the gateway listens");
        Self { stream, read: Vec::new() }
    }

    /// Writes everything, or what the peer takes before it closes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        soon("the peer reads", self.stream.write_all(bytes)).await.is_ok()
    }

    /// Reads until `end` was seen or the peer has closed; answers all text read so far.
    pub(crate) async fn read_until(&mut self, end: &str) -> String {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let text = String::from_utf8_lossy(&self.read).into_owned();
            if !end.is_empty() && text.contains(end) {
                return text;
            }
            match soon("the peer writes or closes", self.stream.read(&mut chunk)).await {
                Ok(0) | Err(_) => return text,
                Ok(count) => self.read.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            }
        }
    }

    pub(crate) async fn read_to_end(&mut self) -> String {
        self.read_until("").await
    }
}
