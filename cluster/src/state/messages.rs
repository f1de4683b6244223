//! The messages that references point to: a slab in chunks, with reference counts.
//!
//! A message stands here once, however many queues it is in, and goes with its last reference. What came after the
//! last checkpoint is linked in a list of its own, so that a checkpoint sees what is left of it and pays nothing for
//! messages that came and went in between.
//!
//! A large payload that a checkpoint holds leaves memory: who wants it reads it from the state store
//! ([`StoredMessage`]). What is delivered within seconds never gets there.
//!
//! Invariants: every message has a reference; a chunk is in `open` exactly when it has room; a payload that is absent is in
//! the state store.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU64;

use quorate_proto::message::Message;

use super::codec::{
    CodecError, Reader, put_message, put_option_u64, put_optional_session, put_varint, read_message,
    read_option_u64, read_optional_session,
};
use super::records::{Key, Kind, RecordSink, SealError, open, parse};
use super::{GroupTime, SessionId, StateError};

/// What limits and counters add to a message's data. A constant of the format and not [`Message::size`], which knows
/// the layout of this build's types: limits decide what apply stores, so all replicas have to count alike (R28, R50).
const MESSAGE_OVERHEAD_BYTES: u64 = 48;
/// Payloads from this size on leave memory when a checkpoint holds them.
const LEAVING_BYTES_MIN: usize = 8 * 1024;
const CHUNK_BITS: u32 = 8;
const CHUNK_SLOTS: usize = 1 << CHUNK_BITS;
const NO_SLOT: u32 = u32::MAX;

/// Bytes that queues, the retained store and their limits count for a message.
pub fn counted_bytes(message: &Message) -> u64 {
    message.data().len() as u64 + MESSAGE_OVERHEAD_BYTES
}

/// A copy that does not keep a whole log entry in memory.
pub(super) fn compact(message: &Message) -> Message {
    Message::new(
        message.topic(),
        message.forwardable(),
        message.payload(),
        message.qos,
        message.retain,
        message.expiry_secs,
    )
}

/// Whether the payload leaves memory when a checkpoint holds it.
fn is_large(message: &Message) -> bool {
    message.payload().len() >= LEAVING_BYTES_MIN
}

/// The head of a message whose payload is elsewhere.
fn without_payload(message: &Message) -> Message {
    Message::new(
        message.topic(),
        message.forwardable(),
        &[],
        message.qos,
        message.retain,
        message.expiry_secs,
    )
}

/// A message that is in the state store alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage(MessageKey);

impl StoredMessage {
    /// The key of its record.
    pub fn key(&self) -> Vec<u8> {
        record_key(self.0).finish()
    }

    /// The message, from the value of its record.
    ///
    /// # Errors
    /// The value is not what was written.
    pub fn read(&self, value: Vec<u8>) -> Result<Message, StateError> {
        let key = self.key();
        let fields = match open(&key, &value.into()) {
            Ok(fields) => fields,
            Err(SealError::Checksum) => return Err(StateError::Checksum { key }),
            Err(SealError::Version(version)) => return Err(StateError::Version { key, version }),
        };
        match parse(&fields, Stored::read) {
            Ok(stored) => Ok(stored.message),
            Err(error) => Err(StateError::Form { key, error }),
        }
    }
}

/// Identity of a message: the entry that brought it and the command's position in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MessageKey {
    pub(super) index: u64,
    pub(super) position: u32,
}

impl MessageKey {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.index);
        put_varint(out, u64::from(self.position));
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            index: reader.varint("index")?,
            position: reader.varint_u32("position")?,
        })
    }
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot(u32);

impl Slot {
    fn parts(self) -> (usize, usize) {
        (
            (self.0 >> CHUNK_BITS) as usize,
            self.0 as usize & (CHUNK_SLOTS - 1),
        )
    }
}

/// A message, when it came, and from whom.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) message: Message,
    /// A session's number, which is never 0: that of its home group stands in front.
    publisher: Option<NonZeroU64>,
    pub(super) received_at: GroupTime,
    pub(super) expires_at: Option<GroupTime>,
}

