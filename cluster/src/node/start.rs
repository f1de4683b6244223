//! Starts a node: its replicas over one log and one state store, its place in the cluster, the end of its last start,
//! and the tasks that serve.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_storage::log::GroupId;
use quorate_storage::volume::{BeginningsFile, ClockFile, StartsFile, VolumeError};
use tokio::task::JoinHandle;

use super::beginnings::Beginnings;
use super::clock::NotedClock;
use super::confirm::RouteConfirmations;
use super::group::{Common, GroupSettings};
use super::membership::Membership;
use super::peers::Peers;
use super::placement::META;
use super::service::NodeService;
use super::unstored::Unstored;
use super::{Backlog, Group, GroupClock, Host, Placement};
use crate::lineage::Lineage;
use crate::meta::{Directory, MetaCommand, MetaReplica};
use crate::raft::{self, ConnectionCount, NodeAddress, NodeParts, RaftGroup, StateError, Transport};
use crate::state::{NodeId, NodeIncarnation, QueueLimits};

/// Bytes of commands that may wait for a disk that does not keep up before clients are not read any more.
const PROPOSALS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Entries kept in the log of `meta`, for nodes that were away.
const META_ENTRIES_TO_KEEP: u64 = 1_000;

/// How a node runs.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// This node.
    pub node: NodeId,
    /// This start of it (R25).
    pub incarnation: NodeIncarnation,
    /// Its name.
    pub name: String,
    /// Number of its volume.
    pub volume: [u8; 16],
    /// Where the other nodes reach it.
    pub address: NodeAddress,
    /// The other nodes, as far as they are known.
    pub known: Vec<(NodeId, NodeAddress)>,
    /// Copies of everything, as far as there are nodes. Counts where this node founds the cluster.
    pub replication_factor: u32,
    /// How long a node may be gone before its places in the groups go to others that have room.
    pub replace_after: Duration,
    /// Nodes before the cluster serves for the first time. Counts where this node founds the cluster.
    pub bootstrap_expect: u32,
    /// The machine stopped uncleanly since the last start: what was written and not synced may be lost (R41).
    pub machine_restarted: bool,
    /// Where it is noted which groups began anew (R41).
    pub beginnings: BeginningsFile,
    /// Where group time and wall clock are noted (R32).
    pub clock: ClockFile,
    /// This start's identifier, those before it on the volume, and where they are noted (R46).
    pub starts: StartsFile,
    /// Limits of one (session, group) queue.
    pub queue_limits: QueueLimits,
    /// Bytes of commands in one entry, unless a single command is larger; the target list of a publish is cut to that.
    pub entry_bytes_max: usize,
    /// Retained messages of one group.
    pub retained_messages_max: u32,
    /// Their bytes.
    pub retained_bytes_max: u64,
    /// Time between checkpoints.
    pub checkpoint_interval: Duration,
    /// Entries kept in the log behind a checkpoint.
    pub log_entries_to_keep: u64,
}

/// A node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A group did not start.
    #[error("group {group}: {error}")]
    Group {
        /// The group.
        group: u16,
        /// Why.
        error: raft::StartError,
    },
    /// A group was not created, or stopped while it started.
    #[error("group {group}: {what}")]
    Stopped {
        /// The group.
        group: u16,
        /// Why.
        what: String,
    },
    /// The cluster has gone on without this start of the node: it has to start anew.
    #[error("the cluster has gone on without this node")]
    Ended,
    /// Another start of the node has come since or beside this one (R46): this is so at every start.
    #[error(
        "the cluster refuses this node for good: its volume is a copy of another, or was restored from one: start with \
         an empty directory"
    )]
    CopiedVolume,
    /// The volume cannot be written.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The cluster does not take this start of the node.
    #[error("the cluster refuses this node: {0}")]
    Refused(&'static str),
}

impl StartError {
    /// Whether something that this node had stored is damaged or gone (R44).
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Group { error, .. } => {
                matches!(
                    error,
                    raft::StartError::State(
                        StateError::LogLost { .. } | StateError::StateLost { .. } | StateError::Corrupt(_)
                    )
                ) || matches!(
                    error,
                    // A stored value that does not fit its checksum (R49).
                    raft::StartError::State(StateError::Store(error)) if error.kind() == io::ErrorKind::InvalidData
                )
            }
            Self::CopiedVolume => true,
            Self::Stopped { .. } | Self::Refused(_) | Self::Ended | Self::Volume(_) => false,
        }
    }
}

