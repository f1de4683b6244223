//! The node's state store as the groups see it.
//!
//! The state of a live group never goes to disk, as it starts empty after a full stop (R41): of its checkpoints only
//! the positions are kept, in memory, so that its log can be purged behind them.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_storage::log::{GroupId, LogPosition};
use quorate_storage::state::{Checkpointer, GroupCheckpoint as StoredCheckpoint};

use super::{GroupKind, Placement};
use crate::raft::{CheckpointStore, EntryIterator, EntryVisitor, GroupCheckpoint};

/// Bytes read at once when a group's state is visited.
const PAGE_BYTES: usize = 1024 * 1024;

/// The checkpointed state of all groups.
pub struct StateCheckpoints {
    data: Checkpointer,
    live: Mutex<BTreeMap<GroupId, (LogPosition, Bytes)>>,
}

impl StateCheckpoints {
    /// The groups' view of an open state store.
    pub fn new(checkpointer: Checkpointer) -> Self {
        Self {
            data: checkpointer,
            live: Mutex::default(),
        }
    }
}

impl CheckpointStore for StateCheckpoints {
    fn checkpoint(&self, groups: Vec<GroupCheckpoint>) -> io::Result<()> {
        let mut stored = Vec::new();
        for GroupCheckpoint {
            group,
            position,
            meta,
            changes,
        } in groups
        {
            match Placement::kind(group) {
                GroupKind::Data => stored.push(StoredCheckpoint {
                    group,
                    position,
                    meta,
                    changes,
                }),
                GroupKind::Live => {
                    self.live.lock().insert(group, (position, meta));
                }
            }
        }
        if stored.is_empty() {
            Ok(())
        } else {
            self.data.checkpoint(stored)
        }
    }

    fn load(&self, group: GroupId) -> io::Result<Option<(LogPosition, Bytes)>> {
        Ok(match Placement::kind(group) {
            GroupKind::Data => self.data.load(group),
            GroupKind::Live => self.live.lock().get(&group).cloned(),
        })
    }

    fn entries(&self, group: GroupId, visit: EntryVisitor<'_>) -> io::Result<()> {
        let mut from = Vec::new();
        loop {
            let page = self.data.range(group, &from, PAGE_BYTES)?;
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
        Ok(self.data.replace(group, position, meta, entries)?)
    }
}
