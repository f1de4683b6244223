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
    /// Output waits for a lease of the node.
    pub(super) withheld: bool,
    /// The session is being opened.
    pub(super) opening: bool,
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
    /// About how many bytes of it answer the client's own packets; see [`OlderAnswers`].
    answers: u32,
    /// The open session; see [`Self::session`].
    session: SessionId,
    /// This connection's epoch in it.
    epoch: Epoch,
    /// What most connections do not have.
    pub(super) rare: Option<Box<Rare>>,
    /// The durable session's queues.
    pub(super) queue: Option<Box<DurableQueue>>,
}

/// Answers that were in the output when a part of it was written last. Answers and deliveries share the output, so
/// answers are counted in two generations, of which the older one is forgotten when everything has been written that was
/// in the output when it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OlderAnswers {
    bytes: usize,
    /// Bytes to be written until they have left.
    left: usize,
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
    pub(super) older_answers: OlderAnswers,
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
            older_answers,
        } = self;
        partial.is_empty()
            && shared.is_empty()
            && replays.is_idle()
            && exchange.is_none()
            && client.is_none()
            && peer.is_none()
            && *older_answers == OlderAnswers::default()
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
            answers: 0,
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

    /// A packet was taken that is answered with about so many bytes.
    pub(super) fn note_answer(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.answers = self.answers.saturating_add(bytes);
    }

    /// About how many bytes of answers have not been written.
    pub(super) fn answers(&self) -> usize {
        let older = self.rare.as_ref().map_or(0, |rare| rare.older_answers.bytes);
        older + self.answers as usize
    }

    /// So many bytes of output have left, and are taken off it already.
    pub(super) fn note_written(&mut self, written: usize) {
        if self.out.is_empty() {
            self.answers = 0;
            if let Some(rare) = &mut self.rare {
                rare.older_answers = OlderAnswers::default();
                self.trim_rare();
            }
            return;
        }
        let (bytes, left) = (self.answers as usize, self.out.len());
        let older = &mut self.rare().older_answers;
        if written < older.left {
            older.left -= written;
        } else {
            *older = OlderAnswers { bytes, left };
            self.answers = 0;
        }
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

    /// Whether the connection takes a shared message: where its window has room behind what is known to wait in its own
    /// queues and the shared ones that it was given. One may always wait with its own, which would have no end else.
    pub(super) fn takes_shared(&self) -> bool {
        let own = self.queue.as_ref().map_or(0, |queue| queue.known_to_wait());
        let given = self.rare.as_ref().map_or(0, |rare| rare.shared.to_be_sent());
        given + own < self.protocol.window_free() || (own > 0 && given == 0)
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

    #[test]
    fn answers_are_forgotten_when_they_must_have_left() {
        let settings = Arc::new(quorate_proto::session::ConnectionSettings::default());
        let protocol = Connection::new(settings, quorate_proto::session::Instant(0));
        let mut state = ConnState::new(protocol, None);
        let write = |state: &mut ConnState, added: usize, written: usize| {
            state.out.extend(std::iter::repeat_n(0, added));
            state.out.drain(..written);
            state.note_written(written);
        };
        state.note_answer(100);
        write(&mut state, 5_010, 10);
        assert_eq!(state.answers(), 100, "they may be anywhere in what is left");
        state.note_answer(7);
        write(&mut state, 2_999, 4_999);
        assert_eq!(state.answers(), 107);
        write(&mut state, 1_000, 1);
        assert_eq!(state.answers(), 7, "the first hundred have left");
        write(&mut state, 1, 3_999);
        assert_eq!(state.answers(), 0);
        state.note_answer(9);
        write(&mut state, 0, 1);
        assert_eq!(state.answers(), 0);
        assert!(state.rare.is_none(), "nothing is left behind");
    }

    /// What ten thousand idle connections hold ten thousand of; the allocator's next size is 448.
    #[test]
    fn a_connection_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<Conn>() + counts <= 384, "{} bytes", size_of::<Conn>());
    }
}
