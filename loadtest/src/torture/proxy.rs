//! A proxy before a twin or a server that spoils the bytes' way, and of the bytes only the version
//! that a server says it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Trouble;

const BUFFER_BYTES: usize = 16 << 10;
const DRIP_BYTES: usize = 1;

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    #[default]
    Clear,
    /// Each piece waits so long, give or take half of it.
    Delay(Duration),
    /// One byte at a time, with this pause.
    Drip(Duration),
    /// Nothing goes on, and nobody is told: the peer is gone.
    HalfOpen,
    /// The connection is reset after so many bytes in either direction.
    CutAfter(usize),
    /// Connections are reset, and new ones at once.
    Reset,
    /// The server says that its version begins so, with as many letters as its own: `8.0`.
    Version(&'static str),
}

/// What Redis says before its version.
const VERSION: &[u8] = b"redis_version:";

/// A proxy at work; its connections end when it is dropped.
pub(super) struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Way>,
    cuts: Arc<Mutex<u64>>,
    accepting: JoinHandle<()>,
}

struct Lane {
    way: watch::Receiver<Way>,
    cuts: Arc<Mutex<u64>>,
    seed: u64,
}

impl Proxy {
    /// Listens on a free port for `https://host:port` of a twin.
    pub(super) async fn before(url: &str, seed: u64) -> Result<Self, Trouble> {
        let to: SocketAddr = url
            .trim_start_matches("https://")
            .parse()
            .map_err(|_| Trouble::Setup(format!("{url} is no address")))?;
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.map_err(Trouble::io("the proxy cannot listen"))?;
        let address = listener.local_addr().map_err(Trouble::io("the proxy's address"))?;
        let (way, watched) = watch::channel(Way::Clear);
        let cuts = Arc::<Mutex<u64>>::default();
        let counted = Arc::clone(&cuts);
        let accepting = tokio::spawn(async move {
            let mut lanes = tokio::task::JoinSet::new();
            let mut number = seed;
            while let Ok((client, _)) = listener.accept().await {
                number = number.wrapping_add(1);
                let (way, cuts) = (watched.clone(), Arc::clone(&counted));
                let lane = Lane { way, cuts, seed: number };
                lanes.spawn(carry(client, to, lane));
                while lanes.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, way, cuts, accepting })
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(super) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Connections that were cut.
    pub(super) fn cuts(&self) -> u64 {
        *self.cuts.lock()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, to: SocketAddr, lane: Lane) {
    if *lane.way.borrow() == Way::Reset {
        reset(&client);
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    let ends = [&client, &server].map(|stream| stream.set_nodelay(true));
    drop(ends);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let (up, down) = (lane.way.clone(), lane.way.clone());
    let random = |salt| StdRng::seed_from_u64(lane.seed.wrapping_mul(2) + salt);
    let is_cut = tokio::select! {
        cut = pour(client_read, server_write, up, random(0)) => cut,
        cut = pour(server_read, client_write, down, random(1)) => cut,
    };
    *lane.cuts.lock() += u64::from(is_cut);
}

/// Carries bytes one way; answers whether the way was cut on purpose.
async fn pour(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
    mut random: StdRng,
) -> bool {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut carried = 0;
    loop {
        let now = *way.borrow_and_update();
        let room = if matches!(now, Way::Drip(_)) { DRIP_BYTES } else { BUFFER_BYTES };
        let read = tokio::select! {
            read = from.read(buffer.get_mut(..room).unwrap_or_default()) => read,
            changed = way.changed() => match changed {
                Ok(()) => {
                    let is_reset = *way.borrow() == Way::Reset;
                    if is_reset {
                        return cut(&to);
                    }
                    continue;
                }
                Err(_) => return false,
            },
        };
        let Ok(count @ 1..) = read else { return false };
        carried += count;
        let now = *way.borrow();
        match now {
            Way::Clear => {}
            Way::Version(version) => claim(buffer.get_mut(..count).unwrap_or_default(), version),
            Way::Delay(pause) => {
                tokio::time::sleep(pause.mul_f64(random.random_range(0.5..1.5))).await
            }
            Way::Drip(pause) => tokio::time::sleep(pause).await,
            Way::CutAfter(most) if carried < most => {}
            Way::CutAfter(_) | Way::Reset => return cut(&to),
            // What was read is gone, whatever comes; only a new connection helps.
            Way::HalfOpen => {
                while *way.borrow_and_update() != Way::Reset {
                    if way.changed().await.is_err() {
                        return false;
                    }
                }
                return cut(&to);
            }
        }
        if to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
            return false;
        }
    }
}

/// Writes another version where a piece says one.
fn claim(piece: &mut [u8], version: &str) {
    let found = piece.windows(VERSION.len()).position(|bytes| bytes == VERSION);
    let after = found.and_then(|at| piece.get_mut(at + VERSION.len()..));
    let told = after.and_then(|after| after.get_mut(..version.len()));
    if let Some(told) = told {
        told.copy_from_slice(version.as_bytes());
    }
}

fn cut(to: &OwnedWriteHalf) -> bool {
    reset(to.as_ref());
    true
}

/// A reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    // A stream that is gone already needs no reset.
    stream.set_zero_linger().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = tcp.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        address
    }

    async fn through(proxy: &Proxy, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut tcp = TcpStream::connect(proxy.address).await?;
        tcp.write_all(bytes).await?;
        let mut answer = vec![0; bytes.len()];
        tcp.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_server_says_another_version() {
        let proxy =
            Proxy::before(&format!("https://{}", echo().await), 1).await.expect("it starts");
        proxy.set(Way::Version("8.0"));
        let told = through(&proxy, b"redis_version:7.0.15\r\n").await.expect("a clear way");
        assert_eq!(told, b"redis_version:8.0.15\r\n");
    }

    #[tokio::test]
    async fn bytes_arrive_whole_or_the_connection_is_reset() {
        let proxy =
            Proxy::before(&format!("https://{}", echo().await), 1).await.expect("it starts");
        let sent = vec![7; 40_000];
        assert_eq!(through(&proxy, &sent).await.expect("a clear way"), sent);
        proxy.set(Way::Drip(Duration::from_millis(1)));
        assert_eq!(through(&proxy, b"drop").await.expect("a slow way"), b"drop");
        proxy.set(Way::CutAfter(10_000));
        assert!(through(&proxy, &sent).await.is_err());
        proxy.set(Way::Reset);
        assert!(through(&proxy, b"x").await.is_err());
    }
}
