//! What passes between the log's buffer and its flusher.

use std::io;
use std::sync::Arc;

use super::group::Place;
use super::pieces::Pieces;
use crate::disk::DiskFile;
use crate::log::{Completion, GroupId};

/// The first error; every later operation gets a copy.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: io::ErrorKind,
    text: Arc<str>,
}

impl Failure {
    pub(crate) fn new(error: &io::Error) -> Self {
        Self {
            kind: error.kind(),
            text: format!("the log has failed: {error}").into(),
        }
    }

    pub(crate) fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.to_string())
    }
}

/// A completion that waits for the flush of the buffer, or, rejected, for its turn.
pub(crate) struct Waiting {
    pub(crate) done: Completion,
    pub(crate) needs_sync: bool,
    pub(crate) rejected: Option<io::Error>,
}

/// An entry copied forward: counts once the copy is written.
#[derive(Debug)]
pub(crate) struct Move {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) from: Place,
    pub(crate) to: Place,
}

/// What one flush writes.
pub(crate) struct Batch {
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    pub(crate) start: Place,
    pub(crate) bytes: Pieces,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) moves: Vec<Move>,
    pub(crate) sync: bool,
    /// The segment is full: sync it and go on in this one.
    pub(crate) next_segment: Option<u64>,
}

impl Batch {
    pub(crate) fn end(&self) -> Place {
        Place {
            offset: self.start.offset + self.bytes.len() as u64,
            ..self.start
        }
    }
}

/// A segment to be deleted once all before `after` is synced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removal {
    pub(crate) segment: u64,
    pub(crate) after: Place,
}
