//! Clients for the twins, and right requests to make wrong ones from.

use std::sync::Arc;
use std::time::Duration;

use bugler_loadtest::twins::{Credentials, FaultPlan, TwinOptions, TwinSet};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

pub(crate) const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
pub(crate) const APNS_ID: &str = "123e4567-e89b-12d3-a456-4266554400a0";

pub(crate) async fn twins() -> TwinSet {
    twins_with(TwinOptions::default()).await
}

pub(crate) async fn twins_with(options: TwinOptions) -> TwinSet {
    TwinSet::start(options).await.expect("twins start on free ports")
}

pub(crate) async fn twins_showing(faults: &str) -> TwinSet {
    let faults = FaultPlan::parse(faults).expect("the plan is in the notation");
    twins_with(TwinOptions { faults, ..TwinOptions::default() }).await
}

pub(crate) fn address(url: &str) -> String {
    let url = Url::parse(url).expect("twins give URLs");
    format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"))
}

pub(crate) async fn tls(
    ca_pem: &str,
    url: &str,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address(url)).await?;
    tls_over(ca_pem, "127.0.0.1", alpn, tcp).await
}

/// TLS on a connection that is there; no protocol is offered if `alpn` is empty.
pub(crate) async fn tls_over(
    ca_pem: &str,
    name: &str,
    alpn: &[u8],
    tcp: TcpStream,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    let name = ServerName::try_from(name.to_owned()).expect("a name or an address");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// An HTTP/2 connection to a twin; its driver runs until the connection ends.
pub(crate) async fn h2(twins: &TwinSet, url: &str) -> SendRequest<Bytes> {
    let io = tls(twins.ca_pem(), url, b"h2").await.expect("the twins' authority is trusted");
    // As careful clients do: one stream until SETTINGS says otherwise.
    let mut builder = h2::client::Builder::new();
    builder.initial_max_send_streams(1);
    let (send, connection) = builder.handshake(io).await.expect("a handshake");
    tokio::spawn(connection);
    send
}

/// Sends one request over HTTP/2 and reads the whole answer.
pub(crate) async fn send(
    connection: &mut SendRequest<Bytes>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, h2::Error> {
    let (parts, body) = request.into_parts();
    let mut ready = connection.clone().ready().await?;
    let (answer, mut stream) = ready.send_request(Request::from_parts(parts, ()), false)?;
    stream.send_data(body, true)?;
    let (parts, mut body) = answer.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(Response::from_parts(parts, bytes.into()))
}

/// Sends one request over HTTP/1.1, with TLS for https URLs, and reads the whole answer.
pub(crate) async fn ask(
    twins: &TwinSet,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Response<Bytes>, hyper::Error> {
    let parsed = Url::parse(url).expect("a URL");
    let mut request = Request::builder().method(method).header("host", address(url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let path = match parsed.query() {
        Some(query) => format!("{}?{query}", parsed.path()),
        None => parsed.path().to_owned(),
    };
    let request = request.uri(path).body(Full::from(body.to_owned())).expect("a right request");
    if parsed.scheme() == "https" {
        let io = tls(twins.ca_pem(), url, b"http/1.1").await.expect("trusted");
        ask_over(io, request).await
    } else {
        let io = TcpStream::connect(address(url)).await.expect("the twin listens");
        ask_over(io, request).await
    }
}

async fn ask_over(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, hyper::Error> {
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    let (parts, body) = send.send_request(request).await?.into_parts();
    Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
}

/// The value, if it comes within five seconds.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), future).await.expect("an answer in five seconds")
}

pub(crate) fn body(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).expect("a JSON body")
}

pub(crate) fn provider_token(credentials: &Credentials, issued_at: u64) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(credentials.apns_key_id.clone());
    sign_apns(credentials, &header, &json!({ "iss": credentials.apns_team_id, "iat": issued_at }))
}

pub(crate) fn sign_apns(credentials: &Credentials, header: &Header, claims: &Value) -> String {
    let key = EncodingKey::from_ec_pem(credentials.apns_key_pem.as_bytes()).expect("a P-256 key");
    encode(header, claims, &key).expect("claims that can be signed")
}

/// A right push; cases change one thing.
pub(crate) struct Push {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Push {
    pub(crate) fn right(twins: &TwinSet) -> Self {
        let credentials = twins.credentials();
        let token = provider_token(credentials, get_current_timestamp());
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", format!("bearer {token}").as_str()),
            ("apns-topic", &credentials.apns_topic),
            ("apns-push-type", "alert"),
            ("apns-id", APNS_ID),
            ("apns-priority", "10"),
            ("apns-expiration", "0"),
            ("apns-collapse-id", "a"),
        ] {
            headers.insert(
                http::HeaderName::try_from(name).expect("a name"),
                value.try_into().expect("a value"),
            );
        }
        Self {
            method: "POST",
            path: format!("/3/device/{TOKEN}"),
            headers,
            body: Bytes::from_static(br#"{"aps":{"alert":{"title":"n-7"}},"bugler":"ref-1"}"#),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.try_into().expect("a header value"));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    pub(crate) fn to(mut self, token: &str) -> Self {
        self.path = format!("/3/device/{token}");
        self
    }

    pub(crate) fn request(self) -> Request<Bytes> {
        let uri = format!("https://127.0.0.1{}", self.path);
        let mut request =
            Request::builder().method(self.method).uri(uri).body(self.body).expect("a request");
        *request.headers_mut() = self.headers;
        request
    }
}
