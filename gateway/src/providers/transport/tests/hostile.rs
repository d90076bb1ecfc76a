//! Peers that mean harm, on bare sockets: each ends within its bounds and slows nobody else.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a hostile peer says, piece by piece, after the request has come in.
#[derive(Clone)]
struct Speech {
    start: &'static str,
    /// Repeated until the connection breaks.
    refrain: &'static str,
    /// Byte by byte, with a pause after each.
    slow: bool,
}

const fn flood(start: &'static str, refrain: &'static str) -> Speech {
    Speech { start, refrain, slow: false }
}

const fn drip(start: &'static str, refrain: &'static str) -> Speech {
    Speech { start, refrain, slow: true }
}

/// Starts a peer; its address, and how many of its connections have ended.
async fn peer(speech: Speech) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (speech, count) = (speech.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                // An error is a client that had enough.
                drop(speak(tcp, speech).await);
                count.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    (url, ended)
}

async fn speak(mut tcp: TcpStream, speech: Speech) -> std::io::Result<()> {
    let mut request = [0; 4096];
    if tcp.read(&mut request).await? == 0 {
        return Ok(());
    }
    tcp.write_all(speech.start.as_bytes()).await?;
    if speech.refrain.is_empty() {
        return Ok(());
    }
    let flood = speech.refrain.repeat(1 + 8192 / speech.refrain.len());
    loop {
        if speech.slow {
            for byte in speech.refrain.as_bytes() {
                tcp.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } else {
            tcp.write_all(flood.as_bytes()).await?;
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

const EXTENDED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5";
const TRAILED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";

/// Speech → what becomes of the attempt: `cut` is an answer that was not read to its end, `ended`
/// one that was given up in one way or another.
#[rustfmt::skip]
const SPEECHES: [(&str, Speech, &str); 16] = [
    ("a head, byte by byte", drip("HTTP/1.1 200 OK\r\nx: ", "y"), "timeout"),
    ("header lines, byte by byte", drip(OK, "x: y\r\n"), "timeout"),
    ("a body, byte by byte", drip("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n", "x"), "body_timeout"),
    ("chunks, byte by byte", drip(CHUNKED, "1\r\nx\r\n"), "body_timeout"),
    ("silence", drip("", "\r\n"), "timeout"),
    ("endless header lines", flood(OK, "x: yyyyyyyyyyyyyyyy\r\n"), "bad_answer"),
    ("one endless header", flood("HTTP/1.1 200 OK\r\nx: ", "yyyyyyyyyyyyyyyy"), "bad_answer"),
    ("endless interim answers", flood("", "HTTP/1.1 103 Early Hints\r\n\r\n"), "bad_answer"),
    ("a gigabyte", flood("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n", "xxxxxxxx"), "cut"),
    ("endless chunks", flood(CHUNKED, "8\r\nxxxxxxxx\r\n"), "cut"),
    ("an endless chunk extension", flood(EXTENDED, ";a=b"), "ended"),
    ("endless trailers", flood(TRAILED, "x: y\r\n"), "ended"),
    ("a chunk size that is none", flood("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", ""), "body_lost"),
    ("an early end", flood("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", ""), "body_lost"),
    ("HTTP/0.9", flood("<html>hello</html>\n", ""), "bad_answer"),
    ("nothing at all", flood("", ""), "connection_lost"),
];

#[tokio::test]
async fn each_ends_within_its_deadline_with_the_connection_closed_and_others_are_served() {
    let healthy = Server::start(None, Speak::Http1, |_, _| Act::status(204)).await;
    // Long enough for a flood to be found out on a busy machine.
    let deadlines = Deadlines { total: Duration::from_secs(2), ..patient() };
    let pool = pool1(None, deadlines, IdleLimits::default());
    let (pool, healthy_url) = (&pool, healthy.url());
    let tries = SPEECHES.map(|(name, speech, want)| async move {
        let (url, ended) = peer(speech).await;
        let result = post1(pool, &url).await;
        let got = match &result {
            Ok(answer) if answer.truncated => "cut",
            Ok(_) => "answered",
            Err(_) => cause(&result),
        };
        eventually(name, || ended.load(Ordering::SeqCst) == 1).await;
        let fits = got == want || (want == "ended" && got != "answered" && got != "timeout");
        (!fits).then_some((name, want, got))
    });
    let served = async {
        for _ in 0..50 {
            assert_eq!(cause(&post1(pool, &healthy_url).await), "answered");
        }
    };
    let (wrong, ()) = tokio::join!(join_all(tries), served);
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(pool.idle_count() <= 1, "only the healthy connection is kept");
}

#[tokio::test]
async fn a_compressed_answer_is_not_unpacked() {
    let bomb = "HTTP/1.1 400 No\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd";
    let (url, _) = peer(flood(bomb, "")).await;
    let answer = post1(&pool1(None, patient(), IdleLimits::default()), &url).await.unwrap();
    assert_eq!(&answer.body[..], b"abcd");
}

#[tokio::test]
async fn wrong_certificates_are_refused_with_their_reason_and_no_request() {
    let ca = Ca::new();
    let here = ["127.0.0.1"];
    let year = rcgen::date_time_ymd;
    for (alpn, speak) in [(&b"h2"[..], Speak::Http2(100)), (b"http/1.1", Speak::Http1)] {
        let expired = ca.server_with(alpn, &here, |c| c.not_after = year(2020, 1, 1));
        let early = ca.server_with(alpn, &here, |c| c.not_before = year(2090, 1, 1));
        let other = ca.server_with(alpn, &["example.com"], |_| {});
        let stranger = Ca::new().server(alpn);
        let cases = [
            (expired, "expired"),
            (early, "notvalidyet|not valid yet"),
            (other, "notvalidforname|not valid for name"),
            (stranger, "unknownissuer|unknown issuer|badsignature"),
        ];
        for (config, words) in cases {
            let server = Server::start(Some(config), speak, |_, _| Act::status(200)).await;
            let url = server.url();
            let result = match speak {
                Speak::Http2(_) => post2(&pool2(&url, Some(&ca), patient(), 1)).await,
                Speak::Http1 => {
                    post1(&pool1(Some(&ca), patient(), IdleLimits::default()), &url).await
                }
            };
            let Err(Failure::NotSent { cause: "tls_certificate", detail: Some(text) }) = result
            else {
                panic!("{words}: {result:?}");
            };
            let text = text.to_lowercase();
            assert!(words.split('|').any(|word| text.contains(word)), "{words}: {text}");
            assert!(server.seen().is_empty(), "{words}");
        }
    }
}

/// A ServerHello of TLS 1.0, which is all that such a server can say.
const TLS_1_0: [u8; 49] = {
    let mut hello = [7; 49];
    let head = [22, 3, 1, 0, 44, 2, 0, 0, 40, 3, 1];
    let tail = [0, 0, 47, 0];
    let mut n = 0;
    while n < head.len() {
        hello[n] = head[n];
        n += 1;
    }
    n = 0;
    while n < tail.len() {
        hello[43 + n] = tail[n];
        n += 1;
    }
    hello
};

#[tokio::test]
async fn a_handshake_that_stalls_breaks_or_is_of_old_ends_as_a_tls_failure() {
    for (name, said) in [("stalls", None), ("breaks", Some(&[][..])), ("old", Some(&TLS_1_0[..]))] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut hello = [0; 4096];
                    drop(tcp.read(&mut hello).await);
                    match said {
                        None => std::future::pending::<()>().await,
                        Some([]) => tcp.set_zero_linger().unwrap(),
                        Some(said) => {
                            drop(tcp.write_all(said).await);
                            drop(tcp.read(&mut hello).await);
                        }
                    }
                });
            }
        });
        let deadlines = Deadlines { tls: Duration::from_millis(200), ..patient() };
        let h2 = post2(&pool2(&url, None, deadlines, 1)).await;
        let h1 = post1(&pool1(None, deadlines, IdleLimits::default()), &url).await;
        for result in [h2, h1] {
            assert_eq!(cause(&result), "tls", "{name}: {result:?}");
            assert!(matches!(result, Err(Failure::NotSent { .. })), "{name}");
        }
    }
}
