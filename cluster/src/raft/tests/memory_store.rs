//! A state store in memory that notes what it was asked to write, and can be slow or fail.

use std::collections::{BTreeMap, HashMap};
use std::io;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use quorate_storage::log::{GroupId, LogPosition};

use crate::raft::{CheckpointStore, EntryIterator, EntryVisitor, GroupCheckpoint};

type Stored = (LogPosition, Bytes, BTreeMap<Vec<u8>, Vec<u8>>);

#[derive(Default)]
pub(super) struct MemoryStore {
    groups: Mutex<HashMap<GroupId, Stored>>,
    /// Groups of each checkpoint that was written.
    batches: Mutex<Vec<Vec<GroupId>>>,
    failing: Mutex<bool>,
    /// Writes and visits wait while this is set.
    paused: Mutex<bool>,
    resumed: Condvar,
}

impl MemoryStore {
    pub(super) fn fail(&self) {
        *self.failing.lock() = true;
    }

    pub(super) fn pause(&self) {
        *self.paused.lock() = true;
    }

    pub(super) fn resume(&self) {
        *self.paused.lock() = false;
        self.resumed.notify_all();
    }

    pub(super) fn batches(&self) -> Vec<Vec<GroupId>> {
        self.batches.lock().clone()
    }

    pub(super) fn position(&self, group: GroupId) -> Option<u64> {
        self.groups
            .lock()
            .get(&group)
            .map(|(position, ..)| position.index)
    }

    pub(super) fn lose(&self, group: GroupId) {
        self.groups.lock().remove(&group);
    }

    pub(super) fn damage(&self, group: GroupId, key: &[u8]) {
        let mut groups = self.groups.lock();
        let value = groups
            .get_mut(&group)
            .and_then(|(.., entries)| entries.get_mut(key));
        value.expect("it is stored")[20] ^= 1;
    }

    fn wait(&self) -> io::Result<()> {
        let mut paused = self.paused.lock();
        self.resumed.wait_while(&mut paused, |paused| *paused);
        match *self.failing.lock() {
            true => Err(io::Error::other("the state store is broken")),
            false => Ok(()),
        }
    }
}

impl CheckpointStore for MemoryStore {
    fn checkpoint(&self, checkpoints: Vec<GroupCheckpoint>) -> io::Result<()> {
        self.batches
            .lock()
            .push(checkpoints.iter().map(|checkpoint| checkpoint.group).collect());
        self.wait()?;
        let mut groups = self.groups.lock();
        for checkpoint in checkpoints {
            let stored = groups.entry(checkpoint.group).or_default();
            assert!(
                checkpoint.position >= stored.0,
                "a checkpoint overwrites a newer state"
            );
            (stored.0, stored.1) = (checkpoint.position, checkpoint.meta);
            for (key, value) in checkpoint.changes {
                match value {
                    Some(value) => drop(stored.2.insert(key, value)),
                    None => drop(stored.2.remove(&key)),
                }
            }
        }
        Ok(())
    }

    fn load(&self, group: GroupId) -> io::Result<Option<(LogPosition, Bytes)>> {
        Ok(self
            .groups
            .lock()
            .get(&group)
            .map(|(position, meta, _)| (*position, meta.clone())))
    }

    fn value(&self, group: GroupId, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let groups = self.groups.lock();
        Ok(groups
            .get(&group)
            .and_then(|(.., entries)| entries.get(key).cloned()))
    }

    fn entries(&self, group: GroupId, visit: EntryVisitor<'_>) -> io::Result<()> {
        let entries = self
            .groups
            .lock()
            .get(&group)
            .map(|(.., entries)| entries.clone())
            .unwrap_or_default();
        for (key, value) in &entries {
            self.wait()?;
            visit(key, value)?;
        }
        Ok(())
    }

    fn replace(
        &self,
        group: GroupId,
        position: LogPosition,
        meta: Bytes,
        entries: EntryIterator<'_>,
    ) -> io::Result<()> {
        let entries = entries.collect::<io::Result<BTreeMap<_, _>>>()?;
        self.wait()?;
        self.groups.lock().insert(group, (position, meta, entries));
        Ok(())
    }

    fn remove(&self, group: GroupId) -> io::Result<()> {
        self.lose(group);
        Ok(())
    }
}
