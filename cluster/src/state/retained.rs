//! The retained messages of the topics whose home is this group, and how far each group's writes were taken (R35).
//!
//! A write may come again: its carrier lost its leadership before it could note the answer, or its publisher asks once
//! more what became of it. The repeat gets the first outcome, so refusals are remembered with the mark of their source.
//! Carriers have at most one batch of writes without such a note, which is less than is remembered here.
//!
//! Invariants: a message is not empty; `bytes` adds up; a mark never goes back, and no refusal lies behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_proto::message::Message;
use quorate_proto::topic::{Page, RetainedIndex};
use quorate_storage::log::GroupId;

use super::codec::{CodecError, Reader, put_source, put_varint, read_source};
use super::messages::{MessageKey, Stored, compact, counted_bytes};
use super::records::{Dirty, Key, Kind, RecordSink};
use super::{GroupTime, RetainedPage, RetainedSource};

/// Refused writes of one source that are remembered. A constant of the format: all replicas have to answer alike (R28).
pub(super) const REFUSED_MAX: usize = 1_024;

/// Bytes of the messages in one page, unless a single one is larger.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Limits of one write.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetainedLimits {
    pub(super) messages_max: u32,
    pub(super) bytes_max: u64,
}

/// What a write did: the deadline that is off, and the one that is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeadlineChange {
    pub(super) off: Option<GroupTime>,
    pub(super) on: Option<GroupTime>,
}

/// Whether a write is to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    /// It was, or a later one was and this one was taken before.
    Taken,
    /// It was refused.
    Refused,
    /// It was carried out or refused, so long ago that nobody remembers which.
    Forgotten,
}

/// What is known of the writes of one source.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mark {
    last: MessageKey,
    refused: BTreeSet<MessageKey>,
    /// Up to this one refusals are not remembered.
    forgotten: Option<MessageKey>,
}

impl Mark {
    fn arrival(&self, at: MessageKey) -> Arrival {
        if self.last < at {
            Arrival::New
        } else if self.refused.contains(&at) {
            Arrival::Refused
        } else if Some(at) <= self.forgotten {
            Arrival::Forgotten
        } else {
            Arrival::Taken
        }
    }

    fn refuse(&mut self, at: MessageKey) {
        self.refused.insert(at);
        if self.refused.len() > REFUSED_MAX {
            self.forgotten = self.refused.pop_first().max(self.forgotten);
        }
    }

    /// A source that was never refused anything has the record that it always had.
    fn write(&self, out: &mut Vec<u8>) {
        self.last.write(out);
        if self.refused.is_empty() {
            return;
        }
        put_varint(out, self.refused.len() as u64);
        self.refused
            .iter()
            .chain(&self.forgotten)
            .for_each(|key| key.write(out));
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mut mark = Self {
            last: MessageKey::read(reader)?,
            ..Self::default()
        };
        if reader.remaining() == 0 {
            return Ok(mark);
        }
        for _ in 0..reader.count(2, "refused writes")? {
            mark.refused.insert(MessageKey::read(reader)?);
        }
        if reader.remaining() > 0 {
            mark.forgotten = Some(MessageKey::read(reader)?);
        }
        Ok(mark)
    }
}

/// A topic's message, and where its publish stands; older records do not say that.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RetainedMessage {
    pub(super) stored: Stored,
    pub(super) source: Option<RetainedSource>,
}

impl RetainedMessage {
    fn write(&self, out: &mut Vec<u8>) {
        self.stored.write(out);
        if let Some(source) = &self.source {
            put_source(out, source);
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let stored = Stored::read(reader)?;
        let source = (reader.remaining() > 0)
            .then(|| read_source(reader))
            .transpose()?;
        Ok(Self { stored, source })
    }
}

/// The retained messages of a group.
#[derive(Debug, Default)]
pub(super) struct RetainedStore {
    topics: RetainedIndex<RetainedMessage>,
    bytes: u64,
    marks: BTreeMap<GroupId, Mark>,
    dirty: Dirty<Arc<str>>,
    dirty_marks: Dirty<GroupId>,
}

impl RetainedStore {
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, topic: &str) -> Option<&RetainedMessage> {
        self.topics.get(topic)
    }

    /// Last write taken from a group.
    pub(super) fn mark(&self, group: GroupId) -> Option<RetainedSource> {
        let last = self.marks.get(&group)?.last;
        Some(RetainedSource {
            group,
            index: last.index,
            position: last.position,
        })
    }

    /// The first messages behind `after` whose topic matches, in level order, and where to go on.
    pub(super) fn matching(
        &self,
        filter: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Page<'_, RetainedMessage> {
        self.topics.matching(filter, after, limit)
    }

    /// Notes a new write's place; what is known of one that is not new.
    pub(super) fn advance(&mut self, source: &RetainedSource) -> Arrival {
        let at = key_of(source);
        let known = self.marks.get(&source.group);
        let arrival = known.map_or(Arrival::New, |mark| mark.arrival(at));
        if arrival == Arrival::New {
            self.marks.entry(source.group).or_default().last = at;
            self.dirty_marks.insert(source.group);
        }
        arrival
    }

