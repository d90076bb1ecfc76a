//! HTTP/2 with prior knowledge, by a real client.

use super::*;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

type Sender = http2::SendRequest<Full<Bytes>>;

pub(super) async fn connect<IO>(io: IO) -> (Sender, JoinHandle<hyper::Result<()>>)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn request(path: &str) -> http::request::Builder {
    http::Request::builder().uri(format!("http://h{path}"))
}

async fn send(sender: &mut Sender, request: http::Request<Full<Bytes>>) -> (u16, String) {
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap();
    let (head, body) = answer.unwrap().into_parts();
    assert!(head.headers.contains_key("bugler-request-id"));
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

async fn start(limits: ServerLimits) -> (TestServer, Sender, JoinHandle<hyper::Result<()>>) {
    let server = TestServer::start(limits).await;
    let (sender, connection) = connect(server.connect().await.0).await;
    (server, sender, connection)
}

#[tokio::test]
async fn serves_requests_with_bodies() {
    let (_server, mut sender, _connection) = start(ServerLimits::default()).await;
    let body = Full::new(Bytes::from(vec![b'x'; 200_000]));
    let (status, text) =
        send(&mut sender, request("/echo").method("POST").body(body).unwrap()).await;
    assert_eq!((status, text.len()), (200, 200_000));
    let (status, text) = send(&mut sender, request("/stream").body(Full::default()).unwrap()).await;
    assert_eq!((status, text.as_str()), (200, "one two"));
}

#[tokio::test]
async fn refuses_what_http1_refuses_and_keeps_the_connection() {
    let (server, mut sender, _connection) = start(ServerLimits::default()).await;
    let empty = Full::default;
    let mut many = request("/a");
    for i in 0..70 {
        many = many.header(format!("x-{i}"), "v");
    }
    let large = Full::new(Bytes::from(vec![b'x'; 5 * 1024 * 1024]));
    let long = request(&format!("/{}", "a".repeat(9_000)));
    for (request, expected) in [
        (request("/a").header("host", "other").body(empty()).unwrap(), 400),
        (request("/a").method("TRACE").body(empty()).unwrap(), 405),
        (request("/a").header("content-encoding", "gzip").body(empty()).unwrap(), 415),
        (many.body(empty()).unwrap(), 431),
        (long.body(empty()).unwrap(), 414),
        (request("/a").method("POST").body(large).unwrap(), 413),
    ] {
        let (status, text) = send(&mut sender, request).await;
        assert_eq!(status, expected, "{text}");
        assert!(text.starts_with("refused /"), "{text}");
    }
    assert_eq!(server.calls(), 0);
    let same = request("/a").header("host", "h").body(empty()).unwrap();
    assert_eq!(send(&mut sender, same).await, (200, String::from("ok /a")));
}

#[tokio::test]
async fn a_panic_costs_one_stream() {
    let (_server, mut sender, _connection) = start(ServerLimits::default()).await;
    let (status, _) = send(&mut sender, request("/panic").body(Full::default()).unwrap()).await;
    assert_eq!(status, 500);
    let (status, _) = send(&mut sender, request("/a").body(Full::default()).unwrap()).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_drain_lets_streams_end() {
    let limits = ServerLimits { drain: NEVER, ..ServerLimits::default() };
    let (server, mut sender, connection) = start(limits).await;
    let waiting = sender.send_request(request("/wait").body(Full::default()).unwrap());
    let waiting = tokio::spawn(waiting);
    server.started().await;
    server.shutdown.drain();
    server.echo.release.notify_one();
    let answer = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "waited");
    connection.await.unwrap().unwrap();
    server.end().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let limits = ServerLimits { idle: SHORT, ..ServerLimits::default() };
    let (_server, mut sender, connection) = start(limits).await;
    let (status, _) = send(&mut sender, request("/a").body(Full::default()).unwrap()).await;
    assert_eq!(status, 200);
    let ended = tokio::time::timeout(PATIENCE, connection).await.expect("closes").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn a_stream_that_ends_early_frees_its_permit() {
    let limits = ServerLimits { max_inflight: 1, ..ServerLimits::default() };
    let (server, mut sender, _connection) = start(limits).await;
    let waiting = sender.send_request(request("/wait").body(Full::default()).unwrap());
    let waiting = tokio::spawn(waiting);
    server.started().await;
    let (status, _) = send(&mut sender, request("/a").body(Full::default()).unwrap()).await;
    assert_eq!(status, 503);
    waiting.abort();
    let freed = async {
        while send(&mut sender, request("/a").body(Full::default()).unwrap()).await.0 != 200 {}
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("the permit comes back");
}
