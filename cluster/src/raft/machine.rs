//! openraft's state machine around a group's replicated state.
//!
//! Stands between a group's log and its [`ReplicatedState`]: applies committed entries in memory, answers their
//! proposers, and turns openraft's snapshots into checkpoints. Runs on one task per group, so that taking the changes
//! for a checkpoint is exact: they are the changes up to the last applied entry and no other.
//!
//! Invariants:
//! - entries are applied in index order without a gap;
//! - changes that were taken are written, or the group stops;
//! - after a start the state is the one of the last checkpoint; openraft replays the log from there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use parking_lot::Mutex;
use quorate_storage::log::{GroupId, GroupLogState, LogPosition};
use tokio::sync::{Notify, mpsc};

use super::checkpoint::{CheckpointService, GroupCheckpoint, StateChanges, Written};
use super::codec;
use super::lease::GroupLeases;
use super::outcome::AppliedBatch;
use super::snapshot::{SnapshotData, StoredSnapshot};
use super::types::{Applied, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig, position_of};

/// What a group replicates.
///
/// `apply` is a function of the state and the entry alone: it reads no clock, no configuration and no random source.
/// Whatever error is returned, the group stops on this node: a replica that cannot apply an entry must not go on
/// with the next one.
pub trait ReplicatedState: Send + 'static {
    /// Applies the batch that `entry` encodes; `at` is its place in the group's log, rising with every call, with
    /// gaps where the log holds no batch.
    ///
    /// # Errors
    /// The entry cannot be decoded or contradicts the state.
    fn apply(&mut self, at: LogPosition, entry: &Bytes) -> Result<AppliedBatch, StateError>;

    /// Takes the keys that changed since the last call or since `load`, with their present values (none: removed).
    fn changes(&mut self) -> StateChanges;

    /// Replaces the whole state by what `changes` of some replica handed out; then nothing counts as changed.
    ///
    /// # Errors
    /// An entry cannot be read or decoded; the state is of no use then.
    fn load(
        &mut self,
        entries: &mut dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), StateError>>,
    ) -> Result<(), StateError>;

    /// Whether so much of the state is in memory because no checkpoint has it that one has to be stored before the next
    /// entry is applied.
    fn is_full(&self) -> bool {
        false
    }

    /// What [`Self::changes`] handed out as of the entry at `index` is stored.
    fn stored(&mut self, index: u64) {
        let _ = index;
    }

    /// What was loaded is the state as of the entry at `index`, and counts as applied.
    fn loaded(&mut self, index: u64) {
        let _ = index;
    }
}

/// Why a replica cannot go on. Each of these stops the group.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A log entry or a stored value cannot be understood (R49).
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The state store failed.
    #[error("state store: {0}")]
    Store(#[from] io::Error),
    /// The log was purged behind entries that the state store does not hold: the store was lost (R44).
    #[error("the state is lost: the log starts behind index {purged}, the stored state ends at {}", tell(.stored))]
    StateLost {
        /// The log holds nothing up to here.
        purged: u64,
        /// The stored state ends here.
        stored: Option<u64>,
    },
    /// The log ends before the stored state, which was taken from it: the log was lost, with whatever was acknowledged
    /// behind that state, and with the vote (R44).
    #[error("the log is lost: it ends at {}, the stored state at index {stored}", tell(.last))]
    LogLost {
        /// The stored state ends here.
        stored: u64,
        /// The log ends here.
        last: Option<u64>,
    },
}

fn tell(index: &Option<u64>) -> String {
    match index {
        Some(index) => format!("index {index}"),
        None => "nothing".to_owned(),
    }
}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Store(error) => error,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Whether the log can go with the stored state (R44).
pub(super) fn check_log(
    log: &GroupLogState,
    stored: Option<&(SnapshotMeta, bool)>,
) -> Result<(), StateError> {
    let is_installed = stored.is_some_and(|(_, is_installed)| *is_installed);
    let stored = stored.and_then(|(meta, _)| meta.last_log_id).map(|id| id.index);
    if let Some(purged) = log.purged.map(|purged| purged.index)
        && stored.is_none_or(|stored| stored < purged)
    {
        return Err(StateError::StateLost { purged, stored });
    }
    // A checkpoint is of entries that were synced here (R43). A snapshot is installed first, then the log is cut; a
    // crash between them leaves a log that ends before it.
    let last = log.last.map(|last| last.index);
    match stored {
        Some(stored) if last < Some(stored) && !is_installed => Err(StateError::LogLost { stored, last }),
        _ => Ok(()),
    }
}

/// One group's state machine.
pub(super) struct Machine {
    group: GroupId,
    service: Arc<CheckpointService>,
    leases: Arc<GroupLeases>,
    /// Gone only while another thread loads it, or after that failed. The mutex is never contended: it makes the
    /// machine `Sync`, as openraft wants it, without asking that of the state.
    state: Mutex<Option<Box<dyn ReplicatedState>>>,
    last_applied: Option<LogId>,
    last_membership: StoredMembership,
    applied: Arc<AppliedIndex>,
    gaps_allowed: bool,
    /// Tells whoever stops the replica that this still exists.
    _in_use: mpsc::Sender<()>,
}

