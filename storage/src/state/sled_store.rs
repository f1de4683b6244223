//! The store in sled 0.34, and the way this crate opens and syncs a sled database.
//!
//! `flush` of sled 0.34 writes its buffer and calls `sync_file_range`: that survives a killed process, not a power
//! cut. So each sync here is `flush`, then fdatasync of sled's main file, `db`, through a handle of our own, and of the
//! files beside it. [`sled_syncs`] is for what happens between two syncs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::sled_blobs::Blobs;
use super::sled_syncs;
use super::{Change, Entry, StateError, StateStore};
use crate::background;
use crate::disk::{self, Disk, RealDisk};

/// Bytes of changes between two syncs where sled does not sync what it writes: a part of what one of its segments holds.
const UNSYNCED_MAX: u64 = 64 << 10;

/// How long to wait for an earlier handle of this process to let go of the database.
const UNLOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct SledOptions {
    /// Bytes of sled's page cache.
    pub cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 32 << 20,
        }
    }
}

/// A sled database with a sync that syncs.
#[derive(Debug)]
pub(crate) struct SyncedDatabase {
    database: sled::Db,
    file: File,
    blobs: Blobs,
    /// The first failed sync: nothing after it is known to be durable.
    failed: Mutex<Option<io::ErrorKind>>,
}

/// sled's error as an I/O error; damage becomes `InvalidData`.
pub(crate) fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

/// Opens a database. One that this process had open a moment ago may still be locked by sled's own threads, which end
/// after the last handle is dropped; other processes are kept off by the lock of the data directory.
fn open_when_unlocked(config: &sled::Config) -> io::Result<sled::Db> {
    let began = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && began.elapsed() < UNLOCK_WAIT_MAX =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other.map_err(io_error),
        }
    }
}

/// The file of sled's pages.
const DATABASE: &str = "db";
/// The file of sled's parameters, in which nothing stands that [`SyncedDatabase::open`] does not say.
const PARAMETERS: &str = "conf";

/// sled writes its parameters once and does not sync them: a power cut leaves any part of the file, with which sled does
/// not open. Without the file it writes a new one.
fn remove_torn_parameters(path: &Path) -> io::Result<()> {
    let path = path.join(PARAMETERS);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes?,
    };
    let is_whole = bytes
        .split_last_chunk()
        .is_some_and(|(text, checksum)| crc32fast::hash(text) == u32::from_le_bytes(*checksum));
    match is_whole {
        true => Ok(()),
        false => fs::remove_file(path),
    }
}

impl SyncedDatabase {
    pub(crate) fn open(path: &Path, options: &SledOptions) -> io::Result<Self> {
        sled_syncs::ensure();
        disk::create_dir_all_synced(&RealDisk, path)?;
        remove_torn_parameters(path)?;
        let config = sled::Config::new()
            .path(path)
            .mode(sled::Mode::HighThroughput)
            .cache_capacity(options.cache_bytes)
            .flush_every_ms(None)
            .use_compression(false);
        let database = open_when_unlocked(&config)?;
        let file = File::options().read(true).write(true).open(path.join(DATABASE))?;
        let opened = Self {
            database,
            file,
            blobs: Blobs::new(path),
            failed: Mutex::new(None),
        };
        opened.sync()?;
        File::open(path.join(PARAMETERS))?.sync_all()?;
        RealDisk.sync_dir(path)?;
        Ok(opened)
    }

    pub(crate) fn tree(&self, name: &str) -> io::Result<sled::Tree> {
        sled_syncs::ensure();
        self.database.open_tree(name).map_err(io_error)
    }

    /// Writes everything to the files: it survives a killed process.
    pub(crate) fn write(&self) -> io::Result<()> {
        self.unless_failed(|| self.database.flush().map(drop).map_err(io_error))
    }

    /// Makes everything survive a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.unless_failed(|| {
            self.database.flush().map_err(io_error)?;
            self.blobs.sync()?;
            self.file.sync_data()
        })
    }

    fn unless_failed(&self, operation: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        sled_syncs::ensure();
        if let Some(kind) = *self.failed.lock() {
            return Err(io::Error::new(kind, "an earlier sync failed"));
        }
        operation().inspect_err(|error| *self.failed.lock() = Some(error.kind()))
    }
}

