//! The server on real sockets: an echo service behind it, raw bytes in front of it.

mod deadlines;
mod drain;
mod http1;
mod http2;
mod load;
mod tls;

use super::*;
use crate::lifecycle::Shutdown;
use bytes::Bytes;
use http_body::Frame;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// A deadline that runs out while a test waits for it.
const SHORT: Duration = Duration::from_millis(100);
/// A deadline that does not run out in a test.
const NEVER: Duration = Duration::from_secs(3600);

/// Answers by path: `/echo` the body, `/wait` after a release, `/panic` never, `/big` 64 MiB,
/// `/stream` two frames, anything else `ok` with the path.
#[derive(Default)]
struct Echo {
    calls: AtomicUsize,
    started: Notify,
    release: Notify,
    ids: Mutex<Vec<String>>,
}

async fn answer(echo: Arc<Echo>, request: Request) -> Response {
    match request.path() {
        "/echo" => match request.body.read(256 * 1024).await {
            Ok(bytes) => Response::new(bytes.into()),
            Err(error) => render("/echo", &error.into()),
        },
        "/lines" => {
            let Ok(mut stream) = request.body.into_stream(1024) else { return Response::default() };
            let mut seen = 0;
            while let Some(Ok(bytes)) = stream.next().await {
                seen += bytes.len();
            }
            Response::new(seen.to_string().into())
        }
        "/wait" => {
            echo.started.notify_one();
            echo.release.notified().await;
            Response::new("waited".into())
        }
        "/unread" => render("/unread", &Refusal::NotFound),
        "/panic" => panic!("on purpose"),
        "/big" => Response::new(vec![b'x'; 64 * 1024 * 1024].into()),
        "/stream" => {
            let (frames, receiver) = mpsc::channel(2);
            for text in ["one ", "two"] {
                frames.send(Frame::data(Bytes::from_static(text.as_bytes()))).await.unwrap();
            }
            Response::new(ReplyBody::Stream(receiver))
        }
        path => Response::new(format!("ok {path}").into()),
    }
}

/// A service owns what its futures need.
struct Served(Arc<Echo>);

impl Service for Served {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        self.0.ids.lock().push(request.id.as_str().to_owned());
        Box::pin(answer(Arc::clone(&self.0), request))
    }

    fn refuse(&self, path: &str, _: Option<&HeaderValue>, refusal: &Refusal) -> Response {
        render(path, refusal)
    }
}

fn render(path: &str, refusal: &Refusal) -> Response {
    let mut response = Response::new(format!("refused {path}: {refusal}").into());
    *response.status_mut() = refusal.status();
    response
}

struct TestServer {
    address: SocketAddr,
    echo: Arc<Echo>,
    shutdown: Shutdown,
    ended: JoinHandle<()>,
}

impl TestServer {
    async fn start(limits: ServerLimits) -> Self {
        Self::start_with(limits, None).await
    }

    async fn start_with(limits: ServerLimits, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = Arc::new(Echo::default());
        let shutdown = Shutdown::new();
        let service = Arc::new(Served(Arc::clone(&echo)));
        let ended = tokio::spawn(serve(listener, tls, limits, service, shutdown.clone()));
        Self { address, echo, shutdown, ended }
    }

    async fn connect(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends `bytes` and returns everything until the server closes.
    async fn ask(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut peer = self.connect().await;
        peer.send(bytes).await;
        peer.rest().await
    }

    /// Waits until the service has a `/wait` request.
    async fn started(&self) {
        let started = self.echo.started.notified();
        tokio::time::timeout(PATIENCE, started).await.expect("the request is served");
    }

    fn calls(&self) -> usize {
        self.echo.calls.load(Ordering::Relaxed)
    }

    /// Waits for `serve` to resolve.
    async fn end(self) {
        tokio::time::timeout(PATIENCE, self.ended).await.expect("serve ends").unwrap();
    }
}

struct Peer(TcpStream);

impl Peer {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The server may refuse and close before it has everything.
        let sent = tokio::time::timeout(PATIENCE, self.0.write_all(bytes.as_ref())).await;
        let _taken = sent.expect("the server reads or closes").is_ok();
    }

    /// Everything until the server closes; fails the test if it does not.
    async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let read = async {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = self.0.read(&mut piece).await {
                all.extend_from_slice(&piece[..count]);
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the server closes the connection");
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Reads until `text` was seen and returns all read so far.
    async fn until(&mut self, text: &str) -> String {
        let mut all = String::new();
        let read = async {
            let mut piece = [0; 4096];
            while !all.contains(text) {
                let count = self.0.read(&mut piece).await.unwrap();
                assert!(count > 0, "closed before {text:?}, got {all:?}");
                all.push_str(std::str::from_utf8(&piece[..count]).unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an answer comes");
        all
    }
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_default()
}
