//! A replicated table of strings: commands are `key=value`, an empty value removes the key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_storage::log::LogPosition;

use crate::raft::{AppliedBatch, ReplicatedState, StateChanges, StateError};
use crate::state::{BatchOutcome, Outcome};

/// Key under which the table keeps the number of commands it has carried out.
const COUNT: &[u8] = b"#count";

/// A look at a table that a replica owns.
#[derive(Clone, Default)]
pub(super) struct Table {
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    count: u32,
    changed: BTreeSet<Vec<u8>>,
    last_index: Option<u64>,
    /// So many rows may have changed since the last checkpoint.
    changed_max: Option<usize>,
}

/// The replica's side.
pub(super) struct TableState(Arc<Mutex<Content>>);

impl Table {
    /// Empties the table and hands out the replica's side, as a new process would.
    pub(super) fn state(&self) -> TableState {
        *self.content.lock() = Content::default();
        TableState(Arc::clone(&self.content))
    }

    pub(super) fn get(&self, key: &str) -> Option<String> {
        let content = self.content.lock();
        content
            .rows
            .get(key.as_bytes())
            .map(|value| String::from_utf8(value.clone()).unwrap())
    }

    pub(super) fn limit_changes(&self, changed_max: usize) {
        self.content.lock().changed_max = Some(changed_max);
    }

    pub(super) fn rows(&self) -> usize {
        self.content.lock().rows.len()
    }

    pub(super) fn count(&self) -> u32 {
        self.content.lock().count
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        let (content, other) = (self.content.lock(), other.content.lock());
        content.rows == other.rows && content.count == other.count
    }
}

impl ReplicatedState for TableState {
    fn apply(&mut self, at: LogPosition, entry: &Bytes) -> Result<AppliedBatch, StateError> {
        let index = at.index;
        let mut content = self.0.lock();
        assert!(
            content.last_index.is_none_or(|last| last < index),
            "index {index} was applied before"
        );
        content.last_index = Some(index);
        let command =
            std::str::from_utf8(entry).map_err(|_| StateError::Corrupt("not a string".to_owned()))?;
        let (key, value) = command
            .split_once('=')
            .ok_or_else(|| StateError::Corrupt(command.to_owned()))?;
        match value {
            "" => drop(content.rows.remove(key.as_bytes())),
            value => drop(content.rows.insert(key.into(), value.into())),
        }
        content.changed.insert(key.into());
        content.count += 1;
        let outcome = BatchOutcome::Applied(vec![Outcome::Published {
            duplicate: false,
            stored: content.count,
            refused: 0,
        }]);
        let first_index = Some(index);
        Ok(AppliedBatch { outcome, first_index })
    }

    fn changes(&mut self) -> StateChanges {
        let mut content = self.0.lock();
        let changed = std::mem::take(&mut content.changed);
        let mut changes: StateChanges = changed
            .into_iter()
            .map(|key| (key.clone(), content.rows.get(&key).cloned()))
            .collect();
        changes.push((COUNT.to_vec(), Some(content.count.to_le_bytes().to_vec())));
        changes
    }

    fn is_full(&self) -> bool {
        let content = self.0.lock();
        content
            .changed_max
            .is_some_and(|max| content.changed.len() >= max)
    }

    fn load(
        &mut self,
        entries: &mut dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), StateError>>,
    ) -> Result<(), StateError> {
        let mut loaded = Content::default();
        for entry in entries {
            let (key, value) = entry?;
            if key == COUNT {
                let count = value
                    .as_slice()
                    .try_into()
                    .map_err(|_| StateError::Corrupt("count".to_owned()))?;
                loaded.count = u32::from_le_bytes(count);
            } else {
                loaded.rows.insert(key, value);
            }
        }
        *self.0.lock() = loaded;
        Ok(())
    }
}
