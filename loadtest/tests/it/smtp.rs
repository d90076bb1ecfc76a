//! The mail relay's twin: the dialogue of RFC 5321, TLS, AUTH, faults, and what is recorded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bugler_loadtest::twins::{Certificate, Receipt, SmtpOptions, TwinName, TwinOptions, TwinSet};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{soon, tls, tls_over, twins, twins_showing, twins_with};

struct Client<T>(BufReader<T>);

impl Client<TcpStream> {
    async fn connect(twins: &TwinSet) -> Self {
        let tcp = TcpStream::connect(twins.smtp_address()).await.expect("the relay listens");
        let mut client = Self(BufReader::new(tcp));
        assert!(client.reply().await.starts_with("220 "));
        client
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    /// As `say`, with the whole reply.
    async fn ask(&mut self, text: &str) -> String {
        let text = format!("{text}\r\n");
        self.0.get_mut().write_all(text.as_bytes()).await.expect("the relay reads");
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            soon(self.0.read_line(&mut line)).await.expect("the relay answers");
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
        }
    }

    /// Says one or more lines and returns the last line of the reply.
    async fn say(&mut self, text: &str) -> String {
        let text = format!("{text}\r\n");
        self.0.get_mut().write_all(text.as_bytes()).await.expect("the relay reads");
        self.reply().await
    }

    async fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            soon(self.0.read_line(&mut line)).await.expect("the relay answers");
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    /// Says each line and expects a reply that starts with the code.
    async fn dialogue(&mut self, lines: &[(&str, &str)]) {
        for (line, code) in lines {
            let reply = self.say(line).await;
            assert!(reply.starts_with(code), "{line:?}: {reply}");
        }
    }
}

fn mails(twins: &TwinSet) -> Vec<Receipt> {
    twins.receipts_since(Some(TwinName::Smtp), 0)
}

#[tokio::test]
async fn a_mail_is_taken_and_recorded_once_for_each_recipient() {
    let twins = twins().await;
    let mut client = Client::connect(&twins).await;
    client
        .dialogue(&[
            ("EHLO gateway.example.com", "250"),
            ("MAIL FROM:<bugler@example.com> SIZE=100", "250"),
            ("RCPT TO:<a@example.com>", "250"),
            ("rcpt to:<b@example.com>", "250"),
            ("DATA", "354"),
            ("Message-ID: <m-1@example.com>\r\nSubject: n-7\r\n\r\n..dot\r\n.", "250"),
            ("QUIT", "221"),
        ])
        .await;
    let mails = mails(&twins);
    let targets: Vec<&str> = mails.iter().map(|mail| mail.target.as_str()).collect();
    assert_eq!(targets, ["a@example.com", "b@example.com"]);
    assert!(mails.iter().all(|mail| mail.key == "<m-1@example.com>" && mail.marker == Some(7)));
    assert!(mails.iter().all(|mail| mail.status == 250 && mail.succeeded()));
    // Headers, empty line and the body, whose doubled dot counts once.
    let reason = mails[0].reason.as_deref().expect("a note");
    assert_eq!(reason, "from bugler@example.com, 53 bytes");
}

#[tokio::test]
async fn commands_out_of_order_and_unknown_ones_are_refused() {
    let twins = twins().await;
    let mut client = Client::connect(&twins).await;
    client
        .dialogue(&[
            ("MAIL FROM:<a@example.com>", "503"),
            ("HELO gateway", "250"),
            ("RCPT TO:<a@example.com>", "503"),
            ("DATA", "503"),
            ("MAIL <a@example.com>", "501"),
            ("MAIL FROM:<>", "250"),
            ("MAIL FROM:<a@example.com>", "503"),
            ("RCPT TO:nobody", "501"),
            ("RCPT TO:<nobody>", "501"),
            ("NOOP", "250"),
            ("RSET", "250"),
            ("RCPT TO:<a@example.com>", "503"),
            ("VRFY a", "500"),
        ])
        .await;
    assert!(mails(&twins).is_empty());
}

#[tokio::test]
async fn recipients_made_for_tests_are_refused() {
    let twins = twins().await;
    let mut client = Client::connect(&twins).await;
    client
        .dialogue(&[
            ("EHLO gateway", "250"),
            ("MAIL FROM:<a@example.com>", "250"),
            ("RCPT TO:<unregistered@example.com>", "550"),
            ("RCPT TO:<throttle@example.com>", "451"),
            ("DATA", "503"),
        ])
        .await;
}

#[tokio::test]
async fn faults_turn_a_mail_away_for_now_or_for_good() {
    let twins = twins_showing("smtp:status=452:x1,550:x1").await;
    let mut client = Client::connect(&twins).await;
    client.dialogue(&[("EHLO gateway", "250")]).await;
    for code in ["452", "550", "250"] {
        client
            .dialogue(&[
                ("MAIL FROM:<a@example.com>", "250"),
                ("RCPT TO:<a@example.com>", "250"),
                ("DATA", "354"),
                ("Subject: x\r\n\r\nhello\r\n.", code),
            ])
            .await;
    }
    let statuses: Vec<u16> = mails(&twins).iter().map(|mail| mail.status).collect();
    assert_eq!(statuses, [452, 550, 250]);
}

/// A mail to one recipient, with the codes the relay must give.
async fn mail<T: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<T>, message: &str) {
    client
        .dialogue(&[
            ("MAIL FROM:<a@example.com>", "250"),
            ("RCPT TO:<b@example.com>", "250"),
            ("DATA", "354"),
            (&format!("{message}\r\n."), "250"),
        ])
        .await;
}

