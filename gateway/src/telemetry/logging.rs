//! Logs: one subscriber whose writer never blocks, so a stuck stderr cannot stop the gateway.
//!
//! Lines go through a bounded channel to one thread. When its reader is stuck the channel fills,
//! further lines are dropped and counted, and the count is logged once lines flow again.

use super::metrics;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Lines that may wait for the writer; at 300 bytes each about 2.5 MB.
const QUEUE_LINES: usize = 8_192;
/// Longest that the end of the process waits for the last lines.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `Pretty` on a terminal, `Json` otherwise.
    #[default]
    Auto,
    /// One JSON object a line, for collectors.
    Json,
    /// One short text line, for people.
    Pretty,
}

impl std::str::FromStr for LogFormat {
    type Err = LoggingError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            _ => Err(LoggingError::Format(text.to_owned())),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("unknown log format `{0}`: use auto, json or pretty")]
    Format(String),
    #[error("the log level is not understood: use for example `info,bugler_gateway::rules=debug`")]
    Filter(#[source] ParseError),
    #[error("the log writer's thread could not be started")]
    Thread(#[source] io::Error),
    #[error("logging was already set up in this process")]
    Installed(#[source] TryInitError),
    #[error("the log level can no longer be changed")]
    Reload(#[source] reload::Error),
}

/// Keeps the log running; dropping it writes out what is still queued.
#[derive(Debug)]
pub struct Logging {
    lines: SyncSender<Line>,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging to stderr. `filter` is in the syntax of `RUST_LOG`.
///
/// # Errors
/// When the filter does not parse or a subscriber is already set.
pub fn start(format: LogFormat, filter: &str) -> Result<Logging, LoggingError> {
    let to_terminal = io::stderr().is_terminal();
    let filter = EnvFilter::try_new(filter).map_err(LoggingError::Filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = LineWriter::start(io::stderr()).map_err(LoggingError::Thread)?;
    let queue = lines.queue.clone();
    let registry = tracing_subscriber::registry().with(filter);
    let json = match format {
        LogFormat::Auto => !to_terminal,
        LogFormat::Json => true,
        LogFormat::Pretty => false,
    };
    if json {
        let layer = fmt::layer().json().flatten_event(true).with_writer(lines);
        registry.with(layer).try_init().map_err(LoggingError::Installed)?;
    } else {
        let layer = fmt::layer().compact().with_ansi(to_terminal).with_writer(lines);
        registry.with(layer).try_init().map_err(LoggingError::Installed)?;
    }
    Ok(Logging { lines: queue, filter: handle })
}

impl Logging {
    /// Changes what is logged from now on.
    ///
    /// # Errors
    /// When `filter` does not parse; the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), LoggingError> {
        let filter = EnvFilter::try_new(filter).map_err(LoggingError::Filter)?;
        self.filter.reload(filter).map_err(LoggingError::Reload)
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let (done, wait) = sync_channel(1);
        if self.lines.try_send(Line::Flush(done)).is_ok() {
            let _flushed = wait.recv_timeout(FLUSH_WAIT).is_ok();
        }
    }
}

enum Line {
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The subscriber's side of the channel.
#[derive(Clone, Debug)]
struct LineWriter {
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl LineWriter {
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name(String::from("bugler-log"))
            .spawn(move || write_lines(&lines, &count, out))?;
        Ok(Self { queue, dropped })
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

impl Write for LineWriter {
    /// Takes one whole line: the formatting layer writes each event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Line::Text(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(lines: &Receiver<Line>, dropped: &AtomicU64, mut out: impl Write) {
    loop {
        // Nothing can be done about a failing stderr; the gateway works on without it.
        let _written = match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(Line::Text(text)) => out.write_all(&text).is_ok(),
            Ok(Line::Flush(done)) => out.flush().is_ok() && done.try_send(()).is_ok(),
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            metrics::log_lines_dropped(lost);
            let _written = writeln!(out, "{lost} log lines were dropped: the log's reader is slow");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::{Condvar, Mutex};

    #[derive(Clone, Default)]
    struct Gate(Arc<Stuck>);

    #[derive(Default)]
    struct Stuck {
        is_open: Mutex<bool>,
        opened: Condvar,
        written: Mutex<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut is_open = self.0.is_open.lock();
            while !*is_open {
                self.0.opened.wait(&mut is_open);
            }
            self.0.written.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_but_never_blocks() {
        let gate = Gate::default();
        let mut lines = LineWriter::start(gate.clone()).unwrap();
        let offered = QUEUE_LINES * 2;
        for _ in 0..offered {
            lines.write_all(b"line\n").unwrap();
        }
        let lost = lines.dropped.load(Ordering::Relaxed);
        assert!(lost > 0, "the queue is bounded");

        *gate.0.is_open.lock() = true;
        gate.0.opened.notify_all();
        let (done, wait) = sync_channel(1);
        lines.queue.send(Line::Flush(done)).unwrap();
        wait.recv().unwrap();
        let text = String::from_utf8(gate.0.written.lock().clone()).unwrap();
        let kept = text.lines().filter(|l| *l == "line").count();
        assert_eq!(u64::try_from(offered - kept).unwrap(), lost);
        assert!(text.contains(&format!("{lost} log lines were dropped")), "{text}");
    }

    #[test]
    fn formats_are_named_in_the_error() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        let error = "xml".parse::<LogFormat>().unwrap_err().to_string();
        assert!(error.contains("auto, json or pretty"), "{error}");
    }
}