/// Index of the last applied entry, for those outside the state machine's task.
#[derive(Debug, Default)]
pub(super) struct AppliedIndex {
    /// One more than the index; 0 for nothing.
    next: AtomicU64,
    /// Whether anybody waits.
    awaited: AtomicBool,
    advanced: Notify,
}

impl AppliedIndex {
    fn set(&self, log_id: Option<LogId>) {
        self.next
            .store(log_id.map_or(0, |id| id.index + 1), Ordering::SeqCst);
        if self.awaited.load(Ordering::SeqCst) && self.awaited.swap(false, Ordering::SeqCst) {
            self.advanced.notify_waiters();
        }
    }

    /// The index, if anything was applied.
    pub(super) fn get(&self) -> Option<u64> {
        self.next.load(Ordering::SeqCst).checked_sub(1)
    }

    /// Waits until the entry at `index` is applied.
    pub(super) async fn reached(&self, index: u64) {
        loop {
            let advanced = self.advanced.notified();
            tokio::pin!(advanced);
            // From here on no advance is missed.
            advanced.as_mut().enable();
            self.awaited.store(true, Ordering::SeqCst);
            if self.next.load(Ordering::SeqCst) > index {
                return;
            }
            advanced.await;
        }
    }
}

impl Machine {
    /// Brings `state`, which is fresh, to the group's last checkpoint. `log` is what the group's log holds; `in_use` is
    /// held while the machine lives.
    ///
    /// # Errors
    /// The checkpoint cannot be read, or the log does not reach back or up to it.
    pub(super) async fn open(
        group: GroupId,
        state: Box<dyn ReplicatedState>,
        service: Arc<CheckpointService>,
        log: &GroupLogState,
        in_use: mpsc::Sender<()>,
    ) -> Result<Self, StateError> {
        let leases = service.leases(group);
        let mut machine = Self {
            group,
            service,
            leases,
            state: Mutex::new(Some(state)),
            last_applied: None,
            last_membership: StoredMembership::default(),
            applied: Arc::default(),
            gaps_allowed: false,
            _in_use: in_use,
        };
        let stored = machine.stored_meta()?;
        check_log(log, stored.as_ref())?;
        if let Some((meta, _)) = stored {
            machine.load(&meta).await?;
        }
        Ok(machine)
    }

    /// openraft's conformance suite applies entries that no log could hold.
    #[cfg(test)]
    pub(super) fn allow_gaps(&mut self) {
        self.gaps_allowed = true;
    }

    /// Where to read how far this machine has applied.
    pub(super) fn applied_index(&self) -> Arc<AppliedIndex> {
        Arc::clone(&self.applied)
    }

    /// What the store says of the group's state, and whether that came as a snapshot.
    fn stored_meta(&self) -> Result<Option<(SnapshotMeta, bool)>, StateError> {
        let Some((position, meta)) = self.service.store().load(self.group)? else {
            return Ok(None);
        };
        let (meta, is_installed) = codec::decode_stored_meta(&meta)
            .map_err(|error| StateError::Corrupt(format!("checkpoint of group {}: {error}", self.group.0)))?;
        if meta.last_log_id.map(position_of) != Some(position) {
            let message = format!(
                "checkpoint of group {} is of {position:?}, says {meta}",
                self.group.0
            );
            return Err(StateError::Corrupt(message));
        }
        Ok(Some((meta, is_installed)))
    }

    /// Replaces the state in memory by the stored one, which `meta` describes.
    async fn load(&mut self, meta: &SnapshotMeta) -> Result<(), StateError> {
        let stored = SnapshotData::Stored(self.stored(meta)?);
        let mut state = self.take_state()?;
        let loading = tokio::task::spawn_blocking(move || {
            let loaded = stored.read(|entries| {
                let mut entries = entries.map(|entry| entry.map_err(StateError::from));
                state.load(&mut entries).map_err(io::Error::from)
            });
            loaded.map(|()| state)
        });
        let state = loading
            .await
            .map_err(|_| StateError::Corrupt("loading the stored state panicked".to_owned()))??;
        let state = self.state.get_mut().insert(state);
        self.last_applied = meta.last_log_id;
        self.last_membership = meta.last_membership.clone();
        self.applied.set(self.last_applied);
        if let Some(log_id) = self.last_applied {
            state.loaded(log_id.index);
        }
        Ok(())
    }

    fn stored(&self, meta: &SnapshotMeta) -> Result<StoredSnapshot, StateError> {
        let position = meta.last_log_id.map(position_of);
        Ok(self.stored_at(position.ok_or_else(|| StateError::Corrupt("a snapshot of nothing".to_owned()))?))
    }