impl Drop for SyncedDatabase {
    fn drop(&mut self) {
        // sled writes what is left.
        sled_syncs::ensure();
    }
}

/// The state store of a node.
#[derive(Debug)]
pub struct SledStore {
    tree: sled::Tree,
    database: SyncedDatabase,
    path: PathBuf,
    /// Whether sled syncs what it writes. Where it does not, changes are counted and synced before they are too many.
    syncs_itself: bool,
    /// Bytes of changes since the last sync.
    unsynced: AtomicU64,
}

/// Opens a database from a thread that gives way to others, as those that sled starts from it then do: it has some that
/// write for as long as the process lives.
fn open_in_background(path: &Path, options: &SledOptions) -> io::Result<SyncedDatabase> {
    std::thread::scope(|scope| {
        let opening = std::thread::Builder::new()
            .name("store-open".to_owned())
            .spawn_scoped(scope, || {
                background::give_way();
                SyncedDatabase::open(path, options)
            })?;
        let panicked = |_| Err(io::Error::other("opening the state store panicked"));
        opening.join().unwrap_or_else(panicked)
    })
}

impl SledStore {
    /// Opens the store in `path`, or creates an empty one: whether it may be empty is for the
    /// [`Checkpointer`](super::Checkpointer) to know. A store that does not open is [`StateError::StateLost`].
    pub fn open(path: &Path, options: &SledOptions) -> Result<Self, StateError> {
        let opened = open_in_background(path, options).and_then(|database| {
            Ok(Self {
                tree: database.tree("state")?,
                database,
                path: path.join(DATABASE),
                syncs_itself: sled_syncs::ensure(),
                unsynced: AtomicU64::new(0),
            })
        });
        opened.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => StateError::StateLost {
                dir: path.join(DATABASE),
                reason: format!("sled does not open: {error}"),
            },
            _ => StateError::Io(error),
        })
    }
}

#[cfg(test)]
impl SledStore {
    pub(super) fn blobs(&self) -> &Blobs {
        &self.database.blobs
    }
}

impl StateStore for SledStore {
    fn file(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), StateError> {
        let syncs_itself = sled_syncs::ensure() && self.syncs_itself;
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        for (key, value) in changes {
            bytes += (key.len() + value.as_ref().map_or(0, Vec::len)) as u64;
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        if !syncs_itself && self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes > UNSYNCED_MAX {
            self.sync()?;
            self.unsynced.store(bytes, Ordering::Relaxed);
        }
        Ok(self.tree.apply_batch(batch).map_err(io_error)?)
    }

    fn batch_bytes_max(&self) -> usize {
        match self.syncs_itself {
            true => usize::MAX,
            false => UNSYNCED_MAX as usize,
        }
    }

    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        sled_syncs::ensure();
        Ok(self.tree.get(key).map_err(io_error)?.map(|value| value.to_vec()))
    }

    fn range(&self, from: &[u8], until: &[u8], bytes_max: usize) -> Result<Vec<Entry>, StateError> {
        sled_syncs::ensure();
        let mut found = Vec::new();
        let mut bytes = 0;
        if from >= until {
            return Ok(found);
        }
        for entry in self.tree.range(from..until) {
            let (key, value) = entry.map_err(io_error)?;
            bytes += key.len() + value.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((key.to_vec(), value.to_vec()));
        }
        Ok(found)
    }

    fn sync(&self) -> Result<(), StateError> {
        self.unsynced.store(0, Ordering::Relaxed);
        Ok(self.database.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_synced_before_they_are_many_where_sled_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SledStore::open(dir.path(), &SledOptions::default()).unwrap();
        assert!(store.syncs_itself, "this system filters system calls");
        store.syncs_itself = false;
        let unsynced = |store: &SledStore| store.unsynced.load(Ordering::Relaxed);
        let change = || vec![(b"key".to_vec(), Some(vec![0; 30_000]))];
        store.apply(change()).unwrap();
        assert_eq!(unsynced(&store), 30_003);
        store.apply(change()).unwrap();
        assert_eq!(unsynced(&store), 60_006);
        store.apply(change()).unwrap();
        assert_eq!(unsynced(&store), 30_003, "the others are synced");
    }
}
