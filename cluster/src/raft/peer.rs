//! The sending side of one pair of nodes: a call for heartbeats and votes, one for the entries of all groups, and one for the
//! requests to the node's service, each on a connection of its own, so that nothing large stands in the way of heartbeats.
//!
//! Requests are numbered; whoever sent one waits for the answer with its number, whatever order they come in. `link`
//! keeps the connection; what was on the way when it broke is answered as unreachable, and openraft decides what to
//! send again. Requests with entries take part of a byte budget until they are answered, so that the heartbeats behind
//! them are never late by more than the network needs for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::transport::Channel;

use super::connection::{self, ConnectionUse, Wire};
use super::link::Link;
use super::transport::{FRAME_BYTES_MAX, Transport, endpoint};
use super::types::{GroupLife, NodeAddress};
use super::wire::proto::Request;
use super::wire::proto::raft_peer_client::RaftPeerClient;
use super::wire::{AnswerBody, RequestBody};
use crate::state::NodeId;

/// KiB of entries that are sent and not answered, all groups together.
const BUDGET_KIB: u32 = 8 << 10;
/// Bytes of requests that wait to be sent. A peer that reads nothing makes them pile up; what comes beyond is answered
/// as unreachable at once.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Heartbeats, votes and other small requests that must not be late: nothing large stands in their way.
    Prompt,
    /// Entries of Raft's logs.
    Raft,
    /// Requests to the node's service.
    Service,
}

impl Lane {
    pub(super) const ALL: [Self; 3] = [Self::Prompt, Self::Raft, Self::Service];

    pub(super) fn used_for(self) -> ConnectionUse {
        match self {
            Self::Prompt => ConnectionUse::Prompt,
            Self::Raft => ConnectionUse::Raft,
            Self::Service => ConnectionUse::Service,
        }
    }
}

/// No answer came; the reason in words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node {node}: {reason}")]
pub struct NoAnswer {
    node: u64,
    reason: String,
}

impl NoAnswer {
    pub(super) fn new(node: NodeId, reason: impl Into<String>) -> Self {
        Self {
            node: node.0,
            reason: reason.into(),
        }
    }
}

/// The answer of a node's service to come.
pub struct Answered(Result<Answer, NoAnswer>);

impl Answered {
    pub(super) fn none(reason: NoAnswer) -> Self {
        Self(Err(reason))
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The connection broke, or there was none: whether the request was carried out is not known.
    pub async fn wait(self) -> Result<Bytes, NoAnswer> {
        let answer = self.0?;
        let node = answer.node;
        match answer.wait().await? {
            AnswerBody::Service(answer) => Ok(answer),
            _ => Err(NoAnswer::new(node, "it answered something else")),
        }
    }
}

/// The way to one peer.
pub(super) struct Peer {
    node: NodeId,
    address: Arc<Mutex<NodeAddress>>,
    next_number: AtomicU64,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    budget: Arc<Semaphore>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// A request that waits to be sent.
pub(super) struct Outgoing {
    pub(super) request: Request,
    pub(super) answer: Option<oneshot::Sender<AnswerBody>>,
    counted: Counted,
}

/// Bytes of one request, counted while it waits.
struct Counted(Arc<AtomicUsize>, usize);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Outgoing {
    /// Length of the request in bytes.
    pub(super) fn len(&self) -> usize {
        self.counted.1
    }
}

/// An answer to come.
pub(super) struct Answer {
    node: NodeId,
    answer: oneshot::Receiver<AnswerBody>,
    _budget: Option<OwnedSemaphorePermit>,
}

impl Answer {
    /// Waits for it.
    pub(super) async fn wait(self) -> Result<AnswerBody, NoAnswer> {
        let reason = match self.answer.await {
            Ok(AnswerBody::Unavailable(reason)) => reason,
            Ok(body) => return Ok(body),
            Err(_) => "cannot be reached".to_owned(),
        };
        Err(NoAnswer::new(self.node, reason))
    }
}

impl Peer {
    /// Starts the task that keeps the connection; it ends when the last handle is gone.
    pub(super) fn start(
        transport: &Arc<Transport>,
        node: NodeId,
        address: NodeAddress,
        lane: Lane,
    ) -> Arc<Self> {
        let (outgoing, requests) = mpsc::unbounded_channel();
        let address = Arc::new(Mutex::new(address));
        let link = Link {
            transport: Arc::downgrade(transport),
            node,
            lane,
            address: Arc::clone(&address),
        };
        tokio::spawn(link.run(requests));
        Arc::new(Self {
            node,
            address,
            next_number: AtomicU64::new(1),
            outgoing,
            budget: Arc::new(Semaphore::new(BUDGET_KIB as usize)),
            waiting_bytes: Arc::default(),
        })
    }

    /// Connects to `address` from the next connection on.
    pub(super) fn set_address(&self, address: &NodeAddress) {
        let mut current = self.address.lock();
        if *current != *address {
            current.clone_from(address);
        }
    }

    pub(super) fn address(&self) -> NodeAddress {
        self.address.lock().clone()
    }

    /// Waits for room for `bytes` of entries.
    pub(super) async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1024)
            .unwrap_or(u32::MAX)
            .clamp(1, BUDGET_KIB);
        Arc::clone(&self.budget).acquire_many_owned(kib).await.ok()
    }

    /// Sends a request; requests leave in the order of the calls.
    pub(super) fn call(
        &self,
        group: GroupLife,
        body: RequestBody,
        budget: Option<OwnedSemaphorePermit>,
    ) -> Answer {
        let (sender, answer) = oneshot::channel();
        self.send(group, body, Some(sender));
        Answer {
            node: self.node,
            answer,
            _budget: budget,
        }
    }

    /// Sends a request to the node's service.
    pub(super) fn ask(&self, request: Bytes) -> Answered {
        Answered(Ok(self.call(
            GroupLife::NONE,
            RequestBody::Service(request),
            None,
        )))
    }

    /// Sends a request that has no answer.
    pub(super) fn tell(&self, group: GroupLife, body: RequestBody) {
        self.send(group, body, None);
    }

    fn send(&self, group: GroupLife, body: RequestBody, answer: Option<oneshot::Sender<AnswerBody>>) {
        let request = Request {
            group: u32::from(group.group.0),
            beginning: group.beginning,
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            body: Some(body),
        };
        let bytes = request.encoded_len();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&self.waiting_bytes), bytes);
        if before + bytes > WAITING_BYTES_MAX {
            tracing::debug!(
                node = self.node.0,
                before,
                "a peer reads too slowly; a request is not sent"
            );
            return;
        }
        // Where the task is gone, so is the runtime; the answer says that nobody can be reached.
        drop(self.outgoing.send(Outgoing {
            request,
            answer,
            counted,
        }));
    }

    /// A number no other append stream to this peer has.
    pub(super) fn new_stream(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }
}

/// A client over a stream to a node.
pub(super) async fn client(wire: Wire) -> Result<RaftPeerClient<Channel>, String> {
    let client = RaftPeerClient::new(connection::channel(endpoint(), wire).await?);
    Ok(client
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX))
}
