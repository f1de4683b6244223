//! How one group runs, and what that means for openraft.

use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};
use quorate_storage::log::{GroupId, SyncPolicy};
use quorate_storage::volume::FIRST_BEGINNING;

use super::errors::StartError;

/// How one group runs.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// The group.
    pub group: GroupId,
    /// Which beginning of the group this is: replicas of another one are not talked to (R41).
    pub beginning: u64,
    /// When its entries count as stored: `Written` for the live groups.
    pub sync: SyncPolicy,
    /// The log may have lost its end: the group is not synced, and the machine stopped uncleanly. The replica neither
    /// votes nor leads until it has everything that a leader knows to be committed (R41).
    pub distrust_log: bool,
    /// Entries that stay in the log behind a checkpoint, for followers that are a little late.
    pub log_entries_to_keep: u64,
    /// Entries beyond those that are purged together.
    pub purge_batch: u64,
    /// Interval of a leader's heartbeats, in milliseconds.
    pub heartbeat_millis: u64,
    /// Shortest time without leader before an election, in milliseconds, beyond the leader's lease.
    pub election_millis_min: u64,
    /// Longest such time, and the length of the leader's lease, in milliseconds.
    pub election_millis_max: u64,
}

impl GroupSettings {
    /// The defaults for `group`, synced.
    pub fn new(group: GroupId) -> Self {
        Self {
            group,
            beginning: FIRST_BEGINNING,
            sync: SyncPolicy::Synced,
            distrust_log: false,
            log_entries_to_keep: 20_000,
            purge_batch: 4_096,
            heartbeat_millis: 100,
            election_millis_min: 250,
            election_millis_max: 400,
        }
    }

    pub(super) fn raft_config(&self) -> Result<Arc<Config>, StartError> {
        let config = Config {
            cluster_name: format!("group-{}", self.group.0),
            heartbeat_interval: self.heartbeat_millis,
            heartbeat_min_interval: Some(self.heartbeat_millis),
            election_timeout_min: self.election_millis_min,
            election_timeout_max: self.election_millis_max,
            enable_pre_vote: Some(true),
            // R15: without a quorum a leader falls silent, so that the others' leases can end.
            quorum_loss_probe_interval: Some(2 * self.election_millis_max),
            enable_leader_restore: Some(false),
            enable_elect: !self.distrust_log,
            // A follower whose machine stopped uncleanly comes back with less than its leader saw it store.
            allow_log_reversion: Some(self.sync == SyncPolicy::Written),
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.log_entries_to_keep,
            purge_batch_size: self.purge_batch,
            max_payload_entries: 512,
            // Apply may wait for a checkpoint; heartbeats and votes do not wait for it.
            state_machine_channel_size: Some(1 << 20),
            // Latencies that nobody reads.
            log_stage_capacity: Some(16),
            replication_lag_threshold: 1 << 20,
            backoff: "50ms 100ms 200ms ...1s".to_owned(),
            ..Config::default()
        };
        config
            .validate()
            .map(Arc::new)
            .map_err(|error| StartError::Settings(error.to_string()))
    }
}
