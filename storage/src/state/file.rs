//! The checkpoint file: all groups' changes as of their positions, written once, read only after a crash.
//!
//! Header, 32 bytes, little endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `QUORCKP\0` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 8 | identity of the store |
//! | 20 | 8 | sequence of the checkpoint |
//! | 28 | 4 | CRC-32C of all before |
//!
//! Then chunks: length u32 (1 to 1 MiB), CRC-32C u32 of (sequence, number of the chunk, data), data. A chunk of length
//! 0 ends the file. The chunks' data is one stream of items:
//!
//! | tag | item | fields |
//! |---|---|---|
//! | 1 | group | group u16, generation u32, term, leader, index u64, meta (length u32) |
//! | 2 | value of that group | key (length u32), value (length u32) |
//! | 3 | removal | key (length u32) |
//!
//! A file is complete when every checksum fits up to the end chunk and nothing follows it. It gets its name only when
//! it is complete and synced, so an incomplete one under that name is damage, not an unfinished write.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::checkpointer::GroupCheckpoint;
use super::layout::{GENERATION_MAX, GroupRecord, KEY_BYTES_MAX, META_BYTES_MAX, VALUE_BYTES_MAX};
use crate::disk::DiskFile;
use crate::log::{GroupId, LogPosition};

const MAGIC: &[u8; 8] = b"QUORCKP\0";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const CHUNK_HEADER_BYTES: usize = 8;
const CHUNK_BYTES: usize = 1 << 20;

/// Why a checkpoint file cannot be used.
#[derive(Debug)]
pub(super) enum FileError {
    /// Damaged; the text says how.
    Damaged(&'static str),
    /// Written by a newer program.
    Newer(u32),
    /// The disk failed.
    Io(io::Error),
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) store: u64,
    pub(super) sequence: u64,
}

impl FileHeader {
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.store.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.sequence.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FileError> {
        let damaged = FileError::Damaged("header");
        if bytes[28..] != crc32c::crc32c(&bytes[..28]).to_le_bytes() || &bytes[0..8] != MAGIC {
            return Err(damaged);
        }
        let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if version != FORMAT_VERSION {
            return Err(FileError::Newer(version));
        }
        let number = |at: usize| bytes[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        match (number(12), number(20)) {
            (Some(store), Some(sequence)) => Ok(Self { store, sequence }),
            _ => Err(damaged),
        }
    }
}

pub(super) fn chunk_checksum(sequence: u64, number: u64, data: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&sequence.to_le_bytes()), &number.to_le_bytes());
    crc32c::crc32c_append(checksum, data)
}

struct Writer<'a> {
    file: &'a dyn DiskFile,
    sequence: u64,
    offset: u64,
    chunks: u64,
    chunk: Vec<u8>,
}

impl Writer<'_> {
    fn put(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let room = CHUNK_HEADER_BYTES + CHUNK_BYTES - self.chunk.len();
            let (now, later) = data.split_at(data.len().min(room));
            self.chunk.extend_from_slice(now);
            data = later;
            if self.chunk.len() == CHUNK_HEADER_BYTES + CHUNK_BYTES {
                self.finish_chunk()?;
            }
        }
        Ok(())
    }

    fn put_sized(&mut self, data: &[u8]) -> io::Result<()> {
        self.put(&(data.len() as u32).to_le_bytes())?;
        self.put(data)
    }

    fn finish_chunk(&mut self) -> io::Result<()> {
        let (header, data) = self.chunk.split_at_mut(CHUNK_HEADER_BYTES);
        header[..4].copy_from_slice(&(data.len() as u32).to_le_bytes());
        header[4..].copy_from_slice(&chunk_checksum(self.sequence, self.chunks, data).to_le_bytes());
        self.file.write_at(self.offset, &self.chunk)?;
        self.offset += self.chunk.len() as u64;
        self.chunks += 1;
        self.chunk.truncate(CHUNK_HEADER_BYTES);
        Ok(())
    }
}

