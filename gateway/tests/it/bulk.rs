//! Bulk intake: one result for every line in order, within its limits and in constant memory.

use bugler_loadtest::process;
use serde_json::{Value, json};

use crate::support::client::{Ask, Protocol, Raw, Reply};
use crate::support::gateway::{Gateway, Home};
use crate::support::{eventually, world};

const BATCH: &str = "/bugler/v1/notifications:batch";
const LINES_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 << 20;

async fn start() -> (Home, Gateway, String) {
    let home = Home::new(world::directory());
    let gateway = home.start().await;
    let token = home.token(101).await;
    (home, gateway, token)
}

fn line(number: usize) -> String {
    json!({ "to": { "users": [101] }, "title": format!("n {number}") }).to_string()
}

/// `count` lines that fill `bytes` together.
fn filled(count: usize, bytes: usize) -> String {
    let each = bytes / count;
    let mut body = String::with_capacity(bytes);
    for number in 0..count {
        let start = format!("{{\"to\":{{\"users\":[101]}},\"title\":\"n {number}\",\"body\":\"");
        let filler = "x".repeat(each - start.len() - "\"}\n".len());
        body.push_str(&start);
        body.push_str(&filler);
        body.push_str("\"}\n");
    }
    body
}

/// Every line has one result, in order; answers the summary.
fn judge(reply: &Reply, lines: usize, status_of: impl Fn(usize) -> u64) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    let mut results = reply.lines();
    let summary = results.pop().expect("a summary stands at the end");
    assert_eq!(summary["summary"], true);
    assert_eq!(results.len(), lines);
    let mut ids = std::collections::HashSet::new();
    for (number, result) in results.iter().enumerate() {
        assert_eq!(result["i"], number);
        assert_eq!(result["status"], status_of(number), "{result}");
        if let Some(id) = result["id"].as_str() {
            assert!(ids.insert(id.to_owned()), "{id} stands for two lines");
        }
    }
    let accepted = (0..lines).filter(|number| status_of(*number) == 201).count();
    assert_eq!(ids.len(), accepted);
    assert_eq!(summary["accepted"], accepted);
    assert_eq!(summary["lines"], lines);
    summary
}

#[tokio::test]
async fn ten_thousand_lines_are_all_accepted_in_order() {
    let (_home, gateway, token) = start().await;
    let body: Vec<_> = (0..LINES_MAX).map(line).collect();
    for protocol in Protocol::ALL {
        let ask = Ask::post(BATCH).bearer(&token).lines(body.join("\n"));
        let reply = ask.send(protocol, gateway.api).await;
        assert_eq!(reply.header("bugler-durability"), Some("D2"));
        let summary = judge(&reply, LINES_MAX, |_| 201);
        assert_eq!(summary["rejected"], 0);
        assert_eq!(summary.get("status"), None, "{summary}");
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.count("bugler_notifications_accepted_total"), 2 * 10_000);
}

#[tokio::test]
async fn a_line_too_many_ends_the_request_after_the_last_that_counts() {
    let (_home, gateway, token) = start().await;
    let body: Vec<_> = (0..LINES_MAX + 5).map(line).collect();
    let ask = Ask::post(BATCH).bearer(&token).lines(body.join("\n"));
    let summary = judge(&gateway.ask(&ask).await, LINES_MAX, |_| 201);
    assert_eq!(summary["status"], 413, "{summary}");
    assert_eq!(summary["code"], "BGL-1413");
    assert!(summary["detail"].as_str().is_some_and(|text| text.contains("10000")), "{summary}");
    assert_eq!(gateway.accepted().await, 10_000);
}

