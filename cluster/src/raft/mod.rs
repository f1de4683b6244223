//! openraft behind our own types.
//!
//! One [`RaftGroup`] is one replica of one group. What it replicates is a [`ReplicatedState`]; its log is the node's
//! log, its snapshots are the group's checkpoints. The flow of a proposal:
//!
//! ```text
//! propose -> openraft -> log (append, sync) ----> committed -> machine -> ReplicatedState::apply -> outcome
//!                     \-> network -> follower's log /             \-> checkpoint service -> state store
//! ```
//!
//! - `types`, `codec`: openraft's types for this crate and their bytes.
//! - `log`: openraft's log store over [`quorate_storage::log::Log`].
//! - `machine`: openraft's state machine over [`ReplicatedState`].
//! - `checkpoint`, `lease`, `snapshot`: checkpoints of all groups of a node, and snapshots for replicas that lag.
//! - `group`: starting, using and stopping a replica.

mod checkpoint;
mod codec;
mod errors;
mod group;
mod lease;
mod log;
mod machine;
#[cfg(test)]
mod memory_log;
mod snapshot;
mod status;
mod transport;
mod types;

pub use checkpoint::{
    CheckpointService, CheckpointSettings, CheckpointStore, EntryIterator, EntryVisitor, GroupCheckpoint,
    StateChanges,
};
pub use codec::CodecError;
pub use errors::{GroupStopped, MembershipError, ProposeError, StartError};
pub use group::{ADDRESS_BYTES_MAX, BATCH_BYTES_MAX, GroupChanges, GroupSettings, NodeParts, RaftGroup};
pub use machine::{ReplicatedState, StateError};
pub use status::{GroupMember, GroupRole, GroupStatus};
pub use transport::{NodeIdentity, Transport};
pub use types::NodeAddress;
