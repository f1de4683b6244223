//! A store in memory that loses unsynced batches: for tests and the simulator.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;

use super::{Change, Entry, StateError, StateStore};
use crate::faulty::{FaultyDisk, SplitMix};

#[derive(Debug)]
struct Inner {
    random: SplitMix,
    current: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    pending: Vec<Vec<Change>>,
    ignore_syncs: bool,
    fail_sync: bool,
}

/// The store. It shares the power supply of a [`FaultyDisk`]: its changes count as that disk's operations, and it
/// fails when the power is off; [`FaultyStore::crash`] goes with the disk's.
#[derive(Debug)]
pub struct FaultyStore {
    disk: FaultyDisk,
    inner: Mutex<Inner>,
}

fn apply(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: &[Change]) {
    for (key, value) in batch {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

fn power_off() -> StateError {
    io::Error::other("injected: power went off").into()
}

impl FaultyStore {
    /// An empty store in the machine of `disk`; `seed` decides which batches are lost.
    pub fn new(disk: FaultyDisk, seed: u64) -> Self {
        let inner = Inner {
            random: SplitMix::new(seed),
            current: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            ignore_syncs: false,
            fail_sync: false,
        };
        Self {
            disk,
            inner: Mutex::new(inner),
        }
    }

    /// A power cut: any subset of the batches since the last sync is lost.
    pub fn crash(&self) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        for batch in inner.pending.drain(..) {
            if inner.random.one_in(2) {
                apply(&mut inner.durable, &batch);
            }
        }
        inner.current = inner.durable.clone();
    }

    /// Lets syncs succeed without effect.
    pub fn set_ignore_syncs(&self, ignore: bool) {
        self.inner.lock().ignore_syncs = ignore;
    }

    /// Fails the next sync; what it should have covered is lost with the next crash, as any subset.
    pub fn fail_sync(&self) {
        self.inner.lock().fail_sync = true;
    }

    /// Flips a bit in the value of the first key at or after `key`; false where there is none.
    pub fn flip_bit(&self, key: &[u8], byte: usize) -> bool {
        let mut inner = self.inner.lock();
        let Some(found) = inner
            .current
            .range(key.to_vec()..)
            .next()
            .map(|(key, _)| key.clone())
        else {
            return false;
        };
        let inner = &mut *inner;
        for map in [&mut inner.current, &mut inner.durable] {
            if let Some(byte) = map.get_mut(&found).and_then(|value| value.get_mut(byte)) {
                *byte ^= 1;
            }
        }
        true
    }

    /// Loses everything, or goes back to an earlier [`FaultyStore::copy`].
    pub fn replace_content(&self, content: BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut inner = self.inner.lock();
        inner.pending.clear();
        inner.current = content.clone();
        inner.durable = content;
    }

    /// All keys and values as readers see them.
    pub fn copy(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.inner.lock().current.clone()
    }
}

impl StateStore for FaultyStore {
    fn apply(&self, batch: Vec<Change>) -> Result<(), StateError> {
        let powered = self.disk.external_operation()?;
        let mut inner = self.inner.lock();
        apply(&mut inner.current, &batch);
        inner.pending.push(batch);
        if powered { Ok(()) } else { Err(power_off()) }
    }

    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.inner.lock().current.get(key).cloned())
    }

    fn range(&self, from: &[u8], until: &[u8], bytes_max: usize) -> Result<Vec<Entry>, StateError> {
        let inner = self.inner.lock();
        let mut found = Vec::new();
        let mut bytes = 0;
        for (key, value) in inner.current.range(from.to_vec()..) {
            bytes += key.len() + value.len();
            if key.as_slice() >= until || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push((key.clone(), value.clone()));
        }
        Ok(found)
    }

    fn sync(&self) -> Result<(), StateError> {
        if !self.disk.external_operation()? {
            return Err(power_off());
        }
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if std::mem::take(&mut inner.fail_sync) {
            return Err(io::Error::other("injected: store sync error").into());
        }
        if !inner.ignore_syncs {
            for batch in inner.pending.drain(..) {
                apply(&mut inner.durable, &batch);
            }
        }
        Ok(())
    }
}
