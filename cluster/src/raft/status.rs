//! Where a replica stands, for operators, metrics and whoever balances leaders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant, RaftMetrics, ServerState};

use super::group::RaftGroup;
use super::types::{NodeAddress, TypeConfig};
use crate::state::NodeId;

/// A replica's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRole {
    /// Receives the log and does not vote.
    Learner,
    /// Votes and follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Has stopped.
    Stopped,
}

/// A member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Where to reach it.
    pub address: NodeAddress,
    /// Whether it votes.
    pub voter: bool,
    /// Last log index it is known to hold; only a leader knows.
    pub matched: Option<u64>,
    /// Time since it last answered; only a leader knows.
    pub heard: Option<Duration>,
}

/// A look at a replica. Indexes are of the group's log; `None` is an empty log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its role.
    pub role: GroupRole,
    /// Its term.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Last entry in its log.
    pub last_log: Option<u64>,
    /// Last entry it knows to be committed.
    pub committed: Option<u64>,
    /// Last entry it applied.
    pub last_applied: Option<u64>,
    /// Last entry in its checkpoint.
    pub checkpoint: Option<u64>,
    /// Last entry that was purged.
    pub purged: Option<u64>,
    /// Time since a quorum last answered; only a leader of several voters knows.
    pub since_quorum: Option<Duration>,
    /// The members.
    pub members: BTreeMap<NodeId, GroupMember>,
    /// Whom a change of voters that is under way leads to: both the old voters and these decide until it is complete.
    pub next_voters: Option<BTreeSet<NodeId>>,
}

impl GroupStatus {
    pub(super) fn new(metrics: &RaftMetrics<TypeConfig>) -> Self {
        let membership = metrics.membership_config.membership();
        let member = |(node, address): (&u64, &NodeAddress)| {
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|replication| replication.get(node));
            let heard = metrics
                .heartbeat
                .as_ref()
                .and_then(|heartbeat| heartbeat.get(node));
            let member = GroupMember {
                address: address.clone(),
                heard: heard.and_then(|heard| heard.as_ref().map(|at| at.elapsed())),
                voter: membership.voter_ids().any(|voter| voter == *node),
                matched: matched.and_then(|matched| matched.as_ref().map(|log_id| log_id.index)),
            };
            (NodeId(*node), member)
        };
        Self {
            role: match (&metrics.running_state, metrics.state) {
                (Err(_), _) | (_, ServerState::Shutdown) => GroupRole::Stopped,
                (_, ServerState::Learner) => GroupRole::Learner,
                (_, ServerState::Follower) => GroupRole::Follower,
                (_, ServerState::Candidate) => GroupRole::Candidate,
                (_, ServerState::Leader) => GroupRole::Leader,
            },
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            last_log: metrics.last_log_index,
            committed: metrics.local_committed.map(|log_id| log_id.index),
            last_applied: metrics.last_applied.map(|log_id| log_id.index),
            checkpoint: metrics.snapshot.map(|log_id| log_id.index),
            purged: metrics.purged.map(|log_id| log_id.index),
            since_quorum: metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed()),
            members: membership.nodes().map(member).collect(),
            next_voters: match &membership.get_joint_config()[..] {
                [_, .., next] => Some(next.iter().copied().map(NodeId).collect()),
                _ => None,
            },
        }
    }
}

impl RaftGroup {
    /// The members as this replica knows them, whether they vote or not; `None` while they are being changed.
    pub(crate) fn settled_members(&self) -> Option<Vec<NodeId>> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let is_settled = membership.get_joint_config().len() <= 1;
        is_settled.then(|| membership.nodes().map(|(node, _)| NodeId(*node)).collect())
    }
}
