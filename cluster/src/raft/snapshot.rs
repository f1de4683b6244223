//! What a replica that lags too far behind gets instead of log entries: the stored state of a group as of one
//! checkpoint.
//!
//! On the sender it is a handle to the state store, read in order and cut into chunks; on the receiver a spooled file
//! of such chunks, handed to openraft when it is complete, so that a broken stream costs nothing but its time. Neither
//! side ever holds more than a few chunks in memory.
//!
//! A chunk is `crc32c (4) | records (4) | record*`, a record `key length (4) | value length (4) | key | value`, all
//! little-endian. The last chunk has the record count [`END_OF_SNAPSHOT`] and holds the number of all records (8).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_storage::log::{GroupId, LogPosition};
use quorate_storage::state::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use super::checkpoint::{CheckpointStore, EntryIterator, EntryVisitor};
use super::group::BATCH_BYTES_MAX;
use super::lease::GroupLeases;

/// A chunk is closed when it has reached this size; its last record may make it larger.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// No chunk is larger than this: the transport and the receiver refuse it.
pub(super) const CHUNK_BYTES_MAX: usize = 48 << 20;
// A value of the state is about as large as the entry it comes from. It has to fit the store, and a chunk that it closes.
const _: () = {
    assert!(2 * BATCH_BYTES_MAX <= VALUE_BYTES_MAX);
    assert!(CHUNK_BYTES + KEY_BYTES_MAX + 2 * BATCH_BYTES_MAX <= CHUNK_BYTES_MAX);
};
/// Record count of the last chunk.
const END_OF_SNAPSHOT: u32 = u32::MAX;
/// Batches in flight between the thread that reads entries and the one that takes them.
const BATCHES_IN_FLIGHT: usize = 4;

type EntryBatch = Vec<(Vec<u8>, Vec<u8>)>;

/// A snapshot to send or to install.
pub(super) enum SnapshotData {
    /// In this node's state store.
    Stored(StoredSnapshot),
    /// Received from another node.
    Received(ReceivedSnapshot),
}

/// The stored state of a group as of `position`, while the store still holds that.
#[derive(Clone)]
pub(super) struct StoredSnapshot {
    pub(super) store: Arc<dyn CheckpointStore>,
    pub(super) leases: Arc<GroupLeases>,
    pub(super) group: GroupId,
    pub(super) position: LogPosition,
}

impl SnapshotData {
    /// Whether this is the state that the store behind `leases` holds itself.
    pub(super) fn is_stored_behind(&self, leases: &Arc<GroupLeases>) -> bool {
        matches!(self, Self::Stored(stored) if Arc::ptr_eq(&stored.leases, leases))
    }

    /// Visits every entry. Blocks.
    ///
    /// # Errors
    /// I/O failed, the data is corrupt, the stored state has moved on, or the visitor's error.
    pub(super) fn visit(&mut self, visit: EntryVisitor<'_>) -> io::Result<()> {
        match self {
            Self::Stored(stored) => stored.visit(visit),
            Self::Received(received) => received.visit(visit),
        }
    }

    /// Passes the snapshot on chunk by chunk, the closing one included. Blocks.
    ///
    /// # Errors
    /// As [`Self::visit`]; then the chunks passed on so far are worth nothing.
    pub(super) fn chunks(&mut self, pass_on: &mut dyn FnMut(Bytes) -> io::Result<()>) -> io::Result<()> {
        let mut chunk = ChunkBuilder::default();
        let mut total = 0_u64;
        self.visit(&mut |key, value| {
            chunk.push(key, value)?;
            total += 1;
            match chunk.is_full() {
                true => pass_on(chunk.take()),
                false => Ok(()),
            }
        })?;
        if !chunk.is_empty() {
            pass_on(chunk.take())?;
        }
        pass_on(closing_chunk(total))
    }