#[tokio::test]
async fn starttls_secures_a_session_that_then_takes_a_password() {
    let options = SmtpOptions { auth_required: true, ..SmtpOptions::default() };
    let twins = twins_with(TwinOptions { smtp: options, ..TwinOptions::default() }).await;
    let mut client = Client::connect(&twins).await;
    let offered = client.ask("EHLO gateway").await;
    assert!(offered.contains("STARTTLS") && !offered.contains("AUTH"), "{offered}");
    client.dialogue(&[("AUTH PLAIN AGEAYg==", "538"), ("STARTTLS", "220")]).await;
    let name = "127.0.0.1";
    let tls = tls_over(twins.ca_pem(), name, b"", client.0.into_inner()).await.expect("trusted");
    let mut client = Client(BufReader::new(tls));
    client.dialogue(&[("MAIL FROM:<a@example.com>", "503")]).await;
    let offered = client.ask("EHLO gateway").await;
    assert!(offered.contains("AUTH PLAIN LOGIN") && !offered.contains("STARTTLS"), "{offered}");
    let credentials = twins.credentials();
    let plain = format!("\0{}\0{}", credentials.smtp_user, credentials.smtp_password);
    client
        .dialogue(&[
            ("MAIL FROM:<a@example.com>", "530"),
            ("AUTH PLAIN AGEAYg==", "535"),
            ("AUTH CRAM-MD5", "504"),
            (&format!("AUTH PLAIN {}", STANDARD.encode(plain)), "235"),
        ])
        .await;
    mail(&mut client, "Subject: x\r\n\r\nhello").await;
    assert_eq!(mails(&twins).len(), 1);
}

#[tokio::test]
async fn tls_from_the_first_byte_on_and_a_password_in_two_answers() {
    let twins = twins().await;
    let url = format!("https://{}", twins.smtp_tls_address());
    let mut client = Client(BufReader::new(tls(twins.ca_pem(), &url, b"").await.expect("trusted")));
    assert!(client.reply().await.starts_with("220 "));
    let credentials = twins.credentials();
    client
        .dialogue(&[
            ("EHLO gateway", "250"),
            ("STARTTLS", "500"),
            ("AUTH LOGIN", "334"),
            (&STANDARD.encode(&credentials.smtp_user), "334"),
            (&STANDARD.encode(&credentials.smtp_password), "235"),
        ])
        .await;
    assert_eq!(twins.traffic(TwinName::Smtp).connections, 1);

    let smtp = SmtpOptions { certificate: Certificate::WrongHost, ..SmtpOptions::default() };
    let twins = twins_with(TwinOptions { smtp, ..TwinOptions::default() }).await;
    let url = format!("https://{}", twins.smtp_tls_address());
    let error = tls(twins.ca_pem(), &url, b"").await.expect_err("another host's certificate");
    assert!(format!("{error:?}").contains("NotValidForName"), "{error:?}");
}

#[tokio::test]
async fn a_fault_hits_the_step_it_names() {
    let twins = twins_showing(
        "smtp:match=mail&status=451:x1;smtp:match=rcpt&status=450:x1&reason=4.7.1 greylisted;\
         smtp:match=data&status=554:x1;smtp:match=b@example.com&status=452:x1",
    )
    .await;
    let mut client = Client::connect(&twins).await;
    client
        .dialogue(&[
            ("EHLO gateway", "250"),
            ("MAIL FROM:<a@example.com>", "451"),
            ("MAIL FROM:<a@example.com>", "250"),
            ("RCPT TO:<b@example.com>", "450 4.7.1 greylisted"),
            ("RCPT TO:<b@example.com>", "250"),
            ("DATA", "554"),
            ("DATA", "354"),
            ("Subject: x\r\n\r\nhello\r\n.", "452"),
        ])
        .await;
    mail(&mut client, "Subject: x\r\n\r\nhello").await;
}

#[tokio::test]
async fn a_session_breaks_before_or_after_the_final_dot_as_told() {
    for (fault, recorded) in [("match=body&reset:x1", 0), ("reset:x1", 1), ("cut:x1", 1)] {
        let twins = twins_showing(&format!("smtp:{fault}")).await;
        let mut client = Client::connect(&twins).await;
        client
            .dialogue(&[
                ("EHLO gateway", "250"),
                ("MAIL FROM:<a@example.com>", "250"),
                ("RCPT TO:<b@example.com>", "250"),
                ("DATA", "354"),
            ])
            .await;
        let message = b"Subject: x\r\n\r\nhello\r\n.\r\n";
        client.0.get_mut().write_all(message).await.expect("still there");
        let mut rest = String::new();
        // A reset and an end are both the end of it.
        soon(client.0.read_line(&mut rest)).await.ok();
        assert!(!rest.ends_with('\n'), "{fault}: {rest}");
        let mails = mails(&twins);
        assert_eq!(mails.len(), recorded, "{fault}");
        assert!(mails.iter().all(|mail| !mail.succeeded()), "{fault}");
    }
}

#[tokio::test]
async fn a_dripped_answer_comes_whole_in_the_end() {
    let twins = twins_showing("smtp:match=connect&drip=1ms").await;
    Client::connect(&twins).await;
}

#[tokio::test]
async fn the_receipt_holds_what_a_reader_sees() {
    let twins = twins().await;
    let mut client = Client::connect(&twins).await;
    client.dialogue(&[("EHLO gateway", "250")]).await;
    mail(
        &mut client,
        "Subject: =?utf-8?b?w4Q=?=\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
         Accept: https://example.com/i?t=3D1 now=\r\n.",
    )
    .await;
    let received = mails(&twins).remove(0).mail.expect("a mail");
    assert_eq!(received.header("Subject"), Some("\u{c4}"));
    assert_eq!(received.link(), Some("https://example.com/i?t=1"));
}
