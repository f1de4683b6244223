//! One replica of one Raft group: start, propose, read, checkpoint, change members, stop.
//!
//! A replica never resumes leadership after a restart: before the crash it may have sent entries to followers that its
//! own disk never got, and must not give their identities to other entries. It stands for election under a new term
//! instead, at once where it is the only voter.
//!
//! A leader that is its group's only member has nobody to send heartbeats to, so its ticks are off and it costs
//! nothing while nobody proposes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::{ChangeMembers, Instant as _, Raft, ReadPolicy, ServerState};
use quorate_storage::log::{GroupId, Log};
use tokio::sync::{Mutex, mpsc};

use super::checkpoint::CheckpointService;
use super::errors::{GroupStopped, MembershipError, ProposeError, StartError};
use super::log::GroupLog;
use super::machine::{AppliedIndex, Machine, ReplicatedState};
use super::network::PeerFactory;
use super::outcome::{AppliedBatch, Proposed};
use super::settings::GroupSettings;
use super::status::GroupStatus;
use super::transport::Transport;
use super::types::{Applied, EntryData, GroupLife, NodeAddress, OutcomeSender, TypeConfig};
use super::upkeep;
use crate::state::{BatchOutcome, NodeId};

/// Largest batch that can be proposed: entries are sent whole.
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// Longest member address.
pub const ADDRESS_BYTES_MAX: usize = 512;

/// What all groups of a node share.
#[derive(Clone)]
pub struct NodeParts {
    /// The node's log.
    pub log: Arc<dyn Log>,
    /// Its checkpoint writer.
    pub checkpoints: Arc<CheckpointService>,
    /// Its way to the other nodes.
    pub transport: Arc<Transport>,
}

/// A replica of a group. Clones are handles to the same replica.
#[derive(Clone)]
pub struct RaftGroup {
    inner: Arc<Inner>,
}

struct Inner {
    life: GroupLife,
    node: NodeId,
    raft: Raft<TypeConfig, Machine>,
    applied: Arc<AppliedIndex>,
    checkpoints: Arc<CheckpointService>,
    lease: Duration,
    /// False until a replica that may have lost the end of its log has caught up with a leader (R41).
    trusted: AtomicBool,
    /// It is being shut down.
    is_ending: AtomicBool,
    checkpointing: Mutex<()>,
    ticks: tokio::task::JoinHandle<()>,
    /// Closes when nothing of this replica uses the log or the state any more.
    released: Mutex<mpsc::Receiver<()>>,
    transport: Arc<Transport>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ticks.abort();
    }
}

impl RaftGroup {
    /// Starts a replica with what this node's log and state store hold of the group. `state` is fresh. A new replica
    /// waits to be initialized or to be added to a group.
    ///
    /// # Errors
    /// The settings contradict each other, or what is stored cannot be used.
    pub async fn start(
        settings: &GroupSettings,
        parts: &NodeParts,
        state: impl ReplicatedState,
    ) -> Result<Self, StartError> {
        let config = settings.raft_config()?;
        let (group, node) = (settings.group, parts.transport.identity().node);
        parts.log.set_sync_policy(group, settings.sync);
        let held = parts.log.state(group);
        let (in_use, released) = mpsc::channel(1);
        let service = Arc::clone(&parts.checkpoints);
        let machine = Machine::open(group, Box::new(state), service, &held, in_use.clone()).await?;
        let applied = machine.applied_index();
        let log = GroupLog::new(Arc::clone(&parts.log), group, in_use);
        let life = GroupLife {
            group,
            beginning: settings.beginning,
        };
        let network = PeerFactory::new(Arc::clone(&parts.transport), life);
        let raft = Raft::new(node.0, config, network, log, machine)
            .await
            .map_err(|error| StartError::Stored(error.to_string()))?;
        let ticks = tokio::spawn(upkeep::tick_while_needed(raft.clone(), node.0));
        let inner = Inner {
            life,
            node,
            raft,
            applied,
            checkpoints: Arc::clone(&parts.checkpoints),
            lease: Duration::from_millis(settings.election_millis_max),
            trusted: AtomicBool::new(!settings.distrust_log),
            is_ending: AtomicBool::new(false),
            checkpointing: Mutex::default(),
            ticks,
            released: Mutex::new(released),
            transport: Arc::clone(&parts.transport),
        };
        let started = Self {
            inner: Arc::new(inner),
        };
        started.inner.transport.register(&started);
        match settings.distrust_log {
            true => drop(tokio::spawn(upkeep::trust_when_caught_up(
                started.downgrade(),
                started.raft().metrics(),
            ))),
            false => started.elect_if_alone().await?,
        }
        Ok(started)
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.inner.life.group
    }

