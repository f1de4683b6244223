//! Wills: stored with the connection, waiting for their delay, and due (R31).
//!
//! Invariants: a stored will belongs to its session's current epoch; it has a deadline exactly when the session has no
//! connection. A due will has left its session and stays until it was published, whatever becomes of the session.

use std::collections::BTreeMap;

use quorate_proto::message::Message;

use super::codec::{
    CodecError, Reader, put_epoch, put_message, put_option_u64, put_will, read_epoch, read_option_u64,
    read_will,
};
use super::messages::compact;
use super::records::{Dirty, Key, Kind, RecordSink};
use super::{Epoch, GroupTime, HashMap, SessionId, WillMessage};

/// The will of a session's last connection.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoredWill {
    pub(super) epoch: Epoch,
    pub(super) will: WillMessage,
    /// When it becomes due; none while the connection lasts.
    pub(super) fires_at: Option<GroupTime>,
}

impl StoredWill {
    fn write(&self, out: &mut Vec<u8>) {
        put_epoch(out, self.epoch);
        put_option_u64(out, self.fires_at.map(|at| at.0));
        put_will(out, &self.will);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let epoch = read_epoch(reader)?;
        let fires_at = read_option_u64(reader, "will deadline")?.map(GroupTime);
        let mut will = read_will(reader)?;
        will.message = compact(&will.message);
        Ok(Self {
            epoch,
            will,
            fires_at,
        })
    }
}

/// All wills of a group.
#[derive(Debug, Default)]
pub(super) struct Wills {
    stored: HashMap<SessionId, StoredWill>,
    due: BTreeMap<(SessionId, Epoch), Message>,
    dirty: Dirty<SessionId>,
    dirty_due: Dirty<(SessionId, Epoch)>,
}

impl Wills {
    pub(super) fn stored(&self, session: SessionId) -> Option<&StoredWill> {
        self.stored.get(&session)
    }

    /// Wills to be published, in the order of their sessions.
    pub(super) fn due(&self) -> impl Iterator<Item = (SessionId, Epoch, &Message)> {
        self.due
            .iter()
            .map(|((session, epoch), message)| (*session, *epoch, message))
    }

    /// Sets the will of a connection that begins.
    pub(super) fn store(&mut self, session: SessionId, epoch: Epoch, will: &WillMessage) {
        let will = WillMessage {
            message: compact(&will.message),
            delay_secs: will.delay_secs,
        };
        self.put_back(
            session,
            StoredWill {
                epoch,
                will,
                fires_at: None,
            },
        );
    }

    /// Stores a will that was taken, with another deadline.
    pub(super) fn put_back(&mut self, session: SessionId, will: StoredWill) {
        self.stored.insert(session, will);
        self.dirty.insert(session);
    }

    /// Removes a session's stored will.
    pub(super) fn take(&mut self, session: SessionId) -> Option<StoredWill> {
        let will = self.stored.remove(&session)?;
        self.dirty.insert(session);
        Some(will)
    }

    /// Hands a will over to the group's leader.
    pub(super) fn make_due(&mut self, session: SessionId, will: StoredWill) {
        self.due.insert((session, will.epoch), will.will.message);
        self.dirty_due.insert((session, will.epoch));
    }

    pub(super) fn is_due(&self, session: SessionId, epoch: Epoch) -> bool {
        self.due.contains_key(&(session, epoch))
    }

    /// Forgets a due will.
    pub(super) fn published(&mut self, session: SessionId, epoch: Epoch) {
        if self.due.remove(&(session, epoch)).is_some() {
            self.dirty_due.insert((session, epoch));
        }
    }

    pub(super) fn drain(&mut self, sink: &mut impl RecordSink) {
        for session in self.dirty.take() {
            let key = Key::new(Kind::Will).session(session);
            match self.stored.get(&session) {
                Some(will) => sink.put(key, |out| will.write(out)),
                None => sink.delete(key),
            }
        }
        for due in self.dirty_due.take() {
            match self.due.get(&due) {
                Some(message) => sink.put(due_key(due), |out| put_message(out, message)),
                None => sink.delete(due_key(due)),
            }
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for (session, will) in &self.stored {
            sink.put(Key::new(Kind::Will).session(*session), |out| will.write(out));
        }
        for (due, message) in &self.due {
            sink.put(due_key(*due), |out| put_message(out, message));
        }
    }

    pub(super) fn load(&mut self, session: SessionId, will: StoredWill) {
        self.stored.insert(session, will);
    }

    pub(super) fn load_due(&mut self, session: SessionId, epoch: Epoch, message: &Message) {
        self.due.insert((session, epoch), compact(message));
    }

    pub(super) fn all_stored(&self) -> impl Iterator<Item = (SessionId, &StoredWill)> {
        self.stored.iter().map(|(session, will)| (*session, will))
    }
}

fn due_key((session, epoch): (SessionId, Epoch)) -> Key {
    Key::new(Kind::DueWill).session(session).u32(epoch.0)
}
