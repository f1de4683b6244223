//! The log: lines for people or JSON, on standard output, at a level that can change while the process runs.
//!
//! ```text
//! tracing event -> level filter -> format -> bounded queue -> one thread -> standard output
//! ```
//!
//! Invariants: no thread that logs ever waits for whoever reads standard output; when the reader is too slow, lines
//! are lost, counted, and the loss is logged itself. Standard error is for messages of the command line.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::metrics::Metrics;

/// Lines waiting for standard output; a few megabytes.
const LINES_MAX: usize = 8_192;

/// Longest wait for the last lines at the end of the process.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// Libraries that log much of their own, with the level they are given. The core of openraft warns of answers that
/// come late, as they do at each first election; what it cannot go on with reaches the log as an error of the group.
const LIBRARIES: [(&str, &str); 6] = [
    ("openraft", "error"),
    ("sled", "warn"),
    ("tonic", "warn"),
    ("h2", "warn"),
    ("hyper", "warn"),
    ("tower", "warn"),
];

/// The process has one log; so has the level.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

static LINES_LOST: AtomicU64 = AtomicU64::new(0);

/// The log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is none.
    #[error("the log level cannot be used: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// The log was set up before.
    #[error("the log is set up already")]
    AlreadySet,
    /// The log was not set up, or has ended.
    #[error("the log is not set up")]
    NotSet,
    /// The system refused a thread.
    #[error("no thread for the log: {0}")]
    Thread(#[from] io::Error),
}

/// Sets the log of the process up. Dropping the guard writes the last lines.
///
/// # Errors
///
/// Where it is set up already, or the system refuses a thread.
pub fn init(config: &LogConfig) -> Result<LogGuard, LoggingError> {
    let (filter, handle) = reload::Layer::new(filter_of(&config.level)?);
    let (queue, lines) = sync_channel(LINES_MAX);
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&lines))?;
    let writer = QueueWriter { queue: queue.clone() };
    let registry = tracing_subscriber::registry().with(filter);
    let set = match config.format {
        LogFormat::Text => {
            let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = tracing_subscriber::fmt::layer()
                .with_ansi(colours)
                .with_writer(writer);
            tracing::subscriber::set_global_default(registry.with(layer))
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_writer(writer);
            tracing::subscriber::set_global_default(registry.with(layer))
        }
    };
    set.map_err(|_| LoggingError::AlreadySet)?;
    LEVEL.set(handle).map_err(|_| LoggingError::AlreadySet)?;
    Ok(LogGuard { queue })
}

/// Changes the level from now on.
///
/// # Errors
///
/// Where the log is not set up.
pub fn set_level(level: &LogLevel) -> Result<(), LoggingError> {
    let handle = LEVEL.get().ok_or(LoggingError::NotSet)?;
    handle.reload(filter_of(level)?).map_err(|_| LoggingError::NotSet)
}

/// Declares what the log counts.
pub fn register(metrics: &Metrics) {
    metrics.scope("log").counter(
        "lines_lost_total",
        "Log lines lost because standard output was too slow.",
        || LINES_LOST.load(Ordering::Relaxed),
    );
}

fn filter_of(level: &LogLevel) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(directives(level))
}

/// Directives of the level, with the libraries quieter unless the level names them: below `warn` they tell what their
/// authors want to know, dozens of lines for every Raft group at each start and a few at each checkpoint.
fn directives(level: &LogLevel) -> String {
    let level = level.as_str();
    let default = level.split(',').next().unwrap_or_default();
    // Above there is nothing to gain, and `trace` means everything.
    if !matches!(default, "info" | "debug") {
        return level.to_owned();
    }
    let is_named = |library: &str| {
        let crate_of = |target: &str| target.split("::").next().map(str::to_owned);
        let mut targets = level.split(',').filter_map(|part| part.split_once('='));
        targets.any(|(target, _)| crate_of(target) == crate_of(library))
    };
    let quiet = LIBRARIES.iter().filter(|(library, _)| !is_named(library));
    quiet.fold(level.to_owned(), |all, (library, quieter)| {
        format!("{all},{library}={quieter}")
    })
}

/// What the log's thread is told.
enum Message {
    Line(Vec<u8>),
    /// Everything before is written: answer.
    Flush(SyncSender<()>),
}

/// Takes one formatted line a call and never waits.
#[derive(Clone)]
struct QueueWriter {
    queue: SyncSender<Message>,
}

impl Write for QueueWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            LINES_LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for QueueWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn write_lines(lines: &Receiver<Message>) {
    let mut out = io::stdout();
    let mut lost_told = 0;
    for message in lines {
        match message {
            Message::Line(line) => {
                // Nobody is left to tell when standard output is gone; the node goes on without a log.
                let _ = out.write_all(&line).and_then(|()| out.flush());
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
        let lost = LINES_LOST.load(Ordering::Relaxed);
        if lost > lost_told {
            tracing::warn!(
                lines = lost - lost_told,
                "log lines were lost: standard output is read too slowly"
            );
            lost_told = lost;
        }
    }
}

/// Writes the last lines when dropped, for a second at most.
#[must_use]
pub struct LogGuard {
    queue: SyncSender<Message>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        let end = Instant::now() + FLUSH_WAIT;
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
            if Instant::now() > end {
                return;
            }
            message = back;
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = written.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_loses_lines_and_counts_them() {
        let (queue, lines) = sync_channel(1);
        let mut writer = QueueWriter { queue };
        let before = LINES_LOST.load(Ordering::Relaxed);
        assert_eq!(writer.write(b"one\n").unwrap(), 4);
        assert_eq!(writer.write(b"two\n").unwrap(), 4);
        assert_eq!(LINES_LOST.load(Ordering::Relaxed) - before, 1);
        assert!(matches!(lines.try_recv(), Ok(Message::Line(line)) if line == b"one\n"));
    }

    #[test]
    fn libraries_are_quieter_unless_named() {
        let of = |level: &str| directives(&LogLevel::parse(level).unwrap());
        assert!(of("info").starts_with("info,openraft=error,"), "{}", of("info"));
        assert!(of("debug,quorate::router=trace").contains("quorate::router=trace,openraft=error"));
        let named = of("info,openraft::engine=debug");
        assert!(
            !named.contains("openraft=error") && named.contains("sled=warn"),
            "{named}"
        );
        for level in ["off", "warn", "trace"] {
            assert_eq!(of(level), level);
        }
    }

    #[test]
    fn the_level_can_change() {
        let quiet = LogConfig {
            level: LogLevel::parse("off").unwrap(),
            ..LogConfig::default()
        };
        assert!(matches!(set_level(&quiet.level), Err(LoggingError::NotSet)));
        let guard = init(&quiet).unwrap();
        assert!(!tracing::enabled!(tracing::Level::ERROR));
        set_level(&LogLevel::parse("warn").unwrap()).unwrap();
        assert!(tracing::enabled!(tracing::Level::WARN) && !tracing::enabled!(tracing::Level::INFO));
        assert!(matches!(init(&quiet), Err(LoggingError::AlreadySet)));
        let begin = Instant::now();
        drop(guard);
        assert!(begin.elapsed() < FLUSH_WAIT, "the thread answers");
    }
}
