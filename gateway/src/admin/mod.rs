//! The operator's listener: liveness, readiness, metrics, audit and the API's documents.
//!
//! Served by the same front door as the API, so it has the same limits and deadlines.

use crate::BoxFuture;
use crate::lifecycle::Readiness;
use crate::openapi::{Documents, Viewer};
use crate::server::{Refusal, ReplyBody, Request, Response, Service};
use crate::telemetry::metrics::PrometheusHandle;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Answers the operator's requests.
#[derive(Clone)]
pub struct AdminService {
    readiness: Readiness,
    metrics: PrometheusHandle,
    durability: Arc<dyn Fn() -> &'static str + Send + Sync>,
    viewer: Viewer,
    audit: Audit,
}

/// Audits the journal, or says why it cannot now; takes as long as the log is long.
pub type Audit = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

impl AdminService {
    /// `durability` names the present durability class; it is asked on each `/readyz`. `viewer`
    /// shows the API's documents.
    #[must_use]
    pub fn new(
        readiness: Readiness,
        metrics: PrometheusHandle,
        viewer: Viewer,
        durability: impl Fn() -> &'static str + Send + Sync + 'static,
    ) -> Self {
        let audit: Audit = Arc::new(|| Err(String::from("there is no journal to audit")));
        Self { readiness, metrics, durability: Arc::new(durability), viewer, audit }
    }

    /// Answers `/audit` with what `audit` finds.
    #[must_use]
    pub fn with_audit(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    fn serves(&self, path: &str) -> bool {
        matches!(path, "/healthz" | "/readyz" | "/healthz/ready" | "/metrics" | "/audit")
            || Documents::get().paths().chain(self.viewer.paths()).any(|known| known == path)
    }

    /// That it lives, and what its operator should know.
    fn alive(&self) -> String {
        let notes = self.readiness.notes();
        let lines = notes.iter().map(|(topic, what)| format!("{topic}: {what}\n"));
        std::iter::once(String::from("ok\n")).chain(lines).collect()
    }

    fn ready(&self) -> Response {
        let reasons = self.readiness.reasons();
        let ready = reasons.is_empty();
        let answer = Ready {
            ready,
            reasons: reasons
                .iter()
                .map(|(condition, reason)| Reason { condition, reason })
                .collect(),
            durability: (self.durability)(),
        };
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        reply(status, JSON, serde_json::to_vec(&answer).unwrap_or_default())
    }
}

impl fmt::Debug for AdminService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminService").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    reasons: Vec<Reason<'a>>,
    durability: &'static str,
}

#[derive(Serialize)]
struct Reason<'a> {
    condition: &'a str,
    reason: &'a str,
}

impl Service for AdminService {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let admin = self.clone();
        Box::pin(async move {
            let is_read = matches!(request.method, Method::GET | Method::HEAD);
            match request.path() {
                path if !is_read && admin.serves(path) => {
                    let mut refused =
                        admin.refuse(request.path(), None, &Refusal::MethodNotAllowed);
                    let allow = HeaderValue::from_static("GET, HEAD");
                    refused.headers_mut().insert(header::ALLOW, allow);
                    refused
                }
                // Answering at all is what liveness means.
                "/healthz" => reply(StatusCode::OK, TEXT, admin.alive()),
                "/readyz" | "/healthz/ready" => admin.ready(),
                "/metrics" => {
                    // Many series take milliseconds to render: not on a thread that serves.
                    let rendering = tokio::task::spawn_blocking(move || admin.metrics.render());
                    match rendering.await {
                        Ok(text) => reply(StatusCode::OK, PROMETHEUS, text),
                        Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "no metrics\n"),
                    }
                }
                "/audit" => {
                    let auditing = tokio::task::spawn_blocking(move || (admin.audit)());
                    match auditing.await {
                        Ok(Ok(report)) => reply(StatusCode::OK, JSON, report),
                        Ok(Err(why)) => {
                            reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n"))
                        }
                        Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "no audit\n"),
                    }
                }
                path => {
                    let documents = Documents::get().reply(path, &request.headers);
                    documents
                        .or_else(|| admin.viewer.reply(path, &request.headers))
                        .unwrap_or_else(|| admin.refuse(path, None, &Refusal::NotFound))
                }
            }
        })
    }

    fn refuse(&self, _path: &str, _: Option<&HeaderValue>, refusal: &Refusal) -> Response {
        reply(refusal.status(), TEXT, format!("{refusal}\n"))
    }
}

fn reply(status: StatusCode, content_type: HeaderValue, body: impl Into<ReplyBody>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Shutdown;
    use crate::server::{ServerLimits, serve};
    use crate::telemetry::metrics;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    struct Admin {
        address: std::net::SocketAddr,
        readiness: Readiness,
        shutdown: Shutdown,
    }

    impl Admin {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let shutdown = Shutdown::new();
            let readiness = Readiness::new(shutdown.clone());
            let handle = metrics::install().unwrap();
            let viewer = Viewer::new(address, false);
            let service = AdminService::new(readiness.clone(), handle, viewer, || "fsync");
            let service = Arc::new(service);
            let limits = ServerLimits { name: "admin", ..ServerLimits::default() };
            // The listener outlives the drain of what it reports on.
            tokio::spawn(serve(listener, None, limits, service, Shutdown::new()));
            Self { address, readiness, shutdown }
        }

        async fn ask(&self, line: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let head = format!("{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn readiness_is_200_or_503_with_reasons_and_durability() {
        let admin = Admin::start().await;
        for path in ["GET /readyz", "GET /healthz/ready"] {
            let answer = admin.ask(path).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let body = r#"{"ready":true,"reasons":[],"durability":"fsync"}"#;
            assert!(answer.ends_with(body), "{answer}");
        }
        admin.readiness.block("journal", "recovering");
        let answer = admin.ask("GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let reason = r#""reasons":[{"condition":"journal","reason":"recovering"}]"#;
        assert!(answer.contains(reason), "{answer}");
        assert!(admin.ask("GET /healthz").await.starts_with("HTTP/1.1 200"), "live, not ready");
        admin.readiness.note("configuration", "not taken over");
        let answer = admin.ask("GET /healthz").await;
        assert!(answer.ends_with("ok\nconfiguration: not taken over\n"), "{answer}");
        admin.readiness.clear("journal");
        admin.shutdown.drain();
        assert!(admin.ask("GET /readyz").await.contains(r#""condition":"shutdown""#));
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text_with_help() {
        let admin = Admin::start().await;
        let answer = admin.ask("GET /metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("# HELP bugler_build_info Always 1"), "{answer}");
        assert!(answer.contains("bugler_http_connections{protocol=\"http1\"}"), "{answer}");
    }

    #[tokio::test]
    async fn anything_else_is_404_and_writing_is_405() {
        let admin = Admin::start().await;
        for line in ["GET /docs/", "GET /readyz/", "GET /v2.0/tool/x", "POST /other"] {
            let answer = admin.ask(line).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{line}: {answer}");
        }
        let answer = admin.ask("POST /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
}
