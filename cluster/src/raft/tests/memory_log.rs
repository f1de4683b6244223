//! A log in memory for the tests of this folder. Completions can be held back, and the synced index with them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_storage::log::{Completion, GroupId, GroupLogState, Log, LogEntry, LogPosition, SyncPolicy};

/// The log.
#[derive(Default)]
pub(crate) struct MemoryLog {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    groups: HashMap<GroupId, Group>,
    held: Option<Vec<Completion>>,
    /// Hold back the completions of this group alone.
    held_group: Option<GroupId>,
    broken: bool,
    /// Since when a flush is said to be under way.
    flush_began: Option<Instant>,
}

#[derive(Default)]
struct Group {
    entries: BTreeMap<u64, LogEntry>,
    purged: Option<LogPosition>,
    vote: Option<Bytes>,
    committed: Option<LogPosition>,
    synced: u64,
}

impl Group {
    fn last(&self) -> Option<LogPosition> {
        self.entries
            .last_key_value()
            .map(|(_, entry)| entry.position)
            .or(self.purged)
    }
}

impl MemoryLog {
    /// Holds completions back from now on.
    pub(crate) fn hold(&self) {
        self.inner.lock().held = Some(Vec::new());
    }

    /// Holds the completions of one group back from now on.
    pub(crate) fn hold_group(&self, group: GroupId) {
        let mut inner = self.inner.lock();
        inner.held = Some(Vec::new());
        inner.held_group = Some(group);
    }

    /// Runs the completions that were held back, and those to come at once.
    pub(crate) fn release(&self) {
        let held = {
            let mut inner = self.inner.lock();
            for group in inner.groups.values_mut() {
                group.synced = group.last().map_or(0, |last| last.index);
            }
            inner.held_group = None;
            inner.held.take()
        };
        held.into_iter().flatten().for_each(|done| done(Ok(())));
    }

    /// Number of completions that are held back.
    pub(crate) fn held(&self) -> usize {
        self.inner.lock().held.as_ref().map_or(0, Vec::len)
    }

    /// Loses the last `count` entries of `group`, as an unsynced log may.
    pub(crate) fn lose_end(&self, group: GroupId, count: usize) {
        let mut inner = self.inner.lock();
        let group = inner.groups.entry(group).or_default();
        for _ in 0..count {
            group.entries.pop_last();
        }
        group.committed = group.committed.min(group.last());
    }

    /// Says that a flush is under way, or not any more.
    pub(crate) fn set_flushing(&self, is_flushing: bool) {
        self.inner.lock().flush_began = is_flushing.then(Instant::now);
    }

    /// Fails every later operation.
    pub(crate) fn break_disk(&self) {
        self.inner.lock().broken = true;
    }

    fn submit(&self, group: GroupId, done: Completion, change: impl FnOnce(&mut Group)) {
        let mut inner = self.inner.lock();
        if inner.broken {
            drop(inner);
            return done(Err(io::Error::other("the disk is broken")));
        }
        let holds = inner.held_group.is_none_or(|held| held == group);
        let held = inner.held.is_some() && holds;
        let group = inner.groups.entry(group).or_default();
        change(group);
        if !held {
            group.synced = group.last().map_or(0, |last| last.index);
        }
        match &mut inner.held {
            Some(waiting) if holds => waiting.push(done),
            _ => {
                drop(inner);
                done(Ok(()));
            }
        }
    }
}

impl Log for MemoryLog {
    fn set_sync_policy(&self, _: GroupId, _: SyncPolicy) {}

    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Completion) {
        self.submit(group, done, |group| {
            for entry in entries {
                let expected = group.last().map(|last| last.index + 1);
                assert!(
                    expected.is_none_or(|expected| expected == entry.position.index),
                    "a hole in the log"
                );
                group.entries.insert(entry.position.index, entry);
            }
        });
    }

    fn save_vote(&self, group: GroupId, vote: Bytes, done: Completion) {
        self.submit(group, done, |group| group.vote = Some(vote));
    }

    fn save_committed(&self, group: GroupId, committed: LogPosition) {
        self.inner.lock().groups.entry(group).or_default().committed = Some(committed);
    }

    fn truncate_after(&self, group: GroupId, index: Option<u64>, done: Completion) {
        self.submit(group, done, |group| {
            drop(group.entries.split_off(&index.map_or(0, |index| index + 1)))
        });
    }

    fn purge(&self, group: GroupId, position: LogPosition, done: Completion) {
        self.submit(group, done, |group| {
            group.entries = group.entries.split_off(&(position.index + 1));
            group.purged = Some(position);
        });
    }

    fn reset(&self, group: GroupId, done: Completion) {
        self.submit(group, done, |group| *group = Group::default());
    }

    fn state(&self, group: GroupId) -> GroupLogState {
        let inner = self.inner.lock();
        inner
            .groups
            .get(&group)
            .map_or_else(GroupLogState::default, |group| GroupLogState {
                purged: group.purged,
                last: group.last(),
                vote: group.vote.clone(),
                committed: group.committed,
            })
    }

    fn read(&self, group: GroupId, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let inner = self.inner.lock();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (_, entry) in inner
            .groups
            .get(&group)
            .into_iter()
            .flat_map(|group| group.entries.range(start..end))
        {
            bytes += entry.payload.len();
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn synced_index(&self, group: GroupId) -> u64 {
        self.inner
            .lock()
            .groups
            .get(&group)
            .map_or(0, |group| group.synced)
    }

    fn flush_running_for(&self) -> Option<Duration> {
        self.inner.lock().flush_began.map(|began| began.elapsed())
    }
}
