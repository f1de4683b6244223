//! One connection of a worker: the protocol's state machine, its buffers, and what it holds of its session.
//!
//! An idle connection holds no buffers: input is read into the worker's scratch space and only an incomplete packet
//! stays behind; output comes from the worker's pool and goes back when it has been written.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use quorate_cluster::node::Location;
use quorate_cluster::state::{Epoch, SessionId};
use quorate_proto::session::Connection;
use tokio::net::tcp::OwnedWriteHalf;

use super::queue::DurableQueue;
use super::retained::Replays;
use super::shared::SharedHolds;
use crate::auth::ClientInfo;
use crate::listener::ListenerContext;

/// What a connection is doing beside the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// Output waits for the flusher.
    pub(super) dirty: bool,
    /// The socket takes no more output for now.
    pub(super) blocked: bool,
    /// Input is held back until output has left.
    pub(super) paused: bool,
    /// The client took output while input was held back, since its keep alive was looked at.
    pub(super) taken: bool,
    /// Input is held back until there is room for what it would add.
    pub(super) pressed: bool,
    /// Input that was held back may be taken up again.
    pub(super) resume: bool,
    /// The protocol has ended; output is being flushed and input discarded.
    pub(super) ending: bool,
    /// Nothing is left to do: the task ends.
    pub(super) ended: bool,
}

/// How output leaves.
#[derive(Debug)]
pub(super) enum Writer {
    /// Straight to the socket.
    Tcp(OwnedWriteHalf),
    /// By the connection's task, which owns the WebSocket.
    Task,
}

/// One connection.
pub(super) struct Conn {
    pub(super) location: Location,
    pub(super) listener: Arc<ListenerContext>,
    pub(super) writer: Writer,
    pub(super) flags: Cell<Flags>,
    pub(super) waker: Cell<Option<Waker>>,
    pub(super) state: RefCell<ConnState>,
}

/// The part of a connection that changes.
#[derive(Debug)]
pub(super) struct ConnState {
    pub(super) protocol: Connection,
    /// Output that has not been written.
    pub(super) out: Vec<u8>,
    /// Bytes of it that answer the client's own packets.
    pub(super) replies: u32,
    /// The open session; see [`Self::session`].
    session: SessionId,
    /// This connection's epoch in it.
    epoch: Epoch,
    /// What most connections do not have.
    pub(super) rare: Option<Box<Rare>>,
    /// The durable session's queues.
    pub(super) queue: Option<Box<DurableQueue>>,
}

/// Parts that an idle plain subscriber does without.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Input that is not a whole packet yet, or was held back.
    pub(super) partial: Vec<u8>,
    /// References of shared subscriptions that the client holds.
    pub(super) shared: SharedHolds,
    /// Retained messages that are still to be sent for new subscriptions.
    pub(super) replays: Replays,
    /// An enhanced authentication that is going on.
    pub(super) exchange: Option<super::ExchangeInProgress>,
    /// Who the client is, where an authorizer asks.
    pub(super) client: Option<Arc<ClientInfo>>,
    /// Peer address.
    pub(super) peer: Option<SocketAddr>,
}

impl Rare {
    fn is_idle(&self) -> bool {
        let Self {
            partial,
            shared,
            replays,
            exchange,
            client,
            peer,
        } = self;
        partial.is_empty()
            && shared.is_empty()
            && replays.is_idle()
            && exchange.is_none()
            && client.is_none()
            && peer.is_none()
    }
}

/// No session has this number: that of a home group stands in front.
const NO_SESSION: SessionId = SessionId(0);

impl ConnState {
    /// The state of a connection that awaits CONNECT.
    pub(super) fn new(protocol: Connection, rare: Option<Box<Rare>>) -> Self {
        Self {
            protocol,
            out: Vec::new(),
            replies: 0,
            session: NO_SESSION,
            epoch: Epoch(0),
            rare,
            queue: None,
        }
    }

    /// The open session and this connection's epoch in it.
    pub(super) fn session(&self) -> Option<(SessionId, Epoch)> {
        (self.session != NO_SESSION).then_some((self.session, self.epoch))
    }

    /// The session is open.
    pub(super) fn open_session(&mut self, session: SessionId, epoch: Epoch) {
        debug_assert_ne!(session, NO_SESSION, "a session has a home group");
        (self.session, self.epoch) = (session, epoch);
    }

    /// What was appended to the output since it was `before` bytes long answers the client.
    pub(super) fn note_replies(&mut self, before: usize) {
        let replies = self.out.len().saturating_sub(before);
        self.replies = self
            .replies
            .saturating_add(u32::try_from(replies).unwrap_or(u32::MAX));
    }

    /// The connection leaves its session.
    pub(super) fn take_session(&mut self) -> Option<(SessionId, Epoch)> {
        let session = self.session();
        self.session = NO_SESSION;
        session
    }

    /// Takes the input that waits.
    pub(super) fn take_partial(&mut self) -> Vec<u8> {
        let rare = self.rare.as_mut();
        rare.map(|rare| std::mem::take(&mut rare.partial))
            .unwrap_or_default()
    }

    /// Whether input waits.
    pub(super) fn has_partial(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.partial.is_empty())
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Gives the rare parts back where none is in use.
    pub(super) fn trim_rare(&mut self) {
        self.rare.take_if(|rare| rare.is_idle());
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("location", &self.location)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

impl Conn {
    /// Sets a flag.
    pub(super) fn update(&self, change: impl FnOnce(&mut Flags)) {
        let mut flags = self.flags.get();
        change(&mut flags);
        self.flags.set(flags);
    }

    /// The client took output.
    pub(super) fn note_taken(&self) {
        if self.flags.get().paused {
            self.update(|flags| flags.taken = true);
        }
    }

    /// Wakes the connection's task.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    /// The open session.
    pub(super) fn session(&self) -> Option<(SessionId, Epoch)> {
        self.state.borrow().session()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ten thousand idle connections hold ten thousand of; the allocator's next size is 448.
    #[test]
    fn a_connection_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<Conn>() + counts <= 384, "{} bytes", size_of::<Conn>());
    }
}
