//! Keys and values as they lie in the store; the table of keys is in [`state`](super).
//!
//! A value, little endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of the whole key, of the rest of this value, and of the data of all parts |
//! | 4 | 1 | 0: the data follows; 1 and 2: its length follows, the data lies in parts |
//! | 5 | | data, or length u32 |
//!
//! Parts are [`PART_BYTES`] long, the last one shorter, under 2; under 1, as earlier versions wrote them,
//! [`LARGE_PART_BYTES`]. Part `n` of a value is overwritten by part `n` of the next; the batch with the head removes
//! those that are left over.
//!
//! Parts are as short because sled keeps up to 17 keys with their values in a page, and makes a file of its own for a
//! page above 128 KiB. Such a page has next to no weight in sled's cache, which then keeps all of them, however many
//! there are; and it is written anew, as a whole, with every tenth change of it. So the pages are to stay below.

use super::{Change, StateError, StateStore};
use crate::log::{GroupId, LogPosition};
use bytes::Bytes;

/// Longest key of a group: room for two strings of MQTT, of 65,535 bytes each, and some fields. Long keys cost what they
/// weigh: sled keeps up to 17 of them in a page, and writes pages anew.
pub const KEY_BYTES_MAX: usize = 2 * 65_535 + 66;

/// Longest value of a group.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// Longest meta of a group: it is written in one batch with the position.
pub const META_BYTES_MAX: usize = 1 << 20;

/// Bytes of a part, and of the longest value that has none.
pub(super) const PART_BYTES: usize = 4 << 10;

/// Bytes of a part as earlier versions wrote it.
const LARGE_PART_BYTES: usize = 48 << 10;

const PREFIX_BYTES: usize = 6;
const PARTS_BIT: u32 = 1 << 31;
const INLINE: u8 = 0;
const SPLIT_LARGE: u8 = 1;
const SPLIT: u8 = 2;

/// Highest generation: with the bit for parts it stays below the store's own prefix.
pub(super) const GENERATION_MAX: u32 = PARTS_BIT - 2;

/// Key of the store's record.
pub(super) const STORE_KEY: &[u8] = b"\xff\xff\xff\xff\xff\xffstore";

fn prefixed(group: GroupId, generation: u32, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(PREFIX_BYTES + key.len() + 4);
    full.extend_from_slice(&group.0.to_be_bytes());
    full.extend_from_slice(&generation.to_be_bytes());
    full.extend_from_slice(key);
    full
}

/// Store key of a group's key.
pub(super) fn value_key(group: GroupId, generation: u32, key: &[u8]) -> Vec<u8> {
    debug_assert!((1..=GENERATION_MAX).contains(&generation));
    prefixed(group, generation, key)
}

/// Store key of a group's record.
pub(super) fn record_key(group: GroupId) -> Vec<u8> {
    prefixed(group, 0, b"group")
}

/// Group and generation of a store key, the latter with the bit for parts.
pub(super) fn parse_prefix(full: &[u8]) -> Option<(GroupId, u32)> {
    let (prefix, _) = full.split_first_chunk::<PREFIX_BYTES>()?;
    let [a, b, c, d, e, f] = *prefix;
    Some((
        GroupId(u16::from_be_bytes([a, b])),
        u32::from_be_bytes([c, d, e, f]),
    ))
}

/// The group's key in a store key.
pub(super) fn strip_prefix(full: &[u8]) -> &[u8] {
    full.get(PREFIX_BYTES..).unwrap_or_default()
}

/// First store key of a group's generation, and the first behind it.
pub(super) fn generation_range(group: GroupId, generation: u32) -> (Vec<u8>, Vec<u8>) {
    (
        prefixed(group, generation, &[]),
        after_generation(group, generation),
    )
}

/// The range of the parts of a generation's values.
pub(super) fn parts_range(group: GroupId, generation: u32) -> (Vec<u8>, Vec<u8>) {
    generation_range(group, generation | PARTS_BIT)
}

/// First store key behind a generation (with the bit for parts where it has it).
pub(super) fn after_generation(group: GroupId, generation: u32) -> Vec<u8> {
    match (generation.checked_add(1), group.0.checked_add(1)) {
        (Some(next), _) => prefixed(group, next, &[]),
        (None, Some(next)) => prefixed(GroupId(next), 0, &[]),
        (None, None) => vec![0xff; PREFIX_BYTES + KEY_BYTES_MAX],
    }
}

/// The generation without the bit for parts.
pub(super) fn plain_generation(generation: u32) -> u32 {
    generation & !PARTS_BIT
}

/// Key of part `part` of the value at `full`. The number has a fixed length and stands last, so that parts of
/// different keys never collide.
fn part_key(full: &[u8], part: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(full.len() + 4);
    key.extend_from_slice(full);
    if let Some(byte) = key.get_mut(2) {
        *byte |= 0x80;
    }
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Length and parts of a stored value, by its head without the checksum; `None` where it is not split.
fn split_of(rest: &[u8]) -> Option<(usize, u32)> {
    let (part_bytes, length) = match rest {
        [SPLIT, length @ ..] => (PART_BYTES, length),
        [SPLIT_LARGE, length @ ..] => (LARGE_PART_BYTES, length),
        _ => return None,
    };
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    (length <= VALUE_BYTES_MAX).then(|| (length, length.div_ceil(part_bytes) as u32))
}

/// Parts of a stored value by its head; 0 where it has none or is damaged.
fn stored_parts(head: &[u8]) -> u32 {
    let split = head.get(4..).and_then(split_of);
    split.map_or(0, |(_, parts)| parts)
}

fn checksum(full: &[u8], rest: &[u8], data: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&(full.len() as u32).to_le_bytes()), full);
    crc32c::crc32c_append(crc32c::crc32c_append(checksum, rest), data)
}

