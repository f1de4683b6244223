//! The files of its own that sled 0.34 makes for each page above 128 KiB, in its directory `blobs`.
//!
//! sled writes them and never syncs them. Pages of that size are common: up to 17 keys and values share one. So our
//! syncs sync them as well; after a power cut a page would be missing otherwise, behind a log that was purged.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::disk::{Disk, RealDisk};

/// The files, and which are synced.
#[derive(Debug)]
pub(super) struct Blobs {
    dir: PathBuf,
    /// Lengths of the files that are synced: one that has grown since was still being written.
    synced: Mutex<HashMap<OsString, u64>>,
}

impl Blobs {
    /// The files of the database in `path`, none of which is known to be synced.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            dir: path.join("blobs"),
            synced: Mutex::default(),
        }
    }

    /// Syncs what is new.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut before = self.synced.lock();
        let mut synced = HashMap::with_capacity(before.len());
        let mut any = false;
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            let name = file.file_name();
            match sync_file(&file.path(), before.get(&name).copied()) {
                // sled removes what it needs no more at any time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(length) => {
                    any |= before.get(&name) != Some(&length);
                    synced.insert(name, length);
                }
            }
        }
        if any {
            RealDisk.sync_dir(&self.dir)?;
        }
        *before = synced;
        Ok(())
    }

    /// How many files there are, and of how many the last sync knows nothing. sled removes some meanwhile.
    #[cfg(test)]
    fn count(&self) -> (usize, usize) {
        let synced = self.synced.lock();
        let names: Vec<_> = fs::read_dir(&self.dir)
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        let unknown = names.iter().filter(|name| !synced.contains_key(*name));
        (names.len(), unknown.count())
    }
}

/// Syncs a file unless it has the length that it was synced with; returns its length.
fn sync_file(path: &Path, synced: Option<u64>) -> io::Result<u64> {
    let length = fs::metadata(path)?.len();
    if synced != Some(length) {
        File::open(path)?.sync_all()?;
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::super::{SledOptions, SledStore, StateStore};
    use super::*;

    #[test]
    fn a_sync_covers_the_files_that_sled_makes_for_large_pages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sled");
        let store = SledStore::open(&path, &SledOptions::default()).unwrap();
        let mut most = 0;
        for round in 0..20_u8 {
            let batch = (0..20_u8).map(|key| (vec![key], Some(vec![round; 40_000])));
            store.apply(batch.collect()).unwrap();
            store.sync().unwrap();
            let (files, unsynced) = store.blobs().count();
            assert_eq!(unsynced, 0, "round {round}");
            most = most.max(files);
        }
        assert!(most > 0, "sled makes such files");
        drop(store);
        let store = SledStore::open(&path, &SledOptions::default()).unwrap();
        assert_eq!(store.blobs().count().1, 0, "those of an earlier run as well");
    }

    #[test]
    fn a_file_that_was_still_growing_is_synced_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("blobs")).unwrap();
        let path = dir.path().join("blobs/1");
        let blobs = Blobs::new(dir.path());
        fs::write(&path, b"half").unwrap();
        blobs.sync().unwrap();
        fs::write(&path, b"half and half").unwrap();
        blobs.sync().unwrap();
        assert_eq!(blobs.synced.lock().values().copied().collect::<Vec<_>>(), [13]);
        fs::remove_file(&path).unwrap();
        blobs.sync().unwrap();
        assert!(blobs.synced.lock().is_empty());
    }
}
