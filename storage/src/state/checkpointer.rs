//! Takes checkpoints, installs snapshots, and reads what is stored.
//!
//! The order of a checkpoint (R42), every step durable before the next begins:
//!
//! 1. a file with all groups' changes, under a temporary name, then renamed;
//! 2. the changes into the store, in batches of bounded size;
//! 3. the groups' records (position, meta) and the store's record with a higher sequence;
//! 4. the file removed, the marker raised to that sequence.
//!
//! At open the store is synced, leftovers of other generations are deleted, and a file that is there has its name
//! synced and is copied again from step 2. A snapshot goes into a new generation and counts from the one batch that
//! changes the group's record; the old generation is deleted bit by bit.
//!
//! Invariants: a generation is never reused while keys of it may be in the store; after an error in a change nothing
//! more is written or read, because the store may hold half of it: reopen.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::batches::{BATCH_CHANGES_MAX, Batches, at_once};
use super::file::{self, FileError, FileHeader, Item, Reader};
use super::layout::{self, GroupRecord, KEY_BYTES_MAX, META_BYTES_MAX, STORE_KEY, VALUE_BYTES_MAX};
use super::marker::Marker;
use super::recovery::{self, StoreRecord};
use super::replacement::fresh_generation;
use super::{Change, StateError, StateStore};
use crate::disk::{self, Disk, TEMPORARY_SUFFIX};
use crate::log::{GroupId, LogPosition};

pub(super) const FILE_NAME: &str = "checkpoint";

/// One group's part of a checkpoint.
#[derive(Clone, Debug)]
pub struct GroupCheckpoint {
    /// The group.
    pub group: GroupId,
    /// The last applied entry that the state contains: exactly up to here.
    pub position: LogPosition,
    /// Whatever belongs to the state as a whole, such as the membership; at most [`layout::META_BYTES_MAX`] bytes.
    pub meta: Bytes,
    /// What changed since the group's last checkpoint; `None` removes. Each key at most once.
    pub changes: Vec<Change>,
}

/// What only one at a time may change.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) sequence: u64,
    failed: Option<String>,
    /// Generations to be deleted.
    pub(super) garbage: BTreeSet<(GroupId, u32)>,
    /// Generations being written by a [`Replacement`](super::Replacement).
    pub(super) reserved: BTreeSet<(GroupId, u32)>,
}

/// The checkpointed state of a node; share it by `Arc`.
pub struct Checkpointer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) store: Arc<dyn StateStore>,
    pub(super) identity: u64,
    pub(super) groups: RwLock<BTreeMap<GroupId, GroupRecord>>,
    pub(super) writer: Mutex<Writer>,
    /// Groups being read as a snapshot, and by how many.
    readers: Mutex<BTreeMap<GroupId, usize>>,
    /// Set with the writer's `failed`, for readers.
    failed: AtomicBool,
}

impl std::fmt::Debug for Checkpointer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Checkpointer")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

pub(super) fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

