//! The file `beginnings`: which beginning of a group this volume's replica belongs to, where that is not the first, and whether
//! it came to it since the machine last stopped uncleanly.
//!
//! A group whose unsynced log a majority has lost begins anew (R41). What another volume still has of it from before must
//! never meet the new log; what was written to that since then is not lost.

use std::path::PathBuf;
use std::sync::Arc;

use super::fields::Fields;
use super::{BEGINNINGS, FORMAT_VERSION, Opening, Volume, VolumeError};
use crate::disk::Disk;
use crate::log::GroupId;

/// The beginning of a group that never began anew.
pub const FIRST_BEGINNING: u64 = 1;

const TRUSTED: &str = "trusted_";

/// Where a volume keeps them. Clones write the same file: only one at a time may.
#[derive(Clone, Debug)]
pub struct BeginningsFile {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Volume {
    /// Where the beginnings of the groups are noted.
    pub fn beginnings_file(&self) -> BeginningsFile {
        BeginningsFile {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
        }
    }
}

impl Opening<'_> {
    /// The machine has stopped uncleanly: no group's unsynced log is to be trusted.
    pub(super) fn distrust_beginnings(&self) -> Result<(), VolumeError> {
        match self.read(BEGINNINGS)? {
            Some(mut fields) => {
                fields.remove(TRUSTED);
                self.write(BEGINNINGS, fields)
            }
            None => Ok(()),
        }
    }
}

impl BeginningsFile {
    fn opening(&self) -> Opening<'_> {
        Opening {
            disk: &*self.disk,
            dir: &self.dir,
        }
    }

    fn fields(&self) -> Result<Fields, VolumeError> {
        let stored = self.opening().read(BEGINNINGS)?;
        Ok(stored.unwrap_or_else(|| Fields::new(FORMAT_VERSION)))
    }

    /// The beginning that the volume's replica of `group` belongs to; [`FIRST_BEGINNING`] where nothing is noted.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, group: GroupId) -> Result<u64, VolumeError> {
        Ok(self.fields()?.number(&name(group)).unwrap_or(FIRST_BEGINNING))
    }

    /// Whether the replica of `group` came to its beginning since the machine last stopped uncleanly.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_trusted(&self, group: GroupId) -> Result<bool, VolumeError> {
        Ok(self.fields()?.number(&trusted_name(group)) == Some(1))
    }

    /// Notes it, durably: after a crash at any point it is this one or the one before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, group: GroupId, beginning: u64) -> Result<(), VolumeError> {
        let mut fields = self.fields()?;
        fields.set(&name(group), beginning);
        fields.set(&trusted_name(group), 1);
        self.opening().write(BEGINNINGS, fields)
    }
}

fn name(group: GroupId) -> String {
    format!("group_{}", group.0)
}

fn trusted_name(group: GroupId) -> String {
    format!("{TRUSTED}{}", group.0)
}
