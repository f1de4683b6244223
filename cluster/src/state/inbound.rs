//! Packet identifiers of QoS 2 messages received from a session's client and not released yet (R8).

use quorate_proto::codec::PacketId;

use super::codec::{CodecError, Reader, put_packet_id, put_varint, read_packet_id};
use super::records::{Dirty, Key, Kind, RecordSink};
use super::{HashMap, SessionId};

/// Received identifiers of all sessions of a group. A session without any has no entry.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// In ascending order: the receive maximum keeps the lists short, and new ones mostly go to the end.
    received: HashMap<SessionId, Vec<PacketId>>,
    dirty: Dirty<SessionId>,
}

impl Inbound {
    pub(super) fn of(&self, session: SessionId) -> &[PacketId] {
        self.received.get(&session).map_or(&[], Vec::as_slice)
    }

    pub(super) fn contains(&self, session: SessionId, packet_id: PacketId) -> bool {
        self.of(session).binary_search(&packet_id).is_ok()
    }

    pub(super) fn insert(&mut self, session: SessionId, packet_id: PacketId) {
        let received = self.received.entry(session).or_default();
        if let Err(at) = received.binary_search(&packet_id) {
            received.insert(at, packet_id);
            self.dirty.insert(session);
        }
    }

    /// Forgets an identifier; whether it was known.
    pub(super) fn remove(&mut self, session: SessionId, packet_id: PacketId) -> bool {
        let Some(received) = self.received.get_mut(&session) else {
            return false;
        };
        let Ok(at) = received.binary_search(&packet_id) else {
            return false;
        };
        received.remove(at);
        if received.is_empty() {
            self.received.remove(&session);
        }
        self.dirty.insert(session);
        true
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

    pub(super) fn load(&mut self, session: SessionId, received: Vec<PacketId>) {
        self.received.insert(session, received);
    }

    /// `exists` tells which sessions there are.
    pub(super) fn check_invariants(&self, exists: impl Fn(SessionId) -> bool) -> Result<(), String> {
        for (session, received) in &self.received {
            if received.is_empty() || !received.is_sorted_by(|left, right| left < right) {
                return Err(format!("inbound: {session:?} holds {received:?}"));
            }
            if !exists(*session) {
                return Err(format!("inbound: {session:?} does not exist"));
            }
        }
        Ok(())
    }
}

fn write(received: &[PacketId], out: &mut Vec<u8>) {
    put_varint(out, received.len() as u64);
    received
        .iter()
        .for_each(|packet_id| put_packet_id(out, *packet_id));
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<Vec<PacketId>, CodecError> {
    let count = reader.count(2, "inbound identifiers")?;
    let received: Vec<_> = (0..count)
        .map(|_| read_packet_id(reader))
        .collect::<Result<_, _>>()?;
    if received.is_empty() || !received.is_sorted_by(|left, right| left < right) {
        return Err(CodecError::Invalid("inbound identifiers"));
    }
    Ok(received)
}
