//! The file `log_mark`, beside the log's directory: says that a log is expected there, and up to which segment.
//!
//! A log whose files are gone looks like one that was never written. It is replaced before a new segment takes its first
//! record, so the newest segment that holds anything is the one it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fields::Fields;
use super::{FORMAT_VERSION, LOG_MARK, Opening, Volume, VolumeError};
use crate::disk::Disk;

/// What has to be there of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMark {
    /// The newest segment that may hold records.
    pub segment: u64,
    /// Its length at the orderly end of the last run; `None` after any other end.
    pub bytes: Option<u64>,
}

/// Where the mark is kept.
#[derive(Clone, Debug)]
pub struct LogMarkFile {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Volume {
    /// Where the log's mark is kept; for [`WalOptions::mark`](crate::wal::WalOptions::mark).
    pub fn log_mark_file(&self) -> LogMarkFile {
        LogMarkFile::new(Arc::clone(&self.disk), &self.dir)
    }
}

impl LogMarkFile {
    /// The mark in `dir`, which is not the log's own directory.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
        }
    }

    fn opening(&self) -> Opening<'_> {
        Opening {
            disk: &*self.disk,
            dir: &self.dir,
        }
    }

    /// The mark; `None` where no log was opened yet.
    pub fn read(&self) -> Result<Option<LogMark>, VolumeError> {
        let Some(fields) = self.opening().read(LOG_MARK)? else {
            return Ok(None);
        };
        let missing = || self.opening().corrupt(LOG_MARK, "a field is missing");
        Ok(Some(LogMark {
            segment: fields.number("segment").ok_or_else(missing)?,
            bytes: fields.number("bytes"),
        }))
    }

    /// Replaces the mark, durably.
    pub fn write(&self, mark: LogMark) -> Result<(), VolumeError> {
        let mut fields = Fields::new(FORMAT_VERSION);
        fields.set("segment", mark.segment);
        if let Some(bytes) = mark.bytes {
            fields.set("bytes", bytes);
        }
        self.opening().write(LOG_MARK, fields)
    }
}
