//! How much of the log stays behind the checkpoints (R45).
//!
//! A replica that lags gets what it lacks from its leader's log; where that starts behind it, a snapshot. A snapshot is all
//! of a group's state, holds its checkpoints up, and the log may have gone on past it when it has arrived. So where the log
//! takes more room than it should, a leader lets go only what every member that answers has; and, where it takes
//! [`ROOM_TIMES`] as much, all that is old.

use std::time::Duration;

use quorate_storage::log::GroupId;

use super::placement::META;
use super::{Host, Node};
use crate::raft::{GroupRole, GroupStatus, RaftGroup};
use crate::state::NodeId;

/// A member that has answered within this time may still catch up from the log.
const HEARD_MAX: Duration = Duration::from_secs(10);

/// So many times the room that the log should take is there for members that lag.
const ROOM_TIMES: usize = 4;

/// The last entry that all members which answer are known to hold; `None` where that binds nobody.
fn held_by_all(status: &GroupStatus, this: NodeId) -> Option<u64> {
    if status.role != GroupRole::Leader {
        return None;
    }
    let others = status.members.iter().filter(|(node, _)| **node != this);
    let present = others.filter(|(_, member)| member.heard.is_some_and(|heard| heard < HEARD_MAX));
    present.map(|(_, member)| member.matched.unwrap_or(0)).min()
}

impl<H: Host> Node<H> {
    /// Lets the oldest entries of a log that has grown too large go, as far as checkpoints have them.
    pub(super) async fn relieve_log(&self) {
        for (group, index) in self.parts().log.crowding(ROOM_TIMES) {
            if let Some(replica) = self.replica_of(group) {
                tracing::debug!(
                    group = group.0,
                    index,
                    "the log takes too much room; who lags gets a snapshot"
                );
                cut(&replica, index).await;
            }
        }
        for (group, index) in self.parts().log.crowding(1) {
            if let Some(replica) = self.replica_of(group) {
                let held = held_by_all(&replica.status(), self.this_node());
                cut(&replica, held.map_or(index, |held| held.min(index))).await;
            }
        }
    }

    fn replica_of(&self, group: GroupId) -> Option<RaftGroup> {
        match group {
            META => self.meta().cloned(),
            group => self.find_group(group).and_then(|group| group.replica()),
        }
    }
}

async fn cut(replica: &RaftGroup, index: u64) {
    if let Err(error) = replica.purge(index).await {
        tracing::error!(group = replica.group().0, %error, "the log is not cut");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::raft::{GroupMember, NodeAddress};

    fn status(role: GroupRole, members: &[(u64, Option<u64>, Option<u64>)]) -> GroupStatus {
        let member = |(node, matched, heard_secs): &(u64, Option<u64>, Option<u64>)| {
            let member = GroupMember {
                address: NodeAddress(String::new()),
                voter: true,
                matched: *matched,
                heard: heard_secs.map(Duration::from_secs),
            };
            (NodeId(*node), member)
        };
        GroupStatus {
            role,
            term: 1,
            leader: None,
            last_log: None,
            committed: None,
            last_applied: None,
            checkpoint: None,
            purged: None,
            since_quorum: None,
            members: members.iter().map(member).collect::<BTreeMap<_, _>>(),
            next_voters: None,
        }
    }

    #[test]
    fn r45_the_log_stays_for_members_that_answer() {
        const THIS: NodeId = NodeId(1);
        let this = (1, Some(90), Some(0));
        let held = |members: &[_]| held_by_all(&status(GroupRole::Leader, members), THIS);
        assert_eq!(
            held(&[this, (2, Some(80), Some(1)), (3, Some(20), Some(1))]),
            Some(20)
        );
        assert_eq!(
            held(&[this, (2, Some(80), Some(1)), (3, Some(20), Some(60))]),
            Some(80),
            "it is away"
        );
        assert_eq!(
            held(&[this, (2, Some(80), Some(1)), (3, Some(20), None)]),
            Some(80),
            "it never answered"
        );
        assert_eq!(
            held(&[this, (2, Some(80), Some(1)), (3, None, Some(1))]),
            Some(0),
            "it is new"
        );
        assert_eq!(held(&[this]), None);
        let follows = status(GroupRole::Follower, &[(2, Some(3), Some(0))]);
        assert_eq!(held_by_all(&follows, THIS), None, "only a leader knows");
    }
}
