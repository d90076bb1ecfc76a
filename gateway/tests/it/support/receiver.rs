//! A plain HTTP server that keeps every request it got and answers as a test wants.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::eventually;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).expect("a body of text")
    }

    /// The id a sender of Standard Webhooks gives a message.
    pub(crate) fn id(&self) -> String {
        self.headers["webhook-id"].to_str().expect("plain text").to_owned()
    }
}

/// Says how to answer a request, knowing how many came before it.
pub(crate) type Answer = dyn Fn(&Seen, usize) -> (u16, String) + Send + Sync;

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Receiver {
    pub(crate) async fn start(
        answer: impl Fn(&Seen, usize) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener"));
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let receiver = Self { url, seen: Arc::clone(&seen) };
        let answer: Arc<Answer> = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                let service = service_fn(move |request| {
                    exchange(request, Arc::clone(&seen), Arc::clone(&answer))
                });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        receiver
    }

    /// Always answers with this status.
    pub(crate) async fn of_status(status: u16) -> Self {
        Self::start(move |_, _| (status, String::new())).await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// The requests, once there are `count`.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Seen> {
        eventually("the receiver got its requests", async || {
            let seen = self.seen();
            (seen.len() >= count).then_some(seen)
        })
        .await
    }
}

async fn exchange(
    request: Request<Incoming>,
    all: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<Answer>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let seen = Seen { path: head.uri.path().to_owned(), headers: head.headers, body };
    let before = {
        let mut all = all.lock();
        all.push(seen.clone());
        all.len() - 1
    };
    let (status, text) = answer(&seen, before);
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status.try_into().expect("a status");
    Ok(response)
}
