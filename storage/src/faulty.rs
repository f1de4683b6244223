//! A disk in memory that loses, tears and fails: for tests and for the simulator.
//!
//! Deterministic: the same seed and the same calls give the same losses. It keeps for every file what a power cut
//! would leave beside what a reader sees, and for every directory the names that were synced beside those in use.
//!
//! - [`FaultyDisk::crash`] is a power cut: what no completed sync covers is lost, whole, torn or out of order (see
//!   [`CrashMode`]); handles from before it are dead. [`FaultyDisk::kill`] is a killed process: nothing is lost, but
//!   handles and locks are gone.
//! - [`FaultyDisk::crash_at`] cuts the power at the n-th changing operation from now on: that operation and all later
//!   ones fail until `crash` is called.
//! - A sync that was made to fail drops a random part of what it should have covered for good, keeps showing it to
//!   readers, and lets later syncs succeed, as Linux does.

mod countdown;
mod file;
mod inode;
mod names;
mod random;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, DiskLock};
use countdown::Countdown;
use file::FaultyFile;
use inode::{Inode, StaleBlocks};
use names::{Directory, NameChange, apply_name_change};
pub use random::SplitMix;

/// What a power cut leaves of unsynced changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing.
    Lost,
    /// The first so many, the last of them cut at any byte.
    Prefix,
    /// Any sectors of any writes, in any order; what lies between reads as zeros or as what other files left there.
    Sectors,
    /// One of the others, or everything, drawn for each file.
    Any,
}

#[derive(Debug)]
struct Inner {
    random: SplitMix,
    directories: BTreeMap<PathBuf, Directory>,
    inodes: HashMap<u64, Inode>,
    inodes_made: u64,
    locks: BTreeSet<PathBuf>,
    stale: StaleBlocks,
    /// Raised by `crash` and `kill`: handles of an earlier one are dead.
    epoch: u64,
    operations: u64,
    syncs: u64,
    crash_at: Option<u64>,
    down: bool,
    mode: CrashMode,
    ignore_syncs: bool,
    capacity: Option<u64>,
    write_fault: Option<Countdown>,
    sync_fault: Option<Countdown>,
    sync_delay: Duration,
}

/// The disk; clones share it.
#[derive(Clone, Debug)]
pub struct FaultyDisk(Arc<Mutex<Inner>>);

struct HeldLock {
    disk: FaultyDisk,
    path: PathBuf,
    epoch: u64,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let mut inner = self.disk.0.lock();
        if inner.epoch == self.epoch {
            inner.locks.remove(&self.path);
        }
    }
}

fn injected(what: &str) -> io::Error {
    io::Error::other(format!("injected: {what}"))
}

impl Inner {
    /// Counts a changing operation; fails when the power is off, or goes off with this one.
    fn step(&mut self) -> io::Result<()> {
        if self.down {
            return Err(injected("power is off"));
        }
        self.operations += 1;
        if self.crash_at.is_some_and(|at| self.operations >= at) {
            self.down = true;
        }
        Ok(())
    }

    /// After the effect of an operation: its caller does not live to see it succeed when the power went off.
    fn outcome<T>(&self, value: T) -> io::Result<T> {
        if self.down {
            Err(injected("power went off"))
        } else {
            Ok(value)
        }
    }

    fn directory(&mut self, path: &Path) -> io::Result<&mut Directory> {
        self.directories
            .get_mut(path)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes
            .get_mut(&inode)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        self.inodes.values().map(Inode::size).sum()
    }

