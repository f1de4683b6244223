//! A data directory: its lock, identity, incarnation and format.
//!
//! | file | content |
//! |---|---|
//! | `lock` | nothing; locked while a process uses the directory |
//! | `identity` | format, volume, cluster, node: written when the directory is made, and once more when the node joins |
//! | `incarnation` | how often the directory was opened, on which boot of the machine, and whether unsynced data may be lost |
//! | `starts` | the start that the cluster took last, and those offered to it since (R46) |
//! | `clean_shutdown` | the incarnation that ended cleanly |
//! | `log_mark` | the newest segment of the log, so that its loss is noticed |
//! | `recovery` | there while the node's groups are rewritten to go on without a lost majority |
//! | `beginnings` | the groups that began anew, and which time it was (R41) |
//! | `clock` | group time and wall clock at one moment |
//! | `wal/`, `state/` | the log, and the checkpointed state |
//!
//! The files are text (`fields` has the format), replaced as a whole and synced. At every open, before anything else
//! in the directory is touched, the incarnation is raised and synced (R25, R46), so two runs never have the same one,
//! and a directory restored from a copy is recognised by a number that was used before, or by the starts in between that
//! it knows nothing of.
//!
//! Invariants: an identity is made only in a directory without content; what says "the machine lost its power"
//! stays until [`Volume::handle_restart_recovered`], however often the process starts in between (R41).

mod beginnings;
mod clock;
mod fields;
mod log_mark;
mod starts;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{self, Disk, DiskLock, TEMPORARY_SUFFIX};
pub use beginnings::{BeginningsFile, FIRST_BEGINNING};
pub use clock::{ClockFile, ClockNote};
use fields::Fields;
pub use log_mark::{LogMark, LogMarkFile};
pub use starts::{OFFERED_STARTS_MAX, StartsFile};

/// Format of a data directory.
const FORMAT_VERSION: u32 = 1;

const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
const INCARNATION: &str = "incarnation";
const CLEAN_SHUTDOWN: &str = "clean_shutdown";
const BEGINNINGS: &str = "beginnings";
const CLOCK: &str = "clock";
const LOG_MARK: &str = "log_mark";
const RECOVERY: &str = "recovery";
const STARTS: &str = "starts";

/// Random number of a data directory, drawn when it is created. Mixed into the checksums of its log, so that no
/// other directory's records, and no client's payload, can pass for records of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub [u8; 16]);

/// Random number of a cluster, drawn when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

fn write_hex(formatter: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
}

fn random_id() -> [u8; 16] {
    // The standard library's hasher is seeded by the operating system, for each instance anew.
    let half = || RandomState::new().hash_one(std::process::id());
    let mut id = [0; 16];
    id[..8].copy_from_slice(&half().to_le_bytes());
    id[8..].copy_from_slice(&half().to_le_bytes());
    id
}

impl VolumeId {
    /// A new one.
    pub fn random() -> Self {
        Self(random_id())
    }
}

impl ClusterId {
    /// A new one.
    pub fn random() -> Self {
        Self(random_id())
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(formatter, &self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(formatter, &self.0)
    }
}

/// Whose data a directory holds: set once, when the node founds or joins a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node's identifier in it, never reused.
    pub node: u64,
}

/// Why a data directory cannot be used; one variant per decision of the caller.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Another process uses it.
    #[error("data directory {} is in use by another process", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// This process may not write in it, or it is full.
    #[error("data directory {} cannot be written: {source}", dir.display())]
    NotWritable {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One of its files is damaged, or missing where it must be: the volume is lost (R44).
    #[error("data directory is corrupt: {}: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Written by a newer program.
    #[error("data directory {} has format {version}, newer than this program knows ({FORMAT_VERSION})", dir.display())]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        version: u32,
    },
    /// It belongs to another node or cluster already.
    #[error("data directory {} belongs to node {} of cluster {}", dir.display(), present.node, present.cluster)]
    OtherMember {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        present: Membership,
    },
    /// The disk failed.
    #[error("data directory {}: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How the run before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviousRun {
    /// There was none: the directory is new.
    None,
    /// By [`Volume::close_clean`]: everything was synced.
    Clean,
    /// In any other way.
    Unclean,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Incarnation {
    number: u64,
    boot: String,
    /// The machine restarted after an unclean end, and nobody has dealt with it yet.
    restarted: bool,
}

/// An open data directory; the lock is held until it is dropped.
#[derive(Debug)]
pub struct Volume {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    id: VolumeId,
    membership: Mutex<Option<Membership>>,
    incarnation: Mutex<Incarnation>,
    previous: PreviousRun,
    _lock: DiskLock,
}

/// Number of this boot of the machine; random where the system does not tell, so that every start counts as a new
/// boot, which is the safe side.
pub fn boot_id() -> String {
    match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => VolumeId::random().to_string(),
    }
}

struct Opening<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
}

