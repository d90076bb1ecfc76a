//! Requests that two readers could take for different ones: refused, and the connection ends.

use crate::support::client::Raw;
use crate::support::gateway::Home;
use crate::support::world;

const POST: &str = "POST /v2.0/tool/organizations/101/notifications HTTP/1.1\r\n";
const BODY: &str = r#"{"content":{"text":"t"},"scope":"ORG"}                      "#;

/// Header lines in place of the right `Host: h` and `Content-Length: 60`.
const LINES: [(&str, &str); 16] = [
    ("length and chunks", "Host: h\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n"),
    ("two equal lengths", "Host: h\r\nContent-Length: 60\r\nContent-Length: 60\r\n"),
    ("two lengths", "Host: h\r\nContent-Length: 60\r\nContent-Length: 61\r\n"),
    ("a list of lengths", "Host: h\r\nContent-Length: 60, 60\r\n"),
    ("a signed length", "Host: h\r\nContent-Length: +60\r\n"),
    ("a length of 2^64", "Host: h\r\nContent-Length: 18446744073709551616\r\n"),
    ("no Host", "Content-Length: 60\r\n"),
    ("two Hosts", "Host: h\r\nHost: h\r\nContent-Length: 60\r\n"),
    ("user information in Host", "Host: u@h\r\nContent-Length: 60\r\n"),
    ("identity before chunked", "Host: h\r\nTransfer-Encoding: identity, chunked\r\n"),
    ("chunked before identity", "Host: h\r\nTransfer-Encoding: chunked, identity\r\n"),
    ("an unknown coding", "Host: h\r\nTransfer-Encoding: xchunked\r\n"),
    ("a space before the colon", "Host: h\r\nTransfer-Encoding : chunked\r\n"),
    ("a folded line", "Host: h\r\nContent-Length: 60\r\nX-Y: a\r\n b\r\n"),
    ("a bare CR", "Host: h\r\nContent-Length: 60\r\nX-Y: a\rb\r\n"),
    ("a NUL", "Host: h\r\nContent-Length: 60\r\nX-Y: a\0b\r\n"),
];

fn cases(token: &str) -> Vec<(&'static str, String, u16)> {
    let rest = format!(
        "Authorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: application/json\r\n\r\n"
    );
    let with = |lines: &str| format!("{POST}{lines}{rest}{BODY}");
    let right = "Host: h\r\nContent-Length: 60\r\n";
    let mut cases: Vec<_> = LINES.map(|(what, lines)| (what, with(lines), 400)).into();
    let overflow =
        format!("{POST}Host: h\r\nTransfer-Encoding: chunked\r\n{rest}ffffffffffffffff1\r\n{BODY}");
    let other = POST.replace("POST /", "POST http://other/");
    let long = POST.replace(" HTTP", &format!("?{} HTTP", "q".repeat(70_000)));
    cases.extend([
        ("a chunk size that overflows", overflow, 400),
        ("another authority in the target", format!("{other}{right}{rest}{BODY}"), 400),
        ("65 fields", with(&format!("{right}{}", "X-Y: z\r\n".repeat(65))), 431),
        ("a field of 40 KB", with(&format!("{right}X-Y: {}\r\n", "z".repeat(40_000))), 431),
        ("a target of 70 KB", format!("{long}{right}{rest}{BODY}"), 414),
        // Last, so that it shows the others' form to be right.
        ("nothing", with(right), 201),
    ]);
    cases
}

#[tokio::test]
async fn requests_that_break_http_are_refused() {
    let home = Home::new(world::directory()).set("store.segment=1MiB");
    let gateway = home.start().await;
    let token = home.token(101).await;
    for (what, request, status) in cases(&token) {
        assert_eq!(gateway.accepted().await, 0, "before {what}");
        let mut raw = Raw::connect(gateway.api).await;
        raw.write(request.as_bytes()).await;
        let answer = raw.read_to_end().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: one answer, then the end");
    }
    assert_eq!(gateway.accepted().await, 1);
}
