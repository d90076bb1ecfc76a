//! What is no JSON, and strings that break careless programs, against every operation with a body.

use super::aims::{self, Whose};
use super::rules;
use super::world::{Caller, World};
use crate::support::client::{Ask, Protocol};
use bytes::Bytes;
use serde_json::Value;

/// Bodies that are no JSON, or that two readers would understand in two ways.
fn malformed() -> Vec<Bytes> {
    let texts = [
        "{",
        "}",
        "[",
        "]",
        "{]",
        "\"",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\" 1}",
        "{a:1}",
        "{'a':1}",
        "{,}",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\":01}",
        "{\"a\":+1}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":1e}",
        "{\"a\":0x1}",
        "{\"a\":--1}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":nul}",
        "{\"a\":True}",
        "{\"a\":\"\t\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\\udc00\\ud800\"}",
        "{}{}",
        "{} x",
        "{}\0",
        "\u{feff}{}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":{\"b\":1,\"b\":1}}",
        "{/**/}",
        "{}//",
        "#",
        "\u{a0}{}",
        "\0",
    ];
    let mut bodies: Vec<Bytes> =
        texts.into_iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
    bodies.extend([
        Bytes::from_static(b"{\"a\":\"\xff\"}"),
        Bytes::from_static(b"{\"a\":\"\xc0\x80\"}"),
        Bytes::from_static(b"{\"a\":\"\xed\xa0\x80\"}"),
        Bytes::from_static(b"{\0}\0"),
        Bytes::from("[".repeat(100_000)),
        Bytes::from("{\"a\":".repeat(1_000)),
        Bytes::from(format!("{{\"a\":{}}}", "9".repeat(1_000))),
        Bytes::from(format!("{}{}", "[".repeat(33), "]".repeat(33))),
    ]);
    bodies
}

/// Strings that are another type's words, end something, lead elsewhere, or are hard to show.
fn naughty() -> Vec<String> {
    let short = [
        "",
        " ",
        "\t\r\n",
        "\0",
        "\u{7f}",
        "null",
        "undefined",
        "true",
        "0",
        "-1",
        "1e400",
        "NaN",
        "\u{202e}abc",
        "\u{200b}",
        "\u{feff}",
        "\u{ffff}",
        "\u{fdfa}",
        "e\u{301}\u{301}\u{301}",
        "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        "\u{20704}\u{10ffff}",
        "İI\u{307}ß",
        "Ω≈ç√∫",
        "<script>alert(1)</script>",
        "' OR 1=1 --",
        "\"}],\"",
        "../../etc/passwd",
        "%00%0d%0a",
        "a\r\nBcc: b@example.com",
        "${jndi:ldap://example.com}",
        "{{.DisplayName}}",
        "$(reboot)",
        "http://169.254.169.254/",
        "a@b@c.de",
        "@",
        "00000000-0000-0000-0000-000000000000",
        "9223372036854775808",
        "1970-01-01T00:00:60Z",
        "+999999-12-31T23:59:59Z",
    ];
    let long = ["x".repeat(100_000), "é".repeat(5_000), "\u{fdfa}".repeat(300), "%s".repeat(300)];
    short.into_iter().map(str::to_owned).chain(long).collect()
}

/// `body` once for each of its strings, with `text` in its place.
fn with_each(body: &Value, text: &str) -> Vec<Value> {
    let put = |variants: Vec<Value>, place: &dyn Fn(Value) -> Value| {
        variants.into_iter().map(place).collect::<Vec<_>>()
    };
    match body {
        Value::String(_) => vec![text.into()],
        Value::Array(items) => (0..items.len())
            .flat_map(|index| {
                put(with_each(&items[index], text), &|item| {
                    let mut all = items.clone();
                    all[index] = item;
                    Value::Array(all)
                })
            })
            .collect(),
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, member)| {
                put(with_each(member, text), &|member| {
                    let mut all = members.clone();
                    all.insert(name.clone(), member);
                    Value::Object(all)
                })
            })
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// A request for each operation that takes JSON, with its right body.
async fn asks(world: &World) -> Vec<(String, Ask)> {
    let document = world.gateway.ask(&Ask::get("/openapi.json")).await.json();
    let mut asks = Vec::new();
    for operation in aims::operations(&document) {
        // In bulk a bad line is refused by a line of the answer.
        let rule = rules::of(operation.id).filter(|rule| rule.id != "sendNotifications");
        let Some(rule) = rule else { continue };
        let ask = aims::aim(world, &operation, rule, (Whose::Own, false)).await.ask;
        if !ask.body.is_empty() {
            let token = world.token(Caller::Organization).expect("it has one");
            asks.push((operation.id.to_owned(), ask.bearer(token)));
        }
    }
    assert!(asks.len() > 25, "only {} operations take a body", asks.len());
    asks
}

#[tokio::test]
async fn what_is_no_json_is_refused_by_every_operation() {
    let world = World::start().await;
    let asks = asks(&world).await;
    let before = world.left_behind().await;
    let mut problems = Vec::new();
    for (id, ask) in &asks {
        for body in malformed() {
            let reply = Ask { body: body.clone(), ..ask.clone() }
                .send(Protocol::Http1, world.gateway.api)
                .await;
            if reply.status != 400 {
                let start = String::from_utf8_lossy(body.get(..60).unwrap_or(&body)).into_owned();
                problems.push(format!("{id} with {start:?}: {} {}", reply.status, reply.text()));
            }
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert_eq!(world.left_behind().await, before, "a refused body left something");
}

#[tokio::test]
async fn no_string_breaks_an_operation() {
    let world = World::start().await;
    let mut problems = Vec::new();
    let mut count = 0;
    for (id, ask) in asks(&world).await {
        let right: Value = serde_json::from_slice(&ask.body).expect("examples are JSON");
        for text in naughty() {
            for body in with_each(&right, &text) {
                let ask = Ask { body: body.to_string().into(), ..ask.clone() };
                let reply = ask.send(Protocol::Http1, world.gateway.api).await;
                count += 1;
                let is_json = serde_json::from_slice::<Value>(&reply.body).is_ok();
                if reply.status >= 500 || !(is_json || reply.body.is_empty()) {
                    let start: String = text.chars().take(60).collect();
                    problems.push(format!(
                        "{id} with {start:?}: {} {}",
                        reply.status,
                        reply.text()
                    ));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert!(count > 1_000, "only {count} requests");
    let log = world.gateway.log().join("\n");
    assert!(!log.contains("panicked"), "{log}");
}