    /// Lets `consume` pull the entries that a second thread reads. Blocks.
    ///
    /// # Errors
    /// As [`Self::visit`], or the consumer's error.
    pub(super) fn read<T>(
        mut self,
        consume: impl FnOnce(EntryIterator<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let (sender, receiver) = sync_channel::<EntryBatch>(BATCHES_IN_FLIGHT);
        std::thread::scope(|scope| {
            let reader = std::thread::Builder::new()
                .name("snapshot-read".to_owned())
                .spawn_scoped(scope, move || {
                    let mut batch = EntryBatch::new();
                    let mut bytes = 0;
                    let gone = || io::Error::other("the snapshot's consumer has gone");
                    self.visit(&mut |key, value| {
                        batch.push((key.to_vec(), value.to_vec()));
                        bytes += key.len() + value.len();
                        if bytes < CHUNK_BYTES {
                            return Ok(());
                        }
                        bytes = 0;
                        sender.send(std::mem::take(&mut batch)).map_err(|_| gone())
                    })?;
                    sender.send(batch).map_err(|_| gone())
                })?;
            let mut entries = Entries {
                receiver,
                batch: EntryBatch::new().into_iter(),
                reader: Some(reader),
            };
            let consumed = consume(&mut entries);
            entries.finish()?;
            consumed
        })
    }
}

impl StoredSnapshot {
    fn visit(&self, visit: EntryVisitor<'_>) -> io::Result<()> {
        let lease = self.leases.read();
        let stale = || {
            io::Error::new(
                io::ErrorKind::Interrupted,
                "the stored state moved on while it was read",
            )
        };
        match self.store.load(self.group)? {
            Some((position, _)) if position == self.position => {}
            _ => return Err(stale()),
        }
        self.store.entries(self.group, &mut |key, value| {
            visit(key, value)?;
            match lease.is_held() {
                true => Ok(()),
                false => Err(stale()),
            }
        })?;
        match lease.end() {
            true => Ok(()),
            false => Err(stale()),
        }
    }
}

/// The pulling side of [`SnapshotData::read`].
struct Entries<'scope> {
    receiver: Receiver<EntryBatch>,
    batch: std::vec::IntoIter<(Vec<u8>, Vec<u8>)>,
    reader: Option<std::thread::ScopedJoinHandle<'scope, io::Result<()>>>,
}

impl Entries<'_> {
    fn join(&mut self) -> io::Result<()> {
        match self.reader.take().map(std::thread::ScopedJoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("reading the snapshot panicked")),
        }
    }

    /// Ends the reader. Its error matters only where the consumer has not seen it and pulled everything.
    fn finish(mut self) -> io::Result<()> {
        let pulled_everything = self.reader.is_none();
        drop(std::mem::replace(&mut self.receiver, sync_channel(0).1));
        match self.join() {
            Err(error) if pulled_everything => Err(error),
            _ => Ok(()),
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = io::Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.batch.next() {
                return Some(Ok(entry));
            }
            match self.receiver.recv() {
                Ok(batch) => self.batch = batch.into_iter(),
                Err(_) => return self.join().err().map(Err),
            }
        }
    }
}

#[derive(Default)]
struct ChunkBuilder {
    records: BytesMut,
    count: u32,
}

impl ChunkBuilder {
    fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let too_large = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "a state entry is too large for a snapshot",
            )
        };
        if self.records.len() + key.len() + value.len() + 16 > CHUNK_BYTES_MAX {
            return Err(too_large());
        }
        self.records
            .put_u32_le(u32::try_from(key.len()).map_err(|_| too_large())?);
        self.records
            .put_u32_le(u32::try_from(value.len()).map_err(|_| too_large())?);
        self.records.put_slice(key);
        self.records.put_slice(value);
        self.count += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.records.len() >= CHUNK_BYTES
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn take(&mut self) -> Bytes {
        let records = self.records.split();
        sealed(std::mem::take(&mut self.count), &records)
    }
}

fn closing_chunk(total: u64) -> Bytes {
    sealed(END_OF_SNAPSHOT, &total.to_le_bytes())
}

fn sealed(count: u32, content: &[u8]) -> Bytes {
    let mut chunk = BytesMut::with_capacity(8 + content.len());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&count.to_le_bytes()), content);
    chunk.put_u32_le(checksum);
    chunk.put_u32_le(count);
    chunk.put_slice(content);
    chunk.freeze()
}

