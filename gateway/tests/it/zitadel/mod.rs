//! ZITADEL's calls from outside: frames and trailers, the states of a policy, what a password causes.

mod grpc;
mod passwords;
mod policies;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::gateway::{Gateway, Home};
use crate::support::{soon, world};

const MANAGEMENT: &str = "/zitadel.management.v1.ManagementService/";
const POLICY: &str = "/management/v1/policies/notification";
const NUMBER: &str = "69629023906488334";

struct World {
    home: Home,
    gateway: Gateway,
    token: String,
}

impl World {
    async fn new() -> Self {
        let home = Home::new(world::directory()).set("store.segment=4MiB");
        let gateway = home.start().await;
        let token = home.token(101).await;
        Self { home, gateway, token }
    }

    /// Calls by gRPC with this message.
    async fn call(&self, name: &str, message: &[u8]) -> Answer {
        self.raw(&format!("{MANAGEMENT}{name}"), &frame(message), &[]).await
    }

    /// Posts this body to a path by gRPC; a header replaces one that is sent anyway.
    async fn raw(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> Answer {
        let mut all = HeaderMap::new();
        let bearer = format!("Bearer {}", self.token);
        let usual = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        for (name, value) in usual.iter().chain(headers) {
            let name = HeaderName::try_from(*name).expect("a header name");
            all.insert(name, HeaderValue::from_str(value).expect("a header value"));
        }
        soon(path, exchange(self.gateway.api, path, all, body.to_vec().into())).await
    }
}

/// A gRPC answer as it came.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

impl Answer {
    /// A header or, behind a body, a trailer.
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.trailers.get(name).or_else(|| self.headers.get(name))?;
        value.to_str().ok()
    }

    /// The call's result; every answer says it once, under HTTP 200.
    fn code(&self) -> u16 {
        assert_eq!(self.status, 200, "{self:?}");
        let said = self.headers.contains_key("grpc-status");
        assert_ne!(said, self.trailers.contains_key("grpc-status"), "{self:?}");
        self.get("grpc-status").and_then(|code| code.parse().ok()).expect("a status")
    }

    /// The one message of a good answer.
    fn message(&self) -> Bytes {
        assert_eq!(self.code(), 0, "{self:?}");
        let length = u32::try_from(self.body.len() - 5).expect("short").to_be_bytes();
        assert_eq!(self.body[..5], [&[0], &length[..]].concat(), "{self:?}");
        self.body.slice(5..)
    }
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

async fn exchange(to: SocketAddr, path: &str, headers: HeaderMap, body: Bytes) -> Answer {
    let stream = TcpStream::connect(to).await.expect("the gateway listens");
    speak(stream, &format!("http://{to}{path}"), headers, body).await
}

/// One request over HTTP/2 on `stream`.
async fn speak<S>(stream: S, uri: &str, headers: HeaderMap, body: Bytes) -> Answer
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let executor = TokioExecutor::new();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.expect("h2");
    tokio::spawn(connection);
    let mut request = http::Request::post(uri).body(Full::new(body)).expect("a right request");
    *request.headers_mut() = headers;
    let (head, body) = send.send_request(request).await.expect("an answer").into_parts();
    let body = body.collect().await.expect("a whole body");
    let trailers = body.trailers().cloned().unwrap_or_default();
    let (status, headers) = (head.status.as_u16(), head.headers);
    Answer { status, headers, body: body.to_bytes(), trailers }
}
