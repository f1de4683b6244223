//! The receiving side: requests of the peers, handed to the groups they are for.
//!
//! The appends of one stream reach their group in order and without waiting for each other's answers; everything else
//! is answered whenever it is done.

use std::collections::{HashMap, VecDeque};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;
use quorate_storage::volume::FIRST_BEGINNING;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response, Status, Streaming};

use super::answers::{Answers, answers};
use super::codec;
use super::group::RaftGroup;
use super::machine::GroupSnapshot;
use super::service::{PeerStart, Reply};
use super::snapshot::{SnapshotData, SnapshotReceiver};
use super::transport::Transport;
use super::types::TypeConfig;
use super::wire::proto::raft_peer_server::RaftPeer;
use super::wire::proto::{AnswerFrame, Append, RequestFrame, SnapshotAnswer, SnapshotFrame, SnapshotHeader};
use super::wire::{self, AnswerBody, RequestBody, WireError, proto};
use crate::state::NodeIncarnation;

/// Append requests of one stream that wait for the group: more than any sender has on the way.
const APPENDS_WAITING_MAX: usize = 256;
/// Snapshots received at once; others wait.
const SNAPSHOTS_MAX: usize = 2;
/// A snapshot of which nothing came for so long has failed.
const SNAPSHOT_STALL_MAX: Duration = Duration::from_secs(15);

/// An append and the number its answer repeats.
pub(super) type NumberedAppend = (u64, AppendEntriesRequest<TypeConfig>);

/// Answers the peers' calls.
pub struct PeerService {
    transport: Arc<Transport>,
    snapshots: Semaphore,
}

impl PeerService {
    /// A service for the groups of `transport`.
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        Self {
            transport,
            snapshots: Semaphore::new(SNAPSHOTS_MAX),
        }
    }
}

#[tonic::async_trait]
impl RaftPeer for PeerService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<AnswerFrame, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap_or_default();
        let incarnation = first.hello.as_ref().map_or(0, |hello| hello.incarnation);
        let peer = PeerStart {
            node: self.transport.check_caller(first.hello)?,
            incarnation: NodeIncarnation(incarnation),
        };
        let (answers, frames) = answers();
        let hello = AnswerFrame {
            hello: Some(self.transport.hello_to(peer.node)),
            answers: Vec::new(),
        };
        let connection = Connection {
            transport: Arc::clone(&self.transport),
            peer,
            answers,
            streams: HashMap::new(),
        };
        tokio::spawn(connection.serve(requests));
        let hello = futures_util::stream::once(std::future::ready(Ok(hello)));
        Ok(Response::new(Box::pin(hello.chain(frames))))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotFrame>>,
    ) -> Result<Response<SnapshotAnswer>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.and_then(|frame| frame.header);
        let header = first.ok_or_else(|| Status::invalid_argument("snapshot without header"))?;
        self.transport.check_caller(header.hello.clone())?;
        let group = group_of(&self.transport, header.group, header.beginning).map_err(Status::unavailable)?;
        let _one_of_few = self
            .snapshots
            .acquire()
            .await
            .map_err(|_| Status::unavailable("stopping"))?;
        let (vote, snapshot) = receive(&group, header, frames).await?;
        let installed = group.raft().install_full_snapshot(vote, snapshot).await;
        let answer = installed.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        let vote = Some(wire::vote_to_wire(&answer.vote));
        Ok(Response::new(SnapshotAnswer { vote }))
    }
}

/// The replica that a request is for: one of another beginning of the group has nothing to do with it (R41).
fn group_of(transport: &Transport, group: u32, beginning: u64) -> Result<RaftGroup, String> {
    let number = u16::try_from(group).map_err(|_| format!("there is no group {group}"))?;
    let replica = transport
        .group(GroupId(number))
        .ok_or_else(|| format!("group {group} has no replica here"))?;
    let is_same = replica.beginning() == beginning.max(FIRST_BEGINNING);
    is_same
        .then_some(replica)
        .ok_or_else(|| format!("the replica of group {group} here is of another beginning than {beginning}"))
}

