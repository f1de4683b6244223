//! The records a group's state is stored as: keys, sealed values, and where they are written to.
//!
//! A key is a kind byte and the fields of that kind, big-endian, so that the order of keys is the order of kinds and
//! then of fields. Kinds stand in the order [`GroupState::load`](super::GroupState::load) needs them in: what is
//! referred to comes before what refers to it.
//!
//! | kind | fields of the key | value |
//! |---|---|---|
//! | `Meta` | | group time, floor of the sequences of shares and nodes |
//! | `Proposer` | node | incarnation, last number, what is kept of its outcomes |
//! | `Session` | session | client identifier, epoch, connection, expiry |
//! | `Subscription` | session, filter | options, identifier |
//! | `Inbound` | session | received QoS 2 packet identifiers, retained writes that came with them |
//! | `Will` | session | will, epoch, when it fires |
//! | `DueWill` | session, epoch | will |
//! | `Message` | index, position | when it came, when it expires, from whom, the message |
//! | `Outbox` | index, position | |
//! | `Queue` | queue | next sequence |
//! | `Reference` | queue, sequence | message, flags, subscription identifiers |
//! | `Retained` | topic | as `Message`, from nobody |
//! | `Mark` | source group | last write taken from it, the last that were refused |
//! | `LiveWill` | session, epoch | |
//! | `Parts` | origin | message, what its targets got, last target that had its turn |
//! | `Replay` | session, filter | SUBSCRIBE, QoS, identifier, next step, cursor |
//!
//! No record is larger than the entry it comes from, but for the outcomes of a batch, which take some bytes for each of
//! its commands, a mark with its 1,024 refusals, and what a session has received. So all of them fit the store and the chunks of a snapshot.
//!
//! A value is a version byte, the fields, and a CRC-32C over key and value, so a value under another's key is found
//! out as well (R49).

use bytes::Bytes;
use quorate_storage::state::KEY_BYTES_MAX;

use super::codec::{CodecError, Reader};
use super::{NodeId, NodeIncarnation, SessionId, ShareKey, TargetQueue};

const VALUE_VERSION: u8 = 1;
/// Longest string of MQTT.
const STRING_BYTES_MAX: usize = 65_535;
// The longest key is that of a reference: kind, kind of queue, share name and filter with their lengths, sequence.
const _: () = assert!(2 + 2 * (4 + STRING_BYTES_MAX) + 8 <= KEY_BYTES_MAX);
const CHECKSUM_BYTES: usize = 4;

/// Kinds of records; the numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    Meta = 1,
    Proposer = 2,
    Session = 3,
    Subscription = 4,
    Inbound = 5,
    Will = 6,
    DueWill = 7,
    Message = 8,
    Outbox = 9,
    Queue = 10,
    Reference = 11,
    Retained = 12,
    Mark = 13,
    LiveWill = 14,
    Parts = 15,
    Replay = 16,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::*;
        let kinds = [
            Meta,
            Proposer,
            Session,
            Subscription,
            Inbound,
            Will,
            DueWill,
            Message,
            Outbox,
            Queue,
            Reference,
            Retained,
            Mark,
            LiveWill,
            Parts,
            Replay,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Builds a key.
#[derive(Debug)]
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn new(kind: Kind) -> Self {
        let mut bytes = Vec::with_capacity(32);
        bytes.push(kind as u8);
        Self(bytes)
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn session(self, session: SessionId) -> Self {
        self.u64(session.0)
    }

    /// The last field of a key: it has no length in front.
    pub(super) fn rest(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Strings of a queue carry their length, since a sequence may follow.
    pub(super) fn queue(self, queue: &TargetQueue) -> Self {
        match queue {
            TargetQueue::Session(session) => self.u8(0).session(*session),
            TargetQueue::Share(share) => self.u8(1).counted(&share.name).counted(&share.filter),
            TargetQueue::Node(node, incarnation) => self.u8(2).u64(node.0).u64(incarnation.0),
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn counted(self, text: &str) -> Self {
        self.u32(text.len() as u32).rest(text)
    }
}

/// Takes a key apart.
#[derive(Debug)]
pub(super) struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// Splits off the kind.
    pub(super) fn new(key: &'a [u8]) -> Result<(Kind, Self), CodecError> {
        let (kind, rest) = key.split_first().ok_or(CodecError::Truncated("key"))?;
        let known = Kind::of(*kind).ok_or(CodecError::Tag {
            what: "record kind",
            tag: *kind,
        })?;
        Ok((known, Self(rest)))
    }

    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn session(&mut self) -> Result<SessionId, CodecError> {
        self.u64().map(SessionId)
    }

    pub(super) fn rest(&mut self) -> Result<&'a str, CodecError> {
        text(std::mem::take(&mut self.0))
    }

    pub(super) fn queue(&mut self) -> Result<TargetQueue, CodecError> {
        match self.u8()? {
            0 => self.session().map(TargetQueue::Session),
            1 => Ok(TargetQueue::Share(ShareKey {
                name: self.counted()?.into(),
                filter: self.counted()?.into(),
            })),
            2 => Ok(TargetQueue::Node(
                NodeId(self.u64()?),
                NodeIncarnation(self.u64()?),
            )),
            tag => Err(CodecError::Tag {
                what: "queue kind",
                tag,
            }),
        }
    }

    /// Succeeds when the whole key was read.
    pub(super) fn finish(self) -> Result<(), CodecError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(CodecError::Trailing(left)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(CodecError::Truncated("key"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn counted(&mut self) -> Result<&'a str, CodecError> {
        let len = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(len).ok_or(CodecError::Truncated("key"))?;
        self.0 = rest;
        text(head)
    }
}

fn text(bytes: &[u8]) -> Result<&str, CodecError> {
    std::str::from_utf8(bytes).map_err(|_| CodecError::Invalid("text of a key"))
}

/// Why a stored value cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SealError {
    Checksum,
    Version(u8),
}

/// Writes a value: version, fields, checksum.
#[cfg(test)]
pub(super) fn seal(key: &[u8], fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut value = Vec::new();
    seal_into(&mut value, key, fields);
    value
}

fn seal_into(value: &mut Vec<u8>, key: &[u8], fields: impl FnOnce(&mut Vec<u8>)) {
    value.clear();
    value.push(VALUE_VERSION);
    fields(value);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), value);
    value.extend_from_slice(&checksum.to_le_bytes());
}

/// The fields of a value, its checksum and version checked.
pub(super) fn open(key: &[u8], value: &Bytes) -> Result<Bytes, SealError> {
    let Some((sealed, checksum)) = value.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(SealError::Checksum);
    };
    if crc32c::crc32c_append(crc32c::crc32c(key), sealed) != u32::from_le_bytes(*checksum) {
        return Err(SealError::Checksum);
    }
    match sealed.first() {
        Some(&VALUE_VERSION) => Ok(value.slice(1..sealed.len())),
        Some(version) => Err(SealError::Version(*version)),
        None => Err(SealError::Checksum),
    }
}