/// A node's groups.
pub struct Node<H: Host> {
    settings: NodeSettings,
    parts: NodeParts,
    host: Arc<H>,
    peers: Peers,
    routes: Arc<RouteConfirmations<H>>,
    pub(super) membership: Membership,
    pub(super) handovers: super::reconcile::Handovers,
    pub(super) fitness: super::fitness::Fitness,
    pub(super) trials: super::judge::Trials,
    groups: BTreeMap<GroupId, Arc<Group<H>>>,
    backlog: Arc<Backlog>,
    pub(super) unstored: Arc<Unstored>,
    /// Held by who takes checkpoints.
    pub(super) checkpoint_turn: Arc<tokio::sync::Mutex<()>>,
    noted: Arc<NotedClock>,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl<H: Host> Node<H> {
    /// A node that does nothing yet, except that it answers its peers. Reads the file `clock`.
    pub fn new(settings: NodeSettings, parts: NodeParts, host: Arc<H>) -> Arc<Self> {
        let beginnings = Arc::new(Beginnings::default());
        let peers = Peers::new(parts.transport.clone(), beginnings.clone());
        let directory = Arc::new(Directory::default());
        let backlog = Arc::new(Backlog::new(PROPOSALS_BYTES_MAX));
        let unstored = Arc::new(Unstored::new(parts.checkpoints.memory_waits().clone()));
        let clock = Arc::new(GroupClock::default());
        let noted = Arc::new(NotedClock::read(settings.clock.clone(), clock.clone()));
        let routes = Arc::new(RouteConfirmations::new(
            host.clone(),
            peers.clone(),
            directory.clone(),
        ));
        let attached = Arc::default();
        let common = Common {
            attached,
            clock: clock.clone(),
            peers: peers.clone(),
            routes: routes.clone(),
            backlog: backlog.clone(),
            unstored: unstored.clone(),
            store: parts.checkpoints.store().clone(),
        };
        let group_settings = GroupSettings {
            node: settings.node,
            incarnation: settings.incarnation,
            queue_limits: settings.queue_limits,
            entry_bytes_max: settings.entry_bytes_max,
            retained_messages_max: settings.retained_messages_max,
            retained_bytes_max: settings.retained_bytes_max,
        };
        let new_group = |group| Arc::new(Group::new(group, host.clone(), group_settings, &common));
        let groups = Placement::groups().map(|group| (group, new_group(group)));
        let known = settings.known.iter().map(|(node, _)| *node).collect();
        let node = Arc::new(Self {
            membership: Membership::new(directory, beginnings, known),
            handovers: super::reconcile::Handovers::default(),
            fitness: super::fitness::Fitness::default(),
            trials: super::judge::Trials::default(),
            groups: groups.collect(),
            peers,
            routes,
            backlog,
            unstored,
            checkpoint_turn: Arc::default(),
            noted,
            tasks: parking_lot::Mutex::default(),
            settings,
            parts,
            host,
        });
        let transport = &node.parts.transport;
        transport.set_lineage(node.lineage());
        for (known, address) in &node.settings.known {
            transport.set_address(*known, NodeIncarnation(0), address);
        }
        transport.set_service(Arc::new(NodeService(Arc::downgrade(&node))));
        node.routes.set_node(Arc::downgrade(&node));
        node
    }

    /// Starts the replicas of this node, takes its place in the cluster, and brings everything up to what is committed;
    /// call it within the runtime that is to run them. A volume that founded its cluster, and holds nothing, becomes
    /// its first node. Clients may come when this returns.
    ///
    /// # Errors
    /// What is stored cannot be used, a group stopped, or the cluster refuses this node.
    pub async fn start(self: &Arc<Self>) -> Result<(), StartError> {
        self.spawn(super::clock::watch_wall_clock());
        self.start_meta().await?;
        self.spawn(Self::run_directory(Arc::downgrade(self)));
        self.spawn(Self::run_meta_leader(Arc::downgrade(self)));
        self.register().await?;
        self.spawn(Self::run_leaving(Arc::downgrade(self)));
        self.start_groups().await?;
        self.spawn(Self::run_reconciler(Arc::downgrade(self)));
        self.spawn(Self::run_beginnings(Arc::downgrade(self)));
        self.spawn(Self::run_losses(Arc::downgrade(self)));
        self.spawn(Self::run_missed(Arc::downgrade(self)));
        self.spawn(Self::run_fitness(Arc::downgrade(self)));
        self.spawn(self.routes.clone().run());
        self.spawn(Self::run_share_losses(Arc::downgrade(self)));
        self.spawn(run_checkpoints(
            Arc::downgrade(self),
            self.settings.checkpoint_interval,
        ));
        tokio::select! {
            served = self.serve() => served,
            () = self.until_of_the_past() => Err(StartError::Ended),
        }
    }

    /// Comes to where clients may come.
    async fn serve(self: &Arc<Self>) -> Result<(), StartError> {
        self.wait_for_members().await;
        self.catch_up().await;
        self.enter().await?;
        // What was committed before everybody knew of this start (R2).
        self.catch_up().await;
        let interval = self.settings.checkpoint_interval;
        self.spawn(Self::run_upkeep(Arc::downgrade(self), interval));
        Ok(())
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        // Those of replicas that have gone.
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(task));
    }