/// Writes and syncs a complete file; the groups come with their generations.
pub(super) fn write(
    file: &dyn DiskFile,
    header: FileHeader,
    groups: &[(u32, GroupCheckpoint)],
) -> io::Result<()> {
    file.write_at(0, &header.encode())?;
    let mut chunk = Vec::with_capacity(CHUNK_HEADER_BYTES + CHUNK_BYTES);
    chunk.resize(CHUNK_HEADER_BYTES, 0);
    let mut writer = Writer {
        file,
        sequence: header.sequence,
        offset: HEADER_BYTES as u64,
        chunks: 0,
        chunk,
    };
    for (generation, group) in groups {
        writer.put(&[1])?;
        writer.put(&group.group.0.to_le_bytes())?;
        writer.put(&generation.to_le_bytes())?;
        for number in [group.position.term, group.position.leader, group.position.index] {
            writer.put(&number.to_le_bytes())?;
        }
        writer.put_sized(&group.meta)?;
        for (key, value) in &group.changes {
            writer.put(&[if value.is_some() { 2 } else { 3 }])?;
            writer.put_sized(key)?;
            if let Some(value) = value {
                writer.put_sized(value)?;
            }
        }
    }
    if writer.chunk.len() > CHUNK_HEADER_BYTES {
        writer.finish_chunk()?;
    }
    writer.finish_chunk()?;
    file.sync_data()
}

/// One item of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Group(GroupId, GroupRecord),
    Change(Vec<u8>, Option<Vec<u8>>),
}

/// Reads a file from its begin; memory is bounded by a chunk and an item.
pub(super) struct Reader {
    file: Arc<dyn DiskFile>,
    size: u64,
    header: FileHeader,
    offset: u64,
    chunks: u64,
    chunk: Vec<u8>,
    at: usize,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Reader")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens the file and verifies all of it.
    pub(super) fn open(file: Arc<dyn DiskFile>) -> Result<Self, FileError> {
        let mut header = [0; HEADER_BYTES];
        if file.read_at(0, &mut header)? < HEADER_BYTES {
            return Err(FileError::Damaged("shorter than its header"));
        }
        let header = FileHeader::decode(&header)?;
        let size = file.size()?;
        let mut reader = Self {
            file,
            size,
            header,
            offset: HEADER_BYTES as u64,
            chunks: 0,
            chunk: Vec::new(),
            at: 0,
        };
        while reader.next_chunk()? {}
        if reader.offset != size {
            return Err(FileError::Damaged("bytes behind the end"));
        }
        reader.offset = HEADER_BYTES as u64;
        reader.chunks = 0;
        Ok(reader)
    }

    pub(super) fn header(&self) -> FileHeader {
        self.header
    }

    /// Loads the next chunk; false at the end chunk.
    fn next_chunk(&mut self) -> Result<bool, FileError> {
        let mut header = [0; CHUNK_HEADER_BYTES];
        if self.file.read_at(self.offset, &mut header)? < CHUNK_HEADER_BYTES {
            return Err(FileError::Damaged("ends early"));
        }
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let data_at = self.offset + CHUNK_HEADER_BYTES as u64;
        if length > CHUNK_BYTES || data_at + length as u64 > self.size {
            return Err(FileError::Damaged("impossible chunk length"));
        }
        self.chunk.resize(length, 0);
        self.at = 0;
        let read = self.file.read_at(data_at, &mut self.chunk)?;
        let expected = chunk_checksum(self.header.sequence, self.chunks, &self.chunk);
        if read < length || header[4..] != expected.to_le_bytes() {
            return Err(FileError::Damaged("checksum of a chunk"));
        }
        self.offset = data_at + length as u64;
        self.chunks += 1;
        Ok(length > 0)
    }

