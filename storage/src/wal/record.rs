//! One record of the log: its bytes and its checksum.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | length of all after the checksum: 27 + payload, little endian like every number here |
//! | 4 | 4 | CRC-32C of the length and all after the checksum, xor the place's mask |
//! | 8 | 2 | group |
//! | 10 | 1 | kind |
//! | 11 | 8 | term |
//! | 19 | 8 | leader |
//! | 27 | 8 | index |
//! | 35 | | payload |
//!
//! | kind | meaning | fields in use |
//! |---|---|---|
//! | 1 entry | appended entry | position, payload |
//! | 2 vote | saved vote | payload |
//! | 3 committed | commit position | position |
//! | 4 truncate | drop what is after `index`; everything where `term` is 0 | term (0 or 1), index |
//! | 5 purge | forget up to the position | position |
//! | 6 reset | forget the group | |
//! | 7 moved | a live entry copied forward, changes nothing but where it lies | position, payload |
//! | 8 mark | this segment is synced up to the offset `index` | index |
//!
//! The mask is the CRC-32C of (volume, segment sequence, file offset). With it a record is valid at one place of one
//! file only: neither a recycled block with an older segment's content nor a payload made to look like records is
//! taken for one. It is applied by xor, so that the long checksum is computed before the place is known, outside the
//! log's lock.

use crate::log::{GroupId, LogPosition};
use crate::volume::VolumeId;

/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 35;

/// Highest index of an entry or a purge: what is computed from indexes never overflows.
pub(crate) const INDEX_MAX: u64 = u64::MAX >> 1;

/// Longest payload.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

const CHECKED_FROM: usize = 8;
const BODY_HEADER_BYTES: usize = RECORD_HEADER_BYTES - CHECKED_FROM;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Entry = 1,
    Vote = 2,
    Committed = 3,
    Truncate = 4,
    Purge = 5,
    Reset = 6,
    Moved = 7,
    Mark = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::Truncate,
            5 => Self::Purge,
            6 => Self::Reset,
            7 => Self::Moved,
            8 => Self::Mark,
            _ => return None,
        })
    }
}

/// Bytes of a record before its payload, with the checksum not yet tied to a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordHeader(pub(crate) [u8; RECORD_HEADER_BYTES]);

impl RecordHeader {
    /// Encodes the fields and computes the checksum over them and `payload`, which is at most
    /// [`PAYLOAD_BYTES_MAX`] long.
    pub(crate) fn new(kind: Kind, group: GroupId, position: LogPosition, payload: &[u8]) -> Self {
        debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&((BODY_HEADER_BYTES + payload.len()) as u32).to_le_bytes());
        bytes[8..10].copy_from_slice(&group.0.to_le_bytes());
        bytes[10] = kind as u8;
        bytes[11..19].copy_from_slice(&position.term.to_le_bytes());
        bytes[19..27].copy_from_slice(&position.leader.to_le_bytes());
        bytes[27..35].copy_from_slice(&position.index.to_le_bytes());
        let checksum = checksum(&bytes, payload);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        Self(bytes)
    }

    /// The mark that says "synced up to `offset`".
    pub(crate) fn mark(offset: u64) -> Self {
        Self::new(
            Kind::Mark,
            GroupId(0),
            LogPosition {
                index: offset,
                ..LogPosition::default()
            },
            &[],
        )
    }

    /// Ties the checksum to a place.
    pub(crate) fn sealed(mut self, mask: u32) -> [u8; RECORD_HEADER_BYTES] {
        for (byte, mask) in self.0[4..8].iter_mut().zip(mask.to_le_bytes()) {
            *byte ^= mask;
        }
        self.0
    }
}

fn checksum(header: &[u8; RECORD_HEADER_BYTES], payload: &[u8]) -> u32 {
    let checksum = crc32c::crc32c(&header[0..4]);
    let checksum = crc32c::crc32c_append(checksum, &header[CHECKED_FROM..]);
    crc32c::crc32c_append(checksum, payload)
}

/// Fields of a record whose checksum is not yet verified, but whose kind and length are possible.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    pub(crate) kind: Kind,
    pub(crate) group: GroupId,
    pub(crate) position: LogPosition,
    pub(crate) payload_bytes: usize,
}

fn u64_at(bytes: &[u8; RECORD_HEADER_BYTES], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Reads the fields; `None` where they cannot be a record's.
pub(crate) fn decode_fields(header: &[u8; RECORD_HEADER_BYTES]) -> Option<Fields> {
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let payload_bytes = length.checked_sub(BODY_HEADER_BYTES)?;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return None;
    }
    Some(Fields {
        kind: Kind::from_byte(header[10])?,
        group: GroupId(u16::from_le_bytes([header[8], header[9]])),
        position: LogPosition {
            term: u64_at(header, 11),
            leader: u64_at(header, 19),
            index: u64_at(header, 27),
        },
        payload_bytes,
    })
}

/// Whether the checksum fits the content and the place.
pub(crate) fn is_intact(header: &[u8; RECORD_HEADER_BYTES], payload: &[u8], mask: u32) -> bool {
    let stored = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    stored ^ mask == checksum(header, payload)
}

/// The masks of one segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentMask(u32);

impl SegmentMask {
    pub(crate) fn new(volume: VolumeId, sequence: u64) -> Self {
        Self(crc32c::crc32c_append(
            crc32c::crc32c(&volume.0),
            &sequence.to_le_bytes(),
        ))
    }

    /// The mask of the record that starts at `offset`.
    pub(crate) fn at(self, offset: u64) -> u32 {
        crc32c::crc32c_append(self.0, &offset.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeId = VolumeId([7; 16]);

    #[test]
    fn a_record_is_valid_at_its_place_and_nowhere_else() {
        let position = LogPosition {
            term: 3,
            leader: 2,
            index: 9,
        };
        let mask = SegmentMask::new(VOLUME, 5);
        let header = RecordHeader::new(Kind::Entry, GroupId(4), position, b"payload").sealed(mask.at(64));
        let fields = decode_fields(&header).unwrap();
        assert_eq!(
            (fields.kind, fields.group, fields.position),
            (Kind::Entry, GroupId(4), position)
        );
        assert_eq!(fields.payload_bytes, 7);
        assert!(is_intact(&header, b"payload", mask.at(64)));
        assert!(!is_intact(&header, b"payload", mask.at(65)));
        assert!(!is_intact(&header, b"payloae", mask.at(64)));
        assert!(!is_intact(
            &header,
            b"payload",
            SegmentMask::new(VOLUME, 6).at(64)
        ));
        assert!(!is_intact(
            &header,
            b"payload",
            SegmentMask::new(VolumeId([8; 16]), 5).at(64)
        ));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mask = SegmentMask::new(VOLUME, 5).at(64);
        let header = RecordHeader::new(Kind::Vote, GroupId(4), LogPosition::default(), b"vote").sealed(mask);
        for bit in 0..RECORD_HEADER_BYTES * 8 {
            let mut broken = header;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_intact(&broken, b"vote", mask), "bit {bit}");
        }
    }

    #[test]
    fn impossible_lengths_and_kinds_are_no_records() {
        let mut header = RecordHeader::mark(0).0;
        assert!(decode_fields(&header).is_some());
        header[10] = 9;
        assert!(decode_fields(&header).is_none());
        header[10] = 8;
        header[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode_fields(&header).is_none());
        header[0..4].copy_from_slice(&26u32.to_le_bytes());
        assert!(decode_fields(&header).is_none());
        assert!(
            decode_fields(&[0; RECORD_HEADER_BYTES]).is_none(),
            "a hole is no record"
        );
    }
}