impl Stored {
    /// A message that comes now.
    pub(super) fn now(message: Message, publisher: Option<SessionId>, now: GroupTime) -> Self {
        let expires_at = message
            .expiry_secs
            .map(|secs| super::timers::after_secs(now, secs));
        Self {
            message,
            publisher: number_of(publisher),
            received_at: now,
            expires_at,
        }
    }

    /// The session that published the message; none where the broker did, and for retained messages.
    pub(super) fn publisher(&self) -> Option<SessionId> {
        self.publisher.map(|session| SessionId(session.get()))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        // With what stands around it: a long one is not to be moved for a few bytes more.
        out.reserve(self.message.data().len() + 64);
        put_varint(out, self.received_at.0);
        put_option_u64(out, self.expires_at.map(|at| at.0));
        put_optional_session(out, self.publisher());
        put_message(out, &self.message);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let received_at = GroupTime(reader.varint("time of a message")?);
        let expires_at = read_option_u64(reader, "deadline of a message")?.map(GroupTime);
        let publisher = number_of(read_optional_session(reader)?);
        Ok(Self {
            message: read_message(reader)?,
            publisher,
            received_at,
            expires_at,
        })
    }
}

fn number_of(session: Option<SessionId>) -> Option<NonZeroU64> {
    session.and_then(|session| NonZeroU64::new(session.0))
}

#[derive(Debug)]
struct Entry {
    stored: Stored,
    key: MessageKey,
    references: u32,
    /// Bytes it counts.
    size: u64,
    /// Whether the payload is in the state store and not here.
    absent: bool,
    /// Whether the last checkpoint has it; if not it is linked in the list of new messages.
    saved: bool,
    previous: u32,
    next: u32,
}

#[derive(Debug, Default)]
struct Chunk {
    entries: Vec<Option<Entry>>,
    free: Vec<u8>,
}

impl Chunk {
    fn live(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    fn is_full(&self) -> bool {
        self.live() == CHUNK_SLOTS
    }
}

/// All messages of a group.
#[derive(Debug)]
pub(super) struct Messages {
    chunks: Vec<Chunk>,
    open: BTreeSet<u32>,
    /// Head of the list of messages that no checkpoint has.
    newest: u32,
    /// Messages that a checkpoint has and that are gone since.
    removed: Vec<MessageKey>,
    count: usize,
    bytes: u64,
    /// Of these, bytes that no checkpoint has.
    unsaved_bytes: u64,
    /// Of messages whose payload is to leave, and is here.
    large_bytes: u64,
    /// Messages whose payload leaves when the store has the checkpoint, which is as of this index.
    leaving: VecDeque<(u64, Slot, MessageKey)>,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            open: BTreeSet::new(),
            newest: NO_SLOT,
            removed: Vec::new(),
            count: 0,
            bytes: 0,
            unsaved_bytes: 0,
            large_bytes: 0,
            leaving: VecDeque::new(),
        }
    }
}

impl Messages {
    /// Number of messages.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Bytes of all messages, each counted once.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of messages that no checkpoint has.
    pub(super) fn unsaved_bytes(&self) -> u64 {
        self.unsaved_bytes
    }

    /// Bytes of messages with a large payload that is here.
    pub(super) fn large_bytes(&self) -> u64 {
        self.large_bytes
    }

    /// Where a message's payload is, if not here.
    pub(super) fn stored(&self, slot: Slot) -> Option<StoredMessage> {
        let entry = self.entry(slot);
        entry.absent.then_some(StoredMessage(entry.key))
    }

    pub(super) fn get(&self, slot: Slot) -> &Stored {
        &self.entry(slot).stored
    }

    pub(super) fn key(&self, slot: Slot) -> MessageKey {
        self.entry(slot).key
    }

    /// Bytes the message counts.
    pub(super) fn size(&self, slot: Slot) -> u64 {
        self.entry(slot).size
    }

    /// Stores a message without a reference; the caller adds at least one.
    pub(super) fn insert(&mut self, key: MessageKey, stored: Stored) -> Slot {
        let size = counted_bytes(&stored.message);
        self.unsaved_bytes += size;
        if is_large(&stored.message) {
            self.large_bytes += size;
        }
        let slot = self.place(Entry {
            stored,
            key,
            references: 0,
            size,
            absent: false,
            saved: false,
            previous: NO_SLOT,
            next: self.newest,
        });
        if self.newest != NO_SLOT {
            self.entry_mut(Slot(self.newest)).previous = slot.0;
        }
        self.newest = slot.0;
        slot
    }