    fn fill(&mut self, target: &mut Vec<u8>, mut count: usize) -> Result<(), FileError> {
        while count > 0 {
            if self.at == self.chunk.len() && !self.next_chunk()? {
                return Err(FileError::Damaged("an item is cut off"));
            }
            let now = count.min(self.chunk.len() - self.at);
            target.extend_from_slice(&self.chunk[self.at..self.at + now]);
            self.at += now;
            count -= now;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FileError> {
        let mut bytes = Vec::with_capacity(N);
        self.fill(&mut bytes, N)?;
        bytes
            .first_chunk()
            .copied()
            .ok_or(FileError::Damaged("an item is cut off"))
    }

    fn sized(&mut self, bytes_max: usize) -> Result<Vec<u8>, FileError> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        if length > bytes_max || length as u64 > self.size {
            return Err(FileError::Damaged("impossible length"));
        }
        let mut bytes = Vec::new();
        self.fill(&mut bytes, length)?;
        Ok(bytes)
    }

    /// The next item; `None` at the end.
    pub(super) fn next_item(&mut self) -> Result<Option<Item>, FileError> {
        if self.at == self.chunk.len() && !self.next_chunk()? {
            return Ok(None);
        }
        let [tag] = self.array()?;
        Ok(Some(match tag {
            1 => {
                let group = GroupId(u16::from_le_bytes(self.array()?));
                let generation = u32::from_le_bytes(self.array()?);
                if !(1..=GENERATION_MAX).contains(&generation) {
                    return Err(FileError::Damaged("impossible generation"));
                }
                let term = u64::from_le_bytes(self.array()?);
                let leader = u64::from_le_bytes(self.array()?);
                let index = u64::from_le_bytes(self.array()?);
                let meta = Bytes::from(self.sized(META_BYTES_MAX)?);
                let position = LogPosition { term, leader, index };
                Item::Group(
                    group,
                    GroupRecord {
                        generation,
                        position,
                        meta,
                    },
                )
            }
            2 => Item::Change(self.sized(KEY_BYTES_MAX)?, Some(self.sized(VALUE_BYTES_MAX)?)),
            3 => Item::Change(self.sized(KEY_BYTES_MAX)?, None),
            _ => return Err(FileError::Damaged("unknown item")),
        }))
    }
}

/// Decodes a file to its end, whatever it holds: for the fuzzer.
pub(crate) fn fuzz_decode(file: Arc<dyn DiskFile>) -> usize {
    let Ok(mut reader) = Reader::open(file) else {
        return 0;
    };
    let mut items = 0;
    while let Ok(Some(_)) = reader.next_item() {
        items += 1;
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::faulty::FaultyDisk;
    use std::path::Path;

    fn sample() -> Vec<(u32, GroupCheckpoint)> {
        let position = LogPosition {
            term: 2,
            leader: 3,
            index: 4,
        };
        let changes = vec![
            (b"key".to_vec(), Some(vec![7; 100])),
            (b"gone".to_vec(), None),
            (b"".to_vec(), Some(vec![])),
            (b"large".to_vec(), Some(vec![9; (2 << 20) + 5])),
        ];
        vec![(
            5,
            GroupCheckpoint {
                group: GroupId(6),
                position,
                meta: Bytes::from_static(b"meta"),
                changes,
            },
        )]
    }

    fn file_with(groups: &[(u32, GroupCheckpoint)]) -> (FaultyDisk, Arc<dyn DiskFile>) {
        let disk = FaultyDisk::new(1);
        let file = disk.create(Path::new("/c")).unwrap();
        write(
            &*file,
            FileHeader {
                store: 8,
                sequence: 9,
            },
            groups,
        )
        .unwrap();
        (disk, file)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_disk, file) = file_with(&sample());
        let mut reader = Reader::open(file).unwrap();
        assert_eq!(
            reader.header(),
            FileHeader {
                store: 8,
                sequence: 9
            }
        );
        let (generation, expected) = sample().remove(0);
        let Some(Item::Group(group, record)) = reader.next_item().unwrap() else {
            panic!("a group is first")
        };
        assert_eq!((group, record.generation), (expected.group, generation));
        assert_eq!((record.position, record.meta), (expected.position, expected.meta));
        for change in expected.changes {
            let Some(Item::Change(key, value)) = reader.next_item().unwrap() else {
                panic!("then changes")
            };
            assert_eq!((key, value), change);
        }
        assert!(reader.next_item().unwrap().is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut groups = sample();
        groups[0].1.changes.truncate(3);
        let (disk, file) = file_with(&groups);
        let size = file.size().unwrap();
        for offset in 0..size {
            disk.flip_bit(Path::new("/c"), offset, (offset % 8) as u8)
                .unwrap();
            assert!(Reader::open(Arc::clone(&file)).is_err(), "byte {offset}");
            disk.flip_bit(Path::new("/c"), offset, (offset % 8) as u8)
                .unwrap();
        }
        assert!(Reader::open(Arc::clone(&file)).is_ok());
        file.write_at(size, &[0]).unwrap();
        assert!(Reader::open(Arc::clone(&file)).is_err(), "a byte more");
        for length in (0..size).rev() {
            file.truncate(length).unwrap();
            assert!(Reader::open(Arc::clone(&file)).is_err(), "cut to {length}");
        }
    }
}