    fn settle_directories(&mut self) {
        let mode = self.mode;
        for directory in self.directories.values_mut() {
            let kept = match mode {
                CrashMode::Lost => 0,
                _ => self.random.below(directory.pending.len() as u64 + 1) as usize,
            };
            let subset = mode == CrashMode::Sectors || (mode == CrashMode::Any && self.random.one_in(2));
            for (place, change) in directory.pending.drain(..).enumerate() {
                if if subset {
                    self.random.one_in(2)
                } else {
                    place < kept
                } {
                    apply_name_change(&mut directory.durable, &change);
                }
            }
            directory.current = directory.durable.clone();
        }
        let unlinked: Vec<PathBuf> = self
            .directories
            .iter()
            .filter(|(_, it)| !it.linked)
            .map(|(path, _)| path.clone())
            .collect();
        for path in unlinked {
            if mode == CrashMode::Lost || self.random.one_in(2) {
                self.directories.retain(|other, _| !other.starts_with(&path));
            } else if let Some(directory) = self.directories.get_mut(&path) {
                directory.linked = true;
            }
        }
    }

    fn collect_inodes(&mut self) {
        let named: BTreeSet<u64> = self
            .directories
            .values()
            .flat_map(|directory| directory.current.values().copied())
            .collect();
        let stale = &mut self.stale;
        self.inodes.retain(|number, inode| {
            let keep = named.contains(number);
            if !keep {
                stale.keep(inode);
            }
            keep
        });
    }
}

fn split(path: &Path) -> io::Result<(&Path, String)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.to_string_lossy().into_owned())),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

impl FaultyDisk {
    /// An empty disk with the directory `/`; `seed` decides what is lost.
    pub fn new(seed: u64) -> Self {
        let root = Directory {
            linked: true,
            ..Directory::default()
        };
        Self(Arc::new(Mutex::new(Inner {
            random: SplitMix::new(seed),
            directories: BTreeMap::from([(PathBuf::from("/"), root)]),
            inodes: HashMap::new(),
            inodes_made: 0,
            locks: BTreeSet::new(),
            stale: StaleBlocks::default(),
            epoch: 0,
            operations: 0,
            syncs: 0,
            crash_at: None,
            down: false,
            mode: CrashMode::Any,
            ignore_syncs: false,
            capacity: None,
            write_fault: None,
            sync_fault: None,
            sync_delay: Duration::ZERO,
        })))
    }

    /// Sets what later power cuts leave.
    pub fn set_crash_mode(&self, mode: CrashMode) {
        self.0.lock().mode = mode;
    }

    /// A power cut: unsynced changes are lost as [`CrashMode`] says, and the power is on again.
    pub fn crash(&self) {
        let mut guard = self.0.lock();
        let inner = &mut *guard;
        inner.settle_directories();
        let mut numbers: Vec<u64> = inner.inodes.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            if let Some(inode) = inner.inodes.get_mut(&number) {
                inode.settle(inner.mode, &mut inner.random, &inner.stale);
            }
        }
        inner.collect_inodes();
        inner.restart();
    }

    /// A killed process: everything written stays, handles and locks go.
    pub fn kill(&self) {
        self.0.lock().restart();
    }

    /// Cuts the power at the `count`-th changing operation from now (1 is the next), or never.
    pub fn crash_at(&self, count: Option<u64>) {
        let mut inner = self.0.lock();
        inner.crash_at = count.map(|count| inner.operations + count);
    }

    /// Whether the power went off.
    pub fn is_down(&self) -> bool {
        self.0.lock().down
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// File syncs that succeeded so far.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// Counts an operation of a store that lives beside this disk in the same machine: false when the power goes off
    /// with it, so that any part of it may have happened; an error when the power was off before.
    pub fn external_operation(&self) -> io::Result<bool> {
        let mut inner = self.0.lock();
        inner.step()?;
        Ok(!inner.down)
    }

    /// Lets syncs of files and directories succeed without any effect: a disk that lies.
    pub fn set_ignore_syncs(&self, ignore: bool) {
        self.0.lock().ignore_syncs = ignore;
    }

    /// Fails writes with `StorageFull` when all files together would pass `bytes`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Fails one write, after `skip` others, to a file whose path contains `path_part`; a part of it is written.
    pub fn fail_write(&self, path_part: &str, skip: u64) {
        self.0.lock().write_fault = Some(Countdown {
            remaining: skip,
            path_part: path_part.to_owned(),
        });
    }

    /// Fails one sync (of a file or a directory), after `skip` others, of a path that contains `path_part`.
    pub fn fail_sync(&self, path_part: &str, skip: u64) {
        self.0.lock().sync_fault = Some(Countdown {
            remaining: skip,
            path_part: path_part.to_owned(),
        });
    }

    /// Makes every sync take this long.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.0.lock().sync_delay = delay;
    }

    /// Flips bit `bit` (0-7) of byte `offset` of a file, on the platter and in the cache.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let (parent, name) = split(path)?;
        let mut inner = self.0.lock();
        let number = *inner
            .directory(parent)?
            .current
            .get(&name)
            .ok_or(io::ErrorKind::NotFound)?;
        inner.inode(number)?.flip(offset, bit)
    }

    fn sync_strikes(inner: &mut Inner, path: &Path) -> bool {
        Countdown::strikes(&mut inner.sync_fault, path)
    }
}

