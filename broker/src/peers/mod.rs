//! Live deliveries between nodes (R4, R12).
//!
//! A worker appends what its connections publish to one batch for each other node with a live subscriber, and hands
//! the batches over at the end of its turn. One [`Link`](link::Link) per start of a node sends them in numbered frames
//! and repeats them until they are accepted; the receiver takes each number once, in order, and gives the frame to its
//! workers, which match for themselves. An acknowledgement to a publisher waits until all these nodes have accepted, or
//! are out of the view, in which case their connections are closed, or have accepted nothing for so long that `meta` has a
//! note of it ([`StallNote`](note::StallNote)).

mod frame;
#[cfg(test)]
mod golden;
mod inbox;
mod link;
mod lost;
mod note;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use quorate_cluster::node::{Backlog, Completion, Host};
use quorate_cluster::state::{NodeId, NodeIncarnation, Outcome};

pub(crate) use frame::{ForwardedMessage, NO_MESSAGE, Recipients, put_item, visit};
pub(crate) use inbox::{ForwardedFrame, Inbox};
use link::Link;
pub(crate) use lost::DroppedLoan;

use crate::node::Shared;
use crate::worker::Ticket;

/// Bytes that may wait for other nodes before those who publish are not read any more.
const FORWARDED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Who waits until a batch is accepted.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// A publish that waits for nothing else.
    Ticket(Ticket),
    /// One that waits for others too.
    Joint(Arc<Joint>),
}

/// A publish that several have to be done with.
pub(crate) struct Joint {
    shared: Arc<Shared>,
    missing: AtomicUsize,
    waiting: Mutex<Option<(Ticket, Completion)>>,
}

impl std::fmt::Debug for Joint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joint").finish_non_exhaustive()
    }
}

impl Joint {
    /// One that is complete when so many are done, `waiting` having been handed over.
    pub(crate) fn new(
        shared: Arc<Shared>,
        missing: usize,
        waiting: Option<(Ticket, Completion)>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            missing: AtomicUsize::new(missing),
            waiting: Mutex::new(waiting),
        })
    }

    /// One more is missing; call it while another one is.
    pub(crate) fn one_more(&self) {
        self.missing.fetch_add(1, Ordering::AcqRel);
    }

    /// Hands over what is to be completed, as one of those that were missing.
    pub(crate) fn hand_over(&self, ticket: Ticket, completion: Completion) {
        *self.waiting.lock() = Some((ticket, completion));
        self.done();
    }

    /// One of those that were missing was to be stored.
    pub(crate) fn stored(&self, completion: &Completion) {
        // A refused batch is not the last word; what the queue turned away, or no entry holds, is.
        if *completion != Completion::Refused {
            self.done();
        }
    }

    /// One of those that were missing is done.
    pub(crate) fn done(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(waiting) = self.waiting.lock().take()
        {
            self.shared.complete(vec![waiting]);
        }
    }
}

/// Tells those who waited that what they waited for is done.
fn release(shared: &Shared, waiting: Vec<Waiting>) {
    let mut completions = Vec::new();
    for waiting in waiting {
        match waiting {
            Waiting::Ticket(ticket) => completions.push((ticket, Completion::Applied(Outcome::Done))),
            Waiting::Joint(joint) => joint.done(),
        }
    }
    if !completions.is_empty() {
        shared.complete(completions);
    }
}

/// What a worker's turn has for another node.
#[derive(Debug, Default)]
pub(crate) struct PeerBatch {
    pub(crate) items: Vec<u8>,
    pub(crate) waiting: Vec<Waiting>,
    /// Bytes that it counts in the backlog.
    counted: usize,
}

/// The links to all other nodes.
#[derive(Debug)]
pub(crate) struct Peers {
    links: Mutex<HashMap<NodeId, Arc<Link>, foldhash::fast::RandomState>>,
    /// What waits for all of them.
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) inbox: Inbox,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            links: Mutex::default(),
            backlog: Arc::new(Backlog::new(FORWARDED_BYTES_MAX)),
            inbox: Inbox::default(),
        }
    }
}

impl Peers {
    /// Sends a batch to a node. Where it is not in the view its connections are being closed, and nobody waits.
    pub(crate) fn send(&self, shared: &Arc<Shared>, node: NodeId, batch: PeerBatch) {
        let incarnation = {
            let directory = shared.node().directory().read();
            directory
                .view()
                .serving
                .get(&node)
                .map(|serving| serving.incarnation)
        };
        let Some(incarnation) = incarnation else {
            return release(shared, batch.waiting);
        };
        let left = match self.link(shared, node, incarnation) {
            Some(link) => link.send(batch).err(),
            None => Some(batch),
        };
        if let Some(batch) = left {
            release(shared, batch.waiting);
        }
    }

    /// Whether a start of a node takes what it is sent, as far as is known.
    pub(crate) fn takes(&self, node: NodeId, incarnation: NodeIncarnation) -> bool {
        let links = self.links.lock();
        // The link to an earlier start stays until something is sent to this one.
        let link = links.get(&node).filter(|link| link.incarnation() == incarnation);
        link.is_none_or(|link| !link.is_stalled())
    }

    /// A start of another node is over that may have answered publishers of messages which this node has not accepted:
    /// whoever might have got one is told by the end of its connection (R4).
    pub(crate) fn missed(shared: &Shared) {
        inbox::close_live_subscribers(shared);
    }

    /// The link to a start of a node. None where a later one is known already: a second link to that would count its
    /// frames anew, and they would pass for known ones.
    fn link(&self, shared: &Arc<Shared>, node: NodeId, incarnation: NodeIncarnation) -> Option<Arc<Link>> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&node) {
            if link.incarnation() == incarnation {
                return Some(link.clone());
            }
            if link.incarnation() > incarnation {
                return None;
            }
        }
        let link = Link::start(shared, node, incarnation, self.backlog.clone());
        links.insert(node, link.clone());
        Some(link)
    }
}
