//! Raft groups, the replicated state machines, and the node that runs them.
//!
//! - [`state`]: the replicated state of one group, pure: a function of its log.
//! - [`meta`]: the group that knows the nodes, who of them serves, and where the groups are.
//! - [`lineage`]: whether a node's volume is the one that its last start ran on.
//! - [`raft`]: openraft behind our own types; nothing outside this folder names it.

#[cfg(test)]
mod frames;
pub mod lineage;
pub mod meta;
pub mod node;
pub mod raft;
pub mod state;