/// Spools a snapshot to the disk, checked.
async fn receive(
    group: &RaftGroup,
    header: SnapshotHeader,
    mut frames: Streaming<SnapshotFrame>,
) -> Result<(super::types::Vote, GroupSnapshot), Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let vote = wire::vote_from_wire(header.vote).map_err(|error| invalid(&error))?;
    let meta = codec::decode_snapshot_meta(&header.meta).map_err(|error| invalid(&error))?;
    let directory = group.spool_directory().to_owned();
    let (chunks, mut received) = mpsc::channel(2);
    let spooling = tokio::task::spawn_blocking(move || {
        let mut spool = SnapshotReceiver::create(&directory)?;
        while let Some(chunk) = received.blocking_recv() {
            spool.push(chunk)?;
        }
        spool.finish()
    });
    loop {
        let next = tokio::time::timeout(SNAPSHOT_STALL_MAX, frames.message()).await;
        let Some(frame) = next.map_err(|_| Status::deadline_exceeded("no chunk came"))?? else {
            break;
        };
        if chunks.send(frame.chunk).await.is_err() {
            break;
        }
    }
    drop(chunks);
    let spooled = spooling
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    let snapshot = SnapshotData::Received(spooled.map_err(|error| Status::data_loss(error.to_string()))?);
    Ok((vote, GroupSnapshot { meta, snapshot }))
}

/// One peer's call.
struct Connection {
    transport: Arc<Transport>,
    peer: PeerStart,
    answers: Answers,
    streams: HashMap<(GroupId, u64), mpsc::Sender<NumberedAppend>>,
}

impl Connection {
    async fn serve(mut self, mut requests: Streaming<RequestFrame>) {
        let reason = loop {
            match requests.message().await {
                Ok(Some(frame)) => {
                    if let Some(reason) = frame
                        .requests
                        .into_iter()
                        .find_map(|request| self.handle(request).err())
                    {
                        break reason;
                    }
                }
                Ok(None) => break "closed by the peer".to_owned(),
                Err(status) => break status.to_string(),
            }
        };
        let node = self.peer.node;
        tracing::info!(node = node.0, reason, "connection from a peer ended");
        self.transport.connection_ended(node);
    }

    /// Hands a request on. An error ends the connection.
    fn handle(&mut self, request: proto::Request) -> Result<(), String> {
        let number = request.number;
        let Some(body) = request.body else {
            tracing::warn!(
                node = self.peer.node.0,
                "a peer asks what this version does not know"
            );
            self.answer(
                number,
                AnswerBody::Unavailable("this version does not know the request".to_owned()),
            );
            return Ok(());
        };
        if let RequestBody::Service(body) = body {
            return self.serve_node(number, body);
        }
        let group = match group_of(&self.transport, request.group, request.beginning) {
            Ok(group) => group,
            Err(reason) => {
                self.answer(number, AnswerBody::Unavailable(reason));
                return Ok(());
            }
        };
        match body {
            RequestBody::Append(append) if append.stream != 0 => {
                self.append_in_order(&group, number, append)
                    .map_err(|error| error.to_string())?;
            }
            RequestBody::EndAppendStream(stream) => {
                self.streams.remove(&(group.group(), stream));
            }
            body => {
                let answers = self.answers.clone();
                tokio::spawn(async move {
                    let body = carry_out(&group, body)
                        .await
                        .unwrap_or_else(AnswerBody::Unavailable);
                    answers.send(number, body, None);
                });
            }
        }
        Ok(())
    }

    fn answer(&self, number: u64, body: AnswerBody) {
        self.answers.send(number, body, None);
    }

    /// Hands a request to the node's service.
    fn serve_node(&self, number: u64, body: Bytes) -> Result<(), String> {
        match (self.answers.take_on(body.len()), self.transport.service_of_node()) {
            (Some(held), service) => {
                let reply = Reply::new(number, self.answers.clone(), held);
                if let Some(service) = service {
                    service.handle(self.peer, body, reply);
                }
            }
            (None, _) if self.answers.are_not_read() => return Err("it reads no answers".to_owned()),
            (None, _) => {
                let node = self.peer.node.0;
                tracing::debug!(node, "a peer asks more than is answered; a request is refused");
                self.answer(
                    number,
                    AnswerBody::Unavailable("too much is asked at once".to_owned()),
                );
            }
        }
        Ok(())
    }

