//! Where the groups and nodes stand, as the nodes themselves say.
//!
//! What an operator asks of one node concerns all of them; a node that does not answer in time is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use quorate_storage::log::GroupId;

use super::peers::{AnswerBody, AskError, RequestBody, proto};
use super::placement::META;
use super::{Host, Node, Placement};
use crate::raft::{GroupRole, RaftGroup};
use crate::state::{NodeId, NodeIncarnation};

/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// A leader that has heard a majority so recently leads.
const QUORUM_MAX: Duration = Duration::from_secs(1);
/// A member that has answered its leader so recently is alive.
const HEARD_MAX: Duration = Duration::from_secs(1);

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeReport {
    /// Its start.
    pub incarnation: NodeIncarnation,
    /// Connections of clients.
    pub clients: u64,
    /// Its replicas.
    pub groups: Vec<ReplicaReport>,
    /// It knows that the node that asks was removed.
    asker_removed: bool,
}

/// A node's replica of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaReport {
    /// The group.
    pub group: GroupId,
    /// What the replica is in it.
    pub role: GroupRole,
    /// Its term.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Last entry in its log.
    pub last_log: u64,
    /// Last entry it knows to be committed.
    pub committed: u64,
    /// Last entry it has applied.
    pub applied: u64,
    /// It leads, and a majority has just said so.
    pub has_majority: bool,
    /// The group's members, as far as it knows.
    pub members: Vec<MemberReport>,
}

/// A member of a group, as another knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// The node.
    pub node: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// Last entry it is known to have; leaders know.
    pub matched: Option<u64>,
    /// Whether it has just answered; leaders know.
    pub alive: bool,
}

impl NodeReport {
    /// Whether the cluster has removed the node that asked.
    pub(super) fn is_asker_removed(&self) -> bool {
        self.asker_removed
    }
}

impl ReplicaReport {
    fn new(this: NodeId, replica: &RaftGroup) -> Self {
        let status = replica.status();
        let leads = status.role == GroupRole::Leader;
        let members = status.members.iter().map(|(node, member)| MemberReport {
            node: *node,
            voter: member.voter,
            matched: member.matched,
            alive: leads && (*node == this || member.heard.is_some_and(|heard| heard < HEARD_MAX)),
        });
        let members: Vec<MemberReport> = members.collect();
        let voters = members.iter().filter(|member| member.voter).count();
        Self {
            group: replica.group(),
            role: status.role,
            term: status.term,
            leader: status.leader,
            last_log: status.last_log.unwrap_or(0),
            committed: status.committed.unwrap_or(0),
            applied: status.last_applied.unwrap_or(0),
            has_majority: leads
                && (voters == 1 || status.since_quorum.is_some_and(|since| since < QUORUM_MAX)),
            members,
        }
    }
}

/// What the nodes say.
#[derive(Clone, Debug, Default)]
pub struct ClusterReport {
    /// The nodes that answered.
    pub nodes: BTreeMap<NodeId, NodeReport>,
}

/// What keeps a node from going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nobody who leads the group has a majority behind it.
    NoLeader(GroupId),
    /// Of the voters that would be left too few are alive.
    NoMajorityWithout(GroupId),
}

impl std::fmt::Display for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoLeader(group) => {
                write!(
                    f,
                    "the group {} has no leader with a majority",
                    Placement::name(*group)
                )
            }
            Self::NoMajorityWithout(group) => write!(
                f,
                "without it the group {} would have no majority that is alive",
                Placement::name(*group)
            ),
        }
    }
}

impl ClusterReport {
    /// What the leader of a group says of it, where it has a majority behind it.
    pub fn leader(&self, group: GroupId) -> Option<(NodeId, &ReplicaReport)> {
        let leading = self.nodes.iter().filter_map(|(node, report)| {
            let replica = report.groups.iter().find(|replica| replica.group == group)?;
            replica.has_majority.then_some((*node, replica))
        });
        leading.max_by_key(|(_, replica)| replica.term)
    }

    /// Whether the groups go on when this node is no member of them any more.
    pub fn hold_without(&self, node: NodeId) -> Option<Hold> {
        let groups = std::iter::once(META).chain(Placement::groups());
        groups.into_iter().find_map(|group| {
            let Some((_, led)) = self.leader(group) else {
                return Some(Hold::NoLeader(group));
            };
            let others = || {
                led.members
                    .iter()
                    .filter(|member| member.voter && member.node != node)
            };
            let alive = others().filter(|member| member.alive).count();
            (alive * 2 <= others().count()).then_some(Hold::NoMajorityWithout(group))
        })
    }

    /// Whether the node votes nowhere; `None` where a group does not tell.
    pub fn votes_nowhere(&self, node: NodeId) -> Option<bool> {
        let mut nowhere = true;
        for group in std::iter::once(META).chain(Placement::groups()) {
            let (_, led) = self.leader(group)?;
            nowhere &= !led
                .members
                .iter()
                .any(|member| member.voter && member.node == node);
        }
        Some(nowhere)
    }
}

impl<H: Host> Node<H> {
    /// What this node says of itself.
    pub fn own_report(&self) -> NodeReport {
        NodeReport {
            incarnation: self.incarnation(),
            clients: self.host().clients(),
            groups: self
                .replicas()
                .iter()
                .map(|replica| ReplicaReport::new(self.this_node(), replica))
                .collect(),
            asker_removed: false,
        }
    }

    /// What all nodes say that answer.
    pub async fn cluster_report(&self) -> ClusterReport {
        let this = self.this_node();
        let others: BTreeSet<NodeId> = {
            let state = self.directory().read();
            state
                .members()
                .map(|(node, _)| node)
                .filter(|node| *node != this)
                .collect()
        };
        let asked = others.into_iter().map(|node| async move {
            let answer = tokio::time::timeout(ANSWER_MAX, self.ask_report(node)).await;
            Some((node, answer.ok()?.ok()?))
        });
        let mut nodes: BTreeMap<NodeId, NodeReport> = join_all(asked).await.into_iter().flatten().collect();
        nodes.insert(this, self.own_report());
        ClusterReport { nodes }
    }

