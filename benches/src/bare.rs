//! Clients that do nothing but send: what a gateway's deliveries are measured against.

use crate::Failed;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bugler_gateway::providers::tls::{self, Protocol};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hmac::{Hmac, KeyInit, Mac};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use sha2::Sha256;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use uuid::Uuid;

/// Requests one HTTP/2 connection has under way.
const STREAMS: usize = 500;
const DEVICES: u64 = 2_000;
/// Makes ids and devices without a random source in the part that is timed.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// What a bare run sends.
#[derive(Clone, Debug)]
pub struct Bare {
    /// `host:port`.
    pub address: String,
    pub requests: usize,
    pub connections: usize,
    pub body: String,
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[expect(clippy::cast_precision_loss, reason = "a count shown with three digits")]
fn per_second(requests: usize, elapsed: Duration) -> f64 {
    requests as f64 / elapsed.as_secs_f64()
}

/// Pushes through pooled HTTP/2 connections, each as full as it gets; pushes per second.
///
/// # Errors
/// What the network, TLS or the twin refuses.
pub async fn apns(
    bare: &Bare,
    files: &Path,
    (team, key_id): (&str, &str),
    topic: &str,
) -> Result<f64, Failed> {
    let ca = std::fs::read(files.join("ca.pem"))?;
    let tls = tls::client_config(Some(&ca), Protocol::Http2)?;
    let key = EncodingKey::from_ec_pem(&std::fs::read(files.join("apns.p8"))?)?;
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(key_id.to_owned());
    let token = encode(&header, &json!({"iss": team, "iat": unix_s()}), &key)?;
    let mut token = HeaderValue::try_from(format!("bearer {token}"))?;
    token.set_sensitive(true);
    let left = Arc::new(AtomicUsize::new(bare.requests));
    let mut senders = Vec::new();
    for _ in 0..bare.connections {
        let tcp = TcpStream::connect(&bare.address).await?;
        tcp.set_nodelay(true)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls));
        let io = connector.connect("127.0.0.1".try_into()?, tcp).await?;
        let (mut sender, connection) = h2::client::handshake(io).await?;
        tokio::spawn(connection);
        // APNs allows one stream until it knows who asks.
        push(&mut sender, bare, &token, topic).await?;
        senders.push(sender);
    }
    let begun = Instant::now();
    let running: Vec<_> = senders
        .into_iter()
        .map(|sender| {
            let (bare, token, topic) = (bare.clone(), token.clone(), topic.to_owned());
            let left = Arc::clone(&left);
            tokio::spawn(async move { pushes(sender, &bare, &token, &topic, &left).await })
        })
        .collect();
    for worker in running {
        worker.await??;
    }
    Ok(per_second(bare.requests, begun.elapsed()))
}

async fn pushes(
    sender: h2::client::SendRequest<Bytes>,
    bare: &Bare,
    token: &HeaderValue,
    topic: &str,
    left: &AtomicUsize,
) -> Result<(), Failed> {
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    let one = || {
        let mut sender = sender.clone();
        async move { push(&mut sender, bare, token, topic).await }
    };
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < STREAMS && take().is_ok() {
            running.push(one());
        }
        match running.next().await {
            Some(pushed) => pushed?,
            None => return Ok(()),
        }
    }
}

async fn push(
    sender: &mut h2::client::SendRequest<Bytes>,
    bare: &Bare,
    token: &HeaderValue,
    topic: &str,
) -> Result<(), Failed> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut id = HeaderValue::try_from(Uuid::from_u64_pair(unix_s(), number).to_string())?;
    // Different in every request, as the gateway's: not for HPACK's table.
    id.set_sensitive(true);
    let device = number % DEVICES;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://{}/3/device/{device:064x}", bare.address))
        .header(AUTHORIZATION, token)
        .header("apns-topic", topic)
        .header("apns-id", id.clone())
        .header("apns-collapse-id", id)
        .header("apns-push-type", "alert")
        .header("apns-priority", "10")
        .header("apns-expiration", unix_s() + 86_400)
        .header("content-length", bare.body.len())
        .body(())?;
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, mut stream) = sender.send_request(request, false)?;
    stream.send_data(Bytes::from(bare.body.clone()), true)?;
    let response = response.await?;
    if response.status() != 200 {
        return Err(format!("the twin answered {}", response.status()).into());
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        data?;
    }
    Ok(())
}

/// Posts signed bodies over kept connections, one request each at a time; posts per second.
///
/// # Errors
/// What the network or the twin refuses.
pub async fn webhook(bare: &Bare, path: &str, secret: &[u8]) -> Result<f64, Failed> {
    let left = Arc::new(AtomicUsize::new(bare.requests));
    let begun = Instant::now();
    let running: Vec<_> = (0..bare.connections)
        .map(|_| {
            let (bare, path, secret) = (bare.clone(), path.to_owned(), secret.to_vec());
            let left = Arc::clone(&left);
            tokio::spawn(async move { posts(&bare, &path, &secret, &left).await })
        })
        .collect();
    for worker in running {
        worker.await??;
    }
    Ok(per_second(bare.requests, begun.elapsed()))
}

async fn posts(bare: &Bare, path: &str, secret: &[u8], left: &AtomicUsize) -> Result<(), Failed> {
    let tcp = TcpStream::connect(&bare.address).await?;
    tcp.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("msg_{}", Uuid::from_u64_pair(unix_s(), number));
        let timestamp = unix_s();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret)?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(bare.body.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &bare.address)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", format!("v1,{signature}"))
            .body(Full::new(Bytes::from(bare.body.clone())))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("the twin answered {}", response.status()).into());
        }
        response.into_body().collect().await?;
    }
    Ok(())
}
