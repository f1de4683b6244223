//! How much of the log stays behind the checkpoints (R45).
//!
//! A replica that lags gets what it lacks from its leader's log; where that starts behind it, a snapshot. A snapshot is all
//! of a group's state, holds its checkpoints up, and the log may have gone on past it when it has arrived. So where the log
//! takes more room than it should, a leader lets go only what every member that answers has; and, where it takes
//! [`ROOM_TIMES`] as much, all that is old: no hard bound, since openraft puts a cut off while it sends those entries.

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

/// What may go for the members that answer.
#[derive(Debug, PartialEq, Eq)]
enum Spared {
    /// No member binds this node.
    Nothing,
    /// All of them hold the entries up to this one.
    Behind(u64),
    /// One of them may hold none yet.
    Everything,
}

/// What `this` node has to keep of the group's log.
fn spared(status: &GroupStatus, this: NodeId) -> Spared {
    if status.role != GroupRole::Leader {
        return Spared::Nothing;
    }
    let others = status.members.iter().filter(|(node, _)| **node != this);
    let mut lowest = Spared::Nothing;
    for (_, member) in others {
        if member.heard.is_none_or(|heard| heard >= HEARD_MAX) {
            continue;
        }
        lowest = match (lowest, member.matched) {
            (Spared::Everything, _) | (_, None) => Spared::Everything,
            (Spared::Nothing, Some(matched)) => Spared::Behind(matched),
            (Spared::Behind(lowest), Some(matched)) => Spared::Behind(lowest.min(matched)),
        };
    }
    lowest
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
                match spared(&replica.status(), self.this_node()) {
                    Spared::Nothing => cut(&replica, index).await,
                    Spared::Behind(held) => cut(&replica, held.min(index)).await,
                    Spared::Everything => {}
                }
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
        let of = |members: &[_]| spared(&status(GroupRole::Leader, members), THIS);
        let late = (3, Some(20), Some(1));
        assert_eq!(of(&[this, (2, Some(80), Some(1)), late]), Spared::Behind(20));
        let away = (3, Some(20), Some(60));
        assert_eq!(of(&[this, (2, Some(80), Some(1)), away]), Spared::Behind(80));
        let unheard = (3, Some(20), None);
        assert_eq!(of(&[this, (2, Some(80), Some(1)), unheard]), Spared::Behind(80));
        let new = (3, None, Some(1));
        assert_eq!(of(&[this, new, (2, Some(80), Some(1))]), Spared::Everything);
        assert_eq!(of(&[this, (2, Some(80), Some(1)), new]), Spared::Everything);
        assert_eq!(of(&[this]), Spared::Nothing);
        let follows = status(GroupRole::Follower, &[(2, Some(3), Some(0))]);
        assert_eq!(spared(&follows, THIS), Spared::Nothing, "only a leader knows");
    }
}