    /// Which beginning of it this replica belongs to.
    pub(super) fn beginning(&self) -> u64 {
        self.inner.life.beginning
    }

    pub(super) fn downgrade(&self) -> WeakGroup {
        WeakGroup(Arc::downgrade(&self.inner))
    }

    pub(super) fn raft(&self) -> &Raft<TypeConfig, Machine> {
        &self.inner.raft
    }

    pub(super) fn spool_directory(&self) -> &Path {
        self.inner.checkpoints.spool_directory()
    }

    pub(super) fn address_of(&self, node: NodeId) -> Option<NodeAddress> {
        self.inner
            .raft
            .server_metrics()
            .borrow_watched()
            .membership_config
            .get_node(&node.0)
            .cloned()
    }

    /// This node's place among the voters other than `lost`; `None` where it does not vote.
    pub(super) fn rank_without(&self, lost: NodeId) -> Option<u32> {
        if !self.trusts_its_log() {
            return None;
        }
        let membership = Arc::clone(
            &self
                .inner
                .raft
                .server_metrics()
                .borrow_watched()
                .membership_config,
        );
        let voters: BTreeSet<u64> = membership.voter_ids().filter(|voter| *voter != lost.0).collect();
        let rank = voters.iter().position(|voter| *voter == self.inner.node.0)?;
        u32::try_from(rank).ok()
    }

    /// How long the lease of whoever leads, or was voted for, still holds here; `None` once the replica has stopped.
    pub(super) async fn lease_rest(&self) -> Option<Duration> {
        let age = self
            .inner
            .raft
            .with_raft_state(|state| state.vote_last_modified().map(|at| at.elapsed()))
            .await;
        Some(
            age.ok()?
                .map_or(Duration::ZERO, |age| self.inner.lease.saturating_sub(age)),
        )
    }

    pub(super) fn trust_log(&self) {
        self.inner.trusted.store(true, Ordering::Release);
        self.inner.raft.runtime_config().elect(true);
    }

    /// Whether this replica may vote and lead.
    pub(super) fn trusts_its_log(&self) -> bool {
        self.inner.trusted.load(Ordering::Acquire)
    }

    /// Creates the group with these members, all voters. Exactly one node does this once in a group's life. Returns
    /// false, and does nothing, where the replica belongs to a group already.
    ///
    /// # Errors
    /// This node is not among the members, an address is too long, or the replica has stopped.
    pub async fn initialize(&self, members: BTreeMap<NodeId, NodeAddress>) -> Result<bool, MembershipError> {
        let mut nodes = BTreeMap::new();
        for (node, address) in members {
            nodes.insert(node.0, checked(address)?);
        }
        match self.inner.raft.initialize(nodes).await {
            Ok(()) => Ok(true),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(false),
            Err(RaftError::APIError(error)) => Err(MembershipError::Refused(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(GroupStopped(fatal.to_string()).into()),
        }
    }

    /// [`Self::initialize`] with this node as the only member.
    ///
    /// # Errors
    /// As [`Self::initialize`].
    pub async fn initialize_single(&self, address: NodeAddress) -> Result<bool, MembershipError> {
        self.initialize(BTreeMap::from([(self.inner.node, address)]))
            .await
    }

    /// Replicates and applies `batch`. What is proposed by one caller, one after the other, is applied in that order.
    /// Dropping the future does not withdraw the batch.
    ///
    /// # Errors
    /// See [`ProposeError`]; only `Unknown` leaves open whether the batch is, or will be, applied.
    pub async fn propose(&self, batch: &[u8]) -> Result<BatchOutcome, ProposeError> {
        self.propose_patched(batch, |_| ())
            .await
            .map(|proposed| proposed.outcome)
    }

    /// As [`Self::propose`], with what `patch` makes of the batch; answers where it was applied as well.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_patched(
        &self,
        batch: &[u8],
        patch: impl FnOnce(&mut [u8]),
    ) -> Result<Proposed, ProposeError> {
        if batch.len() > BATCH_BYTES_MAX {
            return Err(ProposeError::TooLarge(batch.len()));
        }
        let (sender, outcome) = OutcomeSender::new();
        let submitted = self
            .inner
            .raft
            .client_write_ff(EntryData::new(batch, patch), Some(sender))
            .await;
        submitted.map_err(|fatal| ProposeError::Fatal(fatal.to_string()))?;
        match outcome.await {
            Ok(Ok(written)) => match written.data {
                Applied::Batch(AppliedBatch { outcome, first_index }) => Ok(Proposed {
                    outcome,
                    index: written.log_id.index,
                    first_index,
                }),
                Applied::NoBatch => Err(ProposeError::Fatal(
                    "a batch was applied as something else".to_owned(),
                )),
            },
            Ok(Err(ClientWriteError::ForwardToLeader(leader))) => Err(ProposeError::not_leader(leader)),
            // The entry was in the log, or the replica stopped with it on the way: others may have it.
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Waits until this replica has applied everything that was committed anywhere when the call began, and returns
    /// the index up to which it has. Only then may its state be read as the group's state (R18).
    ///
    /// # Errors
    /// `NotLeader` where this replica does not lead, or cannot show to a quorum that it does.
    pub async fn ensure_linearizable(&self) -> Result<u64, ProposeError> {
        match self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(self.inner.applied.get().unwrap_or(0)),
            Err(RaftError::APIError(error)) => Err(ProposeError::from_read(error)),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Fatal(fatal.to_string())),
        }
    }

    /// Whether this replica leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.inner.raft.server_metrics().borrow_watched().state == ServerState::Leader
    }

