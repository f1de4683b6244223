//! Where Quorate keeps what it promised: the node's log, its state store, checkpoints, identity.
//!
//! - [`log`]: the log of all Raft groups of a node behind one trait: [`wal`] (segmented, one flusher, group commit)
//!   and [`sled_log`] (sled with packed values). [`log_suite`] is what every implementation has to pass.
//! - [`state`]: the checkpointed state of the groups, in sled.
//! - [`disk`]: the file operations everything above goes through, so that tests can put a lying disk below it:
//!   [`faulty`].
//! - [`volume`]: a data directory: its lock, identity, incarnation and format.
//!
//! A node opens its [`volume::Volume`], then the log in `wal_dir()` with the volume's number, then the state store in
//! `sled_dir()` and the checkpointer in `state_dir()`; it replays each group's log from the position that the
//! checkpointer loaded. It closes in the opposite order and notes the clean end last.

pub mod background;
#[cfg(test)]
mod crash_tests;
pub mod disk;
pub mod faulty;
#[doc(hidden)]
pub mod fuzzing;
pub mod log;
pub mod log_suite;
pub mod sled_log;
pub mod state;
pub mod volume;
pub mod wal;
