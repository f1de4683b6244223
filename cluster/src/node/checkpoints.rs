//! The node's state store as the groups see it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::log::{GroupId, LogPosition};
use quorate_storage::state::{Checkpointer, GroupCheckpoint as StoredCheckpoint};

use super::{Group, Host};
use crate::raft::{CheckpointStore, EntryIterator, EntryVisitor, GroupCheckpoint};

/// Bytes read at once when a group's state is visited.
const PAGE_BYTES: usize = 1024 * 1024;

/// Bytes of queued messages that no checkpoint has; from there on a group takes one without waiting for its time.
pub(super) const UNSAVED_BYTES_MAX: u64 = 16 << 20;
/// From there on it is taken by itself.
const MUCH_BYTES: u64 = 1 << 20;

impl<H: Host> Group<H> {
    pub(super) fn has_much_to_store(&self) -> bool {
        self.state().unsaved_bytes() >= MUCH_BYTES
    }

    /// Writes the state to the store; what is large and stored leaves memory.
    pub(super) async fn checkpoint(&self) {
        let Some(replica) = self.replica() else { return };
        match replica.checkpoint().await {
            Ok(Some(index)) => self.state().stored_up_to(index),
            Ok(None) => {}
            Err(error) => tracing::error!(group = self.id().0, %error, "checkpoint failed"),
        }
    }

    /// The task that takes a checkpoint when much has come to queues.
    pub(super) async fn run_filled(self: Arc<Self>, turn: Arc<tokio::sync::Mutex<()>>) {
        loop {
            self.filled.notified().await;
            let _turn = turn.lock().await;
            if self.state().unsaved_bytes() >= UNSAVED_BYTES_MAX {
                self.checkpoint().await;
            }
        }
    }
}

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

    fn value(&self, group: GroupId, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.value(group, key)?)
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
