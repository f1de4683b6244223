//! Where Quorate keeps what it promised: the node's log, its state store, checkpoints, identity.
//!
//! - [`log`]: the log of all Raft groups of a node behind one trait: [`wal`] (segmented, one flusher, group commit)
//!   and [`sled_log`] (sled with packed values).
//! - [`state`]: the checkpointed state of the groups, in sled.
//! - [`disk`]: the file operations everything above goes through, so that tests can put a lying disk below it.
//! - [`volume`]: a data directory: its lock, identity, incarnation and format.

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
