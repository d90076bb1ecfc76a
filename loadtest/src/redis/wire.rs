//! Just enough of the Redis protocol to prepare servers and to look into them.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);
/// More than any answer that is asked for here.
const LENGTH_MAX: usize = 256 * 1024 * 1024;

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Error(String),
}

impl Reply {
    /// The reply as text: empty for lists and nothing.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Error(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Nil | Self::List(_) => String::new(),
        }
    }

    /// The reply as a number, 0 if it is none.
    #[must_use]
    pub fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            other => other.text().parse().unwrap_or(0),
        }
    }
}

/// Asks the server at `port` on a connection of its own.
pub(super) fn ask(port: u16, parts: &[impl AsRef<[u8]>]) -> io::Result<Reply> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut request = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        let part = part.as_ref();
        request.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        request.extend_from_slice(part);
        request.extend_from_slice(b"\r\n");
    }
    stream.write_all(&request)?;
    read(&mut BufReader::new(stream), 0)
}

fn read(from: &mut impl BufRead, depth: usize) -> io::Result<Reply> {
    let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let (Some(kind), rest) = (line.chars().next(), line.get(1..).unwrap_or_default()) else {
        return Err(bad("an empty line"));
    };
    let length = || rest.parse::<i64>().map_err(|_| bad("a length that is no number"));
    match kind {
        '+' => Ok(Reply::Text(rest.to_owned())),
        '-' => Ok(Reply::Error(rest.to_owned())),
        ':' => Ok(Reply::Number(length()?)),
        '$' => {
            let Ok(length) = usize::try_from(length()?) else { return Ok(Reply::Nil) };
            let mut bytes = vec![0; length.min(LENGTH_MAX) + 2];
            from.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(Reply::Bytes(bytes))
        }
        '*' if depth < 8 => {
            let Ok(length) = usize::try_from(length()?) else { return Ok(Reply::Nil) };
            let items = (0..length).map(|_| read(from, depth + 1));
            items.collect::<io::Result<_>>().map(Reply::List)
        }
        _ => Err(bad("an unknown kind of reply")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reply_is_read() {
        let text = "*6\r\n+OK\r\n:-3\r\n$2\r\n\r\n\r\n$-1\r\n*0\r\n-ERR no\r\n";
        let reply = read(&mut text.as_bytes(), 0).expect("the text is a reply");
        let expected = vec![
            Reply::Text(String::from("OK")),
            Reply::Number(-3),
            Reply::Bytes(b"\r\n".to_vec()),
            Reply::Nil,
            Reply::List(Vec::new()),
            Reply::Error(String::from("ERR no")),
        ];
        assert_eq!(reply, Reply::List(expected));
    }

    #[test]
    fn a_reply_that_ends_early_is_an_error() {
        assert!(read(&mut "$5\r\nab".as_bytes(), 0).is_err());
    }
}
