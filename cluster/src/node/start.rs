//! Starts a node: its groups over one log and one state store, the end of its last start, and the tasks that serve.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_storage::log::{GroupId, SyncPolicy};
use quorate_storage::volume::ClockFile;
use tokio::task::JoinHandle;

use super::clock::NotedClock;
use super::group::GroupSettings;
use super::replica::Replica;
use super::{Backlog, Completion, Group, GroupKind, Host, Placement};
use crate::raft::{self, NodeAddress, NodeParts, RaftGroup, StateError};
use crate::state::{Command, GroupTime, NodeId, NodeIncarnation, QueueLimits};

/// Bytes of commands that may wait for a disk that does not keep up before clients are not read any more.
const PROPOSALS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Entries kept in the log of a live group behind a checkpoint.
const LIVE_ENTRIES_TO_KEEP: u64 = 64;

/// How a node runs.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// This node.
    pub node: NodeId,
    /// This start of it (R25).
    pub incarnation: NodeIncarnation,
    /// Where group time and wall clock are noted (R32).
    pub clock: ClockFile,
    /// Limits of one (session, group) queue.
    pub queue_limits: QueueLimits,
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
}

impl StartError {
    /// Whether something that this node had stored is damaged or gone (R44).
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Group { error, .. } => matches!(
                error,
                raft::StartError::State(
                    StateError::LogLost { .. } | StateError::StateLost { .. } | StateError::Corrupt(_)
                )
            ),
            Self::Stopped { .. } => false,
        }
    }
}

