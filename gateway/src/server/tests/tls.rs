//! TLS with ALPN, by a real client against a real certificate.

use super::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct Secure {
    server: TestServer,
    roots: rustls::RootCertStore,
}

impl Secure {
    async fn start(limits: ServerLimits) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec![String::from("localhost")]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let files = tempfile::tempdir().unwrap();
        let (chain, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
        std::fs::write(&chain, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        let config = super::super::tls::server_config(&chain, &key).unwrap();
        Self { server: TestServer::start_with(limits, Some(config)).await, roots }
    }

    async fn connect(&self, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(self.roots.clone())
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(self.server.address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

#[tokio::test]
async fn serves_the_protocol_alpn_chose_or_the_one_spoken_without_it() {
    let secure = Secure::start(ServerLimits::default()).await;
    for alpn in [&[b"http/1.1".as_slice()][..], &[]] {
        let mut stream = secure.connect(alpn).await.unwrap();
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("ok /a"), "{answer:?}");
    }
    for alpn in [&[b"h2".as_slice(), b"http/1.1"][..], &[]] {
        let stream = secure.connect(alpn).await.unwrap();
        let (mut sender, _connection) = http2::connect(stream).await;
        let request = http::Request::builder().uri("https://h/a");
        let request = request.body(http_body_util::Full::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn refuses_protocols_it_does_not_speak() {
    let secure = Secure::start(ServerLimits::default()).await;
    assert!(secure.connect(&[b"spdy/3"]).await.is_err());
    let plain = secure.server.ask("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(!plain.contains("ok /a"), "{plain:?}");
    assert_eq!(secure.server.calls(), 0);
}

#[tokio::test]
async fn violations_inside_tls_are_refused_too() {
    let secure = Secure::start(ServerLimits::default()).await;
    let mut stream = secure.connect(&[]).await.unwrap();
    let head = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 400, "{answer:?}");
}

#[tokio::test]
async fn a_stalled_handshake_is_closed() {
    let limits = ServerLimits { handshake: SHORT, ..ServerLimits::default() };
    let secure = Secure::start(limits).await;
    for sent in [&b""[..], b"\x16\x03\x01"] {
        let mut peer = secure.server.connect().await;
        peer.send(sent).await;
        assert_eq!(peer.rest().await, "");
    }
}

#[tokio::test]
async fn missing_files_and_mismatched_keys_are_named() {
    let files = tempfile::tempdir().unwrap();
    let missing = files.path().join("absent.pem");
    let error = super::super::tls::server_config(&missing, &missing).unwrap_err().to_string();
    assert!(error.contains("absent.pem"), "{error}");
    let ours = generate_simple_self_signed(vec![String::from("a")]).unwrap();
    let other = generate_simple_self_signed(vec![String::from("a")]).unwrap();
    let key = PrivateKeyDer::try_from(other.signing_key.serialize_der()).unwrap();
    assert!(super::super::tls::from_parts(vec![ours.cert.der().clone()], key).is_err());
}
