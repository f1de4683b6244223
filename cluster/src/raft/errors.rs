//! What can go wrong with a replica, by what the caller does about it.

use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};

use super::machine::StateError;
use super::types::{NodeAddress, TypeConfig};
use crate::state::NodeId;

/// A replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("settings of the group: {0}")]
    Settings(String),
    /// The stored state cannot be used.
    #[error("stored state of the group: {0}")]
    State(#[from] StateError),
    /// The log cannot be used, or does not fit the stored state.
    #[error("stored log of the group: {0}")]
    Stored(String),
}

/// A batch was not answered with its outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead, or may not any more. The batch was not taken and never will be.
    #[error("this replica does not lead the group")]
    NotLeader {
        /// Who leads, as far as this replica knows.
        leader: Option<(NodeId, NodeAddress)>,
    },
    /// The batch was taken; whether it is or will be applied is not known.
    #[error("the outcome of the batch is unknown")]
    Unknown,
    /// The batch is too large, in bytes, and was not taken.
    #[error("a batch of {0} bytes is too large")]
    TooLarge(usize),
    /// The replica has stopped. The batch was not taken.
    #[error("the replica has stopped: {0}")]
    Fatal(String),
}

impl ProposeError {
    pub(super) fn not_leader(leader: ForwardToLeader<TypeConfig>) -> Self {
        let leader = leader
            .leader_id
            .zip(leader.leader_node)
            .map(|(node, address)| (NodeId(node), address));
        Self::NotLeader { leader }
    }

    pub(super) fn from_read(error: LinearizableReadError<TypeConfig>) -> Self {
        match error {
            LinearizableReadError::ForwardToLeader(leader) => Self::not_leader(leader),
            LinearizableReadError::QuorumNotEnough(_) => Self::NotLeader { leader: None },
        }
    }
}

/// A change of members was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// This replica does not lead.
    #[error("this replica does not lead the group")]
    NotLeader {
        /// Who leads, as far as this replica knows.
        leader: Option<(NodeId, NodeAddress)>,
    },
    /// Another change is under way; try again.
    #[error("another change of members is under way")]
    Busy,
    /// The change cannot be made.
    #[error("change of members refused: {0}")]
    Refused(String),
    /// Leadership was lost on the way; the change may or may not take effect.
    #[error("the outcome of the change of members is unknown")]
    Unknown,
    /// The replica has stopped.
    #[error(transparent)]
    Stopped(#[from] GroupStopped),
}

impl MembershipError {
    pub(super) fn from_write(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Self {
        use openraft::errors::ChangeMembershipError as Change;
        match error {
            RaftError::Fatal(fatal) => GroupStopped(fatal.to_string()).into(),
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Self::Unknown,
            RaftError::APIError(ClientWriteError::ForwardToLeader(leader)) => Self::NotLeader {
                leader: leader
                    .leader_id
                    .zip(leader.leader_node)
                    .map(|(node, address)| (NodeId(node), address)),
            },
            RaftError::APIError(ClientWriteError::ChangeMembershipError(
                Change::InProgress(_) | Change::UncommittedLeaderLog(_),
            )) => Self::Busy,
            RaftError::APIError(error) => Self::Refused(error.to_string()),
        }
    }
}

/// A replica has stopped, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replica has stopped: {0}")]
pub struct GroupStopped(pub String);