    fn stored_at(&self, position: LogPosition) -> StoredSnapshot {
        StoredSnapshot {
            store: Arc::clone(self.service.store()),
            leases: Arc::clone(&self.leases),
            group: self.group,
            position,
        }
    }

    fn take_state(&mut self) -> Result<Box<dyn ReplicatedState>, StateError> {
        let state = self.state.get_mut().take();
        state.ok_or_else(|| StateError::Corrupt("the state is gone after a failed load".to_owned()))
    }

    fn apply_payload(&mut self, log_id: LogId, payload: Payload) -> Result<Applied, StateError> {
        match payload {
            Payload::Blank => Ok(Applied::NoBatch),
            Payload::Membership(membership) => {
                self.last_membership = StoredMembership::new(Some(log_id), membership);
                Ok(Applied::NoBatch)
            }
            Payload::Normal(data) => {
                let batch = data.batch();
                self.leases.count_applied(batch.len() as u64);
                let gone = || StateError::Corrupt("the state is gone after a failed load".to_owned());
                let state = self.state.get_mut().as_mut().ok_or_else(gone)?;
                Ok(Applied::Batch(state.apply(position_of(log_id), &batch)?))
            }
        }
    }

    /// Stores a checkpoint where the state has no room for more. openraft does not know of it, and purges the log only
    /// behind those that it has asked for: that comes later, and is harmless.
    async fn make_room(&mut self) -> Result<(), io::Error> {
        let Some(position) = self.last_applied.map(position_of) else {
            return Ok(());
        };
        if !self.state.get_mut().as_ref().is_some_and(|state| state.is_full()) {
            return Ok(());
        }
        if let Some((_, written)) = self.submit_checkpoint(position) {
            written.wait().await?;
        }
        if let Some(state) = self.state.get_mut().as_mut() {
            state.stored(position.index);
        }
        Ok(())
    }

    /// Takes the changes and submits them at once: what is submitted later, a snapshot to install above all, is
    /// written later. `None` where the state is gone.
    fn submit_checkpoint(&mut self, position: LogPosition) -> Option<(SnapshotMeta, Written)> {
        let meta = self.meta();
        let changes = self.state.get_mut().as_mut()?.changes();
        let written = self.service.checkpoint(GroupCheckpoint {
            group: self.group,
            position,
            meta: codec::encode_snapshot_meta(&meta),
            changes,
        });
        Some((meta, written))
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.last_membership.clone(),
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = CheckpointBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.last_membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.make_room().await?;
            let log_id = entry.log_id;
            let follows = self
                .last_applied
                .is_none_or(|last| log_id.index == last.index + 1);
            if !follows && !self.gaps_allowed {
                let message = format!("entry {log_id} follows applied entry {:?}", self.last_applied);
                return Err(StateError::Corrupt(message).into());
            }
            let outcome = self.apply_payload(log_id, entry.payload).inspect_err(|error| {
                tracing::error!(group = self.group.0, index = log_id.index, %error, "cannot apply an entry");
            })?;
            self.last_applied = Some(log_id);
            self.applied.set(self.last_applied);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<CheckpointBuilder> {
        let position = self.last_applied.map(position_of);
        let stored = self.stored_at(position.unwrap_or_default());
        let Some(position) = position else {
            let meta = self.meta();
            return force.then_some(CheckpointBuilder {
                meta,
                stored,
                written: None,
            });
        };
        let (meta, written) = self.submit_checkpoint(position)?;
        Some(CheckpointBuilder {
            meta,
            stored,
            written: Some(written),
        })
    }

    async fn get_snapshot_builder(&mut self) -> CheckpointBuilder {
        let builder = self.try_create_snapshot_builder(true).await;
        builder.expect("the state is only gone after a failed load, which has stopped the group")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        if !data.is_stored_behind(&self.leases) {
            let position = self.stored(meta)?.position;
            self.service
                .replace(self.group, position, codec::encode_installed_meta(meta), data)
                .wait()
                .await?;
        }
        Ok(self.load(meta).await?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<GroupSnapshot>, io::Error> {
        let Some((meta, _)) = self.stored_meta()? else {
            return Ok(None);
        };
        let snapshot = SnapshotData::Stored(self.stored(&meta)?);
        Ok(Some(Snapshot { meta, snapshot }))
    }
}

/// A snapshot of this crate.
pub(super) type GroupSnapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Waits for a checkpoint to be written. Where nothing was applied there is nothing to write.
pub(super) struct CheckpointBuilder {
    meta: SnapshotMeta,
    stored: StoredSnapshot,
    written: Option<Written>,
}

impl RaftSnapshotBuilder<TypeConfig> for CheckpointBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<GroupSnapshot, io::Error> {
        if let Some(written) = self.written.take() {
            written.wait().await?;
        }
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: SnapshotData::Stored(self.stored.clone()),
        })
    }
}
