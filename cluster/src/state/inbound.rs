//! Packet identifiers of QoS 2 messages received from a session's client and not released yet (R8), and the retained writes
//! that came with some of them: a client that sends such a message again is answered when its topic's group has it, or has
//! refused it (R33), whichever node it has come to.
//!
//! Invariants: a session without identifiers and writes has no entry; a write's identifier is received, or its publish
//! under way; a write stands in the outbox, or was refused.

use std::collections::BTreeMap;

use quorate_proto::codec::PacketId;

use super::codec::{CodecError, Reader, put_bool, put_packet_id, put_varint, read_packet_id};
use super::messages::MessageKey;
use super::records::{Dirty, Key, Kind, RecordSink};
use super::{HashMap, SessionId};

/// A retained write that came with a message, and that its topic's group does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceivedWrite {
    /// Its place in the outbox.
    pub(super) key: MessageKey,
    /// Somebody else has the message.
    pub(super) kept: bool,
    /// The topic's group refused it; else it is on its way there.
    pub(super) refused: bool,
}

/// What was received from one session's client.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Received {
    /// In ascending order: the receive maximum keeps the lists short, and new ones mostly go to the end.
    identifiers: Vec<PacketId>,
    writes: BTreeMap<PacketId, ReceivedWrite>,
}

impl Received {
    fn is_empty(&self) -> bool {
        self.identifiers.is_empty() && self.writes.is_empty()
    }
}

/// What was received from the clients of all sessions of a group.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    received: HashMap<SessionId, Received>,
    dirty: Dirty<SessionId>,
}

impl Inbound {
    pub(super) fn of(&self, session: SessionId) -> &[PacketId] {
        self.received
            .get(&session)
            .map_or(&[], |received| received.identifiers.as_slice())
    }

    pub(super) fn contains(&self, session: SessionId, packet_id: PacketId) -> bool {
        self.of(session).binary_search(&packet_id).is_ok()
    }

    pub(super) fn insert(&mut self, session: SessionId, packet_id: PacketId) {
        let identifiers = &mut self.received.entry(session).or_default().identifiers;
        if let Err(at) = identifiers.binary_search(&packet_id) {
            identifiers.insert(at, packet_id);
            self.dirty.insert(session);
        }
    }

    /// The retained write that came with a message.
    pub(super) fn write_of(&self, session: SessionId, packet_id: PacketId) -> Option<ReceivedWrite> {
        self.received.get(&session)?.writes.get(&packet_id).copied()
    }

    /// Notes the retained write of a message that is received, or under way.
    pub(super) fn note_write(&mut self, session: SessionId, packet_id: PacketId, write: ReceivedWrite) {
        let received = self.received.entry(session).or_default();
        received.writes.insert(packet_id, write);
        self.dirty.insert(session);
    }

    /// Somebody else has the message of a retained write as well.
    pub(super) fn note_kept(&mut self, session: SessionId, packet_id: PacketId) {
        let received = self.received.get_mut(&session);
        if let Some(write) = received.and_then(|received| received.writes.get_mut(&packet_id)) {
            write.kept = true;
            self.dirty.insert(session);
        }
    }

    /// A session's write has left the outbox.
    pub(super) fn write_left(&mut self, session: SessionId, key: MessageKey, is_refused: bool) {
        let Some(received) = self.received.get_mut(&session) else {
            return;
        };
        let mut writes = received.writes.iter_mut();
        let Some((packet_id, write)) = writes.find(|(_, write)| write.key == key) else {
            return;
        };
        match is_refused {
            true => write.refused = true,
            false => {
                let packet_id = *packet_id;
                received.writes.remove(&packet_id);
                if received.is_empty() {
                    self.received.remove(&session);
                }
            }
        }
        self.dirty.insert(session);
    }

    /// Forgets an identifier and its write; whether the identifier was known.
    pub(super) fn remove(&mut self, session: SessionId, packet_id: PacketId) -> bool {
        let Some(received) = self.received.get_mut(&session) else {
            return false;
        };
        let had_write = received.writes.remove(&packet_id).is_some();
        let at = received.identifiers.binary_search(&packet_id);
        if let Ok(at) = at {
            received.identifiers.remove(at);
        }
        if received.is_empty() {
            self.received.remove(&session);
        }
        if had_write || at.is_ok() {
            self.dirty.insert(session);
        }
        at.is_ok()
    }

    pub(super) fn remove_session(&mut self, session: SessionId) {
        if self.received.remove(&session).is_some() {
            self.dirty.insert(session);
        }
    }

    pub(super) fn drain(&mut self, sink: &mut impl RecordSink) {
        for session in self.dirty.take() {
            let key = Key::new(Kind::Inbound).session(session);
            match self.received.get(&session) {
                Some(received) => sink.put(key, |out| write(received, out)),
                None => sink.delete(key),
            }
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for (session, received) in &self.received {
            sink.put(Key::new(Kind::Inbound).session(*session), |out| {
                write(received, out)
            });
        }
    }

    pub(super) fn load(&mut self, session: SessionId, received: Received) {
        self.received.insert(session, received);
    }

    /// `exists` tells which sessions there are, `is_under_way` which publishes have more parts to come, `is_to_leave` which
    /// writes are in the outbox.
    pub(super) fn check_invariants(
        &self,
        exists: impl Fn(SessionId) -> bool,
        is_under_way: impl Fn(SessionId, PacketId) -> bool,
        is_to_leave: impl Fn(MessageKey) -> bool,
    ) -> Result<(), String> {
        for (session, received) in &self.received {
            if received.is_empty() || !received.identifiers.is_sorted_by(|left, right| left < right) {
                return Err(format!("inbound: {session:?} holds {received:?}"));
            }
            if !exists(*session) {
                return Err(format!("inbound: {session:?} does not exist"));
            }
            let is_known = |id: PacketId| self.contains(*session, id) || is_under_way(*session, id);
            let is_sound = |write: &ReceivedWrite| write.refused || is_to_leave(write.key);
            if !received
                .writes
                .iter()
                .all(|(id, write)| is_known(*id) && is_sound(write))
            {
                return Err(format!("inbound: {session:?} holds writes at odds: {received:?}"));
            }
        }
        Ok(())
    }
}

/// What has no retained writes has the record that it always had.
fn write(received: &Received, out: &mut Vec<u8>) {
    put_varint(out, received.identifiers.len() as u64);
    for packet_id in &received.identifiers {
        put_packet_id(out, *packet_id);
    }
    if received.writes.is_empty() {
        return;
    }
    put_varint(out, received.writes.len() as u64);
    for (packet_id, write) in &received.writes {
        put_packet_id(out, *packet_id);
        write.key.write(out);
        put_bool(out, write.kept);
        put_bool(out, write.refused);
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<Received, CodecError> {
    let count = reader.count(2, "inbound identifiers")?;
    let mut received = Received::default();
    for _ in 0..count {
        received.identifiers.push(read_packet_id(reader)?);
    }
    if reader.remaining() > 0 {
        for _ in 0..reader.count(6, "inbound writes")? {
            let packet_id = read_packet_id(reader)?;
            let write = ReceivedWrite {
                key: MessageKey::read(reader)?,
                kept: reader.bool("kept")?,
                refused: reader.bool("refused")?,
            };
            received.writes.insert(packet_id, write);
        }
    }
    if received.is_empty() || !received.identifiers.is_sorted_by(|left, right| left < right) {
        return Err(CodecError::Invalid("inbound identifiers"));
    }
    Ok(received)
}