impl Opening<'_> {
    fn io(&self, source: io::Error) -> VolumeError {
        let dir = self.dir.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded => VolumeError::NotWritable { dir, source },
            _ => VolumeError::Io { dir, source },
        }
    }

    fn corrupt(&self, name: &str, reason: &'static str) -> VolumeError {
        VolumeError::Corrupt {
            file: self.dir.join(name),
            reason,
        }
    }

    /// Reads a file of fields; `None` where there is none.
    fn read(&self, name: &str) -> Result<Option<Fields>, VolumeError> {
        let data = match disk::read_small(self.disk, &self.dir.join(name), fields::BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(self.corrupt(name, "it is too long"));
            }
            other => other.map_err(|error| self.io(error))?,
        };
        let Some(data) = data else { return Ok(None) };
        let fields = Fields::parse(&data).ok_or_else(|| self.corrupt(name, "its checksum is wrong"))?;
        let format = fields
            .number("format")
            .ok_or_else(|| self.corrupt(name, "it has no format"))?;
        match u32::try_from(format) {
            Ok(FORMAT_VERSION) => Ok(Some(fields)),
            Ok(version) if version > FORMAT_VERSION => Err(VolumeError::NewerFormat {
                dir: self.dir.to_owned(),
                version,
            }),
            _ => Err(self.corrupt(name, "its format is impossible")),
        }
    }

    fn write(&self, name: &str, fields: Fields) -> Result<(), VolumeError> {
        disk::write_atomically(self.disk, self.dir, name, &fields.encode()).map_err(|error| self.io(error))
    }

    fn write_identity(&self, id: VolumeId, membership: Option<Membership>) -> Result<(), VolumeError> {
        let mut fields = Fields::new(FORMAT_VERSION);
        fields.set("volume", id);
        if let Some(Membership { cluster, node }) = membership {
            fields.set("cluster", cluster);
            fields.set("node", node);
        }
        self.write(IDENTITY, fields)
    }

    /// Reads the identity, or makes one where the directory has no content.
    fn identity(&self, has_content: bool) -> Result<(VolumeId, Option<Membership>), VolumeError> {
        let Some(fields) = self.read(IDENTITY)? else {
            if has_content {
                return Err(self.corrupt(IDENTITY, "it is missing, and the directory is not empty"));
            }
            let id = VolumeId::random();
            self.write_identity(id, None)?;
            return Ok((id, None));
        };
        let broken = || self.corrupt(IDENTITY, "a field is missing");
        let id = VolumeId(fields.id("volume").ok_or_else(broken)?);
        let membership = match (fields.id("cluster"), fields.number("node")) {
            (Some(cluster), Some(node)) => Some(Membership {
                cluster: ClusterId(cluster),
                node,
            }),
            (None, None) => None,
            _ => return Err(broken()),
        };
        Ok((id, membership))
    }

    fn incarnation(&self, has_content: bool) -> Result<Option<Incarnation>, VolumeError> {
        let Some(fields) = self.read(INCARNATION)? else {
            // It is written before the log or the state are made.
            let lost = self.corrupt(INCARNATION, "it is missing, and the directory has content");
            return if has_content { Err(lost) } else { Ok(None) };
        };
        let read = || {
            let number = fields.number("incarnation")?;
            let restarted = fields.number("machine_restarted")? != 0;
            Some(Incarnation {
                number,
                boot: fields.text("boot")?.to_owned(),
                restarted,
            })
        };
        read()
            .map(Some)
            .ok_or_else(|| self.corrupt(INCARNATION, "a field is missing"))
    }

    fn write_incarnation(&self, incarnation: &Incarnation) -> Result<(), VolumeError> {
        let mut fields = Fields::new(FORMAT_VERSION);
        fields.set("incarnation", incarnation.number);
        fields.set("boot", &incarnation.boot);
        fields.set("machine_restarted", u64::from(incarnation.restarted));
        self.write(INCARNATION, fields)
    }

    /// Takes the mark of a clean end away, for good, and says whether it was that of `last`.
    fn take_clean_mark(&self, last: u64) -> Result<bool, VolumeError> {
        let clean = match self.read(CLEAN_SHUTDOWN) {
            Ok(mark) => mark.and_then(|fields| fields.number("incarnation")) == Some(last),
            Err(VolumeError::Corrupt { .. }) => false,
            Err(error) => return Err(error),
        };
        disk::remove_if_present(self.disk, &self.dir.join(CLEAN_SHUTDOWN)).map_err(|error| self.io(error))?;
        self.disk.sync_dir(self.dir).map_err(|error| self.io(error))?;
        Ok(clean)
    }
}