    pub(super) fn add_reference(&mut self, slot: Slot) {
        self.entry_mut(slot).references += 1;
    }

    /// Takes a reference away, and the message with the last one; returns the bytes it counts.
    pub(super) fn release(&mut self, slot: Slot) -> u64 {
        let entry = self.entry_mut(slot);
        let size = entry.size;
        entry.references -= 1;
        if entry.references == 0 {
            self.remove(slot, size);
        }
        size
    }

    fn remove(&mut self, slot: Slot, size: u64) {
        let (chunk_at, at) = slot.parts();
        let chunk = &mut self.chunks[chunk_at];
        let was_full = chunk.is_full();
        let entry = chunk.entries[at]
            .take()
            .expect("a reference's message is in the slab");
        chunk.free.push(at as u8);
        if was_full {
            self.open.insert(chunk_at as u32);
        }
        self.count -= 1;
        self.bytes -= size;
        if is_large(&entry.stored.message) {
            self.large_bytes -= size;
        }
        if entry.saved {
            self.removed.push(entry.key);
        } else {
            self.unsaved_bytes -= size;
            self.unlink(entry.previous, entry.next);
        }
    }

    fn unlink(&mut self, previous: u32, next: u32) {
        match previous {
            NO_SLOT => self.newest = next,
            previous => self.entry_mut(Slot(previous)).next = next,
        }
        if next != NO_SLOT {
            self.entry_mut(Slot(next)).previous = previous;
        }
    }

    fn place(&mut self, entry: Entry) -> Slot {
        self.count += 1;
        self.bytes += entry.size;
        let chunk_at = match self.open.first() {
            Some(at) => *at,
            None => {
                let at = self.chunks.len() as u32;
                self.chunks.push(Chunk::default());
                self.open.insert(at);
                at
            }
        };
        let chunk = &mut self.chunks[chunk_at as usize];
        let at = match chunk.free.pop() {
            Some(at) => {
                chunk.entries[at as usize] = Some(entry);
                at as usize
            }
            None => {
                chunk.entries.push(Some(entry));
                chunk.entries.len() - 1
            }
        };
        if chunk.is_full() {
            self.open.remove(&chunk_at);
        }
        Slot(chunk_at << CHUNK_BITS | at as u32)
    }

    fn entry(&self, slot: Slot) -> &Entry {
        let (chunk, at) = slot.parts();
        self.chunks[chunk].entries[at]
            .as_ref()
            .expect("a reference's message is in the slab")
    }

    fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        let (chunk, at) = slot.parts();
        self.chunks[chunk].entries[at]
            .as_mut()
            .expect("a reference's message is in the slab")
    }

    /// Writes what changed up to the entry at `index`. A message that lives on gets an allocation of its own here, so that
    /// what is delivered soon is never copied and what waits long does not hold on to the log entry it came in; a large one
    /// only waits for the checkpoint to be stored.
    pub(super) fn drain(&mut self, index: u64, sink: &mut impl RecordSink) {
        for key in std::mem::take(&mut self.removed) {
            sink.delete(record_key(key));
        }
        let mut at = std::mem::replace(&mut self.newest, NO_SLOT);
        self.unsaved_bytes = 0;
        while at != NO_SLOT {
            let slot = Slot(at);
            let entry = self.entry_mut(slot);
            sink.put(record_key(entry.key), |out| entry.stored.write(out));
            entry.saved = true;
            at = std::mem::replace(&mut entry.next, NO_SLOT);
            entry.previous = NO_SLOT;
            if is_large(&entry.stored.message) {
                let key = entry.key;
                self.leaving.push_back((index, slot, key));
            } else {
                entry.stored.message = compact(&entry.stored.message);
            }
        }
        self.trim();
    }

    /// What was drained is not stored anywhere, so nothing leaves.
    pub(super) fn stay(&mut self) {
        self.leaving.clear();
    }

    /// The state store has everything up to the entry at `index`: large payloads leave.
    pub(super) fn leave(&mut self, index: u64) {
        while let Some((_, slot, key)) = self.leaving.pop_front_if(|(drained, ..)| *drained <= index) {
            let (chunk, at) = slot.parts();
            let place = self
                .chunks
                .get_mut(chunk)
                .and_then(|chunk| chunk.entries.get_mut(at));
            if let Some(Some(entry)) = place
                && entry.key == key
            {
                self.large_bytes -= entry.size;
                entry.stored.message = without_payload(&entry.stored.message);
                entry.absent = true;
            }
        }
    }

    /// Gives the memory of empty chunks back.
    fn trim(&mut self) {
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.live() == 0) {
            *chunk = Chunk::default();
        }
        while self.chunks.last().is_some_and(|chunk| chunk.live() == 0) {
            self.chunks.pop();
            self.open.remove(&(self.chunks.len() as u32));
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for entry in self.entries() {
            debug_assert!(!entry.absent, "the whole state is written where all of it is");
            sink.put(record_key(entry.key), |out| entry.stored.write(out));
        }
    }

    /// Adds a stored message; its references follow.
    pub(super) fn load(&mut self, key: MessageKey, mut stored: Stored) -> Slot {
        let size = counted_bytes(&stored.message);
        let absent = is_large(&stored.message);
        stored.message = match absent {
            true => without_payload(&stored.message),
            false => compact(&stored.message),
        };
        self.place(Entry {
            stored,
            key,
            references: 0,
            size,
            absent,
            saved: true,
            previous: NO_SLOT,
            next: NO_SLOT,
        })
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.entries.iter().flatten())
    }

    /// `references` has one item per reference there is.
    pub(super) fn check_invariants(&self, references: impl Iterator<Item = Slot>) -> Result<(), String> {
        let mut counted: super::HashMap<Slot, u32> = super::HashMap::default();
        references.for_each(|slot| *counted.entry(slot).or_insert(0) += 1);
        let (mut count, mut bytes, mut unsaved, mut unsaved_bytes, mut large_bytes) = (0, 0, 0, 0, 0);
        for (chunk_at, chunk) in self.chunks.iter().enumerate() {
            if self.open.contains(&(chunk_at as u32)) == chunk.is_full() {
                return Err(format!("messages: chunk {chunk_at} is listed wrongly"));
            }
            for (at, entry) in chunk.entries.iter().enumerate() {
                let Some(entry) = entry else { continue };
                let slot = Slot((chunk_at << CHUNK_BITS | at) as u32);
                if entry.references == 0 || counted.get(&slot) != Some(&entry.references) {
                    return Err(format!(
                        "messages: {:?} has {} references",
                        entry.key, entry.references
                    ));
                }
                if entry.absent && !entry.saved
                    || !entry.absent && entry.size != counted_bytes(&entry.stored.message)
                {
                    return Err(format!("messages: {:?} is not what it was", entry.key));
                }
                count += 1;
                bytes += entry.size;
                unsaved += usize::from(!entry.saved);
                unsaved_bytes += if entry.saved { 0 } else { entry.size };
                large_bytes += if is_large(&entry.stored.message) {
                    entry.size
                } else {
                    0
                };
            }
        }
        if (count, bytes) != (self.count, self.bytes)
            || (unsaved_bytes, large_bytes) != (self.unsaved_bytes, self.large_bytes)
            || counted.len() != count
        {
            return Err("messages: counters are wrong".into());
        }
        self.check_list(unsaved)
    }

    fn check_list(&self, unsaved: usize) -> Result<(), String> {
        let (mut at, mut previous, mut listed) = (self.newest, NO_SLOT, 0);
        while at != NO_SLOT {
            let entry = self.entry(Slot(at));
            if entry.saved || entry.previous != previous {
                return Err(format!("messages: {:?} is linked wrongly", entry.key));
            }
            (previous, at) = (at, entry.next);
            listed += 1;
        }
        match listed == unsaved {
            true => Ok(()),
            false => Err(format!("messages: {listed} of {unsaved} new ones are linked")),
        }
    }
}

fn record_key(key: MessageKey) -> Key {
    Key::new(Kind::Message).u64(key.index).u32(key.position)
}
