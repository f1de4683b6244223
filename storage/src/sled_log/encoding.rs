//! Keys and values of the two trees.
//!
//! | tree | key, big endian | value, little endian |
//! |---|---|---|
//! | `log` | group u16, index u64, part u16 = 0 | CRC-32C u32 of key and rest, term u64, leader u64, payload length u32, CRC-32C u32 of the payload, first part of the payload |
//! | `log` | group u16, index u64, part u16 | that part of the payload |
//! | `hard state` | group u16, `v`, `c` or `p` | CRC-32C u32 of the rest, the vote; for committed and purged: term, leader, index u64 |
//! | `hard state` | group u16, `r` | nothing: the group was reset, and its entries are being removed |
//!
//! A part is 48 KiB: sled makes a file of its own for longer values.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::{Group, Held};
use crate::log::{GroupId, LogEntry, LogPosition};

/// Longest payload.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Longest vote.
pub(super) const VOTE_BYTES_MAX: usize = 32 << 10;

const PART_BYTES: usize = 48 << 10;
const KEY_BYTES: usize = 12;
const HEAD_BYTES: usize = 28;

pub(super) use crate::state::io_error;

pub(super) fn corrupt(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("corrupt log: {what}"))
}

/// What a key of the hard state holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateKind {
    Vote = b'v' as isize,
    Committed = b'c' as isize,
    Purged = b'p' as isize,
    Reset = b'r' as isize,
}

pub(super) fn state_key(group: GroupId, kind: StateKind) -> [u8; 3] {
    let [high, low] = group.0.to_be_bytes();
    [high, low, kind as u8]
}

fn key(group: GroupId, index: u64, part: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0..2].copy_from_slice(&group.0.to_be_bytes());
    key[2..10].copy_from_slice(&index.to_be_bytes());
    key[10..12].copy_from_slice(&part.to_be_bytes());
    key
}

/// All keys of a group up to an index.
pub(super) fn group_range(group: GroupId, to: u64) -> RangeInclusive<[u8; KEY_BYTES]> {
    key(group, 0, 0)..=key(group, to, u16::MAX)
}

fn decode_key(bytes: &[u8]) -> io::Result<(GroupId, u64, u16)> {
    let decode = || {
        let (group, rest) = bytes.split_first_chunk::<2>()?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        let part = rest.first_chunk::<2>().filter(|_| rest.len() == 2)?;
        Some((
            GroupId(u16::from_be_bytes(*group)),
            u64::from_be_bytes(*index),
            u16::from_be_bytes(*part),
        ))
    };
    decode().ok_or_else(|| corrupt("a key"))
}

/// Parts of a payload beyond the one in the head.
fn further_parts(payload_bytes: u32) -> u16 {
    (payload_bytes as usize)
        .saturating_sub(1)
        .checked_div(PART_BYTES)
        .unwrap_or_default() as u16
}

pub(super) fn insert_entry(batch: &mut sled::Batch, group: GroupId, entry: &LogEntry) {
    let LogPosition { term, leader, index } = entry.position;
    let mut parts = (0..).zip(entry.payload.chunks(PART_BYTES));
    let first = parts.next().map_or(&[][..], |(_, first)| first);
    let mut head = vec![0; 4];
    head.extend_from_slice(&term.to_le_bytes());
    head.extend_from_slice(&leader.to_le_bytes());
    head.extend_from_slice(&(entry.payload.len() as u32).to_le_bytes());
    head.extend_from_slice(&crc32c::crc32c(&entry.payload).to_le_bytes());
    let key_of_head = key(group, index, 0);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&key_of_head), &head[4..]);
    head[..4].copy_from_slice(&checksum.to_le_bytes());
    head.extend_from_slice(first);
    batch.insert(key_of_head.as_slice(), head);
    for (part, data) in parts {
        batch.insert(key(group, index, part).as_slice(), data);
    }
}

/// Removes an entry and its parts, the last first; the number of keys.
pub(super) fn remove_entry(batch: &mut sled::Batch, group: GroupId, index: u64, payload_bytes: u32) -> usize {
    let parts = further_parts(payload_bytes);
    for part in (0..=parts).rev() {
        batch.remove(key(group, index, part).as_slice());
    }
    usize::from(parts) + 1
}

struct Head<'a> {
    held: Held,
    payload_checksum: u32,
    first: &'a [u8],
}

