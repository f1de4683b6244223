//! What the router knows of one session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use quorate_cluster::node::{Location, Placement};
use quorate_cluster::state::{Epoch, NodeId, SessionId};

use super::filters::Filters;

/// One session: where it is connected, what it subscribed to, what waits for it.
#[derive(Debug)]
pub struct SessionRoute {
    /// Session.
    pub session: SessionId,
    /// Its current connection's epoch; 0 while nobody holds it.
    pub epoch: Epoch,
    /// Its connection on this node.
    pub location: Option<Location>,
    /// The other node that has its connection; 0 for none, as no node has that number.
    remote: u64,
    /// Filters as the client wrote them.
    pub filters: Filters,
    /// What waits for it; only durable sessions have queues.
    pub queue: Option<Arc<QueueGauge>>,
}

impl SessionRoute {
    pub(super) fn new(session: SessionId) -> Self {
        let queue = Placement::is_durable(session).then(Arc::default);
        Self {
            session,
            epoch: Epoch(0),
            location: None,
            remote: 0,
            filters: Filters::default(),
            queue,
        }
    }

    /// The other node that has its connection.
    pub fn remote(&self) -> Option<NodeId> {
        (self.remote != 0).then_some(NodeId(self.remote))
    }

    /// Its connection is on another node, or not any more; whether that is new.
    pub(super) fn set_remote(&mut self, node: Option<NodeId>) -> bool {
        let before = std::mem::replace(&mut self.remote, node.map_or(0, |node| node.0));
        before != self.remote
    }
}

/// What waits for a durable session, over all groups.
#[derive(Debug, Default)]
pub struct QueueGauge {
    messages: AtomicU32,
    bytes: AtomicU64,
    /// One bit per group whose queue has references that the connection was told of and has not pulled yet.
    told: AtomicU32,
}

impl QueueGauge {
    /// References were added.
    pub fn add(&self, count: u32, bytes: u64) {
        self.messages.fetch_add(count, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// References left.
    pub fn remove(&self, count: u32, bytes: u64) {
        // A gauge is corrected by clamping: it serves limits and metrics, the state holds the truth.
        let _ = self
            .messages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| {
                Some(value.saturating_sub(count))
            });
        let _ = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| {
                Some(value.saturating_sub(bytes))
            });
    }

    /// Messages that wait.
    pub fn messages(&self) -> u32 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Marks a group's queue as told to the connection; whether it was not told yet.
    pub fn tell(&self, slot: u8) -> bool {
        self.told.fetch_or(1 << slot, Ordering::AcqRel) & (1 << slot) == 0
    }

    /// The connection is about to pull: what comes from now on has to be told again.
    pub fn untell(&self, slot: u8) {
        self.told.fetch_and(!(1 << slot), Ordering::AcqRel);
    }

    /// A new connection has been told nothing.
    pub fn untell_all(&self) {
        self.told.store(0, Ordering::Release);
    }
}
