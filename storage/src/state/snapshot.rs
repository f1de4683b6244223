//! Reads a group's checkpointed state as of one position, in chunks, for a replica that needs all of it.
//!
//! While a reader lives, checkpoints that include its group are refused with `ResourceBusy` (memory goes on
//! collecting); the owner bounds that time by dropping the reader (R45).

use std::sync::Arc;

use bytes::Bytes;

use super::{Checkpointer, Entry, StateError};
use crate::log::{GroupId, LogPosition};

/// A piece of a snapshot.
#[derive(Debug)]
pub struct Chunk {
    /// Entries in key order.
    pub entries: Vec<Entry>,
    /// Whether this was the last piece.
    pub is_last: bool,
}

/// Reads one group from its first key to its last.
#[derive(Debug)]
pub struct SnapshotReader {
    checkpointer: Arc<Checkpointer>,
    group: GroupId,
    generation: u32,
    position: LogPosition,
    meta: Bytes,
    from: Vec<u8>,
}

impl Checkpointer {
    /// A reader of `group`; `None` where the group has no state. Waits for a checkpoint that is under way.
    pub fn snapshot(self: &Arc<Self>, group: GroupId) -> Result<Option<SnapshotReader>, StateError> {
        let Some(record) = self.hold(group)? else {
            return Ok(None);
        };
        Ok(Some(SnapshotReader {
            checkpointer: Arc::clone(self),
            group,
            generation: record.generation,
            position: record.position,
            meta: record.meta,
            from: Vec::new(),
        }))
    }
}

impl SnapshotReader {
    /// The position that the snapshot stands for.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// The meta as of that position.
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// The next piece, of about `bytes_max` bytes. An error where the state was replaced or removed meanwhile.
    pub fn next_chunk(&mut self, bytes_max: usize) -> Result<Chunk, StateError> {
        let entries = self.checkpointer.range(self.group, &self.from, bytes_max)?;
        // Asked after reading: had the group been replaced before or amid it, it shows here.
        if self.checkpointer.generation(self.group)? != Some(self.generation) {
            return Err(std::io::Error::other("the group was replaced while it was read").into());
        }
        if let Some((last, _)) = entries.last() {
            self.from.clone_from(last);
            self.from.push(0);
        }
        let is_last = entries.is_empty();
        Ok(Chunk { entries, is_last })
    }
}

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        self.checkpointer.release(self.group);
    }
}