/// A checked chunk.
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    Records { count: u32, records: Bytes },
    End { total: u64 },
}

fn open_chunk(mut chunk: Bytes) -> io::Result<Chunk> {
    let checksum = chunk
        .try_get_u32_le()
        .map_err(|_| corrupt("chunk is cut short"))?;
    if crc32c::crc32c(&chunk) != checksum {
        return Err(corrupt("chunk fails its checksum"));
    }
    match chunk
        .try_get_u32_le()
        .map_err(|_| corrupt("chunk is cut short"))?
    {
        END_OF_SNAPSHOT => match (chunk.try_get_u64_le(), chunk.is_empty()) {
            (Ok(total), true) => Ok(Chunk::End { total }),
            _ => Err(corrupt("closing chunk is malformed")),
        },
        count => Ok(Chunk::Records {
            count,
            records: chunk,
        }),
    }
}

fn visit_records(count: u32, mut records: Bytes, visit: EntryVisitor<'_>) -> io::Result<()> {
    for _ in 0..count {
        let (key, value) = match (records.try_get_u32_le(), records.try_get_u32_le()) {
            (Ok(key), Ok(value)) => (key as usize, value as usize),
            _ => return Err(corrupt("record is cut short")),
        };
        if records.len().checked_sub(key).is_none_or(|rest| rest < value) {
            return Err(corrupt("record is cut short"));
        }
        let key = records.split_to(key);
        let value = records.split_to(value);
        visit(&key, &value)?;
    }
    match records.is_empty() {
        true => Ok(()),
        false => Err(corrupt("bytes behind the records")),
    }
}

fn corrupt(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot {what}"))
}

/// Collects the chunks of a snapshot in a file that has no name any more: it is gone with the last handle.
pub(super) struct SnapshotReceiver {
    file: File,
    records: u64,
    complete: bool,
}

impl SnapshotReceiver {
    /// Creates the file. Blocks.
    ///
    /// # Errors
    /// I/O failed.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "snapshot-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = directory.join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self {
            file,
            records: 0,
            complete: false,
        })
    }

    /// Adds a chunk, in the order they were sent. Blocks.
    ///
    /// # Errors
    /// I/O failed, or the chunk is corrupt or out of place.
    pub(super) fn push(&mut self, chunk: Bytes) -> io::Result<()> {
        if self.complete {
            return Err(corrupt("goes on behind its end"));
        }
        let length = u32::try_from(chunk.len())
            .ok()
            .filter(|length| *length as usize <= CHUNK_BYTES_MAX + 8);
        let length = length.ok_or_else(|| corrupt("chunk is too large"))?;
        match open_chunk(chunk.clone())? {
            Chunk::Records { count, .. } => self.records += u64::from(count),
            Chunk::End { total } if total == self.records => self.complete = true,
            Chunk::End { .. } => return Err(corrupt("misses records")),
        }
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&chunk)
    }

    /// The snapshot, once its closing chunk has come.
    ///
    /// # Errors
    /// The snapshot is incomplete.
    pub(super) fn finish(self) -> io::Result<ReceivedSnapshot> {
        match self.complete {
            true => Ok(ReceivedSnapshot { file: self.file }),
            false => Err(corrupt("ended early")),
        }
    }
}

/// A complete snapshot from another node.
pub(super) struct ReceivedSnapshot {
    file: File,
}

impl ReceivedSnapshot {
    fn visit(&mut self, visit: EntryVisitor<'_>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut file = io::BufReader::new(&self.file);
        loop {
            let mut length = [0; 4];
            file.read_exact(&mut length)?;
            let length = u32::from_le_bytes(length) as usize;
            if length > CHUNK_BYTES_MAX + 8 {
                return Err(corrupt("chunk is too large"));
            }
            let mut chunk = vec![0; length];
            file.read_exact(&mut chunk)?;
            match open_chunk(chunk.into())? {
                Chunk::Records { count, records } => visit_records(count, records, visit)?,
                Chunk::End { .. } => return Ok(()),
            }
        }
    }
}
