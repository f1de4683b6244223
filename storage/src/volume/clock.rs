//! The file `clock`: group time and the wall clock as they were at one moment, noted now and then and at an orderly
//! end. The next start learns from it how long the node was stopped (R32).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::fields::Fields;
use super::{CLOCK, FORMAT_VERSION, Opening, Volume, VolumeError};
use crate::disk::Disk;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockNote {
    /// Group time in milliseconds.
    pub group_millis: u64,
    /// The wall clock, in milliseconds since 1970; 0 where it showed an earlier time.
    pub wall_millis: u64,
}

impl ClockNote {
    /// `group_millis` at the wall clock's time `wall`.
    pub fn new(group_millis: u64, wall: SystemTime) -> Self {
        let since = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self {
            group_millis,
            wall_millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Where a volume keeps the note. Clones write the same file: only one at a time may.
#[derive(Clone, Debug)]
pub struct ClockFile {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Volume {
    /// Where the clocks are noted. Nothing may be written once the volume is closed.
    pub fn clock_file(&self) -> ClockFile {
        ClockFile {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
        }
    }
}

impl ClockFile {
    fn opening(&self) -> Opening<'_> {
        Opening {
            disk: &*self.disk,
            dir: &self.dir,
        }
    }

    /// The last note; `None` where there is none.
    pub fn read(&self) -> Result<Option<ClockNote>, VolumeError> {
        let Some(fields) = self.opening().read(CLOCK)? else {
            return Ok(None);
        };
        match (fields.number("group_millis"), fields.number("wall_millis")) {
            (Some(group_millis), Some(wall_millis)) => Ok(Some(ClockNote {
                group_millis,
                wall_millis,
            })),
            _ => Err(self.opening().corrupt(CLOCK, "a field is missing")),
        }
    }

    /// Replaces the note, durably: after a crash at any point it is this one or the one before.
    pub fn write(&self, note: ClockNote) -> Result<(), VolumeError> {
        let mut fields = Fields::new(FORMAT_VERSION);
        fields.set("group_millis", note.group_millis);
        fields.set("wall_millis", note.wall_millis);
        self.opening().write(CLOCK, fields)
    }
}
