//! The log of all Raft groups of one node.
//!
//! Calls are ordered: what one caller submits for a group (votes, entries, truncations) becomes durable in that
//! order. Entries are readable as soon as `append` returned; a completion runs once the data is durable as the
//! group's [`SyncPolicy`] says, on the flusher's thread, in submission order, and must not block.

use std::io;
use std::time::Duration;

use bytes::Bytes;

/// Number of a Raft group, unique in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u16);

/// Place of an entry in a group's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Node identifier of that leader.
    pub leader: u64,
    /// Index of the entry.
    pub index: u64,
}

/// One entry; the payload is opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub position: LogPosition,
    /// Its content.
    pub payload: Bytes,
}

/// When a group's completions run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After fdatasync covered the data.
    #[default]
    Synced,
    /// After the data was written to the file; it is synced with whatever syncs next.
    Written,
}

/// What a log holds of a group after opening and at any later time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLogState {
    /// Everything up to here was purged.
    pub purged: Option<LogPosition>,
    /// Last entry, or `purged` where there is none.
    pub last: Option<LogPosition>,
    /// The saved vote.
    pub vote: Option<Bytes>,
    /// The saved commit position, a hint that is written but not synced.
    pub committed: Option<LogPosition>,
}

/// Runs when a submitted operation is durable, or has failed.
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The log of all groups of a node. After an I/O error every later operation fails: a log that could not sync does
/// not know what it holds, so the node has to stop.
pub trait Log: Send + Sync + 'static {
    /// Sets when completions of `group` run; the default is [`SyncPolicy::Synced`].
    fn set_sync_policy(&self, group: GroupId, policy: SyncPolicy);

    /// Appends entries with consecutive indexes that follow the group's last entry.
    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Completion);

    /// Saves the group's vote; always synced.
    fn save_vote(&self, group: GroupId, vote: Bytes, done: Completion);

    /// Notes the commit position.
    fn save_committed(&self, group: GroupId, committed: LogPosition);

    /// Removes every entry after `index` (all entries with `None`).
    fn truncate_after(&self, group: GroupId, index: Option<u64>, done: Completion);

    /// Forgets the entries up to and including `position`; the log may then start behind the last entry.
    fn purge(&self, group: GroupId, position: LogPosition, done: Completion);

    /// Forgets everything of `group`, its vote included.
    fn reset(&self, group: GroupId, done: Completion);

    /// What the log holds of `group`.
    fn state(&self, group: GroupId) -> GroupLogState;

    /// Reads entries from `start` (inclusive) to `end` (exclusive), at least one where there is one, then no more
    /// than about `bytes_max` bytes of payload. Missing indexes inside the held range are an error.
    fn read(&self, group: GroupId, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>>;

    /// Whether [`Self::read`] of the first such entry has to read a file now, and may take as long as a disk does.
    fn reads_file(&self, group: GroupId, start: u64) -> bool {
        let _ = (group, start);
        true
    }

    /// Whether so much waits for the disk that what is submitted now may have to wait for it too.
    fn is_crowded(&self) -> bool {
        false
    }

    /// Index up to which the group's entries are synced to this node's disk (0 for none).
    fn synced_index(&self, group: GroupId) -> u64;

    /// How long the write or sync that is under way has been running; `None` where none is.
    fn flush_running_for(&self) -> Option<Duration> {
        None
    }

    /// Where the log takes more than so many `times` the room that it should: groups with entries in its oldest part, and the
    /// last such entry of each.
    fn crowding(&self, times: usize) -> Vec<(GroupId, u64)> {
        let _ = times;
        Vec::new()
    }
}
