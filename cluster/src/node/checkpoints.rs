//! The node's state store as the groups see it.

use std::io;

use bytes::Bytes;
use quorate_storage::log::{GroupId, LogPosition};
use quorate_storage::state::{Checkpointer, GroupCheckpoint as StoredCheckpoint};

use super::{Group, Host};
use crate::raft::{CheckpointStore, EntryIterator, EntryVisitor, GroupCheckpoint, StateChanges};
use crate::state::GroupState;

/// Bytes read at once when a group's state is visited.
const PAGE_BYTES: usize = 1024 * 1024;

/// From so many bytes of queued messages that no checkpoint has a group's checkpoint is taken by itself.
const MUCH_BYTES: u64 = 1 << 20;

/// How much of its state a group has in the store.
///
/// Sessions of expiry 0 do not outlive a full stop (R31, R41), and a node alone has nobody to hand its state to. So it
/// stores nothing of its live groups but how far they got: what it keeps in memory for each idle connection is half of
/// what it would be with sled's part. A start of it finds what the end of the log tells. Before another replica is added
/// everything is stored: a snapshot is what the store has, and must not be a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StoredPart {
    /// All of it.
    #[default]
    Whole,
    /// Nothing.
    None,
    /// Nothing, and the next checkpoint is to have all.
    Asked,
    /// A checkpoint with all of it is on its way.
    Begun,
}

impl<H: Host> Group<H> {
    /// Whether a snapshot would lack something.
    pub(super) fn is_stored_in_part(&self) -> bool {
        *self.stored_part.lock() != StoredPart::Whole
    }

    /// Nothing is left out of what is stored.
    pub(super) fn stores_all(&self) {
        *self.stored_part.lock() = StoredPart::Whole;
    }

    /// This node is the group's only replica, and starts.
    pub(super) fn store_nothing(&self) -> std::io::Result<()> {
        let key = GroupState::key_of_any_state();
        if self.store.value(self.id(), &key)?.is_none() {
            *self.stored_part.lock() = StoredPart::None;
        }
        Ok(())
    }

    /// Stores all of the state; when this returns the group may get another replica unless it
    /// [`is_stored_in_part`](Self::is_stored_in_part) yet.
    pub(super) async fn store_whole(&self) {
        {
            let mut part = self.stored_part.lock();
            if *part == StoredPart::None {
                *part = StoredPart::Asked;
            }
        }
        // A checkpoint is only taken when something was applied since the last one.
        if !self.tick().await {
            return;
        }
        if self.checkpoint().await {
            let mut part = self.stored_part.lock();
            if *part == StoredPart::Begun {
                *part = StoredPart::Whole;
                tracing::debug!(group = self.id().0, "the state is stored as a whole from now on");
            }
        }
    }

    /// What a checkpoint is to store.
    pub(super) fn changes_to_store(&self) -> StateChanges {
        let mut part = self.stored_part.lock();
        let mut state = self.state();
        match *part {
            StoredPart::Whole | StoredPart::Begun => state.take_changes(),
            StoredPart::None => {
                state.forget_changes();
                Vec::new()
            }
            StoredPart::Asked => {
                *part = StoredPart::Begun;
                state.forget_changes();
                let records = state.records().into_iter();
                records.map(|(key, value)| (key, Some(value))).collect()
            }
        }
    }

    pub(super) fn has_much_to_store(&self) -> bool {
        self.state().unsaved_bytes() >= MUCH_BYTES
    }

    /// Whether a replica that lags is being sent what is stored.
    pub(super) fn is_streamed(&self) -> bool {
        self.replica().is_some_and(|replica| replica.is_streamed())
    }

    /// Writes the state to the store; what is large and stored leaves memory. Whether it is written.
    pub(super) async fn checkpoint(&self) -> bool {
        let Some(replica) = self.replica() else {
            return false;
        };
        match replica.checkpoint().await {
            Ok(Some(index)) => self.stored_up_to(index),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(group = self.id().0, %error, "checkpoint failed");
                return false;
            }
        }
        true
    }

    /// A checkpoint may have been stored that nobody has waited for to its end.
    pub(super) fn note_stored(&self) {
        if let Some(index) = self.replica().and_then(|replica| replica.stored_index()) {
            self.stored_up_to(index);
        }
    }

    /// The state store has the state as of the entry at `index`: what is large leaves memory.
    pub(super) fn stored_up_to(&self, index: u64) {
        let mut state = self.state();
        state.stored_up_to(index);
        self.unstored.count(&state);
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