/// What storing a value at `full` changes: parts that may go into earlier batches, and those that must share one
/// batch. `replaced` is the head that stands there now.
pub(super) struct ValueChanges {
    pub(super) before: Vec<Change>,
    pub(super) together: Vec<Change>,
}

/// Encodes a new value, or a removal.
pub(super) fn encode_value(full: Vec<u8>, value: Option<&[u8]>, replaced: Option<&[u8]>) -> ValueChanges {
    let mut before = Vec::new();
    let mut together = Vec::new();
    let old_parts = replaced.map_or(0, stored_parts);
    let mut new_parts = 0;
    let head = value.map(|data| {
        let mut head = vec![0; 4];
        if data.len() <= PART_BYTES {
            head.push(INLINE);
            head.extend_from_slice(data);
            let checksum = checksum(&full, &head[4..], &[]);
            head[..4].copy_from_slice(&checksum.to_le_bytes());
        } else {
            head.push(SPLIT);
            head.extend_from_slice(&(data.len() as u32).to_le_bytes());
            let checksum = checksum(&full, &head[4..], data);
            head[..4].copy_from_slice(&checksum.to_le_bytes());
            new_parts = data.len().div_ceil(PART_BYTES) as u32;
            let parts = (0..).zip(data.chunks(PART_BYTES));
            before = parts
                .map(|(part, data)| (part_key(&full, part), Some(data.to_vec())))
                .collect();
        }
        head
    });
    together.extend((new_parts..old_parts).map(|part| (part_key(&full, part), None)));
    together.push((full, head));
    ValueChanges { before, together }
}

/// A value as an earlier version wrote it, in parts of [`LARGE_PART_BYTES`].
#[cfg(test)]
pub(super) fn encode_as_earlier(full: Vec<u8>, data: &[u8]) -> Vec<Change> {
    let mut head = vec![0; 4];
    head.push(SPLIT_LARGE);
    head.extend_from_slice(&(data.len() as u32).to_le_bytes());
    let checksum = checksum(&full, &head[4..], data);
    head[..4].copy_from_slice(&checksum.to_le_bytes());
    let parts = (0..).zip(data.chunks(LARGE_PART_BYTES));
    let mut changes: Vec<Change> = parts
        .map(|(part, data)| (part_key(&full, part), Some(data.to_vec())))
        .collect();
    changes.push((full, Some(head)));
    changes
}

/// Reassembles and verifies the value at `full` whose head is given; `None` where it is damaged.
pub(super) fn decode_value(
    store: &dyn StateStore,
    full: &[u8],
    mut head: Vec<u8>,
) -> Result<Option<Vec<u8>>, StateError> {
    let Some((stored, rest)) = head.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let stored = u32::from_le_bytes(*stored);
    if let [INLINE, ..] = rest {
        return match stored == checksum(full, rest, &[]) {
            true => Ok(Some(head.split_off(5))),
            false => Ok(None),
        };
    }
    let Some((length, parts)) = split_of(rest) else {
        return Ok(None);
    };
    let mut data = Vec::new();
    for part in 0..parts {
        let Some(part) = store.read(&part_key(full, part))? else {
            return Ok(None);
        };
        if data.is_empty() {
            // Not before a part is there: a damaged length is not to take so much memory.
            data.reserve_exact(length);
        }
        data.extend_from_slice(&part);
    }
    Ok((data.len() == length && stored == checksum(full, rest, &data)).then_some(data))
}

/// A group's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupRecord {
    pub(super) generation: u32,
    pub(super) position: LogPosition,
    pub(super) meta: Bytes,
}

const RECORD_VERSION: u8 = 1;
const RECORD_FIXED_BYTES: usize = 29;

impl GroupRecord {
    /// Version u8, generation u32, term, leader, index u64, meta; little endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_FIXED_BYTES + self.meta.len());
        bytes.push(RECORD_VERSION);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        for number in [self.position.term, self.position.leader, self.position.index] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.meta);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, meta) = bytes.split_first_chunk::<RECORD_FIXED_BYTES>()?;
        let (version, rest) = fixed.split_first()?;
        let (generation, rest) = rest.split_first_chunk::<4>()?;
        let (term, rest) = rest.split_first_chunk::<8>()?;
        let (leader, rest) = rest.split_first_chunk::<8>()?;
        let (index, _) = rest.split_first_chunk::<8>()?;
        let generation = u32::from_le_bytes(*generation);
        let position = LogPosition {
            term: u64::from_le_bytes(*term),
            leader: u64::from_le_bytes(*leader),
            index: u64::from_le_bytes(*index),
        };
        let known = *version == RECORD_VERSION && (1..=GENERATION_MAX).contains(&generation);
        known.then(|| Self {
            generation,
            position,
            meta: Bytes::copy_from_slice(meta),
        })
    }
}
