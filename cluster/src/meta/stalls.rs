//! Starts of nodes whose publishers may have been told that a message is delivered which another start has not accepted
//! (R4).
//!
//! A start has this noted before it answers any such publisher, and taken back when all is accepted. Where it ends while
//! the note stands, the other one learns from the view that it may have missed something, however late it learns of it.

use super::proto;
use super::state::{MetaState, Rejected};
use crate::state::{NodeId, NodeIncarnation};

/// What a start of a node has last said of a start of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Who said it.
    pub incarnation: NodeIncarnation,
    /// Of whom.
    pub peer_incarnation: NodeIncarnation,
    /// Rises with everything that it says of it: what comes late, or again, changes nothing.
    pub number: u64,
    /// It may have answered publishers of messages that the other one has not accepted.
    pub stalled: bool,
}

impl MetaState {
    pub(super) fn set_stalled(&mut self, said: &proto::Stall) -> Result<(), Rejected> {
        let (key, stall) = stall_of(said);
        let (node, peer) = key;
        let serves =
            self.view.holds(node, stall.incarnation) && self.view.holds(peer, stall.peer_incarnation);
        let is_new = self
            .stalls
            .get(&key)
            .is_none_or(|last| last.number < stall.number || *last == stall);
        if node == peer || !serves || !is_new {
            return Err(Rejected::Outdated);
        }
        self.stalls.insert(key, stall);
        Ok(())
    }

    /// The start of a node has left the view, which has got a new number.
    pub(super) fn end_stalls(&mut self, node: NodeId) {
        let number = self.view.number;
        for ((of, peer), stall) in &self.stalls {
            if *of == node
                && stall.stalled
                && let Some(serving) = self.view.serving.get_mut(peer)
                && serving.incarnation == stall.peer_incarnation
            {
                serving.missed = number;
            }
        }
        self.stalls.retain(|(of, peer), _| *of != node && *peer != node);
    }

    /// What the start of `node` that serves has last said of the one of `peer`.
    pub fn stall(&self, node: NodeId, peer: NodeId) -> Option<&Stall> {
        self.stalls.get(&(node, peer))
    }
}

/// As a command and a record have it.
pub(super) fn stall_body((node, peer): (NodeId, NodeId), stall: &Stall) -> proto::Stall {
    proto::Stall {
        node: node.0,
        incarnation: stall.incarnation.0,
        peer: peer.0,
        peer_incarnation: stall.peer_incarnation.0,
        number: stall.number,
        stalled: stall.stalled,
    }
}

pub(super) fn stall_of(body: &proto::Stall) -> ((NodeId, NodeId), Stall) {
    let stall = Stall {
        incarnation: NodeIncarnation(body.incarnation),
        peer_incarnation: NodeIncarnation(body.peer_incarnation),
        number: body.number,
        stalled: body.stalled,
    };
    ((NodeId(body.node), NodeId(body.peer)), stall)
}