    pub(super) async fn ask_report(&self, node: NodeId) -> Result<NodeReport, AskError> {
        match self
            .peers()
            .ask(node, RequestBody::Report(proto::Report {}))
            .await?
        {
            AnswerBody::Reported(reported) => Ok(read(reported)),
            _ => Err(AskError::Malformed),
        }
    }

    pub(super) fn answer_report(&self, from: NodeId) -> AnswerBody {
        let is_removed = self
            .directory()
            .read()
            .node(from)
            .is_some_and(|record| record.removed);
        AnswerBody::Reported(write(NodeReport {
            asker_removed: is_removed,
            ..self.own_report()
        }))
    }
}

const ROLES: [GroupRole; 5] = [
    GroupRole::Learner,
    GroupRole::Follower,
    GroupRole::Candidate,
    GroupRole::Leader,
    GroupRole::Stopped,
];

fn write(report: NodeReport) -> proto::Reported {
    let member = |member: &MemberReport| proto::ReportedMember {
        node: member.node.0,
        voter: member.voter,
        matched: member.matched,
        alive: member.alive,
    };
    let group = |replica: &ReplicaReport| proto::ReportedGroup {
        group: u32::from(replica.group.0),
        role: ROLES
            .iter()
            .position(|role| *role == replica.role)
            .unwrap_or_default() as u32,
        term: replica.term,
        leader: replica.leader.map_or(0, |leader| leader.0),
        last_log: replica.last_log,
        committed: replica.committed,
        applied: replica.applied,
        has_majority: replica.has_majority,
        members: replica.members.iter().map(member).collect(),
    };
    proto::Reported {
        incarnation: report.incarnation.0,
        clients: report.clients,
        groups: report.groups.iter().map(group).collect(),
        asker_removed: report.asker_removed,
    }
}

fn read(reported: proto::Reported) -> NodeReport {
    let group = |group: proto::ReportedGroup| {
        let members = group.members.iter().map(|member| MemberReport {
            node: NodeId(member.node),
            voter: member.voter,
            matched: member.matched,
            alive: member.alive,
        });
        Some(ReplicaReport {
            group: GroupId(u16::try_from(group.group).ok()?),
            role: *ROLES.get(group.role as usize)?,
            term: group.term,
            leader: (group.leader != 0).then_some(NodeId(group.leader)),
            last_log: group.last_log,
            committed: group.committed,
            applied: group.applied,
            has_majority: group.has_majority,
            members: members.collect(),
        })
    };
    NodeReport {
        incarnation: NodeIncarnation(reported.incarnation),
        clients: reported.clients,
        // A later version may have groups and roles that this one does not know.
        groups: reported.groups.into_iter().filter_map(group).collect(),
        asker_removed: reported.asker_removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every group has these voters, of whom some are alive; node 1 leads all.
    fn cluster(voters: &[u64], alive: &[u64]) -> ClusterReport {
        let member = |node: &u64| MemberReport {
            node: NodeId(*node),
            voter: true,
            matched: Some(5),
            alive: alive.contains(node),
        };
        let replica = |group| ReplicaReport {
            group,
            role: GroupRole::Leader,
            term: 3,
            leader: Some(NodeId(1)),
            last_log: 7,
            committed: 6,
            applied: 5,
            has_majority: alive.len() * 2 > voters.len(),
            members: voters.iter().map(member).collect(),
        };
        let groups = std::iter::once(META).chain(Placement::groups());
        let report = NodeReport {
            incarnation: NodeIncarnation(9),
            clients: 11,
            groups: groups.map(replica).collect(),
            asker_removed: true,
        };
        ClusterReport {
            nodes: BTreeMap::from([(NodeId(1), report)]),
        }
    }

    #[test]
    fn a_report_comes_over_whole() {
        let report = cluster(&[1, 2], &[1])
            .nodes
            .remove(&NodeId(1))
            .expect("it is there");
        assert_eq!(read(write(report.clone())), report);
    }

    #[test]
    fn a_node_goes_only_where_a_majority_of_the_others_is_alive() {
        for (voters, alive, node, hold) in [
            (&[1, 2, 3][..], &[1, 2, 3][..], 3, None),
            (&[1, 2, 3], &[1, 2], 3, None),
            (&[1, 2, 3], &[1, 2], 2, Some(Hold::NoMajorityWithout(META))),
            (&[1, 2], &[1], 2, Some(Hold::NoLeader(META))),
            (&[1], &[1], 1, Some(Hold::NoMajorityWithout(META))),
            (&[1], &[1], 2, None),
        ] {
            let report = cluster(voters, alive);
            assert_eq!(
                report.hold_without(NodeId(node)),
                hold,
                "{voters:?} {alive:?} {node}"
            );
        }
        let mut report = cluster(&[1, 2, 3], &[1, 2, 3]);
        report
            .nodes
            .get_mut(&NodeId(1))
            .expect("it is there")
            .groups
            .pop();
        let last = Placement::groups().last().expect("there are groups");
        assert_eq!(report.hold_without(NodeId(3)), Some(Hold::NoLeader(last)));
        assert_eq!(report.votes_nowhere(NodeId(4)), None, "one group does not tell");
        let report = cluster(&[1, 2, 3], &[1, 2]);
        assert_eq!(report.votes_nowhere(NodeId(4)), Some(true));
        assert_eq!(report.votes_nowhere(NodeId(3)), Some(false));
    }
}