impl Checkpointer {
    /// Opens the state in `store`, whose checkpoint file and marker are in `dir`; copies a checkpoint that was cut
    /// off. [`StateError::StateLost`] where the store is not what the marker says.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, store: Arc<dyn StateStore>) -> Result<Self, StateError> {
        disk::create_dir_all_synced(&*disk, dir)?;
        for name in disk
            .list(dir)?
            .iter()
            .filter(|name| name.ends_with(TEMPORARY_SUFFIX))
        {
            disk.remove(&dir.join(name))?;
        }
        // What an earlier run applied and did not sync must not be built upon: a power cut could still take it away.
        store.sync()?;
        let record = recovery::identify(&*disk, dir, &*store)?;
        let (groups, garbage) = recovery::scan_groups(dir, &*store)?;
        for (group, generation) in garbage {
            while !recovery::delete_some(&*store, group, generation, BATCH_CHANGES_MAX)? {}
        }
        let opened = Self {
            disk,
            dir: dir.to_owned(),
            store,
            identity: record.identity,
            groups: RwLock::new(groups),
            writer: Mutex::new(Writer {
                sequence: record.sequence,
                ..Writer::default()
            }),
            readers: Mutex::default(),
            failed: AtomicBool::new(false),
        };
        opened.finish_checkpoint_file()?;
        Ok(opened)
    }

    /// Copies a complete checkpoint file that an earlier run left.
    fn finish_checkpoint_file(&self) -> Result<(), StateError> {
        let path = self.dir.join(FILE_NAME);
        let file = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut reader = Reader::open(file).map_err(|error| self.file_error(error))?;
        let FileHeader { store, sequence } = reader.header();
        let mut writer = self.writer.lock();
        if store != self.identity {
            return Err(self.lost("the checkpoint file belongs to another store"));
        }
        if sequence < writer.sequence {
            // Copied long ago, and back because the disk forgot that it was removed.
            self.disk.remove(&path)?;
            return Ok(self.disk.sync_dir(&self.dir)?);
        }
        // The earlier run may have been killed between naming the file and syncing its name. If the name went with the
        // next power cut, half a copy would stay in the store, and nothing to complete it with.
        self.disk.sync_dir(&self.dir)?;
        tracing::info!(sequence, "copying a checkpoint that was cut off");
        let mut batches = Batches::new(&*self.store);
        let mut records = Vec::new();
        while let Some(item) = reader.next_item().map_err(|error| self.file_error(error))? {
            match (item, records.last()) {
                (Item::Group(group, record), _) => records.push((group, record)),
                (Item::Change(key, value), Some((group, record))) => {
                    batches.put(
                        layout::value_key(*group, record.generation, &key),
                        value.as_deref(),
                    )?;
                }
                (Item::Change(..), None) => return Err(self.lost("the checkpoint file names no group")),
            }
        }
        batches.flush()?;
        self.commit(&mut writer, sequence, records)
    }

    fn file_error(&self, error: FileError) -> StateError {
        match error {
            // The file had its name only after it was whole: what the store took from it cannot be completed.
            FileError::Damaged(reason) => self.lost(&format!("the checkpoint file is damaged: {reason}")),
            FileError::Newer(version) => StateError::NewerFormat {
                dir: self.dir.clone(),
                version,
            },
            FileError::Io(error) => StateError::Io(error),
        }
    }

    fn lost(&self, reason: &str) -> StateError {
        StateError::StateLost {
            dir: self.dir.clone(),
            reason: reason.to_owned(),
        }
    }

    pub(super) fn writer(&self) -> Result<MutexGuard<'_, Writer>, StateError> {
        let writer = self.writer.lock();
        match &writer.failed {
            Some(reason) => Err(io::Error::other(format!("the state store has failed: {reason}")).into()),
            None => Ok(writer),
        }
    }

    /// Runs a change; after an error the store may hold half of it, so that nothing more is done.
    pub(super) fn change<T>(
        &self,
        writer: &mut Writer,
        change: impl FnOnce(&mut Writer) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        change(writer).inspect_err(|error| {
            tracing::error!(%error, dir = %self.dir.display(), "the state store has failed");
            writer.failed = Some(error.to_string());
            self.failed.store(true, Ordering::Release);
        })
    }

    /// Takes a checkpoint of some groups, each as of its position. Once it returns the log may be purged up to there.
    /// `InvalidInput` and `ResourceBusy` (a group is being read as a snapshot) change nothing; after any other error
    /// the state has to be opened anew.
    pub fn checkpoint(&self, groups: Vec<GroupCheckpoint>) -> io::Result<()> {
        let mut writer = self.writer()?;
        let groups = self.prepare(&writer, groups)?;
        if groups.is_empty() {
            return Ok(());
        }
        Ok(self.change(&mut writer, |writer| self.write_checkpoint(writer, groups))?)
    }

    /// Checks a checkpoint and finds the generations it goes to.
    fn prepare(
        &self,
        writer: &Writer,
        groups: Vec<GroupCheckpoint>,
    ) -> io::Result<Vec<(u32, GroupCheckpoint)>> {
        let mut seen = BTreeSet::new();
        let mut prepared = Vec::with_capacity(groups.len());
        let readers = self.readers.lock();
        let records = self.groups.read();
        for checkpoint in groups {
            let group = checkpoint.group;
            if readers.contains_key(&group) {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "the group is being read as a snapshot",
                ));
            }
            if !seen.insert(group) {
                return Err(invalid("a group is in the checkpoint twice"));
            }
            let record = records.get(&group);
            if record.is_some_and(|record| record.position.index > checkpoint.position.index) {
                return Err(invalid("the position is before that of the last checkpoint"));
            }
            check_sizes(group, &checkpoint.meta, &checkpoint.changes)?;
            let generation = match record {
                Some(record) => record.generation,
                None => fresh_generation(writer, group, None)?,
            };
            prepared.push((generation, checkpoint));
        }
        Ok(prepared)
    }

    fn write_checkpoint(
        &self,
        writer: &mut Writer,
        groups: Vec<(u32, GroupCheckpoint)>,
    ) -> Result<(), StateError> {
        let sequence = writer.sequence + 1;
        let temporary = self.dir.join(format!("{FILE_NAME}{TEMPORARY_SUFFIX}"));
        let file = self.disk.create(&temporary)?;
        file::write(
            &*file,
            FileHeader {
                store: self.identity,
                sequence,
            },
            &groups,
        )?;
        self.disk.rename(&temporary, &self.dir.join(FILE_NAME))?;
        self.disk.sync_dir(&self.dir)?;

        let mut batches = Batches::new(&*self.store);
        let mut records = Vec::with_capacity(groups.len());
        for (generation, checkpoint) in groups {
            let GroupCheckpoint {
                group,
                position,
                meta,
                changes,
            } = checkpoint;
            for (key, value) in changes {
                batches.put(layout::value_key(group, generation, &key), value.as_deref())?;
            }
            records.push((
                group,
                GroupRecord {
                    generation,
                    position,
                    meta,
                },
            ));
        }
        batches.flush()?;
        self.commit(writer, sequence, records)
    }

    /// Steps 3 and 4: syncs the copied changes, writes the records, removes the file.
    fn commit(
        &self,
        writer: &mut Writer,
        sequence: u64,
        records: Vec<(GroupId, GroupRecord)>,
    ) -> Result<(), StateError> {
        self.store.sync()?;
        for (group, record) in &records {
            let changes = at_once(&*self.store, layout::record_key(*group), Some(&record.encode()))?;
            self.store.apply(changes)?;
        }
        let store_record = StoreRecord {
            identity: self.identity,
            sequence,
        };
        self.store.apply(at_once(
            &*self.store,
            STORE_KEY.to_vec(),
            Some(&store_record.encode()),
        )?)?;
        self.store.sync()?;
        writer.sequence = sequence;
        self.groups.write().extend(records);
        self.disk.remove(&self.dir.join(FILE_NAME))?;
        // Syncs the directory, and with it the removal.
        Ok(Marker {
            store: self.identity,
            sequence,
        }
        .write(&*self.disk, &self.dir)?)
    }

    /// Changes one group's record, or removes it, in one batch, and raises the sequence.
    pub(super) fn swap(
        &self,
        writer: &mut Writer,
        group: GroupId,
        record: Option<GroupRecord>,
    ) -> Result<(), StateError> {
        let sequence = writer.sequence + 1;
        let encoded = record.as_ref().map(GroupRecord::encode);
        let mut changes = at_once(&*self.store, layout::record_key(group), encoded.as_deref())?;
        let store_record = StoreRecord {
            identity: self.identity,
            sequence,
        };
        changes.extend(at_once(
            &*self.store,
            STORE_KEY.to_vec(),
            Some(&store_record.encode()),
        )?);
        self.store.apply(changes)?;
        self.store.sync()?;
        writer.sequence = sequence;
        let mut groups = self.groups.write();
        let old = match record {
            Some(record) => groups.insert(group, record),
            None => groups.remove(&group),
        };
        drop(groups);
        writer.garbage.extend(old.map(|old| (group, old.generation)));
        Ok(Marker {
            store: self.identity,
            sequence,
        }
        .write(&*self.disk, &self.dir)?)
    }

    /// Forgets a group; its keys are deleted by [`Checkpointer::collect_garbage`], or at the next open.
    pub fn remove(&self, group: GroupId) -> Result<(), StateError> {
        let mut writer = self.writer()?;
        if !self.groups.read().contains_key(&group) {
            return Ok(());
        }
        self.change(&mut writer, |writer| self.swap(writer, group, None))
    }

    /// Deletes some keys (about `keys_max`) that replaced and removed groups left; false when there is nothing left.
    pub fn collect_garbage(&self, keys_max: usize) -> Result<bool, StateError> {
        let mut writer = self.writer()?;
        let Some(&(group, generation)) = writer.garbage.first() else {
            return Ok(false);
        };
        let keys_max = keys_max.clamp(1, BATCH_CHANGES_MAX);
        if self.change(&mut writer, |_| {
            recovery::delete_some(&*self.store, group, generation, keys_max)
        })? {
            // Only once that is durable may the generation be forgotten: its number comes back then.
            self.change(&mut writer, |_| self.store.sync())?;
            writer.garbage.remove(&(group, generation));
        }
        Ok(!writer.garbage.is_empty())
    }

    /// The generation that holds a group's keys.
    pub(super) fn generation(&self, group: GroupId) -> Result<Option<u32>, StateError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("the state store has failed").into());
        }
        Ok(self.groups.read().get(&group).map(|record| record.generation))
    }

    /// Keeps checkpoints of a group off, waiting for the one under way; returns what is there then.
    pub(super) fn hold(&self, group: GroupId) -> Result<Option<GroupRecord>, StateError> {
        let _writer = self.writer()?;
        let record = self.groups.read().get(&group).cloned();
        if record.is_some() {
            *self.readers.lock().entry(group).or_default() += 1;
        }
        Ok(record)
    }

    pub(super) fn release(&self, group: GroupId) {
        let mut readers = self.readers.lock();
        if let Some(count) = readers.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&group);
            }
        }
    }
}

/// Checks lengths. What is too long is named by the first byte of its key, which is a kind of record to the group.
pub(super) fn check_sizes(group: GroupId, meta: &[u8], changes: &[Change]) -> io::Result<()> {
    if meta.len() > META_BYTES_MAX {
        return Err(too_long(group, "meta", &[], meta.len(), META_BYTES_MAX));
    }
    for (key, value) in changes {
        check_entry(group, key, value.as_deref().unwrap_or_default())?;
    }
    Ok(())
}

/// Checks the lengths of one entry.
pub(super) fn check_entry(group: GroupId, key: &[u8], value: &[u8]) -> io::Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(too_long(group, "key", key, key.len(), KEY_BYTES_MAX));
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(too_long(group, "value", key, value.len(), VALUE_BYTES_MAX));
    }
    Ok(())
}

fn too_long(group: GroupId, what: &str, key: &[u8], bytes: usize, bytes_max: usize) -> io::Error {
    let kind = match key.first() {
        Some(kind) => format!(" of kind {kind}"),
        None => String::new(),
    };
    let message = format!(
        "group {}: a {what}{kind} has {bytes} bytes, more than {bytes_max}",
        group.0
    );
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
