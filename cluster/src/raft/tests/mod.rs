//! Tests of this folder, over a log and a state store in memory unless they say otherwise.

mod answers;
mod checkpoints;
mod cluster;
mod connections;
pub(crate) mod frames;
mod harness;
mod memory_log;
mod memory_store;
mod single;
mod suite;
mod table;
mod tls;
mod wal;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_storage::log::{GroupId, Log};

pub(crate) use self::memory_log::MemoryLog;
use self::memory_store::MemoryStore;
use self::table::Table;
use super::{
    CheckpointService, CheckpointSettings, GroupSettings, NodeAddress, NodeIdentity, NodeParts, RaftGroup,
    Transport,
};
use crate::state::{BatchOutcome, NodeId, NodeIncarnation, Outcome};

const GROUP: GroupId = GroupId(3);
/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What survives a restart of a node.
pub(crate) struct Disk {
    log: Arc<MemoryLog>,
    store: Arc<MemoryStore>,
    spool: tempfile::TempDir,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            log: Arc::default(),
            store: Arc::default(),
            spool: tempfile::tempdir().unwrap(),
        }
    }

    fn checkpoint_settings(&self) -> CheckpointSettings {
        CheckpointSettings::new(self.spool.path().to_owned())
    }

    pub(crate) fn damage(&self, group: GroupId, key: &[u8]) {
        self.store.damage(group, key);
    }

    /// Nothing is stored before [`Self::resume_store`].
    pub(crate) fn pause_store(&self) {
        self.store.pause();
    }

    pub(crate) fn resume_store(&self) {
        self.store.resume();
    }

    pub(crate) fn log(&self) -> &MemoryLog {
        &self.log
    }

    pub(crate) fn parts(&self, node: u64) -> NodeParts {
        self.parts_with(node, self.checkpoint_settings())
    }

    fn parts_with(&self, node: u64, settings: CheckpointSettings) -> NodeParts {
        parts_over(node, self.log.clone(), self.store.clone(), settings)
    }
}

fn parts_over(
    node: u64,
    log: Arc<dyn Log>,
    store: Arc<dyn super::CheckpointStore>,
    settings: CheckpointSettings,
) -> NodeParts {
    let identity = NodeIdentity {
        cluster: 7,
        node: NodeId(node),
        incarnation: NodeIncarnation(1),
    };
    NodeParts {
        checkpoints: CheckpointService::start(store, log.clone(), settings).unwrap(),
        log,
        transport: Transport::new(identity),
    }
}

fn address(node: u64) -> NodeAddress {
    NodeAddress(format!("node-{node}:1"))
}

/// A group of one that leads.
async fn lead_alone(parts: &NodeParts, table: &Table) -> RaftGroup {
    let group = RaftGroup::start(&GroupSettings::new(GROUP), parts, table.state())
        .await
        .unwrap();
    group.initialize_single(address(1)).await.unwrap();
    within(group.wait_for_leader()).await.unwrap();
    group
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("took too long")
}

async fn propose(group: &RaftGroup, command: &str) -> u32 {
    outcome(
        within(group.propose(&Bytes::copy_from_slice(command.as_bytes())))
            .await
            .unwrap(),
    )
}

/// The number of commands the table had carried out.
fn outcome(outcome: BatchOutcome) -> u32 {
    match outcome {
        BatchOutcome::Applied(outcomes) => match outcomes[..] {
            [Outcome::Published { stored, .. }] => stored,
            _ => panic!("not an outcome of the table: {outcomes:?}"),
        },
        BatchOutcome::Refused => panic!("the table refuses nothing"),
    }
}