impl Volume {
    /// Opens a data directory for this boot of the machine, making it where there is none.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, VolumeError> {
        Self::open_on_boot(disk, dir, &boot_id())
    }

    /// Opens a data directory as on the given boot of the machine: for the simulator.
    pub fn open_on_boot(disk: Arc<dyn Disk>, dir: &Path, boot: &str) -> Result<Self, VolumeError> {
        let opening = Opening { disk: &*disk, dir };
        disk::create_dir_all_synced(&*disk, dir).map_err(|error| opening.io(error))?;
        let lock = disk
            .try_lock(&dir.join(LOCK))
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => VolumeError::Locked { dir: dir.to_owned() },
                _ => opening.io(error),
            })?;
        let names = disk.list(dir).map_err(|error| opening.io(error))?;
        let ours_or_empty = |name: &String| {
            let small = [LOCK, IDENTITY, INCARNATION, CLEAN_SHUTDOWN, "lost+found"];
            small.contains(&name.as_str()) || name.ends_with(TEMPORARY_SUFFIX)
        };
        let has_content = !names.iter().all(ours_or_empty);
        let (id, membership) =
            opening.identity(has_content || names.iter().any(|name| name == INCARNATION))?;
        let last = opening.incarnation(has_content)?;
        let (incarnation, previous) = match last {
            None => {
                let first = Incarnation {
                    number: 1,
                    boot: boot.to_owned(),
                    restarted: false,
                };
                (first, PreviousRun::None)
            }
            Some(last) => {
                let clean = opening.take_clean_mark(last.number)?;
                let restarts = !clean && last.boot != boot;
                if restarts {
                    // First: once the new boot is noted, nobody can tell any more.
                    opening.distrust_beginnings()?;
                }
                let restarted = last.restarted || restarts;
                let number = last.number + 1;
                let previous = if clean {
                    PreviousRun::Clean
                } else {
                    PreviousRun::Unclean
                };
                (
                    Incarnation {
                        number,
                        boot: boot.to_owned(),
                        restarted,
                    },
                    previous,
                )
            }
        };
        opening.write_incarnation(&incarnation)?;
        Ok(Self {
            disk: Arc::clone(&disk),
            dir: dir.to_owned(),
            id,
            membership: Mutex::new(membership),
            incarnation: Mutex::new(incarnation),
            previous,
            _lock: lock,
        })
    }

    fn opening(&self) -> Opening<'_> {
        Opening {
            disk: &*self.disk,
            dir: &self.dir,
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the log lies.
    pub fn wal_dir(&self) -> PathBuf {
        self.dir.join("wal")
    }

    /// Where checkpoint files and the marker of the state store lie.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where sled keeps the state store.
    pub fn sled_dir(&self) -> PathBuf {
        self.state_dir().join("sled")
    }

    /// The volume's number.
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// Whose data it holds; `None` before the node founded or joined a cluster.
    pub fn membership(&self) -> Option<Membership> {
        *self.membership.lock()
    }

    /// Sets whose data it holds, durably. Once set it never changes: [`VolumeError::OtherMember`].
    pub fn set_membership(&self, membership: Membership) -> Result<(), VolumeError> {
        let mut present = self.membership.lock();
        match *present {
            Some(same) if same == membership => Ok(()),
            Some(present) => Err(VolumeError::OtherMember {
                dir: self.dir.clone(),
                present,
            }),
            None => {
                self.opening().write_identity(self.id, Some(membership))?;
                *present = Some(membership);
                Ok(())
            }
        }
    }

    /// Whether a recovery was begun and has not come to its end: the node must not start.
    pub fn is_recovering(&self) -> Result<bool, VolumeError> {
        Ok(self.opening().read(RECOVERY)?.is_some())
    }

    /// Notes, durably, that a recovery without a majority begins: until its end the groups are neither as before nor whole.
    pub fn begin_recovery(&self) -> Result<(), VolumeError> {
        self.opening().write(RECOVERY, Fields::new(FORMAT_VERSION))
    }

    /// Ends a recovery, durably: the volume belongs to a cluster of another number.
    pub fn end_recovery(&self, membership: Membership) -> Result<(), VolumeError> {
        let mut present = self.membership.lock();
        let opening = self.opening();
        opening.write_identity(self.id, Some(membership))?;
        *present = Some(membership);
        disk::remove_if_present(&*self.disk, &self.dir.join(RECOVERY)).map_err(|error| opening.io(error))?;
        self.disk.sync_dir(&self.dir).map_err(|error| opening.io(error))
    }

    /// Number of this run, one more than the last; 1 in a new directory.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.lock().number
    }

    /// How the run before ended.
    pub fn previous_run(&self) -> PreviousRun {
        self.previous
    }

    /// Whether the machine restarted after an unclean end, so that what was written but not synced may be lost, and
    /// that was not dealt with yet: replicas of written-only groups must neither vote nor acknowledge (R41).
    pub fn machine_restarted(&self) -> bool {
        self.incarnation.lock().restarted
    }

    /// Notes, durably, that all written-only groups were brought up to date after the machine restarted.
    pub fn handle_restart_recovered(&self) -> Result<(), VolumeError> {
        let mut incarnation = self.incarnation.lock();
        if !incarnation.restarted {
            return Ok(());
        }
        let recovered = Incarnation {
            restarted: false,
            ..incarnation.clone()
        };
        self.opening().write_incarnation(&recovered)?;
        *incarnation = recovered;
        Ok(())
    }

    /// Notes a clean end and unlocks. To be called when the log is closed, so that nothing written is unsynced.
    pub fn close_clean(self) -> Result<(), VolumeError> {
        let mut fields = Fields::new(FORMAT_VERSION);
        fields.set("incarnation", self.incarnation());
        self.opening().write(CLEAN_SHUTDOWN, fields)
    }
}
