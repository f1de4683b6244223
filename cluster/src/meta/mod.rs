//! The group `meta`: which nodes there are, which of them serve (the view, R1), and where the groups are (R47).
//!
//! [`MetaState`] is the replicated state, a pure function of its log. The node keeps it in a [`Directory`], which the
//! rest of the node reads and watches. Every command can be repeated: it says what is to be, not what is to change.

mod command;
mod directory;
mod records;
mod replica;
mod stalls;
mod state;
#[cfg(test)]
pub(crate) mod tests;

pub use command::MetaCommand;
pub use directory::Directory;
pub use replica::MetaReplica;
pub use stalls::Stall;
pub use state::{GroupPlacement, MetaState, NodeRecord, Rejected, Serving, View};

/// The features that this program knows (R50). Whatever changes what apply does with an entry, or needs an entry or a
/// message that earlier programs do not understand, raises it by one, and is used when
/// [`MetaState::feature_level`] has reached that: all members know it then.
pub const FEATURE_LEVEL: u32 = 1;

/// What `proto/proto/meta.proto` declares.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    tonic::include_proto!("quorate.meta.v1");
}