/// Reads all fields of a value.
pub(super) fn parse<T>(
    fields: &Bytes,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<T, CodecError> {
    let mut reader = Reader::new(fields);
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// Where records go to.
pub(super) trait RecordSink {
    /// The record is now this.
    fn put(&mut self, key: Key, fields: impl FnOnce(&mut Vec<u8>));
    /// The record is gone, or never was.
    fn delete(&mut self, key: Key);
}

/// Takes changes that nobody wants.
#[derive(Debug)]
pub(super) struct Nowhere;

impl RecordSink for Nowhere {
    fn put(&mut self, _key: Key, _fields: impl FnOnce(&mut Vec<u8>)) {}

    fn delete(&mut self, _key: Key) {}
}

/// Values from this length on are not copied once more.
const LONG_BYTES: usize = 64 << 10;

/// Collects changes; of several for one key the last counts.
#[derive(Debug, Default)]
pub(super) struct Changes {
    records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Values are written here first, so that each takes one allocation of its size.
    scratch: Vec<u8>,
}

impl Changes {
    /// The changes in the order of their keys, in which they mostly come already.
    pub(super) fn finish(mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.records.sort_by(|left, right| left.0.cmp(&right.0));
        self.records.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        self.records
    }
}

impl RecordSink for Changes {
    fn put(&mut self, key: Key, fields: impl FnOnce(&mut Vec<u8>)) {
        let key = key.finish();
        seal_into(&mut self.scratch, &key, fields);
        let value = match self.scratch.len() < LONG_BYTES {
            true => self.scratch.as_slice().to_vec(),
            // To copy it would take longer than another scratch, and hold up the state machine.
            false => std::mem::take(&mut self.scratch),
        };
        self.records.push((key, Some(value)));
    }

    fn delete(&mut self, key: Key) {
        self.records.push((key.finish(), None));
    }
}

/// Adds up the hashes of all records, which does not depend on the order they come in.
#[derive(Debug, Default)]
pub(super) struct Digest {
    pub(super) sum: u64,
    scratch: Vec<u8>,
}

impl RecordSink for Digest {
    fn put(&mut self, key: Key, fields: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let key = key.finish();
        bytes.extend_from_slice(&(key.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&key);
        fields(&mut bytes);
        self.sum = self.sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(&bytes));
        self.scratch = bytes;
    }

    fn delete(&mut self, _key: Key) {}
}

/// Keys changed since the last checkpoint.
#[derive(Debug)]
pub(super) struct Dirty<K> {
    keys: super::HashSet<K>,
}

impl<K> Default for Dirty<K> {
    fn default() -> Self {
        Self {
            keys: super::HashSet::default(),
        }
    }
}

impl<K: Ord + std::hash::Hash> Dirty<K> {
    pub(super) fn insert(&mut self, key: K) {
        self.keys.insert(key);
    }

    /// Notes the end of what is never changed in between: of two notes without a checkpoint between them nothing is
    /// left.
    pub(super) fn toggle(&mut self, key: K) {
        if !self.keys.remove(&key) {
            self.keys.insert(key);
        }
    }

    /// The keys in order.
    pub(super) fn take(&mut self) -> Vec<K> {
        let mut keys: Vec<K> = std::mem::take(&mut self.keys).into_iter().collect();
        keys.sort_unstable();
        keys
    }
}
