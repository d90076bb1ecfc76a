//! Many keep-alive connections at once, each getting its own answers.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_256_connections_apart() {
    let server = Arc::new(TestServer::start(ServerLimits::default()).await);
    let mut peers = tokio::task::JoinSet::new();
    for peer in 0..256 {
        let server = Arc::clone(&server);
        peers.spawn(async move {
            let mut connection = server.connect().await;
            for i in 0..10 {
                let body = format!("<{peer}.{i}>");
                let head = format!(
                    "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                connection.send(head).await;
                connection.until(&body).await;
            }
        });
    }
    while let Some(ended) = peers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(server.calls(), 2_560);
}
