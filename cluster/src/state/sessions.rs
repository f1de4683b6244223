//! The session records of a home group: who holds the connection, and what ends the session.
//!
//! Invariants: a client identifier has at most one session; a session has a deadline exactly while it has no
//! connection and an expiry interval below `u32::MAX`; a session without connection has an expiry interval above 0, or has
//! a will that waits for the client of a drained node to come back; connections are counted by the start of the node they are at, and a count is never 0.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use super::codec::{
    CodecError, Reader, put_bool, put_epoch, put_option_u64, put_str, put_varint, read_epoch, read_option_u64,
};
use super::records::{Dirty, Key, Kind, RecordSink};
use super::{ClientId, Epoch, GroupTime, HashMap, NodeId, NodeIncarnation, Owner, SessionId};

/// Expiry interval of a session that never expires [MQTT-3.1.2.11.2].
pub(super) const EXPIRY_NEVER: u32 = u32::MAX;

/// Where a session's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Connection {
    pub(super) node: NodeId,
    pub(super) incarnation: NodeIncarnation,
}

/// One session.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    pub(super) client_id: ClientId,
    pub(super) epoch: Epoch,
    pub(super) connection: Option<Connection>,
    pub(super) expiry_secs: u32,
    pub(super) expires_at: Option<GroupTime>,
}

impl Session {
    /// Who holds the connection.
    pub(super) fn owner(&self) -> Option<Owner> {
        self.connection.map(|connection| Owner {
            node: connection.node,
            incarnation: connection.incarnation,
            epoch: self.epoch,
        })
    }

    /// Whether a takeover finds a session to go on with: one of expiry 0 ends with its connection.
    pub(super) fn outlives_connection(&self) -> bool {
        self.expiry_secs > 0
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_str(out, &self.client_id);
        put_epoch(out, self.epoch);
        put_varint(out, u64::from(self.expiry_secs));
        put_bool(out, self.connection.is_some());
        if let Some(connection) = &self.connection {
            put_varint(out, connection.node.0);
            put_varint(out, connection.incarnation.0);
        }
        put_option_u64(out, self.expires_at.map(|at| at.0));
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let client_id = reader.str("client identifier")?;
        let epoch = read_epoch(reader)?;
        let expiry_secs = reader.varint_u32("session expiry")?;
        let connection = match reader.bool("connection")? {
            false => None,
            true => Some(Connection {
                node: NodeId(reader.varint("node")?),
                incarnation: NodeIncarnation(reader.varint("node incarnation")?),
            }),
        };
        let expires_at = read_option_u64(reader, "session deadline")?.map(GroupTime);
        Ok(Self {
            client_id,
            epoch,
            connection,
            expiry_secs,
            expires_at,
        })
    }
}

