//! The node's state store as the groups see it.

use std::io;

use bytes::Bytes;
use quorate_storage::log::{GroupId, LogPosition};
use quorate_storage::state::{Checkpointer, GroupCheckpoint as StoredCheckpoint};

use crate::raft::{CheckpointStore, EntryIterator, EntryVisitor, GroupCheckpoint};

/// Bytes read at once when a group's state is visited.
const PAGE_BYTES: usize = 1024 * 1024;

/// The checkpointed state of all groups.
pub struct StateCheckpoints(Checkpointer);

impl StateCheckpoints {
    /// The groups' view of an open state store.
    pub fn new(checkpointer: Checkpointer) -> Self {
        Self(checkpointer)
    }
}

impl CheckpointStore for StateCheckpoints {
    fn checkpoint(&self, groups: Vec<GroupCheckpoint>) -> io::Result<()> {
        let stored = groups.into_iter().map(|checkpoint| {
            let GroupCheckpoint {
                group,
                position,
                meta,
                changes,
            } = checkpoint;
            StoredCheckpoint {
                group,
                position,
                meta,
                changes,
            }
        });
        self.0.checkpoint(stored.collect())
    }

    fn load(&self, group: GroupId) -> io::Result<Option<(LogPosition, Bytes)>> {
        Ok(self.0.load(group))
    }

    fn entries(&self, group: GroupId, visit: EntryVisitor<'_>) -> io::Result<()> {
        let mut from = Vec::new();
        loop {
            let page = self.0.range(group, &from, PAGE_BYTES)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            from.clone_from(last);
            // The smallest key behind the last one.
            from.push(0);
            for (key, value) in &page {
                visit(key, value)?;
            }
        }
    }

    fn replace(
        &self,
        group: GroupId,
        position: LogPosition,
        meta: Bytes,
        entries: EntryIterator<'_>,
    ) -> io::Result<()> {
        Ok(self.0.replace(group, position, meta, entries)?)
    }

    fn remove(&self, group: GroupId) -> io::Result<()> {
        Ok(self.0.remove(group)?)
    }
}
