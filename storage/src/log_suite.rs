//! What every [`Log`] has to do: the trait's promises as functions to be called by the tests of each implementation.
//!
//! A [`Subject`] opens the log under test, stops it cleanly or as a killed process, and waits for completions.
//! [`run_all`] runs every check on a fresh subject, with its name in the panic message.

mod checks;
pub(crate) mod random;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;

use crate::log::{Completion, GroupId, Log, LogEntry, LogPosition};

/// A log in its surroundings.
pub trait Subject {
    /// Opens the log; an earlier one was stopped.
    fn open(&mut self) -> io::Result<Arc<dyn Log>>;

    /// Stops the log. `clean`: everything submitted becomes durable. Otherwise as if the process was killed, or the
    /// machine lost its power: only what was completed has to survive.
    fn stop(&mut self, log: Arc<dyn Log>, clean: bool);

    /// Lets completions of everything submitted so far run, where the log does not do that by itself.
    fn pump(&mut self, _log: &Arc<dyn Log>) {}
}

/// The log under test, with calls that wait.
pub struct Bench<'a> {
    subject: &'a mut dyn Subject,
    log: Option<Arc<dyn Log>>,
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Bench").finish_non_exhaustive()
    }
}

/// A completion and where its result arrives.
pub(crate) fn completion() -> (Completion, Receiver<io::Result<()>>) {
    let (sender, receiver) = channel();
    let done: Completion = Box::new(move |result| {
        // Nobody may be waiting any more.
        let _ = sender.send(result);
    });
    (done, receiver)
}

/// An entry whose content follows from its place.
pub(crate) fn entry(term: u64, index: u64, payload_bytes: usize) -> LogEntry {
    let position = LogPosition {
        term,
        leader: term % 3,
        index,
    };
    LogEntry {
        position,
        payload: Bytes::from(vec![(term * 31 + index) as u8; payload_bytes]),
    }
}

impl<'a> Bench<'a> {
    fn new(subject: &'a mut dyn Subject) -> Self {
        let log = subject.open().expect("the log opens");
        Self {
            subject,
            log: Some(log),
        }
    }

    fn log(&self) -> &Arc<dyn Log> {
        self.log.as_ref().expect("the log is open")
    }

    /// Submits an operation and waits for its completion.
    fn wait(&mut self, operation: impl FnOnce(&dyn Log, Completion)) -> io::Result<()> {
        let (done, result) = completion();
        let log = Arc::clone(self.log());
        operation(&*log, done);
        self.subject.pump(&log);
        result
            .recv_timeout(std::time::Duration::from_secs(60))
            .expect("the completion runs")
    }

    fn append(&mut self, group: GroupId, entries: Vec<LogEntry>) {
        self.wait(|log, done| log.append(group, entries, done))
            .expect("append");
    }

    fn reopen(&mut self, clean: bool) {
        let log = self.log.take().expect("the log is open");
        self.subject.stop(log, clean);
        self.log = Some(self.subject.open().expect("the log opens again"));
    }

    fn indexes(&self, group: GroupId) -> Vec<u64> {
        let entries = self.log().read(group, 0, u64::MAX, usize::MAX).expect("read");
        entries.iter().map(|entry| entry.position.index).collect()
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        if let Some(log) = self.log.take() {
            self.subject.stop(log, true);
        }
    }
}

/// Runs every check, each on a subject of its own.
pub fn run_all<S: Subject>(mut fresh: impl FnMut() -> S) {
    for (name, check) in checks::ALL {
        let mut subject = fresh();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(&mut Bench::new(&mut subject));
        }));
        if let Err(panic) = outcome {
            eprintln!("log suite: {name} failed");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Runs random operations with clean and unclean stops, and compares with a model. The subject's unclean stop must
/// keep everything that was completed.
pub fn run_random(subject: &mut dyn Subject, seed: u64, operations: usize) {
    random::run(subject, seed, operations);
}
