//! Turns changes of values into batches for the store.

use super::layout;
use super::{Change, StateError, StateStore};

/// Bounds of one batch.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;
pub(super) const BATCH_CHANGES_MAX: usize = 1024;

/// Collects changes into batches of bounded size.
pub(super) struct Batches<'a> {
    store: &'a dyn StateStore,
    bytes_max: usize,
    batch: Vec<Change>,
    bytes: usize,
}

impl<'a> Batches<'a> {
    pub(super) fn new(store: &'a dyn StateStore) -> Self {
        Self {
            store,
            bytes_max: store.batch_bytes_max().min(BATCH_BYTES_MAX),
            batch: Vec::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, change: Change) {
        self.bytes += change.0.len() + change.1.as_ref().map_or(0, Vec::len);
        self.batch.push(change);
    }

    fn flush_if_full(&mut self) -> Result<(), StateError> {
        if self.bytes >= self.bytes_max || self.batch.len() >= BATCH_CHANGES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), StateError> {
        self.bytes = 0;
        match std::mem::take(&mut self.batch) {
            batch if batch.is_empty() => Ok(()),
            batch => self.store.apply(batch),
        }
    }

    /// Stores or removes a value; the parts of the one before go in the same batch as the new head.
    pub(super) fn put(&mut self, full: Vec<u8>, value: Option<&[u8]>) -> Result<(), StateError> {
        let replaced = self.store.read(&full)?;
        let changes = layout::encode_value(full, value, replaced.as_deref());
        for change in changes.before {
            self.push(change);
            self.flush_if_full()?;
        }
        changes.together.into_iter().for_each(|change| self.push(change));
        self.flush_if_full()
    }
}

/// The changes of one value that must take effect at once, for a record.
pub(super) fn at_once(
    store: &dyn StateStore,
    full: Vec<u8>,
    value: Option<&[u8]>,
) -> Result<Vec<Change>, StateError> {
    let replaced = store.read(&full)?;
    let mut changes = layout::encode_value(full, value, replaced.as_deref());
    changes.before.append(&mut changes.together);
    Ok(changes.before)
}
