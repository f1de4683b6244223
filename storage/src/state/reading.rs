//! Reads of the checkpointed state.

use bytes::Bytes;

use super::batches::BATCH_BYTES_MAX;
use super::layout;
use super::{Checkpointer, Entry, StateError};
use crate::log::{GroupId, LogPosition};

impl Checkpointer {
    /// Groups with state.
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.read().keys().copied().collect()
    }

    /// Position and meta of a group's state; `None` where there is none, so that its log is replayed from the start.
    pub fn load(&self, group: GroupId) -> Option<(LogPosition, Bytes)> {
        self.groups
            .read()
            .get(&group)
            .map(|record| (record.position, record.meta.clone()))
    }

    /// The value of a key. Keys of a checkpoint under way may be read half written: ask for none of these.
    pub fn value(&self, group: GroupId, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        loop {
            let Some(generation) = self.generation(group)? else {
                return Ok(None);
            };
            let full = layout::value_key(group, generation, key);
            let found = match self.store.read(&full) {
                Ok(Some(head)) => self.verified(group, &full, head).map(Some),
                other => other,
            };
            if matches!(found, Ok(Some(_))) || self.generation(group)? == Some(generation) {
                return found;
            }
            // A snapshot has come, and the old state was being deleted.
        }
    }

    /// Entries of a group from key `from` (inclusive) in key order: at least one where there is one, then no more
    /// than about `bytes_max` bytes.
    pub fn range(&self, group: GroupId, from: &[u8], bytes_max: usize) -> Result<Vec<Entry>, StateError> {
        let Some(generation) = self.generation(group)? else {
            return Ok(Vec::new());
        };
        let start = layout::value_key(group, generation, from);
        let mut found = Vec::new();
        let mut bytes = 0;
        for (full, head) in
            self.store
                .range(&start, &layout::after_generation(group, generation), bytes_max)?
        {
            let value = self.verified(group, &full, head)?;
            bytes += full.len() + value.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((layout::strip_prefix(&full).to_vec(), value));
        }
        Ok(found)
    }

    /// Shows every entry of a group, in key order.
    pub fn entries(&self, group: GroupId, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), StateError> {
        let mut from = Vec::new();
        loop {
            let page = self.range(group, &from, BATCH_BYTES_MAX)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            from.clone_from(last);
            from.push(0);
            page.iter().for_each(|(key, value)| visit(key, value));
        }
    }

    fn verified(&self, group: GroupId, full: &[u8], head: Vec<u8>) -> Result<Vec<u8>, StateError> {
        layout::decode_value(&*self.store, full, head)?.ok_or_else(|| StateError::CorruptValue {
            group,
            key: layout::strip_prefix(full).to_vec(),
        })
    }
}