    /// Starts the replica of `meta`; who founds the cluster writes its first entry.
    async fn start_meta(&self) -> Result<(), StartError> {
        let settings = raft::GroupSettings {
            log_entries_to_keep: META_ENTRIES_TO_KEEP,
            ..raft::GroupSettings::new(META)
        };
        let replica = MetaReplica::new(self.directory().clone());
        let meta = RaftGroup::start(&settings, &self.parts, replica)
            .await
            .map_err(|error| StartError::Group { group: 0, error })?;
        self.watch_replica(&meta);
        let founds = self.settings.node == FOUNDER && self.settings.known.is_empty();
        if founds {
            meta.initialize_single(self.settings.address.clone())
                .await
                .map_err(|error| stopped(META, &error))?;
        }
        assert!(self.membership.meta.set(meta.clone()).is_ok(), "meta starts once");
        if founds {
            // Void where it was founded before.
            let settings = &self.settings;
            let found = MetaCommand::found(
                settings.replication_factor,
                settings.bootstrap_expect,
                settings.volume,
                &settings.name,
                &settings.address.0,
            );
            self.bring_about(&found, |state| state.is_founded().then_some(()))
                .await;
        }
        Ok(())
    }

    /// A replica whose log or state fails takes the node with it: what it has not stored must not be waited for here.
    pub(super) fn watch_replica(&self, replica: &RaftGroup) {
        let (replica, host) = (replica.clone(), self.host.clone());
        self.spawn(async move {
            if let Some(stopped) = replica.failed().await {
                host.fatal(format!("{}: {}", Placement::name(replica.group()), stopped.0));
            }
        });
    }

    /// This node.
    pub fn this_node(&self) -> NodeId {
        self.settings.node
    }

    /// This start and those before it on its volume.
    pub(super) fn lineage(&self) -> Lineage {
        Lineage::of(self.settings.incarnation, &self.settings.starts)
    }

    pub(super) fn replace_after(&self) -> Duration {
        self.settings.replace_after
    }

    /// This start of it.
    pub fn incarnation(&self) -> NodeIncarnation {
        self.settings.incarnation
    }

    /// Hands a request to another node's broker; requests to one node arrive in the order of the calls as long as the
    /// connection holds. `None`: whether it arrived is not known.
    pub fn ask_broker(
        &self,
        node: NodeId,
        request: bytes::Bytes,
    ) -> impl Future<Output = Option<bytes::Bytes>> + use<H> {
        self.peers.ask_broker(node, request)
    }

    pub(super) fn settings(&self) -> &NodeSettings {
        &self.settings
    }