/// All sessions of a group.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_client: BTreeMap<ClientId, SessionId>,
    /// Boxed: a table has room for twice as many.
    by_id: HashMap<SessionId, Box<Session>>,
    /// How many connections there are at which start of a node.
    connected: BTreeMap<Connection, usize>,
    dirty: Dirty<SessionId>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether a session is there only because its will waits for the client of a drained node to come back.
    pub(super) fn waits_for_return(&self, id: SessionId) -> bool {
        self.get(id)
            .is_some_and(|session| session.connection.is_none() && session.expiry_secs == 0)
    }

    /// How many have a connection.
    pub(super) fn connected(&self) -> usize {
        self.connected.values().sum()
    }

    /// The starts of nodes that hold connections, in order.
    pub(super) fn connected_starts(&self) -> impl Iterator<Item = (NodeId, NodeIncarnation)> {
        self.connected.keys().map(|at| (at.node, at.incarnation))
    }

    fn count_connection(&mut self, at: Connection) {
        *self.connected.entry(at).or_insert(0) += 1;
    }

    fn discount_connection(&mut self, at: Connection) {
        if let Entry::Occupied(mut count) = self.connected.entry(at) {
            match count.get() {
                1 => drop(count.remove()),
                _ => *count.get_mut() -= 1,
            }
        }
    }

    pub(super) fn id_of(&self, client_id: &str) -> Option<SessionId> {
        self.by_client.get(client_id).copied()
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id).map(Box::as_ref)
    }

    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Whether (session, epoch) is the session's connection now (R9).
    pub(super) fn is_current(&self, id: SessionId, epoch: Epoch) -> bool {
        self.get(id)
            .is_some_and(|session| session.epoch == epoch && session.connection.is_some())
    }

    /// Sessions by client identifier, from behind `after`.
    pub(super) fn after(&self, after: Option<&str>) -> impl Iterator<Item = (SessionId, &Session)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_client
            .range::<str, _>((start, Bound::Unbounded))
            .filter_map(|(_, id)| self.by_id.get(id).map(|session| (*id, session.as_ref())))
    }

    /// Sessions whose connection is at one of the starts of `node` up to `incarnation`, by client identifier.
    pub(super) fn held_by(&self, node: NodeId, incarnation: NodeIncarnation) -> Vec<SessionId> {
        let is_lost = |(of, start): (NodeId, NodeIncarnation)| of == node && start <= incarnation;
        let held = |session: &Session| {
            session
                .connection
                .is_some_and(|at| is_lost((at.node, at.incarnation)))
        };
        if !self.connected_starts().any(is_lost) {
            return Vec::new();
        }
        self.after(None)
            .filter(|(_, session)| held(session))
            .map(|(id, _)| id)
            .collect()
    }

    /// Adds a session; its client identifier and its identity are new.
    pub(super) fn insert(&mut self, id: SessionId, session: Session) {
        if let Some(at) = session.connection {
            self.count_connection(at);
        }
        let before = self.by_client.insert(session.client_id.clone(), id);
        debug_assert_eq!(before, None, "a client identifier has one session");
        self.by_id.insert(id, Box::new(session));
        self.dirty.insert(id);
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.by_id.remove(&id)?;
        if let Some(at) = session.connection {
            self.discount_connection(at);
        }
        self.by_client.remove(&session.client_id);
        self.dirty.insert(id);
        Some(*session)
    }

    /// Gives the session to a new connection; returns its epoch and the deadline that is off now.
    pub(super) fn attach(
        &mut self,
        id: SessionId,
        connection: Connection,
        expiry_secs: u32,
    ) -> Option<(Epoch, Option<GroupTime>)> {
        let session = self.by_id.get_mut(&id)?;
        let before = session.connection.replace(connection);
        session.epoch = Epoch(session.epoch.0.wrapping_add(1));
        session.expiry_secs = expiry_secs;
        let attached = (session.epoch, session.expires_at.take());
        if let Some(at) = before {
            self.discount_connection(at);
        }
        self.count_connection(connection);
        self.dirty.insert(id);
        Some(attached)
    }

    /// Takes the connection away and sets what follows.
    pub(super) fn detach(&mut self, id: SessionId, expiry_secs: u32, expires_at: Option<GroupTime>) {
        let Some(session) = self.by_id.get_mut(&id) else {
            return;
        };
        let before = session.connection.take();
        session.expiry_secs = expiry_secs;
        session.expires_at = expires_at;
        if let Some(at) = before {
            self.discount_connection(at);
        }
        self.dirty.insert(id);
    }

    pub(super) fn drain(&mut self, sink: &mut impl RecordSink) {
        for id in self.dirty.take() {
            let key = Key::new(Kind::Session).session(id);
            match self.by_id.get(&id) {
                Some(session) => sink.put(key, |out| session.write(out)),
                None => sink.delete(key),
            }
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for (id, session) in self.after(None) {
            sink.put(Key::new(Kind::Session).session(id), |out| session.write(out));
        }
    }

    /// Adds a stored session; false when its client identifier has one.
    pub(super) fn load(&mut self, id: SessionId, session: Session) -> bool {
        if self.by_client.contains_key(&session.client_id) {
            return false;
        }
        if let Some(at) = session.connection {
            self.count_connection(at);
        }
        self.by_client.insert(session.client_id.clone(), id);
        self.by_id.insert(id, Box::new(session));
        true
    }

    pub(super) fn check_invariants(&self) -> Result<(), String> {
        if self.by_client.len() != self.by_id.len() || self.after(None).count() != self.by_id.len() {
            return Err("sessions: the two indexes differ".into());
        }
        let mut connected = BTreeMap::new();
        for at in self.by_id.values().filter_map(|session| session.connection) {
            *connected.entry(at).or_insert(0) += 1;
        }
        if connected != self.connected {
            return Err(format!(
                "sessions: connected {connected:?}, counted {:?}",
                self.connected
            ));
        }
        for (id, session) in self.after(None) {
            if self.id_of(&session.client_id) != Some(id) {
                return Err(format!(
                    "sessions: {id:?} is not where its client identifier points"
                ));
            }
            let detached = session.connection.is_none();
            let expires = detached && session.expiry_secs != EXPIRY_NEVER;
            if session.expires_at.is_some() != expires {
                return Err(format!(
                    "sessions: {id:?} has connection and expiry at odds: {session:?}"
                ));
            }
        }
        Ok(())
    }
}
