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
mod barrier;
mod beginnings;
mod checkpoints;
mod clock;
mod confirm;
mod crossing;
mod duties;
mod entering;
mod feed;
mod fitness;
mod group;
mod host;
mod judge;
mod leading;
mod lease;
mod leaving;
mod log_room;
mod losses;
mod membership;
mod operate;
mod peers;
mod placement;
mod places;
mod proposer;
mod publish;
mod puller;
mod recall;
mod reconcile;
mod recovery;
mod rediscovery;
mod remote;
mod renewal;
mod replays;
mod replica;
mod replicas;
mod report;
mod retained;
mod retained_waits;
mod seeds;
mod service;
mod shares;
mod stalls;
mod start;
mod steps;
#[cfg(test)]
pub(crate) mod tests;
mod unstored;
mod upkeep;
mod wills;

pub use backlog::Backlog;
pub use barrier::BarrierTurn;
pub use checkpoints::StateCheckpoints;
pub use clock::GroupClock;
pub use crossing::Crossing;
pub use group::Group;
pub use host::{Completion, Host, Location, MemberAt, References, ShareMember, SharedReference};
pub use operate::OperationRefused;
pub use placement::{DATA_GROUPS, GroupKind, LIVE_GROUPS, MEMORY_GROUPS, META, Placement};
pub use publish::Publish;
pub use puller::{PullRequest, SLOT_SIZE};
pub use recovery::HeldCluster;
pub use renewal::ServingLease;
pub use report::{ClusterReport, Hold, MemberReport, NodeReport, ReplicaReport};
pub use seeds::{Found, SeedError, SeedService, SeedSettings, find_cluster};
pub use service::BrokerReply;
pub use shares::{Giving, ShareDelivery, ShareHold};
pub use start::{Node, NodeSettings, StartError};
