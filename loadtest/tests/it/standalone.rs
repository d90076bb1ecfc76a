//! Twins as a process of their own announce where they are before they wait.

use std::io::{self, Write};
use std::sync::Arc;

use bugler_loadtest::twins::{StandaloneOptions, TwinError, TwinOptions, standalone_until};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::support::soon;

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_address_and_file_is_announced_and_the_files_are_there() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let credentials_dir = dir.path().join("keys");
    let options = StandaloneOptions {
        twins: TwinOptions::default(),
        credentials_dir: credentials_dir.clone(),
    };
    let output = Output::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let waiting = async { drop(stopped.await) };
    let running = tokio::spawn(standalone_until(options, output.clone(), waiting));
    let text = || String::from_utf8_lossy(&output.0.lock()).into_owned();
    soon(async {
        while !text().contains("files") {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await;
    let text = text();
    for word in ["apns", "fcm", "slack", "webhook", "smtp", "control", "https://127.0.0.1:"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    for file in ["ca.pem", "apns.p8", "fcm.json"] {
        assert!(credentials_dir.join(file).exists() && text.contains(file), "{file} in {text}");
    }
    stop.send(()).expect("the twins wait");
    soon(running).await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = taken.local_addr().expect("a bound listener").port();
    let mut twins = TwinOptions::default();
    twins.ports.fcm = port;
    let options = StandaloneOptions { twins, credentials_dir: "unused".into() };
    let error = soon(standalone_until(options, io::sink(), std::future::pending())).await;
    let error = error.expect_err("the port is taken");
    assert!(matches!(error, TwinError::Bind { .. }));
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}