#[tokio::test]
async fn bad_lines_cost_only_themselves() {
    let (_home, gateway, token) = start().await;
    let bad = [
        "{",
        "[]",
        r#"{"to":{"users":[101]}}"#,
        r#"{"to":{"users":["101"]},"title":"t"}"#,
        r#"{"to":{"users":[101]},"title":"t","title":"t"}"#,
        r#"{"to":{"users":[101]},"title":"t","extra":1}"#,
        r#"{"organization":201,"to":{"users":[201]},"title":"t"}"#,
        "nonsense",
    ];
    let status = |number: usize| match number % 3 {
        1 if number / 3 % bad.len() == 6 => 404,
        1 => 400,
        _ => 201,
    };
    let mut body = String::new();
    for number in 0..600 {
        let text = match status(number) {
            201 => line(number),
            _ => bad[number / 3 % bad.len()].to_owned(),
        };
        // Blank lines are no lines, and either line end will do.
        body.push_str(&text);
        body.push_str(if number % 2 == 0 { "\r\n\n" } else { "\n \n" });
    }
    let reply = gateway.ask(&Ask::post(BATCH).bearer(&token).lines(body)).await;
    judge(&reply, 600, status);
    for result in reply.lines().iter().filter(|result| result["status"] != 201) {
        let has_code = result["code"].as_str().is_some_and(|code| code.starts_with("BGL-"));
        let has_detail = result["detail"].as_str().is_some_and(|text| !text.is_empty());
        assert!(result["summary"] == true || has_code && has_detail, "{result}");
    }
    assert_eq!(gateway.accepted().await, 400);
}

#[tokio::test]
async fn sixteen_mebibytes_are_a_request_and_one_byte_more_is_not() {
    let (_home, gateway, token) = start().await;
    let mut body = filled(LINES_MAX, BYTES_MAX);
    body.push_str(&" ".repeat(BYTES_MAX - body.len()));
    let ask = Ask::post(BATCH).bearer(&token).lines(body.clone());
    judge(&gateway.ask(&ask).await, LINES_MAX, |_| 201);

    let mut raw = Raw::connect(gateway.api).await;
    raw.write(head(&token, &format!("Content-Length: {}", BYTES_MAX + 1)).as_bytes()).await;
    let answer = raw.read_until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(gateway.accepted().await, 10_000);
}

fn head(token: &str, length: &str) -> String {
    format!(
        "POST {BATCH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/x-ndjson\r\n{length}\r\n\r\n"
    )
}

fn chunked_head(token: &str) -> String {
    head(token, "Transfer-Encoding: chunked")
}

#[tokio::test]
async fn a_stream_of_unknown_length_is_cut_off_at_the_limit_and_what_came_before_counts() {
    let (_home, gateway, token) = start().await;
    let mut raw = Raw::connect(gateway.api).await;
    raw.write(chunked_head(&token).as_bytes()).await;
    let lines = filled(36, 64 << 10);
    let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
    for _ in 0..=BYTES_MAX / lines.len() {
        raw.write(chunk.as_bytes()).await;
    }
    let answer = raw.read_until("\"detail\":\"the request body is too large\"}").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\"status\":413,\"code\":\"BGL-1413\""), "the summary says why");
    let accepted = answer.matches("\"status\":201").count();
    assert_eq!(gateway.accepted().await, accepted as u64);
    // The last chunk arrives in pieces; those before the limit may hold whole lines.
    let whole_chunks = BYTES_MAX / lines.len() * 36;
    assert!((whole_chunks..whole_chunks + 36).contains(&accepted), "{accepted}");
}

#[tokio::test]
async fn a_line_without_an_end_is_cut_off() {
    let (_home, gateway, token) = start().await;
    let endless = format!("{}\n{}", line(0), "x".repeat(70 << 10));
    let reply = gateway.ask(&Ask::post(BATCH).bearer(&token).lines(endless)).await;
    let results = reply.lines();
    assert_eq!(results[0]["status"], 201);
    let last = results.last().expect("a summary");
    let refused = results.iter().any(|result| result["i"] == 1 && result["status"] == 413);
    assert!(refused || last["status"] == 413, "{results:#?}");
    assert_eq!(gateway.accepted().await, 1);
}

