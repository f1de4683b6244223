//! The file operations on which everything durable rests, behind a trait so that a lying disk can stand below it.
//!
//! [`RealDisk`] is the operating system's; [`FaultyDisk`](crate::faulty::FaultyDisk) keeps files in memory, loses
//! what was not synced and fails on demand. The log, checkpoint files and the volume go through this trait alone.
//!
//! What a caller may rely on, and nothing more:
//!
//! | done | survives a killed process | survives a power cut |
//! |---|---|---|
//! | `write_at`, `truncate` returned | yes | no, any part of it may, in any order |
//! | `sync_data` of that file returned | yes | yes |
//! | `create`, `rename`, `remove`, `create_dir` returned | yes | no, any subset may |
//! | `sync_dir` of the directory returned | yes | yes |
//! | `sync_data` failed | yes, as cached | no, and a repeated sync that succeeds proves nothing |

use std::any::Any;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// An open file. Offsets and lengths are bytes.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all of `data` at `offset`, extending the file as needed. After an error any part may be written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Reads into `buffer` from `offset`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Length of the file.
    fn size(&self) -> io::Result<u64>;

    /// Cuts the file to `length`.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes content and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
}

/// Keeps a lock until dropped.
#[must_use]
pub struct DiskLock(#[allow(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl DiskLock {
    /// Wraps whatever releases the lock when it is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }
}

impl Debug for DiskLock {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("DiskLock")
    }
}

/// A file system. Names are only durable after [`Disk::sync_dir`] of their directory.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Creates a directory whose parent exists; one that is already there is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Creates an empty file; `AlreadyExists` where the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing; `NotFound` where there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames within one directory, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; handles that are open keep working.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Names of the entries of a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes created, renamed and removed names of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Creates `path` where needed and locks it exclusively; `WouldBlock` where another holder has it.
    fn try_lock(&self, path: &Path) -> io::Result<DiskLock>;
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(
            OpenOptions::new().read(true).write(true).open(path)?,
        )))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn try_lock(&self, path: &Path) -> io::Result<DiskLock> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(DiskLock::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Creates `dir` and whatever is missing above it, each name synced in its parent.
pub fn create_dir_all_synced(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    let existed = disk.list(dir).is_ok();
    if !existed {
        create_dir_all_synced(disk, parent)?;
        disk.create_dir(dir)?;
    }
    match disk.sync_dir(parent) {
        // A directory that stood before us, in a parent that we may not open, is for its owner to have synced.
        Err(error) if existed && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// Suffix of files that are being written; whatever has it after a crash was never complete.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// Replaces the file `name` in `dir`: afterwards, and after a crash at any point, it holds the old content or `data`.
pub fn write_atomically(disk: &dyn Disk, dir: &Path, name: &str, data: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}{TEMPORARY_SUFFIX}"));
    remove_if_present(disk, &temporary)?;
    let file = disk.create(&temporary)?;
    file.write_at(0, data)?;
    file.sync_data()?;
    disk.rename(&temporary, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// Removes a file that may not be there. The directory is not synced.
pub fn remove_if_present(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads a whole small file; `None` where it does not exist, `InvalidData` where it is longer than `bytes_max`.
pub fn read_small(disk: &dyn Disk, path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let size = file.size()?;
    if size > bytes_max as u64 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{size} bytes, more than {bytes_max}"),
        ));
    }
    let mut data = vec![0; size as usize];
    let read = file.read_at(0, &mut data)?;
    data.truncate(read);
    Ok(Some(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exercise(disk: &dyn Disk, dir: &Path) {
        let nested = dir.join("a/b");
        create_dir_all_synced(disk, &nested).unwrap();
        create_dir_all_synced(disk, &nested).unwrap();
        let path = nested.join("file");
        let file = disk.create(&path).unwrap();
        assert_eq!(
            disk.create(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        file.write_at(0, b"hello").unwrap();
        file.write_at(8, b"world").unwrap();
        assert_eq!(file.size().unwrap(), 13);
        let mut buffer = [9; 20];
        assert_eq!(file.read_at(3, &mut buffer).unwrap(), 10);
        assert_eq!(&buffer[..10], b"lo\0\0\0world");
        file.truncate(2).unwrap();
        file.sync_data().unwrap();
        disk.rename(&path, &nested.join("other")).unwrap();
        disk.sync_dir(&nested).unwrap();
        assert_eq!(disk.list(&nested).unwrap(), ["other"]);
        assert_eq!(disk.open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(
            read_small(disk, &nested.join("other"), 2).unwrap().unwrap(),
            b"he"
        );
        assert!(read_small(disk, &nested.join("other"), 1).is_err());
        write_atomically(disk, &nested, "other", b"replaced").unwrap();
        assert_eq!(
            read_small(disk, &nested.join("other"), 100).unwrap().unwrap(),
            b"replaced"
        );
        disk.remove(&nested.join("other")).unwrap();
        assert_eq!(read_small(disk, &nested.join("other"), 100).unwrap(), None);
        assert_eq!(
            file.read_at(0, &mut buffer).unwrap(),
            2,
            "an open handle outlives the name"
        );
        assert!(disk.list(&nested.join("none")).is_err());

        let lock = disk.try_lock(&dir.join("lock")).unwrap();
        assert_eq!(
            disk.try_lock(&dir.join("lock")).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(lock);
        drop(disk.try_lock(&dir.join("lock")).unwrap());
    }

    #[test]
    fn the_real_disk_does_what_the_trait_says() {
        let dir = tempfile::tempdir().unwrap();
        exercise(&RealDisk, dir.path());
    }

    #[test]
    fn the_faulty_disk_without_faults_does_what_the_trait_says() {
        exercise(&crate::faulty::FaultyDisk::new(1), Path::new("/"));
    }
}
