//! The node: its Raft groups, and the way of a command from a connection into a group's log and back.
//!
//! ```text
//! connection --propose--> Proposer --packed entry--> Raft --committed--> Replica (apply) --events--> Host
//!                                                                          |
//! connection <--completion-- Host <--outcomes-- Proposer <-----------------+
//! connection --pull--> Puller --references--> Host --> connection
//! ```
//!
//! [`Group`] ties one group together. [`Host`] is the broker: it routes by the events, delivers references to
//! connections and takes the outcomes of proposals.

mod backlog;
mod checkpoints;
mod clock;
mod duties;
mod group;
mod host;
mod placement;
mod proposer;
mod puller;
mod replica;
mod retained;
mod shares;
mod start;
#[cfg(test)]
mod tests;
mod wills;

pub use backlog::Backlog;
pub use checkpoints::StateCheckpoints;
pub use clock::GroupClock;
pub use group::Group;
pub use host::{Completion, Host, Location, References, ShareMember, SharedReference};
pub use placement::{DATA_GROUPS, GroupKind, LIVE_GROUPS, Placement};
pub use puller::PullRequest;
pub use start::{Node, NodeSettings, StartError};