impl Inner {
    fn restart(&mut self) {
        self.epoch += 1;
        self.down = false;
        self.crash_at = None;
        self.locks.clear();
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.step()?;
        inner.directory(dir.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        inner.directories.entry(dir.to_owned()).or_default();
        inner.outcome(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let (parent, name) = split(path)?;
        let mut inner = self.0.lock();
        inner.step()?;
        inner.inodes_made += 1;
        let number = inner.inodes_made;
        let directory = inner.directory(parent)?;
        if directory.current.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        directory.current.insert(name.clone(), number);
        directory.pending.push(NameChange::Link(name, number));
        inner.inodes.insert(number, Inode::default());
        let file = FaultyFile {
            disk: self.clone(),
            inode: number,
            epoch: inner.epoch,
            path: path.to_owned(),
        };
        inner.outcome(Arc::new(file) as Arc<dyn DiskFile>)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let (parent, name) = split(path)?;
        let mut inner = self.0.lock();
        let number = *inner
            .directory(parent)?
            .current
            .get(&name)
            .ok_or(io::ErrorKind::NotFound)?;
        let file = FaultyFile {
            disk: self.clone(),
            inode: number,
            epoch: inner.epoch,
            path: path.to_owned(),
        };
        inner.outcome(Arc::new(file) as Arc<dyn DiskFile>)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((parent, from), (parent_to, to)) = (split(from)?, split(to)?);
        if parent != parent_to {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        let mut inner = self.0.lock();
        inner.step()?;
        let directory = inner.directory(parent)?;
        let number = directory.current.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        directory.current.insert(to.clone(), number);
        directory.pending.push(NameChange::Rename(from, to, number));
        inner.outcome(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = split(path)?;
        let mut inner = self.0.lock();
        inner.step()?;
        let directory = inner.directory(parent)?;
        directory.current.remove(&name).ok_or(io::ErrorKind::NotFound)?;
        directory.pending.push(NameChange::Unlink(name));
        inner.outcome(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.0.lock();
        let mut names: Vec<String> = inner.directory(dir)?.current.keys().cloned().collect();
        let children = inner.directories.keys().filter(|path| path.parent() == Some(dir));
        names.extend(
            children
                .filter_map(|path| path.file_name())
                .map(|name| name.to_string_lossy().into_owned()),
        );
        names.sort();
        inner.outcome(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut guard = self.0.lock();
        let inner = &mut *guard;
        inner.step()?;
        if Self::sync_strikes(inner, dir) {
            return Err(injected("directory sync error"));
        }
        let skip = inner.ignore_syncs || inner.down;
        let directory = inner.directory(dir)?;
        if !skip {
            for change in directory.pending.drain(..) {
                apply_name_change(&mut directory.durable, &change);
            }
            for (path, child) in &mut inner.directories {
                child.linked |= path.parent() == Some(dir);
            }
        }
        inner.outcome(())
    }

    fn try_lock(&self, path: &Path) -> io::Result<DiskLock> {
        let mut inner = self.0.lock();
        if !inner.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let held = HeldLock {
            disk: self.clone(),
            path: path.to_owned(),
            epoch: inner.epoch,
        };
        inner.outcome(DiskLock::new(held))
    }
}
