//! The checkpointed state of the groups: what apply has built in memory, as of one log index, on disk.
//!
//! ```text
//! dirty part of all groups ---> checkpoint file ---> store, in batches ---> positions ---> file removed
//!                               (synced, renamed)    (synced)               (synced)
//! ```
//!
//! The log is replayed from the position that [`Checkpointer::load`] gives; replaying over half a checkpoint is not
//! idempotent, which is why the file comes first (R42): after a crash it is copied again before anything is read.
//!
//! - [`StateStore`] is an ordered key-value store with atomic batches and an explicit sync: [`SledStore`], and
//!   [`FaultyStore`] for tests.
//! - [`Checkpointer`] lays groups, generations and large values out in it: see [`layout`](self) below.
//!
//! Layout of the store's keys, integers big endian:
//!
//! | key | value |
//! |---|---|
//! | group u16, generation u32, key | a value of the group, or the head of a large one |
//! | group u16, generation u32 with the top bit set, key, part u32 | a part of a large value |
//! | group u16, 0 u32, `group` | the group's record: generation, position, meta |
//! | ff ff ff ff ff ff, `store` | the store's record: format, identity, sequence |
//!
//! Every value starts with a CRC-32C over its key and content; a mismatch is [`StateError::CorruptValue`] (R49).
//! A group's keys carry its generation, so that a snapshot is written beside the old state and swapped in by one
//! batch.

mod batches;
mod checkpointer;
mod faulty;
mod file;
mod fuzzing;
mod layout;
mod marker;
mod reading;
mod recovery;
mod replacement;
mod sled_blobs;
mod sled_store;
pub(crate) mod sled_syncs;
mod snapshot;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use crate::log::GroupId;
pub use checkpointer::{Checkpointer, GroupCheckpoint};
pub use faulty::FaultyStore;
pub(crate) use file::fuzz_decode;
pub(crate) use fuzzing::fuzz_checkpoint;
pub use layout::{KEY_BYTES_MAX, META_BYTES_MAX, VALUE_BYTES_MAX};
pub use replacement::Replacement;
pub use sled_store::{SledOptions, SledStore};
pub(crate) use sled_store::{SyncedDatabase, io_error};
pub use snapshot::{Chunk, SnapshotReader};

/// Why state cannot be read or written; one variant per decision of the caller.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store is gone, went back in time, or cannot be opened: the volume is lost (R44). It must not be started
    /// over empty.
    #[error("the state store in {} is lost: {reason}", dir.display())]
    StateLost {
        /// Directory of the store, or the file of it that is damaged.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A stored value does not fit its checksum: fetch it from another replica, or rebuild this one (R49).
    #[error("corrupt value in group {}, key {}", group.0, key.escape_ascii())]
    CorruptValue {
        /// The group.
        group: GroupId,
        /// The key, as the group knows it.
        key: Vec<u8>,
    },
    /// Written by a newer program.
    #[error("the state store in {} has format {version}, newer than this program knows", dir.display())]
    NewerFormat {
        /// Directory of the store.
        dir: PathBuf,
        /// Its format.
        version: u32,
    },
    /// The disk or the store failed, or the caller asked for what cannot be.
    #[error("state store: {0}")]
    Io(#[from] io::Error),
}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Io(error) => error,
            StateError::CorruptValue { .. } | StateError::StateLost { .. } => {
                io::Error::new(io::ErrorKind::InvalidData, error)
            }
            StateError::NewerFormat { .. } => io::Error::new(io::ErrorKind::Unsupported, error),
        }
    }
}

/// A key and its new value, or its removal.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// An ordered key-value store. What a batch changed is visible at once; whether it survives a crash is open, for each
/// batch as a whole, until [`StateStore::sync`] has returned.
pub trait StateStore: Send + Sync + 'static {
    /// Its main file, for whoever is told that it is damaged; `None` where it has none.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// Bytes of changes that one batch may have, or a little more.
    fn batch_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Applies the changes in order, all or none.
    fn apply(&self, batch: Vec<Change>) -> Result<(), StateError>;

    /// The value of a key.
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// Entries from `from` (inclusive) to `until` (exclusive) in key order: at least one where there is one, then no
    /// more than about `bytes_max` bytes.
    fn range(&self, from: &[u8], until: &[u8], bytes_max: usize) -> Result<Vec<Entry>, StateError>;

    /// Makes everything applied so far survive a power cut.
    fn sync(&self) -> Result<(), StateError>;
}
