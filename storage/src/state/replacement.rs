//! Installs a snapshot: a group's new state is written beside the old one, under a generation of its own, and swapped
//! in by one batch.

use std::io;

use bytes::Bytes;

use super::batches::Batches;
use super::checkpointer::{Writer, check_entry, check_sizes};
use super::layout::{self, GENERATION_MAX, GroupRecord};
use super::{Checkpointer, Entry, StateError};
use crate::log::{GroupId, LogPosition};

/// A group's new state on its way in; dropped unfinished, it leaves the old one.
pub struct Replacement<'a> {
    checkpointer: &'a Checkpointer,
    group: GroupId,
    generation: u32,
    batches: Batches<'a>,
    finished: bool,
}

impl Replacement<'_> {
    /// Adds an entry.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        check_entry(self.group, key, value)?;
        self.batches
            .put(layout::value_key(self.group, self.generation, key), Some(value))
    }

    /// Makes it the group's state.
    pub fn finish(mut self, position: LogPosition, meta: Bytes) -> Result<(), StateError> {
        check_sizes(self.group, &meta, &[])?;
        self.batches.flush()?;
        let checkpointer = self.checkpointer;
        let mut writer = checkpointer.writer()?;
        let record = GroupRecord {
            generation: self.generation,
            position,
            meta,
        };
        checkpointer.change(&mut writer, |writer| {
            checkpointer.store.sync()?;
            checkpointer.swap(writer, self.group, Some(record))
        })?;
        writer.reserved.remove(&(self.group, self.generation));
        self.finished = true;
        Ok(())
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let mut writer = self.checkpointer.writer.lock();
            writer.reserved.remove(&(self.group, self.generation));
            writer.garbage.insert((self.group, self.generation));
        }
    }
}

impl Checkpointer {
    /// Replaces a group's state as a whole: after a crash at any point it is the old or the new one. An error of
    /// `entries` leaves the old one.
    pub fn replace(
        &self,
        group: GroupId,
        position: LogPosition,
        meta: Bytes,
        entries: impl IntoIterator<Item = io::Result<Entry>>,
    ) -> Result<(), StateError> {
        let mut replacement = self.begin_replace(group)?;
        for entry in entries {
            let (key, value) = entry?;
            replacement.put(&key, &value)?;
        }
        replacement.finish(position, meta)
    }

    /// Begins to replace a group's state piece by piece; checkpoints, also of this group, may go on meanwhile.
    pub fn begin_replace(&self, group: GroupId) -> Result<Replacement<'_>, StateError> {
        let mut writer = self.writer()?;
        let current = self.groups.read().get(&group).map(|record| record.generation);
        let generation = fresh_generation(&writer, group, current)?;
        writer.reserved.insert((group, generation));
        let batches = Batches::new(&*self.store);
        Ok(Replacement {
            checkpointer: self,
            group,
            generation,
            batches,
            finished: false,
        })
    }
}

/// A generation of which no key is in the store.
pub(super) fn fresh_generation(writer: &Writer, group: GroupId, current: Option<u32>) -> io::Result<u32> {
    let range = (group, 0)..=(group, u32::MAX);
    let used = [&writer.garbage, &writer.reserved]
        .into_iter()
        .flat_map(|set| set.range(range.clone()).last());
    let highest = used
        .map(|(_, generation)| *generation)
        .max()
        .max(current)
        .unwrap_or(0);
    if highest >= GENERATION_MAX {
        Err(io::Error::other("generations are used up"))
    } else {
        Ok(highest + 1)
    }
}
