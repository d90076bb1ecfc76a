//! Questions to the gateway over HTTP/1.1, and its metrics.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::load::wire::Connection;

const PATIENCE: Duration = Duration::from_secs(10);
/// What is to be compiled first takes longer: the gateway itself gives it 90 s.
const WORK_MAX: Duration = Duration::from_secs(100);

/// One GET on a connection of its own.
pub(super) async fn get(
    address: SocketAddr,
    path: &str,
    token: Option<&str>,
) -> io::Result<(u16, Vec<u8>)> {
    Asker::connect(address).await?.get(path, token).await
}

/// One request with a body of JSON, or none, on a connection of its own.
pub(super) async fn send(
    address: SocketAddr,
    (method, path): (&str, &str),
    token: &str,
    body: &str,
) -> io::Result<(u16, Vec<u8>)> {
    let mut asker = Asker::connect(address).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answered = asker.connection.exchange(request.as_bytes());
    let answer = timeout(WORK_MAX, answered).await??;
    Ok((answer.status, answer.body.to_vec()))
}

/// A connection for many questions.
pub(super) struct Asker {
    connection: Connection,
    host: SocketAddr,
}

impl Asker {
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let tcp = timeout(PATIENCE, TcpStream::connect(address)).await??;
        tcp.set_nodelay(true)?;
        Ok(Self { connection: Connection::new(tcp), host: address })
    }

    pub(super) async fn get(
        &mut self,
        path: &str,
        token: Option<&str>,
    ) -> io::Result<(u16, Vec<u8>)> {
        let bearer = token.map(|token| format!("authorization: Bearer {token}\r\n"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\n{}\r\n",
            self.host,
            bearer.unwrap_or_default()
        );
        let answer = timeout(PATIENCE, self.connection.exchange(request.as_bytes())).await??;
        Ok((answer.status, answer.body.to_vec()))
    }
}

/// One scrape of `/metrics`.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Vec<(String, f64)>);

impl Metrics {
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// The sum of the series of `name` whose labels hold `part`.
    pub(super) fn sum(&self, name: &str, part: &str) -> f64 {
        let of_name = self.0.iter().filter(|(series, _)| {
            let (found, labels) = series.split_once('{').unwrap_or((series, ""));
            found == name && labels.contains(part)
        });
        of_name.map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_add_up_by_label() {
        let text = "# HELP a\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 9\nb 1.5\n";
        let metrics = Metrics::parse(text);
        for (name, part, sum) in
            [("a_total", "", 5.0), ("a_total", "x=\"2\"", 3.0), ("b", "", 1.5), ("c", "", 0.0)]
        {
            assert!((metrics.sum(name, part) - sum).abs() < 0.001, "{name} {part}");
        }
    }
}
