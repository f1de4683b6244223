//! A segment file: its name, header, creation, and reading records from it.
//!
//! Name: `<sequence, 16 hexadecimal digits>.log`. Header, 64 bytes, little endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `QUORWAL\0` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 16 | volume |
//! | 28 | 8 | sequence |
//! | 36 | 24 | zeros |
//! | 60 | 4 | CRC-32C of all before |
//!
//! Invariant: the header and the file's name are synced before the first record is written, and the segment before
//! it is synced as a whole before the file is created.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::record::{self, Fields, RECORD_HEADER_BYTES, SegmentMask};
use crate::disk::{Disk, DiskFile};
use crate::log::GroupId;
use crate::volume::VolumeId;

/// Bytes before the first record.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;

const MAGIC: &[u8; 8] = b"QUORWAL\0";
const FORMAT_VERSION: u32 = 1;

/// Bytes read at once while a segment is scanned.
const WINDOW_BYTES: usize = 1 << 20;

/// Name of a segment's file.
pub(crate) fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.log")
}

/// Sequence in a segment's file name; `None` for other names.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (file_name(sequence) == name).then_some(sequence)
}

/// Bytes of a segment's header.
pub(crate) fn encode_header(volume: VolumeId, sequence: u64) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    header[0..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[12..28].copy_from_slice(&volume.0);
    header[28..36].copy_from_slice(&sequence.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderCheck {
    /// Ours.
    Valid,
    /// Not a header.
    Broken,
    /// Intact, of a format this program does not know.
    Newer(u32),
    /// Intact, of another volume or another sequence.
    Foreign,
}

/// Judges the first bytes of a segment.
pub(crate) fn check_header(header: &[u8], volume: VolumeId, sequence: u64) -> HeaderCheck {
    let Some((body, stored)) = header.split_at_checked(60) else {
        return HeaderCheck::Broken;
    };
    if stored != crc32c::crc32c(body).to_le_bytes() || &body[0..8] != MAGIC {
        return HeaderCheck::Broken;
    }
    let version = u32::from_le_bytes([body[8], body[9], body[10], body[11]]);
    if version > FORMAT_VERSION {
        HeaderCheck::Newer(version)
    } else if header == encode_header(volume, sequence) {
        HeaderCheck::Valid
    } else {
        HeaderCheck::Foreign
    }
}

/// Creates a segment that is ready for records: header and name are synced.
pub(crate) fn create(
    disk: &dyn Disk,
    dir: &Path,
    volume: VolumeId,
    sequence: u64,
) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(&dir.join(file_name(sequence)))?;
    file.write_at(0, &encode_header(volume, sequence))?;
    file.sync_data()?;
    disk.sync_dir(dir)?;
    Ok(file)
}

/// Makes a segment that was never used ready for records, whatever is in it. It stays under its name all the time: its
/// number may be noted as that of the newest.
pub(crate) fn reuse(
    disk: &dyn Disk,
    dir: &Path,
    volume: VolumeId,
    sequence: u64,
) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.open(&dir.join(file_name(sequence)))?;
    file.write_at(0, &encode_header(volume, sequence))?;
    file.sync_data()?;
    disk.sync_dir(dir)?;
    Ok(file)
}

/// A segment in use.
#[derive(Debug)]
pub(crate) struct Segment {
    /// `None` while its creation is under way; nothing is read from it then.
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    /// Entries in it that are not purged, truncated or moved.
    pub(crate) live_entries: u64,
    /// Their bytes.
    pub(crate) live_bytes: u64,
}

impl Segment {
    pub(crate) fn new(file: Option<Arc<dyn DiskFile>>) -> Self {
        Self {
            file,
            live_entries: 0,
            live_bytes: 0,
        }
    }

    pub(crate) fn add(&mut self, payload_bytes: u32) {
        self.live_entries += 1;
        self.live_bytes += u64::from(payload_bytes) + RECORD_HEADER_BYTES as u64;
    }

    pub(crate) fn release(&mut self, payload_bytes: u32) {
        debug_assert!(self.live_entries > 0);
        self.live_entries = self.live_entries.saturating_sub(1);
        self.live_bytes = self
            .live_bytes
            .saturating_sub(u64::from(payload_bytes) + RECORD_HEADER_BYTES as u64);
    }
}

