//! `meta` as Raft drives it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::log::LogPosition;

use super::{Directory, MetaState};
use crate::raft::{AppliedBatch, ReplicatedState, StateChanges, StateError};
use crate::state::{BatchOutcome, Outcome};

/// The replicated state of `meta`, kept in a directory.
pub struct MetaReplica {
    directory: Arc<Directory>,
    /// What the last checkpoint holds.
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MetaReplica {
    /// A replica that keeps its state in `directory`.
    pub fn new(directory: Arc<Directory>) -> Self {
        Self {
            directory,
            stored: BTreeMap::new(),
        }
    }
}

impl ReplicatedState for MetaReplica {
    fn apply(&mut self, at: LogPosition, entry: &Bytes) -> Result<AppliedBatch, StateError> {
        let index = at.index;
        let outcome = match self.directory.change(|state| state.apply(entry)) {
            Ok(()) => BatchOutcome::Applied(vec![Outcome::Done]),
            Err(super::Rejected::Malformed) => {
                return Err(StateError::Corrupt(format!("entry {index} of meta is malformed")));
            }
            Err(rejected) => {
                tracing::debug!(index, %rejected, "a command to meta has no effect");
                BatchOutcome::Refused
            }
        };
        let first_index = Some(index);
        Ok(AppliedBatch { outcome, first_index })
    }

    /// The state is small: what differs from the last checkpoint is found by comparing.
    fn changes(&mut self) -> StateChanges {
        let records = self.directory.read().records();
        let mut changes = StateChanges::new();
        for key in self.stored.keys().filter(|key| !records.contains_key(*key)) {
            changes.push((key.clone(), None));
        }
        for (key, value) in &records {
            if self.stored.get(key) != Some(value) {
                changes.push((key.clone(), Some(value.clone())));
            }
        }
        self.stored = records;
        changes
    }

    fn load(
        &mut self,
        entries: &mut dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), StateError>>,
    ) -> Result<(), StateError> {
        let mut loaded = MetaState::default();
        self.stored.clear();
        for entry in entries {
            let (key, value) = entry?;
            loaded
                .load(&value)
                .map_err(|error| StateError::Corrupt(format!("a record of meta: {error}")))?;
            self.stored.insert(key, value);
        }
        self.directory.change(|state| *state = loaded);
        Ok(())
    }
}
