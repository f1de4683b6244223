//! openraft's conformance suite over our log store and state machine.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use quorate_storage::disk::RealDisk;
use quorate_storage::log::{Completion, GroupId, GroupLogState, Log, LogEntry, LogPosition, SyncPolicy};
use quorate_storage::sled_log::SledLog;
use quorate_storage::state::SledOptions;
use tokio::sync::mpsc;

use super::table::Table;
use super::{Disk, GROUP, parts_over};
use crate::raft::log::GroupLog;
use crate::raft::machine::Machine;
use crate::raft::types::TypeConfig;

/// The suite checkpoints what was never in the log, so that the log must not hold checkpoints up.
struct Synced(Arc<dyn Log>);

impl Log for Synced {
    fn set_sync_policy(&self, group: GroupId, policy: SyncPolicy) {
        self.0.set_sync_policy(group, policy);
    }
    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Completion) {
        self.0.append(group, entries, done);
    }
    fn save_vote(&self, group: GroupId, vote: bytes::Bytes, done: Completion) {
        self.0.save_vote(group, vote, done);
    }
    fn save_committed(&self, group: GroupId, committed: LogPosition) {
        self.0.save_committed(group, committed);
    }
    fn truncate_after(&self, group: GroupId, index: Option<u64>, done: Completion) {
        self.0.truncate_after(group, index, done);
    }
    fn purge(&self, group: GroupId, position: LogPosition, done: Completion) {
        self.0.purge(group, position, done);
    }
    fn reset(&self, group: GroupId, done: Completion) {
        self.0.reset(group, done);
    }
    fn state(&self, group: GroupId) -> GroupLogState {
        self.0.state(group)
    }
    fn read(&self, group: GroupId, start: u64, end: u64, bytes_max: usize) -> std::io::Result<Vec<LogEntry>> {
        self.0.read(group, start, end, bytes_max)
    }
    fn synced_index(&self, _: GroupId) -> u64 {
        u64::MAX
    }
}

/// Makes the log for a test; what it returns beside is kept until the test has ended.
struct Builder(fn() -> (Arc<dyn Log>, Option<tempfile::TempDir>));

impl StoreBuilder<TypeConfig, GroupLog, Machine, Kept> for Builder {
    async fn build(&self) -> Result<(Kept, GroupLog, Machine), StorageError<TypeConfig>> {
        let disk = Disk::new();
        let (log, directory) = (self.0)();
        let log: Arc<dyn Log> = Arc::new(Synced(log));
        let parts = parts_over(1, log.clone(), disk.store.clone(), disk.checkpoint_settings());
        let (in_use, _) = mpsc::channel(1);
        let state = Box::new(Table::default().state());
        let mut machine = Machine::open(GROUP, state, parts.checkpoints, &log.state(GROUP), in_use.clone())
            .await
            .unwrap();
        machine.allow_gaps();
        Ok(((disk, directory), GroupLog::new(log, GROUP, in_use), machine))
    }
}

type Kept = (Disk, Option<tempfile::TempDir>);

#[tokio::test]
async fn openraft_accepts_the_state_machine_and_a_log_in_memory() {
    Suite::test_all(Builder(|| {
        (Arc::new(super::memory_log::MemoryLog::default()), None)
    }))
    .await
    .unwrap();
}

#[tokio::test]
async fn openraft_accepts_the_state_machine_and_the_write_ahead_log() {
    let open = || {
        let directory = tempfile::tempdir().unwrap();
        let log: Arc<dyn Log> = Arc::new(super::wal::open(Arc::new(RealDisk), directory.path()));
        (log, Some(directory))
    };
    Suite::test_all(Builder(open)).await.unwrap();
}

#[tokio::test]
async fn openraft_accepts_the_state_machine_and_the_log_in_sled() {
    let open = || {
        let directory = tempfile::tempdir().unwrap();
        let options = SledOptions { cache_bytes: 4 << 20 };
        let log: Arc<dyn Log> = Arc::new(SledLog::open(directory.path(), &options).unwrap());
        (log, Some(directory))
    };
    Suite::test_all(Builder(open)).await.unwrap();
}
