//! The sending side of one pair of nodes: one call that carries the requests of all groups, and one on a connection of
//! its own for the requests to the node's service, so that those never stand in the way of heartbeats.
//!
//! Requests are numbered; whoever sent one waits for the answer with its number, whatever order they come in. The
//! connection is made when there is something to send, and again after it broke; what was on the way then is answered
//! as unreachable, and openraft decides what to send again. Requests with entries take part of a byte budget until
//! they are answered, so that the heartbeats behind them are never late by more than the network needs for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use quorate_storage::log::GroupId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::transport::{FRAME_BYTES_MAX, Transport, endpoint};
use super::types::NodeAddress;
use super::wire::proto::raft_peer_client::RaftPeerClient;
use super::wire::proto::{AnswerFrame, Request, RequestFrame};
use super::wire::{AnswerBody, RequestBody};
use crate::state::NodeId;

/// A frame is closed when it has reached this size.
const FRAME_BYTES: usize = 256 << 10;
/// Requests looked at for one frame.
const FRAME_REQUESTS_MAX: usize = 256;
/// Frames handed to the connection and not yet sent.
const FRAMES_WAITING_MAX: usize = 4;
/// KiB of entries that are sent and not answered, all groups together.
const BUDGET_KIB: u32 = 8 << 10;
/// Pause after a connection that could not be made.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Time for the two hellos.
const HELLO_MAX: Duration = Duration::from_secs(1);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Raft's messages.
    Raft,
    /// Requests to the node's service.
    Service,
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
}

/// A request on its way. Their number is bounded by what openraft has in flight per group and peer.
struct Outgoing {
    request: Request,
    answer: Option<oneshot::Sender<AnswerBody>>,
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
            requests,
        };
        tokio::spawn(link.run());
        Arc::new(Self {
            node,
            address,
            next_number: AtomicU64::new(1),
            outgoing,
            budget: Arc::new(Semaphore::new(BUDGET_KIB as usize)),
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
        group: GroupId,
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
        Answered(Ok(self.call(GroupId(0), RequestBody::Service(request), None)))
    }

    /// Sends a request that has no answer.
    pub(super) fn tell(&self, group: GroupId, body: RequestBody) {
        self.send(group, body, None);
    }

    fn send(&self, group: GroupId, body: RequestBody, answer: Option<oneshot::Sender<AnswerBody>>) {
        let request = Request {
            group: u32::from(group.0),
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            body: Some(body),
        };
        // Where the task is gone, so is the runtime; the answer says that nobody can be reached.
        drop(self.outgoing.send(Outgoing { request, answer }));
    }

    /// A number no other append stream to this peer has.
    pub(super) fn new_stream(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }
}

/// The task of one peer.
struct Link {
    transport: Weak<Transport>,
    node: NodeId,
    lane: Lane,
    address: Arc<Mutex<NodeAddress>>,
    requests: mpsc::UnboundedReceiver<Outgoing>,
}

type Waiting = Mutex<HashMap<u64, oneshot::Sender<AnswerBody>>>;

impl Link {
    async fn run(mut self) {
        while let Some(first) = self.requests.recv().await {
            if let Err(reason) = self.exchange(first).await {
                tracing::debug!(node = self.node.0, lane = ?self.lane, reason, "no connection to a peer");
                tokio::time::sleep(RECONNECT_PAUSE).await;
                // What waited for this connection hears that there is none.
                while self.requests.try_recv().is_ok() {}
            }
        }
    }

    /// Connects and exchanges requests and answers, `first` first, until the connection breaks.
    ///
    /// # Errors
    /// There was no connection.
    async fn exchange(&mut self, first: Outgoing) -> Result<(), String> {
        let (frames, mut answers) = self.connect().await?;
        let waiting = Waiting::default();
        let writer = Self::write(&mut self.requests, first, frames, &waiting);
        let reader = Self::read(&mut answers, &waiting);
        let ended = tokio::select! {
            () = writer => "the peer takes no more requests".to_owned(),
            reason = reader => reason,
        };
        tracing::info!(node = self.node.0, lane = ?self.lane, reason = ended, "connection to a peer ended");
        if let Some(transport) = self.transport.upgrade() {
            transport.connection_ended(self.node);
        }
        Ok(())
    }

    async fn connect(&self) -> Result<(mpsc::Sender<RequestFrame>, Streaming<AnswerFrame>), String> {
        let transport = self.transport.upgrade().ok_or("the transport is gone")?;
        let address = self.address.lock().clone();
        let mut client = client(endpoint(&address)?).await?;
        let (frames, mut requests) = mpsc::channel(FRAMES_WAITING_MAX);
        let hello = RequestFrame {
            hello: Some(transport.hello_to(self.node)),
            requests: Vec::new(),
        };
        frames.try_send(hello).map_err(|error| error.to_string())?;
        let stream = futures_util::stream::poll_fn(move |context| requests.poll_recv(context));
        let greeting = async {
            let answers = client.exchange(stream).await;
            let mut answers = answers.map_err(|status| status.to_string())?.into_inner();
            let first = answers.message().await.map_err(|status| status.to_string())?;
            let hello = first.and_then(|frame| frame.hello);
            transport
                .check_hello(hello, Some(self.node))
                .map_err(|status| status.to_string())?;
            Ok::<_, String>(answers)
        };
        let greeted = tokio::time::timeout(HELLO_MAX, greeting).await;
        Ok((frames, greeted.map_err(|_| "no hello".to_owned())??))
    }

    async fn write(
        requests: &mut mpsc::UnboundedReceiver<Outgoing>,
        first: Outgoing,
        frames: mpsc::Sender<RequestFrame>,
        waiting: &Waiting,
    ) {
        let mut batch = vec![first];
        loop {
            let mut frame = RequestFrame::default();
            let mut bytes = 0;
            for Outgoing { request, answer } in batch.drain(..) {
                match answer {
                    // Whoever asked has given up.
                    Some(answer) if answer.is_closed() => continue,
                    Some(answer) => drop(waiting.lock().insert(request.number, answer)),
                    None => {}
                }
                bytes += request.encoded_len();
                frame.requests.push(request);
                if bytes >= FRAME_BYTES {
                    bytes = 0;
                    if frames.send(std::mem::take(&mut frame)).await.is_err() {
                        return;
                    }
                }
            }
            if !frame.requests.is_empty() && frames.send(frame).await.is_err() {
                return;
            }
            if requests.recv_many(&mut batch, FRAME_REQUESTS_MAX).await == 0 {
                return;
            }
        }
    }

    async fn read(answers: &mut Streaming<AnswerFrame>, waiting: &Waiting) -> String {
        loop {
            match answers.message().await {
                Ok(Some(frame)) => {
                    for answer in frame.answers {
                        let waiter = waiting.lock().remove(&answer.number);
                        if let (Some(waiter), Some(body)) = (waiter, answer.body) {
                            drop(waiter.send(body));
                        }
                    }
                }
                Ok(None) => return "closed by the peer".to_owned(),
                Err(status) => return status.to_string(),
            }
        }
    }
}

/// A client over a connection of its own.
pub(super) async fn client(endpoint: Endpoint) -> Result<RaftPeerClient<Channel>, String> {
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?;
    let client = RaftPeerClient::new(channel);
    Ok(client
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX))
}
