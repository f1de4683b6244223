//! Retained writes on their way from this group, the publisher's home, to their topics' groups, in the order they
//! were committed (R35).

use std::collections::BTreeMap;
use std::ops::Bound;

use super::messages::{MessageKey, Messages, Slot};
use super::records::{Dirty, Key, Kind, RecordSink};

/// Writes and bytes from which on the writes of clients are turned away. Constants of the format: all replicas have to
/// judge alike (R28).
pub(super) const WRITES_MAX: usize = 65_536;
const BYTES_MAX: u64 = 64 << 20;

/// The writes by where they stand in the log.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    writes: BTreeMap<MessageKey, Slot>,
    /// Of their messages.
    bytes: u64,
    dirty: Dirty<MessageKey>,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether what clients publish is turned away: the group of some topics takes nothing.
    pub(super) fn is_full(&self) -> bool {
        self.writes.len() >= WRITES_MAX || self.bytes >= BYTES_MAX
    }

    pub(super) fn get(&self, key: MessageKey) -> Option<Slot> {
        self.writes.get(&key).copied()
    }

    pub(super) fn first(&self) -> Option<MessageKey> {
        self.writes.first_key_value().map(|(key, _)| *key)
    }

    /// Writes behind `after`, in order.
    pub(super) fn after(&self, after: Option<MessageKey>) -> impl Iterator<Item = (MessageKey, Slot)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.writes
            .range((start, Bound::Unbounded))
            .map(|(key, slot)| (*key, *slot))
    }

    /// Adds a write whose message already has the reference for it.
    pub(super) fn push(&mut self, key: MessageKey, slot: Slot, messages: &Messages) {
        self.load(key, slot, messages);
        self.dirty.insert(key);
    }

    /// Removes a write, if it is there.
    pub(super) fn remove(&mut self, key: MessageKey, messages: &mut Messages) {
        let Some(slot) = self.writes.remove(&key) else {
            return;
        };
        self.bytes -= messages.size(slot);
        messages.release(slot);
        // What no checkpoint has yet needs no record of its end.
        self.dirty.toggle(key);
    }

    pub(super) fn check_invariants(&self, messages: &Messages) -> Result<(), String> {
        let bytes: u64 = self.writes.values().map(|slot| messages.size(*slot)).sum();
        match bytes == self.bytes {
            true => Ok(()),
            false => Err(format!("outbox: {bytes} bytes, counted {}", self.bytes)),
        }
    }

    pub(super) fn drain(&mut self, sink: &mut impl RecordSink) {
        for key in self.dirty.take() {
            match self.writes.contains_key(&key) {
                true => sink.put(record_key(key), |_| {}),
                false => sink.delete(record_key(key)),
            }
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for key in self.writes.keys() {
            sink.put(record_key(*key), |_| {});
        }
    }

    pub(super) fn load(&mut self, key: MessageKey, slot: Slot, messages: &Messages) {
        self.bytes += messages.size(slot);
        self.writes.insert(key, slot);
    }
}

fn record_key(key: MessageKey) -> Key {
    Key::new(Kind::Outbox).u64(key.index).u32(key.position)
}