    fn append_in_order(&mut self, group: &RaftGroup, number: u64, append: Append) -> Result<(), WireError> {
        let key = (group.group(), append.stream);
        let append = wire::append_from_wire(append)?;
        let stream = self.streams.entry(key).or_insert_with(|| {
            let (appends, requests) = mpsc::channel(APPENDS_WAITING_MAX);
            tokio::spawn(append_stream(group.clone(), requests, self.answers.clone()));
            appends
        });
        match stream.try_send((number, append)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed((number, _))) => {
                self.answer(number, stream_has_failed());
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(_)) => Err(WireError::Missing("restraint in its appends")),
        }
    }
}

fn stream_has_failed() -> AnswerBody {
    AnswerBody::Unavailable("an append before it has failed".to_owned())
}

/// Feeds one stream of appends to its group and passes the answers on, up to the first failure; what is behind that is
/// answered too, since who asked keeps its number until then.
pub(super) async fn append_stream(
    group: RaftGroup,
    requests: mpsc::Receiver<NumberedAppend>,
    answers: Answers,
) {
    let requests = Arc::new(Mutex::new(requests));
    // None once there are no more results. openraft may take a request after that: it reads ahead in a task of its own.
    let numbers = Arc::new(Mutex::new(Some(VecDeque::new())));
    let (waiting, taken, refused) = (Arc::clone(&requests), Arc::clone(&numbers), answers.clone());
    let appends = futures_util::stream::poll_fn(move |context| waiting.lock().poll_recv(context)).map(
        move |(number, append)| {
            match &mut *taken.lock() {
                Some(numbers) => numbers.push_back(number),
                None => refused.send(number, stream_has_failed(), None),
            }
            append
        },
    );
    let mut results = pin!(group.raft().stream_append(appends));
    while let Some(result) = results.next().await {
        let body = match result {
            Ok(result) => wire::appended_to_wire(result),
            Err(fatal) => AnswerBody::Unavailable(fatal.to_string()),
        };
        let number = numbers.lock().as_mut().and_then(VecDeque::pop_front);
        let Some(number) = number else { break };
        answers.send(number, body, None);
    }
    let mut left = numbers.lock().take().unwrap_or_default();
    let mut requests = requests.lock();
    requests.close();
    left.extend(std::iter::from_fn(|| requests.try_recv().ok()).map(|(number, _)| number));
    for number in left {
        answers.send(number, stream_has_failed(), None);
    }
}

async fn carry_out(group: &RaftGroup, body: RequestBody) -> Result<AnswerBody, String> {
    let raft = group.raft();
    let wrong = |error: WireError| error.to_string();
    Ok(match body {
        RequestBody::Append(append) => {
            let append = wire::append_from_wire(append).map_err(wrong)?;
            let previous = append.prev_log_id;
            let last = append.entries.last().map(|entry| entry.log_id).or(previous);
            let answer = raft
                .append_entries(append)
                .await
                .map_err(|error| error.to_string())?;
            wire::appended_to_wire(answer.into_stream_result(previous, last))
        }
        RequestBody::Vote(_) | RequestBody::PreVote(_) if !group.trusts_its_log() => {
            return Err("the log may have lost its end".to_owned());
        }
        RequestBody::Vote(request) => {
            let request = wire::vote_request_from_wire(request).map_err(wrong)?;
            wire::vote_answer_to_wire(raft.vote(request).await.map_err(|error| error.to_string())?)
        }
        RequestBody::PreVote(request) => {
            let request = wire::vote_request_from_wire(request).map_err(wrong)?;
            wire::vote_answer_to_wire(raft.pre_vote(request).await.map_err(|error| error.to_string())?)
        }
        RequestBody::TransferLeader(request) => {
            let request = wire::transfer_from_wire(request).map_err(wrong)?;
            let answer = raft.handle_transfer_leader(request).await;
            wire::transfer_answer_to_wire(answer.map_err(|error| error.to_string())?)
        }
        RequestBody::EndAppendStream(_) | RequestBody::Service(_) => {
            return Err("not a request with an answer".to_owned());
        }
    })
}
