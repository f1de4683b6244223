//! A connection's beginning and end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quorate_cluster::node::{Location, Placement};
use quorate_cluster::state::{Command, Epoch, SessionId};
use quorate_proto::codec::ReasonCode;
use quorate_proto::session::{Close, Connection, Instant, OpenRequest};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::connection::{Conn, ConnState, Flags, Rare, Writer};
use super::io::{ConnectionTask, Source};
use super::ticket::WaitsFor;
use super::{Accepted, Ticket, Worker};
use crate::listener::{ListenerContext, prepare};
use crate::metrics::CloseReason;

/// How long an ended connection may take to read its last packet.
const LINGER_MS: u64 = 1_000;
/// How long a stopping worker waits for its connections.
const STOP_WAIT: Duration = Duration::from_secs(2);

impl Worker {
    /// Takes a new connection over from the acceptor.
    pub(super) fn accept(self: &Rc<Self>, accepted: Accepted) {
        let Accepted {
            socket,
            peer,
            listener,
        } = accepted;
        let stream = match TcpStream::from_std(socket) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%peer, %error, "a connection could not be registered");
                listener.released();
                return;
            }
        };
        if listener.is_plain() {
            self.start(stream, peer, listener);
            return;
        }
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            match prepare(stream, peer, &listener).await {
                Ok(prepared) => worker.start_prepared(prepared, listener),
                Err(error) => {
                    tracing::debug!(%peer, listener = %listener.name, %error, "connection refused before MQTT");
                    worker.count_closed(CloseReason::HandshakeFailed);
                    listener.released();
                }
            }
        });
    }

    fn start(self: &Rc<Self>, stream: TcpStream, peer: std::net::SocketAddr, listener: Arc<ListenerContext>) {
        let (reader, writer) = stream.into_split();
        let conn = self.insert(peer, listener, Writer::Tcp(writer));
        let task = ConnectionTask {
            worker: self.clone(),
            conn,
            source: Source::Tcp(reader),
        };
        tokio::task::spawn_local(task);
    }

    fn start_prepared(self: &Rc<Self>, prepared: crate::listener::Prepared, listener: Arc<ListenerContext>) {
        match prepared {
            crate::listener::Prepared::Tcp(stream, peer) => self.start(stream, peer, listener),
            crate::listener::Prepared::WebSocket(socket, peer) => {
                let conn = self.insert(peer, listener, Writer::Task);
                let task = ConnectionTask {
                    worker: self.clone(),
                    conn,
                    source: Source::WebSocket(socket),
                };
                tokio::task::spawn_local(task);
            }
        }
    }

    pub(super) fn insert(
        &self,
        peer: std::net::SocketAddr,
        listener: Arc<ListenerContext>,
        writer: Writer,
    ) -> Rc<Conn> {
        let now = self.now();
        let mut connections = self.connections.borrow_mut();
        let entry = connections.vacant_entry();
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let slot = u32::try_from(entry.key()).expect("a process has fewer sockets");
        let location = Location {
            worker: self.index,
            slot,
            generation,
        };
        let protocol = Connection::new(listener.settings.clone(), now);
        let rare = listener.wants_peer().then(|| {
            Box::new(Rare {
                peer: Some(peer),
                ..Rare::default()
            })
        });
        let connect_by = now.plus_millis(listener.connect_timeout_ms);
        let conn = Rc::new(Conn {
            location,
            listener,
            writer,
            flags: std::cell::Cell::new(Flags::default()),
            waker: std::cell::Cell::default(),
            state: std::cell::RefCell::new(ConnState::new(protocol, rare)),
        });
        entry.insert(conn.clone());
        self.watch(location, connect_by);
        self.counters.connections.increment();
        self.counters.connections_opened.increment();
        conn
    }

    /// A deadline may have passed.
    pub(super) fn check_deadline(self: &Rc<Self>, conn: &Rc<Conn>, now: Instant) {
        if conn.flags.get().ending {
            conn.update(|flags| flags.ended = true);
            conn.wake();
            return;
        }
        let result = {
            let mut state = conn.state.borrow_mut();
            if conn.flags.get().opening {
                drop(state);
                return self.refuse_open(
                    conn,
                    ReasonCode::SERVER_UNAVAILABLE,
                    "the client's group has no leader, or this node does not reach it",
                );
            }
            if state.session().is_none() && !state.protocol.is_connected() {
                Err(Close::new(
                    ReasonCode::MAXIMUM_CONNECT_TIME,
                    "no CONNECT was completed in time",
                ))
            } else {
                state.protocol.trim();
                // What was not read is not held against the client, as long as it takes what it is sent.
                let flags = conn.flags.get();
                if flags.pressed || (flags.paused && flags.taken) {
                    state.protocol.record_activity(now);
                    conn.update(|flags| flags.taken = false);
                }
                state
                    .protocol
                    .handle_timeout(now)
                    .map(|()| state.protocol.deadline())
            }
        };
        match result {
            Ok(Some(deadline)) => self.watch(conn.location, deadline),
            Ok(None) => {}
            Err(close) => self.close(conn, &close),
        }
    }

    /// Somebody else ends a connection of this worker.
    pub(super) fn kick(self: &Rc<Self>, location: Location, reason: ReasonCode, what: &'static str) {
        if let Some(conn) = self.connection(location) {
            self.close(&conn, &Close::new(reason, what));
        }
    }

    /// Ends a connection from this side: says why where the version can, then closes.
    pub(super) fn close(self: &Rc<Self>, conn: &Rc<Conn>, close: &Close) {
        if conn.flags.get().ending {
            return;
        }
        let peer = self.peer(conn);
        let can_tell = self.drop_withheld(conn);
        {
            let state = &mut *conn.state.borrow_mut();
            tracing::debug!(
                %peer,
                client_id = state.protocol.client_id().map_or("", |client_id| client_id),
                listener = %conn.listener.name,
                reason = %close.reason,
                "closing: {}", close.what
            );
            self.lend_buffer(&mut state.out);
            state.protocol.close(close, &mut state.out);
            if !can_tell {
                state.out = Vec::new();
            }
        }
        self.count_close(conn, close.reason);
        self.end_session(conn);
    }

    /// The socket is gone.
    pub(super) fn lose(self: &Rc<Self>, conn: &Rc<Conn>) {
        if !conn.flags.get().ending {
            self.count_closed(CloseReason::ConnectionLost);
        }
        self.end(conn);
        conn.update(|flags| flags.ended = true);
        conn.wake();
    }

    /// The protocol has ended: the session learns of it, what is left to say is flushed, then the socket closes.
    pub(super) fn end(self: &Rc<Self>, conn: &Rc<Conn>) {
        if !conn.flags.get().ending {
            self.drop_withheld(conn);
        }
        self.end_session(conn);
    }

    fn end_session(self: &Rc<Self>, conn: &Rc<Conn>) {
        if conn.flags.get().ending {
            return;
        }
        conn.update(|flags| flags.ending = true);
        self.leave_session(conn);
        self.watch(conn.location, self.now().plus_millis(LINGER_MS));
        self.mark_dirty(conn);
        if self.flush(conn).is_err() {
            conn.update(|flags| flags.ended = true);
        }
        conn.wake();
    }

    /// All was said: no more output. Input is discarded until the client closes too or the time is up, so that a
    /// reset does not destroy what the client has not read.
    pub(super) fn finish_output(&self, conn: &Conn) {
        if let Writer::Tcp(writer) = &conn.writer {
            // The socket may have gone already.
            let _ = SockRef::from(writer.as_ref()).shutdown(std::net::Shutdown::Write);
        }
    }

    fn leave_session(self: &Rc<Self>, conn: &Rc<Conn>) {
        let (session, farewell, rare) = {
            let mut state = conn.state.borrow_mut();
            state.queue = None;
            (state.take_session(), state.protocol.farewell(), state.rare.take())
        };
        let Some((session, epoch)) = session else { return };
        self.shared.client_left();
        let is_member = self
            .shared
            .router
            .read(|table| !table.shares_of(session).is_empty());
        self.shared.router.write(|table| {
            // A session of expiry 0 ends here; its group learns of it below.
            let changed = match Placement::is_durable(session) {
                true => table.detach(session, conn.location),
                false => table.remove_session(session).1,
            };
            ((), changed)
        });
        // Nobody chooses this member any more: what it held goes to others.
        let node = self.shared.node();
        if let Some(rare) = rare {
            self.give_back_shared(rare.shared);
        }
        if is_member {
            self.shared.share_member_lost(session);
        }
        let was_told = farewell.publish_will && farewell.disconnect_reason.is_none();
        let command = match was_told && self.shared.is_draining() {
            true => Command::DrainConnection {
                session,
                epoch,
                will_delay_secs: self.shared.settings.drain_will_delay_secs,
            },
            false => Command::CloseConnection {
                session,
                epoch,
                publish_will: farewell.publish_will,
                expiry_secs: farewell.expiry_secs,
            },
        };
        node.home(session).propose(&command, None);
    }

    /// The session was opened for a connection that has gone meanwhile.
    pub(super) fn close_opened(&self, request: &OpenRequest, session: SessionId, epoch: Epoch) {
        let command = Command::CloseConnection {
            session,
            epoch,
            publish_will: true,
            expiry_secs: None,
        };
        self.shared.node().home(session).propose(&command, None);
        self.shared.gate_next(&request.client_id);
    }

    /// The task of a connection has ended.
    pub(super) fn forget(&self, conn: &Rc<Conn>) {
        let mut connections = self.connections.borrow_mut();
        let slot = conn.location.slot as usize;
        if connections.get(slot).is_some_and(|known| Rc::ptr_eq(known, conn)) {
            connections.remove(slot);
            self.counters.connections.decrement();
            conn.listener.released();
        }
    }

    /// Tells so many clients to use another node.
    pub(super) fn shed(self: &Rc<Self>, count: usize) {
        let connections: Vec<_> = {
            let connections = self.connections.borrow();
            let open = connections.iter().filter(|(_, conn)| !conn.flags.get().ending);
            open.take(count).map(|(_, conn)| conn.clone()).collect()
        };
        let close = Close::new(ReasonCode::USE_ANOTHER_SERVER, "this node is drained");
        for conn in connections {
            self.close(&conn, &close);
        }
    }

    /// Ends all connections.
    pub(super) fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        let connections: Vec<_> = self
            .connections
            .borrow()
            .iter()
            .map(|(_, conn)| conn.clone())
            .collect();
        let close = Close::new(ReasonCode::SERVER_SHUTTING_DOWN, "the server is shutting down");
        for conn in connections {
            self.close(&conn, &close);
        }
    }

    /// Gives connections a moment to take their last packet.
    pub(super) async fn stopped(self: &Rc<Self>) {
        let until = tokio::time::Instant::now() + STOP_WAIT;
        while tokio::time::Instant::now() < until && !self.connections.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A proposal for a connection.
    pub(super) fn ticket(conn: &Conn, waits_for: WaitsFor) -> Option<Ticket> {
        Some(Ticket {
            location: conn.location,
            waits_for,
        })
    }
}