    pub(super) fn host(&self) -> &Arc<H> {
        &self.host
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(super) fn transport(&self) -> &Arc<Transport> {
        &self.parts.transport
    }

    /// How many connections this node has to others, by kind.
    pub fn connection_counts(&self) -> Vec<ConnectionCount> {
        self.parts.transport.connection_counts()
    }

    /// How many connections this node passes on between others.
    pub fn passed_on(&self) -> usize {
        self.parts.transport.passed_on()
    }

    /// Commands that wait to be committed, over all groups.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Large payloads of queued messages that no checkpoint holds yet.
    pub fn unstored(&self) -> &Backlog {
        self.unstored.payloads()
    }

    /// A group.
    ///
    /// # Panics
    /// When there is no such group.
    pub fn group(&self, group: GroupId) -> &Arc<Group<H>> {
        self.groups.get(&group).expect("a node has all groups")
    }

    pub(super) fn find_group(&self, group: GroupId) -> Option<&Arc<Group<H>>> {
        self.groups.get(&group)
    }

    /// The home group of a session.
    pub fn home(&self, session: crate::state::SessionId) -> &Arc<Group<H>> {
        self.group(session.home())
    }

    /// The group of a packet identifier slot.
    pub fn group_of_slot(&self, slot: u8) -> &Arc<Group<H>> {
        self.group(Placement::group_of_slot(slot))
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group<H>>> {
        self.groups.values()
    }

    /// This node's replicas, that of `meta` among them.
    pub fn replicas(&self) -> Vec<RaftGroup> {
        let groups = self.groups.values().filter_map(|group| group.replica());
        groups.chain(self.meta().cloned()).collect()
    }

    pub(super) fn parts(&self) -> &NodeParts {
        &self.parts
    }

    /// Where its clock is noted.
    pub(super) fn noted_clock(&self) -> &Arc<NotedClock> {
        &self.noted
    }

    /// Writes the state of all groups to the state store, so that the log behind it can go.
    pub async fn checkpoint(&self) {
        let turn = self.checkpoint_turn.lock().await;
        // What a checkpoint takes is in memory twice until it is written: where it is much, one group after the other.
        for group in self.groups.values() {
            if group.has_much_to_store() && !group.is_streamed() {
                group.checkpoint().await;
            }
        }
        drop(turn);
        let groups = self.groups.values().map(|group| group.checkpoint());
        let meta = async {
            if let Some(meta) = self.meta()
                && let Err(error) = meta.checkpoint().await
            {
                tracing::error!(group = META.0, %error, "checkpoint failed");
            }
        };
        tokio::join!(join_all(groups), meta);
        self.relieve_log().await;
    }

    /// Leaves the view, hands leadership over where there is somebody, checkpoints, stops the groups.
    pub async fn shutdown(&self) {
        const LEAVE_MAX: Duration = Duration::from_secs(2);
        self.membership.lease.end();
        let leave = MetaCommand::leave(self.settings.node, self.settings.incarnation);
        if tokio::time::timeout(LEAVE_MAX, self.propose_meta(&leave))
            .await
            .is_err()
        {
            tracing::warn!("the cluster could not be told that this node stops; it will notice by itself");
        }
        self.hand_over().await;
        self.checkpoint().await;
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        join_all(self.replicas().iter().map(RaftGroup::shutdown)).await;
        self.noted.note(true).await;
    }

    /// Hands leadership of all groups over, where there is somebody: best to one that is fit to lead (R15).
    pub async fn hand_over(&self) {
        let fit = self.fit_nodes().await;
        for replica in self.replicas().iter().filter(|replica| replica.is_leader()) {
            let view = self.directory().read().view().clone();
            let status = replica.status();
            let others = status.members.iter().filter(|(node, member)| {
                **node != self.settings.node && member.voter && view.serving.contains_key(node)
            });
            let others: Vec<NodeId> = others.map(|(node, _)| *node).collect();
            let best = others.iter().find(|node| fit.contains(node)).or(others.first());
            if let Some(node) = best {
                let _ = replica.transfer_leader(*node).await;
            }
        }
    }
}

/// The node that founds a cluster.
pub(super) const FOUNDER: NodeId = NodeId(1);

pub(super) fn stopped(group: GroupId, error: &dyn std::fmt::Display) -> StartError {
    StartError::Stopped {
        group: group.0,
        what: error.to_string(),
    }
}

async fn run_checkpoints<H: Host>(node: std::sync::Weak<Node<H>>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(node) = node.upgrade() else { return };
        node.groups().for_each(|group| group.complete_loaded());
        node.checkpoint().await;
        node.noted.note(false).await;
    }
}