    /// The term in which this replica leads, as far as it knows.
    pub fn led_term(&self) -> Option<u64> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(metrics.vote.leader_id.term)
    }

    /// The leader, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner
            .raft
            .server_metrics()
            .borrow_watched()
            .current_leader
            .map(NodeId)
    }

    /// Waits for a leader to be known.
    ///
    /// # Errors
    /// The replica has stopped.
    pub async fn wait_for_leader(&self) -> Result<NodeId, GroupStopped> {
        let mut metrics = self.inner.raft.server_metrics();
        loop {
            if let Some(leader) = metrics.borrow_and_update().current_leader {
                return Ok(NodeId(leader));
            }
            if metrics.changed().await.is_err() {
                return Err(self.stopped().await);
            }
        }
    }

    /// Waits until this replica's part in the group changes: its role, term, leader or members. `None` once it has
    /// stopped.
    pub fn changes(&self) -> GroupChanges {
        GroupChanges {
            metrics: self.inner.raft.server_metrics(),
        }
    }

    /// Where the replica stands.
    pub fn status(&self) -> GroupStatus {
        GroupStatus::new(&self.inner.raft.metrics().borrow_watched())
    }

    /// Waits until this replica has applied the entry at `index`.
    pub async fn reached(&self, index: u64) {
        self.inner.applied.reached(index).await;
    }

    /// Index of the last entry this replica has applied.
    pub fn applied_index(&self) -> Option<u64> {
        self.inner.applied.get()
    }

    /// Whether the stored state is being sent to another replica: a checkpoint would wait for that, or end it.
    pub fn is_streamed(&self) -> bool {
        self.inner.checkpoints.leases(self.inner.life.group).is_read()
    }

    /// Index of the last entry that this replica has and knows to be committed.
    pub fn committed_index(&self) -> Option<u64> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.local_committed.as_ref().map(|log_id| log_id.index)
    }

    /// Index up to which the store is known to hold the state.
    pub fn stored_index(&self) -> Option<u64> {
        let progress = self.inner.raft.watch_snapshot_progress();
        progress.get().map(|log_id| log_id.index)
    }

    /// Writes everything this replica has applied to the state store, so that openraft purges the log behind it.
    /// Returns the index up to which the store holds the state; `None` where there is nothing yet. Calls wait for
    /// each other.
    ///
    /// # Errors
    /// The replica has stopped, perhaps because a checkpoint failed.
    pub async fn checkpoint(&self) -> Result<Option<u64>, GroupStopped> {
        // openraft ignores a trigger while a snapshot is being built, and its progress does not move when a snapshot
        // turns out to be of the same index; the retry covers both.
        const RETRY: Duration = Duration::from_millis(250);
        let _one_at_a_time = self.inner.checkpointing.lock().await;
        let Some(target) = self.inner.applied.get() else {
            return Ok(None);
        };
        let mut progress = self.inner.raft.watch_snapshot_progress();
        loop {
            let stored = progress.get().map(|log_id| log_id.index);
            if stored.is_some_and(|stored| stored >= target) {
                return Ok(stored);
            }
            if let Err(fatal) = self.inner.raft.trigger().snapshot().await {
                return Err(GroupStopped(fatal.to_string()));
            }
            if let Ok(Err(_)) = tokio::time::timeout(RETRY, progress.changed()).await {
                return Err(self.stopped().await);
            }
        }
    }

    /// Lets the log's entries up to `index` go, as far as the stored checkpoint has them.
    ///
    /// # Errors
    /// The replica has stopped.
    pub async fn purge(&self, index: u64) -> Result<(), GroupStopped> {
        let asked = self.inner.raft.trigger().purge_log(index).await;
        asked.map_err(|fatal| GroupStopped(fatal.to_string()))
    }

    /// Adds a member that receives the log and does not vote, or changes its address. Returns at once: it may take
    /// long until it has everything.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn add_learner(&self, node: NodeId, address: NodeAddress) -> Result<(), MembershipError> {
        let added = self
            .inner
            .raft
            .add_learner(node.0, checked(address)?, false)
            .await;
        added.map(drop).map_err(MembershipError::from_write)
    }

    /// Makes exactly these members the voters; every one of them is a member already. Others that vote now become
    /// learners.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|node| node.0).collect();
        let changed = self.inner.raft.change_membership(voters, true).await;
        changed.map(drop).map_err(MembershipError::from_write)
    }

    /// Removes a learner.
    ///
    /// # Errors
    /// See [`MembershipError`]; a voter is refused.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        let removed = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let changed = self.inner.raft.change_membership(removed, false).await;
        changed.map(drop).map_err(MembershipError::from_write)
    }

    /// Hands leadership to `node`; does nothing where this replica does not lead. Proposals are refused from here on
    /// until the new leader stands, or for about an election time where it does not come up.
    ///
    /// # Errors
    /// The replica has stopped.
    pub async fn transfer_leader(&self, node: NodeId) -> Result<(), GroupStopped> {
        let asked = self.inner.raft.trigger().transfer_leader(node.0).await;
        asked.map_err(|fatal| GroupStopped(fatal.to_string()))
    }

    /// Stands for election now, after a pre-vote.
    ///
    /// # Errors
    /// The replica has stopped.
    pub async fn elect(&self) -> Result<(), GroupStopped> {
        let asked = self.inner.raft.trigger().elect(true).await;
        asked.map_err(|fatal| GroupStopped(fatal.to_string()))
    }

    /// Waits until the replica has stopped, and says why where it did so by itself, because its log or its state failed;
    /// `None` where [`Self::shutdown`] stopped it.
    pub async fn failed(&self) -> Option<GroupStopped> {
        let stopped = self.stopped().await;
        (!self.inner.is_ending.load(Ordering::SeqCst)).then_some(stopped)
    }

    /// Waits until the replica has stopped, and says why.
    pub async fn stopped(&self) -> GroupStopped {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return GroupStopped(fatal.to_string());
            }
            if metrics.changed().await.is_err() {
                return GroupStopped("the replica was shut down".to_owned());
            }
        }
    }

    /// Stops the replica and waits until nothing of it uses the log or the state store any more.
    pub async fn shutdown(&self) {
        const RELEASE_MAX: Duration = Duration::from_secs(10);
        self.inner.is_ending.store(true, Ordering::SeqCst);
        self.inner.transport.forget(self.inner.life.group);
        self.inner.ticks.abort();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(group = self.inner.life.group.0, %error, "the replica's task did not end well");
        }
        let mut released = self.inner.released.lock().await;
        let began = Instant::now();
        if tokio::time::timeout(RELEASE_MAX, released.recv()).await.is_err() {
            tracing::warn!(group = self.inner.life.group.0, waited = ?began.elapsed(), "the log is still in use");
        }
    }

    /// A group whose only voter is this node has nobody to wait for.
    async fn elect_if_alone(&self) -> Result<(), StartError> {
        let membership = Arc::clone(
            &self
                .inner
                .raft
                .server_metrics()
                .borrow_watched()
                .membership_config,
        );
        if membership.voter_ids().eq([self.inner.node.0]) {
            let asked = self.inner.raft.trigger().elect(false).await;
            asked.map_err(|fatal| StartError::Stored(fatal.to_string()))?;
        }
        Ok(())
    }
}

/// A handle that does not keep the replica.
pub(super) struct WeakGroup(Weak<Inner>);

impl WeakGroup {
    /// The replica, while somebody keeps it.
    pub(super) fn upgrade(&self) -> Option<RaftGroup> {
        self.0.upgrade().map(|inner| RaftGroup { inner })
    }
}

/// Tells when a replica's part in its group changes.
pub struct GroupChanges {
    metrics: openraft::alias::WatchReceiverOf<TypeConfig, openraft::metrics::RaftServerMetrics<TypeConfig>>,
}

impl GroupChanges {
    /// Waits for the next change. False once the replica has stopped.
    pub async fn changed(&mut self) -> bool {
        self.metrics.changed().await.is_ok()
    }
}

fn checked(address: NodeAddress) -> Result<NodeAddress, MembershipError> {
    match address.0.len() {
        length if length > ADDRESS_BYTES_MAX => {
            Err(MembershipError::Refused("the address is too long".to_owned()))
        }
        _ => Ok(address),
    }
}