    /// Remembers that the last write of its source was refused.
    pub(super) fn refuse(&mut self, source: &RetainedSource) {
        self.marks.entry(source.group).or_default().refuse(key_of(source));
        self.dirty_marks.insert(source.group);
    }

    /// Sets a topic's message, or clears it when the payload is empty [MQTT-3.3.1-6]. None when a limit is in the way;
    /// what the topic has stays then. A write that makes nothing larger is never refused.
    pub(super) fn set(
        &mut self,
        (source, message): (&RetainedSource, &Message),
        now: GroupTime,
        limits: RetainedLimits,
    ) -> Option<DeadlineChange> {
        let topic = message.topic();
        if message.payload().is_empty() {
            return Some(DeadlineChange {
                off: self.remove(topic).and_then(|old| old.stored.expires_at),
                on: None,
            });
        }
        let (count, old_size) = match self.topics.get(topic) {
            Some(old) => (self.topics.len(), counted_bytes(&old.stored.message)),
            None => (self.topics.len() + 1, 0),
        };
        let size = counted_bytes(message);
        let grows_beyond = size > old_size && self.bytes - old_size + size > limits.bytes_max;
        if grows_beyond || (old_size == 0 && count > limits.messages_max as usize) {
            return None;
        }
        let stored = Stored::now(compact(message), None, now);
        let on = stored.expires_at;
        self.bytes = self.bytes - old_size + size;
        self.dirty.insert(Arc::from(topic));
        let source = Some(*source);
        let old = self.topics.insert(topic, RetainedMessage { stored, source });
        let off = old.and_then(|old| old.stored.expires_at);
        Some(DeadlineChange { off, on })
    }

    /// Removes a topic's message.
    pub(super) fn remove(&mut self, topic: &str) -> Option<RetainedMessage> {
        let removed = self.topics.remove(topic)?;
        self.bytes -= counted_bytes(&removed.stored.message);
        self.dirty.insert(Arc::from(topic));
        Some(removed)
    }

    /// All messages in level order of their topics.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &RetainedMessage)> {
        self.topics.iter()
    }

    pub(super) fn drain(&mut self, sink: &mut impl RecordSink) {
        for topic in self.dirty.take() {
            let key = Key::new(Kind::Retained).rest(&topic);
            match self.topics.get(&topic) {
                Some(retained) => sink.put(key, |out| retained.write(out)),
                None => sink.delete(key),
            }
        }
        for group in self.dirty_marks.take() {
            if let Some(mark) = self.marks.get(&group) {
                sink.put(mark_key(group), |out| mark.write(out));
            }
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for (topic, retained) in self.topics.iter() {
            sink.put(Key::new(Kind::Retained).rest(topic), |out| retained.write(out));
        }
        for (group, mark) in &self.marks {
            sink.put(mark_key(*group), |out| mark.write(out));
        }
    }

    /// Adds a stored message; false when it is not what its key says.
    pub(super) fn load(&mut self, topic: &str, mut retained: RetainedMessage) -> bool {
        let stored = &mut retained.stored;
        if stored.message.topic() != topic || stored.message.payload().is_empty() {
            return false;
        }
        stored.message = compact(&stored.message);
        self.bytes += counted_bytes(&stored.message);
        self.topics.insert(topic, retained);
        true
    }

    pub(super) fn load_mark(&mut self, group: GroupId, mark: Mark) {
        self.marks.insert(group, mark);
    }

    pub(super) fn check_invariants(&self) -> Result<(), String> {
        let bytes: u64 = self
            .topics
            .iter()
            .map(|(_, retained)| counted_bytes(&retained.stored.message))
            .sum();
        if bytes != self.bytes {
            return Err(format!("retained: {bytes} bytes, counted {}", self.bytes));
        }
        let is_sound = |mark: &Mark| {
            mark.refused.last().is_none_or(|last| *last <= mark.last)
                && mark.refused.len() <= REFUSED_MAX
                && mark
                    .refused
                    .first()
                    .is_none_or(|first| Some(*first) > mark.forgotten)
        };
        if let Some((group, _)) = self.marks.iter().find(|(_, mark)| !is_sound(mark)) {
            return Err(format!("retained: what is remembered of {group:?} is at odds"));
        }
        match self
            .topics
            .iter()
            .find(|(topic, retained)| retained.stored.message.topic() != *topic)
        {
            Some((topic, _)) => Err(format!("retained: {topic:?} holds another topic's message")),
            None => Ok(()),
        }
    }
}

impl RetainedPage {
    /// Leaves the first messages that together stay below the bound; at least one. The rest is for the next page.
    pub(super) fn limit_bytes(&mut self) {
        let mut bytes = 0;
        let beyond = self.matches.iter().position(|value| {
            bytes += value.message.size();
            bytes > PAGE_BYTES_MAX
        });
        if let Some(beyond) = beyond
            .map(|beyond| beyond.max(1))
            .filter(|beyond| *beyond < self.matches.len())
        {
            self.matches.truncate(beyond);
            self.resume_after = self.matches.last().map(|value| value.message.topic().to_owned());
        }
    }
}

fn key_of(source: &RetainedSource) -> MessageKey {
    MessageKey {
        index: source.index,
        position: source.position,
    }
}

fn mark_key(group: GroupId) -> Key {
    Key::new(Kind::Mark).u16(group.0)
}
