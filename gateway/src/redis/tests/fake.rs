//! Servers of versions that are not installed here: just what they reply, and what they were asked.

use super::*;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone)]
struct Fake {
    port: u16,
    sync: &'static str,
    /// What it says of its cluster, if it is part of one.
    nodes: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// A server of `version` that syncs every second and answers `WAITAOF` with `disks`.
    async fn start(version: &'static str, disks: &'static str) -> Self {
        Self::syncing(version, disks, "everysec").await
    }

    async fn syncing(version: &'static str, disks: &'static str, sync: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let fake = Self { port, sync, nodes: Arc::default(), asked: Arc::default() };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream, version, disks));
            }
        });
        fake
    }

    async fn serve(self, stream: TcpStream, version: &'static str, disks: &'static str) {
        let (from, mut to) = stream.into_split();
        let mut from = BufReader::new(from);
        while let Some(words) = command(&mut from).await {
            let name = words.first().cloned().unwrap_or_default();
            let reply = match name.as_str() {
                "INFO" => {
                    let enabled = u8::from(!self.nodes.lock().is_empty());
                    let text = format!(
                        "redis_version:{version}\r\nrole:master\r\naof_enabled:1\r\n\
                         cluster_enabled:{enabled}"
                    );
                    format!("${}\r\n{text}\r\n", text.len())
                }
                "CONFIG" => {
                    let value = match words.last().map(String::as_str) {
                        Some("appendfsync") => self.sync,
                        Some("maxmemory-policy") => "noeviction",
                        _ => "0",
                    };
                    let key = words.last().cloned().unwrap_or_default();
                    format!("*2\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len())
                }
                "WAITAOF" => String::from(disks),
                "EVALSHA" if words.len() > 10 => String::from("*0\r\n"),
                "EVALSHA" => String::from(":1\r\n"),
                "CLUSTER" => {
                    let nodes = self.nodes.lock();
                    format!("${}\r\n{nodes}\r\n", nodes.len())
                }
                "PING" => String::from("+PONG\r\n"),
                _ => String::from("+OK\r\n"),
            };
            self.asked.lock().push(name);
            if to.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn was_asked(&self, name: &str) -> bool {
        self.asked.lock().iter().any(|asked| asked == name)
    }
}

async fn command(from: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<String>> {
    let count = length(from, '*').await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; length(from, '$').await? + 2];
        from.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Some(words)
}

async fn length(from: &mut (impl AsyncBufReadExt + Unpin), kind: char) -> Option<usize> {
    let mut line = String::new();
    from.read_line(&mut line).await.ok()?;
    line.trim_end().strip_prefix(kind)?.parse().ok()
}

fn requiring(fake: &Fake, require: Option<Class>) -> RedisOptions {
    RedisOptions { require, ..RedisOptions::single(fake.url()) }
}

#[tokio::test]
async fn a_newer_server_is_asked_for_its_disk_only_where_that_is_required() {
    let fake = Fake::start("7.2.4", "*2\r\n:1\r\n:0\r\n").await;
    let redis = Redis::open(&requiring(&fake, None)).await.expect("it answers");
    assert_eq!(redis.class(), Class::D1);
    assert_eq!(redis.run(&ADD, &[b"k"], &[b"1"]).await, Ok(Value::Int(1)));
    assert!(!fake.was_asked("WAITAOF"));
    let redis = Redis::open(&requiring(&fake, Some(Class::D2))).await.expect("it can");
    assert_eq!(redis.class(), Class::D2);
    assert_eq!(redis.run(&ADD, &[b"k"], &[b"1"]).await, Ok(Value::Int(1)));
    assert!(fake.was_asked("WAITAOF"));
}

#[tokio::test]
async fn a_write_that_did_not_reach_the_disk_in_time_is_unknown() {
    let fake = Fake::start("8.0.0", "*2\r\n:0\r\n:0\r\n").await;
    let redis = Redis::open(&requiring(&fake, Some(Class::D2))).await.expect("it can");
    let error = redis.run(&ADD, &[b"k"], &[b"1"]).await.expect_err("no disk has it");
    assert!(error.is_unknown(), "{error}");
}

#[tokio::test]
async fn an_older_server_is_refused() {
    let fake = Fake::start("6.2.14", "*0\r\n").await;
    let refused = Redis::open(&requiring(&fake, None)).await.expect_err("it is too old");
    assert!(refused.to_string().contains("Redis 7.0 or newer"), "{refused}");
}

#[tokio::test]
async fn each_node_of_a_cluster_proves_writes_as_its_own_settings_need() {
    let old = Fake::syncing("7.0.15", "-ERR unknown command\r\n", "always").await;
    let new = Fake::start("7.2.4", "*2\r\n:1\r\n:0\r\n").await;
    let line = |fake: &Fake, slots: &str| {
        let port = fake.port;
        format!("{port} 127.0.0.1:{port}@1 master - 0 0 1 connected {slots}\n")
    };
    let nodes = line(&old, "0-8191") + &line(&new, "8192-16383");
    for fake in [&old, &new] {
        fake.nodes.lock().clone_from(&nodes);
    }
    let require = Some(Class::D2);
    let options = RedisOptions { require, ..RedisOptions::cluster(vec![old.url(), new.url()]) };
    let redis = Redis::open(&options).await.expect("both give as much");
    assert_eq!(redis.class(), Class::D2);
    for tag in ["{a}", "{b}"] {
        let key = format!("bugler:{tag}");
        assert_eq!(redis.run(&ADD, &[key.as_bytes()], &[b"1"]).await, Ok(Value::Int(1)), "{key}");
    }
    assert!(new.was_asked("WAITAOF") && !old.was_asked("WAITAOF"));
}
