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
//! - `group`, `upkeep`: starting, using and stopping a replica, and what goes on beside it.
//! - `transport`, `wire`, `peer`, `link`, `network`, `server`, `answers`: the messages between nodes, all groups on one connection
//!   per peer and direction, snapshots on connections of their own.
//! - `connection`: how connections come about: TLS, and relays where a link is cut.
//! - `failover`: elections as soon as a leader's process is known to be gone.

mod answers;
mod beside;
mod checkpoint;
mod codec;
mod connection;
mod errors;
mod failover;
mod frame_codec;
mod group;
mod lease;
mod link;
mod log;
mod machine;
mod network;
mod outcome;
mod peer;
mod recovery;
mod server;
mod service;
mod settings;
mod snapshot;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod transport;
mod types;
mod upkeep;
mod wire;

pub use checkpoint::{
    CheckpointService, CheckpointSettings, CheckpointStore, EntryIterator, EntryVisitor, GroupCheckpoint,
    StateChanges,
};
pub use codec::CodecError;
pub use connection::tls::{PeerTls, TlsError, TlsFiles};
pub use connection::{Accepted, ConnectionCount, ConnectionUse, PeerListener};
pub(crate) use connection::{channel, host_of, open, with_sources};
pub use errors::{GroupStopped, MembershipError, ProposeError, StartError};
pub(crate) use frame_codec::FrameCodec;
pub use group::{ADDRESS_BYTES_MAX, BATCH_BYTES_MAX, GroupChanges, NodeParts, RaftGroup};
pub use machine::{ReplicatedState, StateError};
pub use outcome::{AppliedBatch, Proposed};
pub use peer::{Answered, NoAnswer};
pub use recovery::{HeldGroup, begin_empty, inspect, take_over};
pub use server::PeerService;
pub use service::{LargeAnswer, PeerStart, Reply, Service};
pub use settings::GroupSettings;
pub use status::{GroupMember, GroupRole, GroupStatus};
pub use transport::{NodeIdentity, Transport, server_builder};
pub use types::NodeAddress;
