//! The control interface of a set of twins: receipts, counts, faults, over HTTP on loopback.
//!
//! | request | answer |
//! |---|---|
//! | `GET /receipts?twin=&since=&limit=` | `{"next":…,"receipts":[…]}` after position `since` |
//! | `DELETE /receipts` | forgets receipts and totals |
//! | `GET /counts` | totals and traffic per twin |
//! | `GET /faults`, `POST /faults?seed=`, `DELETE /faults` | the plan; posted as JSON or in text notation |
//! | `POST /secrets` | `{"path":…,"secret":…}`: the webhook twin checks signatures there |
//! | `POST /up?twin=`, `POST /down?twin=` | a twin comes back, or resets all connections |
//! | `POST /freeze?twin=` | keeps all connections, and neither reads nor sends until it is up again |
//! | `POST /certificate?twin=&kind=` | another certificate, such as `expired`, for new connections |
//! | `GET /credentials` | the authority and the public half of the credentials |

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use url::form_urlencoded;

use super::reply::{json as json_answer, read_body};
use super::start::Shared;
use super::wire::Mode;
use super::{Certificate, FaultPlan, TwinName, UnknownCertificate};

const BODY_BYTES_MAX: usize = 1 << 20;
const RECEIPTS_LIMIT: usize = 10_000;

/// What happened on the connections of a twin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficCounts {
    /// Connections accepted.
    pub connections: u64,
    /// Streams refused because the peer opened more than allowed.
    pub streams_refused: u64,
    /// Most bytes of an endless body that one HTTP/1 connection took, those in the kernel's buffers
    /// among them.
    pub flooded_max: u64,
}

/// The interface at work; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Control {
    pub(crate) fn start(listener: TcpListener, shared: Arc<Shared>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener, shared)).abort_handle();
        Ok(Self { address, task })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        let service = service_fn(|request| answer(request, &shared));
                        let connection = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .serve_connection(TokioIo::new(tcp), service);
                        // A client that breaks off is no concern of the twins.
                        connection.await.ok();
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: &Shared,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let (body, _) = read_body(body, BODY_BYTES_MAX).await;
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let query: HashMap<String, String> = query.into_owned().collect();
    let done = route(&parts.method, parts.uri.path(), &query, &body, shared);
    let response = match done {
        Ok(body) => json_answer(200, &body),
        Err((code, error)) => json_answer(code, &json!({ "error": error })),
    };
    Ok(response.map(Full::new))
}

type Done = Result<Value, (u16, String)>;

fn route(
    method: &Method,
    path: &str,
    query: &HashMap<String, String>,
    body: &[u8],
    shared: &Shared,
) -> Done {
    match (method.as_str(), path) {
        ("GET", "/receipts") => list_receipts(query, shared),
        ("DELETE", "/receipts") => {
            shared.stage.receipts.clear();
            Ok(json!({}))
        }
        ("GET", "/counts") => Ok(counts(shared)),
        ("GET", "/faults") => Ok(json!(shared.stage.faults.plan())),
        ("POST", "/faults") => set_faults(body, number(query, "seed")?, shared),
        ("DELETE", "/faults") => {
            shared.stage.faults.set(FaultPlan::default());
            Ok(json!({}))
        }
        ("POST", "/secrets") => register_secret(body, shared),
        ("POST", "/up") => set_mode(query, Mode::Up, shared),
        ("POST", "/down") => set_mode(query, Mode::Down, shared),
        ("POST", "/freeze") => set_mode(query, Mode::Frozen, shared),
        ("POST", "/certificate") => set_certificate(query, shared),
        ("GET", "/credentials") => Ok(public_credentials(shared)),
        _ => {
            let known = "receipts, counts, faults, secrets, up, down, freeze or certificate";
            Err((404, format!("no such control; use {known}")))
        }
    }
}

fn twin(query: &HashMap<String, String>) -> Result<Option<TwinName>, (u16, String)> {
    let parsed = query.get("twin").filter(|name| !name.is_empty()).map(|name| name.parse());
    parsed.transpose().map_err(|error: super::UnknownTwin| (400, error.to_string()))
}

fn named(query: &HashMap<String, String>) -> Result<TwinName, (u16, String)> {
    twin(query)?.ok_or((400, "name the twin, as in ?twin=fcm".to_owned()))
}

fn set_mode(query: &HashMap<String, String>, mode: Mode, shared: &Shared) -> Done {
    shared.set_mode(named(query)?, mode);
    Ok(json!({}))
}

fn set_certificate(query: &HashMap<String, String>, shared: &Shared) -> Done {
    let kind: Result<Certificate, _> = query.get("kind").map_or("good", String::as_str).parse();
    let kind = kind.map_err(|error: UnknownCertificate| (400, error.to_string()))?;
    shared.set_certificate(named(query)?, kind).map_err(|error| (500, error.to_string()))?;
    Ok(json!({}))
}

fn number(query: &HashMap<String, String>, name: &str) -> Result<Option<u64>, (u16, String)> {
    let parsed = query.get(name).filter(|text| !text.is_empty()).map(|text| text.parse());
    parsed.transpose().map_err(|_| (400, format!("{name} is not a number")))
}

fn list_receipts(query: &HashMap<String, String>, shared: &Shared) -> Done {
    let since = number(query, "since")?.unwrap_or(0);
    let limit = number(query, "limit")?.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(RECEIPTS_LIMIT).min(RECEIPTS_LIMIT);
    let receipts = shared.stage.receipts.list(twin(query)?, since, limit);
    let next = receipts.last().map_or(since, |receipt| receipt.seq);
    Ok(json!({ "next": next, "receipts": receipts }))
}

fn counts(shared: &Shared) -> Value {
    let traffic: HashMap<&str, TrafficCounts> =
        TwinName::ALL.iter().map(|twin| (twin.as_str(), shared.traffic(*twin))).collect();
    json!({ "receipts": shared.stage.receipts.counts(), "traffic": traffic })
}

fn set_faults(body: &[u8], seed: Option<u64>, shared: &Shared) -> Done {
    let text = std::str::from_utf8(body).map_err(|_| (400, "the plan is not text".to_owned()))?;
    let mut plan: FaultPlan = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| (400, error.to_string()))?
    } else {
        FaultPlan::parse(text.trim()).map_err(|error| (400, error.to_string()))?
    };
    plan.seed = seed.unwrap_or(plan.seed);
    let shown = json!(plan);
    shared.stage.faults.set(plan);
    Ok(shown)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSecret {
    path: String,
    secret: String,
}

fn register_secret(body: &[u8], shared: &Shared) -> Done {
    let new: NewSecret =
        serde_json::from_slice(body).map_err(|_| (400, "send path and secret".to_owned()))?;
    shared.secrets.register(&new.path, &new.secret).map_err(|error| (400, error.to_string()))?;
    Ok(json!({}))
}

fn public_credentials(shared: &Shared) -> Value {
    let credentials = &shared.credentials;
    json!({
        "ca_pem": credentials.ca_pem,
        "apns": {
            "team_id": credentials.apns_team_id,
            "key_id": credentials.apns_key_id,
            "topic": credentials.apns_topic,
        },
        "fcm": { "project_id": credentials.fcm_project_id },
        "slack": { "client_id": credentials.slack_client_id },
    })
}
