//! What reaches a worker from other threads: one queue, one wake-up for all that waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quorate_cluster::node::{Backlog, Completion, Location, References, SharedReference};
use quorate_cluster::state::{NodeId, NodeIncarnation, SessionId, ShareKey};
use quorate_proto::codec::ReasonCode;
use quorate_proto::message::Message;
use quorate_proto::session::{Instant, OpenRequest};
use tokio::sync::Notify;

use super::authenticate::AuthenticationAnswer;
use super::batch::LiveBatch;
use super::held::{Lender, LenderNews};
use super::late::LateRetained;
use super::open::OpenedSession;
use super::shared::Shared;
use super::ticket::Ticket;
use crate::listener::ListenerContext;
use crate::peers::{DroppedLoan, ForwardedFrame};
use crate::router::Terms;

/// Something for a worker to do.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A client connected.
    Accept(Box<Accepted>),
    /// Live deliveries of another worker.
    Live(LiveBatch),
    /// A message of the broker itself for one connection.
    Own {
        location: Location,
        message: Arc<Message>,
        terms: Terms,
    },
    /// A message of a shared subscription that is not replicated, for a member.
    Shared(Box<LiveShared>),
    /// A message of the node itself for a shared subscription.
    OwnShared(ShareKey, Arc<Message>),
    /// What became of a message that this worker lent to a member (R40).
    LenderNews(LenderNews),
    /// Messages that this worker lent to members at another node were dropped on the way there.
    LoansDropped(Vec<DroppedLoan>),
    /// A start of a node is out of the view, or what it said of messages that were lent to its members is lost.
    PeerLost(NodeId, NodeIncarnation),
    /// A retained message for who subscribed while it was published.
    Late(Box<LateRetained>),
    /// Live deliveries of another node.
    Forwarded(Arc<ForwardedFrame>),
    /// Messages of this node's queue in a group, for live subscribers here.
    NodeMessages(Arc<Vec<NodeMessage>>),
    /// Proposals ended.
    Completions(Vec<(Ticket, Completion)>),
    /// A data group has references for a session.
    Pending {
        location: Location,
        slot: u8,
    },
    /// References of a session.
    References(References),
    /// References of a shared subscription.
    SharedReferences(Vec<SharedReference>),
    /// A message of a shared subscription that another node gives to a member.
    Given(Location, Box<Shared>),
    /// The gate is open for a connection that waited to open its session.
    Proceed {
        location: Location,
        request: Box<OpenRequest>,
    },
    /// Whether the client has a durable session is known.
    LookedUp {
        location: Location,
        request: Box<OpenRequest>,
    },
    /// Whether the client has a session of the other kind is known.
    Checked(Box<OpenedSession>),
    /// The answer of an authenticator that took its time.
    Authenticated(Box<AuthenticationAnswer>),
    /// Close a connection.
    Kick {
        location: Location,
        reason: ReasonCode,
        what: &'static str,
    },
    /// Close all connections, then stop.
    /// Tell so many clients to use another node.
    Shed(usize),
    Stop,
}

/// A message that a group holds for the live subscribers of this node.
#[derive(Debug)]
pub(crate) struct NodeMessage {
    pub(crate) message: Message,
    pub(crate) publisher: Option<SessionId>,
}

/// A new connection.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: std::net::TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<ListenerContext>,
}

/// A message for a member of a shared subscription without durable member (R40).
#[derive(Debug, Clone)]
pub(crate) struct LiveShared {
    pub(crate) location: Location,
    pub(crate) session: SessionId,
    pub(crate) share: ShareKey,
    pub(crate) message: Arc<Message>,
    pub(crate) terms: Terms,
    pub(crate) expires_at: Option<Instant>,
    /// Who holds it, and its number there.
    pub(crate) lender: Lender,
    pub(crate) number: u64,
}

impl LiveShared {
    /// Bytes it counts for while it waits.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.message.size()
    }
}

/// Bytes of deliveries that may wait for a worker before those who publish to it are not read any more.
const DELIVERIES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The queue of a worker.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: Mutex<Vec<Mail>>,
    wake: Notify,
    /// Deliveries of other workers' connections that wait in it. What else comes is bounded by what its receiver
    /// asked for.
    pub(super) deliveries: Backlog,
    /// When its worker last ran, in milliseconds; 0 before it has.
    last_run: AtomicU64,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            wake: Notify::new(),
            deliveries: Backlog::new(DELIVERIES_BYTES_MAX),
            last_run: AtomicU64::new(0),
        }
    }
}

impl Mailbox {
    /// Adds mail and wakes the worker where nothing waited before.
    pub(crate) fn send(&self, mail: Mail) {
        match &mail {
            Mail::Live(batch) => self.deliveries.add(batch.weight()),
            Mail::Shared(shared) => self.deliveries.add(shared.weight()),
            Mail::Late(late) => self.deliveries.add(late.weight()),
            Mail::Forwarded(frame) => self.deliveries.add(frame.weight()),
            _ => {}
        }
        let mut queue = self.queue.lock();
        let was_empty = queue.is_empty();
        queue.push(mail);
        drop(queue);
        if was_empty {
            self.wake.notify_one();
        }
    }

    /// The worker is running.
    pub(super) fn runs(&self, now: Instant) {
        self.last_run.store(now.0.max(1), Ordering::Relaxed);
    }

    /// When the worker last ran; `None` before its start.
    pub(crate) fn last_run(&self) -> Option<Instant> {
        match self.last_run.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Instant(millis)),
        }
    }

    /// Whether who adds deliveries should wait.
    pub(crate) fn deliveries_are_full(&self) -> bool {
        self.deliveries.is_full()
    }

    /// Waits until there is room for deliveries.
    pub(crate) async fn deliveries_room(&self) {
        if self.deliveries.is_full() {
            self.deliveries.room().await;
        }
    }

    /// Bytes of deliveries that wait.
    pub(crate) fn deliveries_bytes(&self) -> usize {
        self.deliveries.bytes()
    }

    /// Waits for mail and takes all of it, in exchange for an empty vector.
    pub(crate) async fn receive(&self, into: &mut Vec<Mail>) {
        loop {
            {
                let mut queue = self.queue.lock();
                if !queue.is_empty() {
                    std::mem::swap(&mut *queue, into);
                    return;
                }
            }
            self.wake.notified().await;
        }
    }
}