/// Reads the payload of one entry back and verifies it. `InvalidData` names the file and offset of a broken one.
pub(crate) fn read_entry(
    file: &dyn DiskFile,
    path: impl FnOnce() -> PathBuf,
    mask: u32,
    offset: u64,
    payload_bytes: u32,
    expected: (GroupId, u64),
) -> io::Result<Bytes> {
    let mut bytes = vec![0; RECORD_HEADER_BYTES + payload_bytes as usize];
    let read = file.read_at(offset, &mut bytes)?;
    let intact = read == bytes.len()
        && bytes.split_first_chunk().is_some_and(|(header, payload)| {
            record::is_intact(header, payload, mask)
                && record::decode_fields(header).is_some_and(|it| (it.group, it.position.index) == expected)
        });
    if !intact {
        let reason = format!("corrupt log record at offset {offset} of {}", path().display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(Bytes::from(bytes).slice(RECORD_HEADER_BYTES..))
}

/// Reads a segment from its begin with bounded memory: one window, as long as the longest record in it.
#[derive(Debug)]
pub(crate) struct SegmentReader<'a> {
    file: &'a dyn DiskFile,
    size: u64,
    mask: SegmentMask,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> SegmentReader<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, mask: SegmentMask) -> io::Result<Self> {
        Ok(Self {
            file,
            size: file.size()?,
            mask,
            window: Vec::new(),
            window_at: 0,
        })
    }

    /// Length of the file when reading began.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// `count` bytes at `offset`; `None` where the file ends before.
    pub(crate) fn bytes(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        let Some(end) = offset.checked_add(count as u64).filter(|end| *end <= self.size) else {
            return Ok(None);
        };
        if offset < self.window_at || end > self.window_at + self.window.len() as u64 {
            let wanted = (self.size - offset).min(count.max(WINDOW_BYTES) as u64) as usize;
            self.window.resize(wanted, 0);
            self.window_at = offset;
            let read = self.file.read_at(offset, &mut self.window)?;
            self.window.truncate(read);
        }
        let start = (offset - self.window_at) as usize;
        Ok(self.window.get(start..start + count))
    }

    fn fields(&mut self, offset: u64) -> io::Result<Option<([u8; RECORD_HEADER_BYTES], Fields)>> {
        let header = self
            .bytes(offset, RECORD_HEADER_BYTES)?
            .and_then(|bytes| bytes.first_chunk())
            .copied();
        Ok(header.and_then(|header| Some((header, record::decode_fields(&header)?))))
    }

    /// The intact record at `offset`, with its payload; `None` where there is none.
    pub(crate) fn record(&mut self, offset: u64) -> io::Result<Option<(Fields, &[u8])>> {
        let Some((header, fields)) = self.fields(offset)? else {
            return Ok(None);
        };
        let mask = self.mask.at(offset);
        let payload = self.bytes(offset + RECORD_HEADER_BYTES as u64, fields.payload_bytes)?;
        Ok(payload
            .filter(|payload| record::is_intact(&header, payload, mask))
            .map(|payload| (fields, payload)))
    }

    /// The highest synced offset that any intact mark at or after `from` states; `None` where there is no mark.
    pub(crate) fn marks_after(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut highest = None;
        let start = record::RecordHeader::mark(0).0;
        for offset in from..self.size.saturating_sub(RECORD_HEADER_BYTES as u64 - 1) {
            let Some(bytes) = self.bytes(offset, RECORD_HEADER_BYTES)? else {
                break;
            };
            // Length, kind and group of a mark are fixed, so that few places need a checksum.
            if bytes[0..4] != start[0..4] || bytes[8..11] != start[8..11] {
                continue;
            }
            if let Some((fields, _)) = self.record(offset)? {
                highest = highest.max(Some(fields.position.index));
            }
        }
        Ok(highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_strictly() {
        assert_eq!(parse_file_name(&file_name(0x1234)), Some(0x1234));
        for name in [
            "",
            "12.log",
            "0000000000001234.LOG",
            "000000000000123G.log",
            "+000000000001234.log",
        ] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn headers_are_told_apart() {
        let volume = VolumeId([1; 16]);
        let header = encode_header(volume, 3);
        assert_eq!(check_header(&header, volume, 3), HeaderCheck::Valid);
        assert_eq!(check_header(&header, volume, 4), HeaderCheck::Foreign);
        assert_eq!(check_header(&header, VolumeId([2; 16]), 3), HeaderCheck::Foreign);
        assert_eq!(check_header(&header[..63], volume, 3), HeaderCheck::Broken);
        let mut newer = header;
        newer[8] = 2;
        let checksum = crc32c::crc32c(&newer[..60]);
        newer[60..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(check_header(&newer, volume, 3), HeaderCheck::Newer(2));
        newer[20] ^= 1;
        assert_eq!(check_header(&newer, volume, 3), HeaderCheck::Broken);
    }
}