/// A node's groups.
pub struct Node<H: Host> {
    groups: BTreeMap<GroupId, Arc<Group<H>>>,
    backlog: Arc<Backlog>,
    clock: Arc<NotedClock>,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl<H: Host> Node<H> {
    /// Starts all groups and brings their state up to the end of their logs; call it within the runtime that is to
    /// run them. A volume without groups becomes a cluster of this node alone.
    ///
    /// # Errors
    /// What is stored cannot be used, or a group stopped.
    pub async fn start(
        settings: NodeSettings,
        parts: NodeParts,
        host: Arc<H>,
    ) -> Result<Arc<Self>, StartError> {
        let group_settings = GroupSettings {
            node: settings.node,
            incarnation: settings.incarnation,
            queue_limits: settings.queue_limits,
            retained_messages_max: settings.retained_messages_max,
            retained_bytes_max: settings.retained_bytes_max,
        };
        let backlog = Arc::new(Backlog::new(PROPOSALS_BYTES_MAX));
        let new_group = |group| Group::new(group, host.clone(), group_settings, backlog.clone());
        let groups: BTreeMap<GroupId, Arc<Group<H>>> = Placement::groups()
            .map(|group| (group, Arc::new(new_group(group))))
            .collect();
        let starts = groups.values().map(|group| start_group(group, &settings, &parts));
        let mut last = GroupTime::default();
        for started in join_all(starts).await {
            last = last.max(started?);
        }
        let clock = Arc::new(NotedClock::resume(settings.clock.clone(), last));
        for group in groups.values() {
            group.clock_started(clock.clock());
        }
        let node = Arc::new(Self {
            groups,
            backlog,
            clock,
            tasks: parking_lot::Mutex::default(),
        });
        node.spawn_tasks(settings.checkpoint_interval);
        node.end_last_start(&settings).await?;
        Ok(node)
    }

    fn spawn_tasks(self: &Arc<Self>, checkpoint_interval: Duration) {
        let mut tasks = self.tasks.lock();
        for group in self.groups.values() {
            tasks.push(tokio::spawn(group.clone().run_proposer()));
            tasks.push(tokio::spawn(group.clone().run_attendant()));
            tasks.push(tokio::spawn(group.clone().run_timers()));
            tasks.push(tokio::spawn(group.clone().run_wills(Arc::downgrade(self))));
            tasks.push(tokio::spawn(group.clone().run_outbox(Arc::downgrade(self))));
            if Placement::kind(group.id()) == GroupKind::Live {
                tasks.push(tokio::spawn(group.clone().cut_log()));
            }
        }
        tasks.push(tokio::spawn(run_checkpoints(
            Arc::downgrade(self),
            checkpoint_interval,
        )));
    }

    /// Ends the connections of this node's last start in every group, before clients come (R25).
    async fn end_last_start(&self, settings: &NodeSettings) -> Result<(), StartError> {
        let Some(last) = settings.incarnation.0.checked_sub(1) else {
            return Ok(());
        };
        let command = Command::NodeLost {
            node: settings.node,
            incarnation: NodeIncarnation(last),
        };
        let ends = Placement::data_groups().map(|group| {
            let group = self.group(group);
            let command = &command;
            async move { (group.id(), group.propose_and_wait(command).await) }
        });
        for (group, completion) in join_all(ends).await {
            if completion == Completion::Refused {
                let what = "the end of the last start was refused".to_owned();
                return Err(StartError::Stopped { group: group.0, what });
            }
        }
        Ok(())
    }

    /// Commands that wait to be committed, over all groups.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// A group.
    ///
    /// # Panics
    /// Every node of this version has every group.
    pub fn group(&self, group: GroupId) -> &Arc<Group<H>> {
        self.groups.get(&group).expect("a node has all groups")
    }

    /// The home group of a session.
    pub fn home(&self, session: crate::state::SessionId) -> &Arc<Group<H>> {
        self.group(session.home())
    }

    /// The data group of a packet identifier slot, 0 to 15.
    pub fn group_of_slot(&self, slot: u8) -> &Arc<Group<H>> {
        self.group(Placement::data_of_slot(slot))
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group<H>>> {
        self.groups.values()
    }

    /// Writes the state of all data groups to the state store, so that the log behind it can go.
    pub async fn checkpoint(&self) {
        // Live groups have no state after a full stop, so there is nothing to keep; their log is cut all the same.
        join_all(self.groups.values().map(|group| async move {
            if let Err(error) = group.raft().checkpoint().await {
                tracing::error!(group = group.id().0, %error, "checkpoint failed");
            }
        }))
        .await;
    }

    /// Stops serving, checkpoints, stops the groups.
    pub async fn shutdown(&self) {
        self.checkpoint().await;
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        join_all(self.groups.values().map(|group| group.raft().shutdown())).await;
        self.clock.note(true).await;
    }
}

/// Starts a group and applies its log; returns the time that it has come to.
async fn start_group<H: Host>(
    group: &Arc<Group<H>>,
    settings: &NodeSettings,
    parts: &NodeParts,
) -> Result<GroupTime, StartError> {
    let id = group.id();
    let stopped = |what: String| StartError::Stopped { group: id.0, what };
    let sync = match Placement::kind(id) {
        GroupKind::Data => SyncPolicy::Synced,
        GroupKind::Live => SyncPolicy::Written,
    };
    if Placement::kind(id) == GroupKind::Live {
        // Its last member starts: nothing of it counts any more (R41).
        reset_log(parts, id)
            .await
            .map_err(|error| stopped(error.to_string()))?;
    }
    let group_settings = raft::GroupSettings {
        sync,
        log_entries_to_keep: settings.log_entries_to_keep,
        ..raft::GroupSettings::new(id)
    };
    let group_settings = match Placement::kind(id) {
        GroupKind::Data => group_settings,
        // The live groups' state is small and in memory: who falls behind gets it whole.
        GroupKind::Live => raft::GroupSettings {
            log_entries_to_keep: settings.log_entries_to_keep.min(LIVE_ENTRIES_TO_KEEP),
            purge_batch: LIVE_ENTRIES_TO_KEEP,
            ..group_settings
        },
    };
    let raft = RaftGroup::start(&group_settings, parts, Replica::new(group.clone()))
        .await
        .map_err(|error| StartError::Group { group: id.0, error })?;
    raft.initialize_single(NodeAddress::default())
        .await
        .map_err(|error| stopped(error.to_string()))?;
    raft.wait_for_leader()
        .await
        .map_err(|error| stopped(error.to_string()))?;
    // Everything in the log is applied: group time goes on from its last stamp.
    raft.ensure_linearizable()
        .await
        .map_err(|error| stopped(error.to_string()))?;
    let last = group.state().group_time();
    group.started(raft);
    Ok(last)
}

impl<H: Host> Group<H> {
    /// Cuts the log of a live group when it has grown, not only at the node's checkpoints: it is in memory, and its
    /// checkpoint costs nothing.
    async fn cut_log(self: Arc<Self>) {
        loop {
            self.log_has_grown.notified().await;
            if let Err(error) = self.raft().checkpoint().await {
                tracing::error!(group = self.id().0, %error, "the log could not be cut");
                return;
            }
        }
    }
}

async fn reset_log(parts: &NodeParts, group: GroupId) -> std::io::Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    parts
        .log
        .reset(group, Box::new(move |result| drop(sender.send(result))));
    receiver
        .await
        .unwrap_or_else(|_| Err(std::io::Error::other("the log has stopped")))
}

async fn run_checkpoints<H: Host>(node: std::sync::Weak<Node<H>>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(node) = node.upgrade() else { return };
        for group in Placement::data_groups() {
            node.group(group).drop_expired();
            node.group(group).drop_unknown_queues();
            node.group(group).forget_sent();
            node.group(group).forget_shares();
        }
        node.checkpoint().await;
        node.clock.note(false).await;
    }
}
