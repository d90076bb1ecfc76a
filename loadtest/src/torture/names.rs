//! A name server of a run's own, which answers wrongly when told to, and the way a gateway finds it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use super::Trouble;

/// Where it listens: an address of loopback that nobody else takes for this.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
const PORT: u16 = 53;
/// All names end so.
pub(super) const ZONE: &str = "twins.test";
const HEADER_BYTES: usize = 12;
const ADDRESS: [u8; 4] = [127, 0, 0, 1];
/// More do not fit into a datagram: the question comes again over TCP.
const MANY: u16 = 1_000;
const TYPE_A: u16 = 1;
const LOOK: Duration = Duration::from_millis(100);

/// How questions are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// With the address of the twins, for no time.
    Good,
    /// There is no such name.
    Missing,
    /// The server has failed.
    Failing,
    /// Not at all.
    Silent,
    /// There is the name, without an address.
    Empty,
    /// With a thousand records.
    Many,
    /// Well and as failed by turns.
    Flapping,
}

impl Naming {
    const ALL: [Self; 7] = [
        Self::Good,
        Self::Missing,
        Self::Failing,
        Self::Silent,
        Self::Empty,
        Self::Many,
        Self::Flapping,
    ];
}

#[derive(Debug, Default)]
struct Shared {
    naming: AtomicU8,
    asked: AtomicU64,
    is_over: AtomicBool,
}

/// The server at work; dropping it ends it.
#[derive(Debug)]
pub(super) struct Names(Arc<Shared>);

impl Names {
    /// Takes the port of name servers, which needs root.
    pub(super) fn start() -> Result<Self, Trouble> {
        let missing = |error: std::io::Error| {
            Trouble::Missing(format!("no name server can listen on {HOST}:{PORT}: {error}"))
        };
        let udp = UdpSocket::bind((HOST, PORT)).map_err(missing)?;
        let tcp = TcpListener::bind((HOST, PORT)).map_err(missing)?;
        udp.set_read_timeout(Some(LOOK)).map_err(missing)?;
        tcp.set_nonblocking(true).map_err(missing)?;
        let shared = Arc::<Shared>::default();
        let (of_udp, of_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        std::thread::spawn(move || serve_datagrams(&udp, &of_udp));
        std::thread::spawn(move || serve_streams(&tcp, &of_tcp));
        Ok(Self(shared))
    }

    pub(super) fn set(&self, naming: Naming) {
        let at = Naming::ALL.iter().position(|one| *one == naming).unwrap_or(0);
        self.0.naming.store(u8::try_from(at).unwrap_or(0), Ordering::Relaxed);
    }

    /// Questions so far.
    pub(super) fn asked(&self) -> u64 {
        self.0.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// What a process is wrapped in so that it asks this server, and waits long for its answers.
pub(super) fn wrap(dir: &Path) -> Result<Vec<String>, Trouble> {
    let path = dir.join("resolv.conf");
    let text = format!("nameserver {HOST}\noptions timeout:10 attempts:2\n");
    std::fs::write(&path, text).map_err(Trouble::io("the resolver's configuration"))?;
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$0\" \"$@\"", path.display());
    Ok(["unshare", "-m", "--propagation", "private", "sh", "-c", &script]
        .map(str::to_owned)
        .to_vec())
}

/// `url` with a name instead of the address.
pub(super) fn named(url: &str, name: &str) -> String {
    url.replace("127.0.0.1", &format!("{name}.{ZONE}"))
}

fn serve_datagrams(socket: &UdpSocket, shared: &Shared) {
    let mut question = [0; 512];
    while !shared.is_over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
        let Some(asked) = question.get(..length) else { continue };
        if let Some(answer) = answer(asked, shared, false) {
            // Who asked may have gone.
            socket.send_to(&answer, from).ok();
        }
    }
}

fn serve_streams(listener: &TcpListener, shared: &Shared) {
    while !shared.is_over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => serve_stream(stream, shared).unwrap_or(()),
            Err(_) => std::thread::sleep(LOOK / 10),
        }
    }
}

fn serve_stream(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        let Some(answer) = answer(&question, shared, true) else { return Ok(()) };
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&answer)?;
    }
}

/// The answer to a question (RFC 1035, 4.1); `None` is silence.
fn answer(question: &[u8], shared: &Shared, is_stream: bool) -> Option<Vec<u8>> {
    let number = shared.asked.fetch_add(1, Ordering::Relaxed);
    let naming = Naming::ALL.get(usize::from(shared.naming.load(Ordering::Relaxed))).copied()?;
    let name = question.get(HEADER_BYTES..)?;
    let end = HEADER_BYTES + name.iter().position(|byte| *byte == 0)? + 1;
    let asked = question.get(HEADER_BYTES..end + 4)?;
    let kind = u16::from_be_bytes([*question.get(end)?, *question.get(end + 1)?]);
    let (code, records) = match naming {
        Naming::Silent => return None,
        Naming::Missing => (3, 0),
        Naming::Failing => (2, 0),
        // Both kinds of address are asked for together, so pairs go the same way.
        Naming::Flapping if (number / 2).is_multiple_of(2) => (2, 0),
        Naming::Empty => (0, 0),
        Naming::Many => (0, MANY),
        Naming::Good | Naming::Flapping => (0, 1),
    };
    let records = if kind == TYPE_A { records } else { 0 };
    let is_cut = records > 1 && !is_stream;
    let records = if is_cut { 0 } else { records };
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(question.get(..2)?);
    // An answer, recursion wanted and available.
    let flags: u16 = 0x8180 | code | if is_cut { 0x0200 } else { 0 };
    for word in [flags, 1, records, 0, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(asked);
    for _ in 0..records {
        // The name of the question, class IN, no time to live.
        out.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        out.extend_from_slice(&ADDRESS);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for the address of `a.b`.
    const QUESTION: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01";

    fn told(naming: Naming, is_stream: bool) -> Option<(u8, u16, bool)> {
        let shared = Shared::default();
        let at = Naming::ALL.iter().position(|one| *one == naming).expect("one of all");
        shared.naming.store(u8::try_from(at).expect("few"), Ordering::Relaxed);
        let answer = answer(QUESTION, &shared, is_stream)?;
        let records = u16::from_be_bytes([answer[6], answer[7]]);
        assert_eq!(answer.len(), QUESTION.len() + usize::from(records) * 16);
        Some((answer[3] & 0xf, records, answer[2] & 2 == 2))
    }

    #[test]
    fn each_way_of_answering_is_what_the_protocol_calls_it() {
        assert_eq!(told(Naming::Good, false), Some((0, 1, false)));
        assert_eq!(told(Naming::Missing, false), Some((3, 0, false)));
        assert_eq!(told(Naming::Failing, false), Some((2, 0, false)));
        assert_eq!(told(Naming::Silent, false), None);
        assert_eq!(told(Naming::Empty, false), Some((0, 0, false)));
        assert_eq!(told(Naming::Many, false), Some((0, 0, true)), "cut, to be asked over TCP");
        assert_eq!(told(Naming::Many, true), Some((0, 1_000, false)));
        assert_eq!(told(Naming::Flapping, false), Some((2, 0, false)));
    }
}