fn decode_head<'a>(key: &[u8], value: &'a [u8]) -> io::Result<Head<'a>> {
    let decode = || {
        let (fixed, first) = value.split_first_chunk::<HEAD_BYTES>()?;
        let (checksum, rest) = fixed.split_first_chunk::<4>()?;
        if crc32c::crc32c_append(crc32c::crc32c(key), rest) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (term, rest) = rest.split_first_chunk::<8>()?;
        let (leader, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let payload_checksum = u32::from_le_bytes(*rest.first_chunk::<4>()?);
        let held = Held {
            term: u64::from_le_bytes(*term),
            leader: u64::from_le_bytes(*leader),
            payload_bytes: u32::from_le_bytes(*length),
        };
        (held.payload_bytes as usize <= PAYLOAD_BYTES_MAX).then_some(Head {
            held,
            payload_checksum,
            first,
        })
    };
    decode().ok_or_else(|| corrupt(&format!("the entry at key {}", key.escape_ascii())))
}

/// Reads and verifies the payload of an entry that is held.
pub(super) fn read_payload(tree: &sled::Tree, group: GroupId, index: u64) -> io::Result<Bytes> {
    let broken = || corrupt(&format!("entry {index} of group {}", group.0));
    let part = |number: u16| {
        tree.get(key(group, index, number))
            .map_err(io_error)?
            .ok_or_else(broken)
    };
    let value = part(0)?;
    let head = decode_head(&key(group, index, 0), &value)?;
    let mut payload = head.first.to_vec();
    for number in 1..=further_parts(head.held.payload_bytes) {
        payload.extend_from_slice(&part(number)?);
    }
    let fits = payload.len() == head.held.payload_bytes as usize
        && crc32c::crc32c(&payload) == head.payload_checksum;
    if fits {
        Ok(Bytes::from(payload))
    } else {
        Err(broken())
    }
}

/// A value of the hard state behind its checksum.
pub(super) fn encode_state(value: &[u8]) -> Vec<u8> {
    let mut bytes = crc32c::crc32c(value).to_le_bytes().to_vec();
    bytes.extend_from_slice(value);
    bytes
}

fn decode_state(bytes: &[u8]) -> io::Result<&[u8]> {
    let intact = bytes
        .split_first_chunk::<4>()
        .filter(|(checksum, value)| u32::from_le_bytes(**checksum) == crc32c::crc32c(value));
    intact
        .map(|(_, value)| value)
        .ok_or_else(|| corrupt("a value of the hard state"))
}

pub(super) fn encode_position(position: LogPosition) -> Vec<u8> {
    let numbers = [position.term, position.leader, position.index];
    encode_state(&numbers.map(u64::to_le_bytes).concat())
}

fn decode_position(bytes: &[u8]) -> io::Result<LogPosition> {
    let decode = |value: &[u8]| {
        let (term, rest) = value.split_first_chunk::<8>()?;
        let (leader, rest) = rest.split_first_chunk::<8>()?;
        let index = rest.first_chunk::<8>().filter(|_| rest.len() == 8)?;
        Some(LogPosition {
            term: u64::from_le_bytes(*term),
            leader: u64::from_le_bytes(*leader),
            index: u64::from_le_bytes(*index),
        })
    };
    decode(decode_state(bytes)?).ok_or_else(|| corrupt("a position"))
}

/// Reads what the trees hold; leftovers of purges are noted for removal.
pub(super) fn load(log: &sled::Tree, hard_state: &sled::Tree) -> io::Result<BTreeMap<GroupId, Group>> {
    let mut groups: BTreeMap<GroupId, Group> = BTreeMap::new();
    for item in hard_state {
        let (key, value) = item.map_err(io_error)?;
        let &[high, low, kind] = key.as_ref() else {
            return Err(corrupt("a key of the hard state"));
        };
        let group = groups
            .entry(GroupId(u16::from_be_bytes([high, low])))
            .or_default();
        match kind {
            b'v' => group.vote = Some(Bytes::copy_from_slice(decode_state(&value)?)),
            b'c' => group.committed = Some(decode_position(&value)?),
            b'p' => group.purged = Some(decode_position(&value)?),
            b'r' => group.resetting = true,
            _ => return Err(corrupt("a key of the hard state")),
        }
    }
    for item in log {
        let (key, value) = item.map_err(io_error)?;
        let (number, index, part) = decode_key(&key)?;
        let group = groups.entry(number).or_default();
        if group.resetting {
            continue;
        }
        if let Some(purged) = group.purged.filter(|purged| index <= purged.index) {
            group.leftover_to = Some(purged.index);
        } else if part == 0 {
            let held = decode_head(&key, &value)?.held;
            if group
                .entries
                .last_key_value()
                .is_some_and(|(last, _)| last + 1 != index)
            {
                return Err(corrupt(&format!(
                    "entries before {index} of group {} are missing",
                    number.0
                )));
            }
            group.entries.insert(index, held);
        }
    }
    for group in groups.values_mut() {
        group.synced = group.entries.last_key_value().map_or(0, |(index, _)| *index);
    }
    Ok(groups)
}
