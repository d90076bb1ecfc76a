//! The SMTP sink: the dialogue of RFC 5321, and what is recorded of a mail.

use bugler_loadtest::twins::{Receipt, TwinName, TwinSet};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{soon, twins, twins_showing};

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(twins: &TwinSet) -> Self {
        let tcp = TcpStream::connect(twins.smtp_address()).await.expect("the sink listens");
        let mut client = Self(BufReader::new(tcp));
        assert!(client.reply().await.starts_with("220 "));
        client
    }

    /// Says one or more lines and returns the last line of the reply.
    async fn say(&mut self, text: &str) -> String {
        let text = format!("{text}\r\n");
        self.0.get_mut().write_all(text.as_bytes()).await.expect("the sink reads");
        self.reply().await
    }

    async fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            soon(self.0.read_line(&mut line)).await.expect("the sink answers");
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
    let twins = twins_showing("smtp:status=400:x1,500:x1").await;
    let mut client = Client::connect(&twins).await;
    client.dialogue(&[("EHLO gateway", "250")]).await;
    for code in ["451", "554", "250"] {
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
    assert_eq!(statuses, [451, 554, 250]);
}
