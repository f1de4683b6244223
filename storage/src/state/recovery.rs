//! Opening the store: is it the one that is expected, what does it hold, what is left over in it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use super::checkpointer::FILE_NAME;
use super::layout::{self, GroupRecord, STORE_KEY};
use super::marker::Marker;
use super::{StateError, StateStore};
use crate::disk::Disk;
use crate::log::GroupId;

const FORMAT_VERSION: u32 = 1;

/// Longest page read while keys are deleted.
const PAGE_BYTES: usize = 1 << 20;

/// What the store says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreRecord {
    pub(super) identity: u64,
    pub(super) sequence: u64,
}

impl StoreRecord {
    /// Version u32, identity u64, sequence u64; little endian.
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = FORMAT_VERSION.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.identity.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(u32, Self)> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        let (identity, rest) = rest.split_first_chunk::<8>()?;
        let (sequence, _) = rest.split_first_chunk::<8>()?;
        let record = Self {
            identity: u64::from_le_bytes(*identity),
            sequence: u64::from_le_bytes(*sequence),
        };
        Some((u32::from_le_bytes(*version), record))
    }
}

fn lost(dir: &Path, reason: &str) -> StateError {
    StateError::StateLost {
        dir: dir.to_owned(),
        reason: reason.to_owned(),
    }
}

/// What the store itself holds is not what was there.
fn store_lost(dir: &Path, store: &dyn StateStore, reason: &str) -> StateError {
    lost(store.file().unwrap_or(dir), reason)
}

fn read_store_record(dir: &Path, store: &dyn StateStore) -> Result<Option<StoreRecord>, StateError> {
    let Some(head) = store.read(STORE_KEY)? else {
        return Ok(None);
    };
    let value = layout::decode_value(store, STORE_KEY, head)?;
    match value.as_deref().and_then(StoreRecord::decode) {
        Some((FORMAT_VERSION, record)) => Ok(Some(record)),
        Some((version, _)) => Err(StateError::NewerFormat {
            dir: dir.to_owned(),
            version,
        }),
        None => Err(store_lost(dir, store, "its own record is damaged")),
    }
}

/// Finds the store's record, or makes it in a new store; an error where marker and store do not fit (R44).
pub(super) fn identify(
    disk: &dyn Disk,
    dir: &Path,
    store: &dyn StateStore,
) -> Result<StoreRecord, StateError> {
    let marker = Marker::read(disk, dir)?;
    let record = read_store_record(dir, store)?;
    match (marker, record) {
        (Some(None), _) => Err(lost(dir, "the file `initialised` is damaged")),
        (Some(Some(_)), None) => Err(store_lost(dir, store, "it is empty")),
        (Some(Some(marker)), Some(record)) if marker.store != record.identity => {
            Err(store_lost(dir, store, "it is not the store that was here"))
        }
        (Some(Some(marker)), Some(record)) if marker.sequence > record.sequence => {
            Err(store_lost(dir, store, "it went back to an older state"))
        }
        (Some(Some(_)), Some(record)) => Ok(record),
        (None, record) => {
            // New, or cut off between the record and the marker: then there is nothing else yet.
            let untouched = record.is_none_or(|record| record.sequence == 0);
            let has_groups = !store.range(&[], STORE_KEY, 1)?.is_empty();
            let has_file = disk.list(dir)?.iter().any(|name| name == FILE_NAME);
            if !untouched || has_groups || has_file {
                return Err(lost(dir, "the file `initialised` is missing"));
            }
            let record = record.unwrap_or_else(|| StoreRecord {
                identity: RandomState::new().hash_one("store identity"),
                sequence: 0,
            });
            let changes = layout::encode_value(STORE_KEY.to_vec(), Some(&record.encode()), None);
            store.apply(changes.together)?;
            store.sync()?;
            Marker {
                store: record.identity,
                sequence: 0,
            }
            .write(disk, dir)?;
            Ok(record)
        }
    }
}

type Groups = BTreeMap<GroupId, GroupRecord>;

/// Reads all groups' records, and finds the generations that belong to none. Reads one key of each generation.
pub(super) fn scan_groups(
    dir: &Path,
    store: &dyn StateStore,
) -> Result<(Groups, Vec<(GroupId, u32)>), StateError> {
    let mut groups = Groups::new();
    let mut garbage = Vec::new();
    let mut from = Vec::new();
    while let Some((key, head)) = store.range(&from, STORE_KEY, 1)?.into_iter().next() {
        let Some((group, generation)) = layout::parse_prefix(&key) else {
            return Err(store_lost(dir, store, "it holds keys that are not ours"));
        };
        from = layout::after_generation(group, generation);
        match layout::plain_generation(generation) {
            0 if generation == 0 => {
                let value = layout::decode_value(store, &key, head)?;
                let record = value.as_deref().and_then(GroupRecord::decode);
                let record = record.filter(|_| key == layout::record_key(group));
                let record = record.ok_or_else(|| {
                    store_lost(dir, store, &format!("the record of group {} is damaged", group.0))
                })?;
                groups.insert(group, record);
            }
            0 => {}
            plain => {
                let used = groups
                    .get(&group)
                    .is_some_and(|record| record.generation == plain);
                if !used && !garbage.contains(&(group, plain)) {
                    garbage.push((group, plain));
                }
            }
        }
    }
    Ok((groups, garbage))
}

/// Deletes up to `keys_max` keys of a generation; true when none was left.
pub(super) fn delete_some(
    store: &dyn StateStore,
    group: GroupId,
    generation: u32,
    keys_max: usize,
) -> Result<bool, StateError> {
    for (from, until) in [
        layout::parts_range(group, generation),
        layout::generation_range(group, generation),
    ] {
        let page = store.range(&from, &until, PAGE_BYTES)?;
        if !page.is_empty() {
            store.apply(
                page.into_iter()
                    .take(keys_max)
                    .map(|(key, _)| (key, None))
                    .collect(),
            )?;
            return Ok(false);
        }
    }
    Ok(true)
}