#[tokio::test]
async fn a_caller_that_reads_nothing_before_it_has_sent_all_is_served() {
    let (_home, gateway, token) = start().await;
    let body = filled(LINES_MAX, BYTES_MAX);
    let mut raw = Raw::connect(gateway.api).await;
    let head = head(&token, &format!("Content-Length: {}", body.len()));
    assert!(raw.write(head.as_bytes()).await);
    assert!(raw.write(body.as_bytes()).await, "the gateway takes all of it");
    // Still nothing is read, and yet every line becomes durable.
    eventually("every line is accepted", async || {
        (gateway.accepted().await == 10_000).then_some(())
    })
    .await;
    let answer = raw.read_until("\"rejected\":0}\n").await;
    assert!(answer.contains("\"accepted\":10000"), "the summary has come");
    assert_eq!(answer.matches("\"status\":201").count(), LINES_MAX);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_whole_lines_and_a_gateway_that_serves() {
    let (_home, gateway, token) = start().await;
    let mut raw = Raw::connect(gateway.api).await;
    raw.write(chunked_head(&token).as_bytes()).await;
    let lines: String = (0..1_000).map(|number| line(number) + "\n").collect();
    raw.write(format!("{:x}\r\n{lines}\r\n", lines.len()).as_bytes()).await;
    raw.write(b"20\r\n{\"to\":").await;
    drop(raw);
    eventually("the lines before the break are accepted", async || {
        (gateway.accepted().await == 1_000).then_some(())
    })
    .await;
    let reply = gateway.ask(&Ask::post(BATCH).bearer(&token).lines(line(0))).await;
    judge(&reply, 1, |_| 201);
}

#[tokio::test]
async fn a_key_holds_for_each_line() {
    let (_home, gateway, token) = start().await;
    let ask = |lines: &[String]| Ask::post(BATCH).bearer(&token).lines(lines.join("\n")).key("k");
    let mut lines: Vec<_> = (0..1_000).map(line).collect();
    let first = gateway.ask(&ask(&lines)).await;
    judge(&first, 1_000, |_| 201);
    let again = gateway.ask(&ask(&lines)).await.lines();
    for (first, again) in first.lines().iter().zip(&again).take(1_000) {
        assert_eq!((&again["id"], &again["i"]), (&first["id"], &first["i"]));
        assert_eq!((&again["status"], &again["replayed"]), (&json!(201), &json!(true)));
    }
    assert_eq!(again.last().expect("a summary")["replayed"], 1_000);
    // A cut-off request is sent again with more behind it, and one line of it is another.
    lines[7] = line(7_777);
    lines.push(line(1_000));
    let third = gateway.ask(&ask(&lines)).await.lines();
    let of = |number: u64| third.iter().find(|result| result["i"] == number).expect("a result");
    assert_eq!(of(7)["status"], 422);
    assert_eq!(of(1_000)["status"], 201);
    assert_eq!(of(1_000).get("replayed"), None);
    assert_eq!(gateway.accepted().await, 1_001);
}

#[tokio::test]
async fn memory_stays_the_same_however_much_passes_through() {
    let (_home, gateway, token) = start().await;
    let body = bytes::Bytes::from(filled(9_000, BYTES_MAX));
    let ask = Ask::post(BATCH).bearer(&token).lines(body);
    let resident = || process::sample(gateway.pid()).expect("the child is ours").rss_bytes;
    // Buffers and caches have their size after the first ones.
    for _ in 0..2 {
        judge(&gateway.ask(&ask).await, 9_000, |_| 201);
    }
    gateway.drained().await;
    let before = resident();
    for _ in 0..6 {
        judge(&gateway.ask(&ask).await, 9_000, |_| 201);
    }
    gateway.drained().await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "resident memory grew by {} KiB", grown >> 10);
    assert_eq!(gateway.accepted().await, 72_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_waits_for_100_continue_gets_it_before_the_answer_begins() {
    let (_home, gateway, token) = start().await;
    let body = format!("{}\n", line(0));
    let head = format!(
        "POST {BATCH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut raw = Raw::connect(gateway.api).await;
    assert!(raw.write(head.as_bytes()).await);
    let interim = raw.read_until("\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    assert!(raw.write(body.as_bytes()).await);
    let answer = raw.read_to_end().await;
    assert!(answer.contains("\"accepted\":1"), "{answer}");
}
