//! Why a log could not be opened.

use std::io;
use std::path::PathBuf;

use crate::volume::VolumeError;

/// One variant per decision of whoever starts the node.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Records that were synced are damaged or gone: the volume is lost (R44), never start over it.
    #[error("corrupt log: {} at offset {offset}: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Byte offset in it.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// Files of the log are gone, with what was acknowledged and the votes in them: the volume is lost (R44).
    #[error("the log in {} is lost: {reason}", dir.display())]
    Lost {
        /// The log's directory.
        dir: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The log's mark cannot be used.
    #[error(transparent)]
    Mark(#[from] VolumeError),
    /// Written by a newer program.
    #[error("log file {} has format {version}, newer than this program knows", file.display())]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// Its format version.
        version: u32,
    },
    /// A file of another data directory, or renamed.
    #[error("log file {} belongs to another volume or another place in the log", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// The disk failed.
    #[error("log directory {}: {source}", dir.display())]
    Io {
        /// The log's directory.
        dir: PathBuf,
        /// What it said.
        source: io::Error,
    },
}
